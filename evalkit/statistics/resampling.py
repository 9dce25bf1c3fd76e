"""Keyed bootstrap weights: the weight of a prompt depends on its key and the resample alone.

So weights agree between columns, shards, row orders and runs weeks apart, and every difference of
two means taken with them is paired exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

from evalkit.data import FloatArray

Keys = npt.NDArray[np.uint64]

# How many of 256 equally likely bytes stand for the weights 0..5: mean and variance exactly 1, as
# a Poisson bootstrap has, with a third moment of 4.98 (Poisson: 5).
BYTES_PER_WEIGHT = (94, 95, 46, 16, 4, 1)
WEIGHTS = np.repeat(np.arange(6, dtype=np.float64), BYTES_PER_WEIGHT)
BLOCK_CELLS = 1 << 20
# beyond so many clusters, 8,192 groups of them are drawn instead, told by the keys' first 13 bits
MANY_CLUSTERS = 20_000
GROUP_BITS = 13


def splitmix64(x: Keys) -> Keys:
    """Steele, Lea and Flood's 64-bit mixer (OOPSLA 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def weight_blocks(keys: Keys, resamples: int) -> Iterator[FloatArray]:
    """Weights of every key in every resample, a block of resamples at a time.

    Args:
        keys: (n,) one 64-bit key a prompt (or cluster), seed included.
        resamples: B.

    Yields:
        (b, n) float64 weights in 0..5, Σb = B.
    """
    per_block = max(1, BLOCK_CELLS // max(1, 8 * len(keys)))
    words = -(-resamples // 8)
    for start in range(0, words, per_block):
        word = np.arange(start, min(words, start + per_block), dtype=np.uint64)
        mixed = splitmix64(keys[None, :] ^ splitmix64(word)[:, None])
        octets = mixed[:, :, None] >> (np.arange(8, dtype=np.uint64) * np.uint64(8))
        octets = (octets & np.uint64(0xFF)).astype(np.intp)
        weights = WEIGHTS[octets].transpose(0, 2, 1).reshape(-1, len(keys))
        yield weights[: resamples - 8 * start]


def grouped(
    values: FloatArray, sizes: FloatArray, keys: Keys
) -> tuple[FloatArray, FloatArray, Keys]:
    """Clusters thrown together at random, by their keys, so that fewer need to be drawn.

    The mean of many clusters varies as that of random groups of them does; a group's share of the
    error is 1/√(2·groups) of the spread, by which the caller rescales.

    Returns:
        Sums, sizes and keys of at most 8,192 groups.
    """
    group, label = np.unique(keys >> np.uint64(64 - GROUP_BITS), return_inverse=True)
    sums = np.bincount(label, weights=values).astype(np.float64)
    rows = np.bincount(label, weights=sizes).astype(np.float64)
    return sums, rows, splitmix64(group)


def bootstrap_means(
    values: FloatArray, sizes: FloatArray, keys: Keys, resamples: int
) -> FloatArray:
    """Weighted means Σw·value / Σw·size of every resample.

    Args:
        values: (n,) sum of each cluster.
        sizes: (n,) rows of each cluster.
        keys: (n,) key of each cluster.
        resamples: B.

    Returns:
        (B,); a resample in which every weight is 0 is left out.
    """
    columns = np.column_stack([values, sizes])
    sums = np.concatenate([block @ columns for block in weight_blocks(keys, resamples)])
    drawn = sums[sums[:, 1] > 0]
    means: FloatArray = drawn[:, 0] / drawn[:, 1]
    return means


def as_student(critical: float, df: int) -> float:
    """The value of Student's t, on df ≥ 1, that is exceeded as seldom as a standard normal one.

    Infinite where that is never, or too seldom for a float.
    """
    tail = float(ndtr(-critical))
    return -float(stdtrit(df, tail)) if tail else math.inf  # scipy's t quantile of 0 is +∞
