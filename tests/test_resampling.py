import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evalkit.statistics import resampling
from evalkit.statistics.resampling import (
    BYTES_PER_WEIGHT,
    WEIGHTS,
    as_student,
    bootstrap_means,
    splitmix64,
    weight_blocks,
)

WORD = 2**64
GOLDEN = 0x9E3779B97F4A7C15
fast = settings(max_examples=30, deadline=None)


def mixed(x):
    """SplitMix64 with Python's integers."""
    x = (x + GOLDEN) % WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % WORD
    return x ^ (x >> 31)


def some_keys(n, seed=0):
    return np.random.default_rng(seed).integers(0, WORD, n, dtype=np.uint64)


def weights(keys, resamples):
    return np.concatenate(list(weight_blocks(keys, resamples)))


def test_weight_table_covers_every_byte_once():
    assert sum(BYTES_PER_WEIGHT) == 256
    assert [np.count_nonzero(w == WEIGHTS) for w in range(6)] == list(BYTES_PER_WEIGHT)


def test_weight_moments_are_those_of_a_poisson_bootstrap():
    # mean: (95 + 2·46 + 3·16 + 4·4 + 5)/256 = 256/256
    # square: (95 + 4·46 + 9·16 + 16·4 + 25)/256 = 512/256, so the variance is 2 - 1
    # cube: (95 + 8·46 + 27·16 + 64·4 + 125)/256 = 1276/256 = 4.984…
    assert WEIGHTS.sum() == 256
    assert (WEIGHTS**2).sum() == 512
    assert (WEIGHTS**3).sum() == 1276


def test_mixer_gives_the_published_outputs_of_seed_1234567():
    # The reference sequence of rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64
    states = np.array([(1234567 + i * GOLDEN) % WORD for i in range(5)], dtype=np.uint64)
    assert splitmix64(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.lists(st.integers(0, WORD - 1), min_size=1, max_size=20))
@fast
def test_mixer_agrees_with_python_integers(states):
    assert splitmix64(np.array(states, dtype=np.uint64)).tolist() == [mixed(x) for x in states]


def test_weight_is_the_table_entry_of_one_mixed_byte():
    keys = some_keys(3)
    table = [w for w, n in enumerate(BYTES_PER_WEIGHT) for _ in range(n)]
    expected = [
        [table[mixed(key ^ mixed(b // 8)) >> 8 * (b % 8) & 255] for key in keys.tolist()]
        for b in range(20)
    ]
    assert weights(keys, 20).tolist() == expected


@given(st.permutations(range(12)), st.integers(0, 12))
@fast
def test_weights_follow_their_key_through_shuffling_and_sharding(order, cut):
    keys = some_keys(12)
    whole = weights(keys, 21)
    np.testing.assert_array_equal(weights(keys[order], 21), whole[:, order])
    shards = [weights(part, 21) for part in (keys[:cut], keys[cut:]) if len(part)]
    np.testing.assert_array_equal(np.hstack(shards), whole)


def test_weights_of_the_first_resamples_do_not_depend_on_how_many_follow():
    keys = some_keys(7)
    np.testing.assert_array_equal(weights(keys, 50)[:13], weights(keys, 13))


@pytest.mark.parametrize("cells", [1, 200, 1 << 20])
@pytest.mark.parametrize("resamples", [1, 7, 8, 9, 1001])
def test_blocks_together_have_a_row_for_every_resample_whatever_their_size(
    monkeypatch, cells, resamples
):
    keys = some_keys(5)
    expected = weights(keys, resamples)
    monkeypatch.setattr(resampling, "BLOCK_CELLS", cells)
    found = weights(keys, resamples)
    assert found.shape == (resamples, 5)
    np.testing.assert_array_equal(found, expected)


def test_weights_look_independent_with_mean_and_variance_one():
    found = weights(some_keys(400), 4000)
    # 1.6 million weights of variance 1: the mean is off by 0.0008, the variance by 0.0016
    assert found.mean() == pytest.approx(1, abs=0.004)
    assert found.var() == pytest.approx(1, abs=0.008)
    # correlations of 4000 draws have a standard deviation of 0.016
    between_keys = np.corrcoef(found[:, :60].T)[np.triu_indices(60, 1)]
    assert np.abs(between_keys).max() < 0.08
    assert between_keys.std() == pytest.approx(1 / np.sqrt(4000), rel=0.1)


def test_bootstrap_mean_is_the_weighted_sum_over_the_weighted_size():
    keys = some_keys(6)
    sums, sizes = np.array([1.0, 2, 0, 5, 3, 1]), np.array([1.0, 2, 1, 3, 1, 1])
    expected = [(w @ sums) / (w @ sizes) for w in weights(keys, 100) if w.any()]
    np.testing.assert_allclose(bootstrap_means(sums, sizes, keys, 100), expected, rtol=1e-14)


def test_resamples_that_draw_nothing_are_left_out():
    keys = some_keys(1)
    drawn = np.count_nonzero(weights(keys, 1000))
    means = bootstrap_means(np.array([3.0]), np.array([1.0]), keys, 1000)
    assert 0 < drawn < 1000
    assert means.tolist() == [3.0] * drawn


@pytest.mark.parametrize("n", [100, 805])
def test_bootstrap_standard_error_agrees_with_the_analytic_one(n):
    x = np.random.default_rng(n).exponential(size=n)
    draws = bootstrap_means(x, np.ones(n), some_keys(n), 4000)
    # 4000 draws know a standard deviation to 1/√8000 = 1.1 %
    assert draws.std() == pytest.approx(x.std() / np.sqrt(n), rel=0.05)


def test_bootstrap_keeps_pairs_paired():
    keys, rng = some_keys(300), np.random.default_rng(0)
    x = rng.normal(size=300)
    y = x + 0.01 * rng.normal(size=300)
    ones = np.ones(300)
    difference = bootstrap_means(x, ones, keys, 500) - bootstrap_means(y, ones, keys, 500)
    np.testing.assert_allclose(difference, bootstrap_means(x - y, ones, keys, 500), atol=1e-12)


@pytest.mark.parametrize("df", [1, 4, 159])
def test_a_normal_value_and_its_student_one_are_exceeded_equally_often(df):
    for z in (0.0, 1.96, 5.0, 20.0):
        assert stats.t.sf(as_student(z, df), df) == pytest.approx(stats.norm.sf(z), rel=1e-6)
    assert as_student(math.inf, df) == as_student(50.0, df) == math.inf
