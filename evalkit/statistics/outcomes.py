"""From margins to outcomes and win probabilities, pair by pair, then prompt by prompt."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from evalkit.data import FloatArray, IntArray


def outcomes(margins: FloatArray, *, tie: float = 0.0, drop_ties: bool = False) -> FloatArray:
    """Win 1, tie ½, loss 0.

    Args:
        margins: (N,) checkpoint reward minus reference reward; NaN stays NaN.
        tie: |margin| ≤ tie is a tie, in reward-model units.
        drop_ties: Give ties NaN instead of ½, so that means over the rest can be taken.

    Returns:
        (N,) float64 in {0, ½, 1} or NaN.
    """
    found = np.where(margins > tie, 1.0, np.where(margins < -tie, 0.0, 0.5))
    found[np.isnan(margins)] = np.nan
    if drop_ties:
        found[np.abs(margins) <= tie] = np.nan
    return found


def win_probabilities(margins: FloatArray, *, temperature: float = 1.0) -> FloatArray:
    """Bradley-Terry win probability σ(margin / temperature).

    Args:
        margins: (N,) in reward-model units; NaN stays NaN, ±inf gives 1 and 0.
        temperature: In reward-model units, > 0.

    Returns:
        (N,) in [0, 1]; a margin of 0 gives exactly ½.
    """
    with np.errstate(over="ignore"):  # infinity is the right limit
        return np.asarray(expit(margins / temperature), dtype=np.float64)


def mean_by_group(values: FloatArray, group: IntArray, groups: int) -> FloatArray:
    """Mean of the values of each group, NaN values left out.

    Args:
        values: (N,).
        group: (N,) in [0, groups).
        groups: G.

    Returns:
        (G,); NaN for a group without a value.
    """
    known = ~np.isnan(values)
    total = np.bincount(group[known], weights=values[known], minlength=groups)
    n = np.bincount(group[known], minlength=groups)
    means: FloatArray = np.divide(total, n, out=np.full(groups, np.nan), where=n > 0)
    return means


def all_pairs(left: IntArray, right: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Every pairing of a prompt's K completions with its M reference completions.

    Args:
        left: (P,) completions per prompt on the left, K_p ≥ 1, stored one prompt after another.
        right: (P,) the same on the right, M_p ≥ 1.

    Returns:
        Three (ΣK_p·M_p,) arrays: the prompt, the row on the left, the row on the right.
    """
    pairs = left * right
    prompt = np.repeat(np.arange(len(left)), pairs)
    within = np.arange(pairs.sum()) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    first_left, first_right = np.cumsum(left) - left, np.cumsum(right) - right
    return (
        prompt,
        first_left[prompt] + within // right[prompt],
        first_right[prompt] + within % right[prompt],
    )
