"""Checkpoints against each other, over several references, and what their lengths say."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from evalkit.comparison import Options, comparison_of
from evalkit.contrasts import compared, contrasts, macros
from evalkit.data import CompletionSet, Message, Prompt, Rewards
from evalkit.pairing import TieRule, pair
from evalkit.report import comparisons as report
from evalkit.report import tables
from tests.fake_reward_model import fake_spec


def side(name, rewards, tokens=None):
    """A set of one completion per prompt, and its rewards; None is a prompt it does not have."""
    known = [i for i, reward in enumerate(rewards) if reward is not None]
    prompts = tuple(Prompt(f"p{i:03}", (Message("user", f"q{i}"),)) for i in known)
    n = len(known)
    lengths = [9] * len(rewards) if tokens is None else tokens
    return CompletionSet(name, prompts, tuple(("x",) for _ in known)), Rewards(
        np.array([p.prompt_id for p in prompts], dtype=object),
        np.array([rewards[i] for i in known], dtype=np.float64),
        np.array([lengths[i] for i in known]), np.zeros(n, np.int64),
    )  # fmt: skip


def comparison(left, right, **options):
    table = pair(left, right, ties=TieRule(), missing="drop")
    return comparison_of(left[0], right[0], table, fake_spec(), Options(missing="drop", **options))


@pytest.fixture
def three():
    rng = np.random.default_rng(1)
    skill = rng.normal(size=120)
    sides = [
        side(name, skill + rng.normal(size=120) + shift)
        for name, shift in (("a", -0.5), ("b", 0.0), ("c", 0.6))
    ]
    reference = side("ref", skill + rng.normal(size=120))
    return [comparison(left, reference) for left in sides]


def test_every_two_checkpoints_are_compared_prompt_by_prompt(three):
    found = contrasts(three)
    assert [(k.checkpoint, k.against) for k in found] == [("b", "a"), ("c", "a"), ("c", "b")]
    for k, (late, early) in zip(found, [(1, 0), (2, 0), (2, 1)], strict=True):
        ours, theirs = three[late].table.outcome, three[early].table.outcome
        oracle = stats.ttest_rel(ours, theirs)
        assert k.difference.estimate.value == pytest.approx(np.mean(ours - theirs))
        assert k.difference.p == pytest.approx(oracle.pvalue, rel=1e-9)
        low, high = oracle.confidence_interval()
        assert (k.difference.estimate.low, k.difference.estimate.high) == pytest.approx((low, high))
        # bands that hold together are wider, and no wider than Bonferroni's
        bonferroni = stats.t.ppf(1 - 0.025 / 3, 119) * k.difference.estimate.stderr
        assert low > k.band.low >= k.difference.estimate.value - 1.05 * bonferroni
        assert k.band.p >= k.difference.p
        assert k.permutation_p == pytest.approx(k.difference.p, abs=0.03)
        wins = [int(np.sum((x > 0.5) & (y < 0.5))) for x, y in ((ours, theirs), (theirs, ours))]
        assert [k.mcnemar.a_only, k.mcnemar.b_only] == wins
        assert k.mcnemar.p == pytest.approx(stats.binomtest(wins[0], sum(wins)).pvalue)
        assert k.prompts_for_two_points > 120
    p = sorted(k.difference.p for k in found)
    by_hand = np.minimum(1, np.maximum.accumulate([3 * p[0], 2 * p[1], p[2]]))
    assert sorted(k.holm for k in found) == pytest.approx(by_hand)


def test_one_checkpoint_has_nothing_to_be_compared_with(three):
    assert contrasts(three[:1]) == []
    assert macros(three) == []


def test_equal_checkpoints_do_not_differ(three):
    twin = comparison(side("d", three[0].table.checkpoint_reward), side("ref", [0.0] * 120))
    other = comparison(side("e", three[0].table.checkpoint_reward), side("ref", [0.0] * 120))
    (found,) = contrasts([twin, other])
    assert found.difference.estimate.value == 0
    assert found.difference.p == found.band.p == 1
    assert found.band.low is None
    assert found.detectable is None


def test_a_third_checkpoint_does_not_move_the_difference_of_two():
    rng = np.random.default_rng(10)
    reference = side("ref", [0.0] * 80)
    two = [comparison(side(n, rng.normal(size=80) + s), reference) for n, s in (("a", 0), ("b", 1))]
    third = comparison(side("c", [None if i < 60 else float(i) for i in range(80)]), reference)
    alone, among = contrasts(two)[0], contrasts([*two, third])
    assert [k.prompts for k in among] == [80, 20, 20]
    assert among[0].difference == alone.difference
    assert among[0].band.high > alone.band.high  # the error is shared out
    assert "on 20 prompts" in tables.to_text(compared([*two, third]))


@pytest.mark.parametrize("level", [0.2, 0.9999])
def test_any_level_is_possible(three, level):
    again = [
        comparison_of(c.checkpoint, c.reference, c.table, c.reward_model, Options(level=level))
        for c in three
    ]
    assert all(k.band.low < k.band.high for k in contrasts(again))


def test_over_references_goes_by_whole_subsets_where_these_are_independent():
    rng = np.random.default_rng(11)
    prompts = tuple(Prompt(f"p{i:03}", (Message("user", "q"),), f"s{i // 20}") for i in range(160))

    def placed(one):
        return replace(one[0], prompts=prompts), one[1]

    left = placed(side("ckpt", rng.normal(size=160)))
    refs = [placed(side(n, rng.normal(size=160))) for n in ("r1", "r2")]
    found = [comparison(left, ref, cluster_by="subset") for ref in refs]
    assert {e.clusters for e in macros(found)[0].estimates.values()} == {8}
    assert found[0].lengths.controlled.estimate.clusters in {0, 8}


def test_lengths_are_those_before_any_cut():
    found, rewards = side("ckpt", [1.0, 2.0, 0.5], [60, 60, 60])
    cut = replace(rewards, cut=np.array([40, 5, 0]))
    table = pair((found, cut), side("ref", [0.0] * 3, [50, 50, 50]), ties=TieRule())
    assert table.checkpoint_tokens.tolist() == [100, 65, 60]


def test_a_difference_that_few_prompts_decide_comes_with_a_warning():
    rng = np.random.default_rng(9)
    rewards = rng.normal(size=60)
    other = rewards.copy()
    other[:4] = -rewards[:4]
    reference = side("ref", [0.0] * 60)
    comparisons = [
        comparison(side("a", rewards), reference),
        comparison(side("b", other), reference),
    ]
    (found,) = contrasts(comparisons)
    assert found.deciding == 4
    assert "only 4 prompts decide" in tables.to_text(compared(comparisons))


def test_prompts_that_one_of_them_lacks_are_left_out_of_the_difference():
    reference = side("ref", [0.0] * 30)
    rng = np.random.default_rng(2)
    one = comparison(side("one", rng.normal(size=30)), reference)
    rewards = [None if i < 5 else float(i) for i in range(30)]
    two = comparison(side("two", rewards), reference)
    (found,) = contrasts([one, two])
    assert found.prompts == 25


def test_over_references_is_the_mean_within_each_prompt_first():
    left = side("ckpt", [1.0, 1.0, 1.0, 1.0])
    refs = [side("r1", [0.0, 0.0, 2.0, 2.0]), side("r2", [0.0, 2.0, 2.0, 1.0])]
    (found,) = macros([comparison(left, ref) for ref in refs])
    assert found.references == ("r1", "r2")
    assert found.estimates["win_rate"].value == pytest.approx(np.mean([1, 0.5, 0, 0.25]))
    assert found.estimates["win_rate"].n == 4


def test_standing_among_four_references_is_in_their_own_standard_deviations():
    rng = np.random.default_rng(7)
    pool = rng.normal(size=(60, 4))
    ours = pool.mean(axis=1) + 2 * np.sqrt(np.mean(pool.var(axis=1, ddof=1)))
    left = side("ckpt", ours)
    comparisons = [comparison(left, side(f"r{k}", pool[:, k])) for k in range(4)]
    (found,) = macros(comparisons)
    percentile = np.mean([np.mean(o > p) for o, p in zip(ours, pool, strict=True)])
    assert found.estimates["percentile"].value == pytest.approx(percentile)
    assert found.estimates["percentile"].value == found.estimates["win_rate"].value
    assert found.estimates["standardised_reward"].value == pytest.approx(2, abs=0.3)
    assert "standard deviations" in tables.to_text(compared(comparisons))
    assert "standardised_reward" not in macros(comparisons[:3])[0].estimates


def test_whole_subsets_may_be_what_is_independent():
    rng = np.random.default_rng(8)
    shared = np.repeat(rng.normal(size=8), 20)  # what the prompts of a subset have in common
    sides = [side(name, shared + rng.normal(size=160) + 0.2) for name in ("a", "b")]
    reference = side("ref", [0.0] * 160)
    subsets = {f"p{i:03}": f"s{i // 20}" for i in range(160)}

    def with_subsets(one):
        found, rewards = one
        prompts = tuple(replace(p, subset=subsets[p.prompt_id]) for p in found.prompts)
        return replace(found, prompts=prompts), rewards

    sides, reference = [with_subsets(one) for one in sides], with_subsets(reference)
    alone = [comparison(one, reference) for one in sides]
    grouped = [comparison(one, reference, cluster_by="subset") for one in sides]
    for name in ("win_rate", "margin"):
        narrow, wide = (c[0].overall.estimates[name] for c in (alone, grouped))
        assert narrow.value == wide.value
        assert (narrow.clusters, wide.clusters) == (160, 8)
        assert wide.stderr > 2 * narrow.stderr
    assert any("8 clusters are few" in notice for notice in grouped[0].notices)
    assert grouped[0].signature.clusters == "subset"
    assert contrasts(grouped)[0].difference.estimate.clusters == 8


def test_a_mean_that_a_few_prompts_turn_round_is_said_with_their_names():
    found = comparison(side("ckpt", [1.0] * 19 + [-1e3]), side("ref", [0.0] * 20))
    assert any("point to different sides" in n and "p019" in n for n in found.notices)
    agreeing = comparison(side("ckpt", [1.0] * 20), side("ref", [0.0] * 20))
    assert not any("different sides" in n for n in agreeing.notices)


def test_a_few_prompts_cannot_move_the_robust_location():
    found = comparison(side("ckpt", [1.0] * 19 + [1e6]), side("ref", [0.0] * 20))
    assert found.robust["margin"].median == found.robust["margin"].trimmed_mean == 1.0
    document = json.loads(report.to_json(compared([found])))["comparisons"][0]
    assert document["robust"]["margin"] == {"median": 1.0, "trimmed_mean": 1.0, "n": 20}


def with_subsets(one, names):
    found, rewards = one
    prompts = [replace(p, subset=n) for p, n in zip(found.prompts, names, strict=True)]
    return replace(found, prompts=tuple(prompts)), rewards


def test_subsets_are_tested_together_and_small_ones_not_at_all():
    rng = np.random.default_rng(11)
    shifts = {"bad": -1.5, "even": 0.0, "good": 1.5, "small": 3.0}
    sizes = {"bad": 60, "even": 60, "good": 60, "small": 19}
    names = [name for name, n in sizes.items() for _ in range(n)]
    ours = rng.normal([shifts[name] for name in names])
    left, right = (with_subsets(side(s, r), names) for s, r in (("ckpt", ours), ("ref", 0 * ours)))
    found = comparison(left, right)
    p = found.breakdown.p
    alone = {
        n: stats.binomtest(g.wins, g.n).pvalue for n, g in found.subsets.items() if n != "small"
    }
    assert list(p) == sorted(sizes)
    assert p["small"] is None
    assert p["even"] == pytest.approx(alone["even"], abs=0.05)
    assert p["bad"] < 0.01 > p["good"]
    assert min(alone.values()) < min(p["bad"], p["good"])  # three tests, not one
    (line,) = [x for kind, x in tables.said_of_each([found]) if kind == "subsets"]
    assert "better on good; worse on bad; too few prompts: small; 1 of 4 not separable" in line
    rates = [g.estimates["win_rate"].value for g in found.subsets.values()]
    assert found.breakdown.macro.value == pytest.approx(np.mean(rates))
    assert any("bad points to the other side" in notice for notice in found.notices)
    document = json.loads(report.to_json(compared([found])))["comparisons"][0]
    assert document["subsets"]["small"]["p"] is None
    assert document["subsets"]["bad"]["p"] == p["bad"]


def test_a_whole_that_rests_on_the_sizes_of_its_subsets_says_so():
    names = ["large"] * 100 + ["b"] * 20 + ["c"] * 20
    rewards = np.array([1.0] * 80 + [-1.0] * 20 + [-1.0] * 15 + [1.0] * 5 + [-1.0] * 15 + [1.0] * 5)
    left, right = (
        with_subsets(side(s, r), names) for s, r in (("ckpt", rewards), ("ref", 0 * rewards))
    )
    found = comparison(left, right)
    assert found.overall.estimates["win_rate"].value == pytest.approx(90 / 140)
    assert found.breakdown.macro.value == pytest.approx((0.8 + 0.25 + 0.25) / 3)
    assert any("rests on the sizes of the subsets" in notice for notice in found.notices)
    one = comparison(*(with_subsets(s, ["all"] * 140) for s in (left, right)))
    assert not any("sizes of the subsets" in notice for notice in one.notices)


def test_detectable_differences_are_those_of_the_bands(three):
    alone, together = contrasts(three[:2])[0], contrasts(three)[0]
    assert alone.difference == together.difference
    assert together.detectable > 1.1 * alone.detectable
    assert together.prompts_for_two_points > alone.prompts_for_two_points
    # of one difference the band is nearly the t interval, and the formula that of power tables
    shift = stats.t.ppf(0.975, 119) + stats.norm.ppf(0.8)
    expected = shift * alone.difference.estimate.stderr
    assert alone.detectable == pytest.approx(expected, rel=0.03)  # the quantile is drawn


def test_every_output_has_the_tests_of_the_differences(three, tmp_path):
    rows = tables.contrast_table(compared(three))
    assert len(rows) == 4
    assert rows[1][0] == "b − a (ref)"
    assert "| p (McNemar) |" in tables.to_markdown(compared(three)).decode()
    report.write(compared(three), tmp_path / "r.html")
    assert "p (permutation)" in (tmp_path / "r.html").read_text("utf-8")
    assert tables.contrast_table(compared(three[:1])) == []


def test_reward_and_length_within_prompts_from_four_references_on():
    rng = np.random.default_rng(12)
    tokens = rng.integers(50, 400, (80, 4))
    rewards = tokens / 100 + rng.normal(scale=0.5, size=(80, 4))
    left = side("ckpt", [0.0] * 80)
    every = [comparison(left, side(f"r{k}", rewards[:, k], tokens[:, k])) for k in range(4)]
    (found,) = macros(every)
    expected = np.mean([stats.spearmanr(r, t)[0] for r, t in zip(rewards, tokens, strict=True)])
    assert found.length.value == pytest.approx(expected)
    assert "reward and length correlate by" in tables.to_text(compared(every))
    assert macros(every[:3])[0].length is None


def test_every_output_says_so_and_is_the_same_again(three, tmp_path):
    document = json.loads(report.to_json(compared(three)))
    assert [d["checkpoint"] for d in document["differences"]] == ["b", "c", "c"]
    assert document["differences"][0]["band"]["method"] == "max-t"
    assert set(document["differences"][0]["mcnemar"]) >= {"a_only", "b_only", "p"}
    assert document["over_references"] == []
    assert report.to_json(compared(three)) == report.to_json(compared(three))
    text = tables.to_text(compared(three))
    assert "difference: c − a against ref: +" in text
    report.write(compared(three), tmp_path / "r.html")
    assert "Checkpoints against each other" in (tmp_path / "r.html").read_text("utf-8")


def test_a_judge_of_length_alone_is_seen():
    rng = np.random.default_rng(3)
    ours, theirs = rng.integers(50, 400, 300), rng.integers(40, 300, 300)
    left, right = side("ckpt", ours / 100, ours), side("ref", theirs / 100, theirs)
    found = comparison(left, right)
    raw = found.overall.estimates["win_rate"]
    assert raw.low > 0.5
    assert found.lengths.diagnostics.longer_preferred.value == 1.0
    assert "the longer answer wins 100.0 %" in tables.length_line(found)


def test_at_equal_lengths_an_effect_of_length_is_taken_out_and_a_real_one_is_not():
    rng = np.random.default_rng(4)
    ours, theirs = rng.integers(100, 400, 800), rng.integers(80, 300, 800)
    noise = rng.logistic(size=800)
    for shift in (0.0, 1.0):
        reward = 1.5 * np.tanh((ours - theirs) / np.std(ours - theirs)) + shift + noise
        found = comparison(side("ckpt", reward, ours), side("ref", np.zeros(800), theirs))
        controlled = found.lengths.controlled
        expected = 1 / (1 + np.exp(-shift))
        assert controlled.state == "ok"
        assert controlled.estimate.low < expected < controlled.estimate.high
        assert found.overall.estimates["win_rate"].value > expected + 0.03
        assert "win rate at equal lengths" in tables.length_line(found)


def test_lengths_that_hardly_overlap_are_no_headline():
    rng = np.random.default_rng(5)
    rewards = rng.normal(size=100)
    left = side("ckpt", rewards, 300 + rng.integers(0, 100, 100))
    found = comparison(left, side("ref", rng.normal(size=100), np.arange(100) + 10))
    assert found.lengths.controlled.state == "extrapolated"
    assert "would be an extrapolation" in tables.length_line(found)


def test_what_a_run_says_together_is_computed_once_for_all_outputs(three, tmp_path, monkeypatch):
    found = compared(three)
    for name in ("contrasts", "macros", "metric_differences"):
        monkeypatch.delattr(f"evalkit.contrasts.{name}")
    for suffix in report.WRITERS:
        report.write(found, tmp_path / f"r{suffix}")
    report.write_run(found, tmp_path)
