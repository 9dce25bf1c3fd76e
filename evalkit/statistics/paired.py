"""Two per-prompt columns on the same prompts: how far apart they are.

`paired_difference` is the answer to "by how much is A better on average". The other tests answer
other questions, each named in its docstring, and may disagree with it in size and even in sign:

* `permutation_p`: the mean difference again, without a distributional assumption;
* `mcnemar`: which side wins outright more often where the two disagree;
* `sign_test`: which side is ahead on more prompts, by however little;
* `wilcoxon`: whether the differences lie symmetrically about zero, by their ranks.

Everywhere: equal columns give p = 1; what cannot be known is None; NaN and infinity are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import bdtr, chdtrc, stdtr

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.clusters import clustering
from evalkit.statistics.intervals import Estimate, mean
from evalkit.statistics.resampling import BLOCK_CELLS, Keys, splitmix64

EXACT_CLUSTERS = 20  # 2^20 sign patterns are listed, beyond that drawn
SIGN_STREAM = np.uint64(1 << 63)  # counters the bootstrap weights never reach


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean difference of two columns on the same prompts, and what surrounds it.

    Attributes:
        estimate: Mean of a − b, in the units of the columns, with its t (or BCa) interval.
        t: estimate / standard error; None without a positive standard error.
        p: Of the two-sided t test that the mean difference is 0, df = clusters − 1; 1 if all
            differences are 0; None where `t` is undefined otherwise.
        stderr_unpaired: What the standard error would be had other prompts been used for b.
        correlation: Pearson's, of the two columns over prompts; None if one of them is constant.
        effect_size: d_z, the mean difference in standard deviations (over prompts) of the
            difference; None with one prompt or no spread.
        superiority: Share of prompts on which a is ahead, level ones counted half, in [0, 1].
    """

    estimate: Estimate
    t: float | None
    p: float | None
    stderr_unpaired: float | None
    correlation: float | None
    effect_size: float | None
    superiority: float | None


class McNemar(NamedTuple):
    """Prompts that one side alone wins, and both forms of McNemar's test.

    Attributes:
        a_only: Prompts a wins and b loses.
        b_only: The reverse.
        p: Exact, two-sided binomial; 1 if nothing is discordant, None without rows.
        chi2: With continuity correction, 1 df; None if nothing is discordant.
        p_chi2: Its p-value, 1 and None like `p`.
    """

    a_only: int
    b_only: int
    p: float | None
    chi2: float | None
    p_chi2: float | None


class SignTest(NamedTuple):
    """Prompts on which either side is ahead, and the exact two-sided p (None without rows)."""

    positive: int
    negative: int
    p: float | None


class Wilcoxon(NamedTuple):
    """The smaller of the two signed rank sums and its two-sided p (both None without rows)."""

    statistic: float | None
    p: float | None


def paired_difference(
    a: FloatArray,
    b: FloatArray,
    *,
    level: float = 0.95,
    clusters: IntArray | None = None,
    keys: Keys | None = None,
    resamples: int = 0,
    seed: int = 0,
) -> PairedDifference:
    """Estimand: the mean over prompts of a − b.

    Paired t with the CR1 standard error and C − 1 degrees of freedom; both columns of any units,
    the same for both. A spread of the differences within the rounding of the subtraction is none.

    Args:
        a: (n,) finite, one value a prompt.
        b: (n,) finite, the same prompts in the same order.
        level: Nominal coverage, in (0, 1).
        clusters: (n,) cluster of each prompt; each its own if None.
        keys: (n,) bootstrap keys, equal within a cluster; needed for resamples.
        resamples: Bootstrap draws of a BCa interval; 0 for the t interval.
        seed: Of the keys; recorded.

    Raises:
        ValueError: Columns of different shape, NaN or infinity, a level outside (0, 1), resamples
            without keys.
    """
    a, b = _paired(a, b)
    d = _difference(a, b)
    estimate = mean(
        d, bounded=False, level=level, clusters=clusters, keys=keys, resamples=resamples, seed=seed
    )
    t, p = _t_test(estimate, equal=not d.any())
    sides = [mean(x, bounded=False, clusters=clusters).stderr for x in (a, b)]
    return PairedDifference(
        estimate=estimate,
        t=t,
        p=p,
        stderr_unpaired=math.hypot(*filter(None, sides)) if estimate.clusters > 1 else None,
        correlation=_correlation(a, b),
        effect_size=_effect_size(d),
        superiority=float(np.mean(d > 0) + np.mean(d == 0) / 2) if len(d) else None,
    )


def _finite(column: FloatArray) -> FloatArray:
    column = np.asarray(column, dtype=np.float64)
    if column.ndim != 1:
        raise ValueError(f"a column has one dimension, not {column.ndim}")
    if not np.all(np.isfinite(column)):
        raise ValueError("the column holds NaN or infinity; decide about those rows first")
    return column


def _paired(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    if np.shape(a) != np.shape(b):
        raise ValueError(f"paired columns have equal lengths, not {len(a)} and {len(b)}")
    return _finite(a), _finite(b)


def _difference(a: FloatArray, b: FloatArray) -> FloatArray:
    d = a - b
    if not len(d):
        return d
    noise = 4 * np.finfo(np.float64).eps * max(np.abs(a).max(), np.abs(b).max())
    if np.ptp(d) > noise:
        return d
    # 0.3 − 0.2 and 0.2 − 0.1 differ by rounding alone, of which no standard error can be made
    constant = float(np.median(d))
    return np.full(len(d), constant if abs(constant) > noise else 0.0)


def _t_test(estimate: Estimate, *, equal: bool) -> tuple[float | None, float | None]:
    if estimate.value is not None and estimate.stderr:
        t = estimate.value / estimate.stderr
        return t, 2 * float(stdtr(estimate.clusters - 1, -abs(t)))
    return None, 1.0 if equal and estimate.n else None


def _correlation(a: FloatArray, b: FloatArray) -> float | None:
    if len(a) < 2 or not np.ptp(a) or not np.ptp(b):
        return None
    x, y = ((c - c.mean()) / np.ptp(c) for c in (a, b))  # scaled, so that no square underflows
    return float(np.clip((x @ y) / math.sqrt((x @ x) * (y @ y)), -1, 1))


def _effect_size(d: FloatArray) -> float | None:
    spread = float(np.std(d, ddof=1)) if len(d) > 1 and np.ptp(d) else 0.0
    return float(d.mean()) / spread if spread else None


def permutation_p(
    differences: FloatArray,
    *,
    clusters: IntArray | None = None,
    keys: Keys | None = None,
    draws: int = 20_000,
) -> float | None:
    """Estimand: the mean difference, tested by swapping a and b within whole clusters.

    The null is that every cluster's differences might as well have the other sign. The statistic
    is |Σ difference|; up to 20 clusters of non-zero sum all sign patterns are listed, beyond that
    p = (1 + #{as extreme}) / (1 + draws) with signs that depend on key and draw alone, so that row
    order and shards do not matter. A pattern level with the observed one counts as extreme.

    Args:
        differences: (n,) a − b, finite, any units.
        clusters: (n,) cluster of each prompt; each its own if None.
        keys: (n,) keys, equal within a cluster, seed included; needed to draw.
        draws: Sign patterns drawn, ≥ 1.

    Returns:
        The two-sided p in (0, 1], 1 if all differences are 0; None without rows.

    Raises:
        ValueError: NaN or infinity, draws below 1, more than 20 clusters without keys.
    """
    if draws < 1:
        raise ValueError(f"draws are at least 1, not {draws}")
    if not len(d := _finite(differences)):
        return None
    grouped = clustering(len(d), clusters)
    sums = grouped.sums(d)
    moved = sums != 0  # whatever its sign, a sum of 0 changes nothing
    sums = sums[moved]
    least = abs(float(sums.sum())) - 1e-12 * float(np.abs(sums).sum())  # up to rounding of sums
    if len(sums) <= EXACT_CLUSTERS:
        return float(np.mean(np.abs(_all_signed_sums(sums)) >= least))
    if keys is None:
        raise ValueError(f"more than {EXACT_CLUSTERS} clusters need the keys of the rows")
    blocks = _signed_sums(sums, keys[grouped.first][moved], draws)
    extreme = sum(int(np.count_nonzero(np.abs(block) >= least)) for block in blocks)
    return (1 + extreme) / (1 + draws)


def _all_signed_sums(sums: FloatArray) -> FloatArray:
    totals = np.zeros(1)
    for s in sums:
        totals = np.concatenate([totals + s, totals - s])
    return totals


def _signed_sums(sums: FloatArray, keys: Keys, draws: int) -> Iterator[FloatArray]:
    per_block = max(1, BLOCK_CELLS // (64 * len(sums)))
    words = -(-draws // 64)
    for start in range(0, words, per_block):
        word = np.arange(start, min(words, start + per_block), dtype=np.uint64) | SIGN_STREAM
        mixed = splitmix64(keys[None, :] ^ splitmix64(word)[:, None])
        bits = (((mixed >> np.uint64(i)) & np.uint64(1)).astype(np.float64) for i in range(64))
        kept = np.stack([bit @ sums for bit in bits], axis=1).ravel()[: draws - 64 * start]
        yield 2 * kept - sums.sum()


def mcnemar(a_outcomes: FloatArray, b_outcomes: FloatArray) -> McNemar:
    """Estimand: among prompts that one side wins and the other loses, the share that a wins.

    A value above ½ is a win, below ½ a loss; prompts where either side draws (exactly ½) and those
    with equal verdicts say nothing. Every prompt is a unit of its own.

    Args:
        a_outcomes: (n,) in [0, 1], outcomes or win probabilities.
        b_outcomes: (n,) the same prompts in the same order.

    Returns:
        The continuity correction stops at 0: equal counts give χ² = 0 (statsmodels: 1/count).

    Raises:
        ValueError: Columns of different shape, NaN, or a value outside [0, 1].
    """
    a, b = _paired(a_outcomes, b_outcomes)
    if any(np.any((x < 0) | (x > 1)) for x in (a, b)):
        raise ValueError("outcomes lie in [0, 1]")
    a_only = int(np.count_nonzero((a > 0.5) & (b < 0.5)))
    b_only = int(np.count_nonzero((b > 0.5) & (a < 0.5)))
    if not len(a):
        return McNemar(0, 0, None, None, None)
    if not a_only + b_only:
        return McNemar(0, 0, 1.0, None, 1.0)
    chi2 = max(0, abs(a_only - b_only) - 1) ** 2 / (a_only + b_only)
    return McNemar(a_only, b_only, _coin_p(a_only, b_only), chi2, float(chdtrc(1, chi2)))


def sign_test(differences: FloatArray) -> SignTest:
    """Estimand: among prompts on which the two differ at all, the share on which a is ahead.

    By however little: a checkpoint worse on average can be ahead by a hair almost everywhere.
    Differences of exactly 0 are left out; every prompt is a unit of its own.

    Args:
        differences: (n,) a − b, any units; NaN and infinity raise ValueError.

    Returns:
        Counts and the exact two-sided binomial p against ½; 1 if all differences are 0.
    """
    d = _finite(differences)
    positive, negative = int(np.count_nonzero(d > 0)), int(np.count_nonzero(d < 0))
    return SignTest(positive, negative, _coin_p(positive, negative) if len(d) else None)


def _coin_p(heads: int, tails: int) -> float:
    return min(1.0, 2 * float(bdtr(min(heads, tails), heads + tails, 0.5)))


def wilcoxon(differences: FloatArray) -> Wilcoxon:
    """Estimand: the pseudo-median of the differences, 0 if they lie symmetrically about zero.

    Signed ranks, by scipy. Differences of exactly 0 take part in the ranking, then leave (Pratt
    1959, JASA 54:655); tied ranks are averaged. Every prompt is a unit of its own.

    Args:
        differences: (n,) a − b, any units; NaN and infinity raise ValueError.

    Returns:
        Statistic and two-sided p; 0 and 1 if all differences are 0.
    """
    d = _finite(differences)
    if not len(d):
        return Wilcoxon(None, None)
    if not d.any():
        return Wilcoxon(0.0, 1.0)
    from scipy import stats

    found = stats.wilcoxon(d, zero_method="pratt")
    return Wilcoxon(float(found.statistic), float(found.pvalue))
