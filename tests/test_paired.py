import functools
import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.power import TTestPower

from evalkit.statistics import paired
from evalkit.statistics.paired import (
    McNemar,
    SignTest,
    Wilcoxon,
    mcnemar,
    paired_difference,
    permutation_p,
    sign_test,
    wilcoxon,
)
from evalkit.statistics.power import minimum_detectable_effect, prompts_needed
from tests.shared_data import SHARED, needs_shared

fast = settings(max_examples=60, deadline=None)
# eighths: sums, shifts by whole numbers and scaling by powers of two are exact
EIGHTHS = st.integers(-16, 16).map(lambda i: i / 8)
PAIRS = st.lists(st.tuples(EIGHTHS, EIGHTHS), min_size=1, max_size=30)
EQUAL = np.array([0.5, 1.0, 0.0, 0.25])


def columns_of(pairs):
    a, b = np.array(pairs, dtype=np.float64).T
    return a, b


def some_keys(n, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


def ends(estimate):
    return estimate.low, estimate.high


# Golden numbers: AlpacaEval preferences, by scipy and statsmodels


@functools.cache
def golden():
    return json.loads((SHARED / "data/alpaca_eval/golden_reference.json").read_text())["paired"]


@functools.cache
def preferences():
    """One row a prompt, one column a model: the preference for the model, in [0, 1]."""
    table = pd.read_parquet(SHARED / "data/alpaca_eval/alpaca_eval_preferences.parquet")
    table = table[
        (table["annotator"] == "weighted_alpaca_eval_gpt4_turbo")
        & (table["reference"] == "gpt4_1106_preview")
    ]
    drawn = table["preference"].replace(0.0, 1.5) - 1
    return table.assign(wins=drawn).pivot(index="prompt_index", columns="model", values="wins")


def golden_case(row):
    expected = golden()[row]
    both = preferences()[[expected["a"], expected["b"]]].dropna().to_numpy()
    assert len(both) == expected["n"]
    return both[:, 0], both[:, 1], expected


ten = pytest.mark.parametrize("row", range(10))


@needs_shared
@ten
def test_paired_difference_gives_the_golden_numbers(row):
    a, b, expected = golden_case(row)
    found = paired_difference(a, b)
    assert found.estimate.method == "t"
    np.testing.assert_allclose(
        [
            np.mean(a),
            np.mean(b),
            found.estimate.value,
            found.estimate.stderr,
            found.stderr_unpaired,
            found.correlation,
            found.t,
            found.p,
            *ends(found.estimate),
            found.effect_size,
        ],
        [
            *(expected[k] for k in ("mean_a", "mean_b", "diff", "se_paired", "se_unpaired")),
            *(expected[k] for k in ("corr", "t", "t_p")),
            *expected["t_ci95"],
            expected["cohen_dz"],
        ],
        rtol=1e-9,
    )
    level = len(a) - expected["sign_pos"] - expected["sign_neg"]
    assert found.superiority == pytest.approx((expected["sign_pos"] + level / 2) / len(a))


@needs_shared
@ten
def test_other_tests_give_the_golden_numbers(row):
    a, b, expected = golden_case(row)
    ranks, verdicts, signs = wilcoxon(a - b), mcnemar(a, b), sign_test(a - b)
    assert ranks.statistic == expected["wilcoxon_pratt_stat"]
    assert (signs.positive, signs.negative) == (expected["sign_pos"], expected["sign_neg"])
    assert verdicts.a_only == expected["mcnemar_b_a_only"]
    assert verdicts.b_only == expected["mcnemar_c_b_only"]
    np.testing.assert_allclose(
        [ranks.p, verdicts.p, verdicts.p_chi2, signs.p],
        [
            expected["wilcoxon_pratt_p"],
            expected["mcnemar_exact_p"],
            expected["sm_mcnemar_chi2_cc_p"],
            expected["sign_exact_p"],
        ],
        rtol=1e-9,
    )


@needs_shared
@ten
def test_power_gives_the_golden_numbers(row):
    _, _, expected = golden_case(row)
    n, stderr = expected["n"], expected["se_paired"]
    assert minimum_detectable_effect(stderr) == pytest.approx(expected["mde80_z"], rel=1e-9)
    # The golden root of the 803 prompts is one where statsmodels' solver stopped early: at it the
    # power is 0.799985.
    found = minimum_detectable_effect(stderr, df=n - 1)
    assert found == pytest.approx(expected["mde80_two_sided_t"], rel=1e-9 if n == 805 else 2e-5)
    # Another golden root, of claude-2, is good to 1.2e-9.
    found = prompts_needed(0.02, n * stderr**2)
    assert found == pytest.approx(expected["n_for_2pp_80"], rel=2e-9)


@needs_shared
@ten
def test_drawn_signs_and_weights_agree_with_the_golden_ones_within_monte_carlo_error(row):
    a, b, expected = golden_case(row)
    keys, p = some_keys(len(a)), expected["permutation_p_mc20000"]
    found = permutation_p(a - b, keys=keys, draws=20_000)
    assert found == pytest.approx(p, abs=4 * math.sqrt(2 * p / 20_000))
    # two ends from 20,000 draws each are 0.027 standard errors apart, see test_intervals
    bca = paired_difference(a, b, keys=keys, resamples=20_000).estimate
    assert (bca.method, bca.resamples) == ("bca", 20_000)
    expected_ends = expected["bca_ci95_mc20000"]
    np.testing.assert_allclose(ends(bca), expected_ends, rtol=0, atol=0.1 * expected["se_paired"])


# The mean difference


def test_paired_difference_by_hand():
    # Differences 1, 0, 2: mean 1, sd 1, SE 1/√3, t = √3, and with 2 degrees of freedom
    # P(|T| > t) = 1 - t/√(t² + 2) = 1 - √(3/5).
    found = paired_difference(np.array([1.0, 2.0, 5.0]), np.array([0.0, 2.0, 3.0]))
    assert found.estimate.value == 1
    assert found.estimate.stderr == pytest.approx(1 / math.sqrt(3), rel=1e-15)
    assert found.t == pytest.approx(math.sqrt(3), rel=1e-15)
    assert found.p == pytest.approx(1 - math.sqrt(0.6), rel=1e-12)
    assert found.effect_size == pytest.approx(1, rel=1e-15)
    assert found.superiority == pytest.approx(5 / 6, rel=1e-15)
    # variances 13/3 and 7/3; that of the difference, 1, is their sum less twice the covariance
    assert found.stderr_unpaired == pytest.approx(math.sqrt((13 / 3 + 7 / 3) / 3), rel=1e-15)
    assert found.correlation == pytest.approx((13 + 7 - 3) / 6 / math.sqrt(91 / 9), rel=1e-14)


@pytest.mark.parametrize("n", [2, 9, 300])
def test_agrees_with_scipys_paired_t_test(n):
    rng = np.random.default_rng(n)
    b = rng.normal(5, 3, n)
    a = b + rng.normal(0.5, 1, n)
    expected = stats.ttest_rel(a, b)
    found = paired_difference(a, b, level=0.9)
    assert (found.t, found.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-12)
    np.testing.assert_allclose(ends(found.estimate), expected.confidence_interval(0.9), rtol=1e-10)
    assert found.correlation == pytest.approx(stats.pearsonr(a, b).statistic, rel=1e-12)


def test_clustered_test_agrees_with_statsmodels():
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(12), [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 24])
    a, b = rng.normal(size=(2, 60)) + rng.normal(size=(2, 12))[:, label]
    fit = sm.OLS(a - b, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": label}, use_t=True)
    found = paired_difference(a, b, clusters=label)
    assert found.estimate.clusters == 12
    assert (found.t, found.p) == pytest.approx((fit.tvalues[0], fit.pvalues[0]), rel=1e-10)
    sides = [
        sm.OLS(x, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": label}).bse[0]
        for x in (a, b)
    ]
    assert found.stderr_unpaired == pytest.approx(math.hypot(*sides), rel=1e-10)


def test_a_test_so_decided_that_p_is_small_keeps_its_digits():
    d = np.random.default_rng(0).normal(10, 1, 60)
    found = paired_difference(d, np.zeros(60))
    assert found.p == pytest.approx(stats.ttest_1samp(d, 0).pvalue, rel=1e-9)
    assert 0 < found.p < 1e-40


@given(PAIRS, st.booleans())
@fast
def test_swapping_the_columns_mirrors_everything(pairs, clustered):
    a, b = columns_of(pairs)
    clusters = np.arange(len(a)) // 3 if clustered else None
    one, other = (paired_difference(x, y, clusters=clusters) for x, y in ((a, b), (b, a)))
    assert other.estimate.value == -one.estimate.value
    if one.t is not None:
        assert other.t == -one.t
        np.testing.assert_allclose(ends(other.estimate), [-e for e in reversed(ends(one.estimate))])
    assert (other.p, other.correlation) == (one.p, pytest.approx(one.correlation, abs=1e-12))
    assert other.stderr_unpaired == one.stderr_unpaired
    assert other.effect_size == (None if one.effect_size is None else -one.effect_size)
    assert other.superiority == pytest.approx(1 - one.superiority, abs=1e-15)
    keys = some_keys(len(a))
    assert permutation_p(b - a, keys=keys, draws=99) == permutation_p(a - b, keys=keys, draws=99)
    assert sign_test(b - a) == SignTest(*reversed(sign_test(a - b)[:2]), sign_test(a - b).p)


@given(PAIRS, st.integers(-9, 9), st.sampled_from([0.25, 2.0, 64.0]))
@fast
def test_a_common_shift_changes_nothing_and_a_scale_the_units_alone(pairs, shift, scale):
    a, b = columns_of(pairs)
    plain, mapped = paired_difference(a, b), paired_difference(scale * a + shift, scale * b + shift)
    assert mapped.estimate.value == scale * plain.estimate.value
    if plain.estimate.stderr is not None:
        assert mapped.estimate.stderr == pytest.approx(scale * plain.estimate.stderr, rel=1e-12)
    assert mapped.t == (None if plain.t is None else pytest.approx(plain.t, rel=1e-12))
    assert mapped.p == (None if plain.p is None else pytest.approx(plain.p, rel=1e-9))
    assert mapped.superiority == plain.superiority
    if plain.effect_size is not None:
        assert mapped.effect_size == pytest.approx(plain.effect_size, rel=1e-12)
    assert mapped.correlation == pytest.approx(plain.correlation, abs=1e-12)


@given(PAIRS, st.integers(-9, 9))
@fast
def test_shifting_one_column_shifts_the_difference(pairs, shift):
    a, b = columns_of(pairs)
    plain, moved = paired_difference(a, b).estimate, paired_difference(a + shift, b).estimate
    assert moved.value == pytest.approx(plain.value + shift, abs=1e-12)
    if plain.low is not None:
        assert ends(moved) == pytest.approx([e + shift for e in ends(plain)], abs=1e-9)


@given(PAIRS, st.randoms(use_true_random=False))
@fast
def test_order_of_the_prompts_does_not_matter(pairs, random):
    a, b = columns_of(pairs)
    order = random.sample(range(len(a)), len(a))
    clusters, keys = np.arange(len(a)) // 2, some_keys(len(a))[np.arange(len(a)) // 2]
    plain = paired_difference(a, b, clusters=clusters)
    shuffled = paired_difference(a[order], b[order], clusters=clusters[order])
    assert shuffled.estimate.value == plain.estimate.value
    if plain.t is not None:
        assert (shuffled.t, shuffled.p) == pytest.approx((plain.t, plain.p), rel=1e-9)
    assert shuffled.superiority == plain.superiority
    d = a - b
    assert permutation_p(d[order], clusters=clusters[order], keys=keys[order], draws=200) == (
        permutation_p(d, clusters=clusters, keys=keys, draws=200)
    )
    assert wilcoxon(d[order]) == wilcoxon(d)
    assert sign_test(d[order]) == sign_test(d)


@given(PAIRS)
@fast
def test_clusters_of_one_prompt_change_nothing(pairs):
    a, b = columns_of(pairs)
    labels = np.random.default_rng(1).permutation(len(a)) * 10
    plain, labelled = paired_difference(a, b), paired_difference(a, b, clusters=labels)
    assert labelled.p == (None if plain.p is None else pytest.approx(plain.p, rel=1e-9))
    if plain.t is not None:
        assert ends(labelled.estimate) == pytest.approx(ends(plain.estimate), rel=1e-9, abs=1e-12)
    d, keys = a - b, some_keys(len(a))
    assert permutation_p(d, clusters=labels, keys=keys, draws=99) == pytest.approx(
        permutation_p(d, keys=keys, draws=99)
    )


def test_an_interval_of_resamples_is_that_of_the_differences():
    rng = np.random.default_rng(0)
    b = rng.exponential(size=40)
    a, keys = b + rng.exponential(size=40), some_keys(40)
    found = paired_difference(a, b, keys=keys, resamples=500, seed=3).estimate
    same = paired_difference(a - b, np.zeros(40), keys=keys, resamples=500, seed=3).estimate
    assert found == same
    assert (found.method, found.resamples, found.seed) == ("bca", 500, 3)


# Edge cases of the mean difference


@pytest.mark.parametrize("clusters", [None, np.array([0, 0, 1, 1]), np.zeros(4, dtype=np.int64)])
def test_equal_columns_give_p_one_everywhere(clusters):
    found = paired_difference(EQUAL, EQUAL, clusters=clusters)
    assert (found.estimate.value, found.p, found.superiority) == (0, 1, 0.5)
    assert (found.t, found.effect_size, found.estimate.low) == (None, None, None)
    assert found.correlation == pytest.approx(1, rel=1e-15)
    zero = EQUAL - EQUAL
    assert permutation_p(zero, clusters=clusters) == 1
    assert wilcoxon(zero) == Wilcoxon(0, 1)
    assert sign_test(zero) == SignTest(0, 0, 1)
    assert mcnemar(EQUAL, EQUAL) == McNemar(0, 0, 1, None, 1)


def test_one_prompt_or_one_cluster_has_a_difference_and_no_test():
    one = paired_difference(np.array([3.0]), np.array([1.0]))
    assert (one.estimate.value, one.superiority) == (2, 1)
    assert (one.t, one.p, one.stderr_unpaired, one.correlation) == (None, None, None, None)
    assert one.effect_size is None
    cluster = paired_difference(np.array([3.0, 4.0]), np.zeros(2), clusters=np.zeros(2, np.int64))
    assert (cluster.t, cluster.p, cluster.stderr_unpaired) == (None, None, None)
    assert cluster.effect_size == pytest.approx(3.5 / math.sqrt(0.5))


def test_a_constant_difference_has_no_test():
    b = np.array([0.0, 1.0, 5.0])
    found = paired_difference(b + 2, b)
    assert (found.estimate.value, found.estimate.stderr) == (2, 0)
    assert (found.t, found.p, found.effect_size, found.superiority) == (None, None, None, 1)
    assert found.correlation == pytest.approx(1, rel=1e-15)


def test_rounding_is_no_spread():
    a, b = np.array([0.3, 0.2, 0.7]), np.array([0.2, 0.1, 0.6])
    assert np.ptp(a - b) > 0
    found = paired_difference(a, b)
    assert (found.t, found.p, found.effect_size) == (None, None, None)
    found = paired_difference(np.full(3, 0.1) + 0.2, np.array([0.3, 0.1 + 0.2, 0.3]))
    assert (found.estimate.value, found.p, found.superiority) == (0, 1, 0.5)


def test_a_constant_column_has_no_correlation():
    found = paired_difference(np.array([0.1, 0.4, 0.3]), np.zeros(3))
    assert found.correlation is None
    assert found.p is not None


def test_nothing_to_compare_is_unknown():
    nothing = np.array([])
    found = paired_difference(nothing, nothing)
    assert (found.estimate.value, found.estimate.n) == (None, 0)
    others = (found.t, found.p, found.stderr_unpaired, found.correlation, found.effect_size)
    assert (*others, found.superiority) == (None,) * 6
    assert permutation_p(nothing) is None
    assert mcnemar(nothing, nothing) == McNemar(0, 0, None, None, None)
    assert sign_test(nothing) == SignTest(0, 0, None)
    assert wilcoxon(nothing) == Wilcoxon(None, None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_unknown_values_are_refused(value):
    bad, good = np.array([0.5, value, 1.0]), np.zeros(3)
    for call in (
        lambda: paired_difference(bad, good),
        lambda: paired_difference(good, bad),
        lambda: permutation_p(bad),
        lambda: mcnemar(bad, good),
        lambda: mcnemar(good, bad),
        lambda: sign_test(bad),
        lambda: wilcoxon(bad),
    ):
        with pytest.raises(ValueError, match="NaN or infinity"):
            call()


@pytest.mark.parametrize("call", [paired_difference, mcnemar])
def test_columns_of_other_prompts_are_refused(call):
    with pytest.raises(ValueError, match="equal lengths, not 3 and 1"):
        call(np.zeros(3), np.zeros(1))
    with pytest.raises(ValueError, match="one dimension"):
        call(np.zeros((3, 2)), np.zeros((3, 2)))


# Sign flips


@pytest.mark.parametrize("seed", range(3))
def test_few_clusters_are_permuted_exactly(seed):
    d = np.random.default_rng(seed).integers(-3, 5, 10) / 7
    flipped = [abs(np.dot(s, d)) for s in itertools.product([1, -1], repeat=10)]
    expected = np.mean(np.array(flipped) >= abs(d.sum()) - 1e-9)
    assert permutation_p(d) == expected
    result = stats.permutation_test(
        (d,), np.sum, permutation_type="samples", alternative="two-sided", n_resamples=np.inf
    )
    assert permutation_p(d) == pytest.approx(result.pvalue, rel=1e-12)


def test_permutation_by_hand():
    # Of the 8 patterns only + + + and - - - reach a sum of 6; of 3 + 3 - 0 half do.
    assert permutation_p(np.array([1.0, 2.0, 3.0])) == 0.25
    assert permutation_p(np.array([3.0, 0.0, 3.0])) == 0.5
    assert permutation_p(np.array([5.0])) == 1
    # clusters {1, 2} and {3}: sums 3 and 3
    assert permutation_p(np.array([1.0, 2.0, 3.0]), clusters=np.array([4, 4, 2])) == 0.5


def test_whole_clusters_are_flipped():
    x = np.random.default_rng(0).normal(0.5, 1, 12)
    repeated = permutation_p(np.repeat(x, 5), clusters=np.repeat(np.arange(12), 5))
    assert repeated == permutation_p(x)


def test_drawn_signs_agree_with_all_signs():
    d = np.random.default_rng(0).normal(0.5, 1, 21)
    totals = np.zeros(1)
    for x in d:
        totals = np.concatenate([totals + x, totals - x])
    expected = np.mean(np.abs(totals) >= abs(d.sum()) - 1e-12)
    found = permutation_p(d, keys=some_keys(21), draws=40_000)
    assert 0.05 < expected < 0.5
    assert found == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 40_000))


def test_a_drawn_p_is_never_zero_and_counts_the_draws_asked_for():
    for draws in (1, 63, 64, 65, 1000):
        assert permutation_p(np.ones(100), keys=some_keys(100), draws=draws) == 1 / (1 + draws)


def test_drawn_signs_depend_on_the_keys_alone(monkeypatch):
    d = np.random.default_rng(0).normal(0.1, 1, 50)
    first = permutation_p(d, keys=some_keys(50), draws=999)
    assert permutation_p(d, keys=some_keys(50), draws=999) == first
    assert permutation_p(d, keys=some_keys(50, seed=1), draws=999) != first
    monkeypatch.setattr(paired, "BLOCK_CELLS", 1)
    assert permutation_p(d, keys=some_keys(50), draws=999) == first


def test_permutation_holds_its_level_where_signs_are_symmetric():
    rng = np.random.default_rng(0)
    p = [
        permutation_p(rng.standard_cauchy(30), keys=some_keys(30, seed), draws=99)
        for seed in range(1000)
    ]
    # a tenth of 1000: 100 ± 9.5
    assert 70 < np.count_nonzero(np.array(p) <= 0.1) < 130


def test_permutation_of_many_clusters_needs_keys_and_draws():
    with pytest.raises(ValueError, match="keys"):
        permutation_p(np.ones(21))
    with pytest.raises(ValueError, match="at least 1"):
        permutation_p(np.ones(3), draws=0)


# Verdicts, signs, ranks


def test_mcnemar_by_hand():
    a = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.5, 0.5, 0.51])
    b = np.array([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.5, 0.49])
    # 5 to 1: P(at most 1 of 6) = 7/64, twice that; χ² = (4 - 1)²/6
    found = mcnemar(a, b)
    assert (found.a_only, found.b_only, found.p) == (5, 1, pytest.approx(14 / 64, rel=1e-14))
    assert found.chi2 == 1.5
    assert found.p_chi2 == pytest.approx(math.erfc(math.sqrt(1.5 / 2)), rel=1e-12)


@given(st.integers(0, 60), st.integers(0, 60))
@fast
def test_mcnemar_agrees_with_statsmodels(a_only, b_only):
    a = np.repeat([1.0, 0.0, 1.0, 0.5], [a_only, b_only, 3, 2])
    b = np.repeat([0.0, 1.0, 1.0, 1.0], [a_only, b_only, 3, 2])
    table = [[3, a_only], [b_only, 0]]
    found = mcnemar(a, b)
    exact = statsmodels_mcnemar(table, exact=True).pvalue
    assert found.p == pytest.approx(exact, rel=1e-12)
    if a_only != b_only:
        corrected = statsmodels_mcnemar(table, exact=False, correction=True)
        expected = (corrected.statistic, corrected.pvalue)
        assert (found.chi2, found.p_chi2) == pytest.approx(expected, rel=1e-10)
    elif a_only:  # where statsmodels corrects past zero
        assert (found.chi2, found.p_chi2) == (0, 1)
    swapped = mcnemar(b, a)
    assert swapped == McNemar(b_only, a_only, *found[2:])


@pytest.mark.parametrize("value", [-0.1, 1.1, 2.0])
def test_outcomes_outside_the_unit_interval_are_refused(value):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        mcnemar(np.array([value]), np.array([0.0]))


@given(st.lists(st.sampled_from([-2.0, -1e-9, 0.0, 1e-9, 1.0]), min_size=1, max_size=300))
@fast
def test_sign_test_agrees_with_scipys_binomial(differences):
    found = sign_test(np.array(differences))
    decided = [x for x in differences if x]
    assert found.positive + found.negative == len(decided)
    if decided:
        expected = stats.binomtest(found.positive, len(decided)).pvalue
        assert found.p == pytest.approx(expected, rel=1e-10)


def test_a_hair_on_most_prompts_and_a_loss_on_average():
    d = np.repeat([1e-6, -1.0], [90, 10])
    assert paired_difference(d, np.zeros(100)).t < -3
    assert sign_test(d) == SignTest(90, 10, pytest.approx(stats.binomtest(10, 100).pvalue))


def test_wilcoxon_ranks_zeros_and_drops_them():
    # Sizes 0, 1, 2, 3 have ranks 1 to 4; the signed ones are 2, -3, 4: the smaller sum is 3. By
    # Wilcoxon's own way ranks were 1, -2, 3 and the sum 2.
    d = np.array([0.0, 1.0, -2.0, 3.0])
    assert wilcoxon(d).statistic == 3
    assert stats.wilcoxon(d, zero_method="wilcox").statistic == 2


@pytest.mark.parametrize("n", [1, 2, 5, 13, 60])
@pytest.mark.parametrize("tied", [True, False])
def test_wilcoxon_of_any_size_has_a_p(n, tied):
    x = np.random.default_rng(n).normal(size=n)
    found = wilcoxon(np.sign(x) if tied else x)
    assert 0 < found.p <= 1


def test_scipys_statistics_are_imported_when_ranks_are_asked_for():
    script = (
        "import sys, numpy\n"
        "from evalkit.statistics import multiplicity, paired\n"
        "paired.paired_difference(numpy.arange(3.0), numpy.ones(3))\n"
        "print('scipy.stats' in sys.modules)\n"
        "paired.wilcoxon(numpy.arange(3.0))\n"
        "print('scipy.stats' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


# Power


def test_detectable_effect_by_hand():
    # 1.959964 + 0.841621
    assert minimum_detectable_effect(1.0) == pytest.approx(2.8015852181129683, rel=1e-12)
    assert minimum_detectable_effect(0.5, level=0.9, power=0.9) == pytest.approx(
        (stats.norm.ppf(0.95) + stats.norm.ppf(0.9)) / 2, rel=1e-12
    )
    assert minimum_detectable_effect(0.0) == minimum_detectable_effect(0.0, df=5) == 0


@pytest.mark.parametrize("df", [1, 2.5, 11, 199, 1e4])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
@pytest.mark.parametrize("power", [0.3, 0.8, 0.99])
def test_detectable_effect_is_where_the_noncentral_t_has_the_power(df, level, power):
    shift = minimum_detectable_effect(1.0, level=level, power=power, df=df)
    critical = stats.t.ppf((1 + level) / 2, df)
    # P(|T| > c) = E[Φ(δ - cS) + Φ(-δ - cS)] with S² = χ²/df
    found, _ = integrate_over_chi(
        lambda s: stats.norm.cdf(shift - critical * s) + stats.norm.cdf(-shift - critical * s), df
    )
    assert found == pytest.approx(power, abs=1e-8)


def integrate_over_chi(function, df):
    from scipy import integrate

    chi = stats.chi(df, scale=1 / math.sqrt(df))
    low, high = chi.ppf([1e-14, 1 - 1e-14])
    return integrate.quad(lambda s: function(s) * chi.pdf(s), low, high, epsabs=1e-10, limit=500)


def test_many_degrees_of_freedom_are_the_normal_case():
    # up to rejections on the wrong side, of chance 1e-6
    found = minimum_detectable_effect(1.0, df=1e9)
    assert found == pytest.approx(minimum_detectable_effect(1.0), rel=2e-6)


@pytest.mark.parametrize("n", [4, 12, 60])
def test_power_is_the_share_of_tests_that_find_the_effect(n):
    rng = np.random.default_rng(n)
    effect = minimum_detectable_effect(1 / math.sqrt(n), df=n - 1)
    x = rng.normal(effect, 1, (20_000, n))
    found = np.mean(stats.ttest_1samp(x, 0, axis=1).pvalue < 0.05)
    assert found == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 20_000))


@pytest.mark.parametrize("delta", [0.5, 0.2, -0.05, 0.001])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_prompts_needed_and_detectable_effect_are_inverse(delta, power):
    n = prompts_needed(delta, 0.3, power=power)
    stderr = math.sqrt(0.3 / n)
    found = minimum_detectable_effect(stderr, power=power, df=n - 1)
    assert found == pytest.approx(abs(delta), rel=1e-9)
    n = prompts_needed(delta, 0.3, power=power, exact=False)
    found = minimum_detectable_effect(math.sqrt(0.3 / n), power=power)
    assert found == pytest.approx(abs(delta), rel=1e-12)


def test_prompts_needed_agrees_with_statsmodels():
    for effect in (0.1, 0.5):
        expected = TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8)
        assert prompts_needed(effect, 1.0) == pytest.approx(expected, rel=1e-7)


def test_more_completions_cut_the_variance_within_prompts_alone():
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    found = prompts_needed(0.1, 0.2, within=[(0.3, 4), (0.5, 2)], exact=False)
    assert found == pytest.approx(z**2 * (0.2 + 0.3 / 4 + 0.5 / 2) / 0.01, rel=1e-12)
    one, many = (prompts_needed(0.1, 0.2, within=[(0.3, k), (0.3, k)]) for k in (1, 10**9))
    assert many == pytest.approx(prompts_needed(0.1, 0.2), rel=1e-6)
    assert one == pytest.approx(prompts_needed(0.1, 0.8), rel=1e-12)


def test_no_plan_has_fewer_than_two_prompts():
    assert prompts_needed(1.0, 0.0) == 2
    assert prompts_needed(100.0, 1e-6) == pytest.approx(2, rel=1e-12)
    assert prompts_needed(100.0, 1e-6, exact=False) == 2


@pytest.mark.parametrize(
    ("stderr", "settings"),
    [
        (-1.0, {}),
        (math.nan, {}),
        (1.0, {"level": 1.0}),
        (1.0, {"power": 1.0}),
        (1.0, {"power": 0.05}),
        (1.0, {"df": 0}),
        (1.0, {"df": math.inf}),
    ],
    ids=str,
)
def test_detectable_effect_of_impossible_arguments_is_refused(stderr, settings):
    with pytest.raises(ValueError, match=r"finite|between"):
        minimum_detectable_effect(stderr, **settings)


@pytest.mark.parametrize(
    ("delta", "variance", "settings"),
    [
        (0.0, 1.0, {}),
        (math.nan, 1.0, {}),
        (0.1, -1.0, {}),
        (0.1, 1.0, {"within": [(math.nan, 1)]}),
        (0.1, 1.0, {"within": [(0.1, 0)]}),
        (0.1, 1.0, {"power": 0.01}),
    ],
    ids=str,
)
def test_impossible_plans_are_refused(delta, variance, settings):
    with pytest.raises(ValueError, match=r"finite|between|completion"):
        prompts_needed(delta, variance, **settings)


# The longer study


@pytest.mark.slow
@pytest.mark.parametrize("clusters", [30, 200])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_paired_tests_hold_their_level_with_clusters(clusters, share):
    rng, runs = np.random.default_rng(clusters), 4000
    label = np.repeat(np.arange(clusters), 4)
    found, naive, flips = [], [], []
    for seed in range(runs):
        a, b = math.sqrt(share) * rng.normal(size=(2, clusters))[:, label] + math.sqrt(
            1 - share
        ) * rng.normal(size=(2, 4 * clusters))
        found.append(paired_difference(a, b, clusters=label).p)
        naive.append(paired_difference(a, b).p)
        keys = some_keys(clusters, seed)[label]
        flips.append(permutation_p(a - b, clusters=label, keys=keys, draws=199))
    error = 4 * math.sqrt(0.05 * 0.95 / runs)
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=error)
    assert np.mean(np.array(flips) <= 0.05) == pytest.approx(0.05, abs=error)
    if share:  # the control: without clusters a third of all null differences are "found"
        assert np.mean(np.array(naive) <= 0.05) > 0.15
