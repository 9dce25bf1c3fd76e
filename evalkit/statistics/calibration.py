"""How honest a win probability is, and the temperature that makes it honest.

A reward model's σ(margin) is rarely the chance it claims to be. One number T, fitted to labelled
pairs by log loss, repairs most of it: σ(margin / T). Everything here looks at pairs, not at the
order in which their two answers happen to stand: turning a pair round changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit, stdtrit

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.clusters import clustering
from evalkit.statistics.intervals import check_level, wilson_ends
from evalkit.statistics.losses import bradley_terry_loss

State = Literal["fitted", "weak", "separable", "reversed", "uninformative", "empty"]

NEGLIGIBLE = 1e-100  # of all margins: wrong ones that sum to less are rounded to none
ROUNDING = 1e-12  # relative: a sum this near to zero is zero
STEPS = 2000  # ten are usual, some hundreds where one tiny margin alone is wrong


@dataclass(frozen=True, slots=True)
class Temperature:
    """A fitted temperature, or why there is none.

    Attributes:
        value: In reward-model units, > 0; None unless the state is "fitted" or "weak".
        low: Lower end of the interval, that of log T carried back.
        high: Upper end.
        log_stderr: Clustered standard error of log T; None for fewer than two clusters, or where
            every cluster is fitted exactly, and then there is no interval.
        level: Nominal coverage.
        n: Pairs, exact ties among them.
        clusters: Independent units among the pairs.
        state: "fitted"; "weak": the interval of 1/T reaches zero, so nothing bounds T from above
            and `high` is None; "separable": no margin is ever wrong, and the loss falls for ever
            as T → 0; "reversed": margins point the wrong way, and the best 1/T is negative;
            "uninformative": they say nothing, and the best 1/T is zero; "empty": no pairs.
    """

    value: float | None
    low: float | None
    high: float | None
    log_stderr: float | None
    level: float
    n: int
    clusters: int
    state: State


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Log losses of pairs whose outcomes the temperature has not seen.

    Attributes:
        raw: (n,) at T = 1.
        fitted: (n,) at a T fitted to other clusters, averaged over repeats; NaN where a fit that
            the pair needs has no temperature.
        temperatures: (repeats, folds) fitted without the fold; NaN where there is none.
        undefined: Fits without a temperature.
    """

    raw: FloatArray
    fitted: FloatArray
    temperatures: FloatArray
    undefined: int


class Floor(NamedTuple):
    """Calibration error that sampling alone would show: mean and upper quantile."""

    mean: float
    high: float


class ReliabilityCurve(NamedTuple):
    """Confidence against outcome, bin by bin; NaN in a bin without pairs.

    Attributes:
        edges: (bins + 1,) from ½ to 1; a bin holds its left edge, the last one both.
        confidence: (bins,) mean probability of the preferred side.
        outcome: (bins,) how often that side was right.
        n: (bins,) pairs.
        low: (bins,) Wilson interval of `outcome`.
        high: (bins,) its upper end.
    """

    edges: FloatArray
    confidence: FloatArray
    outcome: FloatArray
    n: IntArray
    low: FloatArray
    high: FloatArray


def fit_temperature(
    margins: FloatArray,
    outcomes: FloatArray,
    *,
    clusters: IntArray | None = None,
    level: float = 0.95,
) -> Temperature:
    """The T > 0 with the least log loss of σ(margin / T), with a clustered interval.

    The loss is convex in 1/T, so whether a T exists is read off its derivative at 0 and at ∞
    before anything is iterated. The interval is that of log T, sandwich (CR1) and t. Nominal 95 %
    intervals cover 93-96 % from 100 clusters on with margins of sd ½ T to 5 T; of sd 12 T, where
    few pairs decide about T, 89 % with 100 clusters and 93 % with 350.

    Args:
        margins: (n,) reward of one side minus reward of the other, finite, reward-model units.
        outcomes: (n,) how far the first side won, in [0, 1]; a tie is ½. A margin of exactly 0
            costs ln 2 at any T and has no say.
        clusters: (n,) cluster of each pair, such as its prompt; each pair its own if None.
        level: Nominal coverage, in (0, 1).

    Returns:
        The temperature; in the same units as the margins.

    Raises:
        ValueError: NaN or infinity, outcomes outside [0, 1], unequal lengths, or a level outside
            (0, 1).
    """
    check_level(level)
    margins, outcomes = _checked(margins, outcomes)
    grouped = clustering(len(margins), clusters)
    units = len(grouped.first)
    state, inverse = _inverse_temperature(margins, outcomes)
    if inverse is None:
        return Temperature(None, None, None, None, level, len(margins), units, state)
    value = 1 / inverse
    tail = np.asarray(expit(-np.abs(margins) * inverse), dtype=np.float64)
    # per pair, margins in units of T: derivative and curvature of the loss by log T
    slopes = np.abs(margins) * inverse * (_wrong(margins, outcomes) - tail)
    curvature = float(np.sum((margins * inverse) ** 2 * tail * (1 - tail)))
    spread = _spread(grouped.sums(slopes), curvature)
    if spread is None:
        return Temperature(value, None, None, None, level, len(margins), units, state)
    half = float(stdtrit(units - 1, (1 + level) / 2)) * spread
    low, high = value * math.exp(-half), value * math.exp(half) if half < 1 else None
    state = "weak" if high is None else state  # 1/T ± half/T reaches 0
    return Temperature(value, low, high, spread, level, len(margins), units, state)


def _checked(margins: FloatArray, outcomes: FloatArray) -> tuple[FloatArray, FloatArray]:
    margins, outcomes = np.asarray(margins, np.float64), np.asarray(outcomes, np.float64)
    if margins.ndim != 1 or margins.shape != outcomes.shape:
        raise ValueError(f"one outcome a row, got shapes {margins.shape} and {outcomes.shape}")
    if not (np.all(np.isfinite(margins)) and np.all(np.isfinite(outcomes))):
        raise ValueError("NaN or infinity among the rows; decide about those first")
    if len(outcomes) and not (outcomes.min() >= 0 and outcomes.max() <= 1):
        raise ValueError("outcomes must lie in [0, 1]")
    return margins, outcomes


def _wrong(margins: FloatArray, outcomes: FloatArray) -> FloatArray:
    """How far each pair went against the sign of its margin."""
    return np.where(margins > 0, 1 - outcomes, outcomes)


def _inverse_temperature(margins: FloatArray, outcomes: FloatArray) -> tuple[State, float | None]:
    """1/T by Newton's method, or the state that says why there is none.

    With a = |margin| the derivative of the loss is Σ a·wrong − Σ a·σ(−βa). For β ≥ 0 it rises and
    is concave, so that Newton's steps from 0 climb to the root without ever passing it.
    """
    if len(margins) == 0:
        return "empty", None
    scale = float(np.abs(margins).max())
    if scale == 0:
        return "uninformative", None
    a = np.abs(margins) / scale
    goal, total = float(np.sum(a * _wrong(margins, outcomes))), float(a.sum())
    if abs(goal - total / 2) <= ROUNDING * total:
        return "uninformative", None
    if goal > total / 2:
        return "reversed", None
    if goal <= NEGLIGIBLE * total:
        return "separable", None
    beta = 0.0
    for _ in range(STEPS):
        tail = np.asarray(expit(-beta * a), dtype=np.float64)
        step = (float(np.sum(a * tail)) - goal) / float(np.sum(a * a * tail * (1 - tail)))
        beta += step
        if step <= 1e-14 * beta:
            return "fitted", beta / scale
    raise ArithmeticError(f"no temperature found in {STEPS} steps")  # pragma: no cover


def _spread(slopes: FloatArray, curvature: float) -> float | None:
    """Sandwich standard error of log T from the summed slopes of each cluster."""
    units = len(slopes)
    if units < 2:
        return None
    spread = math.sqrt(float(np.sum(slopes**2)) * units / (units - 1)) / curvature
    return spread if spread > 1e-9 else None  # no residuals but those of rounding


def log_losses(
    margins: FloatArray, outcomes: FloatArray, *, temperature: float | FloatArray = 1.0
) -> FloatArray:
    """−y·log σ(Δ/T) − (1−y)·log σ(−Δ/T) of each pair, in nats.

    Args:
        margins: (n,) in reward-model units; NaN stays NaN.
        outcomes: (n,) y in [0, 1]; a tie is ½.
        temperature: > 0, one or (n,) of them; a NaN gives NaN.

    Returns:
        (n,) ≥ 0; ln 2 for a margin of 0; finite for any finite margin.
    """
    scaled = np.asarray(margins, dtype=np.float64) / temperature
    losses: FloatArray = outcomes * bradley_terry_loss(scaled)
    return losses + (1 - outcomes) * bradley_terry_loss(-scaled)


def cross_validated_log_loss(
    margins: FloatArray,
    outcomes: FloatArray,
    *,
    clusters: IntArray | None = None,
    folds: int = 2,
    repeats: int = 1,
    rng: np.random.Generator,
) -> HeldOut:
    """What a fitted temperature is worth on pairs it has not seen.

    A repeat shuffles the clusters into equal folds and holds each out once. Two folds and 200
    repeats are 200 random half-splits, read both ways. The columns are for `intervals.mean`.

    Args:
        margins: (n,) finite, reward-model units.
        outcomes: (n,) in [0, 1]; a tie is ½.
        clusters: (n,) kept on one side of every split, whatever the order of the rows; each pair
            its own if None.
        folds: ≥ 2 and at most the number of clusters.
        repeats: Shuffles, ≥ 1.
        rng: Draws one permutation a repeat.

    Raises:
        ValueError: Fewer clusters than folds, folds below 2 or repeats below 1, and what
            `fit_temperature` refuses.
    """
    margins, outcomes = _checked(margins, outcomes)
    label, first = clustering(len(margins), clusters)
    units = len(first)
    if not 2 <= folds <= units:
        raise ValueError(f"from 2 to {units} folds, one for each cluster at most, got {folds}")
    if repeats < 1:
        raise ValueError(f"at least one repeat, got {repeats}")
    temperatures = np.full((repeats, folds), np.nan)
    fitted = np.zeros(len(margins))
    for repeat in range(repeats):
        fold = (rng.permutation(units) % folds)[label]
        for k in range(folds):
            _, inverse = _inverse_temperature(margins[fold != k], outcomes[fold != k])
            temperatures[repeat, k] = np.nan if inverse is None else 1 / inverse
        fitted += log_losses(margins, outcomes, temperature=temperatures[repeat][fold])
    return HeldOut(
        raw=log_losses(margins, outcomes),
        fitted=fitted / repeats,
        temperatures=temperatures,
        undefined=int(np.isnan(temperatures).sum()),
    )


def brier_losses(probabilities: FloatArray, outcomes: FloatArray) -> FloatArray:
    """(p − y)² of each pair, (n,) in [0, 1]: their mean is the Brier score, ¼ for a coin.

    Args:
        probabilities: (n,) in [0, 1] that the first side wins; NaN stays NaN.
        outcomes: (n,) y in [0, 1]; a tie is ½.
    """
    losses: FloatArray = (probabilities - outcomes) ** 2
    return losses


def fold_sides(probabilities: FloatArray, outcomes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Look at every pair from the side the probability prefers.

    Benchmarks list the chosen answer first: every outcome is 1, and an honest ¼ would look like an
    error of ¾. From the preferred side it is a confidence of ¾ that was wrong.

    Args:
        probabilities: (n,) in [0, 1] that the first side wins.
        outcomes: (n,) in [0, 1]; a tie is ½.

    Returns:
        Two (n,) arrays: confidences in [½, 1], and how far the preferred side was right. At a
        probability of ½ no side is preferred and the second is ½.

    Raises:
        ValueError: NaN, values outside [0, 1], unequal lengths.
    """
    probabilities, outcomes = _checked(probabilities, outcomes)
    if len(probabilities) and not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError("probabilities must lie in [0, 1]")
    first = probabilities > 0.5
    confidences = np.where(first, probabilities, 1 - probabilities)
    correct = np.where(first, outcomes, 1 - outcomes)
    correct[probabilities == 0.5] = 0.5
    return confidences, correct


def _bin(confidences: FloatArray, bins: int) -> tuple[FloatArray, IntArray]:
    if bins < 1:
        raise ValueError(f"at least one bin, got {bins}")
    edges = np.linspace(0.5, 1, bins + 1)
    place = np.searchsorted(edges, confidences, side="right") - 1
    return edges, np.minimum(place, bins - 1).astype(np.int64)


def expected_calibration_error(
    probabilities: FloatArray, outcomes: FloatArray, *, bins: int = 10
) -> float | None:
    """Σ n_b/n · |mean confidence − mean outcome| over equal bins of the confidence in [½, 1].

    Never zero in a sample: read it beside `calibration_floor`.

    Args:
        probabilities: (n,) in [0, 1] that the first side wins.
        outcomes: (n,) in [0, 1]; a tie is ½. Turning a pair round, p and y to 1 − p and 1 − y,
            changes nothing.
        bins: ≥ 1, of equal width.

    Returns:
        In [0, 1]; None without pairs.

    Raises:
        ValueError: NaN, values outside [0, 1], unequal lengths, no bins.
    """
    confidences, correct = fold_sides(probabilities, outcomes)
    _, place = _bin(confidences, bins)
    if len(confidences) == 0:
        return None
    return float(np.abs(np.bincount(place, weights=confidences - correct)).sum()) / len(place)


def calibration_floor(
    probabilities: FloatArray,
    *,
    bins: int = 10,
    draws: int = 1000,
    level: float = 0.95,
    rng: np.random.Generator,
) -> Floor | None:
    """The calibration error that these probabilities would show if every one of them were true.

    Outcomes are drawn independently and without ties, so ties make the floor generous and
    correlated pairs make it too low.

    Args:
        probabilities: (n,) in [0, 1].
        bins: As for the error it stands beside.
        draws: Simulated sets of outcomes, ≥ 1.
        level: Of the upper quantile.
        rng: Source of the outcomes.

    Returns:
        Mean and quantile of the simulated error; None without pairs.

    Raises:
        ValueError: As for `expected_calibration_error`; no draws.
    """
    confidences, _ = fold_sides(probabilities, np.full(len(probabilities), 0.5))
    _, place = _bin(confidences, bins)
    if draws < 1:
        raise ValueError(f"at least one draw, got {draws}")
    if len(confidences) == 0:
        return None
    undecided = confidences == 0.5
    errors = np.empty(draws)
    for draw in range(draws):
        correct = np.where(undecided, 0.5, rng.random(len(confidences)) < confidences)
        errors[draw] = np.abs(np.bincount(place, weights=confidences - correct)).sum()
    errors /= len(confidences)
    return Floor(float(errors.mean()), float(np.quantile(errors, level)))


def reliability_curve(
    probabilities: FloatArray, outcomes: FloatArray, *, bins: int = 10, level: float = 0.95
) -> ReliabilityCurve:
    """Confidence against outcome in equal bins of [½, 1], with Wilson intervals.

    Takes and refuses what `expected_calibration_error` does; the level is that of each bin's
    interval on its own, with pairs as independent and ties as the mean of a win and a loss.
    """
    confidences, correct = fold_sides(probabilities, outcomes)
    edges, place = _bin(confidences, bins)
    n = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0/0: an empty bin has no mean
        confidence = np.bincount(place, weights=confidences, minlength=bins) / n
        outcome = np.bincount(place, weights=correct, minlength=bins) / n
    low, high = wilson_ends(outcome, n, level=level)
    return ReliabilityCurve(edges, confidence, outcome, n.astype(np.int64), low, high)
