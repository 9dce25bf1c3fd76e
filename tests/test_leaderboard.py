"""All players on one scale: by hand, against evalica, and through the command line."""

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.compare import compare
from evalkit.comparison import Options as CompareOptions
from evalkit.data import Message, conversation_key
from evalkit.errors import InputError, IntegrityError, MissingError
from evalkit.leaderboard import Options, Signature, leaderboard, leaderboard_of_verdicts
from evalkit.pairing import TieRule
from evalkit.report import leaderboard as layout
from evalkit.scoring import RunSettings
from evalkit.store import Store, StoredReward
from evalkit.workspace import Workspace
from tests.fake_reward_model import FakeRewardModel, expected, fake_spec, hashed
from tests.shared_data import SHARED, needs_shared
from tests.test_outputs import FakePairs
from tests.workspace_copy import copy_workspace, evalkit

QUIET = RunSettings(progress=False, device="cpu")
ALPACA = SHARED / "data" / "alpaca_eval"
DROP = Options(missing="drop")


def write(path, answers):
    rows = [
        {"prompt_id": p, "index": k, "messages": [{"role": "user", "content": p}], "completion": c}
        for p, completions in answers.items()
        for k, c in enumerate(completions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def reward(prompt, answer):
    return expected((Message("user", prompt), Message("assistant", answer)))


def some(word, prompts=range(30)):
    return {f"p{i}": [f"{word} {i}"] for i in prompts}


def logit(p):
    return math.log(p / (1 - p))


@pytest.fixture
def run(tmp_path):
    """A leaderboard of name -> answers under a fake reward model."""

    def board_of(players, references=(), output="bradley-terry", options=None):
        files = {name: write(tmp_path / f"{name}.jsonl", a) for name, a in players.items()}
        model = FakePairs() if output == "preference" else FakeRewardModel(unrenderable=["BAD"])
        with Store(tmp_path / "store.db") as store:
            return leaderboard(
                [files[name] for name in files if name not in references],
                [files[name] for name in references],
                fake_spec(output, output=output), Workspace(tmp_path), store,
                options=options, settings=replace(QUIET, load=model.load),
            )  # fmt: skip

    return board_of


def by_name(board):
    return {player.name: player for player in board.players}


def verdicts(path, rows):
    keys = ("prompt_id", "model", "reference", "preference")
    path.write_text("".join(json.dumps(dict(zip(keys, r, strict=True))) + "\n" for r in rows))
    return str(path)


# By hand


def test_two_players_stand_the_logit_of_the_win_rate_apart(run):
    board = run({"a": some("yes"), "b": some("no")}, ["b"])
    won = sum(reward(f"p{i}", f"yes {i}") > reward(f"p{i}", f"no {i}") for i in range(30))
    players = by_name(board)
    apart = players["a"].strength - players["b"].strength
    assert apart == pytest.approx(logit(won / 30), abs=1e-12)
    assert players["a"].elo == pytest.approx(400 * math.log10(won / (30 - won)) / 2)
    assert players["a"].win_probability == pytest.approx(won / 30)
    assert (players["a"].wins, players["a"].ties, players["a"].losses) == (won, 0, 30 - won)
    # influence of a prompt on the logit: (y - p) / (n p (1 - p)); half of it on each side
    stderr = math.sqrt(1 / (30 * won / 30 * (1 - won / 30))) / 2
    assert [players[name].stderr for name in "ab"] == pytest.approx([stderr, stderr])
    assert [players[name].role for name in "ab"] == ["checkpoint", "reference"]
    assert (board.n, board.games, board.state, board.intransitive) == (30, 30, "ok", None)
    assert board.gap[0] == pytest.approx(0, abs=1e-12)


def test_few_prompts_are_said_to_be_few(run):
    said = "are few: the intervals of strengths rest on large samples"
    few = run({"a": some("yes", range(19)), "b": some("no", range(19))})
    assert any(f"19 prompts {said}" in notice for notice in few.notices)
    enough = run({"a": some("yes", range(20)), "b": some("no", range(20))})
    assert not any(said in notice for notice in enough.notices)


def test_a_game_is_the_mean_outcome_of_all_pairs_of_completions(run):
    a = {f"p{i}": [f"x {i}", f"y {i}"] for i in range(20)}
    b = {f"p{i}": [f"z {i}", f"u {i}", f"v {i}"] for i in range(20)}
    board = run({"a": a, "b": b})
    means = [
        np.mean([reward(p, left) > reward(p, right) for left in a[p] for right in b[p]]) for p in a
    ]
    names = [player.name for player in board.players]
    observed = board.observed[names.index("a"), names.index("b")]
    assert observed == pytest.approx(np.mean(means), abs=1e-12)
    me = by_name(board)["a"]
    assert (me.wins, me.ties) == (sum(m > 0.5 for m in means), sum(m == 0.5 for m in means))


def test_verdicts_by_hand(tmp_path):
    rows = [(f"p{i}", "a", "b", 1.0 if i < 3 else 0.25) for i in range(4)]
    file = verdicts(tmp_path / "v.jsonl", rows)
    hard = leaderboard_of_verdicts(file)
    soft = leaderboard_of_verdicts(file, options=Options(soft=True))
    for board, rate, word in ((hard, 3 / 4, "win, tie or loss"), (soft, 3.25 / 4, "as prob")):
        apart = by_name(board)["a"].strength - by_name(board)["b"].strength
        assert apart == pytest.approx(logit(rate), abs=1e-12)
        assert any(word in notice for notice in board.notices)
    assert (hard.signature.outcome, soft.signature.outcome) == ("hard", "soft")
    assert "outcomes: probabilities" in layout.to_text(soft)


def test_both_orders_and_repeats_of_a_verdict_are_one_game(tmp_path):
    rows = [("p", "a", "b", 1.0), ("p", "b", "a", 1.0), ("q", "a", "b", 1.0), ("q", "b", "a", 0.0)]
    board = leaderboard_of_verdicts(verdicts(tmp_path / "v.jsonl", rows))
    a = by_name(board)["a"]
    assert (board.games, a.wins, a.ties, a.losses) == (2, 1, 1, 0)
    assert {player.role for player in board.players} == {"checkpoint"}


# Invariances


def test_neither_the_order_of_players_nor_of_rows_moves_a_byte(run):
    players = {"a": some("yes"), "b": some("no"), "c": some("maybe")}
    turned = {name: dict(reversed(answers.items())) for name, answers in reversed(players.items())}
    one, other = run(players, ["b"]), run(turned, ["b"])
    for form in (layout.to_json, layout.to_csv, layout.to_markdown, layout.to_text):
        assert form(one) == form(other)


@given(st.permutations("abcd"))
@settings(max_examples=20, deadline=None)
def test_relabelling_moves_only_the_labels(tmp_path_factory, names):
    rng = np.random.default_rng(7)
    rows = [
        (f"p{p}", i, j, float(rng.integers(0, 3)) / 2)
        for p in range(12)
        for i, j in (("a", "b"), ("a", "c"), ("b", "c"), ("c", "d"), ("a", "d"), ("b", "d"))
    ]
    new = dict(zip("abcd", names, strict=True))
    folder = tmp_path_factory.mktemp("v")
    plain = leaderboard_of_verdicts(verdicts(folder / "a.jsonl", rows))
    relabelled = [(p, new[i], new[j], y) for p, i, j, y in reversed(rows)]
    turned = by_name(leaderboard_of_verdicts(verdicts(folder / "b.jsonl", relabelled)))
    for player in plain.players:
        other = turned[new[player.name]]
        for key in ("strength", "low", "high", "stderr", "win_probability"):
            assert getattr(other, key) == pytest.approx(getattr(player, key), abs=1e-10)
        for key in ("best_rank", "worst_rank", "wins", "ties", "losses", "separable_from_first"):
            assert getattr(other, key) == getattr(player, key)


def test_a_copy_is_never_separable(run):
    best = {p: [max((f"{w} {p}" for w in "abcdefgh"), key=lambda c, p=p: reward(p, c))]
            for p in some("x", range(60))}  # fmt: skip
    board = run({"one": best, "two": best, "other": some("other", range(60))})
    first, second, third = board.players
    assert (first.name, second.name) == ("one", "two")
    assert first.strength == pytest.approx(second.strength, abs=1e-12)
    assert not second.separable_from_first
    assert third.separable_from_first
    assert (first.best_rank, first.worst_rank) == (second.best_rank, second.worst_rank) == (1, 2)
    assert board.groups == (("one", "two"), ("other",))
    assert second.ties == 60
    text = layout.to_text(board)
    assert text.count("1–2 ") == 2
    assert "the first place is shared by one, two: not separable" in text


def test_the_anchor_is_0_and_moves_no_difference(run):
    players = {"a": some("yes"), "b": some("no"), "c": some("maybe")}
    free, held = by_name(run(players)), run(players, options=Options(anchor="b"))
    at = by_name(held)
    assert (at["b"].strength, at["b"].low, at["b"].high, at["b"].stderr) == (0, 0, 0, 0)
    assert sum(p.strength for p in free.values()) == pytest.approx(0, abs=1e-12)
    for name in "ac":
        assert at[name].strength == pytest.approx(free[name].strength - free["b"].strength)
        ranks = [(p[name].best_rank, p[name].worst_rank) for p in (at, free)]
        assert ranks[0] == ranks[1]
    assert held.signature.anchor == "b"
    with pytest.raises(InputError, match="none of the players"):
        run(players, options=Options(anchor="bb"))


# What is not as it should be


def test_a_mean_margin_that_moves_no_strength_is_said_by_compare_alone(tmp_path):
    # the outlier of a against b is p5, which is not where it stands among all prompts
    rewards = {
        "a": {"p2": 1, "p3": 1, "p4": 1, "p5": -50},
        "b": dict.fromkeys(["p1", "p2", "p3", "p4", "p5"], 0),
        "c": dict.fromkeys(["p1", "p2", "p3", "p4", "p5"], 5),
    }
    files = [write(tmp_path / f"{n}.jsonl", {p: [n] for p in of}) for n, of in rewards.items()]
    rows = [
        StoredReward(
            conversation_key((Message("user", p), Message("assistant", name))),
            reward,
            3,
            0,
            "0" * 64,
        )
        for name, of in rewards.items()
        for p, reward in of.items()
    ]
    model, workspace = fake_spec(), Workspace(tmp_path)
    with Store(tmp_path / "store.db") as store:
        store.add(model.fingerprint, model.manifest, rows, tolerance=1e-4, provenance={})
        board = leaderboard(files, [], model, workspace, store, options=DROP)
        (compared,) = compare(
            files[:1], files[1:2], model, workspace, store, options=CompareOptions(missing="drop")
        )
    assert not any("different sides" in notice for notice in board.notices)
    (said,) = [notice for notice in compared.notices if "different sides" in notice]
    assert said.endswith("rests most on p5, p2, p3")


def test_what_players_lost_or_left_empty_is_said_of_the_prompts_they_met_on(run):
    players = {"a": {**some("yes"), "only a": [""]}, "b": {**some("no"), "p3": [""]}}
    board = run(players, options=DROP)
    said = [notice for notice in board.notices if "empty completion" in notice]
    assert said == ["b: 1 empty completion scored as it is"]


def test_missing_prompts_are_refused_or_counted(run):
    players = {"a": some("yes"), "b": some("no", range(28)), "c": some("maybe", range(1, 30))}
    with pytest.raises(InputError, match="3 prompts that some player lacks") as error:
        run(players)
    assert "b lacks 2 prompts: p28, p29" in str(error.value)
    board = run(players, options=DROP)
    assert (board.n, board.games) == (30, 28 + 29 + 27)
    assert board.left_out == {"b": ("p28", "p29"), "c": ("p0",)}
    assert "3 prompts not played by all, 30 played by some" in board.notices
    assert (board.signature.left_out, board.signature.missing) == (3, "drop")


def test_a_completion_without_a_reward_is_refused_or_named(run):
    players = {"a": some("yes"), "b": {**some("no"), "p3": ["BAD"]}, "c": some("maybe")}
    with pytest.raises(MissingError):
        run(players)
    board = run(players, options=DROP)
    assert board.games == 30 * 3 - 2
    assert board.unscored == {"p3": "b: no ids"}
    assert "p3: b: no ids" in board.notices


def test_two_players_without_a_scored_prompt_in_common_meet_the_others_all_the_same(run):
    early, late = ({f"p{i}": ["BAD"] for i in part} for part in (range(5), range(5, 10)))
    players = {
        "a": some("yes", range(10)),
        "b": {**some("no", range(5)), **late},
        "c": {**early, **some("maybe", range(5, 10))},
    }
    board = run(players, options=DROP)
    assert (board.games, len(board.unscored)) == (10, 10)


def test_prompts_that_differ_under_one_id_are_refused(run, tmp_path):
    row = {"prompt_id": "p", "messages": [{"role": "user", "content": "?"}], "completion": "c"}
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "y.jsonl").write_text(json.dumps(row).replace("?", "!") + "\n")
    with Store(tmp_path / "s.db") as store, pytest.raises(IntegrityError):
        leaderboard([str(tmp_path / "x.jsonl"), str(tmp_path / "y.jsonl")], [], fake_spec(),
                    Workspace(tmp_path), store)  # fmt: skip


def test_players_that_never_met_are_refused(run, tmp_path):
    players = {"a": some("x", range(9)), "b": some("y", range(9)),
               "c": some("z", range(9, 20)), "d": some("u", range(9, 20))}  # fmt: skip
    with pytest.raises(InputError, match="2 groups that never met") as error:
        run(players, options=DROP)
    assert "[a, b]" in str(error.value)
    with pytest.raises(InputError, match="have a scored prompt in common"):
        run({"a": some("x", [1]), "b": some("y", [2])}, options=DROP)
    file = verdicts(tmp_path / "v.jsonl", [("p", "a", "b", 1), ("p", "c", "d", 0)])
    with pytest.raises(InputError, match="never met"):
        leaderboard_of_verdicts(file)


def test_an_unbeaten_player_is_flagged_and_its_strength_explained(tmp_path):
    rows = [(f"p{i}", "best", "b", 1.0) for i in range(9)]
    rows += [(f"p{i}", "c", "b", float(i % 2)) for i in range(9)]
    board = leaderboard_of_verdicts(verdicts(tmp_path / "v.jsonl", rows))
    assert board.state == "separated"
    assert all(name in board.explanation for name in ("[best]", "[b, c]", "imaginary prompt"))
    assert board.explanation in board.notices
    assert board.players[0].name == "best"
    assert math.isfinite(board.players[0].strength)
    assert "fit (separated)" in layout.to_text(board)
    assert json.loads(layout.to_json(board))["state"] == "separated"


def test_one_prompt_has_no_intervals(run):
    players = {name: {"p": [f"{name} {k}" for k in range(9)]} for name in "abc"}
    board = run(players)
    assert {(p.low, p.high, p.stderr, p.best_rank, p.worst_rank) for p in board.players} == {
        (None, None, None, 1, 3)
    }
    assert "[undefined]" in layout.to_text(board)
    assert json.loads(layout.to_json(board))["players"][0]["low"] is None


def test_one_player_or_one_twice_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="a leaderboard of 1 player"):
        run({"a": some("yes")})
    with pytest.raises(InputError, match="a leaderboard of 0 players"):
        run({})
    file = write(tmp_path / "a.jsonl", some("yes"))
    with Store(tmp_path / "s.db") as store, pytest.raises(InputError, match="named twice"):
        leaderboard([file], [file], fake_spec(), Workspace(tmp_path), store)


def test_the_tie_band_and_dropped_ties(run):
    players = {"a": some("yes"), "b": some("no"), "c": some("maybe")}
    wide = run(players, options=Options(ties=TieRule(margin=100)))
    assert {(p.ties, round(p.strength, 9)) for p in wide.players} == {(60, 0.0)}
    with pytest.raises(InputError, match="all are ties"):
        run(players, options=Options(ties=TieRule(margin=100, drop=True)))
    dropped = run(players, options=Options(ties=TieRule(margin=3, drop=True)))
    half = run(players, options=Options(ties=TieRule(margin=3)))
    n_ties = sum(p.ties for p in half.players) // 2
    assert 0 < dropped.games == half.games - n_ties
    assert sum(p.ties for p in dropped.players) // 2 == n_ties


def test_verdicts_that_say_nothing_or_are_missing_are_refused_or_named(tmp_path):
    rows = [(f"p{i}", m, "r", (i + k) % 2) for i in range(4) for k, m in enumerate("ab")]
    silent = verdicts(tmp_path / "s.jsonl", [*rows, ("p9", "a", "r", None), ("p9", "b", "r", 1)])
    with pytest.raises(MissingError, match="1 prompt"):
        leaderboard_of_verdicts(silent)
    board = leaderboard_of_verdicts(silent, options=DROP)
    assert board.unscored == {"p9": "no verdict on a against r"}
    short = verdicts(tmp_path / "m.jsonl", rows[:-1])
    with pytest.raises(InputError, match="b against r lacks 1 prompt: p3"):
        leaderboard_of_verdicts(short)
    assert leaderboard_of_verdicts(short, options=DROP).games == 7
    itself = verdicts(tmp_path / "i.jsonl", [*rows, ("p0", "r", "r", 0.5)])
    said = leaderboard_of_verdicts(itself).notices
    assert "1 verdict on a player against itself left out" in said


def test_choices_that_make_no_sense_are_refused(run, tmp_path):
    file = verdicts(tmp_path / "v.jsonl", [("p", "a", "b", 1), ("q", "a", "b", 0)])
    with pytest.raises(InputError, match="soft outcomes have no ties"):
        Options(soft=True, ties=TieRule(margin=0.1))
    with pytest.raises(InputError, match="level"):
        Options(level=1.0)
    with pytest.raises(InputError, match="for verdicts"):
        run({"a": some("x"), "b": some("y")}, options=Options(soft=True))
    with pytest.raises(InputError, match="no verdicts on the model 'z'"):
        leaderboard_of_verdicts(file, checkpoints=["z"])
    with pytest.raises(InputError, match="no verdicts on the annotator"):
        leaderboard_of_verdicts(file, annotator="z")


# A pair-preference model


def test_a_pair_model_meets_every_two_players_in_both_orders(run):
    players = {"a": some("yes"), "b": some("no"), "c": some("maybe")}
    board = run(players, output="preference")
    assert board.games == 90
    names = [player.name for player in board.players]
    # the bias to the first answer cancels: the higher hash wins
    won = [hashed(f"yes {i}") > hashed(f"no {i}") for i in range(30)]
    observed = board.observed[names.index("a"), names.index("b")]
    assert observed == pytest.approx(np.mean(won))
    assert sum("asked in both orders" in notice for notice in board.notices) == 1


# AlpacaEval's verdicts against evalica


@needs_shared
def test_strengths_are_those_of_evalica(tmp_path):
    golden = json.loads((ALPACA / "golden_reference.json").read_text("utf-8"))["bt"]
    table = pd.read_parquet(ALPACA / "alpaca_eval_preferences.parquet")
    table = table[table.annotator == "weighted_alpaca_eval_gpt4_turbo"]
    scores = table.assign(score=table.preference.replace(0, 1.5) - 1).pivot(
        index="prompt_index", columns="model", values="score"
    )[golden["models"]]
    rows = [
        (str(prompt), a, b, (np.sign(x[a] - x[b]) + 1) / 2)
        for prompt, x in zip(scores.index, scores.to_dict("records"), strict=True)
        for k, a in enumerate(golden["models"])
        for b in golden["models"][k + 1 :]
    ]
    board = leaderboard_of_verdicts(verdicts(tmp_path / "v.jsonl", rows))
    assert (board.n, board.games, board.state) == (805, 805 * 78, "ok")
    assert sum(player.ties for player in board.players) == 2 * golden["n_ties"]
    for player in board.players:
        exact = golden["evalica_bradley_terry_log"][player.name]
        assert player.strength == pytest.approx(exact, abs=1e-8)
        exact = golden["clustered_by_prompt_se_log"][player.name]
        assert player.stderr == pytest.approx(exact, rel=1e-8)


@needs_shared
def test_one_reference_gives_the_logit_of_the_published_win_rate():
    file, judge = str(ALPACA / "alpaca_eval_preferences.parquet"), "weighted_alpaca_eval_gpt4_turbo"
    board = leaderboard_of_verdicts(
        file, annotator=judge, options=replace(DROP, anchor="gpt4_1106_preview")
    )
    path = ALPACA / "leaderboards" / f"{judge}_leaderboard.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        published = {row[""]: float(row["discrete_win_rate"]) for row in csv.DictReader(stream)}
    compared = [p for p in board.players if p.role == "checkpoint" and p.name in published]
    assert len(compared) >= 50
    for player in compared:
        rate = published[player.name] / 100
        assert player.strength == pytest.approx(logit(rate), abs=1e-8), player.name


# The command line, and what is written

NAMES = ("ckpt_400", "ckpt_800", "ckpt_1200")
DEMO = ("leaderboard", *(part for name in NAMES for part in ("-m", name)), "-r", "gpt4_refs")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return copy_workspace(tmp_path_factory.mktemp("demo"))


def test_the_demo_workspace_through_the_command_line(demo):
    files = ("board.json", "board.csv", "board.md")
    outputs = [part for name in files for part in ("-o", name)]
    done = evalkit(demo, *DEMO, *outputs)
    assert done.returncode == 0, done.stderr
    first = [(demo / name).read_bytes() for name in files]
    again = evalkit(demo, *reversed_pairs(DEMO), *outputs)
    assert again.stdout == done.stdout
    assert [(demo / name).read_bytes() for name in files] == first
    board = json.loads(first[0])
    assert (board["schema_version"], board["n"], board["games"]) == (1, 160, 960)
    assert {p["name"] for p in board["players"]} == {*NAMES, "gpt4_refs"}
    assert str(Signature.parse(board["signature"])) == board["signature"]
    for words in ("stand-in, not GPT-4 output", "demo-rm is for trying", "signature: leaderboard|"):
        assert words in done.stdout
    assert json.loads(evalkit(demo, *DEMO, "--json").stdout) == board


def reversed_pairs(command):
    pairs = list(zip(command[1::2], command[2::2], strict=True))
    return (command[0], *(part for pair in reversed(pairs) for part in pair))


def test_an_observed_win_rate_is_that_of_compare(demo):
    board = json.loads(evalkit(demo, *DEMO, "--json").stdout)
    names = board["win_rates"]["players"]
    told = evalkit(demo, "compare", "-m", "ckpt_800", "-r", "gpt4_refs", "--json", "--no-report")
    (found,) = json.loads(told.stdout)["comparisons"]
    observed = board["win_rates"]["observed"][names.index("ckpt_800")][names.index("gpt4_refs")]
    assert observed == pytest.approx(found["estimates"]["win_rate"]["value"], abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "ckpt_800"], "a leaderboard of 1 player"),
        (["-m", "ckpt_800", "-m", "ckpt_800"], "named twice"),
        (["-m", "ckpt_800", "-r", "gpt4_refs", "-o", "x.svg"], "unknown suffix"),
        (["-m", "ckpt_800", "-r", "gpt4_refs", "--coding", "unit"], "no use for --coding"),
        (["-m", "ckpt_800", "-r", "gpt4_refs", "--annotator", "x"], "no use for --annotator"),
        (["-m", "ckpt_800", "-r", "gpt4_refs", "--ties", "soft"], "unknown tie rule"),
        (["--preferences", "v.csv", "--rm", "demo-rm"], "no use for --reward-model"),
        (["--preferences", "v.csv", "--family", "dpo"], "no use for --family"),
        (["--preferences", "v.csv", "-o", "v.csv"], "is an input"),
        (["--preferences", "v.csv"], "never met"),
    ],
)
def test_usage_errors_are_2(demo, arguments, said):
    (demo / "v.csv").write_text("prompt_id,model,reference,preference\np,a,b,1\np,c,d,0\n")
    done = evalkit(demo, "leaderboard", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


HOSTILE = ["=cmd|' /C calc'!A0", "a|b`*_<script>", "\x1b[31mred\u202e", '@x,"y"', "雪"]


def test_hostile_names_stay_text(tmp_path):
    rows = [
        (f"p{p}", a, b, ((p + k) % 3) / 2)
        for p in range(9)
        for k, a in enumerate(HOSTILE)
        for b in HOSTILE[k + 1 :]
    ]
    board = leaderboard_of_verdicts(verdicts(tmp_path / "v.jsonl", rows))
    assert sorted(p["name"] for p in json.loads(layout.to_json(board))["players"]) == sorted(
        HOSTILE
    )
    assert Signature.parse(str(board.signature)) == board.signature
    assert [name.removeprefix("c=").removeprefix("r=") for name in board.signature.players] == (
        sorted(HOSTILE)
    )
    table = list(csv.DictReader(io.StringIO(layout.to_csv(board).decode())))
    assert {row["name"] for row in table} == {
        f"'{name}" if name[0] in "=@" else name for name in HOSTILE
    }
    markdown, text = layout.to_markdown(board).decode(), layout.to_text(board)
    for shown in (markdown, text):
        assert not set(shown) & {"\x1b", "\u202e"}
    assert "<script>" not in markdown.replace("\\<", "")
    heads = {line.replace("\\|", "").count("|") for line in markdown.splitlines()[:7]}
    assert heads == {9}


@pytest.mark.parametrize(
    ("old", "new"),
    [("leaderboard|", "compare|"), ("|n:9", ""), ("|n:9", "|n:x"), ("|n:9", "|n:9|n:9"),
     ("|n:9", "|n:9|colour:red")],
)  # fmt: skip
def test_a_malformed_signature_is_refused(tmp_path, old, new):
    rows = [(f"p{i}", "a", "b", i % 2) for i in range(9)]
    line = str(leaderboard_of_verdicts(verdicts(tmp_path / "v.jsonl", rows)).signature)
    assert Signature.parse(f" {line}\n")
    assert old in line
    with pytest.raises(InputError):
        Signature.parse(line.replace(old, new, 1))
