"""Where rewards lie and how far apart: quantiles, spread, and the margins within a prompt.

A table has a row for each of P prompts and a column for each of R completions; NaN where a prompt
has fewer, or a completion no reward. Infinity is refused.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.within_prompt import standardise

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class Quantiles(NamedTuple):
    """A column's ends and `QUANTILES`, in its unit.

    Attributes:
        n: Values.
        low: The smallest.
        high: The largest.
        at: Seven values, between two order statistics by linear interpolation: position q·(n-1).
    """

    n: int
    low: float
    high: float
    at: tuple[float, ...]


class Spread(NamedTuple):
    """How far rewards lie apart within prompts, and between them; in reward-model units.

    Attributes:
        within: Root of the mean variance within a prompt, weighted by its completions less one;
            None if no prompt has two.
        prompts: Prompts with two or more rewards.
        completions: Rewards of these.
        between: Standard deviation of the prompts' mean rewards; None for fewer than two prompts.
        means: Prompts with a reward.
    """

    within: float | None
    prompts: int
    completions: int
    between: float | None
    means: int


class Margins(NamedTuple):
    """Every two completions of a prompt, N = ΣK_p·(K_p - 1)/2 rows.

    Attributes:
        prompt: (N,) row of the table.
        margin: (N,) first completion's reward less the second's.
        difference: (N,) first completion's length less the second's.
    """

    prompt: IntArray
    margin: FloatArray
    difference: FloatArray


def quantiles(column: FloatArray) -> Quantiles | None:
    """The ends and quantiles of a column.

    Args:
        column: (n,) finite.

    Returns:
        None for an empty column.

    Raises:
        ValueError: NaN or infinity.
    """
    if not np.all(np.isfinite(column)):
        raise ValueError("the column holds NaN or infinity; decide about those rows first")
    if len(column) == 0:
        return None
    low, *at, high = np.quantile(column, [0, *QUANTILES, 1]).tolist()
    return Quantiles(len(column), low, high, tuple(at))


def spread(rewards: FloatArray) -> Spread:
    """How far a table of rewards lies apart within prompts and between them.

    Args:
        rewards: (P, R) in reward-model units.

    Raises:
        ValueError: Infinity.
    """
    size = (~np.isnan(rewards)).sum(axis=1)
    several = size > 1
    within = standardise(np.full(len(rewards), math.nan), rewards).pooled_sd
    means = np.array([np.nanmean(row) for row in rewards[size > 0]], dtype=np.float64)
    between = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return Spread(within, int(several.sum()), int(size[several].sum()), between, len(means))


def same_prompt_margins(rewards: FloatArray, lengths: FloatArray) -> Margins:
    """The margin and the difference in length of every two completions of a prompt.

    Args:
        rewards: (P, R) in reward-model units; pairs without both rewards are left out.
        lengths: (P, R) any unit.

    Raises:
        ValueError: Infinity, or tables of unequal shape.
    """
    if rewards.shape != lengths.shape:
        raise ValueError(f"tables of unequal shape: {rewards.shape}, {lengths.shape}")
    if np.any(np.isinf(rewards)) or np.any(np.isinf(lengths)):
        raise ValueError("a table holds infinity")
    first, second = np.triu_indices(rewards.shape[1], k=1)
    margin = rewards[:, first] - rewards[:, second]
    prompt, pair = np.nonzero(~np.isnan(margin))
    difference = (lengths[:, first] - lengths[:, second])[prompt, pair]
    return Margins(prompt, margin[prompt, pair], difference)
