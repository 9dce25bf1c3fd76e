"""How far answer lengths explain an outcome, and the win rate that is left without them.

The model is that of length-controlled AlpacaEval (Dubois et al. 2024, arXiv:2404.04475):

    logit P(win on prompt i) = φ·tanh(Δ_i/sd(Δ)) + ψ·difficulty_i + θ,

and the length-controlled win rate is the mean of σ(ψ·difficulty_i + θ): the same prompts at Δ = 0.
**Δ is the checkpoint's length minus the reference's**, so φ > 0 is a judge that likes length;
upstream subtracts the other way round: its φ has the opposite sign, its win rate is the same.

The estimator is not upstream's: a prior on φ stands for its two gamed baselines, any pool of
references gives the difficulty, the standard error knows that the coefficients are estimates, and
the state says when Δ = 0 is an extrapolation. Lengths may be in any unit, the same on both sides;
clusters are those of the rows, each row its own if None. NaN is refused unless a function says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit, stdtrit

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.clusters import clustering
from evalkit.statistics.intervals import Estimate, Method, mean

State = Literal[
    "ok",
    "extrapolated",  # the checkpoint is longer, or shorter, on under 10 % of the prompts
    "too few prompts",
    "no variance in lengths",
    "no variance in outcomes",
    "collinear",  # columns that cannot be told apart, as a constant difficulty
    "separated",  # a combination of the columns foretells every outcome: there is no maximum
]

MIN_PROMPTS, MIN_SHARE, MIN_COMPARISONS = 20, 0.1, 4
MAX_STEPS = 50  # separation adds 1 to the logits at each step, for ever; a maximum takes about 6
CONVERGED = 1e-9  # logits
SINGULAR = 1e-12  # smallest to largest eigenvalue
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class LengthPrior:
    """Normal prior on φ, the ridge penalty (φ - mean)²/(2·sd²); ValueError unless finite, sd > 0.

    Attributes:
        mean: In logits per unit of tanh(Δ/sd(Δ)).
        sd: Likewise.
        comparisons: Comparisons of the pool that had a φ; 0 if the prior was given.
    """

    mean: float
    sd: float
    comparisons: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.sd) and self.sd > 0):
            raise ValueError(f"a prior needs a finite mean and a finite sd above 0, got {self}")


# The scale of Gelman, Jakulin, Pittau and Su (2008, AoAS 2:4) for a coefficient nothing is known of
WEAK_PRIOR = LengthPrior(0.0, 2.5)


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """A length-controlled win rate and what it rests on.

    Attributes:
        estimate: Win rate at equal lengths; all None unless "ok" or "extrapolated".
        raw: Plain mean of the preferences.
        state: Why there is no estimate, or that it is an extrapolation and no headline.
        phi: Logits per unit of tanh(Δ/scale); None without a fit, as the other coefficients.
        psi: Logits per unit of difficulty; None without difficulty.
        theta: Logits.
        scale: sd(Δ) with n - 1, in units of length; None for fewer than two prompts.
        share_longer: Of the prompts, where the checkpoint is longer; None for no prompts.
        share_shorter: Where it is shorter.
        prior: On φ.
        stderr_fitted_values: What upstream calls the standard error: the sd of the fitted values
            over √n, as if the coefficients were known (0 without difficulty). For comparison only.
    """

    estimate: Estimate
    raw: Estimate
    state: State
    phi: float | None
    psi: float | None
    theta: float | None
    scale: float | None
    share_longer: float | None
    share_shorter: float | None
    prior: LengthPrior | None
    stderr_fitted_values: float | None


def length_controlled(
    preference: FloatArray,
    length_difference: FloatArray,
    *,
    difficulty: FloatArray | None = None,
    prior: LengthPrior | None = WEAK_PRIOR,
    clusters: IntArray | None = None,
    level: float = 0.95,
) -> LengthControlled:
    """Win rate with the effect of length taken out.

    The standard error is that of the influence function, clustered (CR1): the spread of the fitted
    values, the estimated coefficients, and the prior's spread as far as the win rate leans on it;
    difficulty and sd(Δ) count as known. The interval is Student's t (C - 1) on the logit.

    Args:
        preference: (n,) outcome or win probability in [0, 1]; a tie is ½.
        length_difference: (n,) checkpoint minus reference.
        difficulty: (n,) covariate, such as `difficulty_from_pool`.
        prior: On φ; None for plain maximum likelihood.
        clusters: (n,).
        level: Nominal coverage, in (0, 1).

    Returns:
        The estimate and its state; no interval with no more clusters than coefficients.

    Raises:
        ValueError: NaN, infinity, a preference outside [0, 1], unequal columns, a bad level.
    """
    check_columns(preference, length_difference, difficulty, clusters)
    raw = mean(preference, bounded=True, level=level, clusters=clusters)
    fit = _fit(preference, length_difference, difficulty, prior)
    coefficients: tuple[float | None, float | None, float | None] = (None, None, None)
    value = spread = naive = None
    if isinstance(fit, _Fit):
        coefficients = (fit.phi, fit.psi, fit.theta)
        fitted, influence, from_prior = _influence(fit)
        spread = clustered_stderr(influence, clusters, len(fit.beta), from_prior)
        value = float(fitted.mean())
        naive = 0.0 if fit.psi is None else float(fitted.std(ddof=1)) / math.sqrt(raw.n)
    return LengthControlled(
        around(value, spread, raw),
        raw,
        overlap(length_difference) if isinstance(fit, _Fit) else fit,
        *coefficients,
        scale=float(length_difference.std(ddof=1)) if raw.n > 1 else None,
        share_longer=float(np.mean(length_difference > 0)) if raw.n else None,
        share_shorter=float(np.mean(length_difference < 0)) if raw.n else None,
        prior=prior,
        stderr_fitted_values=naive,
    )


def difficulty_from_pool(values: FloatArray) -> FloatArray | None:
    """Difficulty of each prompt: the pool's mean z there, standardised over prompts.

    Each reference is standardised first, so that none speaks louder. A pool of margins or outcomes
    against one reference gives what upstream means: how easily that reference is beaten.

    Args:
        values: (P, R) rewards, margins or outcomes, the checkpoint's not among them; NaN: missing.

    Returns:
        (P,), higher where the pool does better; None if no column varies or they cancel.

    Raises:
        ValueError: Infinity, or a prompt without any value.
    """
    if np.any(np.isinf(values)) or np.any(np.all(np.isnan(values), axis=1)):
        raise ValueError("the pool holds infinity, or a prompt without a value")
    total, columns = np.zeros(len(values)), np.zeros(len(values))
    for column in values.T:
        known = np.flatnonzero(~np.isnan(column))
        x = column[known]
        if len(x) > 1 and np.ptp(x) > 0:
            total[known] += (x - x.mean()) / x.std(ddof=1)
            columns[known] += 1
    z = total / np.maximum(columns, 1)
    spread = float(z.std(ddof=1)) if len(z) > 1 else 0.0
    return (z - z.mean()) / spread if spread > ROUNDING else None


def prior_from_pool(
    preferences: FloatArray, length_differences: FloatArray, *, difficulty: FloatArray | None = None
) -> LengthPrior:
    """What length is worth to this judge: the spread of φ over comparisons among references.

    φ is fitted without a prior wherever there is a fit and enough overlap. The prior is the normal
    predictive of the next φ, estimation noise included: it errs on the wide side.

    Args:
        preferences: (P, M) in [0, 1], a comparison a column; NaN: missing.
        length_differences: (P, M) likewise; the same side first.
        difficulty: (P,) as in the fit that will use the prior.

    Returns:
        The prior; `WEAK_PRIOR` with the number of usable comparisons if those are under 4.

    Raises:
        ValueError: As `length_controlled`.
    """
    if preferences.shape != length_differences.shape:
        raise ValueError(
            f"tables of unequal shape: {preferences.shape}, {length_differences.shape}"
        )
    found = []
    for y, x in zip(preferences.T, length_differences.T, strict=True):
        known = ~(np.isnan(y) | np.isnan(x))
        covariate = None if difficulty is None else difficulty[known]
        check_columns(y[known], x[known], covariate)
        fit = _fit(y[known], x[known], covariate, None)
        if isinstance(fit, _Fit) and overlap(x[known]) == "ok":
            found.append(fit.phi)
    k = len(found)
    spread = float(np.std(found, ddof=1)) if k >= MIN_COMPARISONS else 0.0
    if spread <= ROUNDING:
        return LengthPrior(WEAK_PRIOR.mean, WEAK_PRIOR.sd, k)
    return LengthPrior(float(np.mean(found)), spread * math.sqrt(1 + 1 / k), k)


def around(
    value: float | None, stderr: float | None, like: Estimate, *, bounded: bool = True
) -> Estimate:
    """An estimate of `value`, with the level, rows and clusters of `like`.

    The interval is Student's t (C - 1), on the logit if bounded; none where the standard error is
    unknown or is rounding alone, for that is no certainty.
    """
    method: Method = "undefined"
    low = high = None
    if value is not None and stderr is not None and stderr > ROUNDING * max(abs(value), ROUNDING):
        half = float(stdtrit(like.clusters - 1, (1 + like.level) / 2)) * stderr
        if not bounded:
            method, low, high = "t", value - half, value + half
        elif 0 < value < 1:
            centre, half = math.log(value / (1 - value)), half / (value * (1 - value))
            method, (low, high) = "logit-t", expit([centre - half, centre + half]).tolist()
    return Estimate(value, low, high, stderr, like.level, like.n, like.clusters, method)


def clustered_stderr(
    influence: FloatArray, clusters: IntArray | None, coefficients: int, extra: float = 0.0
) -> float | None:
    """√(sum of squared cluster sums · C/(C-1)·(n-1)/(n-k) + extra), the usual CR1.

    Args:
        influence: (n,) what each row adds to the estimate; sums to 0.
        clusters: (n,) or None.
        coefficients: k.
        extra: Variance from elsewhere.

    Returns:
        The standard error; None with no more clusters than coefficients.
    """
    n = len(influence)
    sums = clustering(n, clusters).sums(influence)
    c = len(sums)
    if c <= coefficients:
        return None
    correction = c / (c - 1) * (n - 1) / (n - coefficients)
    return math.sqrt(float(sums @ sums) * correction + extra)


def check_columns(preference: FloatArray, *others: FloatArray | IntArray | None) -> None:
    """ValueError unless all are finite, of one length, and the first is in [0, 1]."""
    for column in (preference, *(x for x in others if x is not None)):
        if column.shape != (len(preference),):
            raise ValueError(f"columns of unequal shape: {preference.shape}, {column.shape}")
        if not np.all(np.isfinite(column)):
            raise ValueError("a column holds NaN or infinity; decide about those rows first")
    if len(preference) and not (preference.min() >= 0 and preference.max() <= 1):
        raise ValueError("preferences must lie in [0, 1]")


def overlap(length_difference: FloatArray) -> State:
    """Whether either side is the longer one on at least 10 % of the prompts (n,), n > 0."""
    share = min(np.mean(length_difference > 0), np.mean(length_difference < 0))
    return "ok" if share >= MIN_SHARE else "extrapolated"


class _Fit(NamedTuple):
    """A maximum. The difficulty is standardised in the design, (d - centre)/size."""

    design: FloatArray  # (n, k): tanh, difficulty if any, ones
    outcome: FloatArray  # (n,)
    precision: FloatArray  # (k,) of the prior
    beta: FloatArray  # (k,)
    centre: float
    size: float

    @property
    def phi(self) -> float:
        return float(self.beta[0])

    @property
    def psi(self) -> float | None:
        return None if len(self.beta) == 2 else float(self.beta[1]) / self.size

    @property
    def theta(self) -> float:
        return float(self.beta[-1]) - (self.psi or 0.0) * self.centre


def _fit(
    y: FloatArray, delta: FloatArray, difficulty: FloatArray | None, prior: LengthPrior | None
) -> _Fit | State:
    problem = _problem(y, delta, difficulty)
    if problem is not None:
        return problem
    columns, centre, size = [np.tanh(delta / delta.std(ddof=1)), np.ones(len(y))], 0.0, 1.0
    if difficulty is not None:
        centre, size = float(difficulty.mean()), float(difficulty.std())
        columns.insert(1, (difficulty - centre) / size)
    design = np.column_stack(columns)
    precision, guess = np.zeros(len(columns)), np.zeros(len(columns))
    if prior is not None:
        precision[0], guess[0] = prior.sd**-2, prior.mean
    if _singular(_information(design, np.ones(len(y)), precision)):
        return "collinear"
    beta = _maximise(design, y, precision, guess)
    return "separated" if beta is None else _Fit(design, y, precision, beta, centre, size)


def _problem(y: FloatArray, delta: FloatArray, difficulty: FloatArray | None) -> State | None:
    if len(y) < MIN_PROMPTS:
        return "too few prompts"
    if np.ptp(delta) == 0:
        return "no variance in lengths"
    if np.ptp(y) == 0:
        return "no variance in outcomes"
    return "collinear" if difficulty is not None and np.ptp(difficulty) == 0 else None


def _maximise(
    design: FloatArray, y: FloatArray, precision: FloatArray, guess: FloatArray
) -> FloatArray | None:
    """Damped Newton steps (IRLS) on the penalised Bernoulli likelihood of fractional outcomes."""

    def gain(beta: FloatArray) -> float:
        logits = design @ beta
        likelihood = y @ logits - np.logaddexp(0, logits).sum()
        return float(likelihood - precision @ (beta - guess) ** 2 / 2)

    share = min(max(float(y.mean()), ROUNDING), 1 - ROUNDING)
    beta = np.zeros(design.shape[1])
    beta[-1] = math.log(share / (1 - share))
    for _ in range(MAX_STEPS):
        logits = design @ beta
        up, down = expit(logits), expit(-logits)  # 1 - up would lose the small ones
        hessian = _information(design, up * down, precision)
        if _singular(hessian):
            return None
        gradient = (y * down - (1 - y) * up) @ design - precision * (beta - guess)
        step = np.linalg.solve(hessian, gradient)
        if np.max(np.abs(design @ step)) < CONVERGED:
            return beta + step
        limit = gain(beta)
        limit -= ROUNDING * abs(limit)
        while gain(beta + step) < limit:
            step = step / 2
        beta = beta + step
    return None


def _information(design: FloatArray, weight: FloatArray, precision: FloatArray) -> FloatArray:
    return np.asarray((design.T * weight) @ design + np.diag(precision), dtype=np.float64)


def _singular(matrix: FloatArray) -> bool:
    roots = np.linalg.eigvalsh(matrix)
    return bool(roots[0] <= SINGULAR * roots[-1])


def _influence(fit: _Fit) -> tuple[FloatArray, FloatArray, float]:
    """Fitted values at Δ = 0, each row's influence on their mean, the variance due to the prior."""
    design, y, n = fit.design, fit.outcome, len(fit.outcome)
    equal = design.copy()
    equal[:, 0] = 0
    fitted = expit(equal @ fit.beta)
    probability = expit(design @ fit.beta)
    hessian = _information(design, probability * (1 - probability), fit.precision)
    lean = np.linalg.solve(hessian, (fitted * (1 - fitted)) @ equal / n)
    scores = (y - probability) * (design @ lean)
    influence = (fitted - fitted.mean()) / n + scores - scores.mean()
    # β̂ - β = H⁻¹(Σ scores - Λ(β - β₀)), and under the prior Λ(β - β₀) has the variance Λ
    return fitted, influence, float(fit.precision @ lean**2)
