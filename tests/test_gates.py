"""The three states of a gate: where they turn, at which level, and how often they err."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evalkit.statistics.gates import (
    Interval,
    at_level,
    hoeffding,
    prompts_to_decide,
    regression_state,
    shared_level,
    t_central,
    t_critical,
    threshold_state,
)
from evalkit.statistics.intervals import mean
from evalkit.statistics.multiplicity import max_t_bands
from evalkit.statistics.power import minimum_detectable_effect, prompts_needed

fast = settings(max_examples=60, deadline=None)
NAN = math.nan
FRACTIONS = st.floats(0, 1)
LEVELS = st.floats(0.5, 0.999)


# Where the states turn


@pytest.mark.parametrize(
    ("low", "high", "state"),
    [
        (0.5, 0.6, "pass"),
        (0.5000001, 0.5000001, "pass"),
        (0.4999999, 0.6, "inconclusive"),
        (0.4, 0.5, "inconclusive"),
        (0.4, 0.4999999, "fail"),
        (None, 0.4, "inconclusive"),
        (0.9, None, "inconclusive"),
        (None, None, "inconclusive"),
        (0.9, NAN, "inconclusive"),
        (NAN, 0.1, "inconclusive"),
    ],
)
def test_a_threshold_passes_from_its_bound_on(low, high, state):
    assert threshold_state(0.5, low, high, 0.5).state == state


@pytest.mark.parametrize("value", [None, NAN])
def test_a_value_that_is_not_known_does_not_pass(value):
    found = threshold_state(value, 0.6, 0.7, 0.5)
    assert found == ("inconclusive", "no interval")


@pytest.mark.parametrize(
    ("low", "high", "state", "strict"),
    [
        (-0.02, 0.02, "pass", "pass"),
        (-0.03, 0.02, "inconclusive", "inconclusive"),  # −margin itself is a loss that matters
        (-0.05, 0.00, "inconclusive", "inconclusive"),
        (-0.05, -0.01, "inconclusive", "fail"),
        (-0.02, -0.01, "pass", "fail"),  # a sure loss, surely smaller than the margin
        (-0.02, 0.0, "pass", "pass"),
        (-0.05, -0.03, "inconclusive", "fail"),
        (-0.05, -0.031, "fail", "fail"),
        (0.1, 0.2, "pass", "pass"),
        (None, -0.5, "inconclusive", "inconclusive"),
        (0.5, None, "inconclusive", "inconclusive"),
        (NAN, NAN, "inconclusive", "inconclusive"),
    ],
)
def test_a_loss_passes_below_its_margin_and_a_strict_rule_fails_first(low, high, state, strict):
    assert regression_state(low, high, 0.03).state == state
    assert regression_state(low, high, 0.03, strict=True).state == strict


@pytest.mark.parametrize(
    ("low", "high", "bound"), [(0.6, 0.4, 0.5), (0.4, 0.6, NAN), (0.4, 0.6, math.inf)]
)
def test_what_is_no_interval_or_bound_is_refused(low, high, bound):
    with pytest.raises(ValueError, match=r"interval|bound"):
        threshold_state(0.5, low, high, bound)


@pytest.mark.parametrize(
    ("low", "high", "margin"),
    [(0.1, 0.0, 0.03), (0.0, 0.1, 0.0), (0.0, 0.1, -0.03), (0.0, 0.1, NAN)],
)
def test_what_is_no_interval_or_margin_is_refused(low, high, margin):
    with pytest.raises(ValueError, match=r"interval|margin"):
        regression_state(low, high, margin)


# Quantiles and intervals without scipy


@pytest.mark.parametrize("df", [1, 1.5, 2, 3, 10, 19, 159, 804, 1e5, 1e7])
def test_student_s_t_is_that_of_scipy(df):
    for t in (0.0, 0.3, 1.0, 1.96, 4.0, 9.0):
        assert t_central(t, df) == pytest.approx(1 - 2 * stats.t.sf(t, df), abs=1e-6)
    for level in (0.5, 0.9, 0.95, 0.995, 0.9999):
        assert t_critical(level, df) == pytest.approx(stats.t.ppf((1 + level) / 2, df), rel=1e-5)


def test_printed_quantiles():
    # table of Student's t: 10 degrees of freedom, two-sided 95 and 99 %; 1 degree, 95 %
    printed = [t_critical(0.95, 10), t_critical(0.99, 10), t_critical(0.95, 1)]
    assert printed == pytest.approx([2.228139, 3.169273, 12.706205], abs=1e-6)


def test_hoeffding_s_interval_by_hand():
    # no success in n: (1 − p)^n = α/2, which is Clopper's and Pearson's
    assert hoeffding(0.0, 20, 0.95) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    low, high = hoeffding(0.3, 50, 0.9)
    for end in (low, high):
        n_kl = 50 * (0.3 * math.log(0.3 / end) + 0.7 * math.log(0.7 / (1 - end)))
        assert n_kl == pytest.approx(math.log(2 / 0.1), rel=1e-6)
    assert low < 0.3 < high


@pytest.mark.parametrize("n", [5, 20, 60])
def test_hoeffding_s_interval_never_covers_less_than_it_says(n):
    counts = np.arange(n + 1)
    ends = [hoeffding(k / n, n, 0.9) for k in counts]
    for p in np.linspace(0.003, 0.997, 83):
        inside = [low <= p <= high for low, high in ends]
        assert stats.binom.pmf(counts, n, p)[inside].sum() >= 0.9


def saved(estimate):
    e = estimate
    return Interval(e.value, e.low, e.high, e.stderr, e.level, e.n, e.clusters, e.method)


@pytest.mark.parametrize("bounded", [True, False], ids=["logit-t", "t"])
def test_an_interval_at_another_level_is_the_one_made_at_that_level(bounded):
    column = np.random.default_rng(1).beta(2, 3, 120)
    at_95 = saved(mean(column, bounded=bounded))
    for level in (0.5, 0.9, 0.95, 0.995):
        direct = mean(column, bounded=bounded, level=level)
        found = at_level(at_95, level, bounded=bounded)
        assert found == pytest.approx((direct.low, direct.high), rel=1e-8)
    if not bounded:
        low, high = stats.t.interval(0.99, 119, column.mean(), stats.sem(column))
        assert at_level(at_95, 0.99, bounded=False) == pytest.approx((low, high), rel=1e-8)


def test_a_betting_interval_is_kept_and_widened_by_one_that_covers_at_any_level():
    column = np.array([1.0] * 15 + [0.0] * 5)
    found = saved(mean(column, bounded=True))
    assert found.method == "betting"
    assert at_level(found, 0.95, bounded=True) == (found.low, found.high)
    low, high = at_level(found, 0.999, bounded=True)
    wide = hoeffding(0.75, 20, 0.999)
    assert (low, high) == (min(found.low, wide[0]), max(found.high, wide[1]))
    wider = found._replace(low=0.05, high=0.99)
    assert at_level(wider, 0.96, bounded=True) == (0.05, 0.99)


@fast
@given(FRACTIONS, FRACTIONS, FRACTIONS, LEVELS, LEVELS, st.integers(2, 900), st.booleans())
def test_a_higher_level_has_the_lower_one_s_interval_inside(a, b, c, one, other, n, bounded):
    low, value, high = sorted((a, b, c))
    lower, higher = sorted((one, other))
    at_95 = Interval(value, low, high, 0.1, lower, n, n, "bca")
    wide = at_level(at_95, higher, bounded=bounded)
    assert wide[0] <= low
    assert wide[1] >= high
    if bounded:
        assert 0 <= wide[0] <= wide[1] <= 1


@pytest.mark.parametrize(
    "gap", [{"value": None}, {"low": None}, {"high": None}, {"clusters": 1}], ids=str
)
def test_no_interval_has_none_at_another_level(gap):
    whole = Interval(0.5, 0.4, 0.6, 0.05, 0.95, 100, 100, "t")
    assert at_level(whole._replace(**gap), 0.99, bounded=True) == (None, None)


def test_levels_are_shared_out():
    assert shared_level(0.95, 1) == pytest.approx(0.95)
    assert shared_level(0.95, 10) == pytest.approx(0.995)
    # as statistics books have it: ten two-sided tests at 5 % together need |z| > 2.807
    assert t_critical(shared_level(0.95, 10), 1e9) == pytest.approx(2.807034, abs=1e-5)


# How many prompts would decide


def difference(value, stderr, n=805, method="t"):
    return Interval(value, None, None, stderr, 0.95, n, n, method)


@pytest.mark.parametrize("value", [-0.09, -0.035, -0.02, 0.0, 0.1])
@pytest.mark.parametrize("n", [4, 40, 805])
def test_the_number_decides_and_one_less_does_not(value, n):
    stderr = 0.366 / math.sqrt(n)
    found = prompts_to_decide(difference(value, stderr, n), -0.03)

    def decides(m):
        half = stats.t.ppf(0.975, m - 1) * 0.366 / math.sqrt(m)
        return abs(value + 0.03) >= half

    assert decides(found)
    assert found == 2 or not decides(found - 1)


def test_with_power_a_new_run_decides_so_often():
    m = prompts_to_decide(difference(0.0, 0.366 / math.sqrt(805)), -0.03, power=0.8)
    # by hand: ((1.959964 + 0.841621) · 0.366 / 0.03)² = 1168, a little more by Student's t
    assert 1168 <= m <= 1171
    passes = stats.nct.sf(stats.t.ppf(0.975, m - 1), m - 1, 0.03 / (0.366 / math.sqrt(m)))
    assert passes == pytest.approx(0.8, abs=0.001)


def test_it_agrees_with_the_planner_of_paired_tests():
    planned = prompts_needed(0.02, 0.366**2)
    found = prompts_to_decide(difference(0.02, 0.366 / math.sqrt(805)), 0.0, power=0.8)
    assert found == pytest.approx(planned, rel=0.002)


def test_a_rate_is_decided_on_the_logit_scale():
    rate = 0.9
    spread = math.sqrt(rate * (1 - rate))
    found = prompts_to_decide(
        difference(rate, spread / math.sqrt(100), 100, "logit-t"), 0.85, bounded=True
    )
    gap = math.log(9) - math.log(0.85 / 0.15)

    def decides(m):
        return gap >= stats.t.ppf(0.975, m - 1) * spread / math.sqrt(m) / (rate * (1 - rate))

    assert decides(found)
    assert not decides(found - 1)


@pytest.mark.parametrize(
    "case",
    [
        difference(-0.03, 0.01),
        difference(None, 0.01),
        difference(0.0, None),
        difference(0.0, 0.0),
        difference(0.0, 0.01, 1),
        difference(-0.03 + 1e-12, 0.01),
    ],
)
def test_no_number_decides_at_the_bound_or_without_spread(case):
    assert prompts_to_decide(case, -0.03) is None


def test_clusters_grow_with_the_prompts():
    by_cluster = difference(0.0, 0.02)._replace(clusters=5)
    found = prompts_to_decide(by_cluster, -0.03)
    assert found > prompts_to_decide(difference(0.0, 0.02), -0.03)
    m, clusters = found, 5 * found / 805
    assert stats.t.ppf(0.975, clusters - 1) * 0.02 * math.sqrt(805 / m) <= 0.03


# How often gates err: sibling checkpoints, sd(D) = .366; 60 % of prompts come out level, the
# others differ uniformly in [−1, 1]

LEVEL_SHARE = 1 - 3 * 0.366**2


def runs(rng, trials, prompts, loss=0.0):
    d = rng.uniform(-1, 1, (trials, prompts))
    d *= rng.random((trials, prompts)) >= LEVEL_SHARE
    return d - loss


def shares(d, decide):
    """Shares of (pass, fail, inconclusive) over trials, by `decide(value, half)`."""
    values = d.mean(axis=1)
    spread = d.std(axis=1, ddof=1) / math.sqrt(d.shape[1])
    found = [decide(v, s) for v, s in zip(values.tolist(), spread.tolist(), strict=True)]
    return [found.count(state) / len(found) for state in ("pass", "fail", "inconclusive")]


def gate(prompts, *, level=0.95, margin=0.03, strict=False):
    critical = stats.t.ppf((1 + level) / 2, prompts - 1)

    def decide(value, spread):
        half = critical * spread
        return regression_state(value - half, value + half, margin, strict=strict).state

    return decide


def below(points):
    return lambda value, _: "fail" if value < -points else "pass"


def operating_characteristics(trials, seed=0):
    """Rows of (rule, prompts, true loss, pass, fail, inconclusive)."""
    rng, rows = np.random.default_rng(seed), []
    for prompts in (805, 200):
        mde = minimum_detectable_effect(0.366 / math.sqrt(prompts), df=prompts - 1)
        rules = {
            "fail if lower": below(0.0),
            "fail below -2 pp": below(0.02),
            "margin 3 pp": gate(prompts),
            "margin 3 pp, level .90": gate(prompts, level=0.9),
            "margin 3 pp, strict": gate(prompts, strict=True),
        }
        for loss in (0.0, 0.02, 0.03, mde, 0.03 + mde):
            d = runs(rng, trials, prompts, loss)
            rows += [(name, prompts, loss, *shares(d, rule)) for name, rule in rules.items()]
    return rows


def expected(name, prompts, loss):
    """(pass, fail) by the normal distribution."""
    se = 0.366 / math.sqrt(prompts)
    level = 0.9 if ".90" in name else 0.95
    half = stats.norm.ppf((1 + level) / 2) * se
    chance = stats.norm(-loss, se)
    if name.startswith("fail"):
        cut = 0.0 if name == "fail if lower" else -0.02
        return chance.sf(cut), chance.cdf(cut)
    fails_below = (0.0 if "strict" in name else -0.03) - half
    return chance.sf(max(-0.03 + half, fails_below)), chance.cdf(fails_below)


def check_characteristics(rows, trials):
    for name, prompts, loss, passed, failed, _ in rows:
        for found, chance in zip((passed, failed), expected(name, prompts, loss), strict=True):
            error = 4 * math.sqrt(max(chance * (1 - chance), 1e-4) / trials)
            # Student's t and a spread that is estimated move a chance by up to 0.005
            assert found == pytest.approx(chance, abs=error + 0.005), (name, prompts, loss)
        if name.startswith("margin"):
            alpha = 0.05 if ".90" in name else 0.025
            slack = 4 * math.sqrt(alpha / trials)
            assert loss > 0 or failed <= alpha + slack
            assert loss < 0.03 or passed <= alpha + slack


def test_a_thousand_runs_err_as_the_rules_say():
    rows = operating_characteristics(1_000)
    check_characteristics(rows, 1_000)
    of = {(name, n, round(loss, 4)): found for name, n, loss, *found in rows}
    for n in (805, 200):
        mde = round(minimum_detectable_effect(0.366 / math.sqrt(n), df=n - 1), 4)
        assert of["margin 3 pp", n, 0.0][1] <= 0.025  # identical checkpoints
        assert of["margin 3 pp, strict", n, 0.0][1] <= 0.04
        assert of["margin 3 pp, strict", n, mde][1] > 0.75  # stated: 80 %
        assert of["margin 3 pp", n, round(0.03 + mde, 4)][1] > 0.75
        assert of["margin 3 pp", n, 0.03][0] <= 0.04  # a loss of the margin does not pass
        # the controls fail half of all identical checkpoints, and one in 16 or in 5
        assert of["fail if lower", n, 0.0][1] == pytest.approx(0.5, abs=0.05)
    assert of["fail below -2 pp", 805, 0.0][1] == pytest.approx(0.06, abs=0.03)
    assert of["fail below -2 pp", 200, 0.0][1] == pytest.approx(0.22, abs=0.05)
    assert of["fail below -2 pp", 805, 0.02][0] == pytest.approx(0.5, abs=0.06)
    # what passes an identical checkpoint at one-sided 5 %
    assert of["margin 3 pp, level .90", 805, 0.0][0] == pytest.approx(0.75, abs=0.05)
    assert of["margin 3 pp, level .90", 200, 0.0][0] == pytest.approx(0.32, abs=0.05)


@pytest.mark.slow
def test_many_runs_err_as_the_rules_say():
    trials = 10_000
    rows = operating_characteristics(trials, seed=1)
    for name, n, loss, *found in rows:
        print(f"{name:24} {n:4} {100 * loss:5.2f} pp", *(f"{100 * x:6.1f}" for x in found))
    check_characteristics(rows, trials)


# Ten checkpoints at once


def ten_against_one(rng, trials, prompts, checkpoints=10):
    """(trials, prompts, 10) differences of identical checkpoints to one base: correlation ½."""
    base = rng.random((trials, prompts, 1))
    own = rng.random((trials, prompts, checkpoints))
    return own - base


def family_wise(trials, prompts, critical_of, seed):
    rng, failed = np.random.default_rng(seed), 0
    for _ in range(trials):
        d = ten_against_one(rng, 1, prompts)[0]
        values, spread = d.mean(axis=0), d.std(axis=0, ddof=1) / math.sqrt(prompts)
        high = values + critical_of(d) * spread
        states = [regression_state(-1, h, 0.03, strict=True).state for h in high.tolist()]
        failed += "fail" in states
    return failed / trials


def by_level(level):
    return lambda d: t_critical(level, len(d) - 1)


def by_max_t(d):
    keys = np.random.default_rng(0).integers(0, 2**64, len(d), dtype=np.uint64)
    return max_t_bands(d, keys=keys, resamples=499).critical


@pytest.mark.parametrize(
    ("trials", "prompts"), [(1_000, 150), pytest.param(10_000, 400, marks=pytest.mark.slow)]
)
def test_ten_identical_checkpoints_fail_no_more_often_than_one(trials, prompts):
    alone = family_wise(trials, prompts, by_level(0.95), seed=2)
    shared = family_wise(trials, prompts, by_level(shared_level(0.95, 10)), seed=2)
    error = 4 * math.sqrt(0.025 / trials)
    assert shared <= 0.025 + error
    assert alone > 0.09  # the control: each at its own level
    print("family-wise failures, each alone and shared out:", alone, shared)


@pytest.mark.parametrize(
    ("trials", "prompts"), [(200, 100), pytest.param(4_000, 200, marks=pytest.mark.slow)]
)
def test_max_t_ends_do_it_with_less(trials, prompts):
    found = family_wise(trials, prompts, by_max_t, seed=3)
    shared = family_wise(trials, prompts, by_level(shared_level(0.95, 10)), seed=3)
    assert shared <= found <= 0.025 + 4 * math.sqrt(0.025 / trials)
    print("family-wise failures, max-t and shared out:", found, shared)


def test_all_of_many_rules_pass_by_chance_no_oftener_than_one_does():
    """Intersection-union: one of ten loses just the margin; lower ends are not corrected."""
    rng, trials, prompts = np.random.default_rng(4), 2_000, 200
    d = ten_against_one(rng, trials, prompts)
    d += 0.2
    d[:, :, 0] -= 0.23  # nine are far better, which is the worst case
    values, spread = d.mean(axis=1), d.std(axis=1, ddof=1) / math.sqrt(prompts)
    low = values - t_critical(0.95, prompts - 1) * spread
    passed = np.mean(
        [all(regression_state(x, 1, 0.03).state == "pass" for x in row) for row in low]
    )
    assert passed <= 0.025 + 4 * math.sqrt(0.025 / trials)
    assert passed > 0.01  # so that a correction would only cost power
