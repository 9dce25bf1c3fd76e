"""The data of every metric, and the methods that are tried on them.

What the n prompts and their intra-cluster correlation (icc) mean:

* win rate, win probability, margin: `COMPLETIONS` completions a prompt, averaged inside it first;
  icc is the correlation of two completions of one prompt. Outcomes are beta-binomial, margins
  Student's t with 5 degrees of freedom, win probabilities σ(normal margin); for these last icc is
  that of the margins.
* the same "in groups": one completion a prompt, `GROUP` prompts a group (a source, a passage), icc
  that of two prompts of one group; groups are the declared clusters.
* paired difference: two checkpoints with `COMPLETIONS` completions each on the same prompts, whose
  difficulty they share; icc that of two completions of the better one.
* Bradley-Terry: three players, `GAMES` games of every pair on every prompt. With probability √icc
  a game takes the rewards all games of its prompt share, else new ones: two games of a pair
  correlate by icc, and every game alone follows the model exactly.
* length-controlled: `ANSWERS` completions a prompt with lengths of their own, prompts as clusters;
  the outcomes of one prompt hang together likewise.

The peers' methods are written out here; evalkit's are called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit

from evalkit.data import FloatArray
from evalkit.statistics.bradley_terry import Difference, fit
from evalkit.statistics.games import Games
from evalkit.statistics.intervals import Estimate, mean
from evalkit.statistics.length import length_controlled
from evalkit.statistics.multiplicity import holm, max_t_bands
from evalkit.statistics.outcomes import mean_by_group, win_probabilities
from evalkit.statistics.paired import paired_difference
from evalkit.statistics.power import minimum_detectable_effect

Whose = Literal["evalkit", "peer"]

LEVEL, POWER = 0.95, 0.8
Z = 1.959963984540054
COMPLETIONS, GROUP, GAMES, ANSWERS = 4, 5, 4, 2
CHECKPOINTS, RESAMPLES = 10, 500
T_DF = 5
MARGIN_SD = 1.5  # of the margins behind win probabilities
LENGTH_EFFECT, DIFFICULTY_EFFECT = 1.0, 0.8  # logits
# Paired differences, each with the win rate of the better checkpoint
BETTER = {0.05: 0.55, 0.02: 0.05}


class Design(NamedTuple):
    """What is simulated: a metric, n prompts, their correlation, and the true mean."""

    metric: str
    n: int
    icc: float
    mean: float


class Result(NamedTuple):
    """One method on one data set.

    Attributes:
        method: Its name.
        whose: evalkit's, or a peer's.
        held: Whether the interval held the truth, or the test was right; None without interval.
        width: Of the interval; None for tests.
        used: The method evalkit chose by the data; empty where there is no choice.
        nominal: How often it should hold.
        deciding: Prompts on which more than nothing happened, where few are a known limit.
    """

    method: str
    whose: Whose
    held: bool | None
    width: float | None = None
    used: str = ""
    nominal: float = LEVEL
    deciding: float = math.inf


Trial = list[Result]
Metric = Callable[[np.random.Generator, Design, int], Iterator[Trial]]


# What comes of an interval


def _ours(found: Estimate | Difference, truth: float, *, deciding: float = math.inf) -> Result:
    used = found.method if isinstance(found, Estimate) else "t on the sandwich by prompt"
    if found.low is None or found.high is None:
        return Result("none", "evalkit", None, deciding=deciding)
    held = found.low <= truth <= found.high
    return Result(used, "evalkit", held, found.high - found.low, used, deciding=deciding)


def _z(method: str, value: float, stderr: float, truth: float) -> Result:
    return Result(method, "peer", abs(value - truth) <= Z * stderr, 2 * Z * stderr)


def _z_of(method: str, column: FloatArray, truth: float) -> Result:
    return _z(method, float(column.mean()), _stderr(column), truth)


def _stderr(column: FloatArray) -> float:
    return float(column.std(ddof=1)) / math.sqrt(len(column))


def _row_bootstrap(rng: np.random.Generator, *shares: float, rows: int, truth: float) -> Result:
    """Percentiles of the (difference of the) mean of 0/1 rows, each row drawn by itself.

    Resampling rows of which a share is 1 is drawing a binomial number.
    """
    draws = [rng.binomial(rows, share, RESAMPLES) / rows for share in shares]
    low, high = np.quantile(draws[0] - sum(draws[1:]), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Result("row bootstrap", "peer", bool(low <= truth <= high), float(high - low))


def _alarm(p: float | None) -> bool:
    return p is not None and p < 1 - LEVEL


# What the data are made of


def _chances(rng: np.random.Generator, m: float, icc: float, shape: tuple[int, ...]) -> FloatArray:
    """Success probabilities of mean m, under which Bernoulli draws of one cell correlate by icc."""
    if icc == 0:
        return np.full(shape, m)
    size = (1 - icc) / icc
    return rng.beta(m * size, (1 - m) * size, shape)


def _correlated(
    rng: np.random.Generator, icc: float, shape: tuple[int, int, int], *, heavy: bool
) -> FloatArray:
    """(trials, clusters, rows) of mean 0 and variance 1; rows of one cluster correlate by icc."""
    parts = [shape, (*shape[:2], 1)]
    if heavy:
        scale = math.sqrt((T_DF - 2) / T_DF)
        own, shared = (rng.standard_t(T_DF, part) * scale for part in parts)
    else:
        own, shared = (rng.standard_normal(part) for part in parts)
    return np.asarray(own * math.sqrt(1 - icc) + shared * math.sqrt(icc), dtype=np.float64)


def _location(m: float, sd: float) -> float:
    """The centre c for which σ(c + sd · normal) has mean m."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(101)
    weights /= weights.sum()
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        below = float(weights @ expit(middle + sd * nodes)) < m
        low, high = (middle, high) if below else (low, middle)
    return low


# Means


def _win_rate(rng: np.random.Generator, design: Design, trials: int) -> Iterator[Trial]:
    chance = _chances(rng, design.mean, design.icc, (trials, design.n))
    for column in rng.binomial(COMPLETIONS, chance) / COMPLETIONS:
        share, rows = float(column.mean()), COMPLETIONS * design.n
        of_rows = math.sqrt(share * (1 - share) / (rows - 1))
        yield [
            _ours(mean(column, bounded=True), design.mean),
            _row_bootstrap(rng, share, rows=rows, truth=design.mean),
            _z("z on rows", share, of_rows, design.mean),
            _z_of("z on prompts", column, design.mean),
        ]


def _averaged(rows: FloatArray, truth: float, *, bounded: bool) -> Iterator[Trial]:
    """(trials, n, completions), averaged inside the prompt, then over prompts."""
    prompt = np.repeat(np.arange(rows.shape[1]), rows.shape[2])
    for values in rows.reshape(len(rows), -1):
        column = mean_by_group(values, prompt, rows.shape[1])
        yield [
            _ours(mean(column, bounded=bounded), truth),
            _z_of("z on rows", values, truth),
            _z_of("z on prompts", column, truth),
        ]


def _win_probability(rng: np.random.Generator, design: Design, trials: int) -> Iterator[Trial]:
    normal = _correlated(rng, design.icc, (trials, design.n, COMPLETIONS), heavy=False)
    margins = _location(design.mean, MARGIN_SD) + MARGIN_SD * normal
    return _averaged(win_probabilities(margins), design.mean, bounded=True)


def _margin(rng: np.random.Generator, design: Design, trials: int) -> Iterator[Trial]:
    rows = _correlated(rng, design.icc, (trials, design.n, COMPLETIONS), heavy=True)
    return _averaged(design.mean + rows, design.mean, bounded=False)


def _grouped(columns: FloatArray, truth: float, *, bounded: bool) -> Iterator[Trial]:
    group = np.arange(columns.shape[1]) // GROUP
    for column in columns:
        yield [
            _ours(mean(column, bounded=bounded, clusters=group), truth),
            _z_of("z on prompts", column, truth),
        ]


def _win_rate_in_groups(rng: np.random.Generator, design: Design, trials: int) -> Iterator[Trial]:
    chance = _chances(rng, design.mean, design.icc, (trials, design.n // GROUP))
    wins = rng.random((trials, design.n)) < np.repeat(chance, GROUP, axis=1)
    return _grouped(wins.astype(np.float64), design.mean, bounded=True)


def _margin_in_groups(rng: np.random.Generator, design: Design, trials: int) -> Iterator[Trial]:
    rows = _correlated(rng, design.icc, (trials, design.n // GROUP, GROUP), heavy=True)
    return _grouped(design.mean + rows.reshape(trials, -1), design.mean, bounded=False)


# Differences, strengths and length control


def _paired(rng: np.random.Generator, design: Design, trials: int) -> Iterator[Trial]:
    truth, better = design.mean, BETTER[design.mean]
    chance = _chances(rng, better, design.icc, (trials, design.n))
    a = rng.binomial(COMPLETIONS, chance) / COMPLETIONS
    b = rng.binomial(COMPLETIONS, chance * (1 - truth / better)) / COMPLETIONS
    for one, other in zip(a, b, strict=True):
        shares, rows = (float(one.mean()), float(other.mean())), COMPLETIONS * design.n
        gap, of_rows = shares[0] - shares[1], [share * (1 - share) / rows for share in shares]
        estimate = paired_difference(one, other).estimate
        yield [
            _ours(estimate, truth, deciding=float(np.sum(one != other))),
            _row_bootstrap(rng, *shares, rows=rows, truth=truth),
            _z("z on rows, unpaired", gap, math.sqrt(sum(of_rows)), truth),
            _z("z on prompts, unpaired", gap, math.hypot(_stderr(one), _stderr(other)), truth),
        ]


def _bradley_terry(rng: np.random.Generator, design: Design, trials: int) -> Iterator[Trial]:
    strength = np.array([design.mean / 2, -design.mean / 2, 0.0])
    i, j = (np.repeat(side, GAMES) for side in ([0, 0, 1], [1, 2, 2]))
    shared = strength + rng.gumbel(size=(trials, design.n, 3))
    common = shared[:, :, i] > shared[:, :, j]
    share = math.sqrt(design.icc)
    u = rng.random(common.shape)  # below `share` a common game, above it a new draw
    new = (u - share) / (1 - share) < expit(strength[i] - strength[j])
    prompt = np.repeat(np.arange(design.n), len(i))
    pairs = np.tile(i, design.n), np.tile(j, design.n)
    for won in np.where(u < share, common, new).reshape(trials, -1).astype(np.float64):
        by_prompt, by_game = (
            fit(Games(unit, *pairs, won), ("a", "b", "c")).difference(0, 1)
            for unit in (prompt, np.arange(len(prompt)))
        )
        spread = math.nan if by_game.stderr is None else by_game.stderr
        yield [
            _ours(by_prompt, design.mean),
            _z("z, games independent", by_game.value, spread, design.mean),
        ]


def _length_controlled(rng: np.random.Generator, design: Design, trials: int) -> Iterator[Trial]:
    shape, share = (trials, design.n, ANSWERS), math.sqrt(design.icc)
    difficulty = np.repeat(rng.standard_normal((trials, design.n, 1)), ANSWERS, axis=2)
    delta = 300 * (rng.standard_normal(shape) + 0.3) + 100 * difficulty
    logits = LENGTH_EFFECT * np.tanh(delta / math.hypot(300, 100)) + DIFFICULTY_EFFECT * difficulty
    chance = expit(logits + _location(design.mean, DIFFICULTY_EFFECT))
    common, u = rng.random((trials, design.n, 1)), rng.random(shape)
    won = np.where(rng.random(shape) < share, common, u) < chance
    prompt = np.repeat(np.arange(design.n), ANSWERS)
    for y, d, z in zip(won, delta, difficulty, strict=True):
        found = length_controlled(
            y.ravel().astype(np.float64), d.ravel(), difficulty=z.ravel(), clusters=prompt
        )
        deciding = float(min(np.sum(y.any(axis=1)), np.sum(~y.all(axis=1))))
        peer = Result("fitted-value errors", "peer", None)
        if found.estimate.value is not None and found.stderr_fitted_values is not None:
            # the fitted values of one prompt are equal: as many as there are prompts
            spread = found.stderr_fitted_values * math.sqrt(ANSWERS)
            peer = _z(peer.method, found.estimate.value, spread, design.mean)
        yield [_ours(found.estimate, design.mean, deciding=deciding), peer]


# Tests


def _false_alarm(rng: np.random.Generator, design: Design, trials: int) -> Iterator[Trial]:
    chance = _chances(rng, 0.5, design.icc, (trials, design.n))
    a, b = (rng.binomial(COMPLETIONS, chance) / COMPLETIONS for _ in range(2))
    for one, other in zip(a, b, strict=True):
        gap, spread = float(one.mean() - other.mean()), math.hypot(_stderr(one), _stderr(other))
        yield [
            Result("paired t", "evalkit", not _alarm(paired_difference(one, other).p)),
            Result("z on prompts, unpaired", "peer", abs(gap) <= Z * spread),
        ]


def _family(rng: np.random.Generator, design: Design, trials: int) -> Iterator[Trial]:
    chance = _chances(rng, 0.5, design.icc, (trials, design.n, 1))
    played = rng.binomial(COMPLETIONS, chance, (trials, design.n, 1 + CHECKPOINTS)) / COMPLETIONS
    for table in played:
        keys = rng.integers(0, 2**64, design.n, dtype=np.uint64)
        bands = max_t_bands(table[:, 1:] - table[:, :1], keys=keys, resamples=RESAMPLES).bands
        p = [paired_difference(column, table[:, 0]).p for column in table.T[1:]]
        alone = np.array(p, dtype=np.float64)
        yield [
            Result("max-t", "evalkit", not any(_alarm(band.p) for band in bands)),
            Result("Holm", "evalkit", not any(map(_alarm, holm(alone).tolist()))),
            Result("paired t each, uncorrected", "peer", not any(map(_alarm, p))),
        ]


def _power(rng: np.random.Generator, design: Design, trials: int) -> Iterator[Trial]:
    """Two checkpoints whose noise is such that their difference is the least detectable one."""
    shape = (trials, design.n, COMPLETIONS)
    a, b = (_correlated(rng, design.icc, shape, heavy=True).mean(axis=2) for _ in range(2))
    variance = design.icc + (1 - design.icc) / COMPLETIONS
    stderr = math.sqrt(2 * variance / design.n)
    stated = minimum_detectable_effect(stderr, level=LEVEL, power=POWER, df=design.n - 1)
    scale = design.mean / stated
    for one, other in zip(design.mean + scale * a, scale * b, strict=True):
        found = _alarm(paired_difference(one, other).p)
        yield [Result("paired t", "evalkit", found, nominal=POWER)]


FAMILY = "false alarms, 10 checkpoints"
# How to draw it, its typical mean, and extreme ones.
METRICS: dict[str, tuple[Metric, tuple[float, ...]]] = {
    "win rate": (_win_rate, (0.55, 0.05, 0.95)),
    "win probability": (_win_probability, (0.55, 0.05, 0.95)),
    "margin": (_margin, (0.3,)),
    "win rate in groups": (_win_rate_in_groups, (0.55, 0.05)),
    "margin in groups": (_margin_in_groups, (0.3,)),
    "paired difference": (_paired, (0.05, 0.02)),
    "Bradley-Terry difference": (_bradley_terry, (0.2, 3.0)),
    "length-controlled win rate": (_length_controlled, (0.55, 0.05)),
    "false alarms, 2 checkpoints": (_false_alarm, (0.0,)),
    FAMILY: (_family, (0.0,)),
    "power at the least detectable difference": (_power, (0.2,)),
}
