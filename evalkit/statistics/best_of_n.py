"""What the best of k samples is worth, estimated from n ≥ k samples of each prompt.

Averaged over all C(n, k) choices without enumerating them: the sample of rank j among n is the
best of C(j−1, k−1) choices (Chen et al. 2021, arXiv 2107.03374, for hard outcomes: pass@k).
"""

from __future__ import annotations

import numpy as np

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.outcomes import mean_by_group


def best_of_weights(n: int, k: int) -> FloatArray:
    """Chance that the sample of rank j is the best of k out of n: C(j−1, k−1) / C(n, k).

    Args:
        n: Samples, ≥ 0.
        k: Chosen among them without replacement, ≥ 1.

    Returns:
        (n,) by ascending rank, sum 1; NaN for k > n, which n samples say nothing about.

    Raises:
        ValueError: k < 1.
    """
    if k < 1:
        raise ValueError(f"the best of at least one, got k = {k}")
    if k > n:
        return np.full(n, np.nan)
    # from the top, k/n and then by ratios of neighbours: no binomial is ever formed
    rank = np.arange(n - 1, 0, -1)
    ratios = np.maximum(rank - k + 1, 0) / rank
    weights: FloatArray = k / n * np.cumprod(np.concatenate([[1.0], ratios]))[::-1]
    return weights


def expected_pick(
    selector: FloatArray, values: FloatArray, group: IntArray, groups: int, k: int
) -> FloatArray:
    """Unbiased E[value of the sample that the selector likes best among k] of each prompt.

    Chosen by one reward model and scored by another: what over-optimisation looks like. A selector
    that scores itself gives E[max of k]; of outcomes 0 and 1 that is pass@k. Samples that the
    selector rates exactly equal are picked with equal chance.

    Args:
        selector: (N,) rewards that choose; only their order within a prompt matters.
        values: (N,) rewards that count, in any unit.
        group: (N,) prompt of each, in [0, groups), in any order.
        groups: G.
        k: ≥ 1; 1 gives the mean.

    Returns:
        (G,) in the unit of the values; NaN, for undefined, where a prompt has fewer than k samples,
        or one whose reward or value is not finite: to choose among the others would drop it in
        silence.

    Raises:
        ValueError: k < 1 or unequal lengths.
    """
    if not len(selector) == len(values) == len(group):
        raise ValueError(f"lengths {len(selector)}, {len(values)} and {len(group)} differ")
    if k < 1:
        raise ValueError(f"the best of at least one, got k = {k}")
    finite = np.isfinite(selector) & np.isfinite(values)
    broken = np.bincount(group[~finite], minlength=groups) > 0
    order = np.lexsort((selector, group))
    selector, group = selector[order], group[order]
    values = np.where(finite, values, 0.0)[order]
    if len(values):
        new = (selector[1:] != selector[:-1]) | (group[1:] != group[:-1])
        block = np.concatenate([[0], np.cumsum(new)])
        values = mean_by_group(values, block, int(block[-1]) + 1)[block]
    sizes = np.bincount(group, minlength=groups)
    starts = np.cumsum(sizes) - sizes
    best = np.full(groups, np.nan)
    for n in np.unique(sizes[(sizes >= k) & ~broken]).tolist():
        chosen = np.flatnonzero((sizes == n) & ~broken)
        best[chosen] = values[starts[chosen, None] + np.arange(n)] @ best_of_weights(n, k)
    return best


def best_of_n_kl(n: IntArray) -> FloatArray:
    """How far best-of-n moves a policy, in nats: ln n − (n−1)/n.

    Exact where no two samples of a prompt get the same reward, an upper bound otherwise (Beirami
    et al. 2024, arXiv 2401.01879).

    Args:
        n: Samples chosen from, ≥ 1; of any shape.

    Returns:
        ≥ 0, of the same shape; 0 for n = 1.

    Raises:
        ValueError: n < 1.
    """
    samples = np.asarray(n, dtype=np.float64)
    if np.any(~(samples >= 1)):
        raise ValueError("the best of at least one sample")
    divergence: FloatArray = np.log(samples) - (samples - 1) / samples
    return divergence
