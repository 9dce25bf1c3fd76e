"""Whole conversations `{"id", "messages"}`; the last turn, the assistant's, is the completion."""

from __future__ import annotations

from collections.abc import Mapping

from evalkit.data import Row
from evalkit.formats.fields import Fields

FIELDS = ("messages",)


def matches(record: Mapping[str, object]) -> bool:
    """Whether a record has this format's fields."""
    return "messages" in record and "prompt_id" not in record


def parse(fields: Fields) -> Row | None:
    """One record as a `Row`; None if it is faulty."""
    messages = fields.messages("messages")
    if messages is None:
        return None
    if messages[-1].role != "assistant" or len(messages) == 1:
        fields.fault("messages", "must hold a prompt and end with the assistant's turn")
        return None
    return Row(
        id=fields.id("id"),
        messages=messages[:-1],
        completion=messages[-1].content,
        subset=fields.optional_text("subset"),
        index=fields.integer("index"),
        where=fields.where,
    )
