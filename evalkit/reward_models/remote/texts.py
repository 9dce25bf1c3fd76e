"""Rendering for a server: our token ids, and the text from which it makes exactly these.

One rule for double BOS, special tokens inside messages, stripped whitespace and cut ends: a text
is sent only if the tokenizer shows that the server will read our ids from it. Segment ids of a
question and an answer are not compared: the server gives the pair those of its own tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from evalkit.data import Item, Messages, Pair
from evalkit.reward_models import Rendered
from evalkit.reward_models.remote.dialects import Dialect
from evalkit.reward_models.rendering import ConversationRenderer
from evalkit.reward_models.spec import RewardModelSpec

NO_TEXT = (
    "no text makes the server read exactly its tokens (a special token as text inside a message, "
    "or a template that the server's own additions do not fit)"
)


class TextRenderer(ConversationRenderer):
    """Renders conversations as ids, and as texts where the dialect sends texts.

    Raises:
        RefusedModelError: The template shows no answer.
    """

    def __init__(self, spec: RewardModelSpec, tokenizer: Any, dialect: Dialect) -> None:
        self._dialect = dialect
        super().__init__(spec, tokenizer, len(tokenizer))

    def render(self, items: Sequence[Item]) -> list[Rendered]:
        """Ids and texts of each conversation, or why it cannot be scored."""
        conversations = [item for item in items if not isinstance(item, Pair)]
        found = super().render(conversations)
        if self._dialect.reads == "ids":
            return found
        return [self._with_texts(*both) for both in zip(conversations, found, strict=True)]

    def _with_texts(self, messages: Messages, rendered: Rendered) -> Rendered:
        if rendered.problem:
            return rendered
        for texts in self._candidates(messages, rendered.ids):
            if self._read(texts) == rendered.ids:
                return rendered._replace(texts=texts)
        return Rendered([], problem=NO_TEXT)

    def _candidates(self, messages: Messages, ids: list[int]) -> Iterator[tuple[str, ...]]:
        """Texts that may do: as rendered, without the frame, and what the ids themselves spell."""
        whole = self.text(self.template, messages)
        if self._answer:
            yield whole, self.text(self._answer, messages)
            return
        before, after = (self.tokenizer.decode(part) for part in (self.before, self.after))
        bare = ids[len(self.before) : len(ids) - len(self.after)]
        yield from ((text,) for text in (
            whole, before + whole + after, whole.removeprefix(before).removesuffix(after),
            self.tokenizer.decode(ids), self.tokenizer.decode(bare),
        ))  # fmt: skip

    def _read(self, texts: tuple[str, ...]) -> list[int]:
        """The ids the server will make of texts."""
        dialect = self._dialect
        sent = [dialect.text_as_read(text, self.tokenizer) for text in texts]
        read: list[int] = self.tokenizer(*sent, add_special_tokens=dialect.special)["input_ids"]
        return read
