"""The mean of a per-prompt column with its standard error and interval.

Every headline number of evalkit is such a mean. The default method follows measured coverage:

* a column in [0, 1]: logit-t (delta method on the logit, t quantile); where that is unreliable
  (under 50 clusters, a mean within 3 standard errors of 0 or 1, no variance) the betting interval
  of Waudby-Smith and Ramdas (2024, JRSS-B 86:1), which never covers less than it says;
* an unbounded column: Student's t;
* with resamples asked for: BCa (Efron 1987) on keyed bootstrap weights.

Standard errors are clustered (CR1); with one row a cluster that is the ordinary one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import betaincinv, ndtr, ndtri, stdtrit

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.clusters import clustering
from evalkit.statistics.gates import logistic, logit
from evalkit.statistics.resampling import MANY_CLUSTERS, Keys, bootstrap_means, grouped

Method = Literal["logit-t", "betting", "t", "bca", "wilson", "cumulants", "undefined"]

FEW_CLUSTERS = 50
NEAR_THE_EDGE = 3.0  # standard errors


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, how sure it is, and how both were made.

    Attributes:
        value: None where nothing was averaged.
        low: Lower end of the interval; None where it is undefined, never a made-up number.
        high: Upper end.
        stderr: Clustered standard error; None for fewer than two clusters.
        level: Nominal coverage, such as 0.95.
        n: Rows averaged.
        clusters: Independent units among them.
        method: How the interval was made.
        resamples: Bootstrap draws behind it, 0 if none.
        seed: Of the resamples.
    """

    value: float | None
    low: float | None
    high: float | None
    stderr: float | None
    level: float
    n: int
    clusters: int
    method: Method
    resamples: int = 0
    seed: int = 0


class _Clusters(NamedTuple):
    """Sums and sizes of the C clusters of a column, and what follows from them."""

    sums: FloatArray
    sizes: FloatArray
    keys: Keys | None
    constant: bool

    @property
    def value(self) -> float:
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def deviations(self) -> FloatArray:
        return self.sums - self.value * self.sizes

    @property
    def stderr(self) -> float | None:
        c = len(self.sums)
        if c < 2:
            return None
        if self.constant:
            return 0.0  # not the rounding error of a mean of equal numbers
        return math.sqrt(float(np.sum(self.deviations**2)) * c / (c - 1)) / float(self.sizes.sum())


def mean(
    column: FloatArray,
    *,
    bounded: bool,
    level: float = 0.95,
    clusters: IntArray | None = None,
    keys: Keys | None = None,
    resamples: int = 0,
    seed: int = 0,
) -> Estimate:
    """Mean of a column with a confidence interval.

    Args:
        column: (n,) float64, finite; in [0, 1] if `bounded`.
        bounded: Whether the column is of rates or probabilities.
        level: Nominal coverage, in (0, 1).
        clusters: (n,) cluster of each row; each row its own if None.
        keys: (n,) bootstrap keys, equal within a cluster; needed for resamples.
        resamples: Bootstrap draws; 0 for the analytic interval.
        seed: Of the keys; recorded.

    Returns:
        The estimate; without rows all of it is None. With one cluster or no variance an unbounded
        mean has no interval, nor a bounded one over clusters of unequal size, to which the
        betting interval does not apply.

    Raises:
        ValueError: A value that is not finite, or outside [0, 1] although bounded; a level
            outside (0, 1).
    """
    check_level(level)
    if not np.all(np.isfinite(column)):
        raise ValueError("the column holds NaN or infinity; decide about those rows first")
    if bounded and len(column) and not (column.min() >= 0 and column.max() <= 1):
        raise ValueError("a bounded column must lie in [0, 1]")
    if len(column) == 0:
        return Estimate(None, None, None, None, level, 0, 0, "undefined", 0, seed)
    units = _group(column, clusters, keys)
    method, low, high = _interval(units, bounded=bounded, level=level, resamples=resamples)
    return Estimate(
        value=units.value,
        low=low,
        high=high,
        stderr=units.stderr,
        level=level,
        n=len(column),
        clusters=len(units.sums),
        method=method,
        resamples=resamples if method == "bca" else 0,
        seed=seed,
    )


def check_level(level: float) -> None:
    """ValueError unless a nominal coverage lies in (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"the level must lie between 0 and 1, got {level}")


def defined(x: float) -> float | None:
    """None for NaN: what is undefined is no number."""
    return None if math.isnan(x) else float(x)


def _group(column: FloatArray, clusters: IntArray | None, keys: Keys | None) -> _Clusters:
    constant = bool(column.min() == column.max())
    if clusters is None:
        return _Clusters(column, np.ones(len(column)), keys, constant)
    units = clustering(len(column), clusters)
    keys = None if keys is None else keys[units.first]
    return _Clusters(units.sums(column), units.sizes, keys, constant)


def _interval(
    units: _Clusters, *, bounded: bool, level: float, resamples: int
) -> tuple[Method, float | None, float | None]:
    spread = units.stderr
    if resamples and spread:
        return ("bca", *_bca(units, spread, level, resamples))
    if bounded:
        value = units.value
        edge = min(value, 1 - value)
        even = np.ptp(units.sizes) == 0
        shaky = len(units.sums) < FEW_CLUSTERS or not spread or edge < NEAR_THE_EDGE * spread
        if shaky and even:
            return ("betting", *_betting(units.sums / units.sizes, level))
        if spread and edge > 0:
            return ("logit-t", *_logit_t(value, spread, len(units.sums), level))
        return "undefined", None, None
    if not spread:
        return "undefined", None, None
    half = _t_quantile(len(units.sums), level) * spread
    return "t", units.value - half, units.value + half


def _t_quantile(clusters: int, level: float) -> float:
    return float(stdtrit(clusters - 1, (1 + level) / 2))


def _logit_t(value: float, stderr: float, clusters: int, level: float) -> tuple[float, float]:
    centre = logit(value)
    half = _t_quantile(clusters, level) * stderr / (value * (1 - value))
    return logistic(centre - half), logistic(centre + half)


def _bca(units: _Clusters, spread: float, level: float, resamples: int) -> tuple[float, float]:
    if units.keys is None:
        raise ValueError("resampling needs the keys of the rows")
    draws = _draws(units, spread, resamples)
    equal = np.abs(draws - units.value) <= 1e-9 * spread  # up to the rounding of sums
    below = np.mean((draws < units.value) & ~equal) + np.mean(equal) / 2
    limit = 0.5 / len(draws)
    bias = float(ndtri(np.clip(below, limit, 1 - limit)))
    deviations = units.deviations
    skew = float(np.sum(deviations**3) / (6 * np.sum(deviations**2) ** 1.5))
    z = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(draws, ndtr(bias + z / (1 - skew * z)))
    return float(low), float(high)


def _draws(units: _Clusters, spread: float, resamples: int) -> FloatArray:
    """Bootstrap means; of very many clusters those of random groups, at the clusters' spread."""
    keys = np.empty(0, np.uint64) if units.keys is None else units.keys
    if len(units.sums) <= MANY_CLUSTERS:
        return bootstrap_means(units.sums, units.sizes, keys, resamples)
    sums, sizes, keys = grouped(units.sums, units.sizes, keys)
    of_groups = _Clusters(sums, sizes, keys, units.constant)
    draws = bootstrap_means(sums, sizes, keys, resamples)
    return units.value + (draws - units.value) * (spread / (of_groups.stderr or spread))


def wilson_ends(
    rate: FloatArray, n: IntArray, *, level: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """Wilson's score intervals of rates (1927, JASA 22:209), for counts that are not clustered.

    Args:
        rate: (k,) in [0, 1]; ties may count one half.
        n: (k,) trials.
        level: Nominal coverage, in (0, 1).

    Returns:
        (k,) lower and upper ends in [0, 1]; NaN without a trial.
    """
    z = float(ndtri((1 + level) / 2))
    rows = np.where(n > 0, n, np.nan)
    centre = rate + z**2 / (2 * rows)
    half = z * np.sqrt(rate * (1 - rate) / rows + (z / (2 * rows)) ** 2)
    scale = 1 + z**2 / rows
    # a rate is never outside, not by rounding either
    return np.clip((centre - half) / scale, 0.0, rate), np.clip((centre + half) / scale, rate, 1.0)


def wilson(successes: float, n: int, *, level: float = 0.95) -> tuple[float, float] | None:
    """One of them, from a count; None without a trial."""
    if n < 1:
        return None
    low, high = wilson_ends(np.array([successes / n]), np.array([n]), level=level)
    return float(low[0]), float(high[0])


def clopper_pearson(successes: int, n: int, *, level: float = 0.95) -> tuple[float, float] | None:
    """The exact interval of a rate (1934, Biometrika 26:404): it covers no less than it says.

    Args:
        successes: Whole, in [0, n].
        n: Trials.
        level: Nominal coverage, in (0, 1).

    Returns:
        Both ends in [0, 1]; None without a trial.
    """
    if n < 1:
        return None
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return low, high


def _betting(values: FloatArray, level: float) -> tuple[float, float]:
    """Hedged-capital interval (Waudby-Smith and Ramdas 2024, section 4.2) for a mean in [0, 1].

    Two gamblers bet against each candidate mean, one that it is too low, one that it is too high;
    a candidate against which either gets rich, by a factor 2/α, is out. The bets need rows in an
    order that knows nothing of them: they are sorted, so that the file's order does not matter,
    and shuffled by a generator of fixed seed. A mean above ½ is looked at from the other side, so
    that swapping checkpoint and reference mirrors the interval.
    """
    if values.mean() > 0.5:
        low, high = _betting(1 - values, level)
        return 1 - high, 1 - low
    alpha = 1 - level
    x = np.random.default_rng(0).permutation(np.sort(values))
    n = len(x)
    steps = np.arange(1, n + 1)
    centre = (0.5 + np.cumsum(x)) / (steps + 1)
    variance = (0.25 + np.cumsum((x - centre) ** 2)) / (steps + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    stake = np.sqrt(2 * math.log(2 / alpha) / (n * before))
    rich = math.log(2 / alpha)

    def too_low(m: float) -> float:
        return float(np.sum(np.log1p(np.minimum(stake, 0.5 / m) * (x - m)))) - rich

    def too_high(m: float) -> float:
        return float(np.sum(np.log1p(-np.minimum(stake, 0.5 / (1 - m)) * (x - m)))) - rich

    return _edge(too_low, falls=True), _edge(too_high, falls=False)


def _edge(log_wealth: Callable[[float], float], *, falls: bool) -> float:
    """Where a monotone function of m in (0, 1) crosses zero, on the safe side by 1e-9."""
    low, high = 1e-12, 1 - 1e-12
    if log_wealth(low if falls else high) < 0:
        return 0.0 if falls else 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if (log_wealth(middle) >= 0) == falls:
            low = middle
        else:
            high = middle
    return low if falls else high
