"""The commands as a user runs them: real processes, the embedded data, demo-rm."""

import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from evalkit.signature import Signature
from tests.workspace_copy import QUIET, copy_workspace, evalkit, start_evalkit

MAIN_JOB = ("compare", "--model", "ckpt_1200", "--ref", "gpt4_refs")
ESTIMATES = {"mean_reward", "reference_mean_reward", "win_rate", "win_probability", "margin"}
FIELDS = {"value", "low", "high", "stderr", "level", "n", "method"}


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    folder = copy_workspace(tmp_path_factory.mktemp("main-job"))
    return folder, evalkit(folder, *MAIN_JOB, "--json")


def stored(folder) -> int:
    path = folder / ".evalkit" / "store.db"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as db:
        try:
            return db.execute("SELECT count(*) FROM reward").fetchone()[0]
        except sqlite3.OperationalError:  # its tables are not made yet
            return 0


def test_the_main_job_prints_a_table_and_writes_a_report(first_run):
    folder, _ = first_run
    done = evalkit(folder, *MAIN_JOB)
    assert done.returncode == 0
    assert re.search(r"^ckpt_1200 +gpt4_refs +160 +\d+\.\d % \[", done.stdout, re.M)
    assert "gpt4_refs is a stand-in, not GPT-4 output" in done.stdout
    assert "demo-rm is for trying the pipeline" in done.stdout
    report = re.search(r"report: (.*report\.html)", done.stderr)
    assert (folder / report[1]).is_file()


def test_the_json_is_the_contract(first_run):
    _, done = first_run
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert document["exit_code"] == 0
    (found,) = document["comparisons"]
    assert (found["checkpoint"], found["reference"], found["n"]) == ("ckpt_1200", "gpt4_refs", 160)
    assert found["step"] == 1200
    assert found["wins"] + found["ties"] + found["losses"] == 160
    assert set(found["estimates"]) == ESTIMATES
    assert all(set(e) >= FIELDS for e in found["estimates"].values())
    assert len(found["reward_model"]["fingerprint"]) == 64
    assert len(found["subsets"]) == 8
    assert sum(s["n"] for s in found["subsets"].values()) == 160
    assert all(set(s) >= ESTIMATES for s in found["subsets"].values())
    assert found["truncated"] == 0
    assert str(Signature.parse(found["signature"])) == found["signature"]


def test_a_second_run_gives_the_same_bytes_without_torch(first_run):
    folder, first = first_run
    code = (
        "import sys; from evalkit.cli import run; code = run(sys.argv[1:]); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; sys.exit(code)"
    )
    second = subprocess.run(
        [sys.executable, "-c", code, *MAIN_JOB, "--json"],
        cwd=folder, env=QUIET, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert second.stderr.count("scored") == 0
    assert second.returncode == 0
    assert second.stdout == first.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("compare", "--model", "gpt4_refs", "--ref", "gpt4_refs", "--no-report"),
        ("score", "gpt4_refs", "-o", "scores.jsonl"),
    ],
    ids=["compare", "score"],
)
def test_a_reference_is_scored_once_and_its_pack_travels(tmp_path, command):
    folder = copy_workspace(tmp_path)
    assert evalkit(folder, *command).returncode == 0
    assert stored(folder) == 0  # every reward came from the pack in the repository


def test_known_rewards_of_parquet_files_are_served_without_torch(tmp_path):
    import pandas as pd

    folder = copy_workspace(tmp_path)
    answers = pd.read_json(folder / "reference_cache/gpt4_refs/completions.jsonl", lines=True)
    answers.to_parquet(folder / "answers.parquet")
    command = ["compare", "-m", "answers.parquet", "-r", "gpt4_refs", "--no-report"]
    code = (
        "import sys; from evalkit.cli import run; run(sys.argv[1:]); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=folder, env=QUIET, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_an_output_that_is_an_input_or_no_file_is_refused(tmp_path):
    row = '{"instruction": "a", "output": "b"}'
    (tmp_path / "rows.jsonl").write_text(row)
    (tmp_path / "reports").write_text("a file")
    for output in ("rows.jsonl", "/dev/null"):
        done = evalkit(tmp_path, "score", "rows.jsonl", "--rm", "demo-rm", "-o", output)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert (tmp_path / "rows.jsonl").read_text() == row
    done = evalkit(tmp_path, "compare", "-m", "rows.jsonl", "-r", "rows.jsonl", "--rm", "demo-rm")
    assert done.returncode == 2
    assert done.stdout.startswith("reward model demo-rm")  # the result is not lost


def test_all_outputs_are_written_exactly_where_asked(first_run, tmp_path):
    folder, first = first_run
    names = ["r.json", "r.jsonl", "r.csv", "r.md", "r.svg", "r.png", "r.html"]
    flags = [x for name in names for x in ("-o", str(tmp_path / name))]
    reports = set((folder / "reports").rglob("*"))
    done = evalkit(folder, *MAIN_JOB, *flags, "--no-report")
    assert done.returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    assert (tmp_path / "r.json").read_text() == first.stdout
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 160
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert set((folder / "reports").rglob("*")) == reports


def test_several_checkpoints_and_references_make_every_pair(first_run):
    folder, _ = first_run
    done = evalkit(
        folder, "compare", "-m", "ckpt_1200", "-m", "ckpt_800", "-r", "gpt4_refs", "-r",
        "benchmarks/starter/completions/ckpt_400.jsonl", "--json", "--no-report",
    )  # fmt: skip
    pairs = [(c["checkpoint"], c["reference"]) for c in json.loads(done.stdout)["comparisons"]]
    assert pairs == [
        ("ckpt_1200", "gpt4_refs"),
        ("ckpt_1200", "ckpt_400"),
        ("ckpt_800", "gpt4_refs"),
        ("ckpt_800", "ckpt_400"),
    ]


def test_the_seed_moves_bootstrap_intervals_and_nothing_else(first_run):
    folder, _ = first_run

    def run(*options):
        done = evalkit(folder, *MAIN_JOB, "--json", "--no-report", *options)
        (found,) = json.loads(done.stdout)["comparisons"]
        return found["estimates"]["margin"]

    one, again, other = (
        run("--bootstrap", "500"),
        run("--bootstrap", "500"),
        run("--bootstrap", "500", "--seed", "7"),
    )
    assert one == again
    assert (one["method"], one["resamples"]) == ("bca", 500)
    assert one["low"] != other["low"]
    assert one["value"] == other["value"]


def test_score_keeps_ids_in_type_and_order(tmp_path):
    rows = [
        {"id": 7, "instruction": "Say hi", "output": "hi"},
        {"id": "007", "instruction": "Say hi", "input": "in French", "output": "salut"},
        {"instruction": "Say hi", "output": "hi"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    done = evalkit(tmp_path, "score", "rows.jsonl", "--reward-model", "demo-rm", "-o", "out.jsonl")
    assert done.returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [7, "007", ""]
    assert lines[0]["score"] == lines[2]["score"] != lines[1]["score"]


def test_an_overlong_row_is_named_and_never_a_number(tmp_path):
    rows = [
        {"id": i, "instruction": "Go", "output": "word " * n} for i, n in enumerate((1, 400, 2))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("score", "rows.jsonl", "--reward-model", "demo-rm", "--max-length", "100")
    done = evalkit(tmp_path, *command)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 6
    assert [line["score"] is None for line in lines] == [False, True, False]
    assert "rows.jsonl:2" in done.stderr
    assert "more than the 100 allowed" in done.stderr
    cut = evalkit(tmp_path, *command, "--overlong", "truncate-left")
    assert cut.returncode == 0
    assert json.loads(cut.stdout.splitlines()[1])["tokens_cut"] > 0


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_keeps_its_batches_and_resumes(first_run, tmp_path, stop):
    _, uninterrupted = first_run
    folder = copy_workspace(tmp_path)
    command = (*MAIN_JOB, "--json", "--batch-tokens", "300")
    child = start_evalkit(folder, *command)
    deadline = time.monotonic() + 120
    while not stored(folder) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(stop)
    _, stderr = child.communicate(timeout=30)
    kept = stored(folder)
    assert child.returncode == (130 if stop != signal.SIGKILL else -9)
    assert "Traceback" not in stderr
    assert 0 < kept < 160
    resumed = evalkit(folder, *command)
    assert f"scored {160 - kept} rows" in resumed.stderr
    assert (
        json.loads(resumed.stdout)["comparisons"][0]["wins"]
        == (json.loads(uninterrupted.stdout)["comparisons"][0]["wins"])
    )


def test_a_bug_has_its_traceback_in_a_file_and_not_on_the_terminal(tmp_path, monkeypatch, capsys):
    from evalkit import sets
    from evalkit.cli import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sets, "read_rows", lambda *_: 1 / 0)
    assert run(["score", "x.jsonl", "--reward-model", "demo-rm"]) == 1
    stderr = capsys.readouterr().err
    (saved,) = tmp_path.glob("evalkit-bug-*.txt")
    assert "Traceback" not in stderr
    assert str(saved) in stderr
    assert "ZeroDivisionError" in saved.read_text()


def test_every_command_has_help_with_an_example():
    from evalkit.cli import cli

    def commands(group, path=("evalkit",)):
        for name, command in group.commands.items():
            yield (*path, name), command
            if hasattr(command, "commands"):
                yield from commands(command, (*path, name))

    for path, command in commands(cli):
        assert command.help, path
        if len(path) == 2:
            assert f"{' '.join(path)} " in command.help, path
