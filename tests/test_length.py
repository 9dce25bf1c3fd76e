import functools
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from evalkit.statistics.intervals import mean
from evalkit.statistics.length import (
    WEAK_PRIOR,
    LengthPrior,
    difficulty_from_pool,
    length_controlled,
    prior_from_pool,
)
from evalkit.statistics.length_diagnostics import (
    length_balanced,
    length_diagnostics,
    length_matched,
    reward_length_correlation,
)
from tests.shared_data import SHARED, needs_shared

fast = settings(max_examples=60, deadline=None)
ALPACA = SHARED / "data" / "alpaca_eval"
AE2 = "weighted_alpaca_eval_gpt4_turbo"
BASELINE = "gpt4_1106_preview"


def ends(estimate):
    return estimate.low, estimate.high


def synthetic(seed, n=200, *, phi=1.0, psi=0.0, theta=0.0, shift=0.0):
    """Outcomes 1/0 of a judge that likes length by phi; the length depends on the difficulty."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=n)
    delta = 300 * (rng.normal(size=n) + shift) + 100 * difficulty
    logits = phi * np.tanh(delta / math.hypot(300, 100)) + psi * difficulty + theta
    return (rng.uniform(size=n) < special.expit(logits)).astype(float), delta, difficulty


def design_of(delta, difficulty=None):
    columns = [np.tanh(delta / np.std(delta, ddof=1)), np.ones(len(delta))]
    return np.column_stack(columns if difficulty is None else [*columns, difficulty])


def coefficients(found):
    return [found.phi, found.theta, *([] if found.psi is None else [found.psi])]


# The fit


def test_controlled_win_rate_by_hand():
    # As many prompts at -1 as at +1, won at rates .5 and .8: the logits are 0 and ln 4, the one in
    # the middle is ln 2, so the win rate is 2/3, not .65.
    delta = np.repeat([-1.0, 1.0], 20)
    preference = np.repeat([0.0, 1.0, 0.0, 1.0], [10, 10, 4, 16])
    found = length_controlled(preference, delta, prior=None)
    assert found.estimate.value == pytest.approx(2 / 3, rel=1e-12)
    assert found.raw.value == 0.65
    assert found.theta == pytest.approx(math.log(2), rel=1e-12)
    assert found.scale == pytest.approx(math.sqrt(40 / 39), rel=1e-15)
    assert found.phi == pytest.approx(math.log(2) / math.tanh(math.sqrt(39 / 40)), rel=1e-12)
    assert (found.psi, found.state) == (None, "ok")
    assert (found.share_longer, found.share_shorter) == (0.5, 0.5)


@pytest.mark.parametrize("with_difficulty", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_fit_without_a_prior_is_the_binomial_glm(seed, with_difficulty):
    y, delta, difficulty = synthetic(seed, psi=0.7, theta=-0.5)
    y = 0.9 * y + 0.05  # fractional outcomes
    covariate = 1e4 + 1e3 * difficulty if with_difficulty else None
    design = design_of(delta, None if covariate is None else difficulty)
    fit = sm.GLM(y, design, family=sm.families.Binomial()).fit(tol=1e-14)
    found = length_controlled(y, delta, difficulty=covariate, prior=None)
    expected = special.expit(design[:, 1:] @ fit.params[1:])
    assert found.phi == pytest.approx(fit.params[0], rel=1e-9)
    assert found.estimate.value == pytest.approx(expected.mean(), rel=1e-9)
    naive = stats.sem(expected)
    assert found.stderr_fitted_values == pytest.approx(naive, rel=1e-9, abs=1e-15)
    if with_difficulty:
        assert found.psi == pytest.approx(fit.params[2] / 1e3, rel=1e-9)
        assert found.theta == pytest.approx(fit.params[1] - 10 * fit.params[2], rel=1e-9)
        fitted = special.expit(found.psi * covariate + found.theta)
        assert fitted.mean() == pytest.approx(found.estimate.value, rel=1e-12)


@pytest.mark.parametrize("prior", [WEAK_PRIOR, LengthPrior(2.0, 0.2)])
def test_fit_with_a_prior_maximises_the_penalised_likelihood(prior):
    y, delta, difficulty = synthetic(0, n=60, psi=0.7)
    design = design_of(delta, difficulty)

    def loss(beta):
        logits = design @ beta
        ridge = (beta[0] - prior.mean) ** 2 / (2 * prior.sd**2)
        return np.sum(np.logaddexp(0, logits) - y * logits) + ridge

    best = optimize.minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-7})
    found = length_controlled(y, delta, difficulty=difficulty, prior=prior)
    np.testing.assert_allclose(coefficients(found), best.x, atol=1e-6)
    assert found.prior == prior


def test_a_tight_prior_is_believed_and_a_wide_one_is_not():
    y, delta, _ = synthetic(0)
    tight = length_controlled(y, delta, prior=LengthPrior(3.0, 1e-4))
    wide = length_controlled(y, delta, prior=LengthPrior(3.0, 1e4))
    assert tight.phi == pytest.approx(3, abs=1e-4)
    assert wide.phi == pytest.approx(length_controlled(y, delta, prior=None).phi, abs=1e-5)


@pytest.mark.parametrize(("mean_", "sd"), [(0, 0), (0, -1), (0, math.inf), (math.nan, 1)])
def test_an_impossible_prior_is_refused(mean_, sd):
    with pytest.raises(ValueError, match="prior"):
        LengthPrior(mean_, sd)


# Its standard error and interval


@pytest.mark.parametrize("clustered", [False, True])
def test_standard_error_agrees_with_statsmodels(clustered):
    # Without difficulty the win rate is σ(θ): the delta method on the robust error of θ.
    y, delta, _ = synthetic(1, n=240, theta=0.4)
    label = np.repeat(np.arange(40), np.tile([4, 8], 20))
    fit = sm.GLM(y, design_of(delta), family=sm.families.Binomial()).fit(
        tol=1e-14,
        cov_type="cluster",
        cov_kwds={"groups": label if clustered else np.arange(240), "use_correction": True},
    )
    found = length_controlled(y, delta, prior=None, clusters=label * 7 if clustered else None)
    p = special.expit(fit.params[1])
    assert found.estimate.stderr == pytest.approx(p * (1 - p) * fit.bse[1], rel=1e-8)
    assert found.estimate.clusters == (40 if clustered else 240)
    half = stats.t.ppf(0.975, found.estimate.clusters - 1) * fit.bse[1]
    expected = special.expit(fit.params[1] + np.array([-half, half]))
    np.testing.assert_allclose(ends(found.estimate), expected, rtol=1e-8)
    assert found.estimate.method == "logit-t"


def jackknife(y, delta, difficulty):
    """Upstream of every formula: leave one prompt out, sd(Δ) held, and look at the spread."""
    n, values = len(y), []
    design = design_of(delta, difficulty)
    for i in range(n):
        rows = np.arange(n) != i
        fit = sm.GLM(y[rows], design[rows], family=sm.families.Binomial()).fit()
        values.append(special.expit(design[rows, 1:] @ fit.params[1:]).mean())
    return math.sqrt((n - 1) / n * np.sum((values - np.mean(values)) ** 2))


def test_standard_error_with_difficulty_agrees_with_the_jackknife():
    y, delta, difficulty = synthetic(2, n=400, psi=0.9, theta=-0.5)
    found = length_controlled(y, delta, difficulty=difficulty, prior=None)
    assert found.estimate.stderr == pytest.approx(jackknife(y, delta, difficulty), rel=0.02)


def test_repeating_every_row_within_its_cluster_adds_no_certainty():
    y, delta, difficulty = synthetic(3)
    thrice = [np.repeat(x, 3) for x in (y, delta, difficulty, np.arange(200))]
    found = length_controlled(
        thrice[0], thrice[1], difficulty=thrice[2], clusters=thrice[3], prior=None
    )
    plain = length_controlled(y, delta, difficulty=difficulty, prior=None)
    careless = length_controlled(thrice[0], thrice[1], difficulty=thrice[2], prior=None)
    assert found.estimate.n == 600
    assert found.estimate.stderr == pytest.approx(plain.estimate.stderr, rel=0.01)
    assert careless.estimate.stderr < 0.6 * plain.estimate.stderr


def test_no_interval_with_no_more_clusters_than_coefficients():
    y, delta, _ = synthetic(0, n=60)
    two = length_controlled(y, delta, clusters=np.arange(60) % 2).estimate
    assert two.value is not None
    assert (two.low, two.high, two.stderr, two.method) == (None, None, None, "undefined")
    assert length_controlled(y, delta, clusters=np.arange(60) % 3).estimate.low is not None


def test_clusters_that_agree_leave_only_the_uncertainty_of_the_prior():
    y, delta, difficulty = (np.tile(x, 6) for x in synthetic(0, n=40, phi=0.5, shift=-0.8))
    label = np.repeat(np.arange(6), 40)

    def fit(prior):
        return length_controlled(y, delta, difficulty=difficulty, prior=prior, clusters=label)

    up, down = (fit(LengthPrior(2.0 + step, 0.3)).estimate.value for step in (1e-4, -1e-4))
    assert fit(LengthPrior(2.0, 0.3)).estimate.stderr == pytest.approx(
        0.3 * abs(up - down) / 2e-4, rel=1e-4
    )
    certain = fit(None).estimate
    assert (certain.low, certain.method) == (None, "undefined")


def covered(draws, *, n, clusters=None, **truth):
    hits = 0
    for seed in range(draws):
        y, delta, difficulty = synthetic(seed, n=n, **truth)
        found = length_controlled(y, delta, difficulty=difficulty, clusters=clusters)
        low, high = ends(found.estimate)
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        logits = truth["psi"] * nodes + truth["theta"]
        value = weights @ special.expit(logits) / weights.sum()
        hits += low <= value <= high
    return hits / draws


# 400 draws of a 95 % interval cover 92-98 % in 996 of 1000 runs, 2000 draws 93.6-96.4 %.
@pytest.mark.parametrize("n", [50, 200])
def test_interval_covers(n):
    assert 0.92 <= covered(400, n=n, phi=1.5, psi=0.8, theta=0.3, shift=0.5) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("theta", [-1.5, 0.0, 1.0])
@pytest.mark.parametrize("n", [50, 200, 805])
def test_interval_covers_in_every_setting(n, theta):
    found = covered(2000, n=n, phi=1.5, psi=0.8, theta=theta, shift=-0.5)
    assert 0.936 <= found <= (0.975 if n == 50 else 0.968)


def test_interval_covers_where_the_prior_must_tell_what_length_is_worth():
    # All but a few prompts have the shorter answer by about as much, so φ and θ cannot be told
    # apart; φ comes from the prior.
    prior, hits, narrow = LengthPrior(1.5, 0.5), 0, 0
    for seed in range(300):
        rng = np.random.default_rng(1000 + seed)
        phi = rng.normal(prior.mean, prior.sd)
        y, delta, _ = synthetic(seed, n=400, phi=phi, shift=-3.0, theta=0.8)
        found = length_controlled(y, delta, prior=prior)
        assert found.state == "extrapolated"
        low, high = ends(found.estimate)
        hits += low <= special.expit(0.8) <= high
        # without the prior's own spread: the prior as certain as can be
        low, high = ends(length_controlled(y, delta, prior=LengthPrior(prior.mean, 1e-6)).estimate)
        narrow += low <= special.expit(0.8) <= high
    assert 0.91 <= hits / 300 <= 0.985
    assert narrow / 300 < 0.75


# What it is for


def test_planted_length_bias_is_removed():
    raw, controlled, seeds = 0, 0, range(40)
    for seed in seeds:
        y, delta, difficulty = synthetic(seed, n=805, phi=1.5, shift=1.0)
        found = length_controlled(y, delta, difficulty=difficulty)
        assert found.raw.low > 0.5
        assert abs(found.estimate.value - 0.5) < abs(found.raw.value - 0.5)
        raw += found.raw.low <= 0.5 <= found.raw.high
        controlled += found.estimate.low <= 0.5 <= found.estimate.high
    assert (raw, controlled) == (0, pytest.approx(38, abs=2))


def test_planted_effect_is_kept():
    hits = 0
    for seed in range(40):
        y, delta, _ = synthetic(seed, n=805, phi=2.0, theta=0.8, shift=-1.0)
        found = length_controlled(y, delta)
        assert found.raw.value < 0.5 < found.estimate.low
        hits += found.estimate.low <= special.expit(0.8) <= found.estimate.high
    assert hits >= 36


def test_difficulty_that_goes_with_length_is_not_taken_for_length():
    # The judge does not care for length; the longer answers stand on the easier prompts.
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=4000)
    delta = difficulty + 0.3 * rng.normal(size=4000)
    y = (rng.uniform(size=4000) < special.expit(1.5 * difficulty)).astype(float)
    assert abs(length_controlled(y, delta, difficulty=difficulty).phi) < 0.5
    assert length_controlled(y, delta).phi > 1.5


# Invariances

SETTINGS = st.tuples(
    st.integers(0, 10**6), st.integers(20, 120), st.floats(-2, 2), st.floats(-1, 1)
)


def drawn(setting):
    seed, n, phi, shift = setting
    y, delta, difficulty = synthetic(seed, n=n, phi=phi, psi=0.5, shift=shift)
    return np.clip(y, 0.1, 1), np.round(delta), difficulty


def figures(found):
    e = found.estimate
    return [e.value, e.low, e.high, e.stderr, found.raw.value, found.stderr_fitted_values]


@given(SETTINGS, st.randoms(use_true_random=False))
@fast
def test_row_order_does_not_matter(setting, random):
    y, delta, difficulty = drawn(setting)
    order = random.sample(range(len(y)), len(y))
    one = length_controlled(y, delta, difficulty=difficulty, clusters=np.arange(len(y)) // 2)
    other = length_controlled(
        y[order], delta[order], difficulty=difficulty[order], clusters=np.array(order) // 2
    )
    assert other.state == one.state
    np.testing.assert_allclose(figures(other), figures(one), rtol=0, atol=1e-8)


@given(SETTINGS, st.sampled_from([None, WEAK_PRIOR, LengthPrior(1.5, 0.5)]))
@fast
def test_swapping_the_sides_mirrors_everything(setting, prior):
    y, delta, difficulty = drawn(setting)
    one = length_controlled(y, delta, difficulty=difficulty, prior=prior)
    other = length_controlled(1 - y, -delta, difficulty=difficulty, prior=prior)
    assert other.state == one.state
    assert (other.share_longer, other.share_shorter) == (one.share_shorter, one.share_longer)
    np.testing.assert_allclose(
        [other.phi, other.psi, other.theta], [one.phi, -one.psi, -one.theta], atol=1e-7
    )
    assert other.estimate.value == pytest.approx(1 - one.estimate.value, abs=1e-8)
    assert other.estimate.stderr == pytest.approx(one.estimate.stderr, abs=1e-8)
    assert ends(other.estimate) == pytest.approx([1 - x for x in reversed(ends(one.estimate))])


@given(SETTINGS, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(-50, 50))
@fast
def test_units_of_length_and_difficulty_do_not_matter(setting, unit, scale, shift):
    y, delta, difficulty = drawn(setting)
    one = length_controlled(y, delta, difficulty=difficulty)
    other = length_controlled(y, unit * delta, difficulty=scale * difficulty + shift)
    assert other.phi == pytest.approx(one.phi, abs=1e-7)
    assert other.scale == pytest.approx(unit * one.scale)
    np.testing.assert_allclose(figures(other), figures(one), rtol=0, atol=1e-7)


# States and refusals


def no_estimate(found, state):
    e = found.estimate
    assert found.state == state
    assert (e.value, e.low, e.high, e.stderr, e.method) == (None, None, None, None, "undefined")
    assert (found.phi, found.psi, found.theta, found.stderr_fitted_values) == (None,) * 4


@pytest.mark.parametrize("n", [0, 1, 2, 19])
def test_too_few_prompts(n):
    y, delta, difficulty = synthetic(0, n=n)
    found = length_controlled(y, delta, difficulty=difficulty)
    no_estimate(found, "too few prompts")
    assert found.raw == mean(y, bounded=True)
    assert (found.scale is None) == (n < 2)
    assert (found.share_longer is None) == (n == 0)


def test_twenty_prompts_are_enough():
    y, delta, _ = synthetic(0, n=20)
    assert length_controlled(y, delta).estimate.low is not None


@pytest.mark.parametrize("delta", [0.0, -7.0, 0.1])
def test_no_variance_in_lengths(delta):
    y, _, _ = synthetic(0)
    found = length_controlled(y, np.full(200, delta))
    no_estimate(found, "no variance in lengths")
    assert found.raw.value == y.mean()


@pytest.mark.parametrize("value", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("prior", [None, WEAK_PRIOR])
def test_all_won_lost_or_tied_has_no_model_and_an_honest_raw_win_rate(value, prior):
    _, delta, _ = synthetic(0, n=60)
    found = length_controlled(np.full(60, value), delta, prior=prior)
    no_estimate(found, "no variance in outcomes")
    assert found.raw.low < found.raw.high


def test_a_judge_of_length_alone_is_separated_unless_a_prior_holds_it():
    _, delta, _ = synthetic(0, n=60)
    y = (delta > 0).astype(float)
    no_estimate(length_controlled(y, delta, prior=None), "separated")
    held = length_controlled(y, delta)
    assert held.state == "ok"
    assert held.estimate.low < 0.5 < held.estimate.high


@pytest.mark.parametrize("ties", [0, 1, 5])
def test_difficulty_that_foretells_every_outcome_is_separated(ties):
    _, delta, difficulty = synthetic(0, n=60)
    y = (difficulty > 0.3).astype(float)
    difficulty[:ties], y[:ties] = 0.3, 0.5  # quasi-separation
    no_estimate(length_controlled(y, delta, difficulty=difficulty), "separated")


def test_outcomes_near_0_and_1_are_not_taken_for_separation():
    rng = np.random.default_rng(0)
    delta = rng.normal(size=100)
    found = length_controlled(special.expit(-25 + rng.normal(size=100)), delta, prior=None)
    assert found.state == "ok"
    assert found.theta == pytest.approx(-24.5, abs=0.5)
    assert 0 < found.estimate.low < found.estimate.value < found.estimate.high < 1e-9


def test_difficulty_that_cannot_be_told_from_the_rest_is_collinear():
    y, delta, _ = synthetic(0)
    no_estimate(length_controlled(y, delta, difficulty=np.full(200, 0.1)), "collinear")
    same = 3 - 2 * np.tanh(delta / np.std(delta, ddof=1))
    no_estimate(length_controlled(y, delta, difficulty=same, prior=None), "collinear")


@pytest.mark.parametrize(
    ("longer", "state"), [(9, "extrapolated"), (10, "ok"), (91, "extrapolated")]
)
def test_extrapolation_is_named(longer, state):
    rng = np.random.default_rng(0)
    delta = rng.uniform(1, 2, 100) * np.repeat([1, -1], [longer, 100 - longer])
    found = length_controlled(rng.uniform(size=100), delta)
    assert (found.state, found.share_longer) == (state, longer / 100)
    assert found.estimate.low < found.estimate.value < found.estimate.high


def test_equal_lengths_are_neither_longer_nor_shorter():
    y, delta, _ = synthetic(0, n=100)
    delta[:50] = 0
    found = length_controlled(y, delta)
    assert found.share_longer + found.share_shorter == pytest.approx(0.5, rel=1e-15)


FUNCTIONS = [
    length_controlled,
    length_matched,
    length_balanced,
    lambda y, delta, **more: length_diagnostics(y, None, delta, np.zeros(len(delta)), **more),
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 1])
def test_unknown_values_are_refused(function, column, value):
    columns = synthetic(0)[:2]
    columns[column][3] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        function(*columns)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_no_preference_is_refused(function):
    y, delta, _ = synthetic(0)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        function(y + 1, delta)  # raw AlpacaEval preferences
    with pytest.raises(ValueError, match="shape"):
        function(y, delta[1:])
    with pytest.raises(ValueError, match="shape"):
        function(y, delta, clusters=np.arange(3))
    with pytest.raises(ValueError, match="level"):
        function(y, delta, level=1.0)


def test_unknown_difficulty_is_refused():
    y, delta, difficulty = synthetic(0)
    difficulty[0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        length_controlled(y, delta, difficulty=difficulty)
    with pytest.raises(ValueError, match="NaN"):
        length_diagnostics(y, difficulty, delta, delta)


# The reference pool


def test_difficulty_by_hand():
    # z of the columns: (-1, 0, 1) and (0, 1, -1); their means -½, ½, 0 have the sd ½
    pool = np.array([[1.0, 20.0], [2.0, 30.0], [3.0, 10.0]])
    np.testing.assert_allclose(difficulty_from_pool(pool), [-1, 1, 0], atol=1e-15)


def test_difficulty_does_not_depend_on_the_units_of_a_reference():
    pool = np.random.default_rng(0).normal(size=(50, 6))
    mapped = pool * np.array([1, 1, 10, 0.1, 1, 1]) + np.array([0, 5, 0, -3, 0, 0])
    np.testing.assert_allclose(difficulty_from_pool(mapped), difficulty_from_pool(pool), atol=1e-12)


def test_difficulty_takes_the_references_there_are():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=400)
    pool = truth[:, None] + rng.normal(size=(400, 12))
    pool[rng.uniform(size=pool.shape) < 0.3] = np.nan
    pool[:, 0] = 5.0  # a reference that tells nothing
    pool[:, 1] = np.nan
    found = difficulty_from_pool(pool)
    assert found.mean() == pytest.approx(0, abs=1e-12)
    assert found.std(ddof=1) == pytest.approx(1, rel=1e-12)
    assert np.corrcoef(found, truth)[0, 1] > 0.9


@pytest.mark.parametrize(
    "pool", [np.ones((9, 3)), np.array([[1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])]
)
def test_a_pool_that_tells_nothing_has_no_difficulty(pool):
    assert difficulty_from_pool(pool) is None


@pytest.mark.parametrize("row", [[np.inf, 1.0], [np.nan, np.nan]])
def test_difficulty_refuses_infinity_and_a_prompt_without_values(row):
    with pytest.raises(ValueError, match="pool"):
        difficulty_from_pool(np.array([row, [1.0, 2.0], [3.0, 1.0]]))


def planted_pool(seed, comparisons, *, shift=0.0, n=400):
    rng = np.random.default_rng(seed)
    phi = rng.normal(1.5, 0.3, comparisons)
    columns = [
        synthetic(seed + k, n=n, phi=x, theta=rng.normal(), shift=shift)[:2]
        for k, x in enumerate(phi)
    ]
    return (np.column_stack(x) for x in zip(*columns, strict=True))


def test_prior_of_a_pool_finds_what_length_is_worth():
    found = prior_from_pool(*planted_pool(0, 60))
    assert found.comparisons == 60
    # an estimate of φ from 400 prompts has a standard error of about .2
    assert found.mean == pytest.approx(1.5, abs=4 * math.hypot(0.3, 0.2) / math.sqrt(60))
    assert found.sd == pytest.approx(math.hypot(0.3, 0.2), rel=0.3)


def test_prior_by_hand():
    preferences, differences = planted_pool(3, 5)
    phi = [
        length_controlled(y, x, prior=None).phi
        for y, x in zip(preferences.T, differences.T, strict=True)
    ]
    found = prior_from_pool(preferences, differences)
    assert (found.mean, found.comparisons) == (pytest.approx(np.mean(phi)), 5)
    assert found.sd == pytest.approx(np.std(phi, ddof=1) * math.sqrt(6 / 5))


def test_prior_leaves_out_comparisons_that_say_nothing():
    preferences, differences = planted_pool(0, 7)
    preferences[:, 0] = 1.0
    differences[:, 1] = np.abs(differences[:, 1]) + 1
    preferences[10:, 2] = np.nan
    preferences[:5, 3] = np.nan
    assert prior_from_pool(preferences, differences).comparisons == 4
    assert prior_from_pool(preferences[:, :6], differences[:, :6]) == LengthPrior(0.0, 2.5, 3)
    assert prior_from_pool(np.empty((30, 0)), np.empty((30, 0))) == WEAK_PRIOR


def test_prior_of_equal_comparisons_is_not_certain():
    y, delta, _ = synthetic(0)
    found = prior_from_pool(np.tile(y[:, None], 6), np.tile(delta[:, None], 6))
    assert found == LengthPrior(0.0, 2.5, 6)


def test_prior_refuses_tables_that_do_not_fit():
    preferences, differences = planted_pool(0, 4)
    for table in (differences[:, :3], differences[1:]):
        with pytest.raises(ValueError, match="shape"):
            prior_from_pool(preferences, table)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        prior_from_pool(preferences + 1, differences)


# Matched and balanced


def test_matched_win_rate_is_that_of_the_closest_lengths():
    delta = np.array([0.0, -1, 2, -3, 4, 10, -20, 30])
    y = np.array([1.0, 1, 0, 1, 0, 0, 0, 0])
    found = length_matched(y, delta)
    assert found == mean(y[:4], bounded=True)
    assert length_matched(y, delta, quantile=1.0) == mean(y, bounded=True)
    label = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    assert length_matched(y, delta, clusters=label).clusters == 2


def test_matched_win_rate_keeps_every_tie_at_the_threshold():
    assert length_matched(np.ones(10), np.repeat([1.0, -1.0], 5), quantile=0.1).n == 10
    assert (
        length_matched(np.ones(10), np.arange(10.0), quantile=0.91).n == 10
    )  # not fewer than asked


@pytest.mark.parametrize("quantile", [0.0, -0.1, 1.1, math.nan])
def test_matching_needs_a_quantile(quantile):
    with pytest.raises(ValueError, match="quantile"):
        length_matched(np.ones(5), np.ones(5), quantile=quantile)


@pytest.mark.parametrize("clustered", [False, True])
def test_balanced_win_rate_agrees_with_statsmodels(clustered):
    y, delta, _ = synthetic(0, shift=0.8)
    label = np.arange(200) // 4
    longer = (delta > 0).astype(float)
    fit = sm.OLS(y, np.column_stack([longer, 1 - longer])).fit(
        cov_type="cluster", cov_kwds={"groups": label if clustered else np.arange(200)}
    )
    half = fit.t_test([0.5, 0.5])
    found, state = length_balanced(y, delta, clusters=label if clustered else None)
    assert found.value == pytest.approx(half.effect[0], rel=1e-12)
    assert found.stderr == pytest.approx(half.sd[0, 0], rel=1e-10)
    assert (state, found.method) == ("ok", "logit-t")


def test_balanced_win_rate_counts_equal_lengths_on_either_side():
    # longer: (20·1 + ½·10·.4)/25 = .88; shorter: (30·.5 + ½·10·.4)/35 = 17/35
    y, delta = np.repeat([1.0, 0.5, 0.4], [20, 30, 10]), np.repeat([5.0, -5.0, 0.0], [20, 30, 10])
    assert length_balanced(y, delta)[0].value == pytest.approx((0.88 + 17 / 35) / 2, rel=1e-12)


def test_balanced_win_rate_takes_out_who_is_longer():
    rng = np.random.default_rng(0)
    delta = rng.normal(0.8, 1, 4000)
    y = (rng.uniform(size=4000) < np.where(delta > 0, 0.7, 0.3)).astype(float)
    found, _ = length_balanced(y, delta)
    assert found.low < 0.5 < found.high
    assert mean(y, bounded=True).low > 0.55


def test_swapping_the_sides_mirrors_the_balanced_win_rate():
    y, delta, _ = synthetic(0, shift=0.5)
    (one, _), (other, _) = length_balanced(y, delta), length_balanced(1 - y, -delta)
    np.testing.assert_allclose(
        [other.value, other.low, other.high], [1 - one.value, 1 - one.high, 1 - one.low]
    )


def test_states_of_the_balanced_win_rate():
    delta = np.repeat([1.0, -1.0], [19, 300])
    found, state = length_balanced(np.full(319, 0.3), delta)
    assert (found.value, found.low, state) == (None, None, "too few prompts")
    delta = np.repeat([1.0, -1.0], [20, 300])
    y = np.random.default_rng(0).uniform(size=320)
    assert length_balanced(y, delta)[1] == "extrapolated"
    constant, state = length_balanced(np.full(320, 0.3), delta)
    assert (constant.value, constant.low) == (pytest.approx(0.3), None)  # no spurious certainty
    assert length_balanced(np.array([]), np.array([]))[1] == "too few prompts"


# Diagnostics


def test_correlations_agree_with_scipy():
    rng = np.random.default_rng(0)
    y, own, other = rng.integers(0, 3, 90) / 2, rng.integers(1, 40, 90), rng.integers(1, 40, 90)
    margin = rng.normal(size=90) + 0.1 * own
    found = length_diagnostics(y, margin, own.astype(float), other.astype(float))
    assert found.outcome.value == pytest.approx(stats.spearmanr(own - other, y)[0], rel=1e-12)
    assert found.margin.value == pytest.approx(stats.spearmanr(own - other, margin)[0], rel=1e-12)
    r = found.margin.value
    half = stats.norm.ppf(0.975) * math.sqrt((1 + r * r / 2) / 87)
    expected = np.tanh([math.atanh(r) - half, math.atanh(r) + half])
    np.testing.assert_allclose(ends(found.margin), expected, rtol=1e-12)
    assert (found.margin.n, found.margin.state) == (90, "ok")
    assert (found.outcome_partial, found.margin_partial) == (None, None)
    without = length_diagnostics(y, None, own.astype(float), other.astype(float), difficulty=margin)
    assert (without.margin, without.margin_partial) == (None, None)


def test_partial_correlation_by_the_formula():
    y, delta, difficulty = synthetic(0, psi=1.5)
    found = length_diagnostics(y, y - 0.5, delta, np.zeros(200), difficulty=difficulty)
    r, _ = stats.spearmanr(np.column_stack([delta, y, difficulty]))
    expected = r[0, 1] - r[0, 2] * r[1, 2]
    expected /= math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert found.outcome_partial.value == pytest.approx(expected, rel=1e-12)
    assert found.margin_partial == found.outcome_partial
    assert found.outcome_partial.value < found.outcome.value


def test_correlation_interval_covers():
    # of a bivariate normal Spearman's is 6/π·asin(ρ/2)
    hits, truth = 0, 6 / math.pi * math.asin(0.25)
    for seed in range(400):
        x, e = np.random.default_rng(seed).normal(size=(2, 60))
        y = 0.5 * x + math.sqrt(0.75) * e
        found = length_diagnostics(np.full(60, 0.5), y, x, np.zeros(60)).margin
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_states_of_a_correlation():
    y, delta, _ = synthetic(0, n=30)
    zeros = np.zeros(30)

    def outcome(y, delta, **more):
        found = length_diagnostics(y, None, delta, np.zeros(len(y)), **more)
        return found.outcome_partial if more.get("difficulty") is not None else found.outcome

    assert outcome(y, zeros).state == "no variance"
    assert outcome(np.full(30, 0.1), delta).state == "no variance"
    assert outcome(y[:3], delta[:3]).state == "too few prompts"
    assert outcome(y, delta, clusters=np.arange(30) % 3).state == "too few prompts"
    assert outcome(y[:0], delta[:0]).state == "too few prompts"
    collinear = outcome(y, delta, difficulty=np.exp(delta / 1000))
    assert (collinear.state, collinear.value, collinear.low) == ("collinear", None, None)
    assert outcome(y, delta, difficulty=zeros).value == pytest.approx(outcome(y, delta).value)
    perfect = outcome((delta - delta.min()) / np.ptp(delta), delta)
    assert (perfect.value, perfect.low, perfect.high) == (1.0, None, None)


def test_clusters_count_in_the_interval_of_a_correlation():
    y, delta, _ = synthetic(0)
    four = [np.repeat(x, 4) for x in (y, delta, np.arange(200))]
    found = length_diagnostics(four[0], None, four[1], np.zeros(800), clusters=four[2]).outcome
    plain = length_diagnostics(y, None, delta, np.zeros(200)).outcome
    np.testing.assert_allclose(ends(found), ends(plain), rtol=1e-9)


def test_win_rates_by_length_and_baselines_by_hand():
    own = np.array([10.0, 20, 30, 40, 50, 60])
    other = np.array([5.0, 25, 30, 10, 45, 65])  # longer, shorter, equal, longer, longer, shorter
    y = np.array([1.0, 0.5, 0, 1, 0, 1])
    found = length_diagnostics(y, None, own, other)
    assert [(x.value, x.n) for x in (found.longer, found.shorter, found.equal)] == [
        (pytest.approx(2 / 3), 3),
        (0.75, 2),
        (0.0, 1),
    ]
    assert found.always_longer.value == pytest.approx(3.5 / 6)
    assert found.always_shorter.value == pytest.approx(2.5 / 6)
    # the longer answer has 1, ½, 1, 0, 0 of five
    assert (found.longer_preferred.value, found.longer_preferred.n) == (0.5, 5)


def test_no_prompt_of_a_kind_is_undefined():
    y, delta, _ = synthetic(0, n=30)
    found = length_diagnostics(y, None, np.abs(delta) + 1, np.zeros(30))
    for e in (found.shorter, found.equal):
        assert (e.value, e.low, e.n, e.method) == (None, None, 0, "undefined")
    same = length_diagnostics(y, None, delta, delta)
    assert (same.longer_preferred.value, same.slope.value) == (None, None)
    assert same.always_longer.value == 0.5
    empty = length_diagnostics(y[:0], None, delta[:0], delta[:0])
    assert (empty.slope.value, empty.always_longer.value) == (None, None)


@pytest.mark.parametrize("clustered", [False, True])
def test_slope_agrees_with_statsmodels(clustered):
    y, delta, _ = synthetic(0)
    label = np.arange(200) // 5
    fit = sm.OLS(y, sm.add_constant(delta)).fit(
        cov_type="cluster",
        cov_kwds={"groups": label if clustered else np.arange(200)},
        use_t=True,
    )
    own = 1000 + delta
    clusters = label if clustered else None
    slope = length_diagnostics(y, None, own, np.full(200, 1000.0), clusters=clusters).slope
    assert slope.value == pytest.approx(100 * fit.params[1], rel=1e-9)
    assert slope.stderr == pytest.approx(100 * fit.bse[1], rel=1e-9)
    np.testing.assert_allclose(ends(slope), 100 * fit.conf_int()[1], rtol=1e-9)
    assert slope.method == "t"


@pytest.mark.parametrize("y", [np.full(30, 0.1), np.linspace(0, 1, 30)])
def test_slope_of_an_exact_line_has_no_interval(y):
    slope = length_diagnostics(y, None, np.arange(30.0), np.zeros(30)).slope
    assert slope.value == pytest.approx(100 * np.ptp(y) / 29, abs=1e-12)
    assert (slope.low, slope.high) == (None, None)


def test_correlation_within_prompts_agrees_with_scipy():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, (40, 8)).astype(float)
    rewards = np.round(0.05 * lengths + rng.normal(size=(40, 8)), 1)
    rewards[rng.uniform(size=rewards.shape) < 0.15] = np.nan
    rewards[0] = 1.0
    lengths[1] = 7.0
    rewards[2, 3:] = np.nan
    expected = []
    for reward, length in zip(rewards[3:], lengths[3:], strict=True):
        known = ~np.isnan(reward)
        assert known.sum() >= 4
        expected.append(stats.spearmanr(reward[known], length[known])[0])
    found = reward_length_correlation(rewards, lengths)
    assert (found.n, found.method) == (37, "t")
    assert found.value == pytest.approx(np.mean(expected), rel=1e-12)
    assert found.stderr == pytest.approx(stats.sem(expected), rel=1e-12)
    clustered = reward_length_correlation(rewards, lengths, clusters=np.arange(40) // 2)
    assert clustered.clusters == 19


def test_correlation_within_prompts_ignores_how_long_an_answer_a_prompt_calls_for():
    rng = np.random.default_rng(0)
    call = rng.normal(size=(200, 1))
    lengths, rewards = 10 * call + rng.normal(size=(200, 6)), 5 * call + rng.normal(size=(200, 6))
    found = reward_length_correlation(rewards, lengths)
    assert found.low < 0 < found.high
    assert stats.spearmanr(rewards.ravel(), lengths.ravel())[0] > 0.9


def test_correlation_within_prompts_refuses_what_does_not_fit():
    table = np.ones((4, 5))
    with pytest.raises(ValueError, match="shape"):
        reward_length_correlation(table, table[:, 1:])
    with pytest.raises(ValueError, match="infinity"):
        reward_length_correlation(np.full((4, 5), np.inf), table)
    assert reward_length_correlation(table, table).value is None


# Against AlpacaEval


@functools.cache
def alpaca_eval():
    """Preferences in [0, 1] and Δ (prompts, models) of AlpacaEval 2; NaN where there is no row."""
    rows = pd.read_parquet(ALPACA / "alpaca_eval_preferences.parquet")
    rows = rows[(rows.annotator == AE2) & (rows.model != BASELINE)]
    lengths = pd.read_parquet(ALPACA / "alpaca_eval_lengths.parquet")
    chars = lengths.pivot_table(index="prompt_index", columns="model", values="n_chars")
    preference = rows.pivot_table(index="prompt_index", columns="model", values="preference")
    preference = preference.replace(0.0, 1.5) - 1  # both mean a draw
    delta = chars[preference.columns].sub(chars[BASELINE], axis=0)
    return preference, delta.loc[preference.index].astype(float)


def columns_of(model):
    preference, delta = alpaca_eval()
    known = preference[model].notna()
    difficulty = difficulty_from_pool(preference.drop(columns=model).to_numpy())
    return (
        preference[model][known].to_numpy(),
        delta[model][known].to_numpy(),
        difficulty[known],
    )


@functools.cache
def published():
    board = pd.read_csv(ALPACA / "leaderboards" / f"{AE2}_leaderboard.csv", index_col=0)
    weights = pd.read_csv(ALPACA / "lc_glm_weights.csv", index_col=0)
    weights.columns = ["length", "difficulty", "intercept"]
    return board.join(weights, how="inner").drop(index=BASELINE)


@needs_shared
@pytest.mark.parametrize("with_difficulty", [False, True])
def test_every_model_has_the_maximum_that_statsmodels_finds(with_difficulty):
    worst, models = 0.0, alpaca_eval()[0].columns
    for model in models:
        y, delta, difficulty = columns_of(model)
        covariate = difficulty if with_difficulty else None
        design = design_of(delta, covariate)
        fit = sm.GLM(y, design, family=sm.families.Binomial()).fit(maxiter=200, tol=1e-14)
        found = length_controlled(y, delta, difficulty=covariate, prior=None)
        worst = max(worst, np.max(np.abs(coefficients(found) - fit.params)))
        expected = special.expit(design[:, 1:] @ fit.params[1:]).mean()
        assert found.estimate.value == pytest.approx(expected, abs=1e-9)
    assert len(models) == 51
    assert worst < 1e-6


@needs_shared
def test_published_win_rates_follow_from_the_published_coefficients():
    # This checks prediction at Δ = 0, not the fit: the difficulty was recovered from such rows.
    difficulty = pd.read_csv(ALPACA / "lc_difficulty_quantiles_derived.csv").difficulty.to_numpy()
    rows = published()
    fitted = [
        special.expit(row.difficulty * difficulty + row.intercept) for row in rows.itertuples()
    ]
    off = (rows.length_controlled_winrate - [100 * x.mean() for x in fitted]).abs()
    assert len(off) == 192  # and the baseline, 50 by construction
    assert off.median() < 1e-4
    assert off.quantile(0.9) < 1.2e-3
    stale = ["dbrx-instruct", "NullModel"]
    assert off[stale].max() < 0.191
    assert off.drop(stale).max() < 0.0123
    # What upstream calls the standard error is the spread of these values, and so is our naive one.
    naive = rows.lc_standard_error - [100 * stats.sem(x) for x in fitted]
    assert naive.notna().sum() == 36
    assert naive.abs().max() < 5e-4


def refitted(y, delta, difficulty, draws):
    rng, values = np.random.default_rng(0), []
    for _ in range(draws):
        rows = rng.integers(0, len(y), len(y))
        again = length_controlled(y[rows], delta[rows], difficulty=difficulty[rows], prior=None)
        values.append(again.estimate.value)
    return np.std(values, ddof=1)


@needs_shared
@pytest.mark.parametrize(
    "model", ["FuseChat-Gemma-2-9B-Instruct", "FuseChat-Llama-3.2-1B-Instruct", "claude-2"]
)
def test_standard_error_agrees_with_a_refitted_bootstrap_and_the_naive_one_does_not(model):
    y, delta, difficulty = columns_of(model)
    found = length_controlled(y, delta, difficulty=difficulty, prior=None)
    bootstrap = refitted(y, delta, difficulty, 800)
    assert found.estimate.stderr / bootstrap == pytest.approx(1, abs=0.1)
    assert found.stderr_fitted_values < bootstrap / 2


@needs_shared
def test_published_standard_errors_are_half_the_honest_ones():
    rows, ratios = published(), {}
    for model in alpaca_eval()[0].columns.intersection(rows.index):
        if not math.isnan(rows.lc_standard_error[model]):
            y, delta, difficulty = columns_of(model)
            found = length_controlled(y, delta, difficulty=difficulty)
            ratios[model] = 100 * found.estimate.stderr / rows.lc_standard_error[model]
    assert len(ratios) == 6
    assert ratios.pop("NullModel") > 7
    assert all(1.8 < x < 2.5 for x in ratios.values())


@needs_shared
def test_with_overlap_the_win_rate_is_near_the_published_one_and_without_it_is_marked():
    preference, delta = alpaca_eval()
    prior = prior_from_pool(preference.to_numpy(), delta.to_numpy())
    rows, off, bare = published(), [], []
    extrapolated = 0
    for model in preference.columns:
        y, x, difficulty = columns_of(model)
        found = length_controlled(y, x, difficulty=difficulty, prior=prior)
        assert (found.state == "ok") == (min(np.mean(x > 0), np.mean(x < 0)) >= 0.1)
        assert found.phi > 0
        extrapolated += found.state == "extrapolated"
        if found.state == "ok":
            target = rows.length_controlled_winrate[model]
            off.append(100 * found.estimate.value - target)
            bare.append(100 * length_controlled(y, x).estimate.value - target)
    assert (len(off), extrapolated) == (14, 37)
    assert np.mean(np.abs(off)) < 1.1
    assert np.mean(np.abs(bare)) > 3  # without difficulty
    # Upstream's φ over 194 models has the mean -1.5, of the other sign.
    assert prior.mean == pytest.approx(-rows.length.mean(), abs=0.15)
    assert prior.comparisons == 14


@needs_shared
@pytest.mark.parametrize("model", ["gpt-3.5-turbo-1106_concise", "text_davinci_001", "alpaca-7b"])
def test_models_hardly_ever_longer_are_extrapolated(model):
    y, delta, _ = columns_of(model)
    found = length_controlled(y, delta)
    assert (found.state, found.share_longer < 0.02) == ("extrapolated", True)
    assert found.estimate.value > 4 * found.raw.value  # as wild as upstream's formula alone


@needs_shared
def test_length_and_preference_go_together_as_measured_before():
    # statistics.md section 2: within-model Spearman, median .26 (.14-.37)
    preference, _ = alpaca_eval()
    found = []
    for model in preference.columns:
        y, delta, _ = columns_of(model)
        found.append(length_diagnostics(y, None, delta, np.zeros(len(y))).outcome.value)
    assert np.median(found) == pytest.approx(0.26, abs=0.01)
