"""Several models on the same rows: who is ahead of whom, overall and subset by subset.

A benchmark's overall is a weighted mean over its subsets. Two models answer the same rows, so that
their difference is taken row by row; subsets are strata, and what varies is the rows within them.

Credits are (N, M): what each of M models gets for each of N rows, in [0, 1], NaN without a verdict.
Every two models are held against each other on the rows that both have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.clusters import clustering
from evalkit.statistics.intervals import Estimate, check_level, defined
from evalkit.statistics.multiplicity import holm_where_defined
from evalkit.statistics.outcomes import mean_by_group
from evalkit.statistics.paired import mcnemar
from evalkit.statistics.ranking import RankRanges, holm_of_pairs, rank_ranges_from

ROUNDING = 1e-9  # credits differ by more than this, or not at all


@dataclass(frozen=True, slots=True)
class OverallDifference:
    """By how much model a is ahead of model b overall.

    Attributes:
        a, b: Columns of the credits, a < b.
        estimate: Weighted overall of a minus that of b, in [-1, 1], over the rows that both have;
            its t interval is this difference's own, not corrected for the others. The value is None
            if a subset that counts has no such row; the interval is None without spread.
        df: Degrees of freedom; None without an interval.
        p: Two-sided, that the difference is 0; 1 if the columns are equal, else None without an
            interval.
        p_holm: The same, Holm-adjusted over all pairs of models.
    """

    a: int
    b: int
    estimate: Estimate
    df: float | None
    p: float | None
    p_holm: float | None


@dataclass(frozen=True, slots=True, eq=False)
class OverallDifferences:
    """The overall of each model and the difference of every two.

    Attributes:
        values: (M,) weighted overall of each model over its own rows; NaN if a subset that counts
            has none.
        pairs: All M(M-1)/2 differences, a < b, in order.
        level: Nominal coverage of each interval, and of the rankings.
    """

    values: FloatArray
    pairs: tuple[OverallDifference, ...]
    level: float


class _Design(NamedTuple):
    """The N rows that count; a cell is what a cluster has in one stratum."""

    stratum: IntArray
    weights: FloatArray  # (S,) of each stratum, positive, summing to 1
    cell: IntArray
    cell_stratum: IntArray  # (K,)
    cell_cluster: IntArray  # (K,)


class _Spread(NamedTuple):
    """Standard error of a weighted mean over strata, its degrees of freedom, and its clusters."""

    stderr: float | None
    df: float | None
    clusters: int


def overall_differences(
    credit: FloatArray,
    strata: IntArray,
    weights: FloatArray,
    *,
    clusters: IntArray | None = None,
    level: float = 0.95,
) -> OverallDifferences:
    """Estimand: the difference of two weighted overalls, Σ_s W_s · mean over s of (a − b).

    The standard error is that of a stratified mean: with u_cs the sum over the rows of cluster c in
    stratum s of W_s/n_s · (a − b − mean_s), it is √Σ_c (Σ_s u_cs · √(C_s/(C_s−1)))², where C_s is
    the number of clusters in s. Where each cluster lies in one stratum that is CR1 by stratum;
    clusters across strata bring the strata's covariance with them. Student's t has the degrees of
    freedom of Welch and Satterthwaite, at most clusters − 1. One stratum without clusters gives the
    paired t test, two give Welch's.

    Args:
        credit: (N, M) in [0, 1], NaN where a model has no verdict on the row.
        strata: (N,) subset of each row, in [0, S). For a pooled overall, one subset of all rows.
        weights: (S,) weight of each subset in the overall, ≥ 0, of any sum; rows of a subset of
            weight 0 take no part.
        clusters: (N,) what rows share that are not independent; each row its own if None.
        level: Nominal coverage, in (0, 1).

    Returns:
        All differences. A subset with a single cluster leaves no standard error.

    Raises:
        ValueError: Arrays that do not fit together, credits outside [0, 1], a stratum without a
            weight, weights that are negative, infinite or all 0, a level outside (0, 1).
    """
    check_level(level)
    table = credit_table(credit)
    kept, design = _design(np.asarray(strata), np.asarray(weights), clusters, len(table))
    table = table[kept]
    tests = [
        _difference(a, b, table, design, level) for a, b in combinations(range(table.shape[1]), 2)
    ]
    adjusted = holm_of_pairs(_matrix(tests, [test.p for test in tests], table.shape[1]))
    return OverallDifferences(
        values=np.array([_overall(column, design) for column in table.T]),
        pairs=tuple(replace(test, p_holm=defined(adjusted[test.a, test.b])) for test in tests),
        level=level,
    )


def credit_table(credit: FloatArray) -> FloatArray:
    """(N, M) float64; a ValueError for another shape, or a credit neither NaN nor in [0, 1]."""
    table = np.asarray(credit, dtype=np.float64)
    if table.ndim != 2 or not table.shape[1]:
        raise ValueError(f"credits have a row a prompt and a column a model, not {table.shape}")
    if not np.all(np.isnan(table) | ((table >= 0) & (table <= 1))):
        raise ValueError("credits lie in [0, 1], or are NaN without a verdict")
    return table


def _design(
    strata: IntArray, weights: FloatArray, clusters: IntArray | None, n: int
) -> tuple[IntArray, _Design]:
    """Which rows count, and their design."""
    if not (weights.ndim == 1 and np.all(weights >= 0) and 0 < weights.sum() < math.inf):
        raise ValueError("weights are finite and not negative, and not all of them zero")
    if strata.shape != (n,) or (n and not 0 <= strata.min() <= strata.max() < len(weights)):
        raise ValueError("each row has a stratum, numbered from 0, with a weight")
    if clusters is not None and np.shape(clusters) != (n,):
        raise ValueError("each row has a cluster")
    counts = weights > 0
    kept = np.flatnonzero(counts[strata])
    stratum = (np.cumsum(counts) - 1)[strata[kept]]
    units = None if clusters is None else np.asarray(clusters)[kept]
    cluster = clustering(len(kept), units).label
    s = int(counts.sum())
    cells, cell = np.unique(cluster * s + stratum, return_inverse=True)
    share = weights[counts] / weights.sum()
    return kept, _Design(stratum, share, cell, cells % s, cells // s)


def _overall(column: FloatArray, design: _Design) -> float:
    return float(design.weights @ mean_by_group(column, design.stratum, len(design.weights)))


def _difference(
    a: int, b: int, table: FloatArray, design: _Design, level: float
) -> OverallDifference:
    d = table[:, a] - table[:, b]
    both = ~np.isnan(d)
    d, design = d[both], design._replace(stratum=design.stratum[both], cell=design.cell[both])
    value, spread = _overall(d, design), _spread(d, design)
    p: float | None
    if spread.stderr and spread.df:
        half = float(stdtrit(spread.df, (1 + level) / 2)) * spread.stderr
        p = 2 * float(stdtr(spread.df, -abs(value) / spread.stderr))
    else:
        half = math.nan
        p = 1.0 if not math.isnan(value) and np.all(np.abs(d) <= ROUNDING) else None
    estimate = Estimate(
        value=defined(value),
        low=defined(value - half),
        high=defined(value + half),
        stderr=spread.stderr,
        level=level,
        n=len(d),
        clusters=spread.clusters,
        method="t" if spread.df else "undefined",
    )
    return OverallDifference(a, b, estimate, spread.df, p, None)


def _spread(d: FloatArray, design: _Design) -> _Spread:
    s, k = len(design.weights), len(design.cell_stratum)
    n = np.bincount(design.stratum, minlength=s)
    there = np.bincount(design.cell, minlength=k) > 0
    units = np.bincount(design.cell_stratum[there], minlength=s)
    clusters = len(np.unique(design.cell_cluster[there]))
    if units.min() < 2:
        return _Spread(None, None, clusters)
    deviation = d - mean_by_group(d, design.stratum, s)[design.stratum]
    squares = np.bincount(design.stratum, weights=deviation**2, minlength=s)
    deviation[(squares <= n * ROUNDING**2)[design.stratum]] = 0  # of equal numbers
    scale = design.weights / n * np.sqrt(units / (units - 1))
    u = np.bincount(design.cell, weights=deviation, minlength=k) * scale[design.cell_stratum]
    own = np.bincount(design.cell_stratum, weights=u**2, minlength=s)  # variance by stratum
    variance = float(np.sum(np.bincount(design.cell_cluster, weights=u) ** 2))
    if variance <= 1e-12 * own.sum():  # strata that cancel out, up to rounding
        return _Spread(0.0, None, clusters)
    df = float(own.sum() ** 2 / np.sum(own**2 / (units - 1)))
    return _Spread(math.sqrt(variance), min(df, clusters - 1.0), clusters)


def _matrix(
    pairs: Sequence[OverallDifference], values: Sequence[float | None], models: int
) -> FloatArray:
    """(M, M) one value a pair above the diagonal, NaN elsewhere and for None."""
    found = np.full((models, models), np.nan)
    for pair, value in zip(pairs, values, strict=True):
        found[pair.a, pair.b] = np.nan if value is None else value
    return found


def rankings(differences: OverallDifferences) -> RankRanges:
    """Which ranks the Holm-adjusted differences leave to each model, at their level.

    The first group holds the model of the highest overall and all that are not separable from it.
    A model without an overall is separable from none and comes last in that group.
    """
    pairs, m = differences.pairs, len(differences.values)
    value = _matrix(pairs, [pair.estimate.value for pair in pairs], m)
    adjusted = _matrix(pairs, [pair.p_holm for pair in pairs], m)
    return rank_ranges_from(
        differences.values,
        np.where(np.isnan(value), -value.T, value),
        np.fmin(adjusted, adjusted.T),
        level=differences.level,
    )


@dataclass(frozen=True, slots=True)
class SubsetTest:
    """Two models on one subset, where exactly one of them is right.

    Attributes:
        subset: Its name.
        a, b: Columns of the credits, a < b.
        n: Rows that both have.
        only_a: Rows on which a alone is right.
        only_b: The reverse.
        p: McNemar's exact test, two-sided; 1 if nothing is discordant, None without rows.
        p_holm: The same, Holm-adjusted over all subsets and pairs that have rows.
    """

    subset: str
    a: int
    b: int
    n: int
    only_a: int
    only_b: int
    p: float | None
    p_holm: float | None


def subset_tests(
    credit: FloatArray, strata: IntArray, names: Sequence[str]
) -> tuple[SubsetTest, ...]:
    """Estimand: among the rows of a subset that one model alone gets right, the share that a does.

    A row is right if its credit is 1: ties and shared credits are not. Every row is a unit of its
    own.

    Args:
        credit: (N, M) in [0, 1], NaN where a model has no verdict on the row.
        strata: (N,) subset of each row, in [0, S).
        names: (S,) of the subsets.

    Returns:
        S · M(M-1)/2 tests, by subset, then by pair.

    Raises:
        ValueError: Arrays that do not fit together, credits outside [0, 1].
    """
    table, strata = credit_table(credit), np.asarray(strata)
    if strata.shape != (len(table),) or np.any((strata < 0) | (strata >= len(names))):
        raise ValueError("each row has a stratum, numbered from 0, with a name")
    right = np.where(np.isnan(table), np.nan, table == 1)
    tests = [
        _subset_test(name, a, b, rows)
        for name, rows in ((name, right[strata == s]) for s, name in enumerate(names))
        for a, b in combinations(range(table.shape[1]), 2)
    ]
    adjusted = holm_where_defined([test.p for test in tests])
    return tuple(replace(test, p_holm=p) for test, p in zip(tests, adjusted, strict=True))


def _subset_test(name: str, a: int, b: int, right: FloatArray) -> SubsetTest:
    both = right[~np.isnan(right[:, a] + right[:, b])]
    found = mcnemar(both[:, a], both[:, b])
    return SubsetTest(name, a, b, len(both), found.a_only, found.b_only, found.p, None)
