import json
import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import t as student
from statsmodels.stats.proportion import proportion_confint

from evalkit.statistics.calibration import (
    brier_losses,
    calibration_floor,
    cross_validated_log_loss,
    expected_calibration_error,
    fit_temperature,
    fold_sides,
    log_losses,
    reliability_curve,
)
from evalkit.statistics.intervals import mean
from tests.shared_data import SHARED, needs_shared

fast = settings(max_examples=100, deadline=None)
PAIRS = st.lists(
    st.tuples(
        st.integers(-80, 80).map(lambda i: i / 8),
        st.sampled_from([0.0, 0.5, 1.0]) | st.integers(0, 16).map(lambda i: i / 16),
    ),
    min_size=1,
    max_size=40,
)


def columns(pairs):
    return np.array([m for m, _ in pairs]), np.array([y for _, y in pairs])


def draw_pairs(rng, n, *, temperature=1.0, spread=1.0):
    """Pairs for which σ(margin / temperature) is true; margins of `spread` temperatures."""
    scaled = spread * (rng.normal(size=n) + 0.2)
    return temperature * scaled, (rng.uniform(size=n) < expit(scaled)).astype(float)


def slope_of_loss(inverse, margins, outcomes):
    return float(np.sum(margins * (expit(inverse * margins) - outcomes)))


# Temperature


def test_temperature_by_hand():
    # Three quarters of the margins of 2 are right: σ(2/T) = 3/4, T = 2/ln 3. With a = 2/T = ln 3
    # the slopes are -a/4 (300 times) and 3a/4 (100 times), their squares sum to 75 a², and so does
    # the curvature 400 a² · 3/16: SE(log T) = √(75 a² · 400/399)/(75 a²).
    found = fit_temperature(np.full(400, 2.0), np.repeat([1.0, 0.0], [300, 100]))
    assert found.value == pytest.approx(2 / math.log(3), rel=1e-13)
    stderr = math.sqrt(400 / 399 / 75) / math.log(3)
    assert found.log_stderr == pytest.approx(stderr, rel=1e-12)
    half = student.ppf(0.975, 399) * stderr
    expected = 2 / math.log(3) * np.exp([-half, half])
    np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-12)
    assert (found.level, found.n, found.clusters, found.state) == (0.95, 400, 400, "fitted")


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_temperature_agrees_with_a_logistic_regression_without_intercept(seed, clustered):
    rng = np.random.default_rng(seed)
    margins, outcomes = draw_pairs(rng, 300, temperature=7)
    label = rng.integers(0, 60, 300) if clustered else np.arange(300)
    # its correction is C/(C-1) · (n-1)/(n-k), k = 1: CR1 as here
    fit = sm.Logit(outcomes, margins).fit(
        disp=0, cov_type="cluster", cov_kwds={"groups": label, "use_correction": True}, tol=1e-13
    )
    found = fit_temperature(margins, outcomes, clusters=label)
    assert found.value == pytest.approx(1 / fit.params[0], rel=1e-9)
    assert found.log_stderr == pytest.approx(fit.bse[0] / fit.params[0], rel=1e-8)
    assert found.clusters == len(np.unique(label))


@given(PAIRS)
@fast
def test_there_is_a_temperature_just_where_the_loss_has_a_minimum(pairs):
    margins, outcomes = columns(pairs)
    found = fit_temperature(margins, outcomes)
    at_zero = slope_of_loss(0.0, margins, outcomes)
    wrong = np.sum(np.abs(margins) * np.where(margins > 0, 1 - outcomes, outcomes))
    if at_zero > 1e-9:
        assert (found.state, found.value) == ("reversed", None)
    elif at_zero > -1e-9:
        assert (found.state, found.value) == ("uninformative", None)
    elif wrong == 0:
        assert (found.state, found.value) == ("separable", None)
    else:
        assert found.state in {"fitted", "weak"}
        inverse = brentq(slope_of_loss, 0, 1e4, args=(margins, outcomes), xtol=1e-14, rtol=1e-14)
        assert found.value == pytest.approx(1 / inverse, rel=1e-9)


@given(PAIRS, st.integers(1, 5), st.randoms(use_true_random=False))
@fast
def test_order_sides_and_unit_of_the_pairs_do_not_matter(pairs, power, random):
    margins, outcomes = columns(pairs)
    order = random.sample(range(len(pairs)), len(pairs))
    turned = np.array([random.choice([True, False]) for _ in pairs])
    plain = fit_temperature(margins, outcomes)
    found = fit_temperature(
        (10.0**power * np.where(turned, -margins, margins))[order],
        np.where(turned, 1 - outcomes, outcomes)[order],
    )
    assert found.state == plain.state
    for name in ("value", "low", "high"):
        end = getattr(plain, name)
        expected = None if end is None else pytest.approx(10**power * end, rel=1e-9)
        assert getattr(found, name) == expected


def test_a_tie_is_half_a_win_and_half_a_loss():
    rng = np.random.default_rng(0)
    margins, outcomes = draw_pairs(rng, 50)
    label = np.arange(50)
    ties = fit_temperature(np.tile(margins, 2), np.concatenate([outcomes, np.full(50, 0.5)]))
    split = fit_temperature(
        np.concatenate([margins, margins, margins, margins]),
        np.concatenate([outcomes, outcomes, np.ones(50), np.zeros(50)]),
        clusters=np.concatenate([label, label, label + 50, label + 50]),
    )
    assert (ties.value, ties.low) == pytest.approx((split.value, split.low), rel=1e-12)


def test_margins_of_exactly_zero_have_no_say():
    margins, outcomes = draw_pairs(np.random.default_rng(0), 60)
    more = fit_temperature(np.append(margins, [0, 0]), np.append(outcomes, [1, 0]))
    assert more.n == 62
    assert more.value == pytest.approx(fit_temperature(margins, outcomes).value, rel=1e-13)


def test_repeating_every_pair_within_its_cluster_adds_no_certainty():
    margins, outcomes = draw_pairs(np.random.default_rng(0), 60)
    once = fit_temperature(margins, outcomes)
    found = fit_temperature(
        np.repeat(margins, 3), np.repeat(outcomes, 3), clusters=np.repeat(np.arange(60), 3)
    )
    assert (found.n, found.clusters) == (180, 60)
    expected = (once.value, once.low, once.high)
    assert (found.value, found.low, found.high) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("size", [1e4, 1e8, 1e-8])
def test_margins_of_ten_thousand_are_fitted_without_overflow(size):
    margins = size * np.array([1.0, 1.0, -1.0, 1e-4, -1e-4, 1.0])
    outcomes = np.array([1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    found = fit_temperature(margins, outcomes)
    inverse = brentq(slope_of_loss, 0, 1e3, args=(margins / size, outcomes), xtol=1e-14)
    assert found.value == pytest.approx(size / inverse, rel=1e-10)
    assert np.isfinite(log_losses(margins, outcomes, temperature=found.value)).all()


def test_one_tiny_wrong_margin_among_large_right_ones_still_has_a_temperature():
    # 99 e^(-β) ≈ 1e-90/2, β = ln 198 + 90 ln 10
    found = fit_temperature(np.append(np.ones(99), 1e-90), np.append(np.ones(99), 0.0))
    assert found.value == pytest.approx(1 / (math.log(198) + 90 * math.log(10)), rel=1e-9)


@pytest.mark.parametrize(
    ("margins", "outcomes", "state"),
    [
        ([], [], "empty"),
        ([0.0, 0.0], [1.0, 0.0], "uninformative"),
        ([3.0, -3.0], [1.0, 1.0], "uninformative"),
        ([0.1, 0.2, -0.3], [0.5, 0.5, 0.5], "uninformative"),
        # six tenths add up to a little less than .6: no temperature of 10^16
        ([0.1] * 6 + [-0.6], [0.0] * 7, "uninformative"),
        ([2.0, -1.0, 5.0], [1.0, 0.0, 1.0], "separable"),
        ([1e4, -1e-4], [1.0, 0.0], "separable"),
        ([1.0, 1.0, 1e-200], [1.0, 1.0, 0.0], "separable"),
        ([0.0, 1.0], [0.0, 1.0], "separable"),
        ([2.0, -1.0], [0.0, 1.0], "reversed"),
        ([2.0, -1.0, 1.0], [0.0, 0.0, 1.0], "uninformative"),
        ([2.5, -1.0, 1.0], [0.0, 0.0, 1.0], "reversed"),
    ],
)
def test_where_there_is_no_temperature_there_is_no_number(margins, outcomes, state):
    found = fit_temperature(np.array(margins), np.array(outcomes))
    assert found.state == state
    assert (found.value, found.low, found.high, found.log_stderr) == (None, None, None, None)


def test_what_cannot_exclude_worthless_margins_has_no_upper_end():
    # σ(1/T) = 3/5: SE(log T) = √(4.8 · 20/19)/(4.8 ln 1.5) = 1.15, and 2.09 of it exceed 1
    found = fit_temperature(np.ones(20), np.repeat([1.0, 0.0], [12, 8]))
    assert found.state == "weak"
    assert found.value == pytest.approx(1 / math.log(1.5), rel=1e-13)
    stderr = math.sqrt(20 / 19 / 4.8) / math.log(1.5)
    low = found.value * math.exp(-student.ppf(0.975, 19) * stderr)
    assert (found.low, found.high) == (pytest.approx(low, rel=1e-12), None)


def test_one_cluster_has_a_temperature_and_no_interval():
    margins, outcomes = draw_pairs(np.random.default_rng(0), 60)
    found = fit_temperature(margins, outcomes, clusters=np.zeros(60, dtype=np.int64))
    assert found.value == fit_temperature(margins, outcomes).value
    assert (found.low, found.high, found.clusters) == (None, None, 1)


def test_outcomes_without_residuals_have_a_temperature_and_no_interval_of_rounding_width():
    margins = np.linspace(-3, 4, 30)
    found = fit_temperature(margins, expit(margins / 2.5))
    assert found.value == pytest.approx(2.5, rel=1e-12)
    assert (found.low, found.high, found.log_stderr) == (None, None, None)


@pytest.mark.parametrize(
    ("margins", "outcomes", "words"),
    [
        ([1.0, np.nan], [1.0, 0.0], "NaN"),
        ([1.0, np.inf], [1.0, 0.0], "NaN"),
        ([1.0, 2.0], [1.0, np.nan], "NaN"),
        ([1.0, 2.0], [1.0, 1.5], r"\[0, 1\]"),
        ([1.0, 2.0], [1.0], "one outcome"),
    ],
)
def test_rows_to_decide_about_are_refused(margins, outcomes, words):
    with pytest.raises(ValueError, match=words):
        fit_temperature(np.array(margins), np.array(outcomes))


def test_a_level_or_clusters_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="level"):
        fit_temperature(np.ones(2), np.ones(2), level=1.0)
    with pytest.raises(ValueError, match="clusters"):
        fit_temperature(np.ones(2), np.ones(2), clusters=np.arange(3))


def covered(n, *, draws, spread, per_cluster=1, seed=0):
    """Share of the intervals of T that hold it, where there is a T."""
    rng = np.random.default_rng(seed)
    hits, fits = 0, 0
    for _ in range(draws):
        margins, outcomes = draw_pairs(rng, n // per_cluster, temperature=7, spread=spread)
        margins, outcomes = np.repeat(margins, per_cluster), np.repeat(outcomes, per_cluster)
        label = np.repeat(np.arange(n // per_cluster), per_cluster)
        found = fit_temperature(margins, outcomes, clusters=label)
        if found.low is not None:
            fits += 1
            hits += found.low <= 7 and (found.high is None or found.high >= 7)
    return hits / fits


@pytest.mark.parametrize(("n", "spread"), [(100, 1.0), (350, 0.5), (350, 3.0)])
def test_interval_of_the_temperature_covers_it(n, spread):
    assert 0.925 <= covered(n, draws=1000, spread=spread) <= 0.975  # ±3.5 standard errors


def test_interval_of_the_temperature_covers_it_under_clustering():
    assert 0.925 <= covered(800, draws=1000, spread=1.0, per_cluster=4) <= 0.975


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "spread", "least"),
    [(100, 0.5, 0.93), (100, 2.0, 0.93), (100, 5.0, 0.915), (100, 12.0, 0.88)]
    + [(n, spread, 0.935) for n in (350, 805) for spread in (0.5, 1.0, 2.0, 5.0)]
    + [(350, 12.0, 0.915), (805, 12.0, 0.925)],
)
def test_interval_of_the_temperature_covers_it_throughout(n, spread, least):
    assert least <= covered(n, draws=6000, spread=spread, seed=1) <= 0.965


# Losses


def test_log_and_brier_losses_by_hand():
    margins, outcomes = np.array([math.log(3), math.log(3), 0.0]), np.array([1.0, 0.5, 1.0])
    expected = [math.log(4 / 3), (math.log(4 / 3) + math.log(4)) / 2, math.log(2)]
    np.testing.assert_allclose(log_losses(margins, outcomes), expected, rtol=1e-15)
    doubled = log_losses(2 * margins, outcomes, temperature=2.0)
    np.testing.assert_allclose(doubled, expected, rtol=1e-15)
    found = brier_losses(np.array([0.75, 0.75, 0.5]), outcomes)
    np.testing.assert_allclose(found, [1 / 16, 1 / 16, 1 / 4], rtol=1e-15)


# Held out


@pytest.mark.parametrize("folds", [2, 5])
def test_every_pair_is_judged_by_a_temperature_of_other_clusters(folds):
    rng = np.random.default_rng(3)
    margins, outcomes = draw_pairs(rng, 90, temperature=4)
    label = rng.permutation(np.arange(90) % 30) * 7
    found = cross_validated_log_loss(
        margins, outcomes, clusters=label, folds=folds, repeats=3, rng=np.random.default_rng(8)
    )
    shuffles, total = np.random.default_rng(8), np.zeros(90)
    for repeat in range(3):
        seats = dict(zip(np.unique(label), shuffles.permutation(30) % folds, strict=True))
        fold = np.array([seats[c] for c in label])
        assert set(np.bincount(fold)) == {90 // folds}
        for k in range(folds):
            t = fit_temperature(margins[fold != k], outcomes[fold != k]).value
            assert found.temperatures[repeat, k] == pytest.approx(t, rel=1e-14)
            total[fold == k] += log_losses(margins[fold == k], outcomes[fold == k], temperature=t)
    np.testing.assert_allclose(found.fitted, total / 3, rtol=1e-12)
    np.testing.assert_array_equal(found.raw, log_losses(margins, outcomes))
    assert found.undefined == 0


def test_with_clusters_the_order_of_the_rows_does_not_matter():
    rng = np.random.default_rng(0)
    margins, outcomes = draw_pairs(rng, 60)
    label, order = np.arange(60) // 2, rng.permutation(60)
    plain, shuffled = (
        cross_validated_log_loss(
            margins[o], outcomes[o], clusters=label[o], repeats=4, rng=np.random.default_rng(1)
        )
        for o in (np.arange(60), order)
    )
    np.testing.assert_allclose(shuffled.fitted, plain.fitted[order], rtol=1e-12)


def test_a_split_without_a_temperature_gives_no_loss_and_is_counted():
    # one wrong pair: without its fold the rest is separable
    margins, outcomes = np.arange(1.0, 21), np.append(np.ones(19), 0.0)
    margins[-1] = 0.5
    found = cross_validated_log_loss(margins, outcomes, folds=4, rng=np.random.default_rng(0))
    assert found.undefined == 1
    assert np.isnan(found.temperatures).sum() == 1
    assert np.isnan(found.fitted).sum() == 5
    assert np.isnan(found.fitted[-1])
    with pytest.raises(ValueError, match="NaN"):
        mean(found.fitted, bounded=False)


@pytest.mark.parametrize(("folds", "repeats"), [(1, 1), (4, 1), (2, 0)])
def test_folds_that_cannot_be_made_are_refused(folds, repeats):
    with pytest.raises(ValueError, match=r"fold|repeat"):
        cross_validated_log_loss(
            np.ones(6),
            np.ones(6),
            clusters=np.arange(6) // 2,
            folds=folds,
            repeats=repeats,
            rng=np.random.default_rng(0),
        )


# Calibration error


def test_calibration_error_and_curve_by_hand():
    # Seen from the preferred side: .6 right, .6 wrong, .9 half right, .5 undecided, in bins of .1:
    # (|1.2 - 1| + |.9 - .5| + 0)/4
    p, y = np.array([0.6, 0.4, 0.1, 0.5]), np.array([1.0, 1.0, 0.5, 1.0])
    confidences, correct = fold_sides(p, y)
    np.testing.assert_allclose(confidences, [0.6, 0.6, 0.9, 0.5], rtol=1e-15)
    assert correct.tolist() == [1.0, 0.0, 0.5, 0.5]
    assert expected_calibration_error(p, y, bins=5) == pytest.approx(0.6 / 4, rel=1e-12)
    curve = reliability_curve(p, y, bins=5)
    np.testing.assert_allclose(curve.edges, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0], rtol=1e-15)
    assert curve.n.tolist() == [1, 2, 0, 0, 1]
    np.testing.assert_allclose(curve.confidence, [0.5, 0.6, np.nan, np.nan, 0.9], rtol=1e-12)
    np.testing.assert_allclose(curve.outcome, [0.5, 0.5, np.nan, np.nan, 0.5], rtol=1e-12)
    assert np.isnan(curve.low).tolist() == [False, False, True, True, False]


def test_curve_has_wilson_intervals():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 400)
    y = (rng.uniform(size=400) < p).astype(float)
    curve = reliability_curve(np.append(p, 1.0), np.append(y, 1.0), level=0.9)
    low, high = proportion_confint(curve.outcome * curve.n, curve.n, alpha=0.1, method="wilson")
    np.testing.assert_allclose(curve.low, low, rtol=1e-12)
    np.testing.assert_allclose(curve.high, high, rtol=1e-12)
    assert curve.n.sum() == 401


def test_honest_probabilities_of_pairs_that_list_the_chosen_answer_first_are_no_error():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=200_000)
    chosen = np.where(rng.uniform(size=len(p)) < p, p, 1 - p)  # p of the side that won
    assert expected_calibration_error(chosen, np.ones(len(p))) < 0.005
    assert np.mean(chosen) < 0.7  # the naive "mean outcome 1 against mean probability"


@given(
    st.lists(
        st.tuples(st.integers(0, 64), st.sampled_from([0.0, 0.5, 1.0]), st.booleans()),
        min_size=1,
        max_size=60,
    )
)
@fast
def test_turning_pairs_round_changes_no_calibration(pairs):
    p, y = np.array([i / 64 for i, _, _ in pairs]), np.array([y for _, y, _ in pairs])
    turned = np.array([t for _, _, t in pairs])
    p_turned, y_turned = np.where(turned, 1 - p, p), np.where(turned, 1 - y, y)
    error = expected_calibration_error(p, y)
    assert expected_calibration_error(p_turned, y_turned) == error
    assert 0 <= error <= 1
    np.testing.assert_array_equal(brier_losses(p_turned, y_turned), brier_losses(p, y))


def test_floor_is_the_mean_error_of_honest_probabilities():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=100)
    errors = [
        expected_calibration_error(p, (rng.uniform(size=100) < p).astype(float))
        for _ in range(2000)
    ]
    floor = calibration_floor(p, draws=2000, rng=np.random.default_rng(1))
    assert floor.mean == pytest.approx(np.mean(errors), rel=0.02)
    assert floor.high == pytest.approx(np.quantile(errors, 0.95), rel=0.03)


def test_floor_of_one_bin_by_hand():
    # of two pairs at ¾ the error is |3/2 - k|/2 for k = 0, 1, 2 hits, with chances 1/16, 6/16 and
    # 9/16: 3/4, 1/4 and 1/4, in the mean (3 + 6 + 9)/64
    floor = calibration_floor(
        np.array([0.75, 0.25]), bins=1, draws=40_000, rng=np.random.default_rng(0)
    )
    assert floor.mean == pytest.approx(18 / 64, rel=0.02)
    assert floor.high == 0.75
    undecided = calibration_floor(np.full(9, 0.5), draws=5, rng=np.random.default_rng(0))
    assert undecided == (0.0, 0.0)


def test_nothing_has_no_calibration_error():
    nothing, rng = np.array([]), np.random.default_rng(0)
    assert expected_calibration_error(nothing, nothing) is None
    assert calibration_floor(nothing, rng=rng) is None
    assert np.isnan(reliability_curve(nothing, nothing).outcome).all()


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_probabilities_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match=r"NaN|\[0, 1\]"):
        expected_calibration_error(np.array([value]), np.array([1.0]))


def test_no_bins_and_no_draws_are_refused():
    p, rng = np.array([0.7]), np.random.default_rng(0)
    with pytest.raises(ValueError, match="bin"):
        expected_calibration_error(p, p, bins=0)
    with pytest.raises(ValueError, match="draw"):
        calibration_floor(p, draws=0, rng=rng)


# JudgeBench (ScalerLab/JudgeBench@e2c52c2): rewards of both answers of 350 pairs, once in each
# order; the label says which answer is correct.

SKYWORK, INTERNLM, GRM = "Skywork_Skywork-Reward-Gemma-2-27B", "internlm_internlm2-20b", "Ray2333"


def judgebench(name):
    """Margins and outcomes of the first answers."""
    (path,) = (SHARED / "data" / "judgebench").glob(f"*judge_name=reward_model*{name}*")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    first, second = (
        np.array([row["judgments"][order]["judgment"]["scores"] for row in rows])
        for order in (0, 1)
    )
    np.testing.assert_array_equal(first, second[:, ::-1])
    return first[:, 0] - first[:, 1], np.array([float(row["label"] == "A>B") for row in rows])


@needs_shared
@pytest.mark.parametrize(
    ("name", "right", "ties"), [(SKYWORK, 225, 3), (INTERNLM, 222, 0), (GRM, 208, 0)]
)
def test_judgebench_accuracy(name, right, ties):
    margins, outcomes = judgebench(name)  # 64.29 %, 63.43 % and 59.43 % of 350
    assert len(margins) == 350
    assert np.sum((margins > 0) == (outcomes == 1), where=margins != 0) == right
    assert np.sum(margins == 0) == ties
    _, correct = fold_sides(expit(margins), outcomes)
    assert correct.sum() == right + ties / 2


# Of GRM only the range of the losses is on record; its temperature is that of scipy's brentq.
@needs_shared
@pytest.mark.parametrize(
    ("name", "temperature", "raw", "fitted"),
    [(SKYWORK, 11.7, 2.168, 0.614), (INTERNLM, 1.0, 0.614, 0.614), (GRM, 4.4, 0.901, 0.65)],
)
def test_judgebench_temperature_and_held_out_loss(name, temperature, raw, fitted):
    margins, outcomes = judgebench(name)
    found = fit_temperature(margins, outcomes)
    assert found.state == "fitted"
    assert found.value == pytest.approx(temperature, rel=0.03)
    assert found.low < temperature < found.high
    halves = cross_validated_log_loss(
        margins, outcomes, folds=2, repeats=200, rng=np.random.default_rng(0)
    )
    assert halves.undefined == 0
    assert np.median(halves.temperatures) == pytest.approx(temperature, rel=0.03)
    assert np.mean(halves.raw) == pytest.approx(raw, abs=0.002)
    assert np.mean(halves.fitted) == pytest.approx(fitted, abs=0.008)
    assert np.mean(halves.fitted) < 0.66
    if name == SKYWORK:  # 5 % and 95 % of 200 temperatures of halves
        ends = np.quantile(halves.temperatures, [0.05, 0.95])
        np.testing.assert_allclose(ends, [9.2, 14.5], rtol=0.07)


@needs_shared
def test_judgebench_interval_agrees_with_a_bootstrap_of_the_pairs():
    margins, outcomes = judgebench(SKYWORK)
    rng, logs = np.random.default_rng(0), []
    for _ in range(1000):
        rows = rng.integers(0, 350, 350)
        logs.append(math.log(fit_temperature(margins[rows], outcomes[rows]).value))
    assert fit_temperature(margins, outcomes).log_stderr == pytest.approx(np.std(logs), rel=0.1)


@needs_shared
def test_judgebench_calibration_errors_before_and_after():
    margins, outcomes = judgebench(SKYWORK)
    raw = expit(margins)
    fitted = expit(margins / fit_temperature(margins, outcomes).value)
    confidences, _ = fold_sides(raw, outcomes)
    assert confidences.mean() == pytest.approx(0.942, abs=5e-4)
    rng = np.random.default_rng(0)
    before, after = (expected_calibration_error(p, outcomes) for p in (raw, fitted))
    assert before > 0.29 > 3 * calibration_floor(raw, rng=rng).high
    assert after < calibration_floor(fitted, rng=rng).high
    assert brier_losses(raw, outcomes).mean() > 0.25 > brier_losses(fitted, outcomes).mean()
    # the floor of half the pairs, in ten bins
    floors = [calibration_floor(rng.permutation(fitted)[:175], rng=rng).mean for _ in range(5)]
    assert np.mean(floors) == pytest.approx(0.08, abs=0.005)
