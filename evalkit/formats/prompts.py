"""A benchmark's prompts: `{"prompt_id", "messages", "subset"}`, the last turn the user's."""

from __future__ import annotations

from evalkit.data import Prompt
from evalkit.formats.fields import Fields


def parse(fields: Fields) -> Prompt | None:
    """One record as a `Prompt`; None if it is faulty."""
    prompt_id, messages = fields.text("prompt_id"), fields.prompt("messages")
    if prompt_id is None or messages is None:
        return None
    return Prompt(prompt_id, messages, fields.optional_text("subset"))
