"""Everything evalkit refuses, as one tree.

EvalkitError                what went wrong, where, how to fix it, exit code
├── InputError          2   usage, configuration or data refused
│   └── MalformedError  2   a file with faulty records: the first 20 and how many
├── RefusedModelError   2   a reward model that cannot be trusted to be what it says
├── IntegrityError      5   digests, prompts or known rewards do not agree
└── MissingError        6   something needed is not here, or not all of it could be scored

Exit code 1 is kept for bugs, 3 and 4 for verdicts, 130 for interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.text import CLIPPED, count, listing, printable


class EvalkitError(Exception):
    """A refusal that says what, where and how to fix it.

    Args:
        what: One sentence: what is wrong.
        where: The place: file, line and field, or the name that was asked for.
        fix: What to do about it, as a command where there is one.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  at {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return printable("\n".join(lines), keep="\n")


class InputError(EvalkitError):
    """Usage, configuration or data that evalkit refuses."""

    exit_code = 2


class RefusedModelError(EvalkitError):
    """A reward model whose tensors, format or class do not explain each other.

    Args:
        what: As for every error.
        where: Likewise.
        fix: Likewise.
        code: What `evalkit reward-models check` calls it; empty if it has no name for it.
        number: How much of it there is, such as tensors that are missing.
    """

    exit_code = 2

    def __init__(
        self, what: str, *, where: str = "", fix: str = "", code: str = "", number: float = 0.0
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.code, self.number = code, number


class IntegrityError(EvalkitError):
    """Two things that must agree do not: digests, prompts, rewards known before."""

    exit_code = 5


class MissingError(EvalkitError):
    """An extra, weights, a reference or some rewards are missing."""

    exit_code = 6


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in one record.

    Attributes:
        where: `file:line` (or `file, row N`).
        field: The field at fault, empty if it is the whole record.
        what: What is wrong with it.
    """

    where: str
    field: str
    what: str

    def __str__(self) -> str:
        field = f"field {self.field[:CLIPPED]!r} " if self.field else ""
        return f"{self.where}: {field}{self.what}"


class MalformedError(InputError):
    """A file whose records are faulty; lists the first 20 faults and counts the rest."""

    def __init__(self, source: str, faults: Sequence[Fault], *, fix: str) -> None:
        super().__init__(
            f"{source}: {count(len(faults), 'fault')}",
            where=listing([str(fault) for fault in faults], separator="\n     "),
            fix=fix,
        )
        self.faults = tuple(faults)
