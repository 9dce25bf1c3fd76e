"""Win probabilities raw and calibrated: labelled pairs in, a temperature out."""

import csv
import json
import math
import shutil

import numpy as np
import pytest

from evalkit.calibrate import Options, Signature, calibrate, calibrate_rewards
from evalkit.cli import run
from evalkit.data import Message
from evalkit.errors import InputError, MalformedError, MissingError
from evalkit.formats.pairs import read_pairs
from evalkit.report import calibration as report
from evalkit.statistics.losses import bradley_terry_loss
from evalkit.store import Store
from tests.shared_data import DEMO_RM, FIXTURES, SHARED, needs_shared, spec_of

SKYWORK, INTERNLM = "Skywork_Skywork-Reward-Gemma-2-27B", "internlm_internlm2-20b"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rewards(margins, **more):
    return [{"reward_chosen": m, "reward_rejected": 0.0, **more} for m in margins]


def noisy(n=120, temperature=4.0, seed=0):
    """Rewards of pairs for which σ(margin / temperature) is true, on a grid with a few ties."""
    rng = np.random.default_rng(seed)
    margins = np.round(temperature * rng.normal(size=n), 1)
    right = rng.uniform(size=n) < 1 / (1 + np.exp(-margins / temperature))
    return [
        {
            "id": f"p{i}",
            "reward_chosen": float(m if y else -m),
            "reward_rejected": 0.0,
            "subset": "ab"[i % 2],
            "magnitude": 1 + i % 3,
        }
        for i, (m, y) in enumerate(zip(margins, right, strict=True))
    ]


# Rewards of 350 JudgeBench pairs: ScalerLab/JudgeBench@e2c52c2


def judgebench(name, path):
    (file,) = (SHARED / "data" / "judgebench").glob(f"*judge_name=reward_model*{name}*")
    found = []
    for row in map(json.loads, file.read_text("utf-8").splitlines()):
        first, second = row["judgments"][0]["judgment"]["scores"]
        chosen, rejected = (first, second) if row["label"] == "A>B" else (second, first)
        both = {"reward_chosen": chosen, "reward_rejected": rejected}
        found.append({"id": row["pair_id"], "subset": row["source"], **both})
    return write(path, found)


@needs_shared
def test_judgebench_of_an_overconfident_reward_model(tmp_path):
    found = calibrate_rewards(judgebench(SKYWORK, tmp_path / "r.jsonl"))
    e = found.overall.estimates
    assert (found.overall.n, found.overall.wins, found.overall.ties) == (350, 225, 3)
    assert e["accuracy"].value == pytest.approx(225 / 350)
    assert e["accuracy_half_credit"].value == pytest.approx(226.5 / 350)
    assert found.temperature.value == pytest.approx(11.7, rel=0.01)
    assert e["bradley_terry_loss"].value == pytest.approx(2.168, abs=0.002)
    assert e["held_out_loss"].value == pytest.approx(0.614, abs=0.006)
    assert e["held_out_gain"].low > 1
    assert found.raw.error > 0.29 > 3 * found.raw.floor.high
    assert found.calibrated.error < found.calibrated.floor.high
    assert e["brier_raw"].value > 0.25 > e["brier_calibrated"].value
    assert "Pass `evalkit compare --temperature 11.67`" in report.verdict(found)
    assert "lowers the log loss by 1.55" in report.verdict(found)


@needs_shared
def test_judgebench_of_an_honest_reward_model(tmp_path):
    found = calibrate_rewards(judgebench(INTERNLM, tmp_path / "r.jsonl"))
    assert found.overall.estimates["accuracy"].value == pytest.approx(222 / 350)
    assert found.temperature.value == pytest.approx(1.0, abs=0.05)
    assert found.temperature.low < 1 < found.temperature.high
    assert "do not tell it from the raw probability" in report.verdict(found)


# By hand


def test_by_hand(tmp_path):
    # three quarters of the margins of 2 are right: σ(2/T) = 3/4, T = 2/ln 3, Brier 3/16, no error
    rows = [*rewards([2.0] * 300, magnitude=2), *rewards([-2.0] * 100)]
    found = calibrate_rewards(write(tmp_path / "r.jsonl", rows))
    e = found.overall.estimates
    assert found.temperature.value == pytest.approx(2 / math.log(3), rel=1e-12)
    assert e["brier_calibrated"].value == pytest.approx(3 / 16, rel=1e-12)
    assert found.calibrated.error == pytest.approx(0, abs=1e-12)
    assert found.raw.error == pytest.approx(1 / (1 + math.exp(-2)) - 0.75, rel=1e-12)
    raw = bradley_terry_loss(np.array([2.0, -2.0]))
    assert e["bradley_terry_loss"].value == pytest.approx((3 * raw[0] + raw[1]) / 4, rel=1e-12)
    scaled = e["scaled_bradley_terry_loss"]
    assert (scaled.n, scaled.value) == (300, pytest.approx(3 * raw[0], rel=1e-12))


def test_pairs_of_one_cluster_count_once(tmp_path):
    rows = noisy(60)
    once = calibrate_rewards(write(tmp_path / "a.jsonl", rows)).temperature
    again = calibrate_rewards(write(tmp_path / "b.jsonl", rows * 3)).temperature
    assert (again.n, again.clusters) == (180, 60)
    assert (again.value, again.low) == pytest.approx((once.value, once.low), rel=1e-9)


def test_subsets_have_their_own_counts(tmp_path):
    found = calibrate_rewards(write(tmp_path / "r.jsonl", noisy()))
    assert list(found.subsets) == ["a", "b"]
    assert sum(g.wins for g in found.subsets.values()) == found.overall.wins


def test_neither_the_order_of_the_file_nor_its_container_moves_anything(tmp_path):
    import pandas as pd

    rows = [{k: v for k, v in row.items() if k != "id"} for row in noisy()]
    rows[0]["magnitude"] = rows[5]["magnitude"] = None
    first = calibrate_rewards(write(tmp_path / "r.jsonl", rows))
    write(tmp_path / "turned.jsonl", rows[::-1])
    renamed = {"reward_chosen": "chosen_score", "reward_rejected": "rejected_score"}
    frame = pd.DataFrame(rows)
    frame.to_parquet(tmp_path / "r.parquet")
    with (tmp_path / "r.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([renamed.get(name, name) for name in frame.columns])
        writer.writerows(frame.astype(object).where(frame.notna(), "").to_numpy().tolist())
    for name in ("turned.jsonl", "r.parquet", "r.csv"):
        other = calibrate_rewards(str(tmp_path / name))
        assert other.temperature == first.temperature
        assert (other.overall, other.subsets) == (first.overall, first.subsets)
        assert other.signature.pairs[-12:] == first.signature.pairs[-12:]


def test_every_choice_is_in_the_signature(tmp_path):
    path = write(tmp_path / "r.jsonl", noisy())
    choices = [{}, {"folds": 3}, {"repeats": 7}, {"seed": 1}, {"bins": 5}, {"level": 0.9},
               {"missing": "drop"}]  # fmt: skip
    found = [calibrate_rewards(path, options=Options(**choice)).signature for choice in choices]
    assert len(set(found)) == len(choices)
    for signature in found:
        assert str(signature).startswith("calibrate|pairs:r.jsonl#")
        assert "|max_length:|" in str(signature)  # of rewards that were there already
        assert Signature.parse(str(signature)) == signature


# The command


def test_the_same_bytes_on_every_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "r.jsonl", noisy())
    said = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        outputs = [f"{place}/o{suffix}" for suffix in report.WRITERS]
        assert run(["calibrate", "--rewards", "r.jsonl", *(f"-o{o}" for o in outputs)]) == 0
        said.append((capsys.readouterr().out, [(tmp_path / o).read_bytes() for o in outputs]))
    assert said[0] == said[1]
    assert run(["calibrate", "--rewards", "r.jsonl", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "one" / "o.json").read_text())
    assert (document["schema_version"], document["n"]) == (1, 120)
    assert document["temperature"]["state"] == "fitted"
    assert sum(document["raw"]["curve"]["n"]) == 120


@pytest.mark.parametrize(
    ("margins", "state"),
    [
        ([1.0, 2.0, 3.0, 0.5], "separable"),
        ([-1.0, -2.0, 0.5, -3.0], "reversed"),
        ([0.0, 0.0, 0.0], "uninformative"),
        ([1.0, -1.0], "uninformative"),
    ],
)
def test_without_a_temperature_the_state_is_named_and_no_number_given(
    tmp_path, monkeypatch, capsys, margins, state
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "r.jsonl", rewards(margins))
    outputs = [f"-oo{suffix}" for suffix in report.WRITERS]
    assert run(["calibrate", "--rewards", "r.jsonl", *outputs]) == 0
    out = capsys.readouterr().out
    assert f"No temperature ({state})" in out
    assert "--temperature" not in out
    document = json.loads((tmp_path / "o.json").read_text())
    assert (document["temperature"]["value"], document["calibrated"]) == (None, None)
    assert document["estimates"]["held_out_loss"]["value"] is None
    assert document["undefined_fits"] > 0


def test_a_weak_temperature_says_so(tmp_path):
    rows = rewards([1.0] * 12 + [-1.0] * 8)
    found = calibrate_rewards(write(tmp_path / "r.jsonl", rows))
    assert found.temperature.state == "weak"
    assert "unbounded" in report.verdict(found)
    assert "weak" in report.verdict(found)


@pytest.mark.parametrize("rows", [[], rewards([1.0]), rewards([1.0, -2.0], prompt_id="same")])
def test_too_few_pairs_are_refused(tmp_path, monkeypatch, capsys, rows):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "r.jsonl", rows)
    assert run(["calibrate", "--rewards", "r.jsonl"]) == 2
    err = capsys.readouterr().err
    assert ("no pairs in the input" if not rows else "1 independent pair for 2 folds") in err
    assert "r.jsonl" in err


@pytest.mark.parametrize("reward", [None, math.inf, math.nan])
def test_a_pair_without_a_reward_is_refused_or_counted_and_named(tmp_path, reward):
    rows = noisy()
    gap = {**rows[7], "reward_rejected": None}
    rows[7] = gap
    path = tmp_path / "r.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(gap))
        writer.writeheader()
        writer.writerows({**row, "reward_rejected": reward} if row is gap else row for row in rows)
    with pytest.raises(MissingError, match=r"r\.csv:9: p7: reward_rejected is"):
        calibrate_rewards(str(path))
    found = calibrate_rewards(str(path), options=Options(missing="drop"))
    assert found.overall.n == 119
    assert len(found.unscored) == 1
    assert "1 of 120 pairs left out" in found.notices[0]
    assert "p7: reward_rejected is" in report.to_text(found)
    assert found.signature.left_out == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"reward_chosen": 1}', "field 'reward_rejected' is missing"),
        ('{"chosen": 1, "rejected": 2}', "field 'reward_chosen' is missing"),
        ('{"reward_chosen": "high", "reward_rejected": 1}', "must be a number"),
        ('{"reward_chosen": true, "reward_rejected": 1}', "must be a number"),
        ('{"reward_chosen": [1], "reward_rejected": 1}', "must be a number"),
        ('{"reward_chosen": 1e300, "reward_rejected": 1}', "of a size from"),
        ('{"reward_chosen": 1e-310, "reward_rejected": 1}', "of a size from"),
        ('{"reward_chosen": 1, "reward_rejected": 0, "magnitude": 4}', "1, 2 or 3"),
        ('{"reward_chosen": 1, "reward_rejected": 0, "magnitude": true}', "1, 2 or 3"),
        ('{"reward_chosen": 1, "reward_rejected": 0, "id": [1]}', "text or an integer"),
        ('{"reward_chosen": 1, "reward_rejected": 0, "subset": 1}', "must be text"),
        ("[1, 2]", "must be a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_faulty_rewards_are_refused_with_their_place(tmp_path, monkeypatch, capsys, line, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.jsonl").write_text('{"reward_chosen": 1, "reward_rejected": 0}\n' + line + "\n")
    assert run(["calibrate", "--rewards", "r.jsonl", "-oo.json"]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "r.jsonl:2" in err
    assert not (tmp_path / "o.json").exists()


def test_rewards_of_extreme_size_are_no_accident(tmp_path):
    margins = [1e100, -1e100, 1e-100, 1e100, 1e100, -1e-100]
    found = calibrate_rewards(write(tmp_path / "r.jsonl", rewards(margins)))
    assert found.temperature.value > 1e99
    json.loads(report.to_json(found))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name either"),
        (["p.jsonl", "--rewards", "r.jsonl"], "name either"),
        (["--rewards", "r.jsonl", "--rm", "demo-rm"], "have no use for --reward-model"),
        (["--rewards", "r.jsonl", "--dtype", "float32"], "have no use for --dtype"),
        (["--rewards", "r.jsonl", "--max-length", "0"], "have no use for --max-length"),
        (["--rewards", "nobody.jsonl"], "no such file"),
        (["--rewards", "r.jsonl", "-oo.csv"], "unknown suffix"),
        (["--rewards", "r.json", "-or.json"], "is an input"),
        (["--rewards", "r.jsonl", "--folds", "1"], "--folds"),
        (["--rewards", "r.jsonl", "--folds", "500"], "for 500 folds"),
    ],
)
def test_usage_that_cannot_be_is_refused(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "r.jsonl", noisy())
    write(tmp_path / "r.json", noisy())
    assert run(["calibrate", *arguments]) == 2
    assert says in capsys.readouterr().err


# Pairs with their texts

ANSWERS = [
    ("What is the capital of France?", "The capital of France is Paris.", "banana"),
    ("Name a prime number.", "Seven is a prime number.", "Nine, because it is odd."),
    ("How do I boil an egg?", "Put it into boiling water for eight minutes.", "No."),
    ("Translate 'cat' into German.", "The German word is 'Katze'.", "Hund Hund Hund"),
    ("Why is the sky blue?", "Air scatters blue light more than red light.", "It is not."),
    ("Write a greeting.", "Hello, and welcome! How can I help you today?", "asdf qwer"),
    ("What is 3 + 4?", "3 + 4 = 7.", "I cannot say anything about that."),
    ("Give me a tip for sleep.", "Keep the room dark and cool.", "Drink coffee at midnight."),
    ("Who wrote Hamlet?", "William Shakespeare wrote Hamlet.", "Somebody wrote something."),
    ("Is water wet?", "Yes", "Water is usually called wet because it makes things wet."),
    ("List two fruits.", "fruit", "Apples and pears are two fruits you can buy."),
    ("What is a dog?", "x", "A dog is a domesticated animal that people keep as a companion."),
]
PAIRS = [
    {"prompt": q, "chosen": c, "rejected": r, "subset": "ab"[i % 2], "magnitude": 1 + i % 3}
    for i, (q, c, r) in enumerate(ANSWERS)
]


def turns(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def as_conversations(pair):
    question, *answers = (pair[name] for name in ("prompt", "chosen", "rejected"))
    chosen, rejected = (turns(question, answer) for answer in answers)
    return {**pair, "chosen": chosen, "rejected": rejected}


def test_demo_rm_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DEMO_RM, tmp_path / "rm")
    write(tmp_path / "p.jsonl", PAIRS)
    command = ["--no-progress", "calibrate", "p.jsonl", "--rm", "rm", "--json"]
    assert run([*command, "-oo.svg"]) == 0
    first = capsys.readouterr().out
    assert run(command) == 0  # from the store
    assert capsys.readouterr().out == first
    found = json.loads(first)
    assert (found["n"], found["temperature"]["clusters"]) == (12, 12)
    assert found["wins"] + found["ties"] + found["losses"] == 12
    assert found["reward_model"]["fingerprint"] == spec_of(tmp_path / "rm").fingerprint
    assert any("demo-rm is for trying the pipeline" in note for note in found["notices"])
    assert set(found["subsets"]) == {"a", "b"}
    # the rewards `evalkit score` gives, taken through the other door, give the same numbers
    rows = [
        {"id": f"{i}", "messages": turns(q, a)[:1], "completion": a}
        for i, (q, *answers) in enumerate(ANSWERS)
        for a in answers
    ]
    write(tmp_path / "rows.jsonl", rows)
    assert run(["--no-progress", "score", "rows.jsonl", "--rm", "rm"]) == 0
    scores = [json.loads(x)["score"] for x in capsys.readouterr().out.splitlines()]
    both = zip(PAIRS, scores[::2], scores[1::2], strict=True)
    rows = [{**pair, "reward_chosen": c, "reward_rejected": r} for pair, c, r in both]
    write(tmp_path / "r.jsonl", rows)
    assert run(["calibrate", "--rewards", "r.jsonl", "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["temperature"]["value"] == pytest.approx(found["temperature"]["value"])
    for name, estimate in found["estimates"].items():
        if name not in {"held_out_loss", "held_out_gain"}:  # folds go by the order of clusters
            assert other["estimates"][name]["value"] == pytest.approx(estimate["value"]), name


def test_texts_and_conversations_are_the_same_pairs(tmp_path):
    rows = [
        PAIRS[0],
        as_conversations(PAIRS[0]),
        {**as_conversations(PAIRS[0]), "messages": turns(*ANSWERS[0][:2])},  # as UltraFeedback has
        {**PAIRS[0], "messages": turns(*ANSWERS[0][:2])[:1]},
    ]
    found = read_pairs(write(tmp_path / "p.jsonl", rows))
    assert {(p.messages, p.chosen, p.rejected, p.cluster) for p in found} == {
        ((Message("user", ANSWERS[0][0]),), *ANSWERS[0][1:], found[0].cluster)
    }


def test_two_equal_answers_and_a_shared_prompt_are_said(tmp_path):
    rows = [*PAIRS, {**PAIRS[0], "rejected": PAIRS[0]["chosen"]}]
    with Store(tmp_path / "store.db") as store:
        found = calibrate(write(tmp_path / "p.jsonl", rows), spec_of(DEMO_RM), store)
    assert (found.overall.ties, found.temperature.n, found.temperature.clusters) == (1, 13, 12)
    assert any("1 pair of two equal answers" in note for note in found.notices)


def test_an_answer_that_cannot_be_scored_is_named(tmp_path):
    spec = spec_of(DEMO_RM, max_length=60)
    rows = [*PAIRS, {"prompt": "Go on.", "id": "long", "chosen": "on " * 200, "rejected": "no"}]
    path = write(tmp_path / "p.jsonl", rows)
    with Store(tmp_path / "store.db") as store:
        with pytest.raises(MissingError, match=r"p\.jsonl:13: long: chosen: "):
            calibrate(path, spec, store)
        found = calibrate(path, spec, store, options=Options(missing="drop"))
    assert (found.overall.n, len(found.unscored)) == (12, 1)


PAIR = PAIRS[0]
CHAT = as_conversations(PAIR)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({k: v for k, v in PAIR.items() if k != "prompt"}, "messages"),
        ({k: v for k, v in PAIR.items() if k != "chosen"}, "'chosen' is missing"),
        ({**PAIR, "rejected": None}, "'rejected' must be text"),
        ({**PAIR, "rejected": []}, "'rejected' must be a list of turns"),
        ({**PAIR, "prompt": 1}, "'prompt' must be text"),
        ({**PAIR, "messages": turns("a", "b")}, "must end with the user's turn"),
        ({**PAIR, "magnitude": 0}, "'magnitude' must be 1, 2 or 3"),
        ({**CHAT, "rejected": turns("Another?", "x")}, "answer to another prompt"),
        ({**CHAT, "rejected": CHAT["rejected"][:1]}, "must end with"),
        ({**CHAT, "rejected": CHAT["rejected"][1:]}, "no user turn"),
        ({**CHAT, "rejected": [*CHAT["rejected"], *CHAT["rejected"][1:]]}, "must end with"),
        ({**CHAT, "messages": turns("Another?", "x")[:1]}, "not the prompt that"),
        ({**CHAT, "prompt": "Another?"}, "'prompt' is no turn"),
        ({**PAIR, "prompt_id": "first"}, "two different prompts"),
    ],
)
def test_faulty_pairs_are_refused_with_their_place(tmp_path, row, says):
    first = {**PAIRS[1], "prompt_id": "first"}
    with pytest.raises(MalformedError) as refused:
        read_pairs(write(tmp_path / "p.jsonl", [first, row]))
    assert says in str(refused.value)
    assert "p.jsonl:2: field" in str(refused.value)


@needs_shared
def test_a_model_that_compares_answers_has_no_temperature(tmp_path):
    path = write(tmp_path / "p.jsonl", PAIRS)
    with (
        Store(tmp_path / "store.db") as store,
        pytest.raises(InputError, match="which have no temperature"),
    ):
        calibrate(path, spec_of(FIXTURES / "pairrm"), store)


def test_pairs_on_one_line_of_an_array_are_counted_one_by_one(tmp_path):
    rows = [*noisy(20), *({"reward_chosen": None, "reward_rejected": 0} for _ in range(3))]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    found = calibrate_rewards(str(tmp_path / "r.json"), options=Options(missing="drop"))
    assert (found.overall.n, len(found.unscored)) == (20, 3)
