"""Ranks that the evidence supports: a range for each player, not one number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evalkit.data import IntArray
from evalkit.statistics.bradley_terry import Strengths, paired_tests


class RankRanges(NamedTuple):
    """Which ranks the evidence leaves to each player.

    Attributes:
        best: (M,) 1 + the number of players that are surely above.
        worst: (M,) M - the number of players that are surely below.
        above: (M, M) whether i is surely above j.
        groups: The strongest player and all not surely below it, then the same among the rest.
    """

    best: IntArray
    worst: IntArray
    above: npt.NDArray[np.bool_]
    groups: tuple[tuple[int, ...], ...]


def rank_ranges(strengths: Strengths, *, level: float | None = None) -> RankRanges:
    """Ranks in which a player is above another only if their paired difference says so.

    All M(M-1)/2 differences are tested, clustered by prompt, with Holm's (1979) correction: with
    probability `level`, by default that of the fit, every range holds the true rank (Klein, Wright
    and Wieczorek 2020, JRSS-A 183:893). Max-t would need draws. Without variance nobody is above.
    """
    level = strengths.level if level is None else level
    if not 0 < level < 1:
        raise ValueError(f"the level must lie between 0 and 1, got {level}")
    theta = strengths.strength
    m = len(theta)
    i, j = np.triu_indices(m, 1)
    p = paired_tests(strengths)[1][i, j]
    order = np.argsort(p)  # NaN last
    passed = p[order] * np.arange(len(p), 0, -1) < 1 - level
    apart = np.zeros((m, m), dtype=np.bool_)
    apart[i[order], j[order]] = np.logical_and.accumulate(passed)
    above = (apart | apart.T) & (theta[:, None] > theta)
    left, groups = [int(k) for k in np.argsort(-theta, kind="stable")], []
    while left:
        groups.append(tuple(k for k in left if not above[left[0], k]))
        left = [k for k in left if above[left[0], k]]
    return RankRanges(1 + above.sum(axis=0), m - above.sum(axis=1), above, tuple(groups))
