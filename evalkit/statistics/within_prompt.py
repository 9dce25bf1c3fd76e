"""Rewards on a scale of the prompt: against the cached references of the same prompt.

Rewards of different prompts are not on one scale. What a reference pool adds is one: how many
standard deviations above it, or above which share of it, a reward lies. Each function gives a
per-prompt column for `intervals.mean`; a prompt without an answer has NaN there and is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from evalkit.data import FloatArray
from evalkit.statistics.outcomes import outcomes

ENOUGH_REFERENCES = 4  # for a standard deviation of the prompt's own


@dataclass(frozen=True, slots=True)
class Standardised:
    """Rewards in standard deviations of their prompt's reference pool.

    Attributes:
        z: (P,) in [-cap, cap]; NaN where it is undefined.
        capped: Share of the defined z that were beyond the cap; None if none is defined.
        pooled_sd: Root of the mean within-prompt variance of the pool, in reward-model units; None
            if no prompt has two references.
        few: Prompts with a reward and 1 to 3 references, for which the pooled sd stands in.
        undefined: Prompts without a z: no reward, no reference, or no spread to measure by.
    """

    z: FloatArray
    capped: float | None
    pooled_sd: float | None
    few: int
    undefined: int


@dataclass(frozen=True, slots=True)
class Location:
    """Where a column of rewards lies, whatever its tails do; None for an empty column."""

    median: float | None
    trimmed_mean: float | None
    n: int


def standardise(
    rewards: FloatArray, pool: FloatArray, *, prior: float = 4.0, cap: float = 5.0
) -> Standardised:
    """Reward minus the mean of the prompt's pool, over the sd of the pool.

    The sd of a prompt is shrunk to the pooled one as if that were known from `prior` degrees of
    freedom: sd² = (ν·sd0² + (R−1)·sd_i²) / (ν + R−1), with sd0² the mean of the prompts' variances
    weighted by R−1. With fewer than 4 references it is sd0. A sd of zero makes z undefined: a
    floor under it would make a made-up number of it.

    Args:
        rewards: (P,) in reward-model units; NaN has no z.
        pool: (P, R) rewards of the references; NaN where a prompt has fewer than R.
        prior: ν ≥ 0; 0 takes each prompt's own sd, 4 weighs as much as the 5 references of a
            usual pool.
        cap: z beyond it, on either side, is set to it; > 0.

    Returns:
        The column and its counts. Invariant under s → a·s + b, a > 0, of rewards and pool
        together; s → −s turns every z round.

    Raises:
        ValueError: Infinity, a pool of other prompts than the rewards, ν < 0 or a cap ≤ 0.
    """
    _check(rewards, pool)
    if not (0 <= prior < math.inf and cap > 0):
        raise ValueError(f"a prior ≥ 0 and a cap > 0 are needed, got {prior} and {cap}")
    known = ~np.isnan(pool)
    size = known.sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0/0: no reference, no mean
        mean = np.where(known, pool, 0.0).sum(axis=1) / size
    squares = (np.where(known, pool - mean[:, None], 0.0) ** 2).sum(axis=1)
    equal = np.where(known, pool, -np.inf).max(axis=1, initial=-np.inf) == np.where(
        known, pool, np.inf
    ).min(axis=1, initial=np.inf)
    squares[equal] = 0.0  # not the rounding error of a mean of equal numbers
    freedom = np.maximum(size - 1, 0)
    total = int(freedom.sum())
    pooled = float(squares.sum()) / total if total else math.nan
    with np.errstate(invalid="ignore"):
        shrunk = (prior * pooled + squares) / (prior + freedom)
    variance = np.where(size >= ENOUGH_REFERENCES, shrunk, pooled)
    sd = np.sqrt(np.where(variance > 0, variance, np.nan))
    z = (rewards - mean) / sd
    defined = ~np.isnan(z)
    beyond = np.abs(z) > cap
    return Standardised(
        z=np.clip(z, -cap, cap),
        capped=float(beyond.sum() / defined.sum()) if defined.any() else None,
        pooled_sd=math.sqrt(pooled) if total else None,
        few=int(np.sum((size > 0) & (size < ENOUGH_REFERENCES) & ~np.isnan(rewards))),
        undefined=int(len(z) - defined.sum()),
    )


def pool_percentile(rewards: FloatArray, pool: FloatArray, *, tie: float = 0.0) -> FloatArray:
    """(#{references below} + ½·#{equal}) / R: the mean win rate against the prompt's pool.

    Args:
        rewards: (P,) in reward-model units; NaN has no percentile.
        pool: (P, R); NaN where a prompt has fewer than R references.
        tie: |difference| ≤ tie is equal, in reward-model units.

    Returns:
        (P,) in [0, 1]; NaN without a reward or a reference. Any increasing map of the rewards
        leaves it (for tie = 0); turning all signs gives 1 − it.

    Raises:
        ValueError: Infinity, or a pool of other prompts than the rewards.
    """
    _check(rewards, pool)
    won = outcomes(np.asarray(rewards)[:, None] - pool, tie=tie)
    known = ~np.isnan(won)
    with np.errstate(invalid="ignore"):  # 0/0: nothing to compare with
        percentile: FloatArray = np.where(known, won, 0.0).sum(axis=1) / known.sum(axis=1)
    return percentile


def _check(rewards: FloatArray, pool: FloatArray) -> None:
    if rewards.ndim != 1 or pool.ndim != 2 or len(pool) != len(rewards):
        raise ValueError(f"one row of pool a reward, got {rewards.shape} and {pool.shape}")
    if np.any(np.isinf(rewards)) or np.any(np.isinf(pool)):
        raise ValueError("infinity among the rewards; decide about those rows first")


def medians(pool: FloatArray) -> FloatArray:
    """Median of each row.

    Args:
        pool: (P, R) such as the completions or references of a prompt; NaN where there is none.

    Returns:
        (P,); NaN for a row without a value.
    """
    return trimmed_means(pool, share=0.5)


def trimmed_means(pool: FloatArray, *, share: float = 0.1) -> FloatArray:
    """Mean of each row without ⌊share·R⌋ of its R values at either end.

    Args:
        pool: (P, R); NaN where a row has fewer values.
        share: In [0, ½]; ½ is the median.

    Returns:
        (P,); NaN for a row without a value.

    Raises:
        ValueError: A share outside [0, ½].
    """
    if not 0 <= share <= 0.5:
        raise ValueError(f"a share from 0 to 0.5 can be cut at either end, got {share}")
    values = np.sort(pool, axis=1)  # NaN last
    size = (~np.isnan(values)).sum(axis=1)
    # at ½ the middle one or two are left, never none
    cut = np.minimum((share * size).astype(np.int64), np.maximum(size - 1, 0) // 2)
    place = np.arange(values.shape[1])
    kept = (place >= cut[:, None]) & (place < (size - cut)[:, None])
    with np.errstate(invalid="ignore"):  # 0/0: a row without a value
        means: FloatArray = np.where(kept, values, 0.0).sum(axis=1) / kept.sum(axis=1)
    return means


def robust_location(column: FloatArray) -> Location:
    """Median and 10 % trimmed mean of a column, to stand beside its mean.

    Args:
        column: (n,) finite.

    Returns:
        Both in the column's unit.

    Raises:
        ValueError: NaN or infinity.
    """
    if not np.all(np.isfinite(column)):
        raise ValueError("the column holds NaN or infinity; decide about those rows first")
    if len(column) == 0:
        return Location(None, None, 0)
    row = np.asarray(column, dtype=np.float64)[None, :]
    return Location(float(medians(row)[0]), float(trimmed_means(row)[0]), len(column))


def noise_band(repeats: FloatArray) -> float:
    """A tie band τ from a reward model's own noise: the widest range of one conversation's rewards.

    Two rewards of one conversation differ by noise alone, as the margin of two equally good
    completions would. Let |margin| ≤ τ be a tie, and none of the n conversations seen would have
    won against itself; that the next one would has a chance of 1/(n+1) at most, as it is no
    likelier than any other to be the widest. A quantile would be smaller and would let by
    construction some noise decide; the noise of bfloat16 grows with the reward, so take
    conversations like those to be compared.

    Args:
        repeats: (n, m) rewards of n conversations, each scored m ≥ 2 times, such as alone and in
            batches of other sizes; finite, reward-model units. More than two scorings widen τ.

    Returns:
        τ ≥ 0, for the `tie` of `outcomes`; 0 where every repeat agrees to the last bit.

    Raises:
        ValueError: No conversation, fewer than two scorings, NaN or infinity.
    """
    if repeats.ndim != 2 or repeats.shape[0] < 1 or repeats.shape[1] < 2:
        raise ValueError(f"(n, 2) or more scorings are needed, got {repeats.shape}")
    if not np.all(np.isfinite(repeats)):
        raise ValueError("the scorings hold NaN or infinity; a failure is not noise")
    return float(np.ptp(repeats, axis=1).max())
