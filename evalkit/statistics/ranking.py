"""Ranks that the evidence supports: a range for each player, not one number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.bradley_terry import Strengths, paired_tests
from evalkit.statistics.intervals import check_level
from evalkit.statistics.multiplicity import holm


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
    """Ranks of fitted strengths, all M(M-1)/2 differences tested at once, clustered by prompt.

    At `level`, by default that of the fit, with Holm's correction: max-t would need draws. Without
    variance nobody is above.
    """
    level = strengths.level if level is None else level
    theta = strengths.strength
    adjusted = holm_of_pairs(paired_tests(strengths)[1])
    return rank_ranges_from(theta, theta[:, None] - theta, adjusted, level=level)


def holm_of_pairs(p: FloatArray) -> FloatArray:
    """Holm's (1979) correction over the pairs of M players.

    A test that the data leave undefined counts among the M(M-1)/2 as one that finds nothing: which
    tests are undefined may depend on who won.

    Args:
        p: (M, M) p-values in [0, 1], NaN where undefined; read above the diagonal.

    Returns:
        (M, M) adjusted, symmetric; NaN where undefined and on the diagonal.
    """
    pairs = np.triu_indices(len(p), 1)
    known = ~np.isnan(p[pairs])
    adjusted = np.full(p.shape, np.nan)
    adjusted[pairs] = np.where(known, holm(np.where(known, p[pairs], 1.0)), np.nan)
    adjusted.T[pairs] = adjusted[pairs]
    return adjusted


def rank_ranges_from(
    values: FloatArray, differences: FloatArray, adjusted: FloatArray, *, level: float
) -> RankRanges:
    """Ranks in which a player is above another only if their difference says so.

    If the p-values keep the family-wise error, every range holds the true rank with probability
    `level` (Klein, Wright and Wieczorek 2020, JRSS-A 183:893).

    Args:
        values: (M,) by which the players are ordered, the largest first; NaN comes last.
        differences: (M, M) of i over j, antisymmetric; its sign says who is above.
        adjusted: (M, M) two-sided p-values, corrected for their number; NaN tells nobody apart.
        level: Chance that all is right, in (0, 1).

    Raises:
        ValueError: A level outside (0, 1).
    """
    check_level(level)
    above = (adjusted < 1 - level) & (differences > 0)
    left, groups = [int(k) for k in np.argsort(-values, kind="stable")], []
    while left:
        groups.append(tuple(k for k in left if not above[left[0], k]))
        left = [k for k in left if above[left[0], k]]
    return RankRanges(1 + above.sum(axis=0), len(above) - above.sum(axis=1), above, tuple(groups))
