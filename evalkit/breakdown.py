"""Subsets beside the whole: which of them decide, and whether they tell another story."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.accuracy import combined
from evalkit.statistics.intervals import Estimate
from evalkit.statistics.multiplicity import holm_where_defined
from evalkit.statistics.paired import permutation_p
from evalkit.statistics.resampling import Keys
from evalkit.text import listing

FEWEST = 20  # prompts; fewer say too little of a subset
DRAWS = 4_999


@dataclass(frozen=True, slots=True)
class Group:
    """All rows of a table, or those of one subset: prompts of a comparison, or labelled pairs.

    Attributes:
        n: Rows.
        wins: Rows that went well: a mean outcome above one half, or the chosen answer's reward the
            higher one.
        ties: Rows that went neither way.
        losses: Rows that went the other way.
        estimates: By name. An estimate that does not exist has the value None.
    """

    n: int
    wins: int
    ties: int
    losses: int
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """What the subsets say together.

    Attributes:
        p: Subset -> p that its win rate is one half, by swapping both sides within clusters,
            Holm-adjusted over the subsets; None for one of fewer than 20 prompts.
        macro: Mean of the subsets' win rates, each counting once; None without subsets.
    """

    p: Mapping[str, float | None]
    macro: Estimate | None

    def decided(self, level: float) -> list[str]:
        """The subsets whose win rate is not one half, all of them at once at this level."""
        return [name for name, p in self.p.items() if p is not None and p <= 1 - level]


def breakdown(
    outcome: FloatArray,
    rows: Mapping[str, IntArray],
    win_rates: Sequence[Estimate],
    clusters: IntArray,
    keys: Keys,
) -> Breakdown:
    """Test the subsets of a table.

    Args:
        outcome: (P,) in [0, 1]; NaN where ties are dropped.
        rows: Subset -> its rows.
        win_rates: Of the same subsets.
        clusters: (P,).
        keys: (P,) as for resampling.
    """
    known = {name: at[~np.isnan(outcome[at])] for name, at in rows.items()}
    p = [
        permutation_p(outcome[at] - 0.5, clusters=clusters[at], keys=keys[at], draws=DRAWS)
        if len(at) >= FEWEST
        else None
        for at in known.values()
    ]
    rates = [rate for rate in win_rates if rate.value is not None]
    return Breakdown(
        dict(zip(known, holm_where_defined(p), strict=True)),
        combined(rates, [1.0] * len(rates)) if rates else None,
    )


def contradictions(
    found: Breakdown, rates: Mapping[str, float | None], overall: float | None, level: float
) -> Sequence[str]:
    """Where the subsets tell another story than the whole.

    Args:
        found: The tests.
        rates: Subset -> win rate.
        overall: Win rate over all prompts.
        level: Of the tests.
    """
    if overall is None or overall == 0.5:
        return []
    side = overall - 0.5
    against = [n for n in found.decided(level) if ((rates[n] or 0.0) - 0.5) * side < 0]
    said = []
    if against:
        said.append(
            f"{listing(against)} {'points' if len(against) == 1 else 'point'} to the other side "
            f"than the whole ({overall:.3f}), surely even among all subsets (Holm)"
        )
    macro = found.macro.value if found.macro else None
    if macro is not None and (macro - 0.5) * side < 0:
        said.append(
            f"over prompts the win rate is {overall:.3f}, over subsets {macro:.3f}: which "
            "side is ahead rests on the sizes of the subsets"
        )
    return said
