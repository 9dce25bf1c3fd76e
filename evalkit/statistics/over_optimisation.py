"""Does a run still please the reward model it is trained against while another one turns away?

Win probabilities of the same prompts at T checkpoints under reward model A, trained against, and
B, held out and best of another family. Changes are those of the logit of the mean, which a ceiling
does not compress; it is the empirical logit, ln((n·mean + ½)/(n·(1 − mean) + ½)) (Anscombe 1956,
Biometrika 43:461), so that a model which A always prefers does not end the watch. Bounds hold at
all looks of the run together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import logit

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.intervals import defined
from evalkit.statistics.resampling import Keys
from evalkit.statistics.sequential import (
    Curve,
    Plan,
    earlier_windows,
    mean_curve,
    upper_bounds,
    windowed,
)

TOLERANCE = 0.1  # logits of B that count as no change; 2.5 points at a half


class Change(NamedTuple):
    """A change of the logit of a mean, and both ends of it.

    Attributes:
        value: In logits.
        low: One-sided lower bound; the lower bounds of all looks hold together with chance
            `level`. None without spread, −∞ where the resamples are too few.
        high: The same from above.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class OverOptimisationLook:
    """What both reward models say at one checkpoint.

    Attributes:
        step: Column.
        a: Change of A since the first checkpoint; None at the first.
        b: The same of B.
        gap: a − b.
        best: Column of the last checkpoint of B's best earlier window; None before there is one.
        a_since_best: Change of A from that window to the last one.
        b_since_best: The same of B.
    """

    step: int
    a: Change | None
    b: Change | None
    gap: Change | None
    best: int | None
    a_since_best: Change | None
    b_since_best: Change | None

    @property
    def hard(self) -> bool:
        """A is surely up and B surely down since the first checkpoint."""
        return _above(self.a, 0) and _below(self.b, 0)

    @property
    def turned(self) -> bool:
        """A is surely up and B surely down since B's best earlier window: what fires first."""
        return _above(self.a_since_best, 0) and _below(self.b_since_best, 0)

    @property
    def soft(self) -> bool:
        """A is surely up and B surely within ±`TOLERANCE` since the first checkpoint."""
        return _above(self.a, 0) and _above(self.b, -TOLERANCE) and _below(self.b, TOLERANCE)


def over_optimisation(
    a: FloatArray,
    b: FloatArray,
    keys: Keys,
    plan: Plan,
    *,
    clusters: IntArray | None = None,
) -> tuple[OverOptimisationLook, ...]:
    """Compare what A and B say of each checkpoint, with three alarms.

    Each alarm needs all of its bounds (intersection-union), and is false with chance 1 − level at
    most over the whole run if B never falls (`hard`, `turned`) or if A never rises, and twice that
    if B falls and A rises but over different stretches; that B stands still (`soft`) is two
    one-sided tests. Alarms on a step never change when later ones are appended. "Down since
    the first checkpoint" comes late: a run gains before it loses.

    Args:
        a: (P, T) win probabilities or outcomes in [0, 1] under the reward model trained against.
        b: (P, T) the same prompts and checkpoints under the one held out.
        keys: (P,) bootstrap keys, equal within a cluster, seed included.
        plan: Looks, window (of logits, for "since the best"), level of each alarm, resamples.
        clusters: (P,) cluster of each prompt; each its own if None.

    Returns:
        One look a checkpoint.

    Raises:
        ValueError: Values outside [0, 1], columns of different shape, NaN, no prompts, more
            checkpoints than planned.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"A and B have the same shape, not {np.shape(a)} and {np.shape(b)}")
    curves = _logit_curves(a, b, keys, clusters, plan.resamples)
    start = [_since_first(curve, plan) for curve in (*curves, _gap(*curves))]
    windows = [windowed(curve, plan.window) for curve in curves]
    compared = earlier_windows(len(windows[1].values), plan.window)
    bests = [int(np.argmax(windows[1].values[others])) for _, others in compared]
    steps, idle = len(curves[1].values), 2 * plan.window - 1
    spent = plan.spent(steps, idle)
    nothing = [None] * min(idle, steps)
    a_since, b_since = ([*nothing, *_changes(c, compared, spent, bests)] for c in windows)
    return tuple(
        OverOptimisationLook(
            step=t,
            a=start[0][t],
            b=start[1][t],
            gap=start[2][t],
            best=bests[t - idle] + plan.window - 1 if t >= idle else None,
            a_since_best=a_since[t],
            b_since_best=b_since[t],
        )
        for t in range(steps)
    )


def _logit_curves(
    a: FloatArray, b: FloatArray, keys: Keys, clusters: IntArray | None, resamples: int
) -> tuple[Curve, Curve]:
    table = np.hstack([a, b])
    if np.any((table < 0) | (table > 1)):
        raise ValueError("win probabilities and outcomes lie in [0, 1]")
    means = mean_curve(table, keys, clusters, resamples=resamples)
    n = len(table)
    shrunk = (n * means.values + 0.5) / (n + 1)
    slopes = 1 / (shrunk * (1 - shrunk))
    both = Curve(logit(shrunk), means.deviations * slopes, means.drawn * slopes)
    half = np.eye(len(shrunk))
    return both @ half[:, : len(half) // 2], both @ half[:, len(half) // 2 :]


def _gap(a: Curve, b: Curve) -> Curve:
    return Curve(a.values - b.values, a.deviations - b.deviations, a.drawn - b.drawn)


def _since_first(curve: Curve, plan: Plan) -> list[Change | None]:
    steps = len(curve.values)
    compared = [(t, np.zeros(1, dtype=np.int64)) for t in range(1, steps)]
    return [None, *_changes(curve, compared, plan.spent(steps, 1), [0] * (steps - 1))]


def _changes(
    curve: Curve,
    looks: Sequence[tuple[int, IntArray]],
    spent: Sequence[float],
    picked: Sequence[int],
) -> list[Change]:
    """At each look the change since one picked of the earlier values, with both its bounds."""
    mirrored = Curve(-curve.values, -curve.deviations, -curve.drawn)
    above = upper_bounds(curve, looks, spent)
    below = upper_bounds(mirrored, looks, spent)
    return [
        Change(float(high.difference[i]), defined(-low.upper[i]), defined(high.upper[i]))
        for i, low, high in zip(picked, below, above, strict=True)
    ]


def _above(change: Change | None, limit: float) -> bool:
    return change is not None and change.low is not None and change.low > limit


def _below(change: Change | None, limit: float) -> bool:
    return change is not None and change.high is not None and change.high < limit


def length_drift(
    lengths: FloatArray,
    keys: Keys,
    plan: Plan,
    *,
    clusters: IntArray | None = None,
) -> tuple[Change | None, ...]:
    """Change of the log of the mean length since the first checkpoint, with bounds over all looks.

    Args:
        lengths: (P, T) > 0 on average, such as tokens of each prompt's completion.
        keys: (P,) bootstrap keys, equal within a cluster, seed included.
        plan: Looks, level of either end, resamples.
        clusters: (P,) cluster of each prompt; each its own if None.

    Returns:
        One a checkpoint, None for the first; exp of it is the factor by which answers grew.

    Raises:
        ValueError: NaN or infinity, a mean length that is not positive.
    """
    means = mean_curve(lengths, keys, clusters, resamples=plan.resamples)
    if not np.all(means.values > 0):
        raise ValueError("the mean length of a checkpoint is positive")
    slopes = 1 / means.values
    curve = Curve(np.log(means.values), means.deviations * slopes, means.drawn * slopes)
    return tuple(_since_first(curve, plan))


def correlation_drift(
    rewards: FloatArray,
    lengths: FloatArray,
    keys: Keys,
    plan: Plan,
    *,
    clusters: IntArray | None = None,
) -> tuple[Change | None, ...]:
    """Change of the correlation of reward and length over prompts since the first checkpoint.

    Pearson's r; its error is that of its influence function, z_x·z_y − r·(z_x² + z_y²)/2.

    Args:
        rewards: (P, T) finite, any unit.
        lengths: (P, T) the same completions.
        keys: (P,) bootstrap keys, equal within a cluster, seed included.
        plan: Looks, level of either end, resamples.
        clusters: (P,) cluster of each prompt; each its own if None.

    Returns:
        One a checkpoint; None for the first, and where either column of it or of the first does
        not vary.

    Raises:
        ValueError: NaN or infinity, columns of different shape.
    """
    if np.shape(rewards) != np.shape(lengths):
        raise ValueError("there is a reward for each length")
    x, y = (_standardised(np.asarray(c, dtype=np.float64)) for c in (rewards, lengths))
    r = np.mean(x * y, axis=0)
    influence = np.nan_to_num(x * y - r * (x**2 + y**2) / 2)
    means = mean_curve(influence, keys, clusters, resamples=plan.resamples)
    found = _since_first(replace(means, values=r), plan)
    return tuple(None if c is None or math.isnan(c.value) else c for c in found)


def _standardised(columns: FloatArray) -> FloatArray:
    """Columns of mean 0 and variance 1; NaN where a column does not vary."""
    if not np.all(np.isfinite(columns)):
        raise ValueError("the columns hold NaN or infinity; decide about those prompts first")
    spread = columns.std(axis=0)
    varies = spread > 1e-12 * np.abs(columns).max(axis=0)
    found: FloatArray = (columns - columns.mean(axis=0)) / np.where(varies, spread, np.nan)
    return found
