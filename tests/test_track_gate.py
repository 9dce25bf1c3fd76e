"""A gate on a run: the newest checkpoint, under every reward model, from the saved file as well."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from evalkit.comparison import Options as CompareOptions
from evalkit.contrasts import compared
from evalkit.errors import InputError
from evalkit.gate import Policy, Rule, judge, read_result
from evalkit.pairing import TieRule
from evalkit.report import document, gate
from evalkit.report import track as report
from evalkit.track import Options, track
from evalkit.track.history import read_history
from tests.test_contrasts import side
from tests.test_track import PEAK, UP, at, held, run

HALF = Rule("win_rate", bound=0.5)
NO_LOSS = Rule("win_rate", margin=0.05, against="previous")


def judged(comparisons, *rules, options=None, history=None, **policy):
    found = track(comparisons, options=options, history=history and read_history(history))
    return replace(found, verdict=judge(report.document(found), Policy(rules, **policy)))


def test_the_newest_checkpoint_is_under_test_by_its_own_interval():
    for last, state in ((1.0, "pass"), (0.0, "inconclusive"), (-1.0, "fail")):
        found = judged([run([0.5, last])], HALF)
        (only,) = found.verdict.judged
        (curve,) = found.curves
        assert (only.checkpoint, only.state) == ("c01", state)
        assert (only.value, only.low) == (
            curve.points[1].estimate.value,
            curve.points[1].estimate.low,
        )
        assert only.reward_model == curve.reward_model
        assert only.name.endswith(f"of c01 against ref under {curve.reward_model} ≥ 0.5")


@pytest.mark.parametrize("against", ["previous", "c00"])
def test_a_loss_is_the_paired_difference_to_an_earlier_checkpoint(against):
    comparisons = run([0.0, 1.0, 0.4])
    rule = Rule("win_rate", margin=0.05, against=against)
    (only,) = judged([comparisons], rule).verdict.judged
    early = comparisons[1 if against == "previous" else 0]
    oracle = stats.ttest_rel(comparisons[2].table.outcome, early.table.outcome)
    assert (only.low, only.high) == pytest.approx(tuple(oracle.confidence_interval()))
    assert only.baseline == early.checkpoint.name
    assert only.state == ("fail" if against == "previous" else "pass")


def test_every_rule_is_asked_under_each_reward_model_and_all_share_the_error():
    one, two = run([0.0, 0.2]), run([0.0, 0.2], model="other", seed=1)
    alone = judged([one], HALF).verdict.judged[0]
    both = judged([one, two], HALF).verdict.judged
    assert [j.reward_model.partition("#")[0] for j in both] == ["other", "ours"]
    ours = next(j for j in both if j.reward_model.startswith("ours#"))
    assert ours.low == alone.low
    # logit-t: the upper end at 97.5 % instead of 95 %
    logit = [np.log(x / (1 - x)) for x in (alone.value, alone.high, ours.high)]
    ratio = stats.t.ppf(0.9875, 299) / stats.t.ppf(0.975, 299)
    assert (logit[2] - logit[0]) / (logit[1] - logit[0]) == pytest.approx(ratio, rel=1e-4)


def test_checkpoints_of_the_history_are_baselines_and_the_verdict_is_that_of_all_at_once(tmp_path):
    comparisons, history = run([0.0, 1.0, 0.9]), tmp_path / "run.jsonl"
    track([comparisons[:2]], history=read_history(history))
    apart = judged([comparisons[2:]], HALF, NO_LOSS, history=history)
    assert apart.verdict == judged([comparisons], HALF, NO_LOSS).verdict
    assert [j.baseline for j in apart.verdict.judged] == ["", "c01"]


def test_a_saved_run_is_judged_again(tmp_path):
    found = judged([run(PEAK), run(PEAK, model="other", seed=1)], HALF, NO_LOSS)
    report.write(found, tmp_path / "run.json")
    saved = read_result(tmp_path / "run.json")
    again = judge(saved, Policy((HALF, NO_LOSS)))
    assert again == found.verdict
    assert (saved["exit_code"], saved["verdict"]["exit_code"]) == (3, 3)
    assert saved["verdict"] == json.loads(gate.to_json(again))


def test_whom_a_rule_may_name():
    found = [run([0.0, 1.0, 1.0])]
    for rule, said in (
        (Rule("win_rate", margin=0.05, against="c02"), "none is under test"),
        (Rule("win_rate", margin=0.05, against="c0"), "c0 is not in the result; did you mean"),
        (Rule("win_rate", margin=0.05, against="nosuch"), "it has c00, c01, c02"),
        (Rule("win_rate", bound=0.5, reward_model="other"), "nothing under other"),
        (Rule("win_rate", margin=0.9, against="c00", checkpoint="c01"), "no paired difference"),
    ):
        (only,) = judged(found, rule).verdict.judged
        assert only.state == "fail"
        assert said in only.reason
    (older,) = judged(found, Rule("win_rate", bound=0.3, checkpoint="c00")).verdict.judged
    assert (older.checkpoint, older.state) == ("c00", "pass")


def test_the_metric_is_the_one_that_is_tracked():
    options = Options(metric="win_probability")
    rule = Rule("win_probability", margin=0.05, against="c00")
    (only,) = judged([run([0.0, 1.0])], rule, options=options).verdict.judged
    assert (only.state, only.n) == ("pass", 300)
    with pytest.raises(InputError, match="tracks win_probability; it has no win_rate"):
        judged([run([0.0, 1.0])], HALF, options=options)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule("win_rate", bound=0.5, subset="coding"), "a run keeps no subsets, such as 'coding'"),
        (Rule("mean_reward", bound=0.0), "the run tracks win_rate; it has no mean_reward"),
        (Rule("margin", margin=0.1, against="previous"), "it has no margin"),
    ],
)
def test_what_no_run_can_answer_is_a_fault_of_the_policy_and_no_regression(rule, said):
    with pytest.raises(InputError, match=said) as refused:
        judged([run([0.0, 1.0])], HALF, rule)
    assert refused.value.exit_code == 2
    assert "gate a comparison by this rule" in refused.value.fix


def test_a_rule_may_be_of_one_reward_model():
    """A run is judged under its proxy too, unless the rule says otherwise."""
    both = [run([0.0, 0.2]), run([0.0, -1.0], model="proxy", seed=1)]
    held_out = replace(HALF, reward_model="ours")
    found = judged(both, held_out, options=Options(proxy="proxy")).verdict
    (only,) = found.judged
    assert only.reward_model.startswith("ours#")
    assert only.high == judged(both[:1], HALF).verdict.judged[0].high  # shares no error
    assert judged(both, HALF, held_out).verdict.number_of("fail") == 1
    (lost,) = judged(both, replace(HALF, reward_model="theirs")).verdict.judged
    assert (lost.reward_model, "under theirs" in lost.name) == ("theirs", True)
    assert (lost.state, lost.reason) == ("fail", "the result has nothing under theirs")
    saved = json.loads(document.to_json(compared(run([0.5, 1.0]))))  # a comparison has one
    for name, state in (("ours", "pass"), ("theirs", "fail")):
        assert judge(saved, Policy((replace(HALF, reward_model=name),))).state == state


def test_the_first_checkpoint_of_a_run_has_none_before_it():
    found = judged([run([1.0])], HALF, NO_LOSS)
    threshold, loss = found.verdict.judged
    assert (threshold.checkpoint, threshold.state) == ("c00", "pass")
    assert (loss.state, loss.reason) == ("inconclusive", "no earlier checkpoint yet")
    assert loss.name.startswith("win_rate of c00 − previous against ref")
    assert found.exit_code == 4
    elsewhere = replace(NO_LOSS, reference="nosuch")
    assert judged([run([1.0])], elsewhere).verdict.state == "fail"
    named = Rule("win_rate", margin=0.05, against="c99")
    assert judged([run([1.0])], named).verdict.state == "fail"


def test_a_run_too_short_for_alarms_passes_and_says_so():
    for n, said in (
        (1, "none is possible yet"),
        (2, "none is possible yet"),
        (9, "none is raised"),
    ):
        found = judged([run([0.5] * n)], ALARM)
        (alarm,) = found.verdict.judged
        assert alarm.state == "pass"
        assert said in alarm.reason
        assert judge(json.loads(report.to_json(found)), Policy((ALARM,))) == found.verdict


@pytest.mark.parametrize("lacking", [0, 1, 2])
def test_a_run_that_left_prompts_out_does_not_pass(lacking, tmp_path):
    """Whether one checkpoint lacks them or, as if never asked, all of them."""
    rng, ref = np.random.default_rng(3), side("ref", np.zeros(100))
    rewards = [list(rng.normal(size=100) + 2) for _ in range(2)]
    for k in range(2):
        if lacking in (k, 2):
            rewards[k][:5] = [None] * 5
    comparisons = [held(at(side(f"c{k}", r), k), ref) for k, r in enumerate(rewards)]
    (only,) = judged([comparisons], HALF).verdict.judged
    assert only.state == "inconclusive"
    assert "5 prompts left out" in only.reason
    (loss,) = judged([comparisons], NO_LOSS).verdict.judged
    assert loss.left_out == 5  # of the two sides together, not of each
    track([comparisons[:1]], history=read_history(tmp_path / "h"))
    assert judged([comparisons[1:]], HALF, history=tmp_path / "h").verdict.judged == (only,)


def test_dropped_ties_are_not_left_out():
    drop = CompareOptions(ties=TieRule(drop=True), missing="drop")
    ref = side("ref", np.zeros(60))
    rewards = np.ones(60)
    rewards[:5] = 0.0
    comparisons = [held(at(side(f"c{k}", rewards), k), ref, options=drop) for k in range(2)]
    (only,) = judged([comparisons], HALF, options=Options(ties=TieRule(drop=True))).verdict.judged
    assert (only.state, only.n) == ("pass", 55)


ALARM = Rule("alarm")


@pytest.mark.parametrize(
    ("shifts", "rules", "inconclusive", "code"),
    [
        ([0.5, 0.0], [HALF], "fail", 4),
        ([0.5, 0.0], [HALF], "pass", 0),
        ([0.5, 0.0], [HALF, ALARM], "fail", 4),
        ([*PEAK[:9], 0.0], [HALF, ALARM], "fail", 3),
        ([*PEAK[:9], 0.0], [HALF, ALARM], "pass", 3),
        ([*PEAK[:9], 0.0], [ALARM], "pass", 3),
        ([*PEAK[:9], 0.0], [HALF], "pass", 0),
        ([0.5, 1.0], [HALF, ALARM], "fail", 0),
        ([0.5, 1.0], [ALARM], "fail", 0),
        ([0.5, -1.0], [HALF, ALARM], "pass", 3),
    ],
)
def test_one_verdict_on_rules_and_alarms_is_everywhere(shifts, rules, inconclusive, code):
    found = judged([run(shifts)], *rules, inconclusive=inconclusive)
    assert found.exit_code == code
    assert json.loads(report.to_json(found))["exit_code"] == code
    headline = gate.headline(found.verdict)
    assert headline.endswith(f"exit code {code}")
    assert headline in report.to_markdown(found).decode()
    assert headline in report.to_html(found).decode()
    assert any(line.startswith("::error") for line in gate.github_annotations(found.verdict)) is (
        code > 0
    )
    assert "gate " not in report.to_markdown(replace(found, verdict=None)).decode()
    again = judge(
        json.loads(report.to_json(found)), Policy(tuple(rules), inconclusive=inconclusive)
    )
    assert again == found.verdict


def test_an_alarm_takes_no_share_of_the_error_and_says_where_it_is_raised():
    found = judged([run([*PEAK[:9], 0.0])], HALF, ALARM)
    alone = judged([run([*PEAK[:9], 0.0])], HALF)
    assert found.verdict.judged[0] == alone.verdict.judged[0]
    alarm, (curve,) = found.verdict.judged[1], found.curves
    names = [curve.points[t].checkpoint for t in curve.alarms]
    assert alarm.reason == f"decline under {curve.reward_model} at {', '.join(names)}"
    assert (alarm.value, alarm.limit, alarm.low) == (1.0, 0.0, None)


def test_a_monitor_s_alarm_fails_the_run_by_itself():
    both = [run(PEAK, model="other", seed=1), run(UP, model="ours")]
    found = judged(both, ALARM, options=Options(proxy="ours"))
    (alarm,), (monitor,) = found.verdict.judged, found.monitors
    names = [found.curves[0].points[t].checkpoint for t in monitor.alarms["turned"]]
    said = f"over-optimisation (turned) of {monitor.proxy} against {monitor.held_out} at "
    assert said + ", ".join(names) in alarm.reason
    turned = replace(monitor, looks=tuple(x for x in monitor.looks if not x.hard))
    assert turned.alarms["turned"]
    assert replace(found, curves=(), monitors=(turned,)).alarmed


def test_a_comparison_has_no_alarms_so_that_it_cannot_pass_for_none():
    saved = json.loads(document.to_json(compared(run([0.5, 1.0]))))
    with pytest.raises(InputError, match="a comparison has no alarms"):
        judge(saved, Policy((ALARM,)))


def test_one_partial_checkpoint_does_not_pass_for_a_run_without_alarm(tmp_path):
    rng, ref = np.random.default_rng(3), side("ref", np.zeros(200))
    skill = rng.normal(size=200)
    rewards = [list(skill + rng.normal(size=200) + shift) for shift in PEAK]
    comparisons = [held(at(side(f"c{k}", r), k), ref) for k, r in enumerate(rewards)]
    history = tmp_path / "run.jsonl"
    assert judged([comparisons], ALARM, history=history).verdict.state == "fail"
    partial = [held(at(side("c99", [*rewards[0][:8], *[None] * 192]), 99), ref)]
    found = judged([partial], ALARM, history=history)
    (alarm,) = found.verdict.judged
    assert (alarm.state, alarm.left_out, found.exit_code) == ("inconclusive", 192, 4)
    assert alarm.reason == "none is raised, were it not for 192 prompts left out"


def test_an_alarm_on_the_prompts_that_remain_fails_a_partial_run():
    rng, ref = np.random.default_rng(3), side("ref", np.zeros(300))
    skill = rng.normal(size=300)
    rewards = [list(skill + rng.normal(size=300) + shift) for shift in PEAK]
    rewards[2][:5] = [None] * 5
    comparisons = [held(at(side(f"c{k}", r), k), ref) for k, r in enumerate(rewards)]
    assert judged([comparisons], ALARM).verdict.state == "fail"


@pytest.mark.parametrize(
    "beside",
    [{"bound": 0.5}, {"bound": 0.0}, {"margin": 0.0}, {"strict": True}, {"subset": "x"},
     {"reward_model": "ours"}, {"against": "previous"}],
)  # fmt: skip
def test_an_alarm_stands_alone(beside):
    with pytest.raises(InputError, match="nothing beside"):
        Rule("alarm", **beside)


BROKEN = {
    "no curves": lambda r: r.update(curves=[]),
    "curve": lambda r: r.update(curves=[3]),
    "metric": lambda r: r.pop("metric"),
    "left out": lambda r: r["curves"][0].pop("left_out"),
    "differences": lambda r: r["curves"][0].pop("differences"),
    "deciding": lambda r: r["curves"][0]["differences"][0]["metrics"][""]["win_rate"].update(
        deciding=301
    ),
    "metrics": lambda r: r["curves"][0]["differences"][0].update(metrics=None),
    "step": lambda r: r["curves"][0]["checkpoints"][0].update(step="9"),
    "twice": lambda r: r["curves"][0]["checkpoints"].extend(r["curves"][0]["checkpoints"]),
    "reward model": lambda r: r["curves"][0].update(reward_model=None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_malformed_run_gets_no_verdict(name):
    found = json.loads(report.to_json(track([run([0.0, 1.0])])))
    assert judge(found, Policy((HALF, NO_LOSS))).state == "pass"
    BROKEN[name](found)
    with pytest.raises(InputError):
        judge(found, Policy((HALF, NO_LOSS)))
