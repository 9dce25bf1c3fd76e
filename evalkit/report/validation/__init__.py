"""The validation tables as text, CSV and Markdown; computes nothing, only lays out."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from evalkit.errors import InputError
from evalkit.report.validation import coverage, decisions
from evalkit.validate import Cell, Decision, Validation

INTRODUCTION = """\
# Validation

How often evalkit's 95 % intervals hold a known truth, and how often other public methods do on the
same simulated data; below, how often its gates and alarms err, beside the [rules](#decision-rules)
that people use. `evalkit validate` rebuilds these tables; `evalkit validate --check
docs/validation.md` compares. Method and data are described in `evalkit/validate/metrics.py`.

A cell is ok if its coverage is within two points of nominal, and at the limit if it is beyond them
by no more than twice its Monte-Carlo standard error. Of a test, coverage is the share of trials
without a false alarm, or with the planted effect found. Behind a coverage stands the mean width of
the interval.

"Fewer than 10 prompts decide" is a shortfall that evalkit has: where so few prompts differ, or were
won at all, no normal theory holds, and the interval is too narrow. So is, by about half a point,
the win probability's where 50 prompts of a mean near 0 or 1 are all there is: few of them carry the
mean, and its distribution is skewed.
"""


def to_csv(rows: Sequence[Cell] | Sequence[Decision]) -> bytes:
    """One line a row, every share a fraction, the same bytes on every run."""
    buffer = io.StringIO()
    names = list(type(rows[0]).__dataclass_fields__)
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: _plain(v) for k, v in asdict(row).items()})
    return buffer.getvalue().encode()


def _plain(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else value


def to_text(tables: Validation) -> str:
    """The tables for a terminal, and how much of evalkit's is as it says."""
    lines = [*coverage.to_lines(tables.cells), "", *decisions.to_lines(tables.decisions)]
    return "\n".join(lines) + "\n"


def to_markdown(tables: Validation) -> bytes:
    """How much is as it says, then the intervals, then the rules."""
    lines = [
        INTRODUCTION,
        f"{coverage.tally(tables.cells)}.",
        "",
        f"{decisions.tally(tables.decisions)}.",
        "",
        *coverage.to_markdown(tables.cells),
        "",
        *decisions.to_markdown(tables.decisions),
    ]
    return ("\n".join(lines) + "\n").encode()


# What a path ends in -> its bytes; the longest end counts.
WRITERS: dict[str, Callable[[Validation], bytes]] = {
    ".decisions.csv": lambda tables: to_csv(tables.decisions),
    ".csv": lambda tables: to_csv(tables.cells),
    ".md": to_markdown,
}


def written(path: Path, tables: Validation) -> bytes:
    """What the file of this name holds: both tables as Markdown, or one of them as CSV."""
    return next(write for end, write in WRITERS.items() if path.name.endswith(end))(tables)


def check_output(path: Path) -> None:
    """Refuse an output, with an InputError, before minutes of work are done for it."""
    if not path.name.endswith(tuple(WRITERS)):
        raise InputError(f"cannot write {path}", fix=f"use one of {', '.join(WRITERS)}")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: no folder {path.parent}", fix="create the folder")


def difference(path: Path, tables: Validation) -> str | None:
    """The first line in which a written table is not the one rebuilt; None if they agree."""
    found, rebuilt = path.read_bytes(), written(path, tables)
    if found == rebuilt:
        return None
    sides = [data.decode("utf-8", "replace").splitlines() for data in (found, rebuilt)]
    length = max(map(len, sides))
    pairs = zip(*([*side, *[""] * (length - len(side))] for side in sides), strict=True)
    for number, (old, new) in enumerate(pairs, 1):
        if old != new:
            return f"{path}:{number}: {old!r}, rebuilt {new!r}"
    return f"{path}: line ends"
