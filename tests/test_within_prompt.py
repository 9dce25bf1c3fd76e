import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from evalkit.statistics.intervals import mean
from evalkit.statistics.outcomes import outcomes
from evalkit.statistics.within_prompt import (
    Location,
    medians,
    noise_band,
    pool_percentile,
    robust_location,
    standardise,
    trimmed_means,
)

fast = settings(max_examples=80, deadline=None)
NAN = math.nan
EIGHTHS = st.integers(-40, 40).map(lambda i: i / 8)
# rewards of P prompts in the first column, references and gaps in the others
TABLES = arrays(
    np.float64,
    st.tuples(st.integers(1, 8), st.integers(2, 9)),
    elements=EIGHTHS | st.just(NAN),
)


# Standardised reward


def test_standardised_reward_by_hand():
    # {0, 2, 4, 6}: mean 3, squares 20; {1, 1, 1, 5}: mean 2, squares 12; sd0² =
    # 32/6 = 16/3. With ν = 3: (16 + 20)/6 = 6 and (16 + 12)/6 = 14/3.
    pool = np.array([[0.0, 2.0, 4.0, 6.0], [1.0, 1.0, 1.0, 5.0]])
    found = standardise(np.array([5.0, 1.0]), pool, prior=3)
    np.testing.assert_allclose(found.z, [2 / math.sqrt(6), -1 / math.sqrt(14 / 3)], rtol=1e-14)
    assert found.pooled_sd == pytest.approx(math.sqrt(16 / 3), rel=1e-15)
    assert (found.capped, found.few, found.undefined) == (0.0, 0, 0)


def test_without_a_prior_each_prompt_has_its_own_sd():
    rng = np.random.default_rng(0)
    rewards, pool = rng.normal(size=20), rng.normal(size=(20, 6)) * rng.uniform(1, 9, (20, 1))
    expected = (rewards - pool.mean(axis=1)) / pool.std(axis=1, ddof=1)
    np.testing.assert_allclose(standardise(rewards, pool, prior=0).z, expected, rtol=1e-12)


def test_with_a_heavy_prior_all_prompts_have_the_pooled_sd():
    rng = np.random.default_rng(0)
    rewards, pool = rng.normal(size=20), rng.normal(size=(20, 6)) * rng.uniform(1, 2, (20, 1))
    sd = math.sqrt(np.mean(pool.var(axis=1, ddof=1)))
    expected = (rewards - pool.mean(axis=1)) / sd
    np.testing.assert_allclose(standardise(rewards, pool, prior=1e12).z, expected, rtol=1e-9)


def test_prompts_with_fewer_than_four_references_take_the_pooled_sd():
    # squares 20, 2 and 0 with 3, 1 and 0 degrees of freedom: sd0² = 22/4
    pool = np.array([[0.0, 2.0, 4.0, 6.0], [NAN, 1.0, NAN, 3.0], [7.0, NAN, NAN, NAN]])
    found = standardise(np.array([3.0, 4.0, 5.0]), pool, prior=0)
    np.testing.assert_allclose(found.z, [0, 2 / math.sqrt(5.5), -2 / math.sqrt(5.5)], rtol=1e-14)
    assert (found.few, found.undefined) == (2, 0)
    # three references, of variance 4, do not count for more: sd0² = (20 + 8)/5
    pool = np.array([[0.0, 2.0, 4.0, 6.0], [1.0, 3.0, 5.0, NAN]])
    found = standardise(np.array([3.0, 4.0]), pool, prior=0)
    np.testing.assert_allclose(found.z, [0, 1 / math.sqrt(5.6)], rtol=1e-14)
    assert found.few == 1


def test_a_prompt_without_reference_or_reward_has_no_z_and_is_counted():
    pool = np.array([[0.0, 2.0, 4.0, 6.0], [NAN] * 4, [0.0, 1.0, NAN, NAN]])
    found = standardise(np.array([3.0, 4.0, NAN]), pool)
    assert np.isnan(found.z).tolist() == [False, True, True]
    assert (found.few, found.undefined, found.capped) == (0, 2, 0.0)
    with pytest.raises(ValueError, match="NaN"):
        mean(found.z, bounded=False)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.7])  # six tenths do not add up to .6
@pytest.mark.parametrize("prior", [0.0, 4.0])
def test_without_spread_there_is_no_z_not_a_huge_one(value, prior):
    found = standardise(np.array([value, 1.0]), np.full((2, 6), value), prior=prior)
    assert np.isnan(found.z).all()
    assert (found.pooled_sd, found.capped, found.undefined) == (0.0, None, 2)


def test_one_reference_a_prompt_has_no_spread():
    found = standardise(np.array([1.0, 2.0]), np.array([[0.0], [5.0]]))
    assert np.isnan(found.z).all()
    assert (found.pooled_sd, found.few) == (None, 2)


def test_a_prompt_of_equal_references_borrows_the_spread_of_the_others():
    # squares 0 and 20 with 6 degrees of freedom; ν = 4: (4·20/6 + 0)/7
    pool = np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 4.0, 6.0]])
    found = standardise(np.array([2.0, 3.0]), pool, prior=4)
    np.testing.assert_allclose(found.z, [1 / math.sqrt(40 / 21), 0], rtol=1e-14)


def test_what_lies_far_out_is_pulled_in_and_its_share_told():
    pool = np.tile([-1.0, 1.0, -1.0, 1.0], (5, 1))  # sd² = 4/3
    rewards = np.array([100.0, -100.0, 1.0, 0.0, NAN])
    found = standardise(rewards, pool)
    np.testing.assert_allclose(found.z, [5, -5, math.sqrt(3 / 4), 0, NAN], rtol=1e-14)
    assert found.capped == 0.5
    assert standardise(rewards, pool, cap=0.5).capped == 0.75


@given(TABLES, st.sampled_from([0.0, 1.0, 4.0]), st.sampled_from([0.5, 2.0, 64.0]), EIGHTHS)
@fast
def test_z_does_not_know_the_unit_of_the_rewards(table, prior, scale, shift):
    rewards, pool = table[:, 0], table[:, 1:]
    plain = standardise(rewards, pool, prior=prior)
    found = standardise(scale * rewards + shift, scale * pool + shift, prior=prior)
    np.testing.assert_allclose(found.z, plain.z, rtol=1e-9, atol=1e-9)
    assert (found.few, found.undefined) == (plain.few, plain.undefined)
    turned = standardise(-rewards, -pool, prior=prior)
    np.testing.assert_allclose(turned.z, -plain.z, rtol=1e-9, atol=1e-9)


@given(TABLES, st.randoms(use_true_random=False))
@fast
def test_the_order_of_prompts_and_references_does_not_matter(table, random):
    rows = random.sample(range(len(table)), len(table))
    places = random.sample(range(1, table.shape[1]), table.shape[1] - 1)
    shuffled = table[rows][:, places]
    plain = standardise(table[:, 0], table[:, 1:])
    found = standardise(table[rows, 0], shuffled)
    np.testing.assert_allclose(found.z, plain.z[rows], rtol=1e-9, atol=1e-9)
    percentile = pool_percentile(table[rows, 0], shuffled)
    np.testing.assert_array_equal(percentile, pool_percentile(table[:, 0], table[:, 1:])[rows])


@pytest.mark.parametrize("function", [standardise, pool_percentile])
def test_infinity_and_pools_of_other_prompts_are_refused(function):
    with pytest.raises(ValueError, match="infinity"):
        function(np.array([math.inf]), np.array([[1.0]]))
    with pytest.raises(ValueError, match="infinity"):
        function(np.array([1.0]), np.array([[-math.inf]]))
    with pytest.raises(ValueError, match="row of pool"):
        function(np.array([1.0, 2.0]), np.array([[1.0]]))


@pytest.mark.parametrize("settings", [{"prior": -1}, {"prior": math.inf}, {"cap": 0}])
def test_a_prior_or_cap_without_sense_is_refused(settings):
    with pytest.raises(ValueError, match="prior"):
        standardise(np.array([1.0]), np.array([[1.0]]), **settings)


# Percentile


def test_percentile_by_hand():
    pool = np.array([[1.0, 2.0, 2.0, 3.0], [1.0, NAN, NAN, 5.0], [NAN] * 4, [1.0] * 4])
    found = pool_percentile(np.array([2.0, 4.0, 1.0, NAN]), pool)
    np.testing.assert_array_equal(found, [0.5, 0.5, NAN, NAN])
    near = pool_percentile(np.array([2.0, 4.0, 1.0, NAN]), pool, tie=1.0)
    np.testing.assert_array_equal(near, [0.5, 0.75, NAN, NAN])


@given(TABLES)
@fast
def test_percentile_agrees_with_scipy_and_is_the_mean_win_rate(table):
    found = pool_percentile(table[:, 0], table[:, 1:])
    for reward, pool, value in zip(table[:, 0], table[:, 1:], found, strict=True):
        known = pool[~np.isnan(pool)]
        if np.isnan(reward) or not len(known):
            assert np.isnan(value)
            continue
        expected = stats.percentileofscore(known, reward, kind="mean") / 100
        assert value == pytest.approx(expected, abs=1e-12)
        assert value == pytest.approx(np.mean(outcomes(reward - known)), abs=1e-12)


@given(TABLES)
@fast
def test_percentile_knows_only_the_order_of_the_rewards(table):
    rewards, pool = table[:, 0], table[:, 1:]
    plain = pool_percentile(rewards, pool)
    np.testing.assert_array_equal(pool_percentile(rewards**3, pool**3), plain)
    np.testing.assert_allclose(pool_percentile(-rewards, -pool), 1 - plain, atol=1e-15)


# Robust location


@given(arrays(np.float64, st.integers(1, 60), elements=EIGHTHS), st.sampled_from([0.1, 0.25, 0.4]))
@fast
def test_trimmed_mean_and_median_agree_with_scipy_and_numpy(x, share):
    row = x[None, :]
    expected = stats.trim_mean(x, share)
    assert trimmed_means(row, share=share)[0] == pytest.approx(expected, abs=1e-12)
    assert medians(row)[0] == pytest.approx(np.median(x), abs=1e-12)
    assert robust_location(x).trimmed_mean == pytest.approx(stats.trim_mean(x, 0.1), abs=1e-12)


def test_rows_of_unequal_length_are_trimmed_by_their_own_length():
    pool = np.full((3, 12), NAN)
    pool[0, 1:11] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1000]  # one of ten off either end
    pool[1, :3] = [1, 2, 30]  # none of three
    np.testing.assert_allclose(trimmed_means(pool), [5.5, 11, NAN], rtol=1e-15)
    np.testing.assert_allclose(medians(pool), [5.5, 2, NAN], rtol=1e-15)
    np.testing.assert_allclose(trimmed_means(pool, share=0)[:2], [104.5, 11], rtol=1e-15)


def test_location_of_a_column_stands_firm_where_its_mean_does_not():
    found = robust_location(np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 1e9]))
    assert found == Location(median=5.5, trimmed_mean=5.5, n=10)
    assert robust_location(np.array([])) == Location(None, None, 0)


@pytest.mark.parametrize("value", [NAN, math.inf])
def test_location_of_unknown_rewards_is_refused(value):
    with pytest.raises(ValueError, match="NaN or infinity"):
        robust_location(np.array([1.0, value]))


@pytest.mark.parametrize("share", [-0.1, 0.6])
def test_a_share_that_cannot_be_cut_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        trimmed_means(np.ones((1, 3)), share=share)


# Tie band


def test_noise_band_by_hand():
    assert noise_band(np.array([[1.0, 1.25], [3.0, 2.5], [2.0, 2.0]])) == 0.5
    assert noise_band(np.array([[1.0, 1.25, 0.5]])) == 0.75
    assert noise_band(np.array([[1.5, 1.5]])) == 0


def test_no_conversation_measured_wins_against_itself():
    rng = np.random.default_rng(0)
    repeats = rng.normal(size=(200, 1)) + 0.01 * rng.normal(size=(200, 2))
    margins = repeats[:, 0] - repeats[:, 1]
    assert set(outcomes(margins, tie=noise_band(repeats))) == {0.5}
    assert set(outcomes(margins)) == {0.0, 1.0}  # the control


def test_the_next_conversation_leaves_the_band_once_in_n_plus_one():
    rng = np.random.default_rng(0)
    noise = rng.standard_t(3, size=(20_000, 10, 2))
    out = [abs(n[-1, 0] - n[-1, 1]) > noise_band(n[:-1]) for n in noise]
    assert np.mean(out) == pytest.approx(1 / 10, abs=0.007)  # 3.3 standard errors


@pytest.mark.parametrize("shape", [(0, 2), (3, 1), (3,)])
def test_too_few_scorings_have_no_band(shape):
    with pytest.raises(ValueError, match="scorings"):
        noise_band(np.ones(shape))


def test_a_failed_scoring_is_not_noise():
    with pytest.raises(ValueError, match="failure"):
        noise_band(np.array([[1.0, NAN]]))
