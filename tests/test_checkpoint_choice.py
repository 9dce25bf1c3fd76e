"""The corrected value of the chosen checkpoint where its outcomes hardly vary, or not at all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evalkit.statistics.checkpoint_choice import chosen
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
