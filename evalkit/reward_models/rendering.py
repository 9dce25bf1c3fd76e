"""From a conversation to token ids: the model's own chat template, once, and nothing else.

* The template's text is tokenised without adding special tokens; then the tokenizer's own frame
  (a BOS, for most) is ensured to be there exactly once, whether the template wrote it or not.
* A special token inside a message stays text: it is encoded as the characters it consists of.
* A template that asks for today's date gets a pinned one, so that rewards do not change overnight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evalkit.data import Message, Messages
from evalkit.errors import RefusedModelError
from evalkit.reward_models import Rendered
from evalkit.reward_models.spec import RewardModelSpec

# 2024-07-26 is the date Llama 3.1's template falls back to. A template that asks for anything but
# a date gets an error instead of a moving text.
PINNED_DATE = {
    "%Y": "2024", "%y": "24", "%m": "07", "%d": "26", "%-d": "26", "%-m": "7",
    "%b": "Jul", "%B": "July", "%a": "Fri", "%A": "Friday", "%j": "208",
}  # fmt: skip
PIN = (
    "{%- macro strftime_now(format) -%}{%- set ns = namespace(text=format) -%}"
    + "".join(
        f"{{%- set ns.text = ns.text | replace({code!r}, {text!r}) -%}}"
        for code, text in PINNED_DATE.items()
    )
    + "{%- if '%' in ns.text -%}"
    "{{- raise_exception('the template asks for the time of day: ' ~ format) -}}"
    "{%- endif -%}{{- ns.text -}}{%- endmacro %}\n"
)


QUESTION = (Message("user", "Which?"),)


class Renderer:
    """Renders conversations for one reward model.

    Args:
        spec: The reward model; its template and length policy are used.
        tokenizer: Its transformers tokenizer.
        vocabulary: Token ids the model has an embedding for.

    Raises:
        RefusedModelError: The tokenizer is not a fast one, so that special tokens in texts could
            not be told from the template's; or the template shows no answer.
    """

    def __init__(self, spec: RewardModelSpec, tokenizer: Any, vocabulary: int) -> None:
        if not tokenizer.is_fast:
            raise RefusedModelError(
                f"reward model {spec.name!r} has no fast tokenizer",
                where=str(spec.path),
                fix="add a tokenizer.json",
            )
        self._spec = spec
        self._tokenizer = tokenizer
        pinned = "strftime_now" in spec.template
        self._template = PIN + spec.template if pinned else spec.template
        self._special = [
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        ]
        self._before, self._after = _frame(tokenizer)
        self._vocabulary = vocabulary
        one, other = self.render([(*QUESTION, Message("assistant", text)) for text in "ab"])
        if one.ids and one.ids == other.ids:
            raise RefusedModelError(
                f"the chat template of reward model {spec.name!r} does not show the answer",
                where=str(spec.path),
                fix="use the template it was trained with",
            )

    def render(self, conversations: Sequence[Messages]) -> list[Rendered]:
        """Token ids of each conversation, or why it cannot be scored."""
        texts: list[str] = []
        found: dict[int, Rendered] = {}
        for i, messages in enumerate(conversations):
            try:
                if any(token in m.content for m in messages for token in self._special):
                    ids = self._apply(messages, tokenize=True, sanitize_control_tokens=True)
                    found[i] = self._fit(ids)
                else:
                    texts.append(self._apply(messages, tokenize=False))
            except Exception as error:  # a template is foreign code and may raise anything
                found[i] = Rendered([], problem=f"the chat template refuses it: {error}")
        encoded = iter(
            self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else ()
        )
        return [
            found[i] if i in found else self._fit(next(encoded)) for i in range(len(conversations))
        ]

    def _apply(self, messages: Messages, **options: bool) -> Any:
        return self._tokenizer.apply_chat_template(
            [m._asdict() for m in messages],
            chat_template=self._template,
            add_generation_prompt=False,
            return_dict=False,
            **options,
        )

    def _fit(self, ids: list[int]) -> Rendered:
        body = _without(ids, self._before, self._after)
        if not body:
            return Rendered([], problem="the chat template renders nothing of it")
        if (highest := max(body)) >= self._vocabulary:
            what = f"token id {highest}, where the model knows {self._vocabulary} tokens"
            return Rendered([], problem=what)
        room = self._spec.max_length - len(self._before) - len(self._after)
        if room < 1:
            return Rendered(
                [], problem=f"{self._spec.max_length} tokens leave no room for any text"
            )
        cut = max(0, len(body) - room)
        if cut and self._spec.overlong == "error":
            length = len(self._before) + len(body) + len(self._after)
            return Rendered(
                [], problem=f"{length} tokens, more than the {self._spec.max_length} allowed"
            )
        return Rendered([*self._before, *body[cut:], *self._after], cut)


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens the tokenizer itself puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a", add_special_tokens=True)["input_ids"]
    start = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
    return framed[:start], framed[start + len(bare) :]


def _without(ids: list[int], before: list[int], after: list[int]) -> list[int]:
    """The ids without any number of frames the template wrote itself."""
    while before and ids[: len(before)] == before:
        ids = ids[len(before) :]
    while after and ids[-len(after) :] == after:
        ids = ids[: -len(after)]
    return ids
