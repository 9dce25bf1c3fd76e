"""The numbers of accuracy suites: credits of rows, accuracies, weighted means of subsets.

A row is right when its right answer beats every other. Rewards lie on a grid of half-precision
numbers, so equal ones are common and every credit comes twice: strict, where a tie is wrong, and
half-credit, where those at the top share the point. The formulas are those of RewardBench
(Lambert et al. 2024), RewardBench 2 (Malik et al. 2025) and RM-Bench (Liu et al. 2024); the Ties
subset of RewardBench 2 is in `ties`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.intervals import Estimate, mean, wilson_ends

STYLES = 3  # concise, detailed, detailed with Markdown


class Credit(NamedTuple):
    """What rows earn.

    Attributes:
        strict: (...) 1 if the right answer is alone at the top, else 0.
        half_credit: (...) 1 / (answers at the top) if the right one is among them, else 0.
        tied: (...) whether the right answer shares the top.
    """

    strict: FloatArray
    half_credit: FloatArray
    tied: npt.NDArray[np.bool_]


class StyleCredit(NamedTuple):
    """Credits of three-style rows, chosen styles down and rejected styles across.

    Attributes:
        strict: (..., 3, 3) 1 where chosen i beats rejected j, else 0.
        half_credit: (..., 3, 3) the same, ½ where they tie.
    """

    strict: FloatArray
    half_credit: FloatArray


class StyleViews(NamedTuple):
    """RM-Bench's three difficulties, each (...) in [0, 1]; their mean is that of the nine cells.

    Attributes:
        hard: The chosen answer is in the plainer style.
        normal: Both are in the same style.
        easy: The rejected answer is in the plainer style.
    """

    hard: FloatArray
    normal: FloatArray
    easy: FloatArray


def best_credit(rewards: FloatArray, *, tie: float = 0.0) -> Credit:
    """Credit of rows with one right answer: pairs, or the best of K.

    Args:
        rewards: (..., K) finite, K ≥ 2, of a row or of many, the right answer first.
        tie: Rewards no further below the greatest than this count as equal to it; ≥ 0.

    Raises:
        ValueError: NaN or infinity, fewer than two rewards, a negative `tie`.
    """
    rewards = _checked(rewards, tie)
    if not rewards.ndim or rewards.shape[-1] < 2:
        raise ValueError("a row has one right answer and at least one other")
    with np.errstate(over="ignore"):  # further apart than floats reach is no tie either
        at_top = rewards.max(axis=-1, keepdims=True) - rewards <= tie
    half_credit = at_top[..., 0] / at_top.sum(axis=-1)
    strict = (half_credit == 1).astype(np.float64)
    return Credit(strict, half_credit, (half_credit > 0) & (half_credit < 1))


def style_credit(chosen: FloatArray, rejected: FloatArray, *, tie: float = 0.0) -> StyleCredit:
    """Credits of every chosen answer against every rejected one, styles in the same order.

    Args:
        chosen: (..., 3) finite, of a row or of many.
        rejected: (..., 3) of the same shape.
        tie: Rewards no further apart than this are equal; ≥ 0.

    Raises:
        ValueError: NaN or infinity, another or different shapes, a negative `tie`.
    """
    chosen, rejected = _checked(chosen, tie), _checked(rejected, tie)
    if chosen.shape != rejected.shape or chosen.shape[-1:] != (STYLES,):
        raise ValueError(
            f"both sides have {STYLES} styles, not shapes {chosen.shape} and {rejected.shape}"
        )
    with np.errstate(over="ignore"):
        ahead = chosen[..., :, None] - rejected[..., None, :]
    strict = (ahead > tie).astype(np.float64)
    return StyleCredit(strict, strict + (np.abs(ahead) <= tie) / 2)


def style_views(cells: FloatArray) -> StyleViews:
    """The three difficulties of RM-Bench; the mean over rows of a view is the view of the mean.

    Args:
        cells: (..., 3, 3) credits of a row, of many, or their mean.

    Raises:
        ValueError: Another shape.
    """
    if cells.shape[-2:] != (STYLES, STYLES):
        raise ValueError(f"cells are {STYLES} by {STYLES}, not of shape {cells.shape}")
    chosen, rejected = np.indices((STYLES, STYLES))
    return StyleViews(
        hard=cells[..., chosen < rejected].mean(axis=-1),
        normal=cells[..., chosen == rejected].mean(axis=-1),
        easy=cells[..., chosen > rejected].mean(axis=-1),
    )


def _checked(rewards: FloatArray, tie: float) -> FloatArray:
    rewards = np.asarray(rewards, dtype=np.float64)
    if not np.all(np.isfinite(rewards)):
        raise ValueError("the rewards hold NaN or infinity; decide about those rows first")
    if not 0 <= tie < math.inf:
        raise ValueError(f"a tie is a distance of at least 0, got {tie}")
    return rewards


def accuracy(
    credit: FloatArray, *, clusters: IntArray | None = None, level: float = 0.95
) -> Estimate:
    """Mean credit with its interval: Wilson's where rows are independent and right or wrong.

    Elsewhere that of `intervals.mean` of a bounded column. It has none near 0 or 1 over clusters
    of unequal size, and one such subset would leave its whole suite without: there Wilson's again,
    of as many rows as there are clusters, (Σm)² / Σm² by Kish (1965) with m rows in each. No credit
    in [0, 1] varies more, however alike the rows of a cluster.

    Args:
        credit: (n,) in [0, 1].
        clusters: (n,) cluster of each row; each row its own if None.
        level: Nominal coverage, in (0, 1).

    Returns:
        The estimate, all of it None without rows.

    Raises:
        ValueError: NaN, a credit outside [0, 1], a level outside (0, 1).
    """
    found = mean(credit, bounded=True, clusters=clusters, level=level)
    if found.value is None:
        return found
    certain = bool(np.all((credit == 0) | (credit == 1)))
    if (found.clusters == found.n and certain) or found.low is None:
        sizes = np.unique_counts(clusters).counts if clusters is not None else np.ones(found.n)
        rows = found.n**2 // int(np.sum(sizes**2))
        low, high = wilson_ends(np.array([found.value]), np.array([rows]), level=level)
        return replace(found, low=float(low[0]), high=float(high[0]), method="wilson")
    return found


def combined(parts: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """Weighted mean of independent estimates: a section of subsets, an overall of sections.

    With half-widths h and midpoints that lie s beside the values, and weights w that sum to 1, the
    interval is Σ w·value + Σ (w·s)(w·h)² / H² ± H with H² = Σ (w·h)², within the weighted means of
    the ends. So h² and s·h² add as variances and third cumulants do, which they stand for: of a
    Wilson interval both hold to second order. MOVER (Zou and Donner 2008, Stat. Med. 27:1693) adds
    squares on either side of the value instead, which counts the s of many parts too often: of 23
    subsets with 0.97 right, its 95 % intervals covered 91 %, these 97 %; with 0.8, 94 % and 95 %.

    Args:
        parts: All at one level, on rows that share no clusters. Leave out, with its weight, a
            part without a value: the rest then carries the mean.
        weights: One a part, ≥ 0, in any unit. A part that weighs nothing is left out.

    Returns:
        The estimate; n and clusters are sums. An end or standard error that one part lacks is
        None. A single part is itself.

    Raises:
        ValueError: A part with weight and no value, different levels or lengths, weights that are
            negative, not finite, or all 0.
    """
    if len(parts) != len(weights):
        raise ValueError(f"{len(weights)} weights for {len(parts)} parts")
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise ValueError(f"weights are at least 0 and not all 0, got {list(weights)}")
    weighing = [(part, weight) for part, weight in zip(parts, weights, strict=True) if weight]
    kept = [part for part, _ in weighing]
    if len({part.level for part in kept}) > 1:
        raise ValueError("the parts' intervals have different levels")
    if len(kept) == 1 and kept[0].value is not None:
        return kept[0]
    w = np.array([weight for _, weight in weighing]) / math.fsum(weights)
    values = _complete([part.value for part in kept])
    if values is None:
        raise ValueError("a part has no value; leave it out or give it the weight 0")
    lows, highs = _complete([part.low for part in kept]), _complete([part.high for part in kept])
    errors = _complete([part.stderr for part in kept])
    ends = None if lows is None or highs is None else _ends(values, lows, highs, w)
    return Estimate(
        value=float(values @ w),
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        stderr=None if errors is None else float(np.linalg.norm(w * errors)),
        level=kept[0].level,
        n=sum(part.n for part in kept),
        clusters=sum(part.clusters for part in kept),
        method="cumulants" if ends else "undefined",
    )


def _complete(numbers: Sequence[float | None]) -> FloatArray | None:
    """All of them; None where one is missing."""
    known = [number for number in numbers if number is not None]
    return np.array(known) if len(known) == len(numbers) else None


def _ends(
    values: FloatArray, lows: FloatArray, highs: FloatArray, w: FloatArray
) -> tuple[float, float]:
    half, beside = w * (highs - lows) / 2, w * ((lows + highs) / 2 - values)
    variance = float(np.sum(half**2))
    centre = float(values @ w) + (float(beside @ half**2) / variance if variance else 0.0)
    reach = math.sqrt(variance)
    return max(centre - reach, float(lows @ w)), min(centre + reach, float(highs @ w))
