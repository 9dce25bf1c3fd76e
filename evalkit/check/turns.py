"""What a chat template writes around the turns of a conversation, as text and as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from evalkit.data import Message, Messages
from evalkit.reward_models.rendering import Encoder

# Words that no template writes itself.
WORDS = ("zquartz", "zheron", "zwalnut", "zlynx")


@dataclass(frozen=True)
class Turns:
    """What stands around the turns.

    Attributes:
        after_question: Between a question and its answer.
        after_answer: Between an answer and the next question; None where the template takes only
            one of each.
        tail: After the last answer.
        closing: The token that ends a turn; empty where none does.
    """

    after_question: str
    after_answer: str | None
    tail: str
    closing: str

    @property
    def header(self) -> str:
        """What the tail repeats of the text that begins an answer; empty if nothing of it."""
        backwards = zip(reversed(self.tail), reversed(self.after_question), strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], backwards))
        end = self.tail[len(self.tail) - same :]
        if self.closing:
            end = end.rpartition(self.closing)[2]
        before = self.tail.removesuffix(end).strip()
        whole = any(map(str.isalnum, end)) and before in ("", self.closing)
        return end if whole else ""


def turns_of(encoder: Encoder) -> Turns | None:
    """What a template writes around turns; None where it does not show their texts as they are."""
    first, second, third, fourth = WORDS
    one = (Message("user", third), Message("assistant", fourth))
    several = (Message("user", first), Message("assistant", second), *one)
    found = _between(encoder, several, WORDS)
    if found is None:
        found = _between(encoder, one, (third, fourth))
    if found is None:
        return None
    opening, *inner, tail = found
    after_question, after_answer = inner[-1], inner[1] if len(inner) > 1 else None
    closing = _closing(encoder, opening, after_question, after_answer)
    return Turns(after_question, after_answer, tail, closing)


def control_tokens(encoder: Encoder, text: str) -> list[str]:
    """The added tokens that a text is made of, special or not, in order."""
    added = encoder.tokenizer.added_tokens_decoder
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    return [added[i].content for i in ids if i in added]


def _closing(encoder: Encoder, opening: str, after_question: str, after_answer: str | None) -> str:
    """What ends an answer's turn: EOS, or what ends a question's turn too and begins none."""
    question = control_tokens(encoder, after_question)[:1]
    ends = [encoder.tokenizer.eos_token] if encoder.tokenizer.eos_token else []
    if after_answer is None:
        return next((token for token in question if token in ends), "")
    begins = control_tokens(encoder, opening)
    both = [token for token in question if token not in begins]
    answer = control_tokens(encoder, after_answer)[:1]
    return next((token for token in answer if token in [*both, *ends]), "")


def _between(encoder: Encoder, messages: Messages, words: Sequence[str]) -> list[str] | None:
    """The texts before, between and after words; None if the template refuses or changes them."""
    try:
        rest = encoder.text(encoder.template, messages)
    except Exception:  # a template is foreign code and may raise anything
        return None
    parts: list[str] = []
    for word in words:
        before, found, rest = rest.partition(word)
        if not found:
            return None
        parts.append(before)
    return [*parts, rest]
