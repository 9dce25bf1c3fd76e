"""What a paired test of so many prompts can find, and how many prompts find what is looked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from scipy.special import ncfdtr, ndtri, stdtrit

from evalkit.statistics.intervals import check_level


def minimum_detectable_effect(
    stderr: float, *, level: float = 0.95, power: float = 0.8, df: float | None = None
) -> float:
    """The true mean difference that a two-sided test of this standard error finds so often.

    Args:
        stderr: Of the mean difference, ≥ 0, in its units.
        level: 1 − α, in (0, 1).
        power: Chance to reject, above α and below 1.
        df: Degrees of freedom, > 0, for the exact power of the t test (noncentral t, both tails);
            None for (z_{1−α/2} + z_power) · stderr, which leaves out rejections on the wrong side.

    Returns:
        The effect, ≥ 0, in the units of `stderr`; an argument outside its range raises ValueError.
    """
    if not (math.isfinite(stderr) and stderr >= 0):
        raise ValueError(f"a standard error is finite and not negative, not {stderr}")
    _check_power(level, power)
    if df is None:
        return _normal_shift(level, power) * stderr
    if not (math.isfinite(df) and df > 0):
        raise ValueError(f"degrees of freedom are finite and positive, not {df}")

    def enough(shift: float) -> bool:
        return _t_power(shift, df, level) >= power

    return stderr * _crossing(enough, 0.0, _normal_shift(level, power))


def prompts_needed(
    delta: float,
    variance: float,
    *,
    within: Sequence[tuple[float, int]] = (),
    level: float = 0.95,
    power: float = 0.8,
    exact: bool = True,
) -> float:
    """How many prompts a two-sided paired test needs to find a true mean difference so often.

    The variance of a per-prompt difference of means over completions is w² + s_A²/K_A + s_B²/K_B:
    more completions a prompt cut the last two terms only. Without `exact` the answer is
    n = (z_{1−α/2} + z_power)² · (w² + s_A²/K_A + s_B²/K_B) / delta²; with it, the n at which the
    t test with n − 1 degrees of freedom has that power (noncentral t, both tails).

    Args:
        delta: The difference to find, not 0, in the units of the columns.
        variance: w², the variance of the true differences between prompts; or, with `within`
            empty, that of the differences as measured.
        within: (s², K) of each side: variance between completions of one prompt, and completions
            a prompt, K ≥ 1.
        level: 1 − α, in (0, 1).
        power: Chance to reject, above α and below 1.
        exact: Whether to use Student's t.

    Returns:
        A real number, at least 2, for curves; round it up for a plan. An argument outside its
        range raises ValueError.
    """
    if not (math.isfinite(delta) and delta):
        raise ValueError(f"the difference to find is finite and not 0, not {delta}")
    if not all(math.isfinite(v) and v >= 0 for v in (variance, *(s for s, _ in within))):
        raise ValueError("variances are finite and not negative")
    if any(k < 1 for _, k in within):
        raise ValueError("there is at least one completion a prompt")
    _check_power(level, power)
    ratio = (variance + sum(s / k for s, k in within)) / delta**2
    normal = max(2.0, _normal_shift(level, power) ** 2 * ratio)
    if not exact or not ratio:
        return normal

    def enough(n: float) -> bool:
        return _t_power(math.sqrt(n / ratio), n - 1, level) >= power

    return _crossing(enough, 2.0, normal)


def _check_power(level: float, power: float) -> None:
    check_level(level)
    if not 1 - level < power < 1:
        raise ValueError(f"the power must lie between {1 - level:g} and 1, got {power}")


def _normal_shift(level: float, power: float) -> float:
    return float(ndtri((1 + level) / 2) + ndtri(power))


def _t_power(shift: float, df: float, level: float) -> float:
    """Chance that |T| exceeds the critical value, T noncentral t: T² is noncentral F."""
    critical = float(stdtrit(df, (1 + level) / 2))
    below = float(ncfdtr(1, df, shift**2, critical**2))
    return 1.0 if math.isnan(below) else 1 - below  # NaN where it is too small for a float


def _crossing(reached: Callable[[float], bool], low: float, high: float) -> float:
    """The least number above `low` from which on a condition holds; `high` is a first guess."""
    while not reached(high):
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
