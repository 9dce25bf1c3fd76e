"""The history of a run: what each checkpoint got on each prompt, so that later ones stay paired.

JSON Lines: the plan of the run, then one checkpoint under one reward model a line. Bootstrap
weights follow from prompt ids, so checkpoints scored weeks apart are paired exactly, in any order
and on any machine.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evalkit.comparison import Comparison
from evalkit.data import CompletionSet, digest
from evalkit.errors import Fault, InputError, MalformedError
from evalkit.files import write_atomic
from evalkit.formats import containers
from evalkit.formats.fields import Fields, Record
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.text import listing

SCHEMA_VERSION = 3
LISTS = ("notices", "left_out")
SAME_RUN = {
    "reference_digest": "another reference, or other completions of it",
    "benchmark": "another benchmark",
    "ties": "another tie rule",
}


class RunPlan(NamedTuple):
    """What all checkpoints of a run share, declared with the first of them.

    The error of the alarms is spent over the first three.

    Attributes:
        planned: Checkpoints the run will have; None if nobody knows.
        window: Neighbouring checkpoints averaged.
        level: Of bands and alarms.
        temperature: Of the win probability; None for that of the reward model.
    """

    planned: int | None
    window: int
    level: float
    temperature: float | None = None

    def __str__(self) -> str:
        planned = "none planned" if self.planned is None else f"{self.planned} planned"
        own = "" if self.temperature is None else f", temperature {self.temperature!r}"
        return f"{planned}, window {self.window}, level {self.level:g}{own}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One checkpoint under one reward model.

    Attributes:
        checkpoint: Its name.
        digest: Of its completions.
        step: Its training step.
        reference: The name of what it is held against.
        reference_digest: Of the reference's completions.
        reward_model: Its name.
        fingerprint: Of the reward model, dtype and all.
        benchmark: Whose prompts had to be answered; empty if none was named.
        ties: The tie rule.
        notices: What a reader of its numbers must know.
        left_out: Ids of prompts that could not be paired or scored, sorted.
        prompts: Prompt id -> outcome, win probability, tokens; None where there is none.
    """

    checkpoint: str
    digest: str
    step: int
    reference: str
    reference_digest: str
    reward_model: str
    fingerprint: str
    benchmark: str
    ties: str
    notices: tuple[str, ...]
    left_out: tuple[str, ...]
    prompts: Mapping[str, tuple[float | None, float | None, float | None]]

    @property
    def key(self) -> tuple[str, str]:
        """What an entry is one of: a checkpoint under a reward model."""
        return self.checkpoint, self.fingerprint


def entry_of(c: Comparison, step: int, notices: tuple[str, ...] = ()) -> Entry:
    """What a comparison leaves to the history, with notices of its own and further ones."""
    tokens = np.where(c.table.checkpoint_tokens > 0, c.table.checkpoint_tokens, np.nan)
    columns = (c.table.outcome, c.table.probability, tokens)
    rows = zip(c.table.prompt_id.tolist(), *(x.tolist() for x in columns), strict=True)
    return Entry(
        checkpoint=c.checkpoint.name,
        digest=c.checkpoint.digest,
        step=step,
        reference=c.reference.name,
        reference_digest=c.reference.digest,
        reward_model=c.reward_model.name,
        fingerprint=c.reward_model.fingerprint,
        benchmark=c.signature.benchmark,
        ties=c.signature.ties,
        notices=(*c.notices, *notices),
        left_out=tuple(sorted(c.table.unmatched.prompt_ids)),
        prompts={i: tuple(map(_number, values)) for i, *values in rows},  # type: ignore[misc]
    )


def entry_to_come(
    checkpoint: CompletionSet,
    step: int,
    reference: CompletionSet,
    model: RewardModelSpec,
    choices: tuple[str, str],
) -> Entry:
    """The entry of a checkpoint before it is scored: no numbers, but all that can be refused.

    `choices` are the benchmark, empty if there is none, and the tie rule.
    """
    answered = {p.prompt_id for p in reference.prompts}
    ids = (p.prompt_id for p in checkpoint.prompts if p.prompt_id in answered)
    return Entry(
        checkpoint=checkpoint.name,
        digest=checkpoint.digest,
        step=step,
        reference=reference.name,
        reference_digest=reference.digest,
        reward_model=model.name,
        fingerprint=model.fingerprint,
        benchmark=choices[0],
        ties=choices[1],
        notices=(),
        left_out=(),
        prompts=dict.fromkeys(ids, (None, None, None)),
    )


@dataclass(frozen=True, slots=True)
class History:
    """A history file as it was read.

    Attributes:
        path: The file.
        content: Its bytes; empty if it is not there yet.
        plan: Of the run; None if the file is empty.
        entries: In the order of its lines.
    """

    path: Path
    content: bytes
    plan: RunPlan | None
    entries: tuple[Entry, ...]


def merged(history: History | None, now: Sequence[Entry], plan: RunPlan) -> list[Entry]:
    """What a history holds together with what was compared now, sorted.

    Args:
        history: As it was read; None where none is kept.
        now: At least one entry.
        plan: Of this run.

    Raises:
        InputError: The history is of another run or plan, or has a checkpoint with other
            completions or another step under one name, or shares no prompt with a new one, or some
            reward model lacks a checkpoint of another.
    """
    stored = history.entries if history else ()
    path = history.path if history else Path()
    if history and history.plan not in {None, plan}:
        raise InputError(
            f"the history was planned otherwise: {history.plan}; now {plan}",
            where=str(path),
            fix="leave --planned, --window, --ci and --temperature out to follow it, or start "
            "another history: the error of the alarms was shared out by its plan",
        )
    for old in stored:
        _check_same_run(str(path), old, now[0])
    by_name = {e.checkpoint: e for e in stored}
    for new in now:
        old = by_name.get(new.checkpoint, new)
        if (old.digest, old.step) != (new.digest, new.step):
            raise InputError(
                f"checkpoint {new.checkpoint!r} is another one in the history (step {old.step}, "
                f"completions {old.digest[:12]}; now step {new.step}, {new.digest[:12]})",
                where=str(path),
                fix="give the new checkpoint a name of its own, or start another history file",
            )
    entries = {e.key: e for e in (*stored, *now)}.values()
    _check_whole(str(path), entries)
    if stored and not set.intersection(*({*e.prompts} for e in entries)):
        raise InputError(
            "the history and the new checkpoints share no prompt",
            where=str(path),
            fix="track checkpoints that answer the same prompts, or start another history file",
        )
    return sorted(entries, key=lambda e: (e.fingerprint, e.step, e.checkpoint))


def _check_whole(where: str, entries: Collection[Entry]) -> None:
    """Refuse reward models of which one has a checkpoint that another has not."""
    found: dict[str, tuple[str, set[str]]] = {}
    for e in entries:
        found.setdefault(e.fingerprint, (e.reward_model, set()))[1].add(e.checkpoint)
    every = set().union(*(names for _, names in found.values()))
    for fingerprint, (model, names) in found.items():
        if lacking := sorted(every - names):
            raise InputError(
                f"mixed reward models: {model}#{fingerprint[:16]} has no rewards of "
                f"{listing(lacking)}, which another one of the run has",
                where=where,
                fix="name all reward models and those checkpoints, or start another history file",
            )


def _check_same_run(where: str, old: Entry, new: Entry) -> None:
    for name, what in SAME_RUN.items():
        if getattr(old, name) != getattr(new, name):
            raise InputError(
                f"the history is of {what}: {getattr(old, name)!r}, not {getattr(new, name)!r}",
                where=where,
                fix="name the history file of this run, or start another",
            )


def read_history(path: Path) -> History:
    """Read a history file; one that is not there, or empty, holds nothing.

    Raises:
        InputError: It cannot be read, or is no regular file.
        MalformedError: Lines that are no plan and entries of this schema, with file and line.
    """
    content = _content(path)
    if not content:
        return History(path, content, None, ())
    faults: list[Fault] = []
    lines = containers.records(str(path), faults)
    plan = _plan(next(lines, Record(f"{path}:1", {})), faults)
    found = [entry for record in lines if (entry := _sound_entry(record, faults))]
    if faults:
        raise MalformedError(
            str(path), faults, fix="restore the file, or start another; it is written by track"
        )
    return History(path, content, plan, tuple(found))


def up_to_date(history: History) -> History:
    """A history as its file is now, read anew only if another run has written it since.

    Raises:
        InputError, MalformedError: As for `read_history`.
    """
    return history if _content(history.path) == history.content else read_history(history.path)


def _content(path: Path) -> bytes:
    return path.read_bytes() if is_file(path) else b""


def is_file(path: Path) -> bool:
    """Whether there is a file, or a link to one, that a history can be kept in.

    Raises:
        InputError: There is something else: a folder, a device, a pipe, links in a circle.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", fix="name a file for the history") from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise InputError(f"{path} is {what}", fix="name a file for the history")
    return True


def _plan(record: Record, faults: list[Fault]) -> RunPlan | None:
    """The plan that the first line states."""
    stated = record.value.get("plan")
    known = isinstance(stated, dict) and list(stated) == list(RunPlan._fields)
    plan = RunPlan(**stated) if isinstance(stated, dict) and known else None
    if record.value.get("schema_version") != SCHEMA_VERSION:
        Fields(record, faults).fault("schema_version", f"must be {SCHEMA_VERSION}")
    elif plan is None:
        fault = f"must state {', '.join(RunPlan._fields)}"
        Fields(record, faults).fault("plan", fault)
    elif record.value.get("checksum") != _checksum(plan._asdict()):
        Fields(record, faults).fault("checksum", "does not match the plan")
    return plan


def _sound_entry(record: Record, faults: list[Fault]) -> Entry | None:
    known = len(faults)
    entry = _entry(Fields(record, faults), record.value)
    return entry if len(faults) == known else None


def _entry(fields: Fields, value: Mapping[str, Any]) -> Entry | None:
    if fields.integer("schema_version") != SCHEMA_VERSION:
        fields.fault("schema_version", f"must be {SCHEMA_VERSION}")
        return None
    names = [name for name in Entry.__slots__ if name not in {"step", *LISTS, "prompts"}]
    texts = {name: fields.text(name) or "" for name in names}
    lists = {name: fields.texts(name) if value.get(name) != [] else () for name in LISTS}
    step, prompts = fields.integer("step"), value.get("prompts")
    if step is None:
        fields.fault("step", "is missing")
    if not isinstance(prompts, dict) or not all(map(_is_row, prompts.values())):
        fields.fault("prompts", "must map each prompt id to outcome, probability and tokens")
        return None
    said = {**texts, **lists, "step": step, "prompts": prompts}
    if value.get("checksum") != _checksum(said):
        fields.fault("checksum", "does not match the entry")
    rows = {i: tuple(row) for i, row in prompts.items()}
    return Entry(step=step or 0, prompts=rows, **texts, **lists)  # type: ignore[arg-type]


def _is_row(row: object) -> bool:
    return (
        isinstance(row, list)
        and len(row) == 3
        and all(x is None or (isinstance(x, float) and x >= 0) for x in row)
        and all(x is None or x <= 1 for x in row[:2])
    )


def write_history(history: History, plan: RunPlan, entries: Sequence[Entry]) -> None:
    """Write a plan and all entries in place of what was read, whole or not at all.

    The same entries make the same bytes.

    Raises:
        InputError: The file is no longer what was read: another run has written it.
    """
    lines: list[dict[str, Any]] = [
        {
            "schema_version": SCHEMA_VERSION,
            "plan": plan._asdict(),
            "checksum": _checksum(plan._asdict()),
        }
    ]
    for entry in entries:
        value = {**asdict(entry), "prompts": {i: list(r) for i, r in entry.prompts.items()}}
        lines.append({"schema_version": SCHEMA_VERSION, **value, "checksum": _checksum(value)})
    content = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
    _swap(history.path, history.content, content)


def _swap(path: Path, before: bytes, after: bytes) -> None:
    """Replace a file that is still what it was; of several writers at once one does.

    The lock is on the file that is replaced: who waits for it finds another one in its place, be
    it of the same bytes. It ends with its process. A link stays one.
    """
    target = path.resolve()
    try:
        with target.open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            unchanged = os.path.samestat(os.fstat(held.fileno()), target.stat())
            unchanged = unchanged and target.read_bytes() == before
            if unchanged:
                write_atomic(target, after)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}", fix="make it writable, or name another file"
        ) from None
    if not unchanged:
        raise InputError(
            f"{path} was written by another run meanwhile; nothing is lost, and nothing added",
            fix="run the same command again: what it scored is kept",
        )


def _checksum(value: Mapping[str, Any]) -> str:
    return digest("history", {name: value[name] for name in sorted(value)})


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
