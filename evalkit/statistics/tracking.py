"""Has a training run passed its best? Alarms over checkpoints, and where the curve turns.

Columns are checkpoints in the order of their steps, rows the same prompts at each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.intervals import check_level, defined
from evalkit.statistics.resampling import Keys
from evalkit.statistics.sequential import (
    Curve,
    Plan,
    earlier_windows,
    mean_curve,
    spend,
    upper_bounds,
    windowed,
)


@dataclass(frozen=True, slots=True)
class DegradationLook:
    """The last window of checkpoints against the best earlier one.

    Attributes:
        step: Column of the last checkpoint of the window.
        best: Column of the last checkpoint of the earlier window with the highest mean; None
            before there is one.
        difference: Mean of the last window minus that of the best earlier one, over prompts.
        upper: Upper bound of the difference; the bounds of all looks hold together with chance
            `level`, whichever windows were best. None where the difference has no spread;
            infinite where the error left to spend is finer than the resamples.
        p: One-sided, that this look finds no decline, corrected for the choice among the earlier
            windows but not for the number of looks. None without spread, 1 if nothing differs.
    """

    step: int
    best: int | None = None
    difference: float | None = None
    upper: float | None = None
    p: float | None = None

    @property
    def alarm(self) -> bool:
        """Whether the upper bound lies below 0."""
        return self.upper is not None and self.upper < 0


def degradation_alarms(
    outcomes: FloatArray, keys: Keys, plan: Plan, *, clusters: IntArray | None = None
) -> tuple[DegradationLook, ...]:
    """Estimand: mean over prompts of the last window of checkpoints minus the best earlier window.

    Windows do not overlap and are paired by prompt. A run that never declines raises any alarm at
    all with chance 1 − level at most, although it is looked at with each checkpoint and although
    the best earlier window was picked for being high: the bound is one for all earlier windows
    (one-sided max-t) and every look spends its share of the error. (At level 0.95, 5.6 ± 0.3 % of
    8,500 simulated flat runs alarmed, of 30 checkpoints and 200 or 805 prompts.) A curve that rises
    is safer than a flat one. The verdict on a step never changes when later ones are appended.

    Args:
        outcomes: (P, T) finite, such as win rates in [0, 1]; any unit.
        keys: (P,) bootstrap keys, equal within a cluster, seed included.
        plan: Looks, window, level and resamples.
        clusters: (P,) cluster of each prompt; each its own if None.

    Returns:
        One look a checkpoint; the first 2 · window − 1 have nothing to compare.

    Raises:
        ValueError: NaN or infinity, no prompts, more checkpoints than planned.
    """
    single = mean_curve(outcomes, keys, clusters, resamples=plan.resamples)
    curve, idle = windowed(single, plan.window), 2 * plan.window - 1
    compared, steps = earlier_windows(len(curve.values), plan.window), len(single.values)
    bounds = upper_bounds(curve, compared, plan.spent(steps, idle))
    found = [DegradationLook(t) for t in range(min(idle, steps))]
    for (k, others), above in zip(compared, bounds, strict=True):
        best = int(np.argmax(curve.values[others]))
        found.append(
            DegradationLook(
                step=k + plan.window - 1,
                best=best + plan.window - 1,
                difference=float(above.difference[best]),
                upper=defined(above.upper[best]),
                p=defined(above.p[best]),
            )
        )
    return tuple(found)


class Watch(NamedTuple):
    """Both alarms of a run, which share its error."""

    looks: tuple[DegradationLook, ...]
    cusum: Cusum

    @property
    def alarms(self) -> npt.NDArray[np.bool_]:
        """(T,) whether either is raised at a checkpoint."""
        return np.array([look.alarm for look in self.looks]) | self.cusum.alarm


def watch(outcomes: FloatArray, keys: Keys, plan: Plan) -> Watch:
    """`degradation_alarms` and `cusum`, each with half of the plan's error.

    A run that never declines raises either with chance 1 − level at most.
    """
    half = replace(plan, level=(1 + plan.level) / 2)
    return Watch(degradation_alarms(outcomes, keys, half), cusum(outcomes, keys, half))


@dataclass(frozen=True, slots=True, eq=False)
class Cusum:
    """A cumulative sum of falls.

    Attributes:
        sums: (T,) ≥ 0, in standard errors.
        limits: (T,) what a sum must exceed; infinite while there is nothing to compare, or where
            the error left to spend is finer than the resamples.
        alarm: (T,) whether it does.
    """

    sums: FloatArray
    limits: FloatArray
    alarm: npt.NDArray[np.bool_]


def cusum(
    outcomes: FloatArray,
    keys: Keys,
    plan: Plan,
    *,
    allowance: float = 1.5,
    clusters: IntArray | None = None,
) -> Cusum:
    """A second alarm, which adds up how far checkpoints fall (Page 1954, Biometrika 41:100).

    S_t = max(0, S_{t−1} + fall_t − allowance), where fall_t is how far checkpoint t lies below the
    best earlier window, in standard errors of that paired difference. The best of many is high by
    chance, by 0.5 to 1 standard errors over 10 to 100 checkpoints of a flat run: hence an
    allowance above the usual ½. The limits are those that bootstrap curves of a flat run, whose
    sums are the largest of all runs that never decline, exceed at any look with chance 1 − level.
    That error comes on top of that of `degradation_alarms`.

    Args:
        outcomes: (P, T) finite, any unit.
        keys: (P,) bootstrap keys, equal within a cluster, seed included.
        plan: Looks, window, level and resamples. Below 50 clusters, or where wins are rarer than
            5 %, up to 9 % of runs without fault alarm instead of 5 (measured). The first `window`
            checkpoints have no earlier window and add nothing.
        allowance: Fall of a checkpoint that adds nothing, in standard errors, ≥ 0.
        clusters: (P,) cluster of each prompt; each its own if None.

    Raises:
        ValueError: NaN or infinity, no prompts or checkpoints, more of them than planned.
    """
    curve = mean_curve(outcomes, keys, clusters, resamples=plan.resamples)
    steps, idle = len(curve.values), plan.window
    spent = plan.spent(steps, idle)
    observed = _sums_of_falls(curve, curve.values[None] / curve.correction, idle, allowance)[0]
    drawn = _sums_of_falls(curve, curve.drawn, idle, allowance)
    limits, alive = np.full(steps, np.inf), np.ones(plan.resamples, dtype=np.bool_)
    for t, share in zip(range(idle, steps), spent, strict=True):
        limits[t], alive = spend(drawn[:, t], alive, share)
    return Cusum(observed, limits, observed > limits)


def _sums_of_falls(curve: Curve, paths: FloatArray, window: int, allowance: float) -> FloatArray:
    """(B, T) cumulative sums of B paths of T values; a fall without spread counts as none."""
    count, steps = paths.shape
    windows = windowed(curve, window)
    means = windowed(replace(curve, drawn=paths), window).drawn
    rows = np.arange(count)
    best, sums = np.zeros(count, dtype=np.intp), np.zeros((count, steps))
    for t in range(window, steps):
        newest = t - window
        best = np.where(means[:, newest] > means[rows, best], newest, best)
        spread = windows.spread_from(curve.deviations[:, t], slice(newest + 1))
        apart = np.where(spread > 0, spread, np.inf)[best]
        fall = (means[rows, best] - paths[:, t]) / apart
        sums[:, t] = np.maximum(0.0, sums[:, t - 1] + fall - allowance)
    return sums


@dataclass(frozen=True, slots=True, eq=False)
class ChangePoint:
    """Where a curve of two straight lines bends.

    Attributes:
        index: Column at which it bends.
        low, high: Columns between which it does, by the bootstrap.
        before, after: Slopes of both lines, per step; a run that turns from rising to declining
            has them of opposite sign.
        profile: (T,) log-likelihood of a bend at each column, less its maximum; NaN at both ends.
        level: Nominal coverage of the interval.
    """

    index: int
    low: int
    high: int
    before: float
    after: float
    profile: FloatArray
    level: float


def change_point(
    outcomes: FloatArray,
    keys: Keys,
    *,
    steps: FloatArray | None = None,
    level: float = 0.95,
    clusters: IntArray | None = None,
    resamples: int = 2000,
) -> ChangePoint | None:
    """The checkpoint at which the slope of the curve of means changes (broken stick).

    The model is two straight lines that meet at a checkpoint. Its likelihood is normal, with the
    paired covariance of the means, to which a share T/C of the variance that checkpoints do not
    have in common is added on the diagonal: it may rest on few clusters. The bend is where the
    profile likelihood is largest, the earliest of equals; the interval is a percentile one of the
    bends of bootstrap curves. It describes: whether there is a decline is for the alarms to say.

    Args:
        outcomes: (P, T) finite, any unit.
        keys: (P,) bootstrap keys, equal within a cluster, seed included.
        steps: (T,) increasing, such as training steps; 0, 1, 2, … if None.
        level: Nominal coverage, in (0, 1).
        clusters: (P,) cluster of each prompt; each its own if None.
        resamples: B.

    Returns:
        None below four checkpoints, or where checkpoints do not vary apart.

    Raises:
        ValueError: NaN or infinity, no prompts, steps that do not increase, a level outside (0, 1).
    """
    check_level(level)
    curve = mean_curve(outcomes, keys, clusters, resamples=resamples)
    t = len(curve.values)
    x = np.arange(t, dtype=np.float64) if steps is None else np.asarray(steps, dtype=np.float64)
    if x.shape != (t,) or not np.all(np.diff(x) > 0):
        raise ValueError("steps increase, one a checkpoint")
    root = _root_covariance(curve)
    if t < 4 or root is None:
        return None
    drawn = np.vstack([curve.values, curve.values + curve.drawn])
    whitened = np.linalg.solve(root, drawn.T)
    bends = np.arange(1, t - 1)
    fitted = np.empty((len(bends), len(drawn)))
    for i, bend in enumerate(bends):
        basis = np.linalg.qr(np.linalg.solve(root, _broken_stick(x, x[bend])))[0]
        fitted[i] = np.sum((basis.T @ whitened) ** 2, axis=0)
    found = bends[np.argmax(fitted, axis=0)]
    tail = (1 - level) / 2
    low, high = np.quantile(found[1:], [tail, 1 - tail], method="inverted_cdf")
    design = np.linalg.solve(root, _broken_stick(x, x[found[0]]))
    slopes = np.linalg.lstsq(design, whitened[:, 0])[0]
    profile = np.full(t, np.nan)
    profile[bends] = (fitted[:, 0] - fitted[:, 0].max()) / 2
    return ChangePoint(
        index=int(found[0]),
        low=min(int(low), int(found[0])),
        high=max(int(high), int(found[0])),
        before=float(slopes[1]),
        after=float(slopes[2]),
        profile=profile,
        level=level,
    )


def _broken_stick(x: FloatArray, bend: float) -> FloatArray:
    """(T, 3) level at the bend, and both slopes."""
    return np.column_stack([np.ones_like(x), np.minimum(x - bend, 0), np.maximum(x - bend, 0)])


def _root_covariance(curve: Curve) -> FloatArray | None:
    """Lower Cholesky factor of the steadied covariance of the values; None without variance."""
    c, t = curve.deviations.shape
    own = curve.deviations - curve.deviations.mean(axis=1, keepdims=True)
    if c < 2 or t < 2 or not np.any(own):
        return None
    apart = float(np.sum(own**2)) / (t - 1)
    covariance = curve.deviations.T @ curve.deviations + np.eye(t) * apart * t / c
    return np.linalg.cholesky(covariance * c / (c - 1))
