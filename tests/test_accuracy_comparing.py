"""Reward models beside each other and beside length alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from evalkit.accuracy import Options, Signature, accuracy
from evalkit.accuracy.comparing import ranking_of
from evalkit.accuracy.rows import numbered
from evalkit.accuracy.table import Rated, table_of
from evalkit.errors import InputError
from evalkit.formats.rewarded_rows import RewardedRow
from evalkit.store import Store
from evalkit.suites import find_suite
from evalkit.workspace import Workspace
from tests.test_accuracy_rewards import own_rows, write

WEIGHTS = {"a": 3 / 4 * 1 / 4, "b": 3 / 4 * 3 / 4, "c": 1 / 4}
SECTIONS = """
layout = "pairs"
credit = "CREDIT"
[[data]]
name = "main"
[sections.X]
weight = 3
[sections.X.subsets]
a = { weight = 1 }
b = { weight = 3 }
[sections.Y.subsets.c]
"""
BARE = '[[data]]\nname = "main"\n[subsets]\na = {}\n'


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Sections X of a and b, and Y of c, whose weights are `WEIGHTS`."""
    folder = tmp_path_factory.mktemp("suites")

    def of(text=SECTIONS, credit="strict"):
        path = folder / "own.toml"
        path.write_text(text.replace("CREDIT", credit))
        return find_suite(str(path), Workspace(folder))

    return of


def row(name, subset, rewards, texts=(), **more):
    texts = tuple("x" * length for length in texts)
    return RewardedRow(
        row_id=name, subset=subset, rewards=tuple(rewards), where=f"r:{name}", texts=texts, **more
    )


def table(suite, rows, name="rm", spec=None, **options):
    return table_of(Rated(name, spec, rows, [], ""), suite, Options(**options))


def noisy(seed=0, n=(20, 30, 40), texts=True):
    """Rows of three subsets, rewards and lengths on grids that tie now and then."""
    rng = np.random.default_rng(seed)
    return [
        row(
            f"{subset}{i}",
            subset,
            (rng.integers(0, 8, 2) / 4).tolist(),
            rng.integers(1, 12, 2).tolist() if texts else (),
        )
        for subset, m in zip("abc", n, strict=True)
        for i in range(m)
    ]


def half(pair):
    """Half credit of two numbers, in words of its own."""
    return 1.0 if pair[0] > pair[1] else 0.5 if pair[0] == pair[1] else 0.0


# Length alone


def test_the_longest_and_the_shortest_by_hand(suite):
    rows = [
        row("1", "a", [1, 0], (5, 3)),
        row("2", "a", [1, 0], (2, 3)),
        row("3", "a", [0, 1], (2, 9)),
        row("4", "a", [1, 0], (4, 4)),
    ]
    found = table(suite(), rows).subsets["a"].length
    assert (found.longest.value, found.shortest.value) == (1.5 / 4, 2.5 / 4)
    assert found.best == 2.5 / 4
    assert found.ahead.value == pytest.approx(3 / 4 - 2.5 / 4)


@pytest.mark.parametrize("turn", [False, True], ids=["shortest", "longest"])
def test_ahead_of_length_is_a_paired_t_test(suite, turn):
    rows = [r for r in noisy() if r.subset == "b"]
    if turn:
        rows = [replace(r, texts=r.texts[::-1]) for r in rows]
    found = table(suite(), rows).subsets["b"].length
    credit = np.array([half(r.rewards) for r in rows])
    longest = np.array([half(r.lengths) for r in rows])
    better = longest if longest.mean() >= 0.5 else 1 - longest
    expected = stats.ttest_rel(credit, better)
    interval = expected.confidence_interval(0.95)
    assert found.ahead.value == pytest.approx((credit - better).mean(), abs=1e-12)
    assert [found.ahead.low, found.ahead.high] == pytest.approx(list(interval), abs=1e-12)
    assert found.beaten == (interval.low > 0)


def test_ahead_of_length_is_weighted_as_the_sections_are(suite):
    rows = noisy(3)
    found = table(suite(), rows)
    values, variances, df = {}, {}, {}
    longest = sum(
        weight * np.mean([half(r.lengths) for r in rows if r.subset == name])
        for name, weight in WEIGHTS.items()
    )
    for name, weight in WEIGHTS.items():
        mine = [r for r in rows if r.subset == name]
        lengths = np.array([half(r.lengths) for r in mine])
        d = np.array([half(r.rewards) for r in mine]) - (lengths if longest >= 0.5 else 1 - lengths)
        values[name] = weight * d.mean()
        variances[name], df[name] = weight**2 * d.var(ddof=1) / len(d), len(d) - 1
    total = sum(variances.values())
    welch = total**2 / sum(v**2 / df[name] for name, v in variances.items())
    reach = stats.t.ppf(0.975, welch) * math.sqrt(total)
    got = found.overall.length
    assert got.longest.value == pytest.approx(longest, abs=1e-12)
    assert got.ahead.value == pytest.approx(sum(values.values()), abs=1e-12)
    assert got.ahead.high - got.ahead.value == pytest.approx(reach, abs=1e-12)
    assert got.ahead.stderr == pytest.approx(math.sqrt(total), abs=1e-12)


@pytest.mark.parametrize(("n", "sure"), [(5, False), (6, True)])
def test_one_lead_on_every_row_is_as_sure_as_heads_in_a_row(suite, n, sure):
    # right on every row of two equal lengths: half a point ahead each time; 2·2⁻⁶ < 0.05 < 2·2⁻⁵
    rows = [row(f"{i}", "a", (1, 0), (9, 9)) for i in range(n)]
    found = table(suite('layout = "pairs"\ncredit = "strict"\n' + BARE), rows).overall.length
    assert (found.ahead.value, found.ahead.low) == (0.5, None)
    assert found.beaten is sure


def test_one_lead_in_two_clusters_is_no_more_than_two_heads(suite):
    rows = [row(f"{i}", "a", (1, 0), (9, 9), cluster=f"c{i % 2}") for i in range(100)]
    found = table(suite('layout = "pairs"\ncredit = "strict"\n' + BARE), rows).overall.length
    assert (found.ahead.value, found.ahead.clusters) == (0.5, 2)
    assert found.beaten is False


def test_a_reward_model_that_is_length_alone_beats_nothing(suite):
    rows = [replace(r, rewards=tuple(map(float, r.lengths))) for r in noisy(5)]
    found = table(suite(), rows)
    for part in (found.overall, *found.subsets.values(), *found.sections.values()):
        longest = part.length.longest.value
        assert part.length.beaten is False
        if longest >= part.length.shortest.value:
            assert part.length.ahead.value == 0


def test_length_is_compared_on_the_rows_that_have_a_verdict(suite):
    rows = [
        row("1", "a", [1, 0], (5, 3)),
        row("2", "a", [0, 1], (5, 3)),
        row("3", "a", [1, 0], (4, 4)),
        *(row(f"{i}", "a", [math.nan] * 2, (1, 9), problem="no ids") for i in range(4, 9)),
    ]
    found = table(suite(), rows).subsets["a"].length
    assert (found.longest.value, found.shortest.value) == (2.5 / 3, 0.5 / 3)
    assert found.ahead.value == pytest.approx(2 / 3 - 2.5 / 3)
    assert found.best == found.longest.value


def test_without_the_texts_of_a_row_nothing_is_said_of_length(suite):
    rows = noisy()
    found = table(suite(), [replace(rows[0], texts=()), *rows[1:]])
    assert found.subsets["a"].length is found.sections["X"].length is found.overall.length is None
    assert found.subsets["b"].length is not None
    assert found.sections["Y"].length is not None


TIES = """
layout = "best-of"
credit = "half-credit"
[[data]]
name = "main"
[subsets]
Math = {}
Ties = { rule = "ties" }
"""


def ties(k, right, wrong=(0.0,)):
    return [
        row(f"tied:{k}", "Ties", [*right, *wrong], range(1, len(right) + 2), correct=len(right)),
        row(f"ref:{k}", "Ties", [right[0], *wrong], (1, 2)),
    ]


def test_ties_have_no_length_baseline_and_no_place_in_a_ranking(suite):
    math_rows = [row(f"{i}", "Math", [i % 3, 1], (1 + i % 2, 2)) for i in range(12)]
    rows = [*math_rows, *ties(1, (2.0, 1.5)), *ties(2, (-1.0, 0.5))]
    own = suite(TIES)
    one = table(own, rows, "one")
    assert one.subsets["Ties"].length is None
    assert one.overall.length == one.subsets["Math"].length
    other = table(own, [replace(r, rewards=r.rewards[::-1]) for r in rows], "other")
    ranking = ranking_of([one, other], own, Options())
    assert (ranking.n, ranking.left_out) == (12, ("Ties",))
    assert [test.subset for test in ranking.subset_tests] == ["Math"]
    assert ranking.differences.values[0] == one.subsets["Math"].score.half_credit.value


def test_a_subset_without_a_verdict_leaves_its_weight_to_its_section(suite):
    rows = [
        replace(r, rewards=(math.nan, math.nan), problem="x") if r.subset == "a" else r
        for r in noisy()
    ]
    found, kept = table(suite(), rows).overall, table(suite(), rows[20:]).overall
    mean = {name: np.mean([half(r.lengths) for r in rows if r.subset == name]) for name in "bc"}
    assert found.length.longest.value == pytest.approx(3 / 4 * mean["b"] + 1 / 4 * mean["c"])
    assert found.length == kept.length
    assert found.score.strict == kept.score.strict


def test_styles_compare_lengths_in_all_nine_ways(suite):
    text = '{} layout = "rm-bench"\ncredit = "strict"\n' + BARE.replace(
        "a = {}", 'a = { rule = "styles" }'
    )
    rng = np.random.default_rng(2)
    rows = [
        row(f"{i}", "a", rng.normal(size=6).tolist(), rng.integers(1, 6, 6).tolist(), correct=3)
        for i in range(9)
    ]
    found = table(suite(text.replace("{} ", "")), rows).subsets["a"].length
    nine = [half((c, x)) for r in rows for c in r.lengths[:3] for x in r.lengths[3:]]
    assert found.longest.value == pytest.approx(np.mean(nine))
    assert found.shortest.value == pytest.approx(1 - np.mean(nine))


# Several reward models


def others(rows, *seeds):
    found = [rows]
    for seed in seeds:
        rng = np.random.default_rng(seed)
        found.append([replace(r, rewards=tuple(rng.integers(0, 8, 2) / 4)) for r in rows])
    return found


def compare(suite, *of_models, **options):
    tables = [table(suite, rows, f"m{i}") for i, rows in enumerate(of_models)]
    return ranking_of(tables, suite, Options(**options))


def flat(ranking):
    """Everything of a ranking that is a number."""
    numbers = [ranking.n, *ranking.differences.values]
    for pair in ranking.differences.pairs:
        e = pair.estimate
        numbers += [e.value, e.low, e.high, e.stderr, e.n, pair.df, pair.p, pair.p_holm]
    for test in ranking.subset_tests:
        numbers += [test.n, test.only_a, test.only_b, test.p, test.p_holm]
    a = ranking.agreement
    numbers += [*a.share.ravel(), *a.kappa.ravel(), *ranking.ranks.best, *ranking.ranks.worst]
    numbers += [a.unanimous.value, a.accuracy_unanimous.value, a.accuracy_contested.low]
    return np.array([np.nan if x is None else x for x in numbers], dtype=float)


@pytest.mark.parametrize("credit", ["strict", "half-credit"])
def test_overall_differences_are_those_of_the_tables(suite, credit):
    own = suite(credit=credit)
    models = others(noisy(), 1, 2)
    ranking = compare(own, *models)
    overall = [table(own, rows).overall.score.of(credit).value for rows in models]
    assert ranking.differences.values == pytest.approx(overall, abs=1e-12)
    for pair in ranking.differences.pairs:
        assert pair.estimate.value == pytest.approx(overall[pair.a] - overall[pair.b], abs=1e-12)


def test_rows_are_matched_by_id_whatever_their_order(suite):
    one, two, three = others(noisy(), 1, 2)
    rng = np.random.default_rng(9)
    shuffled = [[rows[i] for i in rng.permutation(len(rows))] for rows in (two, three)]
    expected, found = (
        flat(compare(suite(), one, two, three)),
        flat(compare(suite(), one, *shuffled)),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_a_row_that_one_file_lacks_takes_no_part(suite):
    one, two = others(noisy(), 1)
    lacking = [r for r in two if r.row_id not in {"a3", "b5", "b7"}]
    ranking = compare(suite(), one, lacking)
    both = [r for r in one if r.row_id in {x.row_id for x in lacking}]
    assert ranking.n == 87
    np.testing.assert_allclose(flat(ranking), flat(compare(suite(), both, lacking)), rtol=1e-12)


def test_a_row_without_a_verdict_takes_no_part_in_differences(suite):
    one, two = others(noisy(), 1)
    failed = [
        replace(r, rewards=(math.nan, math.nan), problem="x") if r.row_id == "a3" else r
        for r in two
    ]
    (pair,) = compare(suite(), one, failed).differences.pairs
    kept = [[r for r in rows if r.row_id != "a3"] for rows in (one, two)]
    (expected,) = compare(suite(), *kept).differences.pairs
    assert pair == expected


def nameless(rows):
    return [replace(r, row_id="") for r in rows]


def told_apart(rows):
    return [replace(r, texts=tuple(f"{r.subset}{r.row_id} {t}" for t in r.texts)) for r in rows]


def test_rows_without_ids_are_matched_by_their_texts_in_any_order(suite):
    one, two = map(told_apart, others(noisy(), 1))
    found = compare(suite(), nameless(one), nameless(two[::-1]))
    expected = compare(suite(), one, two)
    assert found.n == expected.n == 90
    assert found.differences.values == pytest.approx(expected.differences.values, abs=1e-12)
    assert found.agreement.share == pytest.approx(expected.agreement.share, abs=1e-12)


def test_rows_with_neither_ids_nor_texts_are_matched_with_none(suite):
    one, two = others(noisy(), 1)
    bare = [replace(r, row_id="", texts=(), where=f"two:{r.row_id}{r.subset}") for r in two]
    assert compare(suite(), nameless(one), bare) is None
    assert compare(suite(), one, bare) is None


def test_ids_that_repeat_are_no_ids():
    rows = [row("1", "a", (1, 0)), row("1", "b", (1, 0)), row("2", "a", (1, 0))]
    assert numbered(rows) == [("a", "1"), ("b", "1"), ("a", "2")]
    rows[2] = rows[0]
    assert [key[1] for key in numbered(rows)] == ["r:1 1", "r:1 1", "r:1 2"]


def test_rows_of_one_prompt_widen_the_intervals(suite):
    # each row twice: as independent rows, they would seem to tell twice as much
    one, two = others(noisy(), 1)
    doubled = [
        [replace(r, row_id=f"{r.row_id}-{k}", cluster=c) for r in rows for k, c in enumerate(ks)]
        for rows, ks in ((one, ["", ""]), (two, ["", ""]))
    ]
    clustered = [[replace(r, cluster=r.row_id.partition("-")[0]) for r in rows] for rows in doubled]
    (alone,) = compare(suite(), one, two).differences.pairs
    (naive,) = compare(suite(), *doubled).differences.pairs
    (told,) = compare(suite(), *clustered).differences.pairs
    assert told.estimate.stderr == pytest.approx(alone.estimate.stderr, rel=1e-9)
    assert naive.estimate.stderr < 0.8 * told.estimate.stderr
    unclustered, overall = (table(suite(), x[0]).overall for x in (doubled, clustered))
    assert overall.score.strict.clusters == 90
    assert overall.score.strict.high > unclustered.score.strict.high
    # whichever of the two files says so
    for models in ([clustered[0], doubled[1]], [doubled[0], clustered[1]]):
        assert compare(suite(), *models).differences.pairs[0] == told


def test_subset_tests_are_mcnemars(suite):
    one, two = others(noisy(), 1)
    for test in compare(suite(), one, two).subset_tests:
        right = [
            [half(r.rewards) == 1 for r in rows if r.subset == test.subset] for rows in (one, two)
        ]
        only = [sum(a and not b for a, b in zip(*x, strict=True)) for x in (right, right[::-1])]
        assert [test.only_a, test.only_b] == only
        assert test.p == pytest.approx(stats.binomtest(only[0], sum(only)).pvalue)


def test_the_order_of_the_reward_models_only_moves_their_numbers(suite):
    one, two = others(noisy(), 1)
    (ab,), (ba,) = (compare(suite(), *x).differences.pairs for x in ((one, two), (two, one)))
    assert [ba.estimate.value, ba.estimate.low] == [-ab.estimate.value, -ab.estimate.high]
    assert (ba.p, ba.p_holm) == (ab.p, ab.p_holm)


def run_files(tmp_path, suite, *files):
    with Store(tmp_path / "store.db") as store:
        return accuracy(suite, [], store, rewards=files)


def test_two_files_of_one_name_are_refused(suite, tmp_path):
    own, rows = suite(), own_rows([("a", [1, 0]), ("b", [0, 1]), ("c", [1, 0])])
    files = [tmp_path / folder / "rm.jsonl" for folder in ("x", "y")]
    for file in files:
        file.parent.mkdir()
        write(file, rows)
    with pytest.raises(InputError, match="two reward models are called 'rm'"):
        run_files(tmp_path, own, *map(str, files))


def test_files_that_share_no_row_have_no_ranking(suite, tmp_path):
    own, rows = suite(), own_rows([("a", [1, 0]), ("b", [0, 1]), ("c", [1, 0])])
    one = write(tmp_path / "one.jsonl", rows)
    other = write(tmp_path / "other.jsonl", [{**r, "id": f"x{r['id']}"} for r in rows])
    found = run_files(tmp_path, own, one, other)
    assert (len(found.tables), found.ranking) == (2, None)


# What the signature holds


@pytest.mark.parametrize(
    "change",
    [
        {"rewards": [1.0, 0.25]},
        {"cluster": "p"},
        {"reward_chosen": 1.0, "reward_rejected": 0.0, "magnitude": 3},
    ],
)
def test_whatever_of_the_rewards_moves_a_number_is_in_the_signature(suite, tmp_path, change):
    plain = {"rewards": [1.0, 0.0]}
    if "magnitude" in change:
        plain = {**change, "magnitude": None}
    signatures = []
    for more in (plain, {**plain, **change}):
        rows = [{"id": s, "subset": s, **more} for s in "abc"]
        found = run_files(tmp_path, suite(), write(tmp_path / "r.jsonl", rows))
        signatures.append(found.tables[0].signature)
    assert signatures[0] != signatures[1]


def test_the_order_of_rows_is_not_in_the_signature(suite, tmp_path):
    rows = own_rows([("a", [1, 0]), ("b", [0, 1]), ("c", [1, 0])])
    first, second = (
        run_files(tmp_path, suite(), write(tmp_path / "r.jsonl", x)).tables[0].signature
        for x in (rows, rows[::-1])
    )
    assert first == second
    assert (Signature.parse(str(first)), first.max_length) == (first, None)
