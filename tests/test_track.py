"""A run over its checkpoints: what is said of simulated ones, the history, and every output."""

import csv
import fcntl
import io
import json
import multiprocessing
import os
import random
import re
from dataclasses import replace
from itertools import count as counting
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from evalkit.comparison import Options as CompareOptions
from evalkit.comparison import comparison_of
from evalkit.data import CompletionSet
from evalkit.errors import InputError, MalformedError
from evalkit.files import write_atomic
from evalkit.pairing import TieRule, pair
from evalkit.report import track as report
from evalkit.report.track.tables import notices, notices_of_figure
from evalkit.track import Options, Signature, matching, track
from evalkit.track.history import RunPlan, entry_of, read_history, write_history
from evalkit.workspace import Workspace
from tests.fake_reward_model import fake_spec
from tests.test_contrasts import side

PLAN = RunPlan(planned=None, window=3, level=0.95)
UP = [0.0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4, 2.7]
PEAK = [0.0, 0.4, 0.8, 1.2, 1.2, 0.8, 0.4, 0.0, -0.4, -0.8]
FORMATS = (".json", ".csv", ".md", ".html", ".svg", ".png")


def run(shifts, *, n=300, model="ours", seed=0, names=None, options=None):
    """A comparison a checkpoint, each better than the reference by its shift."""
    rng = np.random.default_rng(seed)
    skill, against = rng.normal(size=n), side("ref", np.zeros(n))
    found = []
    for k, shift in enumerate(shifts):
        name = names[k] if names else f"c{k:02}"
        left = at(side(name, skill + rng.normal(size=n) + shift), 100 * k)
        found.append(held(left, against, model, options or CompareOptions()))
    return found


def at(one, step):
    return replace(one[0], step=step), one[1]


def held(left, right, model="ours", options=None):
    options = options or CompareOptions(missing="drop")
    table = pair(left, right, ties=options.ties, missing="drop")
    return comparison_of(left[0], right[0], table, fake_spec(model), options)


def told(comparisons, **how):
    return json.loads(report.to_json(track(comparisons, **how)))


# What is said of a run


def test_a_planted_peak_raises_an_alarm_and_is_the_checkpoint_to_take():
    found = track([run(PEAK)])
    (curve,) = found.curves
    assert found.alarmed
    assert found.exit_code == 0
    assert min(curve.alarms) > 4  # after the plateau of c03 and c04
    assert {curve.points[t].checkpoint for t in curve.best.members} <= {"c03", "c04"}
    assert curve.chosen.index in {3, 4}
    assert curve.chosen.corrected.value <= curve.chosen.naive.value + 1e-12
    assert curve.change.low <= 4 <= curve.change.high + 1
    assert curve.change.before > 0 > curve.change.after
    assert "ALARM of a decline at c0" in report.to_text(found).splitlines()[0]


@pytest.mark.parametrize("shifts", [[0.5] * 10, UP], ids=["flat", "rising"])
def test_a_run_without_a_decline_raises_none(shifts):
    found = track([run(shifts, seed=1)])
    assert not found.alarmed
    assert "; no alarm." in report.to_text(found).splitlines()[0]


def test_the_curve_is_the_mean_outcome_and_its_bands_are_wider_than_its_intervals():
    comparisons = run(UP[:5])
    (curve,) = track([comparisons]).curves
    for c, point in zip(comparisons, curve.points, strict=True):
        assert point.estimate.value == pytest.approx(np.mean(c.table.outcome))
        assert point.band.low < point.estimate.low < point.estimate.high < point.band.high
        assert (point.step, point.tokens) == (c.checkpoint.step, 9.0)


def test_the_difference_of_windows_is_that_of_the_means_by_prompt():
    comparisons = run(PEAK, n=120)
    (curve,) = track([comparisons], options=Options(window=2)).curves
    outcomes = np.column_stack([c.table.outcome for c in comparisons])
    means = [outcomes[:, k - 1 : k + 1].mean(axis=1) for k in range(1, 10)]
    look = curve.looks[9]
    assert look.best == 1 + int(np.argmax([m.mean() for m in means[:7]]))
    apart = means[8] - means[look.best - 1]
    assert look.difference == pytest.approx(apart.mean())
    # a bound for every look and every earlier window is above that of the one pair alone
    alone = apart.mean() + stats.t.ppf(0.95, 119) * apart.std(ddof=1) / np.sqrt(120)
    assert look.upper > alone


def test_both_alarms_share_the_error():
    from evalkit.pairing import bootstrap_keys
    from evalkit.statistics.sequential import Plan
    from evalkit.statistics.tracking import cusum, degradation_alarms

    (curve,) = track([run(PEAK)], options=Options(level=0.9, planned=12)).curves
    keys, half = bootstrap_keys(curve.prompt_id.tolist(), 0), Plan(looks=12, level=0.95)
    assert curve.looks == degradation_alarms(curve.outcomes, keys, half)
    np.testing.assert_array_equal(curve.cusum.limits, cusum(curve.outcomes, keys, half).limits)


def test_every_interval_of_a_run_has_the_level_that_was_asked_for():
    both = [run(PEAK, n=100), run(PEAK, n=100, model="other", seed=1)]
    found = track(both, options=Options(level=0.8))
    curve = found.curves[0]
    levels = {p.estimate.level for p in curve.points} | {p.band.level for p in curve.points}
    levels |= {d.estimate.level for d in curve.differences}
    levels |= {curve.best.level, curve.change.level}
    levels |= {curve.chosen.naive.level, curve.chosen.corrected.level}
    levels |= {found.consensus.orders[0, 1].level, found.consensus.agreement.unanimous.level}
    assert levels == {0.8}


def test_the_seed_moves_the_resamples_and_the_signature():
    one, other = (track([run(PEAK[:4], n=60)], options=Options(seed=s)) for s in (0, 1))
    assert one.curves[0].points[3].band.low != other.curves[0].points[3].band.low
    assert one.signature != other.signature


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"window": 2}, {"level": 0.9}, {"planned": 20}, {"proxy": "ours"},
     {"metric": "win_probability"}],
    ids=str,
)  # fmt: skip
def test_every_choice_that_moves_a_number_is_in_the_signature(changed):
    both = [run(UP[:3], n=20), run(UP[:3], n=20, model="other", seed=1)]
    assert track(both).signature != track(both, options=Options(**changed)).signature


def test_few_checkpoints_are_said_to_allow_no_alarm_yet():
    for n in (1, 2, 3):
        first = report.to_text(track([run(UP[:n])])).splitlines()[0]
        assert "no alarm is possible yet" in first
    assert "take c00 (step 0), the best" in report.to_text(track([run(UP[:1])]))


def test_prompts_that_a_checkpoint_lacks_are_left_out_of_all_and_said():
    rng, ref = np.random.default_rng(3), side("ref", np.zeros(40))
    rewards = [list(rng.normal(size=40)) for _ in range(3)]
    rewards[1][:5] = [None] * 5
    sides = [at(side(f"c{k}", r), k) for k, r in enumerate(rewards)]
    (curve,) = track([[held(one, ref) for one in sides]]).curves
    assert len(curve.prompt_id) == 35
    assert "5 prompts without a win_rate at every checkpoint left out" in curve.notices
    assert not any("the newest checkpoint" in notice for notice in curve.notices)  # it is c1
    assert curve.points[0].estimate.value == pytest.approx(np.mean(np.array(rewards[0][5:]) > 0))


def test_how_far_the_newest_checkpoint_shrinks_the_common_prompts_is_said():
    rng, ref = np.random.default_rng(3), side("ref", np.zeros(40))
    rewards = [list(rng.normal(size=40)) for _ in range(3)]
    rewards[0][:2] = [None] * 2
    rewards[2][:30] = [None] * 30
    (curve,) = track([[held(at(side(f"c{k}", r), k), ref) for k, r in enumerate(rewards)]]).curves
    (said,) = (notice for notice in curve.notices if "the newest checkpoint" in notice)
    assert "c2 leaves 10 of the 38 prompts that the earlier ones share" in said


# Several reward models


def test_a_proxy_that_rises_while_the_held_out_one_falls_is_turned():
    found = track(
        [run(PEAK, model="other", seed=1), run(UP, model="ours")], options=Options(proxy="ours")
    )
    (monitor,) = found.monitors
    assert [c.reward_model.partition("#")[0] for c in found.curves] == ["ours", "other"]
    assert monitor.proxy.startswith("ours#")
    assert monitor.alarms["turned"]
    assert min(monitor.alarms["turned"]) > 4
    assert "ALARM of over-optimisation at c0" in report.to_text(found)
    assert found.alarmed
    last = json.loads(report.to_json(found))["monitors"][0]["checkpoints"][-1]
    assert last["proxy"]["value"] > 0 > last["held_out"]["value"]
    assert last["held_out_since_best"]["value"] < 0
    assert not {"a", "b"} & set(last)


def test_a_proxy_is_one_of_several_reward_models():
    for proxy, models, said in (
        ("nope", ["ours"], "a proxy needs a second, held-out reward model; there is only ours"),
        ("ours", ["ours"], "needs a second"),
        ("nope", ["ours", "other"], "proxy 'nope' is none of the reward models: ours, other"),
    ):
        with pytest.raises(InputError, match=said):
            track([run(UP[:2], model=m) for m in models], options=Options(proxy=proxy))


def longer(model, *, by_length, tokens_known=True):
    """Four checkpoints whose answers grow, under a reward model that likes length or does not."""
    rng, ref, found = np.random.default_rng(4), side("ref", np.zeros(300)), []
    for k, factor in enumerate([1.0, 1.2, 1.5, 2.0]):
        tokens = np.round(rng.gamma(4, 50, 300) * factor) + 1
        reward = by_length * k * (tokens / tokens.mean() - 1) + rng.normal(0.3 * k, 1, 300)
        if not tokens_known:
            tokens[:1] = 0
        found.append(held(at(side(f"c{k}", reward, tokens.astype(int)), k), ref, model))
    return found


def test_growing_answers_and_a_proxy_that_likes_them_are_shown():
    comparisons = [longer("ours", by_length=1.5), longer("other", by_length=0)]
    found = track(comparisons, options=Options(proxy="ours"))
    (monitor,) = found.monitors
    tokens = np.column_stack([c.table.checkpoint_tokens for c in comparisons[0]])
    assert monitor.length[0] is None
    last = monitor.length[3]
    assert last.value == pytest.approx(np.log(tokens[:, 3].mean() / tokens[:, 0].mean()))
    assert last.low > np.log(1.5)
    wins = np.column_stack([c.table.outcome for c in comparisons[0]])
    r = [stats.pearsonr(wins[:, t], tokens[:, t]).statistic for t in (0, 3)]
    drift = monitor.length_correlation[3]
    assert drift.value == pytest.approx(r[1] - r[0])
    assert drift.low > 0.1
    said = json.loads(report.to_json(found))["monitors"][0]["checkpoints"]
    assert said[0]["length"] is None
    assert said[3]["length"]["value"] == pytest.approx(last.value)
    assert said[3]["length_correlation"]["low"] == pytest.approx(drift.low)
    factor = f"×{np.exp(last.value):.2f} [{np.exp(last.low):.2f}, {np.exp(last.high):.2f}]"
    for text in (report.to_text(found), report.to_markdown(found).decode().replace("\\", "")):
        assert factor in text
    other = track(comparisons, options=Options(proxy="other"))
    assert other.monitors[0].length_correlation[3].low < 0.05


def test_without_lengths_nothing_is_said_of_them():
    comparisons = [
        longer(name, by_length=1, tokens_known=name == "other") for name in ("ours", "other")
    ]
    found = track(comparisons, options=Options(proxy="ours"))
    assert (found.monitors[0].length, found.monitors[0].length_correlation) == (None, None)
    assert json.loads(report.to_json(found))["monitors"][0]["checkpoints"][3]["length"] is None
    assert "×" not in report.to_text(found)


def test_both_up_is_silent():
    shifts = [0.0, 0.3, 0.6, 0.9, 1.2, 1.5]
    comparisons = [run(shifts), run(shifts, model="other", seed=1)]
    found = track(comparisons, options=Options(proxy="ours"))
    (monitor,) = found.monitors
    assert monitor.alarms == {"hard": [], "turned": [], "soft": []}
    assert not found.alarmed
    document = json.loads(report.to_json(found))
    assert document["tolerance"] == 0.1
    assert "margin" not in document  # that of a rule is another thing
    assert "|tolerance:0.1|" in str(found.signature)
    assert found.consensus.orders[0, 1].value == 1.0


@pytest.mark.parametrize("metric", ["win_rate", "win_probability"])
@pytest.mark.parametrize("rule", [TieRule(margin=0.8), TieRule(margin=0.8, drop=True)], ids=str)
def test_reward_models_agree_by_the_tie_rule_whatever_the_metric(metric, rule):
    how = CompareOptions(ties=rule, missing="drop")
    comparisons = [run(UP[:2], n=200, model=m, seed=s, options=how) for s, m in enumerate("ab")]
    found = track(comparisons, options=Options(metric=metric, ties=rule))
    margins = {c[-1].reward_model.name: c[-1].table.margin for c in comparisons}
    a, b = (margins[curve.reward_model.partition("#")[0]] for curve in found.curves)
    kept = np.ones(200, dtype=bool)
    if rule.drop:  # a win rate needs an outcome at each checkpoint, a win probability does not
        needed = [c for of in comparisons for c in (of if metric == "win_rate" else of[1:])]
        kept = np.all([np.abs(c.table.margin) > 0.8 for c in needed], axis=0)
    x, y = (np.where(np.abs(m) <= 0.8, 0, np.sign(m))[kept] for m in (a, b))
    said = found.consensus.agreement
    assert 0 < kept.sum() < (201 if not rule.drop else 200)
    assert (said.n[0, 1], said.unanimous.n) == (kept.sum(), kept.sum())
    assert said.share[0, 1] == pytest.approx(np.mean(x == y))
    assert f", {kept.sum()} prompts: unanimous on" in report.to_text(found)


def test_where_every_tie_is_dropped_no_reward_models_agree():
    rule = TieRule(margin=100, drop=True)
    how = CompareOptions(ties=rule, missing="drop")
    comparisons = [run(UP[:2], n=20, model=m, options=how) for m in "ab"]
    found = track(comparisons, options=Options(metric="win_probability", ties=rule))
    assert found.consensus.agreement.unanimous.value is None
    (pair,) = json.loads(report.to_json(found))["agreement"]["pairs"]
    assert (pair["n"], pair["same_verdict"], pair["kappa"]) == (0, None, None)
    assert "nan %" not in report.to_text(found)


def test_what_several_reward_models_agree_on_needs_no_proxy():
    comparisons = [run(UP[:5], model=name, seed=s) for s, name in enumerate(("a", "b", "c"))]
    found = track(comparisons)
    assert found.monitors == ()
    last = np.column_stack([found.curves[k].outcomes[:, -1] for k in range(3)])
    same = np.ptp(last, axis=1) == 0
    document = told(comparisons)["agreement"]
    assert document["unanimous"]["value"] == pytest.approx(same.mean())
    assert document["contested_share"] == pytest.approx(1 - same.mean())
    assert document["win_rate_unanimous"]["value"] == pytest.approx(last[same].mean())
    assert len(document["pairs"]) == 3
    first = document["pairs"][0]
    assert first["same_verdict"] == pytest.approx(np.mean(last[:, 0] == last[:, 1]))
    tau = stats.kendalltau(*(found.curves[k].outcomes.mean(axis=0) for k in (0, 1))).statistic
    assert first["kendall"]["value"] == pytest.approx(tau)
    chance = sum(np.mean(last[:, 0] == v) * np.mean(last[:, 1] == v) for v in (0, 0.5, 1))
    assert first["kappa"] == pytest.approx((first["same_verdict"] - chance) / (1 - chance))


def test_neither_the_order_of_checkpoints_nor_of_reward_models_moves_a_byte():
    one, other = run(PEAK), run(UP, model="other", seed=1)
    options = Options(proxy="other")
    plain = track([one, other], options=options)
    turned = track([other[::-1], one[::-1]], options=options)
    for form in report.WRITERS.values():
        assert form(plain) == form(turned)
    assert Signature.parse(str(plain.signature)) == plain.signature == turned.signature


# The history


def outputs(found):
    return [form(found) for form in (report.to_json, report.to_markdown, report.to_html)]


@pytest.mark.parametrize("cut", [[1, 9], [3, 3, 4], [5, 5]])
def test_runs_weeks_apart_are_paired_as_if_done_together(tmp_path, cut):
    comparisons, history = run(PEAK), tmp_path / "run.jsonl"
    random.Random(len(cut)).shuffle(comparisons)
    together = track([comparisons])
    ends = np.cumsum([0, *cut])
    for low, high in pairwise(ends):
        apart = track([comparisons[low:high]], history=read_history(history))
    assert outputs(apart) == outputs(together)
    assert len(apart.stored) == 10 - cut[-1]
    assert together.stored == ()
    whole = tmp_path / "whole.jsonl"
    track([comparisons], history=read_history(whole))
    assert whole.read_bytes() == history.read_bytes()


def test_several_reward_models_share_one_history(tmp_path):
    both, history = [run(UP), run(PEAK, model="other", seed=1)], tmp_path / "run.jsonl"
    options = Options(proxy="ours")
    track([c[:6] for c in both], history=read_history(history), options=options)
    apart = track([c[6:] for c in both[::-1]], history=read_history(history), options=options)
    assert outputs(apart) == outputs(track(both, options=options))


def test_what_is_written_is_read_as_it_was(tmp_path):
    rng, ref = np.random.default_rng(3), side("ref", np.zeros(9))
    left = at(side("c|=\u202e", [None, *rng.normal(size=8)], [0] * 9), 7)
    entry = entry_of(held(left, ref), 7)
    assert set(entry.prompts) == {f"p{i:03}" for i in range(1, 9)}
    assert {row[2] for row in entry.prompts.values()} == {None}  # no tokens known
    write_history(read_history(tmp_path / "h"), PLAN, [entry])
    found = read_history(tmp_path / "h")
    assert (found.plan, found.entries) == (PLAN, (entry,))


def refused(history, comparisons, said, *, options=None, error=InputError):
    before = history.read_bytes()
    with pytest.raises(error) as found:
        track(comparisons, history=read_history(history), options=options)
    assert said in str(found.value)
    assert str(history) in str(found.value) or "step" in said or "planned" in said
    assert history.read_bytes() == before
    assert [path.name for path in history.parent.iterdir()] == [history.name]


@pytest.fixture
def history(tmp_path):
    path = tmp_path / "run.jsonl"
    track([run(UP[:4])], history=read_history(path))
    return path


def test_a_history_of_another_run_is_refused_and_left_as_it_is(history):
    refused(history, [run(UP, n=299)], "another reference")
    benchmark = CompareOptions(benchmark="starter", missing="drop")
    refused(history, [run(UP, options=benchmark)], "another benchmark")
    ties = CompareOptions(ties=TieRule(margin=0.1), missing="drop")
    refused(history, [run(UP, options=ties)], "another tie rule")


def test_a_history_on_other_prompts_is_refused(tmp_path):
    rng, ref, history = np.random.default_rng(0), side("ref", np.zeros(20)), tmp_path / "h.jsonl"
    rewards = list(rng.normal(size=20))
    first, second = (
        held(at(side(f"c{k}", half), k), ref)
        for k, half in enumerate([rewards[:10] + [None] * 10, [None] * 10 + rewards[10:]])
    )
    track([[first]], history=read_history(history))
    refused(history, [[second]], "the history and the new checkpoints share no prompt")


def test_mixed_reward_models_are_refused(history):
    refused(history, [run(UP[:5], model="another")[4:]], "mixed reward models")
    refused(history, [run(UP[:5]), run(UP[:5], model="another")[:3]], "mixed reward models")
    track(
        [run(UP[:5], model="another"), run(UP[:5])], history=read_history(history)
    )  # all of both: one run
    refused(history, [run(UP[:6])], "another#")


def test_a_checkpoint_with_other_completions_under_one_name_is_refused(history):
    (c,) = run(UP[:4])[3:]
    other = CompletionSet(c.checkpoint.name, c.checkpoint.prompts,
                          tuple(("y",) for _ in c.checkpoint.prompts), step=300)  # fmt: skip
    changed = comparison_of(other, c.reference, c.table, c.reward_model, CompareOptions())
    refused(history, [[changed]], "checkpoint 'c03' is another one in the history")
    again = replace(c, checkpoint=replace(c.checkpoint, step=301))
    refused(history, [[again]], "now step 301")
    under_another = comparison_of(other, c.reference, c.table, fake_spec("b"), CompareOptions())
    refused(history, [[under_another]], "checkpoint 'c03' is another one in the history")


@pytest.mark.parametrize(
    ("name", "step"),
    [("ckpt_1200", 1200), ("run7-step-00400", 400), ("v2.1_step9_final", 9), ("ckpt_0", 0)],
)
def test_a_step_that_is_not_stated_is_read_from_the_name_and_said(name, step):
    (c,) = run(UP[:1], names=[name])
    stepless = replace(c, checkpoint=replace(c.checkpoint, step=None))
    found = track([[stepless]])
    assert found.curves[0].points[0].step == step
    assert f"note: step {step} of {name} is read from its name" in report.to_text(found)
    stated = replace(c, checkpoint=replace(c.checkpoint, step=77))
    assert track([[stated]]).curves[0].points[0].step == 77
    assert "read from its name" not in report.to_text(track([[stated]]))


def test_steps_read_from_names_are_one_notice_and_none_in_the_figure(tmp_path):
    stepless = [
        replace(c, checkpoint=replace(c.checkpoint, step=None))
        for c in run(UP, names=[f"pk_{100 * k}" for k in range(1, 11)])
    ]
    stated = [replace(stepless[0], checkpoint=replace(stepless[0].checkpoint, step=100))]
    history = tmp_path / "run.jsonl"
    track([stepless[:3]], history=read_history(history))
    found = track([stepless[3:]], history=read_history(history))
    said = "steps of 10 checkpoints are read from their names: pk_100 … pk_1000"
    assert report.to_text(found).count("read from") == 1
    assert f"note: {said}" in report.to_text(found)
    assert said in report.to_html(found).decode()
    assert said in told([stepless])["curves"][0]["notices"]
    assert not any("read from" in text for text in notices_of_figure(found))
    nine = track([[*stated, *stepless[1:]]])
    assert nine.curves[0].steps_by_name[0] == "pk_200"


def test_what_a_notice_of_one_table_is_about_is_said():
    """Mean margin and win rate disagree at the second of three checkpoints."""
    ref = side("ref", np.zeros(20))
    rewards = ([1.0] * 20, [1.0] * 19 + [-1e3], [1.0] * 20)
    comparisons = [held(at(side(f"c{k}", r), k), ref) for k, r in enumerate(rewards)]
    (said,) = (n for n in notices(track([comparisons])) if "different sides" in n)
    assert said.startswith("c1 under ours: the mean margin (")


def test_a_corrected_value_that_no_checkpoint_has_is_said_everywhere():
    """Two equal checkpoints: about three runs in ten."""
    runs = [track([run([0.5, 0.5], seed=seed)]) for seed in range(12)]
    outside = 0
    for found in runs:
        (curve,) = found.curves
        value, means = curve.chosen.corrected.value, curve.outcomes.mean(axis=0)
        beyond = not means.min() - 1e-9 <= value <= means.max() + 1e-9
        outside += beyond
        said = f"the corrected win_rate of c0{curve.chosen.index} under {curve.reward_model} "
        said = f"{said}({value:.3f}) is below the lowest measured"
        shown = [
            report.to_text(found),
            report.to_json(found).decode(),
            report.to_csv(found).decode(),
        ]
        assert [said in x for x in shown] == [beyond] * 3
        assert any(said in x for x in notices_of_figure(found)) is beyond
    assert 1 <= outside <= 8


@pytest.mark.parametrize("name", ["final", "best", "ckpt_٣", "20261122143000123456"])
def test_a_name_without_a_step_has_none(name):
    (c,) = run(UP[:1], names=[name])
    with pytest.raises(InputError, match="has no training step"):
        track([[replace(c, checkpoint=replace(c.checkpoint, step=None))]])


def test_names_that_give_one_step_are_refused():
    both = [
        replace(c, checkpoint=replace(c.checkpoint, step=None))
        for c in run(UP[:2], names=["a-8b", "b-8b"])
    ]
    with pytest.raises(InputError, match="two checkpoints have step 8: a-8b, b-8b"):
        track([both])


def test_steps_are_needed_and_differ(history):
    (c,) = run(UP[:1], names=["new"])
    stepless = replace(c, checkpoint=replace(c.checkpoint, step=None))
    refused(history, [[stepless]], "checkpoint 'new' has no training step")
    refused(history, [[c]], "two checkpoints have step 0: c00, new")


def test_more_checkpoints_than_planned_are_refused(tmp_path):
    history, planned = tmp_path / "run.jsonl", Options(planned=9)
    track([run(UP[:4])], history=read_history(history), options=planned)
    refused(history, [run(UP)], "10 checkpoints, but 9 were planned", options=planned)
    with pytest.raises(InputError) as kept:
        track([run(UP)], history=read_history(history), options=planned)
    assert "start another history with all checkpoints" in kept.value.fix
    assert kept.value.where == str(history)
    with pytest.raises(InputError) as alone:
        track([run(UP)], options=planned)
    assert "leave --planned out" in alone.value.fix
    assert not track([run(UP[:9])], history=read_history(history), options=planned).alarmed


@pytest.mark.parametrize(
    "other", [{"planned": 9}, {"window": 2}, {"level": 0.9}, {"temperature": 2.0}]
)
def test_a_plan_is_kept(history, other):
    """The error of the alarms is spent over what was planned, and only once."""
    refused(history, [run(UP)], "planned otherwise: none planned, window 3, level 0.95; now ",
            options=Options(**other))  # fmt: skip
    with pytest.raises(InputError, match=re.escape(str(PLAN._replace(**other)))):
        track([run(UP)], history=read_history(history), options=Options(**other))


@pytest.mark.parametrize("kind", ["folder", "device", "pipe", "circle"])
def test_what_is_no_file_is_no_history(tmp_path, kind):
    path = tmp_path / "h"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/full")  # which never ends
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    with pytest.raises(InputError, match=f"{path}") as refused:
        read_history(path)
    assert refused.value.fix == "name a file for the history"


def test_an_empty_file_is_the_beginning_of_a_history(tmp_path):
    history = tmp_path / "run.jsonl"
    history.touch()
    track([run(UP[:2])], history=read_history(history))
    assert len(read_history(history).entries) == 2


def test_what_another_run_wrote_meanwhile_is_not_lost(history):
    mine, theirs = read_history(history), read_history(history)
    entries = [entry_of(c, c.checkpoint.step) for c in run(UP)]
    write_history(theirs, PLAN, entries[:5])
    before = history.read_bytes()
    with pytest.raises(InputError, match="was written by another run meanwhile"):
        write_history(mine, PLAN, entries[:4] + entries[5:6])
    assert history.read_bytes() == before


def test_what_another_run_added_since_the_history_was_read_is_taken_in(tmp_path):
    comparisons, path = run(UP), tmp_path / "run.jsonl"
    mine = read_history(path)
    track([comparisons[:4]], history=read_history(path))
    found = track([comparisons[4:]], history=mine)
    assert outputs(found) == outputs(track([comparisons]))
    assert len(read_history(path).entries) == len(UP)


def test_another_file_of_the_same_bytes_is_another_file(history, monkeypatch):
    """Who waited for the lock of the old one holds it in vain: a third may hold the new one's."""
    found, lock = read_history(history), fcntl.flock

    def replaced_while_waiting(handle, kind):
        write_atomic(history, history.read_bytes())
        lock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", replaced_while_waiting)
    with pytest.raises(InputError, match="meanwhile"):
        write_history(found, PLAN, found.entries)


def test_a_linked_history_stays_one_file_with_its_rights(history, tmp_path):
    link = tmp_path / "link.jsonl"
    link.symlink_to(history)
    history.chmod(0o600)
    track([run(UP)], history=read_history(link))
    assert link.is_symlink()
    assert len(read_history(history).entries) == len(UP)
    assert history.stat().st_mode & 0o777 == 0o600


def test_no_interval_of_a_rate_leaves_0_to_1():
    # from near 0 to near 1: the correction for the choice is wide
    (curve,) = track([run([3.0, 3.0, 3.0])]).curves
    assert curve.chosen.corrected.value > 0.95
    for estimate in (curve.chosen.naive, curve.chosen.corrected):
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def add_one(path, k, ready):
    """What `track` does, again and again until nobody came between."""
    entry = entry_of(run(UP)[k], 100 * k)
    ready.wait(120)
    while True:
        try:
            found = read_history(path)
            write_history(found, PLAN, [*found.entries, entry])
        except InputError:
            continue
        return


def test_of_several_writers_at_once_none_is_lost(tmp_path):
    context, path = multiprocessing.get_context("spawn"), tmp_path / "run.jsonl"
    ready = context.Barrier(4)
    writers = [context.Process(target=add_one, args=(path, k, ready)) for k in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert sorted(e.step for e in read_history(path).entries) == [0, 100, 200, 300]


def damaged_plan(line):
    yield line.replace("null", "30"), "'checksum' does not match the plan"
    yield line.replace('"schema_version": 3', '"schema_version": 2'), "'schema_version' must be 3"
    yield (
        line.replace('"window"', '"windows"'),
        "'plan' must state planned, window, level, temperature",
    )
    yield line.replace('"plan"', '"plans"'), "'plan' must state planned, window, level, temperature"


def damaged(line):
    entry = json.loads(line)
    first = next(iter(entry["prompts"]))
    yield line.replace('"step": 100', '"step": 150'), "'checksum' does not match"
    entry["prompts"][first][0] = 1.0 - entry["prompts"][first][0]
    yield json.dumps(entry), "'checksum' does not match"
    for row in ([1.0], [2.0, 0.5, 9.0], [1.0, 1.5, 9.0], [True, 0.5, 9.0], ["1", 0.5, 9.0],
                [-0.5, None, None]):  # fmt: skip
        entry["prompts"][first] = row
        yield json.dumps(entry), "'prompts' must map"
    yield json.dumps({**entry, "schema_version": 1}), "'schema_version' must be 3"
    yield json.dumps({k: v for k, v in entry.items() if k != "digest"}), "'digest' is missing"
    yield json.dumps({**entry, "prompts": {}, "notices": "x"}), "'notices' must be a list"
    yield line[: len(line) // 2], "run.jsonl:3"


def test_a_damaged_line_is_refused_with_its_place(history):
    lines = history.read_text().splitlines()
    for row, how in ((0, damaged_plan), (2, damaged)):
        for wrong, said in how(lines[row]):
            history.write_text("\n".join([*lines[:row], wrong, *lines[row + 1 :]]) + "\n")
            refused(history, [run(UP)], f"{history}:{row + 1}", error=MalformedError)
            with pytest.raises(MalformedError, match=re.escape(said)):
                read_history(history)
    history.write_text("\n".join(lines[1:]) + "\n")
    refused(history, [run(UP)], "'plan' must state", error=MalformedError)


def write_again_and_again(path, ready):
    entries = [entry_of(c, c.checkpoint.step) for c in run(UP)]
    for k in counting():
        write_history(read_history(path), PLAN, entries[: 4 + 6 * (k % 2)])
        ready.set()


def test_a_kill_while_writing_leaves_a_whole_file(history):
    context = multiprocessing.get_context("spawn")
    numbers = random.Random(1)
    ready = context.Event()
    for _ in range(5):
        ready.clear()
        writer = context.Process(target=write_again_and_again, args=(history, ready))
        writer.start()
        assert ready.wait(60)
        writer.join(numbers.uniform(0, 0.05))
        writer.kill()
        writer.join()
        assert len(read_history(history).entries) in {4, 10}


# What is asked for


def test_choices_that_make_no_sense_are_refused():
    for wrong in ({"level": 1.0}, {"window": 0}, {"planned": 0}, {"seed": -1},
                  {"temperature": 0.0}):  # fmt: skip
        with pytest.raises(InputError):
            Options(**wrong)
    one, other = run(UP[:2]), run(UP[:2], model="other")
    for comparisons, proxy in (([one], "ours"), ([one, other], "third")):
        with pytest.raises(InputError, match=r"needs a second|is none of the reward models"):
            track(comparisons, options=Options(proxy=proxy))
    with pytest.raises(InputError, match="named twice"):
        track([one, one])
    with pytest.raises(InputError, match="no checkpoint"):
        track([[]])


def test_a_metric_that_no_prompt_has_is_refused():
    comparisons = [
        replace(c, table=replace(c.table, probability=np.full(300, np.nan))) for c in run(UP[:2])
    ]
    with pytest.raises(InputError, match="no prompt has a win_probability under 'ours'"):
        track([comparisons], options=Options(metric="win_probability"))


def test_patterns_stand_for_checkpoints_and_not_for_references(tmp_path, monkeypatch):
    (tmp_path / "evalkit.toml").write_text(
        "".join(f'[checkpoints.{n}]\npath = "{n}.jsonl"\n' for n in ("c1", "c2"))
        + '[refs.c3]\npath = "c3.jsonl"\n'
    )
    for name in ("a[1].jsonl", "b1.jsonl", "b2.jsonl", "b2.toml"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(tmp_path)
    assert matching(["c*"], workspace) == ["c1", "c2"]
    assert matching(["c2", "c?", "other"], workspace) == ["c2", "c1", "other"]
    assert matching(["./b*"], workspace) == ["./b1.jsonl", "./b2.jsonl"]
    assert matching([f"{tmp_path}/b*"], workspace) == [f"{tmp_path}/b{k}.jsonl" for k in "12"]
    assert matching(["./a[1].jsonl"], workspace) == ["./a[1].jsonl"]
    with pytest.raises(InputError, match=r"no checkpoint matches 'd\*'"):
        matching(["d*"], workspace)


# What is written


def test_every_format_is_written_and_the_same_again(tmp_path):
    comparisons = [run(UP), run(PEAK, model="other", seed=1)]
    found = track(comparisons, options=Options(proxy="ours"))
    for suffix in FORMATS:
        paths = [tmp_path / f"{k}{suffix}" for k in "ab"]
        report.write(found, paths[0])
        report.write(track(comparisons, options=Options(proxy="ours")), paths[1])
        assert paths[0].read_bytes() == paths[1].read_bytes() != b""
    page = (tmp_path / "a.html").read_text("utf-8")
    assert page.count("<svg") == 1
    assert not set(re.findall(r"<(script|link|img|iframe|style) ", page))
    for words in ("ALARM of over-optimisation", "Agreement of 2 reward models", "change point"):
        assert words in page
        assert words in (tmp_path / "a.md").read_text("utf-8").replace("\\", "")
    assert "could be best" in (tmp_path / "a.svg").read_text("utf-8")
    document = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert (document["schema_version"], document["exit_code"]) == (1, 0)
    assert [len(curve["checkpoints"]) for curve in document["curves"]] == [10, 10]
    assert document["monitors"][0]["alarms"]["turned"]


def test_csv_has_a_row_per_checkpoint_and_reward_model_with_the_numbers_of_the_run():
    found = track([run(UP), run(PEAK, model="other", seed=1)])
    rows = list(csv.DictReader(io.StringIO(report.to_csv(found).decode())))
    assert len(rows) == 20
    points = [(c, t, p) for c in found.curves for t, p in enumerate(c.points)]
    for row, (curve, t, point) in zip(rows, points, strict=True):
        assert (row["reward_model"], row["checkpoint"]) == (curve.reward_model, point.checkpoint)
        assert int(row["step"]) == point.step
        for name in ("value", "low", "high", "stderr", "n"):
            assert float(row[name]) == getattr(point.estimate, name)
        assert (float(row["band_low"]), float(row["band_high"])) == (
            point.band.low,
            point.band.high,
        )
        assert (row["take"] == "True") == (t == curve.chosen.index)
        alarms = {row["window_alarm"], row["falls_alarm"]}
        assert alarms <= {"True", "False"}
        assert ("True" in alarms) == (t in curve.alarms)
    assert rows[0]["window_upper"] == rows[0]["falls_limit"] == ""  # nothing to hold it against


def test_without_variance_nothing_is_made_up(tmp_path):
    ref = side("ref", np.zeros(30))
    found = track([[held(at(side(f"c{k}", np.ones(30)), k), ref) for k in range(6)]])
    for suffix in FORMATS:
        report.write(found, tmp_path / f"a{suffix}")
    (curve,) = told([[held(at(side(f"c{k}", np.ones(30)), k), ref) for k in range(6)]])["curves"]
    assert curve["change_point"] is None
    assert curve["alarms"] == []
    assert {c["band"]["low"] for c in curve["checkpoints"]} == {None}
    assert len(curve["best_set"]) == 6


def test_one_prompt_has_no_interval(tmp_path):
    found = track([run(UP[:7], n=1)])
    for suffix in FORMATS:
        report.write(found, tmp_path / f"a{suffix}")
    assert not found.alarmed
    assert told([run(UP[:7], n=1)])["curves"][0]["chosen"]["corrected"]["value"] is None


HOSTILE = ["=cmd|' /C calc'!A0", "a|b`*_<script>", "\x1b[31mred\u202e", "$x$", "ñandú"]


def test_hostile_names_stay_text(tmp_path):
    found = track(
        [run(UP[:5], names=HOSTILE, model="<b>`|$m$")], history=read_history(tmp_path / "h.jsonl")
    )
    assert [p.checkpoint for p in found.curves[0].points] == HOSTILE
    rows = csv.DictReader(io.StringIO(report.to_csv(found).decode()))
    assert [row["checkpoint"] for row in rows] == [f"'{HOSTILE[0]}", *HOSTILE[1:]]
    shown = [report.to_text(found), report.to_markdown(found).decode()]
    shown.append(report.to_html(found).decode())
    for text in shown:
        assert not set(text) & {"\x1b", "\u202e"}
    assert "<script>" not in shown[1].replace("\\<", "")
    assert "<script>" not in shown[2]
    assert "<b>" not in shown[2]
    rows = [line for line in shown[1].splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {10}
    names = [c["checkpoint"] for c in json.loads(report.to_json(found))["curves"][0]["checkpoints"]]
    assert names == HOSTILE
    for suffix in (".svg", ".png"):
        report.write(found, tmp_path / f"a{suffix}")
    assert {e.checkpoint for e in read_history(tmp_path / "h.jsonl").entries} == set(HOSTILE)
