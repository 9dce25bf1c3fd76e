"""Verdicts somebody already has: how far a model's answer is preferred to a reference's.

Two formats: AlpacaEval's `annotations.json` (`generator_1` is the reference, `generator_2` the
model), and a table with `model`, `preference` and the prompt, as JSON Lines, a JSON array, CSV or
Parquet. A preference is a probability in [0, 1], or in AlpacaEval's coding a number from 1 (the
reference) to 2 (the model), where 0 is a draw as 1.5 is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from evalkit.data import Message, Messages, default_prompt_id
from evalkit.errors import Fault, InputError, MalformedError
from evalkit.formats import containers
from evalkit.formats.fields import Fields, Record
from evalkit.text import did_you_mean, listing

Coding = Literal["unit", "alpaca-eval"]
PROMPTS = ("prompt_id", "prompt_index", "id", "instruction", "prompt")
ANNOTATIONS = ("generator_1", "generator_2", "preference")


class Verdict(NamedTuple):
    """One judgement.

    Attributes:
        prompt_id: As given, else the digest of the instruction.
        messages: The prompt where the file has its text, else empty.
        subset: Empty if none.
        model: Whose answer is judged.
        reference: Against whose; empty if the file does not say.
        annotator: Who judged; empty if the file does not say.
        preference: As coded; NaN where there is no judgement.
        answers: The model's and the reference's, where the file has them.
        where: `file:line`.
        annotation: Whether it is of AlpacaEval's own format, whose coding is known.
    """

    prompt_id: str
    messages: Messages
    subset: str
    model: str
    reference: str
    annotator: str
    preference: float
    answers: tuple[str, str] | None
    where: str
    annotation: bool = False


def read_verdicts(source: str) -> list[Verdict]:
    """Read every verdict of a file.

    Raises:
        InputError: No such file, or no verdicts.
        MalformedError: Faulty records, with file, line and field.
    """
    faults: list[Fault] = []
    found: list[Verdict] = []
    prompts: dict[str, tuple[Messages, str]] = {}
    for record in containers.records(source, faults):
        verdict = _verdict(record, faults)
        if verdict is None:
            continue
        found.append(verdict)
        prompt = (verdict.messages, verdict.subset)
        if prompts.setdefault(verdict.prompt_id, prompt) != prompt:
            what = f"{verdict.prompt_id!r} stands for another prompt or subset before"
            faults.append(Fault(record.where, "prompt_id", what))
    if faults:
        raise MalformedError(
            source,
            faults,
            fix="a verdict has a prompt (prompt_id, id, instruction …), a model and a preference",
        )
    if not found:
        raise InputError("no verdicts in the input", where=source, fix="the file is empty")
    return found


def coding_of(verdicts: Sequence[Verdict]) -> Coding:
    """AlpacaEval's coding in its own format or if any preference is above 1, else probabilities."""
    above = any(v.annotation or v.preference > 1 for v in verdicts)
    return "alpaca-eval" if above else "unit"


def probabilities(verdicts: Sequence[Verdict], coding: Coding) -> list[float]:
    """The preference for the model as a probability; NaN where there is no judgement.

    Raises:
        MalformedError: A preference outside the coding's range.
    """
    faults = [
        Fault(v.where, "preference", f"{v.preference!r} is outside the coding {coding!r}")
        for v in verdicts
        if not _in_range(v.preference, coding)
    ]
    if faults:
        raise MalformedError(
            "preferences",
            faults,
            fix="unit: 0 to 1; alpaca-eval: 1 to 2, and 0 for a draw; see --coding",
        )
    if coding == "unit":
        return [v.preference for v in verdicts]
    return [0.5 if v.preference == 0 else v.preference - 1 for v in verdicts]


def read_judge(
    source: str, annotator: str | None, coding: Coding | None
) -> tuple[list[Verdict], Coding]:
    """The verdicts of one judge in a file, and their coding: as stated, else as the file shows.

    Raises:
        InputError: Several judges and none is named, or the named one is not among them.
        MalformedError: As `read_verdicts`.
    """
    verdicts = _of_annotator(read_verdicts(source), annotator, source)
    return verdicts, coding or coding_of(verdicts)


def _of_annotator(verdicts: Sequence[Verdict], annotator: str | None, source: str) -> list[Verdict]:
    known = list(dict.fromkeys(v.annotator for v in verdicts))
    if annotator is None and len(known) > 1:
        raise InputError(
            f"verdicts of {len(known)} judges",
            where=source,
            fix=f"name one with --annotator: {listing(known)}",
        )
    check_known(source, "annotator", [] if annotator is None else [annotator], known)
    return [v for v in verdicts if annotator is None or v.annotator == annotator]


def check_known(source: str, what: str, asked: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a name that a file of verdicts does not have.

    Raises:
        InputError: With the names it has.
    """
    for name in asked:
        if name not in known:
            raise InputError(
                f"no verdicts on the {what} {name!r}",
                where=source,
                fix=f"known: {listing(sorted(set(known)))}. {did_you_mean(name, known)}".strip(),
            )


def _in_range(value: float, coding: Coding) -> bool:
    if math.isnan(value):
        return True
    return 0 <= value <= 1 if coding == "unit" else value == 0 or 1 <= value <= 2


def _verdict(record: Record, faults: list[Fault]) -> Verdict | None:
    before = len(faults)
    fields, value = Fields(record, faults), record.value
    annotation = all(name in value for name in ANNOTATIONS)
    model, reference = ("generator_2", "generator_1") if annotation else ("model", "reference")
    preference = _number(fields, value)
    prompt_id, messages = _prompt(fields, value)
    answers = None
    if "output_1" in fields and "output_2" in fields:
        answers = (fields.text("output_2") or "", fields.text("output_1") or "")
    found = Verdict(
        prompt_id=prompt_id,
        messages=messages,
        subset=fields.optional_text("subset") or fields.optional_text("dataset"),
        model=fields.text(model) or "",
        reference=fields.optional_text(reference),
        annotator=fields.optional_text("annotator"),
        preference=preference,
        answers=answers,
        where=record.where,
        annotation=annotation,
    )
    return found if len(faults) == before else None


def _prompt(fields: Fields, value: Mapping[str, Any]) -> tuple[str, Messages]:
    """The id of the prompt, and its text where the file has it."""
    text = fields.text("instruction") if isinstance(value.get("instruction"), str) else None
    messages: Messages = () if text is None else (Message("user", text),)
    for name in PROMPTS[:3]:
        if (given := fields.id(name)) is not None:
            return str(given), messages
    if messages:
        return default_prompt_id(messages), messages
    if isinstance(value.get("prompt"), str):
        return str(value["prompt"]), ()
    fields.fault("prompt_id", f"is missing: one of {listing(list(PROMPTS))} names the prompt")
    return "", ()


def _number(fields: Fields, value: Mapping[str, Any]) -> float:
    found = value.get("preference")
    if found is None or found == "":
        if "preference" not in value:
            fields.fault("preference", "is missing")
        return math.nan
    try:
        number = math.nan if isinstance(found, bool) else float(found)
    except (TypeError, ValueError):
        number = math.inf
    if math.isinf(number) or isinstance(found, bool):
        fields.fault("preference", f"must be a number, got {found!r}")
    return number
