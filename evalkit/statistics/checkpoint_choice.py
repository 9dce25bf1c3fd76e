"""Which checkpoint of a run is the best: which could be, which to take, and what it is worth.

Columns are checkpoints in the order of their steps, rows the same prompts at each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.clusters import clustering
from evalkit.statistics.intervals import Estimate, check_level, mean
from evalkit.statistics.resampling import Keys, splitmix64
from evalkit.statistics.sequential import mean_curve, upper_bounds

FOLDS = 10  # with fewer the rule chooses among worse means than it will
SPLIT_STREAM = np.uint64(1 << 62)  # counters the bootstrap weights never reach


@dataclass(frozen=True, slots=True, eq=False)
class BestSet:
    """Checkpoints that could be the best.

    Attributes:
        members: Columns that are not surely below another; that of the highest mean among them.
        leader: Column of the highest mean, the earliest of equals.
        p: (T,) one-sided, that the checkpoint is the best, corrected for the number of others;
            NaN for a single checkpoint or where no difference has a spread.
        level: Chance that the set holds the truly best checkpoint.
    """

    members: tuple[int, ...]
    leader: int
    p: FloatArray
    level: float


def best_set(
    outcomes: FloatArray,
    keys: Keys,
    *,
    level: float = 0.95,
    clusters: IntArray | None = None,
    resamples: int = 10_000,
) -> BestSet:
    """A confidence set of the checkpoint with the highest true mean.

    Each checkpoint is tested for being the best against all others at once (one-sided max-t under
    common weights; Hsu 1984, Ann. Statist. 12:1136, with paired columns). The best one is tested
    once, so that no further correction is due. Where several are best, each is in the set with
    chance `level`.

    Args:
        outcomes: (P, T) finite, any unit.
        keys: (P,) bootstrap keys, equal within a cluster, seed included.
        level: In (0, 1).
        clusters: (P,) cluster of each prompt; each its own if None.
        resamples: B.

    Raises:
        ValueError: NaN or infinity, no prompts or checkpoints, a level outside (0, 1).
    """
    check_level(level)
    curve = mean_curve(outcomes, keys, clusters, resamples=resamples)
    steps = np.arange(len(curve.values))
    p, members = np.full(len(steps), np.nan), []
    for k in steps.tolist():
        (bounds,) = upper_bounds(curve, [(k, np.delete(steps, k))], [1 - level])
        if not np.any(bounds.upper < 0):
            members.append(k)
        if not np.all(np.isnan(bounds.p)):
            p[k] = np.nanmin(bounds.p)
    return BestSet(tuple(members), int(np.argmax(curve.values)), p, level)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The checkpoint to take, and what it is worth.

    Attributes:
        index: Column of the earliest checkpoint within one standard error of the best.
        best: Column of the highest mean, the earliest of equals.
        naive: Mean of the chosen column: too high on average, as it was chosen for being high.
        corrected: The same where each prompt is scored by checkpoints chosen without it. Its
            standard error is that of the chosen mean and the size of the correction, root of the
            sum of squares: what was chosen varies too. Its interval is Student's t; where that of
            the chosen mean is a betting interval (`intervals.mean`), it reaches no less far, the
            correction included. All None with fewer than two clusters.
    """

    index: int
    best: int
    naive: Estimate
    corrected: Estimate


def chosen(
    outcomes: FloatArray,
    keys: Keys,
    *,
    level: float = 0.95,
    bounded: bool = False,
    clusters: IntArray | None = None,
    splits: int = 10,
) -> Chosen:
    """The earliest checkpoint within one standard error of the best, with its corrected value.

    The standard error is that of the paired difference from the best. The correction is repeated
    cross-validation: clusters are cut into ten by their keys, the rule chooses on nine tenths and
    the last tenth is scored; an average over splits. Nearly unbiased, where the bootstrap's
    correction of the choice leaves a third of the bias of a flat run.

    Args:
        outcomes: (P, T) finite, any unit.
        keys: (P,) keys, equal within a cluster, seed included.
        level: Nominal coverage of the intervals, in (0, 1).
        bounded: Whether outcomes lie in [0, 1], so that no interval reaches beyond.
        clusters: (P,) cluster of each prompt; each its own if None.
        splits: How often the clusters are cut anew, ≥ 1.

    Raises:
        ValueError: NaN or infinity, no prompts or checkpoints, fewer than one split.
    """
    curve = mean_curve(outcomes, keys, clusters)  # refuses what cannot be averaged
    if splits < 1:
        raise ValueError(f"clusters are split at least once, not {splits}")
    table = np.asarray(outcomes, dtype=np.float64)
    grouped = clustering(len(table), clusters)
    sums, sizes = grouped.sums(table), grouped.sizes
    index = _earliest(sums, sizes)
    change = 0.0  # summed first and divided once: what does not differ must come out as 0
    for fold in _folds(np.asarray(keys)[grouped.first], splits):
        for f in range(int(fold.max()) + 1):
            rest = fold != f
            pick = _earliest(sums[rest], sizes[rest]) if rest.any() else index
            scored = ~rest[grouped.label]
            change += float(np.sum(table[scored, pick] - table[scored, index]))
    naive = mean(table[:, index], bounded=bounded, level=level, clusters=clusters)
    corrected = _corrected(naive, change / (splits * len(table)))
    if bounded:
        corrected = _in_unit(corrected)
    return Chosen(index, int(np.argmax(curve.values)), naive, corrected)


def _corrected(naive: Estimate, change: float) -> Estimate:
    """The estimate moved by a change, as uncertain as both; at least as wide as a betting one."""
    if naive.value is None or naive.stderr is None:
        return replace(naive, value=None, low=None, high=None)
    value = naive.value + change
    stderr = math.hypot(naive.stderr, change)
    half = float(stdtrit(naive.clusters - 1, (1 + naive.level) / 2)) * stderr
    lows, highs = ([value - half], [value + half]) if stderr else ([], [])
    if naive.method == "betting" and naive.low is not None and naive.high is not None:
        lows.append(naive.low + min(0.0, change))
        highs.append(naive.high + max(0.0, change))
    low, high = min(lows, default=None), max(highs, default=None)
    method = "t" if stderr and naive.method != "betting" else naive.method
    return replace(naive, value=value, low=low, high=high, stderr=stderr, method=method)


def _in_unit(estimate: Estimate) -> Estimate:
    """With its part in [0, 1]: what it loses is no value."""
    value, low, high = (
        None if x is None else min(1.0, max(0.0, x))
        for x in (estimate.value, estimate.low, estimate.high)
    )
    return replace(estimate, value=value, low=low, high=high)


def _earliest(sums: FloatArray, sizes: FloatArray) -> int:
    """The first column whose mean is within a standard error (of the difference) of the best."""
    c, rows = len(sums), sizes.sum()
    values = sums.sum(axis=0) / rows
    best = np.argmax(values)
    deviations = sums - values * sizes[:, None]
    squares = np.sum((deviations - deviations[:, [best]]) ** 2, axis=0)
    stderr = np.sqrt(squares * c / max(1, c - 1)) / rows
    return int(np.argmax(values >= values[best] - stderr))


def _folds(keys: Keys, splits: int) -> Iterator[IntArray]:
    """(C,) which of at most ten parts each cluster is in, anew for every split."""
    for split in range(splits):
        mixed = splitmix64(keys ^ splitmix64(np.array([split], np.uint64) | SPLIT_STREAM))
        rank = np.argsort(np.argsort(mixed, kind="stable"), kind="stable")
        yield rank * min(FOLDS, len(keys)) // len(keys)
