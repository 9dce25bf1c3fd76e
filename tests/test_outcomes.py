from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from evalkit.statistics.outcomes import all_pairs, mean_by_group, outcomes, win_probabilities

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64)
# Multiples of 1/8 within ±2^10: sums and the affine maps below are exact on them.
EIGHTHS = st.integers(-(2**13), 2**13).map(lambda i: i / 8)
EXTREME = [-np.inf, -1e308, -745.0, -1.0, -1e-300, 0.0, 1e-300, 1.0, 745.0, 1e308, np.inf]
fast = settings(max_examples=60, deadline=None)


@pytest.mark.parametrize(
    ("margin", "tie", "expected"),
    [
        (0.3, 0.0, 1.0),
        (-0.3, 0.0, 0.0),
        (0.0, 0.0, 0.5),
        (-0.0, 0.0, 0.5),
        (5e-324, 0.0, 1.0),
        (-5e-324, 0.0, 0.0),
        (0.25, 0.25, 0.5),
        (-0.25, 0.25, 0.5),
        (np.nextafter(0.25, 1), 0.25, 1.0),
        (np.nextafter(-0.25, -1), 0.25, 0.0),
        (np.inf, 0.0, 1.0),
        (-np.inf, 0.0, 0.0),
    ],
)
def test_outcome_is_win_tie_or_loss(margin, tie, expected):
    assert outcomes(np.array([margin]), tie=tie).tolist() == [expected]


def test_dropped_ties_become_nan_and_others_keep_their_outcome():
    found = outcomes(np.array([0.2, 0.1, 0.0, -0.1, -0.2]), tie=0.1, drop_ties=True)
    np.testing.assert_array_equal(found, [1, np.nan, np.nan, np.nan, 0])


@pytest.mark.parametrize("drop", [False, True])
def test_unknown_margin_is_no_outcome_and_no_probability(drop):
    margins = np.array([np.nan, 1.0])
    np.testing.assert_array_equal(outcomes(margins, drop_ties=drop), [np.nan, 1])
    np.testing.assert_array_equal(np.isnan(win_probabilities(margins)), [True, False])


def test_outcomes_leave_their_input_alone():
    margins = np.array([0.0, np.nan, 2.0])
    margins.setflags(write=False)
    outcomes(margins, drop_ties=True)
    np.testing.assert_array_equal(margins, [0, np.nan, 2])


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_win_probability_is_the_logistic_function(temperature):
    margins = np.linspace(-40, 40, 161)
    # 1/(1 + exp(-m/T)) by definition; expit is the independent library's
    found = win_probabilities(margins, temperature=temperature)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-margins / temperature)), rtol=1e-14)
    np.testing.assert_array_equal(found, expit(margins / temperature))


def test_win_probability_of_extreme_margins_neither_overflows_nor_leaves_the_unit_interval():
    found = win_probabilities(np.array(EXTREME))
    assert found[[0, 1, -2, -1]].tolist() == [0, 0, 1, 1]
    assert np.all(np.diff(found) >= 0)


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3])
def test_equal_rewards_give_exactly_one_half(temperature):
    assert win_probabilities(np.array([0.0, -0.0]), temperature=temperature).tolist() == [0.5, 0.5]


def test_low_temperature_does_not_overflow_on_extreme_margins():
    assert win_probabilities(np.array([1e308, -1e308]), temperature=0.5).tolist() == [1, 0]


@given(st.lists(FINITE, max_size=20), st.floats(0, 10), st.booleans())
@fast
def test_swapping_the_sides_turns_an_outcome_into_its_complement(margins, tie, drop):
    m = np.array(margins, dtype=np.float64)
    forth, back = (outcomes(x, tie=tie, drop_ties=drop) for x in (m, -m))
    np.testing.assert_array_equal(forth, 1 - back)


@given(st.lists(FINITE, max_size=20))
@fast
def test_swapping_the_sides_turns_a_probability_into_its_complement(margins):
    m = np.array(margins, dtype=np.float64)
    total = win_probabilities(m) + win_probabilities(-m)
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-15)


@given(
    st.lists(st.tuples(EIGHTHS, EIGHTHS), max_size=20),
    st.sampled_from([0.25, 0.5, 1.0, 2.0, 1024.0]),
    EIGHTHS,
)
@fast
def test_positive_affine_maps_of_the_rewards_leave_outcomes_alone(rewards, scale, shift):
    left, right = np.array(rewards, dtype=np.float64).reshape(-1, 2).T
    mapped = (scale * left + shift) - (scale * right + shift)
    np.testing.assert_array_equal(outcomes(mapped), outcomes(left - right))


def test_mean_by_group_leaves_unknown_values_out_and_empty_groups_unknown():
    values = np.array([1.0, np.nan, 0.0, 0.5, np.nan])
    group = np.array([0, 0, 0, 3, 2])
    # group 0: (1 + 0)/2; group 1: no row; group 2: only NaN; group 3: 0.5
    np.testing.assert_array_equal(mean_by_group(values, group, 4), [0.5, np.nan, np.nan, 0.5])


@pytest.mark.parametrize("groups", [0, 3])
def test_mean_by_group_without_rows_is_unknown_for_every_group(groups):
    found = mean_by_group(np.array([]), np.array([], dtype=np.int64), groups)
    np.testing.assert_array_equal(found, np.full(groups, np.nan))


@given(st.lists(st.tuples(st.integers(0, 4), FINITE.map(lambda x: x / 1e10)), max_size=25))
@fast
def test_mean_by_group_agrees_with_a_loop(rows):
    values = np.array([v for _, v in rows], dtype=np.float64)
    group = np.array([g for g, _ in rows], dtype=np.int64)
    for g, found in enumerate(mean_by_group(values, group, 5)):
        mine = [v for h, v in rows if h == g]
        scale = max(map(abs, mine), default=0)
        expected = sum(mine) / len(mine) if mine else np.nan
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * scale)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=6))
@fast
def test_all_pairs_agrees_with_nested_loops(sizes):
    expected, first_left, first_right = [], 0, 0
    for prompt, (k, m) in enumerate(sizes):
        for i, j in product(range(k), range(m)):
            expected.append((prompt, first_left + i, first_right + j))
        first_left, first_right = first_left + k, first_right + m
    left, right = np.array(sizes, dtype=np.int64).reshape(-1, 2).T
    found = zip(*(column.tolist() for column in all_pairs(left, right)), strict=True)
    assert list(found) == expected
