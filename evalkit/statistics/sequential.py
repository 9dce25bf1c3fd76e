"""Curves of means over checkpoints on the same prompts, and bounds that hold at every look.

A monitor looks again with each checkpoint and compares it with many earlier ones. Each look may
spend a share of the error (Lan and DeMets 1983, Biometrika 70:659); what it spends is counted on
keyed bootstrap curves that no earlier look has alarmed on, so that looks which repeat each other
cost little. A look depends on the checkpoints up to it alone: later ones never change its verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtr

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.clusters import clustering
from evalkit.statistics.intervals import check_level
from evalkit.statistics.resampling import Keys, as_student, weight_blocks

ROUNDING = 1e-12  # relative; a spread below it is that of floats, not of prompts


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Values of T checkpoints, what each of C clusters adds to their errors, and drawn errors.

    Attributes:
        values: (T,) such as means.
        deviations: (C, T) influence of each cluster on each value, of sum 0; the sums of products
            are the covariance but for the factor C/(C−1).
        drawn: (B, T) errors of the values in each resample, under weights common to all of them.
    """

    values: FloatArray
    deviations: FloatArray
    drawn: FloatArray

    @property
    def clusters(self) -> int:
        """C."""
        return len(self.deviations)

    @property
    def correction(self) -> float:
        """√(C/(C−1)), by which standard errors are larger (CR1)."""
        c = self.clusters
        return math.sqrt(c / (c - 1)) if c > 1 else math.nan

    def spread_from(self, deviation: FloatArray, others: slice | IntArray) -> FloatArray:
        """Roots of Σ (deviation − that of each other)²; 0 where rounding alone is left."""
        sizes = np.linalg.norm(self.deviations[:, others], axis=0) + np.linalg.norm(deviation)
        apart = self.deviations[:, others] - deviation[:, None]
        found: FloatArray = np.linalg.norm(apart, axis=0)
        found[found <= 1e3 * ROUNDING * sizes] = 0.0
        return found

    def __matmul__(self, weights: FloatArray) -> Curve:
        """K weighted sums of the values, by a matrix (T, K)."""
        return Curve(self.values @ weights, self.deviations @ weights, self.drawn @ weights)


def mean_curve(
    columns: FloatArray, keys: Keys, clusters: IntArray | None = None, *, resamples: int = 0
) -> Curve:
    """Means of the columns, with the influence of each cluster.

    Args:
        columns: (P, T) finite; row i is prompt i at every checkpoint.
        keys: (P,) bootstrap keys, equal within a cluster, seed included.
        clusters: (P,) cluster of each prompt; each its own if None.
        resamples: B.

    Raises:
        ValueError: No prompts or checkpoints, NaN or infinity, keys or clusters of another length.
    """
    table = np.asarray(columns, dtype=np.float64)
    if table.ndim != 2 or not table.size or len(keys) != len(table):
        raise ValueError(f"columns are (P, T) with P keys, not {table.shape} and {len(keys)}")
    if not np.all(np.isfinite(table)):
        raise ValueError("the columns hold NaN or infinity; decide about those prompts first")
    grouped = clustering(len(table), clusters)
    values = table.mean(axis=0)
    deviations = grouped.sums((table - values) / len(table))
    noise = ROUNDING * np.abs(table).max(axis=0)
    deviations[:, np.linalg.norm(deviations, axis=0) <= noise] = 0.0
    blocks = weight_blocks(np.asarray(keys)[grouped.first], resamples)
    drawn = [np.empty((0, table.shape[1])), *(block @ deviations for block in blocks)]
    return Curve(values, deviations, np.concatenate(drawn))


def windowed(curve: Curve, width: int) -> Curve:
    """Means of `width` neighbouring values: T − width + 1 of them, or none."""
    steps = len(curve.values)
    starts = np.arange(max(0, steps - width + 1))
    inside = np.arange(steps)[:, None] - starts
    return curve @ (((inside >= 0) & (inside < width)) / width)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is decided before a run is watched.

    Attributes:
        looks: Checkpoints planned, each of which gets its share of the error; None if nobody
            knows: the j-th look then gets α / (j(j + 1)), and no number of them spends more than
            α, at the price of later alarms.
        window: Neighbouring checkpoints averaged, ≥ 1.
        level: 1 − α, in (0, 1): the chance that a run without fault raises no alarm at all.
        resamples: B; a look spends about α / looks, of which 1 / B must be a small part.
    """

    looks: int | None = None
    window: int = 3
    level: float = 0.95
    resamples: int = 10_000

    def __post_init__(self) -> None:
        check_level(self.level)
        if self.window < 1 or self.resamples < 1:
            raise ValueError("a window holds at least one checkpoint, and there is a resample")

    def spent(self, checkpoints: int, idle: int) -> list[float]:
        """Error spent up to and with each look, where the first `idle` checkpoints make none.

        Raises:
            ValueError: More checkpoints than planned.
        """
        if self.looks is not None and checkpoints > self.looks:
            what = f"{checkpoints} checkpoints, but {self.looks} were planned"
            raise ValueError(f"{what}; plan for all of them before the run")
        made = range(1, checkpoints - idle + 1)
        if self.looks is None:
            return [(1 - self.level) * j / (j + 1) for j in made]
        return [(1 - self.level) * j / (self.looks - idle) for j in made]


def spend(
    statistic: FloatArray, alive: npt.NDArray[np.bool_], share: float
) -> tuple[float, npt.NDArray[np.bool_]]:
    """The critical value of a look, and which bootstrap curves no look up to it alarms on.

    Args:
        statistic: (B,) of each bootstrap curve at this look; −∞ where there is nothing to test.
        alive: (B,) which of them no earlier look has alarmed on.
        share: Error to be spent up to and with this look.

    Returns:
        What an alarm must exceed, infinite where the resamples are too few for so small an error.
    """
    rank = math.floor(share * (1 + len(alive)) + 1e-9) - int(np.count_nonzero(~alive))
    left = statistic[alive]
    critical = float(np.partition(left, -rank)[-rank]) if 1 <= rank <= len(left) else math.inf
    if not math.isfinite(critical):
        return math.inf, alive
    return critical, alive & (statistic <= critical)


class Bounds(NamedTuple):
    """One look: how far a value lies above each of several others, at most.

    Attributes:
        difference: (S,) value − other.
        upper: (S,) bounds that hold for all others and all looks together; NaN where the
            difference has no spread, infinite where too few resamples were drawn to say.
        p: (S,) one-sided, that the value is not below, at this look, whichever of the others is
            picked; 1 where both are the same on every prompt, NaN where spread is missing else.
    """

    difference: FloatArray
    upper: FloatArray
    p: FloatArray


def upper_bounds(
    curve: Curve,
    looks: Iterable[tuple[int, IntArray]],
    spent: Iterable[float],
) -> Iterator[Bounds]:
    """Bounds of v_k − v_s at each look k, for all its earlier s at once (one-sided max-t).

    Standard errors are analytic (CR1); critical values are counted on the bootstrap curves and
    carried over to Student's t with C − 1 degrees of freedom at equal tail probability.

    Args:
        curve: The values.
        looks: Which value, against which others.
        spent: Error spent up to and with each look, in (0, 1).
    """
    drawn, df = curve.drawn, curve.clusters - 1
    alive = np.ones(len(drawn), dtype=bool)
    for (k, others), share in zip(looks, spent, strict=True):
        spread = curve.spread_from(curve.deviations[:, k], others)
        able = spread > 0
        maxima = _maxima(drawn, k, others[able], spread[able])
        critical, alive = spend(maxima, alive, share)
        difference = curve.values[k] - curve.values[others]
        stderr = np.where(able, spread, np.nan) * curve.correction
        difference[~able & (np.abs(difference) <= ROUNDING * abs(curve.values[k]))] = 0.0
        t = difference / stderr
        beyond = np.searchsorted(np.sort(maxima), -_as_normal(t, df))
        p = (1 + len(drawn) - beyond) / (1 + len(drawn))
        same = ~able & (difference == 0)
        yield Bounds(
            difference,
            difference + as_student(critical, df) * stderr if df else stderr,
            np.where(able, p, np.where(same, 1.0, np.nan)),
        )


def _maxima(drawn: FloatArray, k: int, others: IntArray, spread: FloatArray) -> FloatArray:
    """(B,) how far the value of a bootstrap curve falls below any of the others, standardised."""
    if not len(others):
        return np.full(len(drawn), -np.inf)
    found: FloatArray = ((drawn[:, others] - drawn[:, [k]]) / spread).max(axis=1)
    return found


def _as_normal(t: FloatArray, df: int) -> FloatArray:
    """The normal quantile of the same lower tail."""
    found: FloatArray = ndtri(stdtr(df, t)) if df else np.full_like(t, np.nan)
    return found


def earlier_windows(count: int, width: int) -> Sequence[tuple[int, IntArray]]:
    """Each window that has earlier ones not overlapping it, with those."""
    return [(k, np.arange(k - width + 1)) for k in range(width, count)]
