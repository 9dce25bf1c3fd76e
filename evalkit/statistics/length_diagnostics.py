"""What goes with answer length, without a model of it: correlations, baselines, matched win rates.

**Δ is the checkpoint's length minus the reference's**, in any unit. Clusters are those of the rows,
each row its own if None. NaN is refused unless a function says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.intervals import Estimate, mean
from evalkit.statistics.length import (
    MIN_PROMPTS,
    ROUNDING,
    State,
    around,
    check_columns,
    clustered_stderr,
    overlap,
)

BoolArray = npt.NDArray[np.bool_]

SLOPE_UNITS = 100.0
MIN_REFERENCES = 4  # of three, a Spearman correlation knows four values


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's correlation; ties have their mean rank.

    Attributes:
        value: In [-1, 1]; None unless `state` is "ok".
        low: Fisher's z with the variance (1 + r²/2)/(C - 3 - controls) of Bonett and Wright (2000,
            Psychometrika 65:23), which counts clusters, not rows; None where |value| is 1.
        high: Likewise.
        n: Rows.
        state: Why there is no value; "collinear" where the control explains a column entirely.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    state: Literal["ok", "too few prompts", "no variance", "collinear"]


@dataclass(frozen=True, slots=True)
class LengthDiagnostics:
    """What goes with Δ; an estimate over no rows is all None.

    Attributes:
        outcome: Correlation of Δ and preference.
        margin: Of Δ and margin; None without margins.
        outcome_partial: As `outcome`, given difficulty; None without difficulty.
        margin_partial: As `margin`, given difficulty.
        longer: Win rate where the checkpoint is longer.
        shorter: Where it is shorter.
        equal: Where the lengths are equal.
        slope: Least-squares change of the preference, a fraction, per +100 units of Δ.
        always_longer: Win rate if the longer answer always won and equal ones tied.
        always_shorter: The same for the shorter.
        longer_preferred: How often the longer answer wins, whosever it is, over unequal lengths:
            length as a judge of this judge.
    """

    outcome: Correlation
    margin: Correlation | None
    outcome_partial: Correlation | None
    margin_partial: Correlation | None
    longer: Estimate
    shorter: Estimate
    equal: Estimate
    slope: Estimate
    always_longer: Estimate
    always_shorter: Estimate
    longer_preferred: Estimate


def length_diagnostics(
    preference: FloatArray,
    margin: FloatArray | None,
    length_checkpoint: FloatArray,
    length_reference: FloatArray,
    *,
    difficulty: FloatArray | None = None,
    clusters: IntArray | None = None,
    level: float = 0.95,
) -> LengthDiagnostics:
    """How outcome and margin go with the length difference, prompt by prompt.

    Args:
        preference: (n,) outcome or win probability in [0, 1]; a tie is ½.
        margin: (n,) in reward-model units, or None.
        length_checkpoint: (n,).
        length_reference: (n,).
        difficulty: (n,) to hold fixed in the partial correlations, or None.
        clusters: (n,).
        level: Nominal coverage, in (0, 1).

    Returns:
        The diagnostics. There is no slope where Δ is constant, and no interval of it for an exact
        line or with two clusters or fewer.

    Raises:
        ValueError: NaN, infinity, a preference outside [0, 1], unequal columns, a bad level.
    """
    others = (length_checkpoint, length_reference, margin, difficulty, clusters)
    check_columns(preference, *others)
    delta = length_checkpoint - length_reference
    side = np.sign(delta)
    raw = mean(preference, bounded=True, level=level, clusters=clusters)

    def correlation(y: FloatArray | None, control: FloatArray | None) -> Correlation | None:
        return None if y is None else _spearman(delta, y, control, raw)

    def rate(rows: BoolArray, column: FloatArray) -> Estimate:
        return _mean_where(rows, column, clusters, level)

    return LengthDiagnostics(
        outcome=_spearman(delta, preference, None, raw),
        margin=correlation(margin, None),
        outcome_partial=None if difficulty is None else correlation(preference, difficulty),
        margin_partial=None if difficulty is None else correlation(margin, difficulty),
        longer=rate(side > 0, preference),
        shorter=rate(side < 0, preference),
        equal=rate(side == 0, preference),
        slope=_slope(delta / SLOPE_UNITS, preference, clusters, raw),
        always_longer=mean((1 + side) / 2, bounded=True, level=level, clusters=clusters),
        always_shorter=mean((1 - side) / 2, bounded=True, level=level, clusters=clusters),
        longer_preferred=rate(side != 0, np.where(side > 0, preference, 1 - preference)),
    )


def reward_length_correlation(
    rewards: FloatArray,
    lengths: FloatArray,
    *,
    clusters: IntArray | None = None,
    level: float = 0.95,
) -> Estimate:
    """Mean over prompts of Spearman's correlation of reward and length among its references.

    Within a prompt nothing but the answers differs: neither the prompt's difficulty nor how long
    an answer it calls for can make this correlation.

    Args:
        rewards: (P, R) in reward-model units; NaN where one is missing.
        lengths: (P, R) any unit; NaN likewise.
        clusters: (P,).
        level: Nominal coverage, in (0, 1).

    Returns:
        The mean with Student's interval. Its n counts the prompts with 4 references or more among
        which both vary; the rest have no correlation and are left out.

    Raises:
        ValueError: Infinity, tables of unequal shape, a level outside (0, 1).
    """
    _check_tables(rewards, lengths)
    found = np.full(len(rewards), np.nan)
    for i, (reward, length) in enumerate(zip(rewards, lengths, strict=True)):
        known = ~(np.isnan(reward) | np.isnan(length))
        if known.sum() >= MIN_REFERENCES:
            rho = _cosine(_centred_ranks(reward[known]), _centred_ranks(length[known]))
            found[i] = np.nan if rho is None else rho
    used = ~np.isnan(found)
    kept = None if clusters is None else clusters[used]
    return mean(found[used], bounded=False, level=level, clusters=kept)


def reward_length_slope(
    rewards: FloatArray, lengths: FloatArray, *, level: float = 0.95
) -> Estimate:
    """Least-squares change of the reward per +100 units of length, within prompts.

    Rewards and lengths are taken less their prompt's means, so that only completions of one prompt
    are held against each other; the standard error is clustered by prompt (CR1, the means not
    counted as coefficients).

    Args:
        rewards: (P, R) in reward-model units; NaN where one is missing.
        lengths: (P, R) any unit; NaN likewise.
        level: Nominal coverage, in (0, 1).

    Returns:
        The slope with Student's interval; n counts the completions of prompts with two or more.
        No slope where no prompt has completions of two lengths, no interval of an exact line or
        with two prompts or fewer.

    Raises:
        ValueError: Infinity, tables of unequal shape, a level outside (0, 1).
    """
    _check_tables(rewards, lengths)
    known = ~(np.isnan(rewards) | np.isnan(lengths))
    known &= known.sum(axis=1, keepdims=True) > 1
    prompt = np.nonzero(known)[0]
    length, reward = _within(lengths, known) / SLOPE_UNITS, _within(rewards, known)
    like = mean(reward, bounded=False, level=level, clusters=prompt)
    return _slope(length, reward, prompt, like)


def length_matched(
    preference: FloatArray,
    length_difference: FloatArray,
    *,
    quantile: float = 0.5,
    clusters: IntArray | None = None,
    level: float = 0.95,
) -> Estimate:
    """Win rate where lengths are alike: |Δ| at most its q-quantile, which counts as known.

    It speaks for its subset alone, in which one side may still be the longer one more often.

    Args:
        preference: (n,) in [0, 1]; a tie is ½.
        length_difference: (n,) checkpoint minus reference.
        quantile: q, in (0, 1]: the share of the prompts, or more where |Δ| ties.
        clusters: (n,).
        level: Nominal coverage, in (0, 1).

    Returns:
        The mean over the subset; its n counts the prompts.

    Raises:
        ValueError: As `length_diagnostics`, or a quantile outside (0, 1].
    """
    check_columns(preference, length_difference, clusters)
    if not 0 < quantile <= 1:
        raise ValueError(f"the quantile must lie in (0, 1], got {quantile}")
    size = np.abs(length_difference)
    limit = np.quantile(size, quantile, method="inverted_cdf") if len(size) else 0.0
    return _mean_where(size <= limit, preference, clusters, level)


def length_balanced(
    preference: FloatArray,
    length_difference: FloatArray,
    *,
    clusters: IntArray | None = None,
    level: float = 0.95,
) -> tuple[Estimate, State]:
    """Half the win rate among longer answers plus half that among shorter ones.

    It takes out which side is longer, not by how much. A prompt of equal lengths counts half on
    either side. With weights w the standard error is that of (Σwy/Σw + Σ(1-w)y/Σ(1-w))/2.

    Args:
        preference: (n,) in [0, 1]; a tie is ½.
        length_difference: (n,) checkpoint minus reference.
        clusters: (n,).
        level: Nominal coverage, in (0, 1).

    Returns:
        The estimate, and its state: "too few prompts", with nothing estimated, where a side has
        under 20; "extrapolated" where it has under 10 % of the prompts.

    Raises:
        ValueError: As `length_diagnostics`.
    """
    check_columns(preference, length_difference, clusters)
    raw = mean(preference, bounded=True, level=level, clusters=clusters)
    sides = 0.5 + np.array([[0.5], [-0.5]]) * np.sign(length_difference)
    sizes = sides.sum(axis=1)
    if sizes.min() < MIN_PROMPTS:
        return around(None, None, raw), "too few prompts"
    rates = sides @ preference / sizes
    influence = ((preference - rates[:, None]) * sides / (2 * sizes[:, None])).sum(axis=0)
    stderr = clustered_stderr(influence, clusters, 2)
    return around(float(rates.mean()), stderr, raw), overlap(length_difference)


def _check_tables(rewards: FloatArray, lengths: FloatArray) -> None:
    if rewards.shape != lengths.shape:
        raise ValueError(f"tables of unequal shape: {rewards.shape}, {lengths.shape}")
    if np.any(np.isinf(rewards)) or np.any(np.isinf(lengths)):
        raise ValueError("a table holds infinity")


def _within(table: FloatArray, known: BoolArray) -> FloatArray:
    """The known values, each less its row's mean."""
    # less the largest first: equal numbers leave zeros, not the rounding error of their mean
    shifted = np.where(known, table, 0.0) - np.where(known, table, -np.inf).max(axis=1)[:, None]
    size = np.maximum(known.sum(axis=1), 1)
    means = np.where(known, shifted, 0.0).sum(axis=1) / size
    found: FloatArray = (shifted - means[:, None])[known]
    return found


def _mean_where(
    rows: BoolArray, column: FloatArray, clusters: IntArray | None, level: float
) -> Estimate:
    kept = None if clusters is None else clusters[rows]
    return mean(column[rows], bounded=True, level=level, clusters=kept)


def _slope(x: FloatArray, y: FloatArray, clusters: IntArray | None, like: Estimate) -> Estimate:
    if len(x) == 0 or np.ptp(x) == 0:
        return around(None, None, like)
    x = x - x.mean()
    y = y - y.mean() if np.ptp(y) else np.zeros(len(y))  # not the rounding error of a mean
    value = float(x @ y / (x @ x))
    stderr = clustered_stderr(x * (y - value * x) / (x @ x), clusters, 2)
    return around(value, stderr, like, bounded=False)


def _spearman(
    x: FloatArray, y: FloatArray, control: FloatArray | None, like: Estimate
) -> Correlation:
    n, freedom = len(x), like.clusters - 3 - (control is not None)
    if freedom <= 0:
        return Correlation(None, None, None, n, "too few prompts")
    a, b = _centred_ranks(x), _centred_ranks(y)
    if not (a.any() and b.any()):
        return Correlation(None, None, None, n, "no variance")
    if control is not None:
        a, b = _without(_centred_ranks(control), a), _without(_centred_ranks(control), b)
    value = _cosine(a, b)
    if value is None:
        return Correlation(None, None, None, n, "collinear")
    if abs(value) > 1 - ROUNDING:
        return Correlation(value, None, None, n, "ok")
    half = float(ndtri((1 + like.level) / 2)) * math.sqrt((1 + value**2 / 2) / freedom)
    centre = math.atanh(value)
    return Correlation(value, math.tanh(centre - half), math.tanh(centre + half), n, "ok")


def _centred_ranks(x: FloatArray) -> FloatArray:
    """Ranks, ties at their mean, minus the mean rank: multiples of ½, so equal rows are zeros."""
    _, label, count = np.unique(x, return_inverse=True, return_counts=True)
    ranks = np.cumsum(count) - (count - 1) / 2
    return np.asarray(ranks[label] - (len(x) + 1) / 2, dtype=np.float64)


def _without(control: FloatArray, ranks: FloatArray) -> FloatArray:
    """What is left of centred ranks after least squares on a control; zeros if it is rounding."""
    size = control @ control
    left = ranks - control * (control @ ranks / size) if size else ranks
    return left if left @ left > ROUNDING * (ranks @ ranks) else np.zeros(len(ranks))


def _cosine(a: FloatArray, b: FloatArray) -> float | None:
    size = math.sqrt(float(a @ a) * float(b @ b))
    return min(max(float(a @ b) / size, -1.0), 1.0) if size else None
