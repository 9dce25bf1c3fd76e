"""`evalkit best-of-n`: every choice of k by hand, on fakes and through the command line."""

import csv
import io
import json
import math
import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from evalkit.best_of_n import Models, Options, Signature, best_of_n
from evalkit.errors import InputError, IntegrityError, MissingError
from evalkit.report import best_of_n as report
from evalkit.scoring import RunSettings
from evalkit.statistics.intervals import mean
from evalkit.store import Store
from evalkit.workspace import Workspace
from tests.fake_reward_model import FakeRewardModel, fake_spec, hashed
from tests.workspace_copy import evalkit

QUIET = RunSettings(progress=False, device="cpu")
ANSWERS = {f"p{i}": [f"a{i}", f"b{i}", f"c{i}", f"d{i}", f"e{i}"][: 4 + i % 2] for i in range(7)}
OTHERS = {f"p{i}": [f"x{i}", f"y{i}", f"z{i}"][: 1 + i % 3] for i in range(7)}


def chosen(prompt, answer):
    return hashed(f"user:{prompt}\nassistant:{answer}")


def scored(prompt, answer):
    return hashed(f"user:{prompt}\nassistant:{answer}!") / 3


class Reversed(FakeRewardModel):
    """Likes best what the other likes least."""

    def _reward(self, text):
        return -hashed(text)


class Other(FakeRewardModel):
    """Knows nothing of the other's rewards."""

    def _reward(self, text):
        return hashed(f"{text}!") / 3


class Constant(FakeRewardModel):
    """Gives everything one reward."""

    def _reward(self, text):
        return 1.5


class Noise(FakeRewardModel):
    """A reward of the answer's number alone: the numbers are dealt at random."""

    def _reward(self, text):
        return (int(text.rsplit(" ", 1)[1]) * 7919 % 1009) / 1009


FAKES = {"fake": FakeRewardModel, "other": Other, "reversed": Reversed, "constant": Constant,
         "noise": Noise}  # fmt: skip


def write(path, answers):
    rows = [
        {"prompt_id": p, "index": k, "messages": [{"role": "user", "content": p}], "completion": c}
        for p, completions in answers.items()
        for k, c in enumerate(completions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def run(tmp_path):
    """Run on answers and the reference's, chosen by a fake and scored by another."""

    def over(answers=ANSWERS, others=None, select="fake", scorer=None, fakes=None, **choices):
        models = {name: make() for name, make in FAKES.items()} | (fakes or {})
        output = choices.pop("output", "bradley-terry")
        a = write(tmp_path / f"{choices.pop('name', 'a')}.jsonl", answers)
        b = None if others is None else write(tmp_path / "b.jsonl", others)
        selector = fake_spec(select, output=output)
        with Store(tmp_path / "store.db") as store:
            return best_of_n(
                a,
                Models(selector, fake_spec(scorer) if scorer else selector),
                Workspace(tmp_path),
                store,
                reference=b,
                options=Options(**choices),
                settings=replace(
                    QUIET, load=lambda spec, **how: models[spec.name].load(spec, **how)
                ),
            )

    return over


def brute_force(values, k):
    """Mean over prompts of the mean over every choice of k of the value of the best of them.

    Args:
        values: Prompt, its completions -> (N,) rewards that choose and (N,) values that count.
    """
    columns = []
    for select, count in values:
        picks = [max(c, key=lambda i: select[i]) for c in combinations(range(len(select)), k)]
        columns.append(np.mean([count[i] for i in picks]))
    return np.array(columns)


def values_of(answers, value):
    return [([chosen(p, a) for a in own], [value(p, a) for a in own]) for p, own in answers.items()]


def outcome(prompt, answer, reward):
    ours = reward(prompt, answer)
    theirs = [reward(prompt, other) for other in OTHERS[prompt]]
    return np.mean([(np.sign(ours - r) + 1) / 2 for r in theirs])


# Numbers


def test_rewards_gains_and_win_rate_are_the_mean_over_every_choice(run):
    found = run(others=OTHERS, scorer="other", ks=(1, 2, 3, 4))
    assert [point.k for point in found.points] == [1, 2, 3, 4]
    for point in found.points:
        reward, scored_reward, win = (
            brute_force(values_of(ANSWERS, value), point.k)
            for value in (chosen, scored, lambda p, a: outcome(p, a, scored))
        )
        e = point.estimates
        assert e["reward"].value == pytest.approx(reward.mean(), rel=1e-12)
        assert e["scored_reward"].value == pytest.approx(scored_reward.mean(), rel=1e-12)
        assert e["win_rate"].value == pytest.approx(win.mean(), rel=1e-12)
        assert (point.n, point.short) == (7, ())
        assert point.kl == pytest.approx(math.log(point.k) - (point.k - 1) / point.k)
        for name, column in (("reward", reward), ("scored_reward", scored_reward)):
            expected = mean(column, bounded=False)
            assert (e[name].low, e[name].high) == pytest.approx((expected.low, expected.high))
        if point.k > 1:
            plain = brute_force(values_of(ANSWERS, scored), 1)
            expected = mean(scored_reward - plain, bounded=False)
            assert e["scored_gain"].value == pytest.approx(expected.value, rel=1e-12)
            assert e["scored_gain"].low == pytest.approx(expected.low, rel=1e-9)
        else:
            assert "gain" not in e


def test_without_a_scorer_the_selector_decides_against_the_reference(run):
    found = run(others=OTHERS, ks=(3,))
    (point,) = found.points
    win = brute_force(values_of(ANSWERS, lambda p, a: outcome(p, a, chosen)), 3)
    assert point.estimates["win_rate"].value == pytest.approx(win.mean(), rel=1e-12)
    assert "scored_reward" not in point.estimates


def test_a_selector_named_as_scorer_too_is_one_reward_model(run):
    alone, twice = run(others=OTHERS), run(others=OTHERS, scorer="fake")
    assert report.to_json(twice) == report.to_json(alone)
    assert json.loads(report.to_json(twice))["scorer"] is None


def test_equal_rewards_against_the_reference_are_half_a_win(run):
    found = run(others=ANSWERS, select="constant")
    assert [p.estimates["win_rate"].value for p in found.points] == [0.5] * 3
    assert any("the same reward" in notice and "7 prompts" in notice for notice in found.notices)


def test_a_selector_that_cannot_tell_gives_the_plain_mean_at_every_k(run):
    found = run(select="constant", scorer="fake")
    plain = np.mean([np.mean([chosen(p, a) for a in own]) for p, own in ANSWERS.items()])
    for point in found.points:
        assert point.estimates["scored_reward"].value == pytest.approx(plain, rel=1e-12)


def test_a_selector_of_noise_gives_the_plain_mean_within_its_interval(run):
    rng = np.random.default_rng(7)
    numbers = rng.permutation(1600).reshape(200, 8)
    answers = {f"p{i}": [f"a {n}" for n in row] for i, row in enumerate(numbers.tolist())}
    found = run(answers, select="noise", scorer="other")
    assert [point.k for point in found.points] == [1, 2, 4, 8]
    for point in found.points[1:]:
        assert point.estimates["gain"].low > 0
        gain = point.estimates["scored_gain"]
        assert abs(gain.value) < 3 * gain.stderr


def test_choosing_against_the_scorer_shows_as_over_optimisation(run):
    found = run(select="fake", scorer="reversed")
    first, *_, last = (point.estimates for point in found.points)
    assert last["reward"].value > first["reward"].value
    assert last["scored_gain"].value == pytest.approx(-last["gain"].value, rel=1e-12)
    assert "over-optimised" in report.to_text(found)


def test_the_order_of_rows_and_prompts_moves_nothing(run):
    turned = {p: own[::-1] for p, own in reversed(ANSWERS.items())}
    one, other = run(others=OTHERS, scorer="other"), run(turned, others=OTHERS, scorer="other")
    for a, b in zip(one.points, other.points, strict=True):
        for name, e in a.estimates.items():
            assert e.value == pytest.approx(b.estimates[name].value, rel=1e-12)


# What is asked for, what is missing


def test_the_default_k_are_the_powers_of_two_up_to_the_fewest_completions(run):
    assert [point.k for point in run().points] == [1, 2, 4]
    fewer = {**ANSWERS, "p3": ["one", "two", "three"]}
    assert [point.k for point in run(fewer).points] == [1, 2]


def test_one_completion_each_is_said_to_be_no_choice(run):
    found = run({"p": ["a"], "q": ["b", "c"]})
    assert [point.k for point in found.points] == [1]
    assert any("no choice (p has 1 completion)" in notice for notice in found.notices)


def test_a_k_beyond_some_prompt_is_refused_before_anything_is_scored(run):
    model = FakeRewardModel()
    with pytest.raises(InputError) as error:
        run(ks=(2, 5), fakes={"fake": model})
    assert "4 prompts with fewer than k = 5 completions" in str(error.value)
    assert "p0 has 4" in str(error.value)
    assert "p1 has" not in str(error.value)
    assert "--k up to 4" in str(error.value)
    assert model.loads == 0


def test_a_k_beyond_some_prompt_is_over_the_others_if_asked_and_they_are_named(run):
    found = run(ks=(4, 5, 9), missing="drop")
    four, five, nine = found.points
    assert (four.n, five.n, nine.n) == (7, 3, 0)
    assert five.short == ("p0", "p2", "p4", "p6")
    rest = {p: own for p, own in ANSWERS.items() if len(own) == 5}
    expected = brute_force(values_of(rest, chosen), 5)
    assert five.estimates["reward"].value == pytest.approx(expected.mean(), rel=1e-12)
    assert nine.estimates["reward"].value is None
    assert any("k = 5: 4 of 7 prompts" in n and "p0, p2" in n for n in found.notices)
    assert any("not every k is over the same prompts" in notice for notice in found.notices)
    assert found.signature.n == "7,3,0"
    points = json.loads(report.to_json(found))["points"]
    assert points[1]["short"] == ["p0", "p2", "p4", "p6"]
    assert points[2]["estimates"]["reward"]["value"] is None
    assert "n/a" in report.to_text(found)


@pytest.mark.parametrize("side", ["checkpoint", "reference"])
@pytest.mark.parametrize("broken", ["selector", "scorer"])
def test_a_completion_without_a_reward_is_refused_or_its_prompt_left_out(run, side, broken):
    mine = {**ANSWERS, "p2": ["BAD", "good", "fine", "fair"]} if side == "checkpoint" else ANSWERS
    theirs = {**OTHERS, "p2": ["BAD"]} if side == "reference" else OTHERS
    fake = {"selector": "fake", "scorer": "other"}[broken]
    fakes = {fake: FAKES[fake](unrenderable=["BAD"])}
    if (side, broken) == ("reference", "selector"):  # which it is never asked about
        assert run(mine, theirs, scorer="other", fakes=fakes).prompts == 7
        return
    with pytest.raises(MissingError, match=f"p2: [ab], {fake}: no ids"):
        run(mine, theirs, scorer="other", fakes=fakes)
    found = run(mine, theirs, scorer="other", fakes=fakes, missing="drop")
    assert list(found.left_out) == ["p2"]
    assert found.prompts == found.points[0].n == 6
    rest = {p: own for p, own in ANSWERS.items() if p != "p2"}
    expected = brute_force(values_of(rest, scored), 2)
    assert found.points[1].estimates["scored_reward"].value == pytest.approx(expected.mean())
    assert "1 of 7 prompts are left out: p2" in found.notices


def test_prompts_on_one_side_only_are_refused_or_left_out(run):
    others = {p: own for p, own in OTHERS.items() if p != "p1"} | {"q": ["only here"]}
    with pytest.raises(InputError, match="2 prompts without a completion") as error:
        run(others=others)
    assert "p1: no completion of b" in str(error.value)
    assert "q: no completion of a" in str(error.value)
    found = run(others=others, missing="drop")
    assert set(found.left_out) == {"p1", "q"}
    assert found.points[0].n == 6


def test_nothing_left_is_refused(run):
    with pytest.raises(InputError, match="no prompt is answered by 'a' and 'b'"):
        run({"p": ["x"]}, {"q": ["y"]}, missing="drop")
    fakes = {"fake": FakeRewardModel(unrenderable=["x"])}
    with pytest.raises(InputError, match="no prompt of 'a' has a reward"):
        run({"p": ["x", "y"]}, missing="drop", fakes=fakes)


def test_one_id_for_different_prompts_is_refused(run, tmp_path):
    row = {"prompt_id": "p1", "messages": [{"role": "user", "content": "else"}], "completion": "c"}
    (tmp_path / "c.jsonl").write_text(json.dumps(row))
    with Store(tmp_path / "s.db") as store, pytest.raises(IntegrityError, match="p1"):
        best_of_n(
            write(tmp_path / "a.jsonl", ANSWERS), Models(fake_spec(), fake_spec()),
            Workspace(tmp_path), store,
            reference=str(tmp_path / "c.jsonl"),
        )  # fmt: skip


def test_every_prompt_of_a_named_benchmark_is_missed(run, tmp_path):
    folder = tmp_path / "benchmarks" / "b"
    folder.mkdir(parents=True)
    prompts = [
        {"prompt_id": p, "messages": [{"role": "user", "content": p}]} for p in [*ANSWERS, "new"]
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    with pytest.raises(InputError, match="new: no completion of a"):
        run(benchmark="b")
    assert run(benchmark="b", missing="drop").signature.benchmark == "b"


def test_pair_models_are_refused_on_either_side(run, tmp_path):
    with pytest.raises(InputError, match="ranks no completions"):
        run(output="preference")
    models = Models(fake_spec(), fake_spec("pairs", output="preference"))
    with Store(tmp_path / "s.db") as store, pytest.raises(InputError, match="'pairs' scores two"):
        best_of_n("a", models, Workspace(tmp_path), store)


@pytest.mark.parametrize(("output", "said"), [("relative", True), ("absolute", False)])
def test_a_relative_output_comes_with_its_caution(run, output, said):
    notices = run(output=output).notices
    assert any("comparable within one prompt" in notice for notice in notices) is said
    assert not any("win probability" in notice for notice in notices)


def test_options_that_make_no_sense_are_refused():
    for options in ({"ks": (0, 2)}, {"level": 1.0}):
        with pytest.raises(InputError):
            Options(**options)


# Signature and outputs


def test_the_signature_parses_back_and_names_every_choice(run):
    found = run(others=OTHERS, scorer="other", ks=(4, 2, 2), level=0.9)
    text = str(found.signature)
    assert text.startswith("best-of-n|checkpoint:a#")
    assert Signature.parse(text) == found.signature
    assert (found.signature.k, found.signature.n) == ("2,4", "7,7")
    assert found.signature.select.startswith("fake#")
    assert found.signature.score.startswith("other#")
    assert found.signature.ci.endswith(";0.9")
    for wrong in ("", "compare|k:1", text.replace("left_out:0", "left_out:x"), f"{text}|more:1"):
        with pytest.raises(InputError, match="not a signature"):
            Signature.parse(wrong)


def test_every_reward_is_computed_once_ever_and_a_rerun_gives_the_same_bytes(run):
    models = {name: FAKES[name]() for name in ("fake", "other")}
    first = run(others=OTHERS, scorer="other", fakes=models)
    assert (models["fake"].rows, models["other"].rows) == (31, 31 + 13)
    again = run(others=OTHERS, scorer="other", fakes=models)
    assert (models["fake"].rows, models["other"].rows) == (31, 31 + 13)
    for to_bytes in report.WRITERS.values():
        assert to_bytes(first) == to_bytes(again)


def test_the_csv_has_every_estimate_and_the_json_the_contract(run):
    found = run(others=OTHERS, scorer="other")
    rows = list(csv.DictReader(io.StringIO(report.to_csv(found).decode())))
    assert len(rows) == 3 + 5 + 5
    document = json.loads(report.to_json(found))
    assert document["schema_version"] == 1
    assert document["scorer"]["name"] == "other"
    values = {(r["k"], r["metric"]): r["value"] for r in rows}
    for point in document["points"]:
        for name, e in point["estimates"].items():
            value = values.get((str(point["k"]), name))
            assert (e is None) if value is None else float(value) == e["value"]


def test_hostile_names_act_nowhere(run):
    name = "=cmd|<script>x\x1b[31m`$y$"
    found = run({f"<b>{i}\x1b|": own for i, own in enumerate(ANSWERS.values())}, name=name,
                ks=(5,), missing="drop")  # fmt: skip
    for text in (report.to_text(found), report.to_markdown(found).decode()):
        assert "\x1b" not in text
    markdown = report.to_markdown(found).decode()
    cells = re.sub(r"`[^`\n]*`", "", markdown)
    assert not re.search(r"(?<!\\)[<`]", cells)
    assert len({len(re.findall(r"(?<!\\)\|", x)) for x in cells.splitlines() if x[:1] == "|"}) == 1
    svg = report.to_svg(found).decode()
    assert "<script" not in svg
    assert "\x1b" not in svg
    (row, *_) = csv.reader(io.StringIO(report.to_csv(found).decode().split("\n", 1)[1]))
    assert row[0].startswith("'=")
    assert "\x1b" not in str(found.signature)


def test_the_curve_is_drawn_for_one_k_and_for_undefined_ones(run):
    for choices in ({"ks": (1,)}, {"ks": (9,), "missing": "drop"}):
        svg = report.to_svg(run(others=OTHERS, scorer="other", **choices))
        assert svg.startswith(b"<?xml")
        assert b"nan" not in svg.lower()


# The command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Own-written answers, four to a prompt, and a reference."""
    path = tmp_path_factory.mktemp("samples")
    texts = ["Yes.", "It is the sum of both.", "no no no", "First count one, then the other."]
    answers = {f"What is {i} and {i}?": [f"{t} {i}" for t in texts] for i in range(6)}
    write(path / "samples.jsonl", answers)
    write(path / "refs.jsonl", {p: [f"Together {2 * i}."] for i, p in enumerate(answers)})
    return path


def test_the_command_prints_a_table_and_writes_each_format_the_same_twice(folder):
    outputs = [f"curve{suffix}" for suffix in report.WRITERS]
    command = ["best-of-n", "-m", "samples.jsonl", "-r", "refs.jsonl", "--rm", "demo-rm"]
    command += [part for name in outputs for part in ("-o", name)]
    seen = []
    for _ in range(2):
        done = evalkit(folder, "--no-progress", *command)
        assert done.returncode == 0, done.stderr
        seen.append((done.stdout, *((folder / name).read_bytes() for name in outputs)))
    assert seen[0] == seen[1]
    assert re.search(r"^4 +0\.636 +6 +-?\d", done.stdout, re.M)
    assert "demo-rm is for trying the pipeline" in done.stdout
    document = json.loads((folder / "curve.json").read_text())
    rewards = [point["estimates"]["reward"]["value"] for point in document["points"]]
    assert rewards == sorted(rewards)
    lines = evalkit(folder, "score", "samples.jsonl", "--rm", "demo-rm").stdout.splitlines()
    scores = np.array([json.loads(line)["score"] for line in lines]).reshape(6, 4)
    expected = [brute_force([(row, row) for row in scores.tolist()], k).mean() for k in (1, 2, 4)]
    assert rewards == pytest.approx(expected, rel=1e-12)


def test_the_command_scores_with_another_reward_model(folder):
    (folder / "evalkit.toml").write_text(
        '[reward_models.half]\nmodel = "demo-rm"\ndtype = "bfloat16"\n'
    )
    done = evalkit(folder, "best-of-n", "-m", "samples.jsonl", "--rm", "demo-rm", "--json",
                   "--score-with", "half", "--k", "2,4", "--dtype", "float32")  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [document[role]["dtype"] for role in ("selector", "scorer")] == ["float32", "bfloat16"]
    assert [point["k"] for point in document["points"]] == [2, 4]
    assert document["points"][1]["estimates"]["scored_gain"]["value"] is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--k", "8"], "fewer than k = 8"),
        (["--k", "two"], "whole numbers joined by commas"),
        (["--k", "0"], "the best of 0"),
        (["-o", "curve.png"], "unknown suffix"),
        (["-o", "nowhere/curve.svg"], "no folder"),
        (["-o", "samples.jsonl"], "unknown suffix"),
        (["-r", "nobody"], "nobody"),
    ],
)
def test_what_cannot_be_done_is_refused_with_code_2(folder, arguments, said):
    done = evalkit(folder, "best-of-n", "-m", "samples.jsonl", "--rm", "demo-rm", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
