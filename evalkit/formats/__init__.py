"""From the files people already have to `Row`s: one module per format, one strict reader.

A *container* (JSON Lines, a JSON array, a data set) holds records; a *format* says which fields
of a record are the prompt and the completion. The two are chosen separately: the container by the
first bytes, the format by the fields of the first record, and every later record must conform.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

from evalkit.data import Prompt, Row
from evalkit.errors import Fault, InputError, MalformedError
from evalkit.formats import containers, conversations, instructions, native, prompts
from evalkit.formats.fields import Fields, Record
from evalkit.text import did_you_mean

FORMATS: tuple[ModuleType, ...] = (native, instructions, conversations)


def read_rows(source: str) -> list[Row]:
    """Read every completion of a file, data-set folder or `hf://` data set.

    Args:
        source: A path, or `hf://org/name[@revision][#split]`.

    Returns:
        One `Row` per record, in order.

    Raises:
        InputError: No such file, no records, or fields that no format has.
        MalformedError: Faulty records, with file, line and field.
        MissingError: A data set that is not on this machine.
    """
    faults: list[Fault] = []
    records = list(containers.records(source, faults))
    if not records and not faults:
        raise InputError("no completions in the input", where=source, fix="the file is empty")
    rows: list[Row] = []
    if records:
        chosen = _choose(records[0])
        rows = _parse(records, chosen, faults)
    if faults:
        raise MalformedError(
            source, faults, fix="mend these records; nothing was read or written in the meantime"
        )
    return rows


def read_prompts(source: str) -> dict[str, Prompt]:
    """Read a benchmark's `prompts.jsonl` as prompt id -> `Prompt`.

    Raises:
        MalformedError: Faulty or repeated prompts.
    """
    faults: list[Fault] = []
    found: dict[str, Prompt] = {}
    for record in containers.records(source, faults):
        prompt = prompts.parse(Fields(record, faults))
        if prompt is not None and found.setdefault(prompt.prompt_id, prompt) is not prompt:
            faults.append(Fault(record.where, "prompt_id", f"{prompt.prompt_id!r} is repeated"))
    if faults:
        raise MalformedError(source, faults, fix="mend these prompts")
    return found


def _parse(records: Iterable[Record], chosen: ModuleType, faults: list[Fault]) -> list[Row]:
    parsed = (chosen.parse(Fields(record, faults)) for record in records)
    return [row for row in parsed if row is not None]


def _choose(first: Record) -> ModuleType:
    for module in FORMATS:
        if module.matches(first.value):
            return module
    wanted = {key for module in FORMATS for key in module.FIELDS}
    hints = [did_you_mean(key, wanted) for key in first.value]
    shapes = "; ".join(f"{', '.join(m.FIELDS)} ({m.__name__.rsplit('.', 1)[-1]})" for m in FORMATS)
    raise InputError(
        f"no known format has the fields {', '.join(first.value) or '(none)'}",
        where=first.where,
        fix=f"rename them to one of: {shapes}. {' '.join(h for h in hints if h)}".strip(),
    )
