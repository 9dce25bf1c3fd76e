"""Verdicts somebody already has, through the same table, against AlpacaEval's published numbers."""

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.cli import run
from evalkit.comparison import Options
from evalkit.contrasts import compared
from evalkit.errors import InputError, MalformedError, MissingError
from evalkit.formats.preferences import coding_of, probabilities, read_verdicts
from evalkit.preferences import compare_preferences, with_human_labels
from evalkit.report import comparisons as report
from tests.shared_data import SHARED, needs_shared

ALPACA = SHARED / "data" / "alpaca_eval"
PREFERENCES = ALPACA / "alpaca_eval_preferences.parquet"
DROP = Options(missing="drop")
# what upstream published is not what its own preferences give; see the data's description
STALE = {"alpaca_eval_gpt4_turbo_fn": "Mistral-7B-Instruct-v0.2"}
JUDGES = {
    "weighted_alpaca_eval_gpt4_turbo": 51,
    "alpaca_eval_gpt4": 51,
    "alpaca_eval_cot_gpt4_turbo_fn": 10,
    "alpaca_eval_gpt4_turbo_fn": 3,
}


def published(judge):
    path = ALPACA / "leaderboards" / f"{judge}_leaderboard.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return {row[""]: row for row in csv.DictReader(file)}


@needs_shared
@pytest.mark.parametrize("judge", JUDGES)
def test_every_model_has_the_win_rate_that_alpaca_eval_published(judge):
    rows, compared = published(judge), 0
    for found in compare_preferences(str(PREFERENCES), annotator=judge, options=DROP):
        name = found.checkpoint.name
        row = rows.get(name)
        if row is None or name == STALE.get(judge):
            continue
        estimates, g = found.overall.estimates, found.overall
        chance = estimates["win_probability"]
        assert 100 * chance.value == pytest.approx(float(row["win_rate"]), abs=1e-8), name
        assert 100 * chance.stderr == pytest.approx(float(row["standard_error"]), abs=1e-8), name
        counts = [float(row[key]) for key in ("n_wins", "n_draws", "n_wins_base", "n_total")]
        assert [g.wins, g.ties, g.losses, g.n] == counts, name
        if row["discrete_win_rate"]:
            discrete = float(row["discrete_win_rate"])
            assert 100 * estimates["win_rate"].value == pytest.approx(discrete, abs=1e-8), name
        compared += 1
    assert compared >= JUDGES[judge]


@needs_shared
def test_missing_prompts_and_verdicts_are_named_and_not_dropped_in_silence():
    judge = {"annotator": "weighted_alpaca_eval_gpt4_turbo"}
    with pytest.raises(InputError, match="2 prompts without a completion"):
        compare_preferences(str(PREFERENCES), checkpoints=["text_davinci_001"], **judge)
    (found,) = compare_preferences(
        str(PREFERENCES), checkpoints=["text_davinci_001"], options=DROP, **judge
    )
    assert (found.overall.n, len(found.table.unmatched)) == (803, 2)
    assert any("2 of 805 prompts are left out of" in notice for notice in found.notices)


@needs_shared
def test_the_known_upstream_error_is_not_imitated():
    for judge, name in STALE.items():
        (found,) = compare_preferences(
            str(PREFERENCES), checkpoints=[name], annotator=judge, options=DROP
        )
        value = 100 * found.overall.estimates["win_rate"].value
        assert abs(value - float(published(judge)[name]["discrete_win_rate"])) > 4


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ROWS = [
    {"prompt_id": "a", "model": "m", "preference": 0.9, "subset": "s"},
    {"prompt_id": "b", "model": "m", "preference": 0.5},
    {"prompt_id": "c", "model": "m", "preference": 0.25},
]


def test_by_hand(tmp_path):
    (found,) = compare_preferences(write(tmp_path / "v.jsonl", ROWS))
    estimates = found.overall.estimates
    assert estimates["win_probability"].value == pytest.approx((0.9 + 0.5 + 0.25) / 3)
    assert estimates["win_rate"].value == 0.5
    assert (found.overall.wins, found.overall.ties, found.overall.losses) == (1, 1, 1)
    assert estimates["mean_reward"].value is None
    assert set(found.subsets) == {"s"}
    assert found.reward_model.name == "v.jsonl"


def test_a_report_needs_no_texts(tmp_path):
    found = compare_preferences(write(tmp_path / "v.jsonl", ROWS))
    report.write(compared(found), tmp_path / "report.html")
    assert "P − ½" in (tmp_path / "report.html").read_text("utf-8")


def test_alpaca_evals_coding_has_two_draws_and_is_told_by_the_file(tmp_path):
    rows = [{"id": i, "model": "m", "preference": p} for i, p in enumerate([0, 1.5, 1, 2, 1.25])]
    (found,) = compare_preferences(write(tmp_path / "v.jsonl", rows))
    assert (found.overall.wins, found.overall.ties, found.overall.losses) == (1, 2, 2)
    assert found.overall.estimates["win_probability"].value == (0.5 + 0.5 + 0 + 1 + 0.25) / 5
    with pytest.raises(MalformedError, match=r"v\.jsonl:2"):
        compare_preferences(write(tmp_path / "v.jsonl", rows), coding="unit")


ANNOTATIONS = [
    {
        "instruction": text, "output_1": "reference's", "generator_1": "ref", "dataset": "koala",
        "output_2": "model's", "generator_2": "model", "annotator": "judge", "preference": p,
    }
    for text, p in (("Why?", 2), ("How?", 1), ("Who?", 1.9))
]  # fmt: skip


def test_annotations_name_both_sides_and_hold_their_texts(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(ANNOTATIONS))
    (found,) = compare_preferences(str(path))
    assert (found.checkpoint.name, found.reference.name) == ("model", "ref")
    assert found.overall.estimates["win_probability"].value == pytest.approx(1.9 / 3)
    losses, wins = found.examples(5)
    assert [e.prompt.messages[0].content for e in losses] == ["How?"]
    assert {e.checkpoint for e in wins} == {("model's",)}
    report.write(compared([found]), tmp_path / "report.html")
    assert b"model&#39;s" in (tmp_path / "report.html").read_bytes()


def test_csv_and_parquet_hold_the_same_verdicts(tmp_path):
    import pandas as pd

    frame = pd.DataFrame(ROWS)
    write(tmp_path / "v.jsonl", ROWS)
    frame.to_csv(tmp_path / "v.csv", index=False)
    frame.to_parquet(tmp_path / "v.parquet")
    found = [
        compare_preferences(str(tmp_path / f"v.{suffix}"))[0]
        for suffix in ("jsonl", "csv", "parquet")
    ]
    tables = [c.table.probability.tolist() for c in found]
    assert tables[0] == tables[1] == tables[2]
    assert len({c.reward_model.fingerprint for c in found}) == 1


def test_several_verdicts_on_a_prompt_are_averaged_first(tmp_path):
    rows = [
        {"prompt_id": "a", "model": "m", "preference": 1.0},
        {"prompt_id": "a", "model": "m", "preference": 0.0},
        {"prompt_id": "b", "model": "m", "preference": 1.0},
    ]
    (found,) = compare_preferences(write(tmp_path / "v.jsonl", rows))
    assert found.overall.n == 2
    assert found.overall.estimates["win_rate"].value == 0.75


def test_a_verdict_that_is_not_there_is_no_loss(tmp_path):
    rows = [*ROWS, {"prompt_id": "d", "model": "m", "preference": None}]
    path = write(tmp_path / "v.jsonl", rows)
    with pytest.raises(MissingError, match="no verdict"):
        compare_preferences(path)
    (found,) = compare_preferences(path, options=DROP)
    assert found.overall.n == 3


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=2, max_size=20),
    st.randoms(use_true_random=False),
)
@settings(max_examples=25, deadline=None)
def test_the_order_of_the_file_moves_nothing_and_the_other_side_mirrors(
    tmp_path_factory, ps, random
):
    folder = tmp_path_factory.mktemp("verdicts")
    rows = [{"prompt_id": f"p{i}", "model": "m", "preference": p} for i, p in enumerate(ps)]
    mirrored = [{**row, "preference": 1 - row["preference"]} for row in rows]
    shuffled = random.sample(rows, len(rows))
    one, again, other = (
        compare_preferences(write(folder / f"{k}.jsonl", found))[0].overall.estimates["win_rate"]
        for k, found in enumerate((rows, shuffled, mirrored))
    )
    assert one == again
    assert one.value + other.value == pytest.approx(1)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"model": "m", "preference": 1}', "prompt_id"),
        ('{"prompt_id": "a", "preference": 1}', "model"),
        ('{"prompt_id": "a", "model": "m"}', "preference"),
        ('{"prompt_id": "a", "model": "m", "preference": "much"}', "must be a number"),
        ('{"prompt_id": "a", "model": "m", "preference": true}', "must be a number"),
        ('{"prompt_id": "a", "model": "m", "preference": -0.1}', "outside the coding"),
        ('{"prompt_id": "a", "model": "m", "preference": 2.5}', "outside the coding"),
        ("", "no verdicts"),
    ],
)
def test_a_faulty_verdict_is_refused_with_its_place(tmp_path, monkeypatch, capsys, line, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.jsonl").write_text(line + "\n" if line else "")
    assert run(["compare", "--preferences", "v.jsonl", "--no-report"]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "v.jsonl" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-m", "mm"], "did you mean: m"),
        (["-r", "nobody"], "no verdicts on the reference"),
        (["--annotator", "x"], "no verdicts on the annotator"),
        (["--rm", "demo-rm"], "no use for --reward-model"),
        (["--benchmark", "nosuch"], "no use for --benchmark"),
        (["--param", "beta=1"], "no use for --param"),
        (["--max-length", "0"], "no use for --max-length"),
        (["--temperature", "2"], "no temperature"),
    ],
)
def test_a_name_the_file_does_not_have_is_refused(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "v.jsonl", ROWS)
    assert run(["compare", "--preferences", "v.jsonl", "--no-report", *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--annotator", "x"], "without --preferences there is no use for --annotator"),
        (["--coding", "unit"], "without --preferences there is no use for --coding"),
        (["--human", "v.jsonl", "--annotator", "x"], "no use for --annotator"),
        (["--human", "v.jsonl", "--coding", "unit"], "no checkpoint is named"),  # lawful so far
    ],
)
def test_what_says_how_verdicts_are_read_is_refused_without_them(
    tmp_path, monkeypatch, capsys, arguments, says
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "v.jsonl", ROWS)
    assert run(["compare", "--no-report", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_several_judges_must_be_told_apart(tmp_path):
    rows = [{**row, "annotator": name} for row in ROWS for name in ("one", "two")]
    path = write(tmp_path / "v.jsonl", rows)
    with pytest.raises(InputError, match="verdicts of 2 judges"):
        compare_preferences(path)
    assert len(compare_preferences(path, annotator="two")) == 1


@pytest.mark.parametrize("text", ["a,a\n1,2\n", "prompt_id,model,preference\n1,2\n", '"a\n'])
def test_a_table_that_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(MalformedError):
        read_verdicts(str(tmp_path / "v.csv"))


def test_a_missing_preference_is_nan_in_either_coding(tmp_path):
    path = write(tmp_path / "v.jsonl", [{**ROWS[0], "preference": None}, ROWS[1]])
    verdicts = read_verdicts(path)
    assert coding_of(verdicts) == "unit"
    for coding in ("unit", "alpaca-eval"):
        assert math.isnan(probabilities(verdicts[:1], coding)[0])
    assert np.isfinite(verdicts[1].preference)


def labelled(tmp_path, *, n=200, every=4, bias=0.0):
    """A judge's verdicts on n prompts, and a person's on each fourth of them."""
    rng = np.random.default_rng(6)
    truth = rng.random(n) < 0.6
    judge = np.clip(truth * 0.6 + 0.2 + bias + rng.normal(0, 0.15, n), 0, 1)
    rows = [
        {"prompt_id": f"p{i}", "model": "m", "preference": float(p)} for i, p in enumerate(judge)
    ]
    human = [{**rows[i], "preference": float(truth[i])} for i in range(0, n, every)]
    write(tmp_path / "judge.jsonl", rows)
    write(tmp_path / "human.jsonl", human)
    return truth, compare_preferences(str(tmp_path / "judge.jsonl"))


def test_human_labels_correct_a_biased_judge_and_help_more_than_they_would_alone(tmp_path):
    truth, comparisons = labelled(tmp_path, bias=0.15)
    (found,) = with_human_labels(comparisons, str(tmp_path / "human.jsonl"))
    corrected, alone = found.human.estimate, found.human.classical
    assert found.human.labelled == 50
    assert corrected.low < truth.mean() < corrected.high
    assert corrected.high - corrected.low < alone.high - alone.low
    assert found.overall.estimates["win_probability"].low > truth.mean()  # the judge by itself
    text = report.to_text(compared([found]))
    assert "win rate corrected by 50 human labels" in text
    assert (
        json.loads(report.to_json(compared([found])))["comparisons"][0]["human"]["labelled"] == 50
    )


def test_labels_on_other_prompts_or_models_are_refused(tmp_path):
    _, comparisons = labelled(tmp_path)
    other = write(tmp_path / "x.jsonl", [{"prompt_id": "zz", "model": "m", "preference": 1.0}])
    with pytest.raises(InputError, match="was not compared on: zz"):
        with_human_labels(comparisons, other)
    other = write(tmp_path / "x.jsonl", [{"prompt_id": "p1", "model": "n", "preference": 1.0}])
    with pytest.raises(InputError, match="no human labels on 'm'"):
        with_human_labels(comparisons, other)


def test_a_judges_coding_does_not_depend_on_other_judges_in_the_file(tmp_path):
    rows = [
        {"prompt_id": f"p{i}", "model": "m", "annotator": name, "preference": p}
        for i in range(4)
        for name, p in (("zero-one", float(i > 0)), ("one-two", 1.0 + (i > 1)))
    ]
    path = write(tmp_path / "v.jsonl", rows)
    rates = [
        compare_preferences(path, annotator=name)[0].overall.estimates["win_rate"].value
        for name in ("zero-one", "one-two")
    ]
    assert rates == [0.75, 0.5]


def test_annotations_without_a_single_win_are_losses_and_the_coding_is_said(tmp_path):
    rows = [{**row, "preference": 1} for row in ANNOTATIONS]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    (found,) = compare_preferences(str(tmp_path / "annotations.json"))
    assert found.overall.losses == 3
    assert any("AlpacaEval's coding" in notice for notice in found.notices)


def test_one_id_for_two_prompts_is_refused(tmp_path):
    rows = [{"prompt_id": "a", "model": "m", "preference": 1.0, "subset": s} for s in ("x", "y")]
    with pytest.raises(MalformedError, match="stands for another prompt or subset"):
        compare_preferences(write(tmp_path / "v.jsonl", rows))


def test_names_that_never_met_are_refused(tmp_path):
    rows = [
        {"prompt_id": "a", "model": m, "reference": r, "preference": 1.0}
        for m, r in (("m", "r"), ("n", "s"))
    ]
    path = write(tmp_path / "v.jsonl", rows)
    for models, references in ((["m"], ["s"]), (["m", "n"], ["r"])):
        with pytest.raises(InputError, match="no verdicts on"):
            compare_preferences(path, checkpoints=models, references=references)


def test_an_input_is_not_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = write(tmp_path / "v.jsonl", ROWS)
    assert run(["compare", "--preferences", "v.jsonl", "-o", "v.jsonl", "--no-report"]) == 2
    assert "is an input" in capsys.readouterr().err
    assert len(read_verdicts(before)) == len(ROWS)


def test_human_labels_are_part_of_the_signature(tmp_path):
    _, comparisons = labelled(tmp_path)
    (found,) = with_human_labels(comparisons, str(tmp_path / "human.jsonl"))
    assert found.signature.human.startswith("human.jsonl#")
    assert comparisons[0].signature.human == ""


def test_labels_too_few_to_correct_by_stand_alone(tmp_path):
    _, comparisons = labelled(tmp_path, every=20)
    (found,) = with_human_labels(comparisons, str(tmp_path / "human.jsonl"))
    assert found.human.weight == 0
    assert "by 10 human labels alone" in report.to_text(compared([found]))
