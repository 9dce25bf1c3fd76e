"""Strengths of checkpoints and references that met prompt by prompt: the Bradley-Terry model.

P(i beats j) = σ(θi - θj), by maximum likelihood. A tie is half a win for each side, and an outcome
in between is shared likewise. Prompts are the unit: covariances, tests and resamples are clustered
by prompt, since games taken as independent make standard errors two to three times too small.

Strengths are finite if wins and ties lead from every player to every other (Ford 1957, Am. Math.
Monthly 64:28). Else the fit is regularised and says so, or refused where no games connect players.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit, ndtr, ndtri, stdtr, stdtrit

from evalkit.data import FloatArray, IntArray
from evalkit.errors import InputError
from evalkit.statistics.games import (
    Games,
    imaginary_prompt,
    numbered,
    played,
    points_of,
    scores_of,
)
from evalkit.statistics.intervals import check_level, defined
from evalkit.statistics.resampling import Keys, weight_blocks
from evalkit.text import listing

ELO_PER_UNIT = 400 / math.log(10)
MAX_ITERATIONS = 200
CONVERGED = 1e-8  # a Newton step this short leaves an error of its square
NO_WIN = 1e-8  # share of the points of a pair: less is saturated arithmetic, not a win
NO_VARIANCE = 1e-18  # the square of a standard error; less is rounding


class Difference(NamedTuple):
    """θi - θj with its interval and two-sided p by Student's t with C - 1 degrees of freedom.

    None is what one prompt or lack of variance leaves unknown; of a player and its copy p is 1.
    """

    value: float
    low: float | None
    high: float | None
    stderr: float | None
    p: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Strengths:
    """Fitted strengths in natural-log units (× `ELO_PER_UNIT` gives Elo points).

    Attributes:
        players: The M names.
        strength: (M,) summing to 0, or 0 at the anchor.
        covariance: (M, M) clustered by prompt; NaN for one prompt.
        influence: (C, M) what each prompt, counted once more, would move the strengths by; if
            separated one row more, of the imaginary prompt.
        prompts: (C,) the sorted prompts with a game.
        wins: (M, M) weighted points of i against j as played.
        state: "separated" if some strengths would be infinite but for one imaginary prompt.
        components: Strong components by mean strength, descending; between any two of them all
            points went one way. One if "ok".
        anchor, ridge, level: As asked for.
    """

    players: tuple[str, ...]
    strength: FloatArray
    covariance: FloatArray = field(repr=False)
    influence: FloatArray = field(repr=False)
    prompts: IntArray = field(repr=False)
    wins: FloatArray = field(repr=False)
    state: Literal["ok", "separated"]
    components: tuple[tuple[str, ...], ...]
    anchor: int | None
    ridge: float
    level: float

    @property
    def stderr(self) -> FloatArray:
        """(M,) clustered standard errors; 0 at the anchor, NaN for one prompt."""
        own = np.diag(self.covariance)
        return np.sqrt(np.where(own <= NO_VARIANCE, 0.0, own))

    @property
    def ends(self) -> tuple[FloatArray, FloatArray]:
        """(M,) lower and upper ends, by Student's t; NaN without variance, 0 at the anchor."""
        half = np.where(self.stderr > 0, self.stderr, np.nan)
        half *= _t_quantile(len(self.prompts), self.level)
        if self.anchor is not None:
            half[self.anchor] = 0  # known by definition, not by lack of variance
        return self.strength - half, self.strength + half

    def difference(self, i: int, j: int, *, level: float | None = None) -> Difference:
        """How much stronger i is than j, paired by prompt; not corrected for other comparisons."""
        quantile = _t_quantile(len(self.prompts), self.level if level is None else level)
        value = float(self.strength[i] - self.strength[j])
        spread, p = (float(table[i, j]) for table in paired_tests(self))
        known = defined(p)
        if not spread > 0:
            return Difference(value, None, None, None if math.isnan(spread) else 0.0, known)
        half = quantile * spread
        return Difference(value, value - half, value + half, spread, known)


def fit(
    games: Games,
    players: Sequence[str],
    *,
    anchor: int | None = None,
    level: float = 0.95,
    ridge: float = 0.0,
) -> Strengths:
    """Maximum-likelihood strengths with their covariance clustered by prompt.

    The covariance is H⁻¹ (Σ g g') H⁻¹ with g the score of a prompt, summed over all its games, and
    no factor C/(C-1). If separated, an imaginary prompt is added in which every pair that met tied,
    with the weight of an average prompt of that pair. It counts in the covariance too: n prompts
    won of n give about ln(2n+1) ± t, whose lower end is that of Clopper and Pearson within 0.04 for
    n ≥ 10, and below it for fewer. The upper end is finite by this convention alone.

    Args:
        games: The N games.
        players: (M,) distinct names, M ≥ 2.
        anchor: The player whose strength is set to 0; None makes the strengths sum to 0.
        level: Nominal coverage of the intervals, in (0, 1).
        ridge: Penalty ridge/2·Σθ², ≥ 0, in units of games.

    Raises:
        InputError: No chain of games connects some players, who are named; or no maximum is found.
        ValueError: Arrays of unequal length, a NaN or an outcome outside [0, 1], a negative or
            infinite weight, a player outside [0, M) or against itself, a bad option.
    """
    _t_quantile(2, level)  # refuses a bad level
    games, wins, tied, components, strength, hessian = _maximum(games, players, anchor, ridge)
    prompts, label = numbered(games.prompt)
    predicted = expit(strength[:, None] - strength)
    scores = scores_of(games._replace(prompt=label), predicted, len(prompts))
    separated = len(components) > 1
    if separated:
        scores = np.vstack([scores, (tied * (0.5 - predicted)).sum(axis=1)])
    influence = scores @ np.linalg.inv(hessian)
    components.sort(key=lambda group: -float(strength[group].mean()))
    if anchor is not None:
        strength = strength - strength[anchor]
        influence = influence - influence[:, [anchor]]
    return Strengths(
        players=tuple(players),
        strength=strength,
        covariance=influence.T @ influence * (1.0 if len(prompts) > 1 else math.nan),
        influence=influence,
        prompts=prompts,
        wins=wins,
        state="separated" if separated else "ok",
        components=tuple(tuple(players[k] for k in group) for group in components),
        anchor=anchor,
        ridge=ridge,
        level=level,
    )


def point_estimate(
    games: Games, players: Sequence[str], *, anchor: int | None = None, ridge: float = 0.0
) -> FloatArray:
    """(M,) strengths of `fit` alone, in half its time; arguments and errors as there."""
    strength = _maximum(games, players, anchor, ridge).strength
    return strength if anchor is None else strength - strength[anchor]


class _Maximum(NamedTuple):
    """Where the likelihood is largest, and what it took to find it."""

    games: Games
    wins: FloatArray
    tied: FloatArray  # the imaginary prompt; 0 unless separated
    components: list[IntArray]
    strength: FloatArray
    hessian: FloatArray


def _maximum(games: Games, players: Sequence[str], anchor: int | None, ridge: float) -> _Maximum:
    m = len(players)
    if not (2 <= m == len(set(players)) and anchor in {None, *range(m)} and 0 <= ridge < math.inf):
        raise ValueError("two or more distinct players, one of them or None the anchor, ridge ≥ 0")
    games = played(games, m)
    wins = points_of(games, m)
    components = _components(wins, players)
    tied = imaginary_prompt(games, wins) if len(components) > 1 else np.zeros((m, m))
    strength, hessian = _newton(wins + tied / 2, ridge)
    return _Maximum(games, wins, tied, components, strength, hessian)


def _t_quantile(clusters: int, level: float) -> float:
    check_level(level)
    return float(stdtrit(max(1, clusters - 1), (1 + level) / 2))


def _components(wins: FloatArray, players: Sequence[str]) -> list[IntArray]:
    """The members of each strong component; refuses a graph in parts."""
    from scipy.sparse.csgraph import connected_components

    edges = wins > NO_WIN * (wins + wins.T)
    parts, part = connected_components(edges, directed=False)
    if parts > 1:
        members = [np.flatnonzero(part == g).tolist() for g in range(parts)]
        names = [listing([players[k] for k in group]) for group in members]
        raise InputError(
            f"the players fall into {parts} groups that never met",
            where=listing([f"[{group}]" for group in names], separator="; "),
            fix="fit the groups apart, or add games between them",
        )
    count, component = connected_components(edges, connection="strong")
    return [np.flatnonzero(component == g) for g in range(count)]


def _newton(wins: FloatArray, ridge: float) -> tuple[FloatArray, FloatArray]:
    """Strengths that sum to 0, and the negative Hessian made invertible.

    A step d of spread D = max d - min d is shortened to ln(1+D)/D of itself. As |σ''| ≤ σ' the
    curvature along it grows at most like exp(tD), which makes every such step an ascent (Sun and
    Tran-Dinh 2019, Math. Program. 178:145), and nearly a whole one close to the maximum.
    """
    m, total = len(wins), wins.sum()
    wins, penalty = wins / total, ridge / total
    played = wins + wins.T
    strength, spread = np.zeros(m), math.inf
    for _ in range(MAX_ITERATIONS):
        p = expit(strength[:, None] - strength)
        unexpected = wins * p.T  # p.T is 1 - p without its rounding
        gradient = (unexpected - unexpected.T).sum(axis=1) - penalty * strength
        information = played * p * p.T
        hessian = np.diag(information.sum(axis=1) + penalty) - information
        hessian += np.trace(hessian) / m**2  # along (1, …, 1) the likelihood is flat
        if spread < CONVERGED:
            return strength - strength.mean(), hessian * total
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            break
        spread = float(np.ptp(step))
        strength = strength + step * (math.log1p(spread) / spread if spread else 1.0)
    raise InputError("the Bradley-Terry fit did not converge", fix="bring the weights closer")


def win_probabilities(strengths: Strengths) -> FloatArray:
    """(M, M) probability σ(θi - θj) that i beats j; ½ on the diagonal."""
    theta = strengths.strength
    return np.asarray(expit(theta[:, None] - theta), dtype=np.float64)


class FitQuality(NamedTuple):
    """The largest |observed - predicted| win rate, its pair, and how many triples go in circles.

    `intransitive` is the share, of the triples that all met, in which each beat the next more often
    than not; None if there is no such triple.
    """

    gap: float
    pair: tuple[int, int]
    intransitive: float | None


def fit_quality(strengths: Strengths) -> FitQuality:
    """Compare the pairs as played with the pairs as fitted; a rate of exactly ½ beats nobody."""
    wins = strengths.wins
    played = wins + wins.T
    rate = np.divide(wins, played, out=np.full_like(wins, 0.5), where=played > 0)
    gap = np.where(played > 0, np.abs(rate - win_probabilities(strengths)), -1.0)
    i, j = np.unravel_index(np.argmax(gap), gap.shape)
    met = (played > 0).astype(np.float64)
    beats = (rate > 0.5 + 1e-12).astype(np.float64)  # sums of win probabilities round
    triples = round(float(np.sum(met @ met * met))) // 6
    cycles = round(float(np.sum(beats @ beats * beats.T))) // 3
    return FitQuality(float(gap[i, j]), (int(i), int(j)), cycles / triples if triples else None)


def paired_tests(strengths: Strengths) -> tuple[FloatArray, FloatArray]:
    """(M, M) standard errors and two-sided p-values of all differences; NaN where unknown."""
    own = np.diag(strengths.covariance)
    sums = own[:, None] + own
    variance = sums - 2 * strengths.covariance
    spread = np.sqrt(np.where(variance <= 1e-12 * sums + NO_VARIANCE, 0.0, variance))
    gap = np.abs(strengths.strength[:, None] - strengths.strength)
    t = np.divide(gap, spread, out=np.full_like(gap, np.nan), where=spread > 0)
    p = 2 * np.asarray(stdtr(len(strengths.prompts) - 1, -t), dtype=np.float64)
    p[(spread == 0) & (gap < 1e-9)] = 1.0  # a checkpoint and its copy, up to rounding
    return spread, p


class Bootstrap(NamedTuple):
    """Resampled strengths: draws (B, M) in the gauge of the fit, (M,) deviations, BCa ends."""

    draws: FloatArray
    stderr: FloatArray
    low: FloatArray
    high: FloatArray


def bootstrap(
    strengths: Strengths, keys: Keys, resamples: int, *, games: Games | None = None
) -> Bootstrap:
    """Resample prompts with keyed weights w: θ + (w - 1)·influence, one step from the fit.

    Ends are BCa (Efron 1987) at the level of the fit; where there is no variance, its own.

    Args:
        strengths: A fit of state "ok".
        keys: (C,) bootstrap keys in the order of `strengths.prompts`.
        resamples: B ≥ 2.
        games: The games of the fit, to refit them in every resample instead: slow, for checks.

    Raises:
        InputError: The fit is separated; or a resample to be refitted leaves players unconnected.
        ValueError: Keys of another number, fewer than two resamples, prompts not of the fit.
    """
    if strengths.state != "ok":
        raise InputError("a separated Bradley-Terry fit has no resamples", fix="use its own ends")
    if keys.shape != strengths.prompts.shape or resamples < 2:
        raise ValueError("the bootstrap needs one key a prompt and two or more resamples")
    blocks = weight_blocks(keys, resamples)
    if games is None:
        draws = strengths.strength + np.concatenate([(w - 1) @ strengths.influence for w in blocks])
    else:
        if not np.isin(games.prompt, strengths.prompts).all():
            raise ValueError("the games are not those of the fit")
        row = np.searchsorted(strengths.prompts, games.prompt)
        drawn = (games._replace(weights=w[row] * games.weights) for block in blocks for w in block)
        fits = (point_estimate(g, strengths.players, ridge=strengths.ridge) for g in drawn)
        draws = np.array(list(fits))
        draws -= 0 if strengths.anchor is None else draws[:, [strengths.anchor]]
    low, high = strengths.ends
    for k in np.flatnonzero(strengths.stderr > 0).tolist():
        low[k], high[k] = _bca(strengths, k, draws[:, k])
    return Bootstrap(draws, draws.std(axis=0, ddof=1), low, high)


def _bca(strengths: Strengths, k: int, draws: FloatArray) -> FloatArray:
    """Bias-corrected and accelerated ends for player k."""
    influence, limit = strengths.influence[:, k], 0.5 / len(draws)
    bias = ndtri(np.clip(np.mean(draws < strengths.strength[k]), limit, 1 - limit))
    skew = float(np.sum(influence**3) / (6 * np.sum(influence**2) ** 1.5))
    z = bias + ndtri(np.array([1 - strengths.level, 1 + strengths.level]) / 2)
    return np.asarray(np.quantile(draws, ndtr(bias + z / (1 - skew * z))), dtype=np.float64)
