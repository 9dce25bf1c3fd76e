"""Variance components of a pilot, and the prompts, completions and references they call for."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evalkit.statistics.planning import (
    Components,
    TradeOff,
    Within,
    components,
    trade_off,
    variance_range,
)
from evalkit.statistics.power import minimum_detectable_effect, prompts_needed

fast = settings(max_examples=40, deadline=None)


def variance_of(d):
    return float(np.var(d, ddof=1))


def test_two_completions_by_hand():
    a = np.array([[1.0, 3.0], [2.0, 2.0], [6.0, 10.0]])
    b = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 4.0]])
    # within: a (2 + 0 + 8)/3, b (0 + 0 + 2)/3; means of a − b: 2, 1, 5, their variance 13/3
    found = components(a, b)
    assert found.a == Within(pytest.approx(10 / 3), 0.0)
    assert found.b == Within(pytest.approx(2 / 3), 0.0)
    assert found.between == pytest.approx(13 / 3 - 10 / 6 - 2 / 6)
    assert found.mean == pytest.approx(8 / 3)
    assert (found.prompts, found.references, found.by_reference) == (3, 1, None)
    # four completions of a and one of b: 7/3 + 10/12 + 2/3
    assert found.variance((4, 1)) == pytest.approx(7 / 3 + 10 / 12 + 2 / 3)


def test_two_references_by_hand():
    # one completion a side: differences (prompts × references) [[1, 3], [2, 8]]
    a, b = np.array([[[1.0], [3.0]], [[2.0], [8.0]]]), np.zeros((2, 2, 1))
    # what rows and columns leave is ±1 in each cell: mean square 4/1; means of rows 2 and 5
    found = components(a, b)
    assert found.by_reference == pytest.approx(4.0)
    assert found.between == pytest.approx(4.5 - 4 / 2)
    assert found.a is None
    assert found.variance((1, 1), 4) == pytest.approx(2.5 + 1)


def test_the_pilot_s_own_numbers_give_the_variance_it_measured():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 3, 1)) + rng.normal(size=(300, 3, 4)) + rng.normal(size=(300, 1, 4))
    a += rng.normal(size=(300, 1, 1))
    b = rng.normal(size=(300, 3, 2)) + rng.normal(size=(300, 1, 2))
    found = components(a, b)
    measured = variance_of((a.mean(axis=2) - b.mean(axis=2)).mean(axis=1))
    assert found.variance((4, 2), 3) == pytest.approx(measured)


def test_one_way_components_are_those_of_the_f_table():
    a = np.random.default_rng(1).normal(size=(40, 5)) + np.arange(40)[:, None] / 10
    found = components(a, np.zeros((40, 1)))
    f = stats.f_oneway(*a).statistic  # (s² + K·w²) / s²
    assert 1 + 5 * found.between / found.a.completions == pytest.approx(f)


# Simulated: the components are those planted


def planted(rng, prompts, references, counts, w=0.5, v=0.4, c=(0.6, 0.3), e=(0.35, 0.5)):
    shared = rng.normal(size=(prompts, references, 1)) * 2  # of prompt and reference, on both sides
    sides = []
    for k, of_completion, of_both in zip(counts, c, e, strict=True):
        noise = of_completion * rng.normal(size=(prompts, 1, k))
        sides.append(shared + noise + of_both * rng.normal(size=(prompts, references, k)))
    sides[0] = sides[0] + w * rng.normal(size=(prompts, 1, 1))
    sides[0] = sides[0] + v * rng.normal(size=(prompts, references, 1))
    sides[0] = sides[0] + rng.normal(size=(1, references, 1))  # references differ as a whole
    return sides


def estimates(found):
    return [
        found.between,
        found.by_reference,
        found.a.completions,
        found.a.by_reference,
        found.b.completions,
        found.b.by_reference,
    ]


@pytest.mark.parametrize("trials", [100, pytest.param(3_000, marks=pytest.mark.slow)])
def test_components_are_unbiased(trials):
    rng = np.random.default_rng(2)
    found = np.array([estimates(components(*planted(rng, 60, 3, (4, 3)))) for _ in range(trials)])
    truth = np.square([0.5, 0.4, 0.6, 0.35, 0.3, 0.5])
    error = found.std(axis=0, ddof=1) / math.sqrt(trials)
    assert np.all(np.abs(found.mean(axis=0) - truth) < 4 * error)


def test_a_component_that_is_not_there_is_about_0_and_never_below():
    rng = np.random.default_rng(3)
    found = [components(rng.normal(size=(50, 3)), rng.normal(size=(50, 3))) for _ in range(200)]
    between = [f.between for f in found]
    assert min(between) == 0.0
    assert 0.3 < np.mean(np.array(between) == 0.0) < 0.7  # truncated half of the time
    assert np.median(between) < 0.05


@pytest.mark.parametrize("trials", [400, pytest.param(5_000, marks=pytest.mark.slow)])
def test_the_planned_prompts_have_the_stated_power(trials):
    """Outcomes of 0 and 1: win chances of a prompt are Beta, b a little worse."""
    rng = np.random.default_rng(4)

    def run(prompts, k, loss):
        chance = rng.beta(1.5, 1.5, prompts) * 0.6 + 0.2
        return [rng.binomial(1, p[:, None], (prompts, k)).astype(float) for p in
                (chance, chance + rng.uniform(-0.1, 0.1, prompts) - loss)]  # fmt: skip

    pilot = components(*run(4_000, 3, 0.0))
    n = math.ceil(pilot.prompts_needed(0.06, (2, 2)))
    rejected = 0
    for _ in range(trials):
        a, b = (side.mean(axis=1) for side in run(n, 2, 0.06))
        rejected += stats.ttest_rel(a, b).pvalue <= 0.05
    assert rejected / trials == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / trials) + 0.02)


# Planning


PILOT = Components(0.01, 805, 2, 0.05, 0.02, Within(0.1, 0.04), Within(0.08, 0.06))


def test_prompts_and_detectable_differences_are_those_of_the_paired_test():
    # w² + v²/2 = .06; sides (.1 + .04/2)/4 and (.08 + .06/2)/3
    assert PILOT.variance((4, 3), 2) == pytest.approx(0.06 + 0.12 / 4 + 0.11 / 3)
    expected = prompts_needed(0.02, 0.06, within=[(0.12, 4), (0.11, 3)], power=0.9)
    assert PILOT.prompts_needed(0.02, (4, 3), 2, power=0.9) == pytest.approx(expected)
    stderr = math.sqrt((0.06 + 0.12 / 4 + 0.11 / 3) / 300)
    expected = minimum_detectable_effect(stderr, df=299)
    assert PILOT.detectable(300, (4, 3), 2) == pytest.approx(expected)


def test_the_normal_formula_by_hand():
    # (1.959964 + 0.841621)² · .366² / .02² = 2628.5; Student's t adds about two prompts
    found = Components(0.0, 805, 1, 0.366**2, None, None, None)
    assert 2628.5 < found.prompts_needed(0.02, (1, 1)) < 2631


def test_what_was_planned_for_a_difference_detects_it():
    n = math.ceil(PILOT.prompts_needed(0.02, (2, 2), 2))
    assert PILOT.detectable(n, (2, 2), 2) <= 0.02 < PILOT.detectable(n - 1, (2, 2), 2)


def test_the_trade_off_falls_towards_what_completions_cannot_cut():
    plans = list(trade_off(PILOT, 0.02, completions=[1, 2, 8, 10_000], references=[1, 2]))
    assert [(p.references, p.completions) for p in plans] == [
        (r, k) for r in (1, 2) for k in (1, 2, 8, 10_000)
    ]
    assert all(isinstance(p, TradeOff) and p.generated == p.prompts * p.completions for p in plans)
    for of in (plans[:4], plans[4:]):
        numbers = [p.prompts for p in of]
        assert numbers == sorted(numbers, reverse=True)
    assert plans[3].prompts == pytest.approx(prompts_needed(0.02, 0.07), abs=2)
    assert plans[7].prompts == pytest.approx(prompts_needed(0.02, 0.06), abs=2)
    assert all(two.prompts < one.prompts for one, two in zip(plans[:4], plans[4:], strict=True))


@fast
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))
def test_order_shift_scale_and_sides(seed, k_a, k_b, references):
    rng = np.random.default_rng(seed)
    a, b = planted(rng, 12, references, (k_a, k_b))
    found = components(a, b)
    rows, own = rng.permutation(12), rng.permutation(k_a)
    again = components(a[rows][:, :, own] + 3, b[rows] + 3)
    swapped, doubled = components(b, a), components(2 * a, 2 * b)
    for other, scale in ((again, 1), (swapped, 1), (doubled, 4)):
        assert other.between == pytest.approx(scale * found.between, abs=1e-9)
        if references > 1:
            assert other.by_reference == pytest.approx(scale * found.by_reference, abs=1e-9)
    assert (swapped.a is None, swapped.b is None) == (k_b == 1, k_a == 1)
    if k_a > 1:
        assert again.a == pytest.approx(found.a)
        assert swapped.b == pytest.approx(found.a)
    assert again.mean == pytest.approx(found.mean)


# What a pilot does not tell, and what is no pilot


def test_a_pilot_of_one_completion_does_not_plan_with_more():
    single = components(np.arange(6.0).reshape(6, 1), np.zeros((6, 2)))
    assert single.a is None
    assert single.variance((1, 2)) == pytest.approx(3.5)
    with pytest.raises(ValueError, match="does not tell"):
        single.variance((2, 2))
    with pytest.raises(ValueError, match="references"):
        single.prompts_needed(0.02, (1, 2), 3)
    with pytest.raises(ValueError, match="completions"):
        PILOT.variance((0, 1))
    with pytest.raises(ValueError, match="references"):
        PILOT.variance((1, 1), 0)
    with pytest.raises(ValueError, match="2 prompts"):
        PILOT.detectable(1, (1, 1))


def test_columns_without_spread_have_no_components():
    found = components(np.full((5, 2), 0.7), np.full((5, 3), 0.4))
    assert found.variance((2, 3)) == pytest.approx(0, abs=1e-30)
    assert found.mean == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (np.ones((1, 3)), np.ones((1, 3)), "one prompt"),
        (np.ones((4, 3)), np.ones((5, 3)), "same prompts"),
        (np.ones((4, 2, 3)), np.ones((4, 3)), "same prompts"),
        (np.ones(4), np.ones(4), "shape"),
        (np.ones((4, 0)), np.ones((4, 1)), "shape"),
        (np.full((4, 2), np.nan), np.ones((4, 2)), "NaN"),
        (np.ones((4, 2)), np.full((4, 2), np.inf), "NaN"),
    ],
    ids=["one prompt", "prompts", "references", "flat", "empty", "nan", "inf"],
)
def test_what_is_no_pilot_is_refused(a, b, said):
    with pytest.raises(ValueError, match=said):
        components(a, b)


# How far the pilot's variance may be off


def outcomes_of(rng, kind, prompts):
    """Two checkpoints of graded skill, of rare differences, or one at a win rate of ½."""
    if kind == "graded":
        chance = rng.beta(2, 2, prompts) * 0.8 + 0.1
        other = np.clip(chance + rng.uniform(-0.1, 0.1, prompts), 0, 1)
        return [(rng.random((prompts, 1)) < c[:, None]).astype(float) for c in (chance, other)]
    if kind == "rare":
        u = rng.random((prompts, 1))
        return np.where(u < 0.1, 1.0, 0.5), np.where(u > 0.95, 1.0, 0.5)
    return (rng.random((prompts, 1)) < 0.5).astype(float), np.full((prompts, 2), 0.5)


@pytest.mark.parametrize("kind", ["graded", "rare"])
@pytest.mark.parametrize("prompts", [20, 40, 160])
def test_the_range_of_a_variance_holds_the_true_one(kind, prompts):
    rng, trials = np.random.default_rng(5), 800
    truth = components(*outcomes_of(rng, kind, 400_000)).variance((1, 1))
    held = 0
    for _ in range(trials):
        low, high = variance_range(*outcomes_of(rng, kind, prompts), (1, 1))
        held += low <= truth <= high
    few = 0.9 if (kind, prompts) == ("rare", 20) else 0.93  # one rare difference, or none
    assert held / trials > few - 3 * math.sqrt(0.0475 / trials)


def test_at_a_win_rate_of_one_half_the_range_misses_by_little():
    rng = np.random.default_rng(6)
    for _ in range(200):
        low, high = variance_range(*outcomes_of(rng, "even", 100), (1, 1))
        assert low * (1 - 0.1) < 0.25 < high * (1 + 0.1)


def test_the_range_of_normal_differences_is_that_of_the_chi_square():
    d = np.random.default_rng(7).normal(size=(2_000, 1))
    low, high = variance_range(d, np.zeros_like(d), (1, 1))
    freedom, measured = 1_999, variance_of(d[:, 0])
    ends = [freedom * measured / stats.chi2.ppf(p, freedom) for p in (0.975, 0.025)]
    assert (low, high) == pytest.approx(ends, rel=0.02)


def test_the_range_is_that_of_leaving_one_prompt_out_at_a_time():
    rng = np.random.default_rng(5)
    shapes = ((200, 1, 1), (200, 4, 1), (200, 4, 4))
    a, b = (
        sum(s * rng.normal(size=of) for s, of in zip((1, 1, 2), shapes, strict=True)) for _ in "ab"
    )
    left = [components(np.delete(a, i, 0), np.delete(b, i, 0)) for i in range(200)]
    for k, r in ((1, 1), (4, 4), (1, 16)):
        of = np.array([one.variance((k, k), r) for one in left])
        stderr = math.sqrt(199 / 200 * np.sum((of - of.mean()) ** 2))
        reach = stats.t.ppf(0.975, 199) * stderr / components(a, b).variance((k, k), r)
        low, high = variance_range(a, b, (k, k), r)
        assert math.log(high / low) / 2 == pytest.approx(reach, rel=0.05)


@fast
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 2))
def test_the_range_holds_the_variance_and_follows_order_and_scale(seed, k, references):
    rng = np.random.default_rng(seed)
    a, b = planted(rng, 12, references, (k, k))
    planned = (4, 4) if k > 1 else (1, 1)
    low, high = variance_range(a, b, planned, references)
    assert 0 <= low <= components(a, b).variance(planned, references) <= high
    rows = rng.permutation(12)
    assert variance_range(b[rows], a[rows], planned, references) == pytest.approx((low, high))
    doubled = variance_range(2 * a, 2 * b, planned, references)
    assert doubled == pytest.approx((4 * low, 4 * high))
    narrow = variance_range(a, b, planned, references, level=0.5)
    assert low <= narrow[0] <= narrow[1] <= high


def test_nothing_that_varies_has_a_range_of_nothing():
    assert variance_range(np.ones((5, 2)), np.ones((5, 1)), (2, 1)) == (0.0, 0.0)
    with pytest.raises(ValueError, match="level"):
        variance_range(np.ones((5, 2)), np.ones((5, 1)), (2, 1), level=1.0)
    with pytest.raises(ValueError, match="does not tell"):
        variance_range(np.ones((5, 2)), np.ones((5, 1)), (2, 2))
