"""Three states of a gate: passed, failed, or too few prompts to tell.

A state follows from where an interval lies, never from the value alone: "fail if lower" fails half
of all checkpoints that are no worse. Intervals are taken as a saved result holds them and brought
to the level a decision needs, by numpy and nothing heavier, so that CI judges a result in a moment.

Several rules, each of which must pass, err in two ways, and each end answers for one of them:

* the gate passes although one rule should not: no likelier than that rule's own error, however many
  there are (intersection-union; Berger 1982, Technometrics 24:295). Lower ends need no correction;
* the gate fails although no rule should: likelier with every rule. Upper ends share out the error
  (`shared_level`, Bonferroni). Holm could call further rules failed after a first one, never the
  gate. Where the columns themselves are at hand, `multiplicity.max_t_bands` gives narrower ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

State = Literal["pass", "fail", "inconclusive"]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
MOST_PROMPTS = 1e12  # a plan for more is none
FEW_DECIDING = 10  # prompts; of fewer, t intervals of a mean difference cover too little
NORMAL_FROM = 1e6  # degrees of freedom; Student's t is within 1e-6 of the normal from there on


class Interval(NamedTuple):
    """An `Estimate` as a saved result holds it, of the same fields and units."""

    value: float | None
    low: float | None
    high: float | None
    stderr: float | None
    level: float
    n: int
    clusters: int
    method: str


class Decision(NamedTuple):
    """A state, and why in a few words."""

    state: State
    why: str


def threshold_state(
    value: float | None, low: float | None, high: float | None, bound: float
) -> Decision:
    """Whether a value is surely at least `bound`, surely below it, or neither.

    Args:
        value: In any units.
        low: Lower end of its interval.
        high: Upper end.
        bound: Finite, in the same units.

    Returns:
        Pass if low ≥ bound, fail if high < bound, else inconclusive; so too where the value or an
        end is None or NaN.

    Raises:
        ValueError: A bound that is not finite, or ends in the wrong order.
    """
    if not math.isfinite(bound):
        raise ValueError(f"a bound is finite, not {bound}")
    if not (_is_number(value) and _is_number(low) and _is_number(high)):
        return Decision("inconclusive", "no interval")
    _check_order(low, high)
    if low is not None and low >= bound:
        return Decision("pass", f"surely at least {bound:g}")
    if high is not None and high < bound:
        return Decision("fail", f"surely below {bound:g}")
    return Decision("inconclusive", f"may be on either side of {bound:g}")


def regression_state(
    low: float | None, high: float | None, margin: float, *, strict: bool = False
) -> Decision:
    """Whether a paired difference to a baseline is surely no loss of `margin` or more.

    With `strict`, any sure loss fails, however small: if 0 and −margin both lie outside the
    interval, on either side of it, failing wins over passing.

    Args:
        low: Lower end of the interval of checkpoint − baseline.
        high: Upper end.
        margin: The loss that would matter, > 0, in the same units, declared beforehand.
        strict: Whether a loss smaller than the margin fails too.

    Returns:
        Fail if high < −margin (strict: high < 0), else pass if low > −margin, else inconclusive;
        so too where an end is None or NaN.

    Raises:
        ValueError: A margin that is not above 0, or ends in the wrong order.
    """
    if not 0 < margin < math.inf:
        raise ValueError(f"a margin is above 0, not {margin}")
    if not (_is_number(low) and _is_number(high)):
        return Decision("inconclusive", "no interval")
    _check_order(low, high)
    if high is not None and high < -margin:
        return Decision("fail", f"surely below {-margin:g}")
    if strict and high is not None and high < 0:
        return Decision("fail", "surely a loss, and the rule is strict")
    if low is not None and low > -margin:
        return Decision("pass", f"surely above {-margin:g}")
    return Decision("inconclusive", f"may be on either side of {-margin:g}")


def _is_number(x: float | None) -> bool:
    return x is not None and not math.isnan(x)


def _check_order(low: float | None, high: float | None) -> None:
    if low is not None and high is not None and low > high:
        raise ValueError(f"the interval ends before it begins: [{low}, {high}]")


def shared_level(level: float, decisions: int) -> float:
    """The level of each of so many intervals, of which all hold with a chance of `level`."""
    return 1 - (1 - level) / max(1, decisions)


def at_level(
    interval: Interval, level: float, *, bounded: bool
) -> tuple[float | None, float | None]:
    """The ends that the same rows would have had at another level.

    Each end moves by the ratio of the two quantiles of Student's t with clusters − 1 degrees of
    freedom, on the logit scale if bounded: exact for intervals of the kinds t and logit-t, to
    first order for BCa and means over subsets, whose asymmetry is kept. A betting interval does
    not tell another level's; there it is the wider of the saved one and Hoeffding's (`hoeffding`).

    Args:
        interval: As saved.
        level: Wanted, in (0, 1).
        bounded: Whether the value is a rate or probability; the ends then stay in [0, 1].

    Returns:
        Both ends; None where the interval has none, or fewer than two clusters.
    """
    value, low, high, _, saved, _, clusters, method = interval
    if value is None or low is None or high is None or clusters < 2:
        return None, None
    if math.isclose(level, saved, rel_tol=1e-12):
        return low, high
    if bounded and method == "betting":
        wider = hoeffding(value, clusters, level)
        return min(low, wider[0]), max(high, wider[1])
    ratio = t_critical(level, clusters - 1) / t_critical(saved, clusters - 1)
    if bounded and min(low, value) > 0 and max(high, value) < 1:
        centre = logit(value)
        moved = [logistic(centre + ratio * (logit(end) - centre)) for end in (low, high)]
    else:
        moved = [value + ratio * (end - value) for end in (low, high)]
    if ratio > 1:  # a bias correction may have put the value outside its interval
        moved = [min(low, moved[0]), max(high, moved[1])]
    return (max(0.0, moved[0]), min(1.0, moved[1])) if bounded else (moved[0], moved[1])


def hoeffding(rate: float, n: int, level: float) -> tuple[float, float]:
    """The interval {p : n·KL(rate‖p) ≤ ln(2/α)} of a mean of n independent values in [0, 1].

    Covers no less than it says, for any such values (Hoeffding 1963, JASA 58:13, theorem 1).

    Args:
        rate: Their mean, in [0, 1].
        n: At least 1.
        level: 1 − α, in (0, 1).

    Returns:
        Both ends, each wrong with a chance of at most α/2.
    """
    reach = math.log(2 / (1 - level)) / n
    return _farthest(rate, 0.0, reach), _farthest(rate, 1.0, reach)


def _farthest(rate: float, far: float, reach: float) -> float:
    """The first p from `rate` towards `far` that diverges by `reach`, on the safe side."""
    near = rate
    while abs(far - near) > 1e-12:
        middle = (near + far) / 2
        if divergence(rate, middle) <= reach:
            near = middle
        else:
            far = middle
    return far


def divergence(p: float, q: float) -> float:
    """KL(p‖q) of two coins in nats, p in [0, 1] and q in (0, 1)."""
    heads = p * math.log(p / q) if p else 0.0
    return heads + ((1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0.0)


def prompts_to_decide(
    interval: Interval,
    bound: float,
    *,
    level: float = 0.95,
    power: float | None = None,
    bounded: bool = False,
) -> int | None:
    """How many prompts would put the present value and spread surely on one side of `bound`.

    The least m whose interval at `level` (each end one-sided, at (1 + level)/2), by Student's t,
    leaves the bound out. Were the present value true, a new run of as many would decide in about
    half of all cases; with `power`, m is the number that decides so often.

    Args:
        interval: Value, standard error, prompts and clusters; clusters grow in step with prompts.
        bound: What is to be decided, in the units of the value.
        level: Of the interval to come, in (0, 1).
        power: Chance to decide, in (0, 1); None for the value staying exactly what it is.
        bounded: Whether it is made on the logit scale (value and bound in (0, 1)).

    Returns:
        At least 2; None if no number would (the value is the bound), or none can be told (no
        value, no spread, over 10¹²).
    """
    value, _, _, stderr, _, n, clusters, _ = interval
    if value is None or not stderr or clusters < 2 or value == bound:
        return None
    distance = abs(value - bound) / stderr
    if bounded and 0 < value < 1 and 0 < bound < 1:
        distance = abs(logit(value) - logit(bound)) * value * (1 - value) / stderr
    spare = 0.0 if power is None else NormalDist().inv_cdf(power)

    def decided(m: int) -> bool:
        beyond, df = distance * math.sqrt(m / n) - spare, m * clusters / n - 1
        return df > 0 and beyond > 0 and t_central(beyond, df) >= level

    ratio = (NormalDist().inv_cdf((1 + level) / 2) + spare) / distance
    if ratio >= math.sqrt(MOST_PROMPTS / n):
        return None
    return least(decided, max(2, math.ceil(n * ratio**2)))


def least(reached: Callable[[int], bool], guess: int) -> int:
    """The least number from 2 on for which a condition holds, and from which on it does.

    Where it comes and goes, one for which it holds and for the number below does not.
    """
    low, high = 1, guess
    while not reached(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def t_critical(level: float, df: float) -> float:
    """The t that Student's |T| stays below with a chance of `level`; within 1e-5 of itself."""
    low, high = 0.0, NormalDist().inv_cdf((1 + level) / 2)
    while t_central(high, df) < level:
        low, high = high, 2 * high
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if t_central(middle, df) >= level else (middle, high)
    return high


def t_central(t: float, df: float) -> float:
    """P(|T| ≤ t) of Student's t with df > 0.

    With T = √df·tan θ the density of θ is a power of cos θ; its integral is by Gauss and Legendre.
    """
    df = min(df, NORMAL_FROM)
    angle = math.atan(t / math.sqrt(df))
    area = angle / 2 * float(WEIGHTS @ np.cos(angle * (NODES + 1) / 2) ** (df - 1))
    return 2 * area * math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi)


def logit(p: float) -> float:
    """ln(p / (1 − p)), p in (0, 1)."""
    return math.log(p / (1 - p))


def logistic(x: float) -> float:
    """1 / (1 + e⁻ˣ), of any finite x."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
