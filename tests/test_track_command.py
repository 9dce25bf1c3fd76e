"""`evalkit track` from the command line: files, refusals, exit codes, runs in other workspaces."""

import contextlib
import json
import shutil
import sqlite3
from dataclasses import replace

import pytest

from evalkit import track
from evalkit.cli import run as evalkit_here
from evalkit.track import history
from evalkit.track.history import RunPlan, read_history, write_history
from evalkit.workspace import Workspace
from tests.workspace_copy import evalkit

NAMES = ("ckpt_1", "ckpt_2", "ckpt_3", "ckpt_4")
FILES = ("out.json", "out.csv", "out.md", "out.html", "out.svg", "out.png")
WORDS = ("Yes.", "No idea, sorry.", "It depends on what you mean by that.", "Ask someone else!")


def answers(path, word, prompts=range(24)):
    rows = [
        {
            "prompt_id": f"p{i:02}",
            "messages": [{"role": "user", "content": f"What is {i} plus {i}?"}],
            "completion": f"{word} {2 * i if i % 3 else i}",
        }
        for i in prompts
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def make(folder):
    """A workspace with four checkpoints and a reference of short answers."""
    folder.mkdir(parents=True)
    lines = [
        '[defaults]\nreference = "ref"\nreward_model = "demo-rm"\n[refs.ref]\npath = "r.jsonl"'
    ]
    answers(folder / "r.jsonl", "The answer is")
    for k, (name, word) in enumerate(zip(NAMES, WORDS, strict=True)):
        answers(folder / f"{name}.jsonl", word)
        lines.append(f'[checkpoints.{name}]\npath = "{name}.jsonl"\nstep = {100 * (k + 1)}')
    (folder / "evalkit.toml").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = make(tmp_path_factory.mktemp("track") / "one")
    done = evalkit(folder, "--no-progress", "track", "-m", "ckpt_*", "--json")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def run(workspace):
    def of(*arguments, folder=workspace):
        return evalkit(folder, "--no-progress", "track", *arguments)

    return of


def test_runs_in_other_processes_orders_and_workspaces_give_the_same_bytes(run, workspace):
    together = run("-m", "ckpt_*", "-r", "ref", "--json")
    assert together.returncode == 0, together.stderr
    document = json.loads(together.stdout)
    assert (document["schema_version"], document["exit_code"]) == (1, 0)
    (curve,) = document["curves"]
    assert [c["step"] for c in curve["checkpoints"]] == [100, 200, 300, 400]
    assert curve["n"] == 24
    first = run("-m", "ckpt_3", "-m", "ckpt_1", "-r", "ref", "--history", "run.jsonl")
    assert first.returncode == 0, first.stderr
    # another machine: its own store, and none of the earlier checkpoints' answers
    other = make(workspace.parent / "two")
    shutil.copy(workspace / "run.jsonl", other)
    for name in ("ckpt_1", "ckpt_3"):
        (other / f"{name}.jsonl").unlink()
    arguments = ("-m", "ckpt_4", "-m", "ckpt_2", "--history", "run.jsonl", "--json")
    second = run(*arguments, folder=other)
    assert second.returncode == 0, second.stderr
    assert "2 checkpoints from run.jsonl alone" in second.stderr
    assert second.stdout == together.stdout
    assert run(*arguments, folder=other).stdout == together.stdout


def test_rewards_that_came_as_a_pack_pair_as_if_they_were_scored_here(run, workspace):
    added = evalkit(
        workspace, "--no-progress", "refs", "add", "packed", "r.jsonl", "--rm", "demo-rm"
    )
    assert added.returncode == 0, added.stderr
    together = run("-m", "ckpt_*", "-r", "packed", "--json")
    assert together.returncode == 0, together.stderr
    run("-m", "ckpt_1", "-m", "ckpt_3", "-r", "packed", "--history", "packed.jsonl")
    other = make(workspace.parent / "three")
    shutil.copytree(workspace / "reference_cache", other / "reference_cache")
    shutil.copy(workspace / "packed.jsonl", other)
    arguments = ("-m", "ckpt_4", "-m", "ckpt_2", "-r", "packed", "--history", "packed.jsonl")
    second = run(*arguments, "--json", folder=other)
    assert second.returncode == 0, second.stderr
    assert second.stdout == together.stdout
    with contextlib.closing(sqlite3.connect(other / ".evalkit" / "store.db")) as store:
        # two checkpoints of 24 answers; those of the reference were never scored here
        assert store.execute("SELECT count(*) FROM reward").fetchone() == (48,)


def test_every_format_is_written_and_the_same_again(run, workspace):
    outputs = [part for name in FILES for part in ("-o", name)]
    done = run("-m", "ckpt_*", *outputs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("demo-rm#")
    assert "take ckpt_" in done.stdout.splitlines()[0]
    assert "signature: track|" in done.stdout
    first = [(workspace / name).read_bytes() for name in FILES]
    run("-m", "ckpt_4", "-m", "ckpt_[123]", *outputs)
    assert [(workspace / name).read_bytes() for name in FILES] == first
    assert json.loads(first[0])["signature"] in done.stdout


def history_with_a_fall(path, source):
    """The history as it would be had the first two checkpoints won and the third lost."""
    entries = []
    for k, entry in enumerate(read_history(source).entries[:3]):
        won = 1.0 if k < 2 else 0.0
        rows = {
            i: (1.0 - won if n in {3, 9} else won, p, tokens)
            for n, (i, (_, p, tokens)) in enumerate(entry.prompts.items())
        }
        entries.append(replace(entry, prompts=rows))
    path.unlink(missing_ok=True)
    write_history(read_history(path), RunPlan(None, 1, 0.95), entries)


def test_an_alarm_fails_the_command_only_if_asked_to_and_is_kept(run, workspace):
    made = run("-m", "ckpt_*", "--history", "all.jsonl")
    assert made.returncode == 0, made.stderr
    arguments = ("-m", "ckpt_4", "--window", "1", "--history", "fall.jsonl", "-o", "fall.json")
    for extra, code in (((), 0), (("--fail-on", "alarm"), 3)):
        history_with_a_fall(workspace / "fall.jsonl", workspace / "all.jsonl")
        done = run(*arguments, *extra)
        assert done.returncode == code, done.stderr
        assert "ALARM of a decline at ckpt_" in done.stdout.splitlines()[0]
        document = json.loads((workspace / "fall.json").read_text("utf-8"))
        assert (document["exit_code"], document["alarmed"]) == (code, True)
        assert len(read_history(workspace / "fall.jsonl").entries) == 4
    calm = run("-m", "ckpt_1", "--fail-on", "alarm", "--json")
    assert (calm.returncode, json.loads(calm.stdout)["exit_code"]) == (0, 0)


def test_a_gate_of_a_run_is_printed_saved_and_judged_again(run, workspace):
    made = run("-m", "ckpt_[12]", "--history", "gated.jsonl")
    assert made.returncode == 0, made.stderr
    for bound, code in (("0.01", 0), ("0.99", 3)):
        rules = ("--fail-under", f"win_rate={bound}", "--fail-on", "regression:vs=previous",
                 "--margin", "0.999", "--fail-on", "alarm")  # fmt: skip
        done = run("-m", "ckpt_3", "--history", "gated.jsonl", *rules, "-o", "gated.json")
        assert done.returncode == code, done.stderr
        assert "win_rate of ckpt_3 − ckpt_2 against ref under demo-rm#" in done.stderr
        assert done.stderr.splitlines()[-4].endswith(f"exit code {code}")
        assert "no alarm of the run" in done.stderr.splitlines()[-1]
        assert json.loads((workspace / "gated.json").read_text("utf-8"))["exit_code"] == code
        again = evalkit(workspace, "gate", "gated.json", *rules)
        assert again.returncode == code
        assert again.stdout.splitlines() == done.stderr.splitlines()[-4:]


REFUSED = [
    (("-m", "ckpt_1", "--fail-under", "win_probability=0.5"), "tracks win_rate, not win_prob"),
    (("-m", "ckpt_1", "--fail-on", "alert"), "--fail-on 'alert'"),
    (("-m", "ckpt_1", "--inconclusive", "pass"), "--inconclusive without a rule"),
    ((), "no checkpoint is named"),
    (("-m", "nothing_*"), "no checkpoint matches 'nothing_*'"),
    (("-m", "ckpt_9"), "ckpt_9"),
    (("-m", "r.jsonl"), "checkpoint 'r' has no training step"),
    (("-m", "ckpt_1", "-o", "x.tsv"), "unknown suffix"),
    (("-m", "ckpt_1", "--history", "nowhere/run.jsonl"), "no folder nowhere"),
    (("-m", "ckpt_1", "--history", "ckpt_1.jsonl"), "ckpt_1.jsonl is an input"),
    (("-m", "ckpt_1", "--history", "r.jsonl"), "r.jsonl is an input"),
    (("-m", "ckpt_1", "--history", "ckpt_2.jsonl"), "ckpt_2.jsonl:1"),
    (("-m", "ckpt_1", "--history", "h.json", "-o", "./h.json"), "h.json is the history"),
    (("-m", "ckpt_*", "--planned", "3"), "4 checkpoints, but 3 were planned"),
    (("-m", "ckpt_1", "--proxy", "demo-rm"), "a proxy needs a second, held-out reward model"),
    (("-m", "ckpt_1", "--temperature", "0"), "--temperature"),
    (("-m", "ckpt_1", "--history", "circle"), "circle: Too many levels of symbolic links"),
    (("-m", "ckpt_1", "--history", "/dev/full"), "/dev/full is no regular file"),
    (("-m", "ckpt_1", "--fail-under", "mean_reward=0.5"), "evalkit compare for rules in other"),
    (("-m", "ckpt_1", "--rm", "demo-rm", "--rm", "demo-rm"), "named twice"),
    (("-m", "ckpt_1", "--ties", "soft"), "unknown tie rule"),
    (("-m", "short"), "p23"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED)
def test_refusals_say_what_and_change_nothing(run, workspace, arguments, said):
    config = workspace / "evalkit.toml"
    if "short" not in config.read_text():
        answers(workspace / "short.jsonl", "Yes.", range(23))
        config.write_text(
            f'{config.read_text()}[checkpoints.short]\npath = "short.jsonl"\nstep=9\n'
        )
    if not (workspace / "circle").is_symlink():
        (workspace / "circle").symlink_to("circle")
    before = {path: path.read_bytes() for path in workspace.glob("*.*") if path.is_file()}
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert {p: p.read_bytes() for p in workspace.glob("*.*") if p.is_file()} == before


def test_a_history_of_another_run_is_refused_before_scoring_and_left_as_it_is(run, workspace):
    made = run("-m", "ckpt_1", "--history", "old.jsonl")
    assert made.returncode == 0, made.stderr
    before = (workspace / "old.jsonl").read_bytes()
    answers(workspace / "never_scored.jsonl", "Perhaps, perhaps not:")
    (workspace / "never_scored.toml").write_text("step = 900\n")
    store = workspace / ".evalkit" / "store.db"
    known = read_only(store, "SELECT COUNT(*) FROM reward")
    new = ("-m", "./never_scored.jsonl", "--history", "old.jsonl")
    for arguments, said in (
        (("-r", "./ckpt_2.jsonl"), "the history is of another reference"),
        (("--ties", "margin=0.5"), "the history is of another tie rule"),
        (("--rm", "demo-rm", "--dtype", "bfloat16"), "mixed reward models"),
        (("--planned", "9"), "now 9 planned, window 3"),
        (("-m", "ckpt_2", "--window", "2"), "now none planned, window 2"),
        (("-m", "ckpt_2", "--temperature", "2"), "now none planned, window 3, level 0.95, temp"),
    ):
        done = run(*new, *arguments, "-o", "never.json")
        assert done.returncode == 2
        assert said in done.stderr
        assert (workspace / "old.jsonl").read_bytes() == before
        assert not (workspace / "never.json").exists()
        assert read_only(store, "SELECT COUNT(*) FROM reward") == known


def read_only(store, query):
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
        return database.execute(query).fetchone()


def test_what_is_left_out_of_the_plan_follows_the_history_and_is_said(run, workspace):
    first = ("-m", "ckpt_1", "--history", "planned.jsonl", "--planned", "9", "--ci", "0.9")
    assert run(*first).returncode == 0
    done = run("-m", "ckpt_2", "--history", "planned.jsonl", "--json")
    assert "9 planned, window 3, level 0.9: as planned.jsonl says" in done.stderr
    found = json.loads(done.stdout)
    assert (found["planned"], found["level"]) == (9, 0.9)
    again = run("-m", "ckpt_2", "--history", "planned.jsonl", "--planned", "9", "--ci", "0.9")
    assert "as planned.jsonl says" not in again.stderr
    default = run("-m", "ckpt_2", "--history", "planned.jsonl", "--ci", "0.95")
    assert default.returncode == 2
    assert "planned otherwise: 9 planned, window 3, level 0.9; now 9 planned" in default.stderr


def test_a_run_may_follow_the_win_probability_at_a_temperature(run, workspace):
    """As compare has it; the history keeps it, so that no run mixes two."""
    tracked = ("-m", "ckpt_1", "--metric", "win_probability", "--history", "warm.jsonl", "--json")
    warm = run(*tracked, "--temperature", "4")
    assert warm.returncode == 0, warm.stderr
    found = json.loads(warm.stdout)
    assert found["temperature"] == 4
    assert "|temperature:4.0|" in found["signature"]
    alone = evalkit(workspace, "--no-progress", "compare", "-m", "ckpt_1", "--temperature", "4",
                    "--json")  # fmt: skip
    compared = json.loads(alone.stdout)["comparisons"][0]["estimates"]["win_probability"]
    assert found["curves"][0]["checkpoints"][0]["estimate"]["value"] == compared["value"]
    followed = run(*tracked)
    assert "temperature 4.0: as warm.jsonl says" in followed.stderr
    assert json.loads(followed.stdout)["curves"] == found["curves"]


def test_an_output_is_no_input_even_under_its_name(run, workspace):
    rows = [json.loads(line) for line in (workspace / "ckpt_1.jsonl").read_text().splitlines()]
    (workspace / "named.json").write_text(json.dumps(rows), "utf-8")
    (workspace / "named.toml").write_text("step = 5\n")
    before = (workspace / "named.json").read_bytes()
    done = run("-m", "./named.json", "-o", "named.json")
    assert done.returncode == 2
    assert "named.json is an input" in done.stderr
    assert (workspace / "named.json").read_bytes() == before


def test_a_run_finds_its_workspace_once_and_reads_its_history_once(workspace, monkeypatch, capsys):
    calls = []

    def counted(found, name):
        def call(*arguments):
            calls.append(name)
            return found(*arguments)

        return call

    monkeypatch.chdir(workspace)
    monkeypatch.setattr(Workspace, "find", counted(Workspace.find, "find"))
    monkeypatch.setattr(history, "read_history", counted(read_history, "read_history"))
    arguments = ["--no-progress", "track", "-m", "ckpt_[123]", "--rm", "demo-rm"]
    for extra in ([], ["--history", "once.jsonl"], ["--history", "once.jsonl", "--ci", "0.95"]):
        calls.clear()
        assert evalkit_here([*arguments, *extra]) == 0, capsys.readouterr().err
        assert calls == ["find", "read_history"][: 1 + bool(extra)]


def test_a_run_that_ends_while_another_scores_is_not_lost(workspace, monkeypatch, run):
    monkeypatch.chdir(workspace)
    found = track.compare_all

    def meanwhile(*arguments, **options):
        done = run("-m", "ckpt_2", "--history", "meanwhile.jsonl")
        assert done.returncode == 0, done.stderr
        return found(*arguments, **options)

    monkeypatch.setattr(track, "compare_all", meanwhile)
    arguments = ["--no-progress", "track", "-m", "ckpt_1", "--history", "meanwhile.jsonl"]
    assert evalkit_here(arguments) == 0
    kept = [e.checkpoint for e in read_history(workspace / "meanwhile.jsonl").entries]
    assert kept == ["ckpt_1", "ckpt_2"]
