"""Two reward models on one run: one it is trained against, one held out.

Simulated runs follow Gao et al. (2210.10760): with d = √KL the gold reward is d·(α − β·ln d), the
proxy's the same with its maximum five times as far; 30 checkpoints of 500 prompts, the gold turns
at the 12th. d grows in proportion to the steps.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evalkit.statistics.over_optimisation import (
    correlation_drift,
    length_drift,
    over_optimisation,
)
from evalkit.statistics.sequential import Plan
from evalkit.validate.tracking import (
    both_rise,
    characteristics,
    gold_and_proxy,
)

fast = settings(max_examples=25, deadline=None)
PLAN = Plan(looks=30, resamples=2000)
FULL = Plan(looks=30, resamples=4000)
ONE_LOOK = Plan(looks=2, resamples=40_000)


def some_keys(n, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


def some_runs(n=200, steps=10, seed=0):
    rng = np.random.default_rng(seed)
    prompt = rng.normal(0, 1, (n, 1))
    draws = [prompt + rng.normal(0, 1, (n, steps)) for _ in range(2)]
    return [1 / (1 + np.exp(-d)) for d in draws], some_keys(n, seed)


def logits(columns):
    n, means = len(columns), columns.mean(axis=0)
    return np.log((n * means + 0.5) / (n * (1 - means) + 0.5))


# Changes


def test_changes_are_of_logits_since_the_first_checkpoint():
    (a, b), keys = some_runs()
    looks = over_optimisation(a, b, keys, PLAN)
    assert (looks[0].a, looks[0].b, looks[0].gap) == (None, None, None)
    for t in range(1, 10):
        assert looks[t].a.value == pytest.approx(logits(a)[t] - logits(a)[0], rel=1e-9)
        assert looks[t].b.value == pytest.approx(logits(b)[t] - logits(b)[0], rel=1e-9)
        assert looks[t].gap.value == pytest.approx(looks[t].a.value - looks[t].b.value, rel=1e-9)
        assert looks[t].gap.low < looks[t].gap.value < looks[t].gap.high


def test_a_single_look_has_the_delta_methods_bounds():
    (a, b), keys = some_runs(400, 2)
    look = over_optimisation(a, b, keys, ONE_LOOK)[1]
    influence = []
    for x in (a, b):
        m = x.mean(axis=0)
        influence.append(np.diff((x - m) / (m * (1 - m)))[:, 0])
    for change, column in (
        (look.a, influence[0]),
        (look.b, influence[1]),
        (look.gap, influence[0] - influence[1]),
    ):
        half = stats.t.ppf(0.95, 399) * column.std(ddof=1) / 20
        assert change.value - change.low == pytest.approx(half, rel=0.03)
        assert change.high - change.value == pytest.approx(half, rel=0.03)


def test_b_is_compared_with_its_own_best_window_and_a_over_the_same_stretch():
    (a, b), keys = some_runs()
    looks = over_optimisation(a, b, keys, Plan(looks=10, window=2, resamples=500))
    a_windows, b_windows = ((w[1:] + w[:-1]) / 2 for w in (logits(a), logits(b)))
    assert [look.best for look in looks[:3]] == [None] * 3
    for t in range(3, 10):
        best = int(np.argmax(b_windows[: t - 2]))
        assert looks[t].best == best + 1
        assert looks[t].b_since_best.value == pytest.approx(b_windows[t - 1] - b_windows[best])
        assert looks[t].a_since_best.value == pytest.approx(a_windows[t - 1] - a_windows[best])


@fast
@given(st.integers(0, 100))
def test_the_order_of_prompts_does_not_matter_and_losses_mirror_wins(seed):
    (a, b), keys = some_runs(60, 8, seed)
    order, plan = np.random.default_rng(seed).permutation(60), Plan(looks=8, resamples=300)
    looks = over_optimisation(a, b, keys, plan)
    shuffled = over_optimisation(a[order], b[order], keys[order], plan)
    mirrored = over_optimisation(1 - a, 1 - b, keys, plan)
    for x, y, z in zip(looks[1:], shuffled[1:], mirrored[1:], strict=True):
        np.testing.assert_allclose(x.gap, y.gap, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(x.a, (-z.a.value, -z.a.high, -z.a.low), rtol=1e-6, atol=1e-9)
        assert (x.hard, x.turned, x.soft, x.best) == (y.hard, y.turned, y.soft, y.best)


def test_results_of_earlier_steps_never_change():
    a, b = gold_and_proxy().draw(np.random.default_rng(0))
    keys = some_keys(500)
    whole = over_optimisation(a, b, keys, PLAN)
    for t in (1, 6, 15, 21):
        part = over_optimisation(a[:, :t], b[:, :t], keys, PLAN)
        for x, y in zip(part, whole[:t], strict=True):
            assert (x.hard, x.turned, x.soft, x.best) == (y.hard, y.turned, y.soft, y.best)
            if x.gap:
                np.testing.assert_allclose(x.gap, y.gap, rtol=1e-9)


# Alarms


def run_of(a_means, b_means, n=2000, seed=0):
    rng = np.random.default_rng(seed)
    prompt = rng.normal(0, 0.1, (n, 1))
    a, b = (
        np.clip(np.array(m) + prompt + rng.normal(0, 0.1, (n, len(m))), 0, 1)
        for m in (a_means, b_means)
    )
    return over_optimisation(a, b, some_keys(n, seed), Plan(looks=len(a_means), resamples=2000))


RISING = np.linspace(0.4, 0.6, 12)


def test_hard_is_b_below_its_start_while_a_is_above_its_own():
    looks = run_of(RISING, RISING[::-1])
    assert all(look.hard for look in looks[2:])
    assert not any(look.soft for look in looks[4:])
    assert not looks[0].hard


def test_turned_fires_when_b_has_turned_though_still_above_its_start():
    gold = np.array([0.4, 0.44, 0.48, 0.52, 0.56, 0.6, 0.6, 0.57, 0.54, 0.51, 0.48, 0.45])
    looks = run_of(RISING, gold)
    fired = [look.step for look in looks if look.turned]
    assert fired[0] in {8, 9}
    assert fired == list(range(fired[0], 12))
    assert not any(look.hard for look in looks)


def test_soft_is_a_gain_that_b_does_not_see():
    looks = run_of(RISING, np.full(12, 0.5))
    assert all(look.soft for look in looks[3:])
    assert not any(look.hard or look.turned for look in looks)


@pytest.mark.parametrize(
    ("a", "b"), [(RISING, RISING), (RISING[::-1], RISING[::-1]), (RISING[::-1], RISING)]
)
def test_reward_models_that_move_together_or_for_the_better_are_no_alarm(a, b):
    assert not any(look.hard or look.turned or look.soft for look in run_of(a, b))


def test_a_trained_against_reward_that_always_wins_does_not_end_the_watch():
    rng = np.random.default_rng(0)
    a = (rng.random((500, 12)) < np.linspace(0.5, 1.0, 12)).astype(float)
    a[:, 9:] = 1.0
    b = np.clip(np.linspace(0.6, 0.3, 12) + rng.normal(0, 0.1, (500, 12)), 0, 1)
    looks = over_optimisation(a, b, some_keys(500), Plan(looks=12, resamples=2000))
    assert all(look.hard and look.turned for look in looks[9:])
    assert all(math.isfinite(look.a.value) for look in looks[1:])


# Edges


def test_what_cannot_be_compared_is_refused():
    (a, b), keys = some_runs(20, 4)
    with pytest.raises(ValueError, match="same shape"):
        over_optimisation(a, b[:, :3], keys, PLAN)
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        over_optimisation(a + 1, b, keys, PLAN)
    with pytest.raises(ValueError, match="NaN"):
        over_optimisation(np.where(a > 0.5, np.nan, a), b, keys, PLAN)
    with pytest.raises(ValueError, match="4 checkpoints, but 3 were planned"):
        over_optimisation(a, b, keys, Plan(looks=3))


def test_one_checkpoint_and_one_prompt_raise_no_alarm():
    (a, b), keys = some_runs(20, 8)
    (look,) = over_optimisation(a[:, :1], b[:, :1], keys, PLAN)
    assert (look.a, look.best, look.hard, look.turned, look.soft) == (None, None, *[False] * 3)
    for look in over_optimisation(a[:1], b[:1], keys[:1], PLAN)[1:]:
        assert (look.gap.low, look.gap.high) == (None, None)
        assert not any([look.hard, look.turned, look.soft])


def test_a_reward_model_without_spread_has_no_bounds():
    (a, _), keys = some_runs(20, 8)
    looks = over_optimisation(a, np.full((20, 8), 0.5), keys, PLAN)
    assert (looks[3].b.value, looks[3].b.low, looks[3].b.high) == (0, None, None)
    assert not any(look.hard or look.turned or look.soft for look in looks)


# Side signals


def test_length_drift_is_the_log_of_the_ratio_of_mean_lengths():
    lengths = np.random.default_rng(0).gamma(2, 100, (400, 2)) * [1.0, 1.5]
    first, change = length_drift(lengths, some_keys(400), ONE_LOOK)
    assert first is None
    m = lengths.mean(axis=0)
    assert change.value == pytest.approx(math.log(m[1] / m[0]), rel=1e-12)
    influence = lengths[:, 1] / m[1] - lengths[:, 0] / m[0]
    half = stats.t.ppf(0.95, 399) * influence.std(ddof=1) / 20
    assert change.high - change.value == pytest.approx(half, rel=0.03)
    with pytest.raises(ValueError, match="positive"):
        length_drift(np.zeros((3, 2)), some_keys(3), PLAN)


def test_correlation_drift_is_a_difference_of_pearsons():
    rng = np.random.default_rng(1)
    lengths = rng.gamma(4, 100, (3000, 3))
    z = (lengths - 400) / 200
    rewards = z * [0.2, 0.2, 1.5] + rng.normal(0, 1, (3000, 3))
    found = correlation_drift(rewards, lengths, some_keys(3000), Plan(looks=3))
    r = [stats.pearsonr(rewards[:, t], lengths[:, t]).statistic for t in range(3)]
    assert found[0] is None
    assert found[1].value == pytest.approx(r[1] - r[0], rel=1e-9)
    assert found[1].low < 0 < found[1].high
    assert found[2].low > 0.3


def test_correlation_drift_has_the_bootstraps_error():
    rng = np.random.default_rng(2)
    x = rng.normal(0, 1, (500, 2))
    y = 0.5 * x + rng.normal(0, 1, (500, 2))
    change = correlation_drift(x, y, some_keys(500), ONE_LOOK)[1]
    drawn = []
    for _ in range(2000):
        rows = rng.integers(0, 500, 500)
        r = [np.corrcoef(x[rows, t], y[rows, t])[0, 1] for t in range(2)]
        drawn.append(r[1] - r[0])
    assert change.high - change.value == pytest.approx(1.648 * np.std(drawn), rel=0.08)


def test_a_column_that_does_not_vary_has_no_correlation():
    rng = np.random.default_rng(1)
    x, y = rng.random((20, 3)), rng.random((20, 3))
    y[:, 1] = 7.0
    found = correlation_drift(x, y, some_keys(20), PLAN)
    assert (found[0], found[1]) == (None, None)
    assert found[2] is not None
    y[:, 0] = 7.0
    assert correlation_drift(x, y, some_keys(20), PLAN) == (None, None, None)


# Operating characteristics


def counted(plan, alarm, design, **how):
    """How one alarm behaves on a design."""

    def monitor(columns, keys):
        looks = over_optimisation(*columns, keys, plan)
        return {alarm: np.array([getattr(look, alarm) for look in looks])}

    return characteristics(monitor, design, **how)[alarm]


def test_the_alarm_follows_the_turn_of_the_gold_reward():
    found = counted(PLAN, "turned", gold_and_proxy(), trials=8, seed=3)
    assert (found.false, found.found) == (0, 1)
    assert found.delay <= 9
    quiet = counted(PLAN, "turned", both_rise(), trials=5, seed=3)
    assert quiet.false == 0


@pytest.mark.slow
@pytest.mark.parametrize("alarm", ["turned", "hard", "soft"])
@pytest.mark.parametrize("design", [both_rise(), both_rise(plateau=True)], ids=lambda d: d.name)
def test_false_alarms_over_many_runs(design, alarm):
    found = counted(FULL, alarm, design, trials=300, seed=3)
    assert found.false <= 0.05


@pytest.mark.slow
def test_delay_over_many_runs():
    found = counted(FULL, "turned", gold_and_proxy(), trials=300, seed=3)
    assert found.false <= 0.05
    assert found.found >= 0.99
    assert found.delay <= 9
