import numpy as np
import pytest

from evalkit.statistics.intervals import mean

pytestmark = pytest.mark.slow

DRAWS = 4000
NOMINAL = 0.95
# A share of 4000 draws has a binomial standard error of √(.95 · .05/4000) = 0.34 %: an interval
# that covers exactly 95 % falls short of 93 % by chance with probability 2e-8.
LEAST = 0.93
SIZES = (50, 200, 805)
MEANS = (0.5, 0.1, 0.02)


def wins(rng, n, m):
    return (rng.random((DRAWS, n)) < m).astype(np.float64)


def wins_and_ties(rng, n, m):
    # A win with probability m/2, a tie with probability m: the mean is m/2 + m/2.
    u = rng.random((DRAWS, n))
    return np.where(u < m / 2, 1.0, np.where(u < 1.5 * m, 0.5, 0.0))


def probabilities(rng, n, m):
    return rng.beta(2 * m, 2 * (1 - m), (DRAWS, n))


def normal_margins(rng, n, m):
    return rng.normal(m, 1, (DRAWS, n))


def heavy_tailed_margins(rng, n, m):
    return m + rng.standard_t(5, (DRAWS, n))


def covered(columns, truth, **options):
    """Share of the columns whose interval holds the truth, its mean width and how many bet."""
    found = [mean(column, level=NOMINAL, seed=i, **options) for i, column in enumerate(columns)]
    low = np.array([e.low for e in found])
    high = np.array([e.high for e in found])
    betting = np.mean([e.method == "betting" for e in found])
    return float(np.mean((low <= truth) & (truth <= high))), float(np.mean(high - low)), betting


@pytest.mark.parametrize(
    ("draw", "bounded"),
    [
        (wins, True),
        (wins_and_ties, True),
        (probabilities, True),
        (normal_margins, False),
        (heavy_tailed_margins, False),
    ],
)
def test_analytic_intervals_cover_what_they_say(draw, bounded, capsys):
    rng, shares = np.random.default_rng(20260101), {}
    with capsys.disabled():
        print(f"\n{draw.__name__}: {NOMINAL:.0%} intervals, {DRAWS} draws, ± 0.34 %")
        print("    n  mean  covered  width  betting")
        for n in SIZES:
            for m in MEANS:
                share, width, betting = covered(draw(rng, n, m), m, bounded=bounded)
                print(f"{n:5d}  {m:4.2f}  {share:7.1%}  {width:5.3f}  {betting:7.0%}")
                shares[n, m] = share
    assert {case: share for case, share in shares.items() if share < LEAST} == {}


def test_plain_z_interval_does_not_cover_a_rare_win():
    # The control. With probability .98⁵⁰ = 36 % there is no win and the interval is [0, 0].
    x = wins(np.random.default_rng(0), 50, 0.02)
    centre, half = x.mean(axis=1), 1.96 * x.std(axis=1, ddof=1) / np.sqrt(50)
    assert np.mean(np.abs(centre - 0.02) <= half) < 0.9


@pytest.mark.parametrize("clusters", [50, 200])
@pytest.mark.parametrize("shared", [0.3, 0.7])
def test_clustered_intervals_cover_where_plain_ones_do_not(clusters, shared, capsys):
    # Four rows a cluster, correlated by `shared`.
    rng, label = np.random.default_rng(20260102), np.repeat(np.arange(clusters), 4)
    effects = rng.normal(size=(DRAWS, clusters))[:, label] * np.sqrt(shared)
    columns = effects + rng.normal(size=(DRAWS, 4 * clusters)) * np.sqrt(1 - shared)
    clustered, _, _ = covered(columns, 0.0, bounded=False, clusters=label)
    plain, _, _ = covered(columns, 0.0, bounded=False)
    with capsys.disabled():
        print(f"\n{clusters} clusters, ICC {shared}: clustered {clustered:.1%}, plain {plain:.1%}")
    assert clustered >= LEAST
    assert plain < 0.9


@pytest.mark.parametrize(("draw", "bounded"), [(wins, True), (normal_margins, False)])
@pytest.mark.parametrize("m", [0.5, 0.1])
def test_bca_intervals_cover_what_they_say(draw, bounded, m, capsys):
    rng = np.random.default_rng(20260103)
    keys = rng.integers(0, 2**64, (1500, 200), dtype=np.uint64)
    columns = draw(rng, 200, m)[:1500]
    found = [
        mean(x, bounded=bounded, keys=k, resamples=1000) for x, k in zip(columns, keys, strict=True)
    ]
    share = np.mean([e.low <= m <= e.high for e in found])
    with capsys.disabled():
        print(f"\n{draw.__name__}, n = 200, mean {m}: BCa covers {share:.1%} of 1500 ± 0.56 %")
    assert share >= LEAST
