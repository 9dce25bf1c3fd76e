"""Do evalkit's intervals hold the truth as often as they say? Simulated, beside other methods.

Every design draws data whose truth is known, hands them to the library as a user would, and counts
how often the 95 % interval holds that truth. `metrics` says what is drawn, and what the n prompts
and their intra-cluster correlation mean for each metric.

Tests stand in the same table: of a test of no effect "coverage" is the share of trials without
a false alarm, of a planted effect the share in which it is found, and its nominal value the power.

Rules that decide (gates, alarms over a run, the choice of a checkpoint) have a second table, of
`decisions`.
"""

from __future__ import annotations

import math
import statistics
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from evalkit.statistics.gates import FEW_DECIDING
from evalkit.validate.decisions import (
    Decision,
    Study,
    decide,
    quick_studies,
    share_stderr,
    studies,
)
from evalkit.validate.metrics import FAMILY, METRICS, Design, Result, Whose

__all__ = [
    "Cell",
    "Decision",
    "Design",
    "Study",
    "Validation",
    "decide",
    "designs",
    "quick_designs",
    "quick_studies",
    "simulate",
    "studies",
]

TRIALS, SEED = 4000, 20260101  # of the committed table
QUICK_TRIALS = 300
SIZES, CORRELATIONS = (50, 200, 805), (0.0, 0.3, 0.7)
BLOCK = 100  # trials drawn at a time

TOLERANCE = 0.02  # on either side of the nominal value
CHANCE = 2.0  # Monte-Carlo standard errors allowed beyond that
LEAST = 0.85  # what no number of deciding prompts excuses

BY_DESIGN = "conservative by design"
FEW_DECIDE = f"under-covers: fewer than {FEW_DECIDING} prompts decide"
AT_LIMIT = "at the limit, within Monte-Carlo error"
UNDER, OVER, NONE = "under-covers", "over-covers", "no interval"


@dataclass(frozen=True, slots=True)
class Cell:
    """What one method made of one design.

    Attributes:
        metric: What was estimated or tested.
        method: How; where evalkit chooses by the data, each method with its share of the trials.
        whose: evalkit's default, or a peer's method on the same data.
        n: Prompts.
        icc: Intra-cluster correlation.
        mean: The truth, in the units of the metric.
        trials: Simulated data sets.
        undefined: Of them, those for which the method gave no interval; left out of the rest.
        nominal: What the coverage should be.
        coverage: Share of the trials in which the interval held the truth (the test was right).
        stderr: Monte-Carlo standard error of the coverage (Agresti and Coull 1998, Am. Stat. 52:2).
        width: Mean width of the intervals; None for tests.
        verdict: "ok" if within 2 points of nominal; else what is wrong, or why it is no fault.
    """

    metric: str
    method: str
    whose: Whose
    n: int
    icc: float
    mean: float
    trials: int
    undefined: int
    nominal: float
    coverage: float
    stderr: float
    width: float | None
    verdict: str

    @property
    def passes(self) -> bool:
        """Whether the coverage is as said, or its verdict says why not."""
        return self.verdict in {"ok", AT_LIMIT, FEW_DECIDE} or self.verdict.startswith(BY_DESIGN)

    @property
    def as_said(self) -> bool:
        """Whether the coverage itself is within the limits, Monte-Carlo error or not."""
        return abs(self.coverage - self.nominal) <= TOLERANCE


class Validation(NamedTuple):
    """Both tables: of intervals, and of rules that decide."""

    cells: list[Cell]
    decisions: list[Decision]

    @property
    def passes(self) -> bool:
        """Whether evalkit does as it says, in all of both."""
        rows: list[Cell | Decision] = [*self.cells, *self.decisions]
        return all(row.passes for row in rows if row.whose == "evalkit")


def designs() -> list[Design]:
    """Every design of the committed table, in its order."""
    return [
        Design(name, n, icc, m)
        for name, (_, means) in METRICS.items()
        for m in means
        for n in SIZES
        for icc in ((0.3,) if name == FAMILY else CORRELATIONS)
    ]


def quick_designs() -> list[Design]:
    """The designs of 50 correlated prompts at typical means, for a first look."""
    return [d for d in designs() if d.n == 50 and d.icc > 0 and d.mean == METRICS[d.metric][1][0]]


def simulate(*, trials: int, seed: int, cells: Sequence[Design] | None = None) -> list[Cell]:
    """Simulate and judge; the same arguments give the same numbers.

    Args:
        trials: Data sets a design, ≥ 2.
        seed: ≥ 0. The numbers of a design depend on it, the trials and the design alone.
        cells: What to simulate; None for all `designs()`.

    Returns:
        For every design evalkit's cells first, then the peers'.

    Raises:
        ValueError: Fewer than two trials.
    """
    if trials < 2:
        raise ValueError(f"a simulation takes two trials or more, not {trials}")
    found = []
    for design in designs() if cells is None else cells:
        rng = np.random.default_rng([seed, zlib.crc32(repr(design).encode())])
        draw = METRICS[design.metric][0]
        blocks = [min(BLOCK, trials - start) for start in range(0, trials, BLOCK)]
        runs = [trial for block in blocks for trial in draw(rng, design, block)]
        found += [_cell(design, column) for column in zip(*runs, strict=True)]
    return found


def _cell(design: Design, column: Sequence[Result]) -> Cell:
    first = column[0]
    known = [one for one in column if one.held is not None]
    held = sum(bool(one.held) for one in known)
    coverage = held / len(known) if known else math.nan
    stderr = share_stderr(held / max(1, len(known)), len(known))
    used = [one.used for one in known if one.used]
    shares = {name: used.count(name) / len(used) for name in sorted(set(used))}
    mixed = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
    widths = [one.width for one in known if one.width is not None]
    return Cell(
        metric=design.metric,
        method=mixed if len(shares) > 1 else next(iter(shares), first.method),
        whose=first.whose,
        n=design.n,
        icc=design.icc,
        mean=design.mean,
        trials=len(column),
        undefined=len(column) - len(known),
        nominal=first.nominal,
        coverage=coverage,
        stderr=stderr,
        width=statistics.fmean(widths) if widths else None,
        verdict=_verdict(column, coverage, CHANCE * stderr, shares.get("betting", 0.0)),
    )


def _verdict(column: Sequence[Result], coverage: float, chance: float, betting: float) -> str:
    """Judge a coverage.

    The betting interval promises at least its level, as Holm's correction does. It explains
    coverage above the limit only so far as the other trials could have been within it:
    coverage ≤ share · 1 + (1 − share) · limit.
    """
    nominal = column[0].nominal
    limit = nominal + TOLERANCE
    if math.isnan(coverage):
        return NONE
    if coverage + chance < nominal - TOLERANCE:
        few = statistics.median(one.deciding for one in column) < FEW_DECIDING
        return FEW_DECIDE if few and coverage >= LEAST else UNDER
    if coverage - chance <= limit:
        return "ok" if nominal - TOLERANCE <= coverage <= limit else AT_LIMIT
    if column[0].method == "Holm":
        return f"{BY_DESIGN} (Holm)"
    if betting and coverage - chance <= betting + (1 - betting) * limit:
        return f"{BY_DESIGN} (betting)"
    return OVER
