"""Do two reward models order the checkpoints of a run alike?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.intervals import check_level
from evalkit.statistics.resampling import Keys, as_student
from evalkit.statistics.sequential import ROUNDING, Curve, mean_curve

LEAST = 4  # checkpoints; among three, chance orders two curves alike once in six


@dataclass(frozen=True, slots=True)
class RankCorrelation:
    """Kendall's τ_b of two curves of means.

    Attributes:
        value: In [−1, 1].
        low: τ_b if every pair of checkpoints whose order is not sure spoke against agreement.
        high: The same if every such pair spoke for it.
        level: Chance at least with which the interval holds.
        checkpoints: T.
        resamples: B.
    """

    value: float
    low: float
    high: float
    level: float
    checkpoints: int
    resamples: int


def kendall_tau_b(
    a: FloatArray,
    b: FloatArray,
    keys: Keys,
    *,
    level: float = 0.95,
    clusters: IntArray | None = None,
    resamples: int = 2000,
) -> RankCorrelation | None:
    """Estimand: τ_b between the T mean outcomes of both columns (Kendall 1945, Biometrika 33:239).

    Noise of the means pulls the value towards 0, that of a resample as much again, so that
    bootstrap quantiles of τ_b cover as little as 53 % of what they say where noise decides the
    order of most neighbours. The interval goes by orders instead: the differences of every two
    means under both models have bands that hold together (max-t, as `multiplicity.max_t_bands`), a
    band that leaves 0 out makes an order sure, and all others are left open. It covers no less
    than it says, at any noise, and is wide where little is sure.

    Args:
        a: (P, T) finite, any unit, under one reward model.
        b: (P, T) the same prompts and checkpoints under another.
        keys: (P,) bootstrap keys, equal within a cluster, seed included.
        level: Chance at least with which the interval holds, in (0, 1).
        clusters: (P,) cluster of each prompt; each its own if None.
        resamples: B; fewer than level / (1 − level) make no order sure.

    Returns:
        None below four checkpoints, or where all means of a curve are equal.

    Raises:
        ValueError: Columns of different shape, NaN or infinity, a level outside (0, 1).
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"A and B have the same shape, not {np.shape(a)} and {np.shape(b)}")
    check_level(level)
    steps = np.shape(a)[1]
    curve = mean_curve(np.hstack([a, b]), keys, clusters, resamples=resamples)
    if steps < LEAST:
        return None
    tau = _tau_b(curve.values[:steps], curve.values[steps:])
    if tau is None:
        return None
    agree = _sure_orders(curve, level)
    sure, unsure = float(np.sum(agree)), int(np.sum(agree == 0))
    return RankCorrelation(
        value=tau,
        low=(sure - unsure) / len(agree),
        high=(sure + unsure) / len(agree),
        level=level,
        checkpoints=steps,
        resamples=resamples,
    )


def _sure_orders(curve: Curve, level: float) -> FloatArray:
    """Of each two checkpoints 1 if both models surely order them alike, −1 if not, 0 if unsure."""
    steps, df = len(curve.values) // 2, curve.clusters - 1
    i, j = np.triu_indices(steps, 1)
    early, late = np.concatenate([i, i + steps]), np.concatenate([j, j + steps])
    difference, drawn = (x[..., early] - x[..., late] for x in (curve.values, curve.drawn))
    spread = np.linalg.norm(curve.deviations[:, early] - curve.deviations[:, late], axis=0)
    able = spread > ROUNDING * np.abs(curve.values).max()
    rank = math.ceil(level * (len(drawn) + 1))
    if not df or not able.any() or rank > len(drawn):
        return np.zeros(len(i))
    largest = np.sort((np.abs(drawn[:, able]) / spread[able]).max(axis=1))[rank - 1]
    reach = as_student(float(largest), df) * spread * curve.correction
    orders = np.where(able & (np.abs(difference) > reach), np.sign(difference), 0.0)
    found: FloatArray = orders[: len(i)] * orders[len(i) :]
    return found


def _tau_b(x: FloatArray, y: FloatArray) -> float | None:
    """Of two curves (T,); None where one is level throughout."""
    i, j = np.triu_indices(len(x), 1)
    s, t = (np.sign(c[i] - c[j]) for c in (x, y))
    untied = math.sqrt(float(np.sum(s**2) * np.sum(t**2)))
    return float(np.sum(s * t)) / untied if untied else None
