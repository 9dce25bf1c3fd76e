import math
from types import SimpleNamespace

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special, stats

from evalkit.statistics.intervals import Estimate, mean
from evalkit.statistics.resampling import weight_blocks

fast = settings(max_examples=60, deadline=None)
UNIT = st.floats(0, 1)
SIZES = st.integers(1, 200)
UNEQUAL = np.repeat(np.arange(12), [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 24])


def some_keys(n, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


def ends(estimate):
    return estimate.low, estimate.high


def flips(wins, n):
    return np.repeat([1.0, 0.0], [wins, n - wins])


# Student's t


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("n", [2, 7, 300])
def test_unbounded_mean_has_the_t_interval(n, level):
    x = np.random.default_rng(n).normal(3, 10, n)
    found = mean(x, bounded=False, level=level)
    expected = stats.t.interval(level, n - 1, loc=np.mean(x), scale=stats.sem(x))
    np.testing.assert_allclose(ends(found), expected, rtol=1e-12)
    assert found.stderr == pytest.approx(stats.sem(x), rel=1e-12)
    assert found.value == pytest.approx(np.mean(x), rel=1e-14)


def test_estimate_records_how_it_was_made():
    found = mean(np.arange(6.0), bounded=False, level=0.9, clusters=np.arange(6) // 2, seed=7)
    assert (found.method, found.level, found.n, found.clusters) == ("t", 0.9, 6, 3)
    assert (found.resamples, found.seed) == (0, 7)


def test_clustered_standard_error_by_hand():
    # Clusters {0, 2} and {7}: the mean is 3, the deviations sum to 2 - 6 = -4 and to 7 - 3 = 4, so
    # SE = √(2/(2-1) · (16 + 16))/3 = 8/3.
    found = mean(np.array([0.0, 7.0, 2.0]), bounded=False, clusters=np.array([5, 1, 5]))
    assert (found.value, found.stderr) == (3.0, pytest.approx(8 / 3, rel=1e-15))
    half = stats.t.ppf(0.975, 1) * 8 / 3
    np.testing.assert_allclose(ends(found), (3 - half, 3 + half), rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_clustered_interval_agrees_with_statsmodels(seed):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=60) + rng.normal(size=12)[UNEQUAL]
    order = rng.permutation(60)
    # Its correction is C/(C-1) · (n-1)/(n-k); with the intercept alone k = 1: CR1 as here.
    fit = sm.OLS(y, np.ones(60)).fit(
        cov_type="cluster", cov_kwds={"groups": UNEQUAL, "use_correction": True}, use_t=True
    )
    found = mean(y[order], bounded=False, clusters=UNEQUAL[order])
    assert found.clusters == 12
    assert found.stderr == pytest.approx(fit.bse[0], rel=1e-12)
    np.testing.assert_allclose(ends(found), fit.conf_int()[0], rtol=1e-11)


def test_clusters_of_one_row_change_nothing():
    x = np.random.default_rng(0).normal(size=20)
    labelled = mean(x, bounded=False, clusters=np.random.default_rng(1).permutation(20) * 10)
    plain = mean(x, bounded=False)
    np.testing.assert_allclose(
        [labelled.stderr, *ends(labelled)], [plain.stderr, *ends(plain)], rtol=1e-12
    )


def test_repeating_every_row_within_its_cluster_adds_no_certainty():
    x = np.random.default_rng(0).normal(size=20)
    found = mean(np.repeat(x, 3), bounded=False, clusters=np.repeat(np.arange(20), 3))
    expected = mean(x, bounded=False)
    assert (found.n, found.clusters) == (60, 20)
    np.testing.assert_allclose(ends(found), ends(expected), rtol=1e-12)


@given(
    arrays(np.float64, st.integers(2, 30), elements=st.floats(-10, 10)),
    st.sampled_from([-3.0, -1.0, 0.5, 100.0]),
    st.floats(-50, 50),
)
@fast
def test_t_interval_moves_with_affine_maps_of_the_column(x, scale, shift):
    plain, mapped = mean(x, bounded=False), mean(scale * x + shift, bounded=False)
    size = 1e-9 * (abs(scale) * 10 + abs(shift))
    assert mapped.value == pytest.approx(scale * plain.value + shift, abs=size)
    if plain.stderr > 1e-6:
        assert mapped.stderr == pytest.approx(abs(scale) * plain.stderr, rel=1e-6)
        expected = sorted(scale * end + shift for end in ends(plain))
        np.testing.assert_allclose(ends(mapped), expected, rtol=1e-6, atol=size)


# Logit-t


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("wins", [30, 100, 175])
def test_logit_t_by_hand(wins, level):
    n, x = 200, flips(wins, 200)
    p, se = np.mean(x), stats.sem(x)
    half = stats.t.ppf((1 + level) / 2, n - 1) * se / (p * (1 - p))
    found = mean(x, bounded=True, level=level)
    assert found.method == "logit-t"
    expected = special.expit(special.logit(p) + np.array([-half, half]))
    np.testing.assert_allclose(ends(found), expected, rtol=1e-12)


def test_logit_t_uses_the_clustered_standard_error_and_its_degrees_of_freedom():
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(60), 4)
    x = np.clip(rng.uniform(size=240) + rng.uniform(-0.5, 0.5, 60)[label], 0, 1)
    fit = sm.OLS(x, np.ones(240)).fit(cov_type="cluster", cov_kwds={"groups": label})
    p, half = np.mean(x), stats.t.ppf(0.975, 59) * fit.bse[0]
    found = mean(x, bounded=True, clusters=label)
    assert (found.method, found.clusters) == ("logit-t", 60)
    half /= p * (1 - p)
    expected = special.expit(special.logit(p) + np.array([-half, half]))
    np.testing.assert_allclose(ends(found), expected, rtol=1e-12)


# Betting


def kept_candidates(values, level, grid):
    """Hedged capital straight from Waudby-Smith and Ramdas (2024): equations 24 to 27, c = 1/2."""
    if values.mean() > 0.5:  # looked at from the other side
        low, high = kept_candidates(1 - values, level, grid)
        return 1 - high, 1 - low
    alpha = 1 - level
    x = np.random.default_rng(0).permutation(np.sort(values)).tolist()
    kept = []
    for m in grid:
        capital_up, capital_down = 1.0, 1.0
        total, squares, variance = 0.5, 0.25, 0.25
        for t, value in enumerate(x, start=1):
            bet = math.sqrt(2 * math.log(2 / alpha) / (len(x) * variance))
            capital_up *= 1 + min(bet, 0.5 / m) * (value - m)
            capital_down *= 1 - min(bet, 0.5 / (1 - m)) * (value - m)
            total += value
            squares += (value - total / (t + 1)) ** 2
            variance = squares / (t + 1)
        if max(capital_up / 2, capital_down / 2) < 1 / alpha:
            kept.append(m)
    return min(kept), max(kept)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize(
    "values",
    [
        np.array([0.3]),
        np.array([1.0, 0.0, 0.5]),
        np.full(12, 0.7),
        flips(3, 30),
        np.linspace(0.6, 0.9, 25),
    ],
    ids=["one", "three", "equal", "rare", "spread"],
)
def test_betting_interval_agrees_with_a_grid_of_candidates(values, level):
    step = 1 / 1000
    low, high = kept_candidates(values, level, np.arange(step / 2, 1, step))
    found = mean(values, bounded=True, level=level)
    assert found.method == "betting"
    assert low - step <= found.low <= low
    assert high <= found.high <= high + step


def test_betting_interval_does_not_depend_on_the_seed_of_the_resamples():
    x = np.linspace(0.1, 0.9, 30)
    assert ends(mean(x, bounded=True, seed=1)) == ends(mean(x, bounded=True, seed=2))


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_swapping_the_sides_mirrors_the_betting_interval(n):
    x = np.random.default_rng(n).integers(0, 3, n) / 2
    one, other = mean(x, bounded=True), mean(1 - x, bounded=True)
    assert ends(one) == pytest.approx([1 - e for e in reversed(ends(other))], abs=1e-12)


def test_betting_interval_of_equal_clusters_is_that_of_their_means():
    x = np.random.default_rng(0).uniform(size=(20, 4))
    found = mean(x.ravel(), bounded=True, clusters=np.repeat(np.arange(20), 4))
    assert (found.method, found.n, found.clusters) == ("betting", 80, 20)
    np.testing.assert_allclose(ends(found), ends(mean(x.mean(axis=1), bounded=True)), atol=1e-8)


# Which method


# The edge is near if p < 3·√(p(1-p)/(n-1)), that is p < 9/(n+8): of 200 rows below 8.65 wins.
@pytest.mark.parametrize(
    ("wins", "n", "method"),
    [
        (24, 49, "betting"),
        (24, 50, "logit-t"),
        (8, 200, "betting"),
        (9, 200, "logit-t"),
        (191, 200, "logit-t"),
        (192, 200, "betting"),
        (0, 200, "betting"),
        (200, 200, "betting"),
    ],
)
def test_bounded_mean_falls_back_to_betting_where_logit_t_is_unreliable(wins, n, method):
    assert mean(flips(wins, n), bounded=True).method == method


@pytest.mark.parametrize(("clusters", "method"), [(49, "betting"), (50, "logit-t")])
def test_few_clusters_count_not_few_rows(clusters, method):
    x = np.tile([0.0, 1.0, 1.0], clusters)
    x[0] = 1
    assert mean(x, bounded=True, clusters=np.repeat(np.arange(clusters), 3)).method == method


# Edge cases


@pytest.mark.parametrize("bounded", [True, False])
def test_mean_of_nothing_is_unknown(bounded):
    expected = Estimate(None, None, None, None, 0.95, 0, 0, "undefined", 0, 3)
    assert mean(np.array([]), bounded=bounded, seed=3) == expected


@pytest.mark.parametrize("clusters", [None, np.zeros(1, dtype=np.int64)])
def test_unbounded_mean_of_one_prompt_has_a_value_and_no_interval(clusters):
    found = mean(np.array([2.5]), bounded=False, clusters=clusters)
    assert (found.value, found.low, found.high, found.stderr) == (2.5, None, None, None)
    assert found.method == "undefined"


def test_unbounded_mean_of_one_cluster_has_a_value_and_no_interval():
    found = mean(np.array([1.0, 2.0, 6.0]), bounded=False, clusters=np.zeros(3, dtype=np.int64))
    assert (found.value, found.low, found.high, found.stderr) == (3.0, None, None, None)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 2, 60, 1000])
def test_bounded_mean_of_equal_rows_is_not_certain(value, n):
    found = mean(np.full(n, value), bounded=True)
    assert found.method == "betting"
    assert found.low <= value <= found.high
    assert found.high - found.low > 0.5 / n
    assert found.stderr == (None if n == 1 else 0.0)


@pytest.mark.parametrize("value", [0.1, 1 / 3, -7.0])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_unbounded_mean_of_equal_rows_has_no_interval_and_a_standard_error_of_exactly_zero(
    value, n
):
    found = mean(np.full(n, value), bounded=False)
    assert found.value == pytest.approx(value, rel=1e-15)
    assert (found.low, found.high, found.stderr, found.method) == (None, None, 0.0, "undefined")


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("value", [0.1, 0.5])
def test_equal_rows_in_unequal_clusters_give_no_spurious_interval(value, bounded):
    # three tenths do not add up to three times a tenth in floating point
    found = mean(np.full(60, value), bounded=bounded, clusters=UNEQUAL)
    assert found.stderr == 0.0
    assert found.low is None or found.high - found.low > 0.01


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_column_with_unknown_values_is_refused(value, bounded):
    with pytest.raises(ValueError, match="NaN or infinity"):
        mean(np.array([0.5, value]), bounded=bounded)


@pytest.mark.parametrize("value", [-1e-12, 1 + 1e-12, 50.0])
def test_bounded_column_outside_the_unit_interval_is_refused(value):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        mean(np.array([0.5, value]), bounded=True)


@given(arrays(np.float64, SIZES, elements=UNIT), st.floats(0.5, 0.999), st.integers(0, 9))
@fast
def test_bounded_interval_holds_its_value_and_stays_in_the_unit_interval(x, level, seed):
    found = mean(x, bounded=True, level=level, seed=seed)
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(SIZES, st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]), st.integers(0, 9))
@fast
def test_interval_of_a_win_rate_holds_its_value(n, share, level, seed):
    found = mean(flips(round(share * n), n), bounded=True, level=level, seed=seed)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


@given(arrays(np.float64, SIZES, elements=UNIT), st.booleans(), st.randoms(use_true_random=False))
@fast
def test_row_order_does_not_move_an_analytic_estimate(x, bounded, random):
    order = random.sample(range(len(x)), len(x))
    plain, shuffled = mean(x, bounded=bounded), mean(x[order], bounded=bounded)
    assert shuffled.method == plain.method
    assert shuffled.value == pytest.approx(plain.value, abs=1e-12)
    if plain.low is not None:
        np.testing.assert_allclose(ends(shuffled), ends(plain), rtol=0, atol=1e-9)


# Resamples


def bca(x, n, *, clusters=None, level=0.95, seed=0, resamples=2000):
    found = mean(
        x,
        bounded=False,
        level=level,
        clusters=clusters,
        keys=some_keys(n, seed) if clusters is None else some_keys(n, seed)[clusters],
        resamples=resamples,
    )
    assert (found.method, found.resamples) == ("bca", resamples)
    return found


# Of the second column many resamples have exactly its mean, one half.
@pytest.mark.parametrize(
    "x", [np.random.default_rng(0).exponential(size=40), flips(20, 40)], ids=["skewed", "discrete"]
)
@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_bca_interval_agrees_with_scipy_on_the_same_draws(x, seed, level):
    weights = np.concatenate(list(weight_blocks(some_keys(40, seed), 2000)))
    draws = weights @ x / weights.sum(axis=1)
    expected = stats.bootstrap(
        (x,),
        np.mean,
        n_resamples=0,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=draws),
        confidence_level=level,
        method="BCa",
    ).confidence_interval
    np.testing.assert_allclose(ends(bca(x, 40, level=level, seed=seed)), expected, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_bca_interval_agrees_with_scipys_own_draws_within_monte_carlo_error(seed):
    x = np.random.default_rng(seed).exponential(size=80)
    result = stats.bootstrap(
        (x,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(9)
    )
    # An end from 20,000 draws is off by √(.025 · .975/20000)/φ(1.96) = 0.019 standard errors, the
    # difference of two by 0.027.
    found = bca(x, 80, seed=seed, resamples=20_000)
    expected = result.confidence_interval
    np.testing.assert_allclose(ends(found), expected, rtol=0, atol=0.1 * stats.sem(x))


def test_bca_interval_is_a_function_of_column_and_keys():
    x = np.random.default_rng(0).exponential(size=50)
    assert bca(x, 50, seed=1) == bca(x, 50, seed=1)
    assert ends(bca(x, 50, seed=1)) != ends(bca(x, 50, seed=2))


def test_bca_interval_of_a_selection_uses_the_weights_its_rows_have_in_the_whole():
    x, keys = np.random.default_rng(0).exponential(size=90), some_keys(90)
    rows = np.arange(0, 90, 3)
    weights = np.concatenate(list(weight_blocks(keys, 1000)))[:, rows]
    draws = weights @ x[rows] / weights.sum(axis=1)
    found = mean(x[rows], bounded=False, keys=keys[rows], resamples=1000)
    expected = stats.bootstrap(
        (x[rows],),
        np.mean,
        n_resamples=0,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=draws),
        method="BCa",
    ).confidence_interval
    np.testing.assert_allclose(ends(found), expected, rtol=1e-9)


def test_bca_interval_resamples_whole_clusters():
    x = np.random.default_rng(0).exponential(size=40)
    repeated = bca(np.repeat(x, 3), 40, clusters=np.repeat(np.arange(40), 3))
    assert (repeated.n, repeated.clusters) == (120, 40)
    np.testing.assert_allclose(ends(repeated), ends(bca(x, 40)), rtol=1e-9)


@pytest.mark.parametrize("scale", [0.5, 1 / 3, 0.1])
def test_row_order_does_not_move_a_bca_interval(scale):
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, keys, order = rng.integers(0, 2, 50) * scale, some_keys(50), rng.permutation(50)
        plain = mean(x, bounded=True, keys=keys, resamples=500)
        shuffled = mean(x[order], bounded=True, keys=keys[order], resamples=500)
        assert plain.method == "bca"
        np.testing.assert_allclose(ends(shuffled), ends(plain), rtol=0, atol=1e-12)


@given(
    arrays(np.float64, st.integers(2, 60), elements=st.integers(0, 4).map(lambda i: i / 4)),
    st.integers(0, 99),
)
@fast
def test_bca_interval_holds_its_value(x, seed):
    found = mean(x, bounded=True, keys=some_keys(len(x), seed), resamples=400)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_resampling_equal_rows_gives_the_betting_interval_or_none():
    x, keys = np.full(60, 0.5), some_keys(60)
    bounded = mean(x, bounded=True, keys=keys, resamples=200)
    assert bounded == mean(x, bounded=True)
    assert (bounded.method, bounded.resamples) == ("betting", 0)
    assert mean(x, bounded=False, keys=keys, resamples=200).method == "undefined"


def test_resampling_without_keys_is_refused():
    with pytest.raises(ValueError, match="keys"):
        mean(np.arange(5.0), bounded=False, resamples=10)
