import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.statistics.best_of_n import (
    best_of_n_kl,
    best_of_weights,
    expected_pick,
)
from evalkit.statistics.outcomes import mean_by_group

fast = settings(max_examples=80, deadline=None)
NAN = math.nan
SAMPLES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(-6, 6), st.integers(-6, 6)), min_size=1, max_size=18
)


def columns(samples):
    group, selector, values = (np.array(column) for column in zip(*samples, strict=True))
    return group, selector / 4, values / 4


def every_choice(selector, values, k):
    """Mean over all choices of k of the mean value of those that the selector likes best."""
    picks = []
    for chosen in map(list, combinations(range(len(selector)), k)):
        best = selector[chosen] == selector[chosen].max()
        picks.append(values[chosen][best].mean())
    return np.mean(picks) if picks else NAN


def expected_best(rewards, group, groups, k):
    return expected_pick(rewards, rewards, group, groups, k)


def one_prompt(n):
    return np.zeros(n, dtype=np.int64), 1


# Weights


@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_weights_are_ratios_of_binomials(n):
    for k in range(1, n + 1):
        expected = [
            float(Fraction(math.comb(j - 1, k - 1), math.comb(n, k))) for j in range(1, n + 1)
        ]
        np.testing.assert_allclose(best_of_weights(n, k), expected, rtol=1e-13)


def test_weights_of_many_samples_neither_overflow_nor_lose_their_sum():
    weights = best_of_weights(100_000, 50_000)
    assert weights.sum() == pytest.approx(1, rel=1e-12)
    assert weights[-1] == 0.5
    assert np.isfinite(weights).all()


def test_more_than_there_are_have_no_weights():
    assert np.isnan(best_of_weights(3, 4)).tolist() == [True] * 3


# Best of k


def test_best_of_two_by_hand():
    # {1, 2, 5}: pairs 2, 5, 5; {4}: no pair; {0, 0}: 0
    rewards, group = np.array([5.0, 0, 1, 4, 2, 0]), np.array([0, 2, 0, 1, 0, 2])
    np.testing.assert_allclose(expected_best(rewards, group, 4, 2), [4, NAN, 0, NAN])


@given(SAMPLES, st.integers(1, 6))
@fast
def test_best_of_k_is_the_mean_over_every_choice(samples, k):
    group, selector, values = columns(samples)
    best = expected_best(values, group, 6, k)
    pick = expected_pick(selector, values, group, 6, k)
    for g in range(6):
        rows = group == g
        expected = every_choice(values[rows], values[rows], k)
        np.testing.assert_allclose(best[g], expected, rtol=1e-12, atol=1e-12)
        expected = every_choice(selector[rows], values[rows], k)
        np.testing.assert_allclose(pick[g], expected, rtol=1e-12, atol=1e-12)


@given(SAMPLES)
@fast
def test_best_of_one_is_the_mean_and_best_of_all_the_maximum(samples):
    group, _, values = columns(samples)
    mean = mean_by_group(values, group, 5)
    np.testing.assert_allclose(expected_best(values, group, 5, 1), mean, atol=1e-14)
    for g in np.unique(group):
        mine = values[group == g]
        assert expected_best(values, group, 5, len(mine))[g] == mine.max()


@given(SAMPLES, st.integers(1, 4), st.randoms(use_true_random=False))
@fast
def test_order_and_unit_of_the_rewards_do_not_matter(samples, k, random):
    group, selector, values = columns(samples)
    order = random.sample(range(len(group)), len(group))
    plain = expected_pick(selector, values, group, 5, k)
    found = expected_pick(selector[order] ** 3 + 7, 4 * values[order] - 3, group[order], 5, k)
    np.testing.assert_allclose(found, 4 * plain - 3, rtol=1e-12, atol=1e-12)
    best = expected_best(values, group, 5, k)
    moved = expected_best(4 * values[order] - 3, group[order], 5, k)
    np.testing.assert_allclose(moved, 4 * best - 3, rtol=1e-12, atol=1e-12)


@given(SAMPLES)
@fast
def test_more_samples_to_choose_from_never_hurt_the_one_that_chooses(samples):
    group, _, values = columns(samples)
    curve = np.array([expected_best(values, group, 5, k) for k in range(1, 6)])
    steps = np.diff(curve, axis=0)
    assert (steps[~np.isnan(steps)] >= -1e-12).all()


def test_an_indifferent_selector_picks_at_random():
    values, (group, groups) = np.array([1.0, 2.0, 6.0]), one_prompt(3)
    for k in (1, 2, 3):
        found = expected_pick(np.full(3, 0.1), values, group, groups, k)
        assert found == pytest.approx([3.0], rel=1e-15)


def test_an_opposed_selector_picks_the_worst():
    rng = np.random.default_rng(0)
    values, (group, groups) = rng.normal(size=8), one_prompt(8)
    for k in (1, 3, 8):
        found = expected_pick(-values, values, group, groups, k)
        expected = -expected_best(-values, group, groups, k)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_best_of_k_is_unbiased():
    # the maximum of 4 uniforms is 4/5 in the mean, of sd √(4/150)
    rewards = np.random.default_rng(0).uniform(size=(20_000, 10))
    found = expected_best(rewards.ravel(), np.repeat(np.arange(20_000), 10), 20_000, 4)
    assert found.mean() == pytest.approx(0.8, abs=4 * found.std() / math.sqrt(20_000))
    assert found.std() < math.sqrt(4 / 150)


@given(st.integers(1, 30), st.integers(0, 30), st.integers(1, 30))
@fast
def test_of_hard_outcomes_it_is_pass_at_k(n, c, k):
    c = min(c, n)
    group, groups = one_prompt(n)
    found = expected_best(np.repeat([1.0, 0.0], [c, n - c]), group, groups, k)[0]
    if k > n:
        assert math.isnan(found)
    else:  # Chen et al. 2021, equation 1
        expected = float(1 - Fraction(math.comb(n - c, k), math.comb(n, k)))
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
def test_a_prompt_with_a_failed_sample_is_undefined_and_the_others_are_not(value):
    rewards, group = np.array([1.0, value, 3.0, 4.0, 5.0]), np.array([0, 0, 0, 1, 1])
    np.testing.assert_array_equal(expected_best(rewards, group, 2, 2), [NAN, 5])
    other = np.arange(5.0)
    np.testing.assert_array_equal(expected_pick(rewards, other, group, 2, 2), [NAN, 4])
    np.testing.assert_array_equal(expected_pick(other, rewards, group, 2, 2), [NAN, 5])


def test_no_samples_have_no_best():
    nothing, nobody = np.array([]), np.array([], dtype=np.int64)
    np.testing.assert_array_equal(expected_best(nothing, nobody, 2, 1), [NAN, NAN])
    np.testing.assert_array_equal(expected_pick(nothing, nothing, nobody, 1, 1), [NAN])


def test_the_best_of_none_and_unequal_lengths_are_refused():
    group, groups = one_prompt(2)
    with pytest.raises(ValueError, match="at least one"):
        expected_best(np.ones(2), group, groups, 0)
    with pytest.raises(ValueError, match="at least one"):
        best_of_weights(2, 0)
    with pytest.raises(ValueError, match="lengths"):
        expected_pick(np.ones(2), np.ones(3), group, groups, 1)


# Divergence


def test_divergence_by_hand():
    found = best_of_n_kl(np.array([1, 2, 4, 1000]))
    expected = [0, math.log(2) - 0.5, math.log(4) - 0.75, math.log(1000) - 0.999]
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_divergence_is_that_of_the_maximum_of_uniforms():
    # its density is n·u^(n-1): the mean of its log under itself, by the midpoint rule
    u = (np.arange(200_000) + 0.5) / 200_000
    for n in (2, 5, 30):
        density = n * u ** (n - 1)
        expected = np.mean(density * np.log(density))
        assert best_of_n_kl(np.array(n)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [0, -1])
def test_the_best_of_none_has_no_divergence(n):
    with pytest.raises(ValueError, match="at least one"):
        best_of_n_kl(np.array([3, n]))
