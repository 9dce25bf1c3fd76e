import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from evalkit.statistics.intervals import mean
from evalkit.statistics.ppi import ppi_mean
from tests.shared_data import needs_shared
from tests.test_calibration import SKYWORK, judgebench

fast = settings(max_examples=50, deadline=None)


def ends(estimate):
    return estimate.low, estimate.high


def rows(n):
    return np.arange(n, dtype=np.int64)


def some_rows(seed, n, total):
    """Predictions of all rows, labels of a random n of them, and which those are."""
    rng = np.random.default_rng(seed)
    f = rng.normal(3, 2, total)
    labelled = rng.choice(total, n, replace=False)
    return f, 0.7 * f[labelled] + rng.normal(size=n), labelled


# By hand and against others


def test_the_estimate_by_hand():
    # Ten times the labelled block f = 0, 0, 2, 2 and y = 0, 2, 2, 4, beside 60 rows of f = 3. Slope
    # (Σ f'y' = 40)/(Σ f'² = 40) = 1, λ = 1/(1 + 40/60) = 3/5, θ = .6·3 + 2 - .6·1 = 3.2. The
    # residuals are ±1: var(y - λf) = 40/38 + .4²·40/39. Over all rows f has the mean 2.2 and the
    # squares 40·(1.2² + 1) + 60·.8² = 136, so the variance 136/99.
    f = np.concatenate([np.tile([0.0, 0.0, 2.0, 2.0], 10), np.full(60, 3.0)])
    found = ppi_mean(f, np.tile([0.0, 2.0, 2.0, 4.0], 10), rows(40), bounded=False)
    assert found.weight == pytest.approx(3 / 5, rel=1e-14)
    assert found.estimate.value == pytest.approx(3.2, rel=1e-14)
    square = (40 / 38 + 0.16 * 40 / 39) / 40 + 0.36 * 136 / 99 / 60
    assert found.estimate.stderr == pytest.approx(math.sqrt(square), rel=1e-13)
    half = stats.t.ppf(0.975, 38) * math.sqrt(square)
    np.testing.assert_allclose(ends(found.estimate), [3.2 - half, 3.2 + half], rtol=1e-12)
    assert (found.estimate.method, found.estimate.n, found.labelled, found.rows) == (
        "t",
        40,
        40,
        100,
    )
    assert found.classical == mean(np.tile([0.0, 2.0, 2.0, 4.0], 10), bounded=False)


# ppi-python 0.2.3: ppi_mean_pointestimate and ppi_mean_ci(alpha=.05), whose N is the unlabelled.
# It takes variances of n rows without -1, a normal quantile, and for lam=None another sample's
# var(f): terms of 1/500 here.
@pytest.mark.parametrize(
    ("weight", "value", "low", "high"),
    [
        (0.5, 0.04613548333211508, 0.013009730905377721, 0.07926123575885244),
        (1.0, 0.04756551469548709, 0.0031872741400954807, 0.0919437552508787),
        (None, 0.04625750897384522, 0.013251768658148595, 0.07926324928954184),
    ],
)
def test_the_estimate_agrees_with_ppi_python(weight, value, low, high):
    x = np.arange(5500.0)
    f = np.sin(x)
    y = 0.6 * f + 0.5 * np.cos(1.7 * x) + 0.1 * np.sin(x) ** 2
    labelled = np.arange(0, 5500, 11)
    found = ppi_mean(f, y[labelled], labelled, bounded=False, weight=weight)
    exact = 1e-12 if weight else 1e-4
    assert found.estimate.value == pytest.approx(value, rel=exact)
    half = (found.estimate.high - found.estimate.low) / 2
    assert half == pytest.approx((high - low) / 2, rel=5e-3)


def test_the_weight_makes_the_error_least():
    f, y, labelled = some_rows(0, 100, 400)
    best = ppi_mean(f, y, labelled, bounded=False)
    errors = [
        ppi_mean(f, y, labelled, bounded=False, weight=best.weight + shift).estimate.stderr
        for shift in (-0.2, -0.1, 0.1, 0.2)
    ]
    assert best.estimate.stderr < min(errors)
    assert best.estimate.stderr < best.classical.stderr


def test_the_mean_prediction_over_all_rows_gives_the_same_value_under_its_own_weight():
    # mean_all f holds the labelled rows too; there λ = cov/var is best, and the values agree
    f, y, labelled = some_rows(1, 60, 150)
    slope = stats.linregress(f[labelled], y).slope
    found = ppi_mean(f, y, labelled, bounded=False)
    expected = slope * f.mean() + np.mean(y - slope * f[labelled])
    assert found.estimate.value == pytest.approx(expected, rel=1e-12)
    assert found.weight == pytest.approx(slope / (1 + 60 / 90), rel=1e-12)


def test_perfect_predictions_of_all_rows_are_their_mean():
    f, _, labelled = some_rows(2, 40, 160)
    found = ppi_mean(f, f[labelled], labelled, bounded=False)
    assert found.weight == pytest.approx(3 / 4, rel=1e-12)
    assert found.estimate.value == pytest.approx(f.mean(), rel=1e-12)
    assert found.estimate.stderr == pytest.approx(stats.sem(f), rel=0.05)


def test_logit_t_interval_by_hand():
    rng = np.random.default_rng(0)
    f = rng.uniform(size=500)
    y = (rng.uniform(size=100) < f[:100]).astype(float)
    free, found = (ppi_mean(f, y, rows(100), bounded=b) for b in (False, True))
    assert found.estimate.method == "logit-t"
    value, stderr = free.estimate.value, free.estimate.stderr
    assert (found.estimate.value, found.estimate.stderr) == (value, stderr)
    half = stats.t.ppf(0.975, 98) * stderr / (value * (1 - value))
    expected = special.expit(special.logit(value) + np.array([-half, half]))
    np.testing.assert_allclose(ends(found.estimate), expected, rtol=1e-12)


# Where the labels stand alone


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("n", [0, 1, 2, 19, 50])
def test_too_few_labels_or_labels_everywhere_leave_the_classical_estimate(n, bounded):
    rng = np.random.default_rng(0)
    y = rng.uniform(size=n)
    found = ppi_mean(rng.uniform(size=50), y, rng.permutation(50)[:n], bounded=bounded)
    assert found.weight == 0
    assert found.estimate == found.classical == mean(y, bounded=bounded)


def test_no_labels_and_one_label_have_no_made_up_interval():
    f = np.linspace(0, 1, 9)
    nothing = ppi_mean(f, np.array([]), rows(0), bounded=True).estimate
    assert (nothing.value, nothing.low, nothing.high, nothing.stderr) == (None,) * 4
    one = ppi_mean(f, np.array([0.25]), rows(1), bounded=False).estimate
    assert (one.value, one.low, one.high, one.stderr) == (0.25, None, None, None)


@pytest.mark.parametrize("value", [0.0, 0.7, 1e-200])
def test_equal_predictions_leave_the_classical_estimate(value):
    f, y, labelled = some_rows(3, 60, 90)  # sixty times .7 are not 42
    found = ppi_mean(np.full(90, value), y, labelled, bounded=False)
    assert (found.weight, found.estimate) == (0, found.classical)
    f[labelled] = value  # the others vary, but what that means for labels nobody has seen
    found = ppi_mean(f, y, labelled, bounded=False)
    assert (found.weight, found.estimate) == (0, found.classical)


def test_predictions_whose_variance_is_no_number_leave_the_classical_estimate():
    f, y, labelled = some_rows(3, 60, 90)
    found = ppi_mean(1e-200 * f, y, labelled, bounded=False)
    assert (found.weight, found.estimate) == (0, found.classical)


@pytest.mark.parametrize("value", [1.0, 0.1])
def test_equal_labels_are_not_certain(value):
    f = np.linspace(0, 1, 200)
    found = ppi_mean(f, np.full(40, value), rows(40), bounded=True)
    assert (found.estimate.method, found.weight) == ("betting", 0)
    assert found.estimate.low < value
    assert ppi_mean(f, np.full(40, value), rows(40), bounded=False).estimate.low is None


def test_near_the_edge_the_labels_stand_alone():
    rng = np.random.default_rng(0)
    f = rng.uniform(size=400)
    y = np.ones(60)
    y[:3] = 0  # 3 standard errors are .085, and 1 - .95 is less
    found = ppi_mean(f, y, rows(60), bounded=True)
    assert (found.weight, found.estimate.method) == (0, "betting")
    y[:12] = 0  # .2 is more than .156
    assert ppi_mean(f, y, rows(60), bounded=True).estimate.method == "logit-t"
    # few labels, nearly fitted: the error with predictions alone would look like enough
    y = np.append(np.full(18, 0.05), [0.6, 0.9])
    fitted = np.append(y, rng.choice(y, 300))
    few = ppi_mean(fitted, y, rows(20), bounded=True)
    free = ppi_mean(fitted, y, rows(20), bounded=False)
    assert free.estimate.value > 3 * free.estimate.stderr
    assert few.estimate == few.classical
    y = np.repeat([0.0, 1.0], [12, 48])
    # a weight that carries θ out of [0, 1]
    outside = ppi_mean(100 * f, y, rows(60), bounded=True, weight=1.0)
    assert outside.estimate == outside.classical


# Invariances


SIZES = st.tuples(st.integers(20, 60), st.integers(1, 60))
SCALES = st.sampled_from([-8.0, -0.5, 0.25, 2.0, 100.0])


@given(SIZES, st.integers(0, 99), SCALES, st.floats(-50, 50))
@fast
def test_the_unit_of_the_predictions_does_not_matter(sizes, seed, scale, shift):
    f, y, labelled = some_rows(seed, sizes[0], sum(sizes))
    plain = ppi_mean(f, y, labelled, bounded=False)
    found = ppi_mean(scale * f + shift, y, labelled, bounded=False)
    assert found.weight == pytest.approx(plain.weight / scale, rel=1e-9)
    assert found.estimate.value == pytest.approx(plain.estimate.value, rel=1e-9)
    np.testing.assert_allclose(ends(found.estimate), ends(plain.estimate), rtol=1e-8)


@given(SIZES, st.integers(0, 99), SCALES, st.floats(-50, 50))
@fast
def test_the_estimate_moves_with_the_unit_of_the_labels(sizes, seed, scale, shift):
    f, y, labelled = some_rows(seed, sizes[0], sum(sizes))
    plain = ppi_mean(f, y, labelled, bounded=False)
    found = ppi_mean(f, scale * y + shift, labelled, bounded=False)
    assert found.weight == pytest.approx(plain.weight * scale, rel=1e-9)
    expected = sorted(scale * end + shift for end in ends(plain.estimate))
    np.testing.assert_allclose(ends(found.estimate), expected, rtol=1e-8, atol=1e-8)


@given(SIZES, st.integers(0, 99))
@fast
def test_swapping_the_sides_mirrors_the_estimate(sizes, seed):
    rng = np.random.default_rng(seed)
    f = rng.uniform(size=sum(sizes))
    y = rng.integers(0, 3, sizes[0]) / 2
    plain = ppi_mean(f, y, rows(sizes[0]), bounded=True).estimate
    turned = ppi_mean(1 - f, 1 - y, rows(sizes[0]), bounded=True).estimate
    assert turned.method == plain.method
    assert turned.value == pytest.approx(1 - plain.value, abs=1e-12)
    assert (turned.low, turned.high) == pytest.approx((1 - plain.high, 1 - plain.low), abs=1e-9)


@given(SIZES, st.integers(0, 99))
@fast
def test_the_order_of_the_rows_does_not_matter(sizes, seed):
    f, y, labelled = some_rows(seed, sizes[0], sum(sizes))
    rng = np.random.default_rng(seed)
    order, turns = rng.permutation(len(f)), rng.permutation(len(y))
    place = np.argsort(order)  # where each row went
    plain = ppi_mean(f, y, labelled, bounded=False).estimate
    found = ppi_mean(f[order], y[turns], place[labelled[turns]], bounded=False).estimate
    np.testing.assert_allclose(ends(found), ends(plain), rtol=1e-9)


# Refusals


@pytest.mark.parametrize(
    ("f", "y", "labelled", "words"),
    [
        ([1.0, np.nan], [1.0], [0], "predictions"),
        ([1.0, np.inf], [1.0], [0], "predictions"),
        ([1.0, 2.0], [np.nan], [0], "NaN"),
        ([1.0, 2.0], [1.5], [0], r"\[0, 1\]"),
        ([1.0, 2.0], [1.0, 0.0], [0], "2 labels for 1 rows"),
        ([1.0, 2.0], [1.0, 0.0], [1, 1], "twice"),
        ([1.0, 2.0], [1.0], [2], "rows must lie"),
        ([1.0, 2.0], [1.0], [-1], "rows must lie"),
    ],
)
def test_rows_to_decide_about_are_refused(f, y, labelled, words):
    with pytest.raises(ValueError, match=words):
        ppi_mean(np.array(f), np.array(y), np.array(labelled), bounded=True)


@pytest.mark.parametrize(("setting", "value"), [("weight", math.nan), ("level", 1.0)])
def test_a_weight_or_level_without_sense_is_refused(setting, value):
    f, y, labelled = some_rows(0, 30, 60)
    with pytest.raises(ValueError, match=setting):
        ppi_mean(f, y, labelled, bounded=False, **{setting: value})


# Coverage


def normal_rows(rng, total):
    f = rng.normal(size=total)
    return f, 0.9 * f + 0.45 * rng.normal(size=total)


def binary_rows(rng, total):
    lean = 0.5 + 1.5 * rng.normal(size=total)
    f = special.expit(2 * lean + 0.7 * rng.normal(size=total))
    return f, (rng.uniform(size=total) < special.expit(lean)).astype(float)


def coverage(draw, truth, *, n, total, bounded, draws, weight=None):
    rng, hits, width = np.random.default_rng(0), 0, []
    for _ in range(draws):
        f, y = draw(rng, total)
        found = ppi_mean(f, y[:n], rows(n), bounded=bounded, weight=weight)
        low, high = ends(found.estimate)
        hits += low <= truth <= high
        width.append((high - low) / (found.classical.high - found.classical.low))
    return hits / draws, np.mean(width)


def binary_truth():
    """E σ(½ + 1.5 z) by Gauss-Hermite quadrature."""
    z, weights = np.polynomial.hermite_e.hermegauss(80)
    return weights @ special.expit(0.5 + 1.5 * z) / weights.sum()


@pytest.mark.parametrize(("n", "total"), [(20, 200), (60, 90), (100, 1000)])
def test_intervals_of_an_unbounded_mean_cover_it_and_are_narrower(n, total):
    share, width = coverage(normal_rows, 0.0, n=n, total=total, bounded=False, draws=2000)
    assert 0.932 <= share <= 0.968  # 3.7 standard errors
    # variance against the classical 1/n: 1 - ρ²·U/N with ρ² = .8
    assert width == pytest.approx(math.sqrt(1 - 0.8 * (1 - n / total)), rel=0.08)


@pytest.mark.parametrize(("n", "total", "most"), [(60, 200, 0.98), (150, 1000, 0.97)])
def test_intervals_of_a_rate_cover_it_and_are_narrower(n, total, most):
    truth = binary_truth()
    share, width = coverage(binary_rows, truth, n=n, total=total, bounded=True, draws=1500)
    assert 0.93 <= share <= most
    assert width < 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "total"), [(20, 40), (20, 400), (40, 80), (100, 150), (100, 1000), (400, 2000)]
)
def test_intervals_cover_throughout(n, total):
    share, _ = coverage(normal_rows, 0.0, n=n, total=total, bounded=False, draws=6000)
    assert 0.94 <= share <= 0.96
    plain, _ = coverage(normal_rows, 0.0, n=n, total=total, bounded=False, draws=6000, weight=1.0)
    assert 0.94 <= plain <= 0.96
    share, _ = coverage(binary_rows, binary_truth(), n=n, total=total, bounded=True, draws=4000)
    assert share >= 0.94


def test_counting_the_labelled_rows_among_all_as_if_they_were_others_covers_too_little():
    # the control: the formula with the mean prediction over all rows, labelled ones included
    n, total, hits, ours = 180, 200, 0, 0
    rng = np.random.default_rng(0)
    for _ in range(1500):
        f, y = normal_rows(rng, total)
        y, known = y[:n], f[:n]
        weight = np.cov(y, known)[0, 1] / np.var(f, ddof=1) / (1 + n / total)
        value = weight * f.mean() + np.mean(y - weight * known)
        square = np.var(y - weight * known, ddof=1) / n + weight**2 * np.var(f, ddof=1) / total
        hits += abs(value) <= stats.norm.ppf(0.975) * math.sqrt(square)
        low, high = ends(ppi_mean(f, y, rows(n), bounded=False).estimate)
        ours += low <= 0 <= high
    assert hits / 1500 < 0.90
    assert ours / 1500 > 0.93


# JudgeBench: which answer is correct, predicted by a reward model


@needs_shared
def test_judgebench_labels_are_predicted_without_bias_and_with_less_error():
    margins, outcomes = judgebench(SKYWORK)
    f = special.expit(margins / 11.7)
    rng, found = np.random.default_rng(0), []
    for _ in range(300):
        labelled = rng.permutation(350)[:100]
        found.append(ppi_mean(f, outcomes[labelled], labelled, bounded=True))
    assert {p.estimate.method for p in found} == {"logit-t"}
    values = np.array([p.estimate.value for p in found])
    alone = np.array([p.classical.value for p in found])
    share = 193 / 350  # the correct answer stands first
    assert values.mean() == pytest.approx(share, abs=4 * values.std() / math.sqrt(300))
    assert values.std() < alone.std()
    gain = [p.estimate.stderr / p.classical.stderr for p in found]
    # with ρ = .39 and 250 unlabelled of 350: √(1 - ρ²·250/350) = .94
    rho = np.corrcoef(f, outcomes)[0, 1]
    assert np.mean(gain) == pytest.approx(math.sqrt(1 - rho**2 * 250 / 350), abs=0.01)
