"""From text to token ids: the model's own template, once, and nothing else.

* The template's text is tokenised without adding special tokens; then the tokenizer's own frame
  (a BOS, for most) is ensured to be there exactly once, whether the template wrote it or not.
* A special token inside a message stays text: it is encoded as the characters it consists of.
* A template that asks for today's date gets a pinned one, so that rewards do not change overnight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.data import Item, Message, Messages, Pair
from evalkit.errors import RefusedModelError
from evalkit.reward_models import Rendered
from evalkit.reward_models.spec import RewardModelSpec

# 2024-07-26 is the date Llama 3.1's template falls back to. A template that asks for anything but
# a date gets an error instead of a moving text.
PINNED_DATE = {
    "%Y": "2024", "%y": "24", "%m": "07", "%d": "26", "%-d": "26", "%-m": "7",
    "%b": "Jul", "%B": "July", "%a": "Fri", "%A": "Friday", "%j": "208",
}  # fmt: skip
QUESTION = (Message("user", "Which?"),)


def pin(date: Mapping[str, str]) -> str:
    """What makes a template's today a given date: its parts by the codes of strftime."""
    return (
        "{%- macro strftime_now(format) -%}{%- set ns = namespace(text=format) -%}"
        + "".join(
            f"{{%- set ns.text = ns.text | replace({code!r}, {text!r}) -%}}"
            for code, text in date.items()
        )
        + "{%- if '%' in ns.text -%}"
        "{{- raise_exception('the template asks for the time of day: ' ~ format) -}}"
        "{%- endif -%}{{- ns.text -}}{%- endmacro %}\n"
    )


class Encoder(ABC):
    """Templates and messages to token ids, for one reward model.

    Args:
        spec: The reward model; its template and length policy are used.
        tokenizer: Its transformers tokenizer.
        vocabulary: Token ids the model has an embedding for.

    Attributes:
        tokenizer: The tokenizer.
        template: The chat template, with today pinned.
        before: Special tokens the tokenizer itself puts before a text; none where the family
            wants no frame.
        after: Likewise after it.

    """

    def __init__(self, spec: RewardModelSpec, tokenizer: Any, vocabulary: int) -> None:
        self.spec = spec
        self.tokenizer = tokenizer
        pinned = "strftime_now" in spec.template
        self.template = pin(PINNED_DATE) + spec.template if pinned else spec.template
        self._special = [
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        ]
        self._frame = _frame(tokenizer)
        self.before, self.after = self._frame if spec.family.setting("frame") else ([], [])
        self._vocabulary = vocabulary

    @abstractmethod
    def render(self, items: Sequence[Item]) -> list[Rendered]:
        """Token ids of each conversation or pair, or why it cannot be scored."""

    def text(self, template: str, messages: Messages, **variables: object) -> str:
        """What a template makes of messages, as text."""
        return str(self._apply(template, messages, variables, tokenize=False))

    def encode(
        self, template: str, conversations: Sequence[Messages], **variables: object
    ) -> list[list[int] | str]:
        """Token ids of each conversation without the tokenizer's frame, or why there are none."""
        plain: list[str] = []
        found: dict[int, list[int] | str] = {}
        for i, messages in enumerate(conversations):
            try:
                if self._holds_special_tokens(messages, variables):
                    ids = self._apply(
                        template, messages, variables, tokenize=True, sanitize_control_tokens=True
                    )
                    found[i] = self.bare(ids)
                else:
                    plain.append(self.text(template, messages, **variables))
            except Exception as error:  # a template is foreign code and may raise anything
                found[i] = f"the chat template refuses it: {error}"
        encoded = iter(
            self.tokenizer(plain, add_special_tokens=False)["input_ids"] if plain else ()
        )
        return [
            found[i] if i in found else self.bare(next(encoded)) for i in range(len(conversations))
        ]

    def bare(self, ids: list[int]) -> list[int]:
        """The ids without any number of frames the template wrote itself."""
        before, after = self._frame
        while before and ids[: len(before)] == before:
            ids = ids[len(before) :]
        while after and ids[-len(after) :] == after:
            ids = ids[: -len(after)]
        return ids

    def fit(self, body: Sequence[int], tail: Sequence[int] = ()) -> Rendered:
        """Put the frame around token ids, and cut the body where the policy allows it.

        Args:
            body: What may be cut.
            tail: What follows it and is never cut.
        """
        if not body:
            return Rendered([], problem="the chat template renders nothing of it")
        if (highest := max(*body, *tail, 0)) >= self._vocabulary:
            what = f"token id {highest}, where the model knows {self._vocabulary} tokens"
            return Rendered([], problem=what)
        limit, policy = self.spec.max_length, self.spec.overlong
        room = limit - len(self.before) - len(tail) - len(self.after)
        cut = max(0, len(body) - room)
        if cut and policy == "error":
            length = limit - room + len(body)
            what = f"{length} tokens, more than the {limit} allowed"
            return Rendered([], cut, what)
        if room < 1:
            return Rendered([], problem=f"{limit} tokens leave no room for any text")
        kept = body[cut:] if policy == "truncate-left" else body[: len(body) - cut]
        return Rendered([*self.before, *kept, *tail, *self.after], cut)

    def is_special(self, token: int) -> bool:
        """Whether a token is one of the tokenizer's special ones."""
        added = self.tokenizer.added_tokens_decoder.get(token)
        return added is not None and added.special

    def _holds_special_tokens(self, messages: Messages, variables: dict[str, object]) -> bool:
        texts = [*(m.content for m in messages), *map(str, variables.values())]
        return any(token in text for text in texts for token in self._special)

    def _apply(
        self, template: str, messages: Messages, variables: dict[str, object], **options: bool
    ) -> Any:
        return self.tokenizer.apply_chat_template(
            [m._asdict() for m in messages],
            chat_template=template,
            return_dict=False,
            **{"add_generation_prompt": False, **variables},
            **options,
        )


class ConversationRenderer(Encoder):
    """Renders whole conversations, through the chat template or the family's own.

    Where the family encodes question and answer as a pair, the tokenizer's own tokens stand
    between them. Where its gate reads the end of the prompt, that position is the one mark.

    Raises:
        RefusedModelError: The template shows no answer, or no header of the assistant's turn.
    """

    def __init__(self, spec: RewardModelSpec, tokenizer: Any, vocabulary: int) -> None:
        super().__init__(spec, tokenizer, vocabulary)
        self._answer = str(spec.family.setting("answer"))
        if self._answer:
            self.before, self._between, self.after = _pair_frame(tokenizer)
        self._tail = _appended(spec, tokenizer)
        self._header = self._find_header() if spec.family.setting("gate_at") == "header" else []
        one, other = self.render([(*QUESTION, Message("assistant", text)) for text in "ab"])
        if one.ids and one.ids == other.ids:
            raise RefusedModelError(
                f"the chat template of reward model {spec.name!r} does not show the answer",
                where=str(spec.path),
                fix="use the template it was trained with",
            )

    def render(self, items: Sequence[Item]) -> list[Rendered]:
        """Token ids of each conversation, or why it cannot be scored."""
        conversations = [item for item in items if not isinstance(item, Pair)]
        bodies = self.encode(self.template, conversations)
        if self._answer:
            answers = self.encode(self._answer, conversations)
            return [self._fit_pair(q, a) for q, a in zip(bodies, answers, strict=True)]
        return [self._fit_one(body) for body in bodies]

    def _fit_one(self, body: list[int] | str) -> Rendered:
        if isinstance(body, str):
            return Rendered([], problem=body)
        found = self.fit(body, self._tail)
        if not self._header or found.problem:
            return found
        position = _last(body, self._header)
        if position is None:
            what = "the prompt's end, where the gate reads, is not as the template has it"
            return Rendered([], problem=what)
        begin = position + len(self.before)
        begin -= found.cut if self.spec.overlong == "truncate-left" else 0
        if found.ids[max(begin, 0) : begin + len(self._header)] != self._header:
            return Rendered([], problem="the prompt's end, where the gate reads, is cut off")
        return found._replace(marks=(begin,))

    def _fit_pair(self, question: list[int] | str, answer: list[int] | str) -> Rendered:
        if isinstance(question, str) or isinstance(answer, str):
            return Rendered([], problem=next(p for p in (question, answer) if isinstance(p, str)))
        # tokenizers take a pair with an empty second text for a single text
        rest = [*self._between, *answer] if answer else []
        if self.spec.overlong == "truncate-right":
            found = self.fit([*question, *rest])
        else:
            found = self.fit(question, rest)
        if not answer or not self.spec.segments or found.problem:
            return found
        return found._replace(segments=self._segments(found, len(question), len(answer)))

    def _segments(self, found: Rendered, question: int, answer: int) -> tuple[int, ...]:
        """Segment ids as the tokenizer gives them, less those of the tokens that are cut."""
        before, first, between, second, after = _pair_segments(self.tokenizer)
        every = [*before, *[first] * question, *between, *[second] * answer, *after]
        left = self.spec.overlong == "truncate-left"
        cut = len(before) if left else len(every) - len(after) - found.cut
        return (*every[:cut], *every[cut + found.cut :])

    def _find_header(self) -> list[int]:
        """The ids from the end of the last user turn to the start of the answer, less whitespace.

        Whitespace at its end is left out: it can merge with the start of an answer.
        """
        (without,) = self.encode(self.template, [QUESTION])
        (with_header,) = self.encode(self.template, [QUESTION], add_generation_prompt=True)
        if not isinstance(without, str) and with_header[: len(without)] == without:
            closing = [i for i, token in enumerate(without) if self.is_special(token)]
            found = [int(token) for token in with_header[closing[-1] if closing else 0 :]]
            while found and not self.tokenizer.decode(found[-1:]).strip():
                found.pop()
            if closing and len(with_header) > len(without):
                return found
        raise RefusedModelError(
            f"the chat template of reward model {self.spec.name!r} has no header of the "
            "assistant's turn, where its gate reads",
            where=str(self.spec.path),
            fix="use the template it was trained with",
        )


def _appended(spec: RewardModelSpec, tokenizer: Any) -> list[int]:
    """The token the family appends to every conversation and reads there."""
    token: int = spec.family.setting("append_id")
    if attribute := spec.family.setting("append"):
        named: int | None = getattr(tokenizer, f"{attribute}_id", None)
        if named is None:
            raise RefusedModelError(
                f"the tokenizer of reward model {spec.name!r} has no {attribute}",
                where=str(spec.path),
                fix="fetch tokenizer_config.json again",
            )
        token = named
    return [token] if token >= 0 else []


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens the tokenizer itself puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a", add_special_tokens=True)["input_ids"]
    start = _first(framed, bare)
    return framed[:start], framed[start + len(bare) :]


def _pair_frame(tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    """The special tokens the tokenizer puts before, between and after a pair of texts."""
    one, other = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "b"))
    framed = tokenizer("a", "b", add_special_tokens=True)["input_ids"]
    start = _first(framed, one)
    middle = start + len(one)
    second = middle + _first(framed[middle:], other)
    return framed[:start], framed[middle:second], framed[second + len(other) :]


def _pair_segments(tokenizer: Any) -> tuple[list[int], int, list[int], int, list[int]]:
    """The tokenizer's segment ids before, of the first text, between, of the second, and after."""
    before, between, after = map(len, _pair_frame(tokenizer))
    found = tokenizer("a", "b", return_token_type_ids=True)["token_type_ids"]
    end = len(found) - after
    middle = before + len(tokenizer("a", add_special_tokens=False)["input_ids"])
    second = middle + between
    return found[:before], found[before], found[middle:second], found[second], found[end:]


def _first(ids: list[int], part: list[int]) -> int:
    return next(i for i in range(len(ids)) if ids[i : i + len(part)] == part)


def _last(ids: list[int], part: list[int]) -> int | None:
    starts = range(len(ids) - len(part), -1, -1)
    return next((i for i in starts if ids[i : i + len(part)] == part), None)
