"""Decision rules before simulated data: what is counted, and that a broken rule shows."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from evalkit import validate
from evalkit.gate import judge, read_result
from evalkit.report.validation import decisions as report
from evalkit.statistics.over_optimisation import over_optimisation
from evalkit.statistics.sequential import Plan
from evalkit.validate import Decision, decide, decisions, gates, tracking
from evalkit.validate.decisions import AT_LIMIT, BIASED, MISSES, OK, WRONG
from tests.test_gate import saved_comparison

COMMITTED = Path(__file__).parents[1] / "docs" / "validation.decisions.csv"
SE_200 = 0.3666 / math.sqrt(200)  # √(2 · 0.168 · (1 − 0.6)) a prompt


def study(name):
    (found,) = [s for s in validate.studies() if s.name == name]
    return found


def rows_of(name, trials, seed=1):
    return {row.rule: row for row in decide(trials=trials, seed=seed, of=[study(name)])}


def a_row(**changed):
    made = Decision("gate", "identical", 200, "a rule", "evalkit", 1000, 0.02, 0.005, 0.025)
    return replace(made, **changed)


# Verdicts


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, OK),
        ({"wrong": 0.03}, AT_LIMIT),  # one standard error beyond
        ({"wrong": 0.036}, WRONG),
        ({"found": 0.9, "at_least": 0.8}, OK),
        ({"found": 0.78, "at_least": 0.8}, AT_LIMIT),  # its standard error is 0.013
        ({"found": 0.77, "at_least": 0.8}, MISSES),
        ({"found": 0.1}, OK),  # nothing is said of it
        ({"found": 1.0, "in_time": 0.9, "at_least": 0.95}, MISSES),  # found, but late
        ({"bias": -0.0019, "bias_stderr": 0.0001}, OK),
        ({"bias": -0.0025, "bias_stderr": 0.0003}, AT_LIMIT),
        ({"bias": -0.0027, "bias_stderr": 0.0003}, BIASED),
        ({"bias": 0.004, "bias_stderr": 0.0, "wrong": 0.5}, WRONG),
        ({"wrong": math.nan}, WRONG),
        ({"bias": math.nan, "bias_stderr": 0.001}, BIASED),
    ],
)
def test_a_verdict_holds_what_was_counted_against_what_is_said(changed, verdict):
    row = a_row(**changed)
    assert decisions.verdict_of(row) == verdict
    assert replace(row, verdict=verdict).passes == (verdict in {OK, AT_LIMIT})


def test_monte_carlo_error_is_that_of_a_share_and_never_nothing():
    assert decisions.share_stderr(0.3, 2000) == pytest.approx(math.sqrt(0.21 / 2000), rel=0.01)
    assert decisions.share_stderr(0.0, 96) == pytest.approx(math.sqrt(0.02 * 0.98 / 100))


# Gates


def test_a_simulated_run_gets_the_verdict_of_the_saved_comparison(tmp_path):
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        prompts, checkpoints = (200, 2) if seed % 2 else (805, 1)
        noise, drop = [(0.1, 0.0), (1.0, 0.1), (1.0, 0.4)][seed % 3]
        skill = rng.normal(size=prompts)
        rewards = {"baseline": skill + noise * rng.normal(size=prompts)}
        for i in range(checkpoints):
            rewards[f"checkpoint {i}"] = skill + noise * rng.normal(size=prompts) - drop
        if seed == 11:  # too few prompts differ for a t interval
            rewards["checkpoint 0"] = rewards["baseline"] * np.where(np.arange(200) < 5, -1, 1)
        saved = read_result(saved_comparison(tmp_path, rewards))
        columns = np.column_stack([(r > 0).astype(float) for r in rewards.values()])
        states = gates.states(columns)
        for name, policy in gates.POLICIES.items():
            assert states[name] == judge(saved, policy).state
            found.append(states[name])
    assert {"pass", "fail", "inconclusive"} == set(found)


def test_gates_err_as_the_normal_distribution_says():
    (identical,) = [d for d in gates.one_checkpoint(200) if d.name == "identical"]
    found = gates.count_states(identical, trials=1000, seed=7)
    normal = NormalDist()
    error = 4 * math.sqrt(0.25 / 1000)
    assert found[gates.ANY_DROP].wrong == pytest.approx(0.5, abs=error)
    assert found[gates.MORE_THAN].wrong == pytest.approx(normal.cdf(-0.02 / SE_200), abs=error)
    passes = normal.cdf(0.03 / SE_200 - 1.96)
    for rule in gates.POLICIES:
        assert found[rule].right == pytest.approx(passes, abs=error)
        assert found[rule].wrong <= 0.025 + 4 * math.sqrt(0.025 / 1000)


def test_a_detectable_loss_is_that_of_the_normal_shift():
    shift = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)
    assert gates.detectable(805) == pytest.approx(shift * 0.3666 / math.sqrt(805), rel=0.01)
    shared = NormalDist().inv_cdf(1 - 0.025 / 10) + NormalDist().inv_cdf(0.8)
    assert gates.detectable(805, 10) == pytest.approx(shared * 0.3666 / math.sqrt(805), rel=0.01)


def test_checkpoints_differ_from_the_baseline_by_what_is_planted():
    for design in (*gates.one_checkpoint(805), *gates.many_checkpoints(805)):
        (means,) = design.run.curves
        assert np.array(means[1:]) - means[0] == pytest.approx(np.array(design.gains))
    lost = gates.one_checkpoint(50_000)[2]
    ((columns,), _) = tracking.simulated(lost.run, 0, 0)
    d = columns[:, 1] - columns[:, 0]
    assert d.mean() == pytest.approx(-0.03, abs=4 * 0.3666 / math.sqrt(50_000))
    assert d.std() == pytest.approx(0.3666, rel=0.02)


# Rules that people use


def test_drops_by_hand():
    means = np.array([0.5, 0.54, 0.53, 0.51, 0.52, 0.55])
    table = np.tile(means, (3, 1))
    assert np.flatnonzero(tracking.any_drop(table)).tolist() == [2, 3]
    assert np.flatnonzero(tracking.below_best(table, 0.0)).tolist() == [2, 3, 4]
    assert np.flatnonzero(tracking.below_best(table, 0.025)).tolist() == [3]


def test_one_monitor_counts_every_rule_as_it_is_counted_alone():
    design = replace(tracking.gold_and_proxy(), prompts=100)
    both = tracking.characteristics(decisions.watch_two, design, trials=3, seed=1)
    for name, alarm in ((decisions.TURNED, "turned"), (decisions.HARD, "hard")):

        def monitor(columns, keys, alarm=alarm):
            looks = over_optimisation(*columns, keys, decisions.PLAN)
            return {alarm: np.array([getattr(look, alarm) for look in looks])}

        alone = tracking.characteristics(monitor, design, trials=3, seed=1)
        assert both[name] == alone[alarm]


def test_designs_that_do_not_decline_do_not():
    for design in (tracking.rising(), tracking.plateau(), tracking.both_rise(plateau=True)):
        assert design.turn is None
        assert all(np.all(np.diff(curve) >= 0) for curve in design.curves)
    a, b = tracking.both_rise(plateau=True, proxy_too=True).curves
    assert a[11:] == (a[11],) * 19
    assert b[11:] == (b[11],) * 19
    assert np.all(np.diff(tracking.both_rise(plateau=True).curves[0]) > 0)


# Controls that must fail


def test_a_gate_that_ignores_its_level_is_caught(monkeypatch):
    name = "identical, 805 prompts"
    assert rows_of(name, 1000)[gates.STRICT_RULE].passes
    loose = {
        key: replace(policy, level=0.8) for key, policy in gates.POLICIES.items()
    }  # 10 % at either end
    monkeypatch.setattr(gates, "POLICIES", loose)
    found = rows_of(name, 1000)
    assert found[gates.STRICT_RULE].verdict == WRONG
    assert found[gates.STRICT_RULE].wrong == pytest.approx(0.1, abs=0.04)


def test_a_gate_that_does_not_share_its_error_out_is_caught():
    found = rows_of("10 identical, 805 prompts", 800)
    assert found[gates.STRICT_RULE].passes
    assert found[gates.ALONE].verdict == WRONG


def test_a_gate_that_never_decides_is_caught(monkeypatch):
    strict = {key: replace(policy, level=0.9999) for key, policy in gates.POLICIES.items()}
    monkeypatch.setattr(gates, "POLICIES", strict)
    found = rows_of("loss of the margin + detectable, 805 prompts", 100)
    assert found[gates.MARGIN_RULE].verdict == MISSES


def test_an_alarm_that_ignores_its_level_is_caught(monkeypatch):
    name = "flat, 200 prompts"
    found = rows_of(name, 320)
    assert found[decisions.TRACK].passes
    monkeypatch.setattr(decisions, "PLAN", Plan(looks=30, level=0.5, resamples=500))
    found = rows_of(name, 320)
    assert found[decisions.TRACK].verdict == WRONG


def test_an_alarm_that_comes_late_is_caught(monkeypatch):
    name = "declines by 0.02 a checkpoint, 500 prompts"
    assert rows_of(name, 160)[decisions.TRACK].passes
    monkeypatch.setattr(decisions, "PLAN", Plan(looks=30, level=0.998, resamples=2000))
    assert rows_of(name, 160)[decisions.TRACK].verdict == MISSES


def test_a_choice_that_is_not_corrected_is_caught(monkeypatch):
    name, chosen = "choice, flat, 200 prompts", tracking.chosen
    assert rows_of(name, 320)["corrected value"].passes

    def uncorrected(*args):
        found = chosen(*args)
        return replace(found, corrected=found.naive)

    monkeypatch.setattr(tracking, "chosen", uncorrected)
    found = rows_of(name, 320)
    assert found["corrected value"].bias == found["its own mean"].bias > 0.02
    assert not found["corrected value"].passes


# The table


def test_the_same_arguments_give_the_same_rows_whatever_stands_beside_them():
    names = ("identical, 200 prompts", "flat, 200 prompts")
    both = decide(trials=40, seed=3, of=[study(name) for name in names])
    assert both == decide(trials=40, seed=3, of=[study(name) for name in names])
    alone = decide(trials=40, seed=3, of=[study(names[1])])
    assert alone == both[-len(alone) :]
    assert alone != decide(trials=40, seed=4, of=[study(names[1])])
    assert [row.trials for row in both] == [40] * 5 + [10] * 5


def test_markdown_says_never_and_leaves_out_what_no_row_has():
    late = a_row(kind="run", found=0.2, in_time=0.0, delay=math.inf, verdict=WRONG)
    lines = report.to_markdown([a_row(found=0.7, verdict=OK), late])
    (gate,) = [i for i, line in enumerate(lines) if line == "### Gates"]
    assert "delay" not in lines[gate + 2]
    assert "| identical | 200 | a rule | 2.0 ± 0.5 | 2.5 | 70.0 | evalkit | ok |" in lines
    (outside,) = [i for i, line in enumerate(lines) if line.endswith("outside the limits")]
    assert "| never |" in lines[outside + 4]
    assert "1 ok, 0 at the limit, 1 not" in report.tally([a_row(verdict=OK), late])


@pytest.fixture(scope="module")
def committed():
    with COMMITTED.open(newline="") as file:
        return list(csv.DictReader(file))


def test_committed_table_has_the_schema_and_every_study(committed):
    assert list(committed[0]) == list(Decision.__dataclass_fields__)
    trials = {
        f"{'choice, ' * (r['kind'] == 'choice')}{r['design']}, {r['n']} prompts": int(r["trials"])
        for r in committed
    }
    assert trials == {s.name: validate.TRIALS // s.share for s in validate.studies()}


def test_committed_rules_of_evalkit_do_as_they_say(committed):
    own = [r for r in committed if r["whose"] == "evalkit"]
    assert own
    assert {r["verdict"] for r in own} <= {OK, AT_LIMIT}


def test_committed_rules_that_people_use_are_wrong_too_often(committed):
    quiet = [r for r in committed if r["design"] in {"identical", "10 identical", "flat"}]
    drops = [r for r in quiet if r["rule"].startswith(("any drop", "more than 2", "below the"))]
    assert len(drops) == 4 + 4 + 6
    assert {r["verdict"] for r in drops} == {WRONG}
