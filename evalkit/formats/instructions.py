"""Instruction rows `{"instruction", "output"}` with an optional `input`.

AlpacaEval's `model_outputs.json` (a JSON array with `generator` and `dataset`) and OpenDataArena's
JSON Lines (with `id` and `input`) are the same format in two containers. The prompt is the
instruction, plus a newline and the input if that is not empty, as OpenDataArena's InfOrmScorer
builds it. AlpacaEval's `dataset` becomes the subset.
"""

from __future__ import annotations

from collections.abc import Mapping

from evalkit.data import Message, Row
from evalkit.formats.fields import Fields

FIELDS = ("instruction", "output")


def matches(record: Mapping[str, object]) -> bool:
    """Whether a record has this format's fields."""
    return all(name in record for name in FIELDS)


def parse(fields: Fields) -> Row | None:
    """One record as a `Row`; None if it is faulty."""
    instruction, output = fields.text("instruction"), fields.text("output")
    if instruction is None or output is None:
        return None
    extra = fields.optional_text("input")
    question = f"{instruction}\n{extra}" if extra else instruction
    return Row(
        id=fields.id("id"),
        messages=(Message("user", question),),
        completion=output,
        subset=fields.optional_text("subset") or fields.optional_text("dataset"),
        index=fields.integer("index"),
        where=fields.where,
    )
