"""evalkit's own JSON Lines: `{"prompt_id", "completion"}`; `messages`, `index`, `subset` optional.

`messages` may be left out where the benchmark holds the prompt. Several completions of a prompt
are told apart by `index`.
"""

from __future__ import annotations

from collections.abc import Mapping

from evalkit.data import Row
from evalkit.formats.fields import Fields

FIELDS = ("prompt_id", "completion")


def matches(record: Mapping[str, object]) -> bool:
    """Whether a record has this format's fields."""
    return "completion" in record and ("prompt_id" in record or "messages" in record)


def parse(fields: Fields) -> Row | None:
    """One record as a `Row`; None if it is faulty."""
    completion = fields.text("completion")
    prompt_id = fields.text("prompt_id") if "prompt_id" in fields else fields.id("id")
    messages = fields.prompt("messages") if "messages" in fields else None
    if prompt_id is None and messages is None:
        fields.fault("prompt_id", "is missing, and so are the messages")
        return None
    if completion is None:
        return None
    return Row(
        id=prompt_id,
        messages=messages,
        completion=completion,
        subset=fields.optional_text("subset"),
        index=fields.integer("index"),
        where=fields.where,
    )
