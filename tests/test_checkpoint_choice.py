"""Which checkpoints could be the best, which to take, and what it is worth once corrected.

Its interval also where its outcomes hardly vary, or not at all.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from evalkit.statistics.checkpoint_choice import best_set, chosen
from evalkit.statistics.intervals import mean

OUTCOMES = st.sampled_from([0.0, 0.5, 1.0])
TABLES = st.tuples(st.integers(2, 40), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=OUTCOMES)
)
fast = settings(max_examples=150, deadline=None)


def some_keys(n, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


@fast
@given(TABLES, st.integers(0, 3))
def test_a_bounded_value_has_an_interval_around_it_that_is_never_empty(table, seed):
    found = chosen(table, some_keys(len(table), seed), bounded=True)
    c = found.corrected
    assert 0 <= c.low <= c.value <= c.high <= 1
    assert c.high - c.low > 1e-3
    assert found.naive == mean(table[:, found.index], bounded=True)
    if found.naive.method == "betting":
        assert c.low <= found.naive.low
        assert c.high >= found.naive.high


@fast
@given(arrays(np.float64, st.integers(2, 60), elements=st.floats(0, 1)), st.integers(1, 12))
def test_checkpoints_that_are_alike_are_not_corrected_by_the_last_digit(column, copies):
    found = chosen(np.repeat(column[:, None], copies, axis=1), some_keys(len(column)), bounded=True)
    assert (found.corrected.value, found.corrected.stderr) == (
        found.naive.value,
        found.naive.stderr,
    )


@pytest.mark.parametrize("value", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("prompts", [8, 30, 400])
def test_without_variance_the_interval_is_the_estimate_s_own(value, prompts):
    table = np.full((prompts, 7), value)
    found = chosen(table, some_keys(prompts), bounded=True)
    own = mean(table[:, 0], bounded=True)
    assert found.corrected == own
    assert own.method == "betting"
    unbounded = chosen(table, some_keys(prompts)).corrected
    assert (unbounded.low, unbounded.high) == (None, None)


def test_an_interval_close_to_1_holds_the_truth():
    """Of 30 prompts at 97 % the best of three checkpoints mostly loses none."""
    rng, held, none_lost = np.random.default_rng(0), [], 0
    for trial in range(400):
        found = chosen(
            (rng.random((30, 3)) < 0.97).astype(float), some_keys(30, trial), bounded=True
        )
        held.append(found.corrected.low <= 0.97 <= found.corrected.high)
        none_lost += found.naive.value == 1.0
    assert none_lost > 100
    assert np.mean(held) > 0.94


# Which could be the best, and what the choice costs


@pytest.mark.parametrize("level", [0.9, 0.99])
def test_the_set_and_its_p_values_agree_at_any_level(level):
    """Two checkpoints: out of the set where the one-sided t test is below 1 − level."""
    told = set()
    for shift in np.linspace(0.05, 0.3, 11):
        columns = np.random.default_rng(1).normal(0, 1, (200, 2))
        columns += np.array([0.0, shift]) - columns.mean(axis=0)
        p = stats.ttest_rel(columns[:, 0], columns[:, 1], alternative="less").pvalue
        if not 0.8 < p / (1 - level) < 1.25:  # the resamples tell no closer
            found = best_set(columns, some_keys(200), level=level)
            assert (0 in found.members) == (p > 1 - level), (shift, p)
            told.add(0 in found.members)
    assert told == {True, False}


def noise(prompts=100, checkpoints=6):
    return np.random.default_rng(3).normal(0, 1, (prompts, checkpoints))


def test_the_correction_adds_to_the_error_of_what_was_chosen():
    found = chosen(noise(), some_keys(100))
    size = found.naive.value - found.corrected.value
    assert size > 0.02
    assert found.corrected.stderr == pytest.approx(math.hypot(found.naive.stderr, size), rel=1e-12)
    half = stats.t.ppf(0.975, 99) * found.corrected.stderr
    assert found.corrected.high - found.corrected.value == pytest.approx(half, rel=1e-9)


def test_each_split_cuts_the_clusters_anew():
    one, ten = (chosen(noise(), some_keys(100), splits=s).corrected.value for s in (1, 10))
    assert abs(one - ten) > 1e-9


def test_the_standard_error_of_the_choice_is_that_of_few_clusters():
    columns = np.random.default_rng(2).normal(0, 1, (8, 2))
    columns -= columns.mean(axis=0)
    stderr = (columns[:, 1] - columns[:, 0]).std(ddof=1) / math.sqrt(8)
    for times, index in ((0.99, 0), (1.01, 1)):
        below = columns - np.array([times * stderr, 0.0])
        assert chosen(below, some_keys(8)).index == index


def test_whole_clusters_are_the_units_of_what_is_chosen():
    found = chosen(
        np.repeat(noise(30, 4), 3, axis=0),
        np.repeat(some_keys(30), 3),
        clusters=np.repeat(np.arange(30), 3),
    )
    assert found.naive.clusters == found.corrected.clusters == 30
