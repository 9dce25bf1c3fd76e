"""How many prompts a gate needs where hardly any of them tells two checkpoints apart.

Of so few, a gate goes by the share of prompts that differ at all (`gates.hoeffding`), and from a
certain number of them on by Student's t. A new run may be judged either way, as it falls out.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from evalkit.data import FloatArray
from evalkit.statistics.gates import MOST_PROMPTS, hoeffding, least, t_critical

MANY = 1_000  # deciding prompts, beyond which no run has few of them
BEYOND = 9.0  # standard deviations of their number, beyond which no run lies
PHI = np.vectorize(NormalDist().cdf, otypes=[np.float64])


class Differing(NamedTuple):
    """What is taken for true of a difference of two rates.

    Attributes:
        share: Of prompts on which the two differ, in [0, 1].
        value: Mean difference over all prompts, at most `share` in size.
        square: Mean square difference over those that differ, in (0, 1].
    """

    share: float
    value: float
    square: float


class LossRule(NamedTuple):
    """How a gate decides on a difference.

    Attributes:
        margin: A lower end above minus this passes.
        fails_below: So does an upper end below this fail.
        level: Of the interval of the lower end.
        shared: Of that of the upper end.
        few: Deciding prompts from which on the interval is Student's t.
    """

    margin: float
    fails_below: float
    level: float
    shared: float
    few: int


def prompts_to_decide_few(truth: Differing, rule: LossRule, *, power: float) -> int | None:
    """The least number of prompts of which a new run decides with a chance of `power`.

    Args:
        truth: What the present run found, taken for true.
        rule: Of the gate.
        power: In (0, 1).

    Returns:
        At least 2; None where the chance stays below while up to 1,000 prompts differ, so that
        the variance tells the number.
    """
    most = min(MOST_PROMPTS, MANY / truth.share) if truth.share else MOST_PROMPTS
    if chance_to_decide(int(most), truth, rule) < power:
        return None
    return least(lambda m: chance_to_decide(m, truth, rule) >= power, 2)


def chance_to_decide(m: int, truth: Differing, rule: LossRule) -> float:
    """How likely a new run of m ≥ 2 prompts passes or fails.

    How many of them differ is binomial; the mean of those that do is taken for normal, and their
    spread for the true one.
    """
    most = min(m, math.ceil(m * truth.share + BEYOND * math.sqrt(m * truth.share)) + rule.few)
    k = np.arange(rule.few, most + 1)
    chance = _binomial(m, truth.share, most)
    by_share = sum(
        float(chance[few])
        for few in range(min(rule.few, most + 1))
        if hoeffding(few / m, m, rule.level)[1] < rule.margin
    )
    if not truth.share or not len(k):
        return by_share
    mean = truth.value / truth.share
    value, spread = k / m * mean, np.sqrt(k * max(truth.square - mean**2, 1e-12)) / m
    stderr = np.sqrt(np.maximum(k / m * truth.square - value**2, 0.0) / (m - 1))
    passes_from = -rule.margin + t_critical(rule.level, m - 1) * stderr
    fails_to = rule.fails_below - t_critical(rule.shared, m - 1) * stderr
    undecided = PHI((passes_from - value) / spread) - PHI((fails_to - value) / spread)
    return by_share + float(chance[rule.few :] @ (1 - np.maximum(undecided, 0.0)))


def _binomial(m: int, p: float, most: int) -> FloatArray:
    """(most + 1,) the chances of 0, 1, … `most` of m."""
    if p in {0.0, 1.0}:
        return np.where(np.arange(most + 1) == m * p, 1.0, 0.0)
    k = np.arange(most)
    steps = np.log((m - k) / (k + 1) * (p / (1 - p)))
    logs: FloatArray = m * math.log1p(-p) + np.concatenate([[0.0], np.cumsum(steps)])
    return np.exp(logs)
