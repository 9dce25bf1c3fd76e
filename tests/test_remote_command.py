"""Endpoints through the command line: killed and resumed, refused with what to do, keys unseen."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evalkit.cli import run
from evalkit.reward_models.remote import client
from evalkit.reward_models.remote.dialects import dialects
from tests.endpoints import Raw, toml
from tests.reward_server import BEFORE, MODEL, RewardServer, reward_of
from tests.shared_data import DEMO_RM, REPOSITORY

SECRET = "sk-verysecretkey-0123456789"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client, "ATTEMPTS", 2)


def workspace(folder, url, answers, **keys):
    known = {"endpoint": url, "dialect": "vllm-pooling", "model": MODEL, "revision": "0123abc4",
             "tokenizer": str(DEMO_RM), "max_length": 256, "timeout": 5.0}  # fmt: skip
    (folder / "evalkit.toml").write_text(toml(**{**known, **keys}))
    lines = [
        {"id": f"r{i}", "messages": [{"role": "user", "content": "Why?"}], "completion": text}
        for i, text in enumerate(answers)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def command(*more):
    return ("--no-progress", "score", "rows.jsonl", "--rm", "served", "-o", "scores.jsonl", *more)


def child(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "evalkit", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def scores(folder):
    lines = (folder / "scores.jsonl").read_text().splitlines()
    return {row["id"]: row["score"] for row in map(json.loads, lines)}


def expected(server, answers):
    return {
        f"r{i}": reward_of(
            server.tokenizer.encode(f"<|user|>Why?<|end|><|assistant|>{text}<|end|>").ids
        )
        for i, text in enumerate(answers)
    }


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    answers = [f"answer number {i:03}" for i in range(72)]

    class Deliberate(RewardServer):
        def _vllm(self, path, body):
            time.sleep(0.1 if path == "/pooling" else 0)
            return super()._vllm(path, body)

    with Deliberate("vllm") as server:
        workspace(tmp_path, server.url, answers)
        first = child(tmp_path, *command("--batch-tokens", "128"))
        while sum("answer number" in text for text in server.rows) < 40:
            assert first.poll() is None, first.communicate()
            time.sleep(0.02)
        first.kill()
        first.communicate()
        before = server.rows.copy()
        again = child(tmp_path, *command())
        _, said = again.communicate(timeout=60)
        assert again.returncode == 0, said
        new, known = map(int, re.search(r"(\d+) conversations scored, (\d+) known", said).groups())
        assert new + known == len(answers)
        assert known >= 24
        twice = [t for t in server.rows if before[t] and server.rows[t] > before[t]]
        # at most the sentinels, and the rows of the one batch in flight when it was killed
        assert sum("answer number" in t for t in twice) <= 8 + 8
        assert scores(tmp_path) == expected(server, answers)
    assert (
        f"served by {server.url} as {MODEL} at 0123abc4, which is declared and not verified" in said
    )


@pytest.mark.parametrize(
    ("keys", "code", "says"),
    [
        ({"endpoint": "http://127.0.0.1:9"}, 6, ["http://127.0.0.1:9", "start it, or correct"]),
        ({"endpoint": "http://nowhere.invalid"}, 6, ["nowhere.invalid", "start it, or correct"]),
        ({"dialect": "tei-predict"}, 6, ["404", "check endpoint, dialect"]),
        ({"dialect": "vllm-score"}, 2, ["always squashes", "vllm-pooling"]),
        ({"model": "org/other"}, 6, ["'org/other' is not served", MODEL]),
        ({"max_length": 256, "about": 128}, 2, ["128 tokens", "max_length = 128"]),
        ({"key_env": "NO_SUCH_KEY"}, 6, ["NO_SUCH_KEY", "export"]),
        ({"tokenizer": "gone"}, 2, ["no tokenizer", "gone"]),
        ({"dialec": "x"}, 2, ["unknown key 'dialec'", "did you mean: dialect"]),
        ({"concurrency": Raw('"8"')}, 2, ["'concurrency'", "an integer"]),
    ],
)  # fmt: skip
def test_bad_input_says_what_where_and_how_to_fix_it(
    tmp_path, monkeypatch, capsys, keys, code, says
):
    about = {"max_model_len": keys.pop("about")} if "about" in keys else {}
    monkeypatch.chdir(tmp_path)
    with RewardServer("vllm", about=about) as server:
        workspace(tmp_path, server.url, ["a"], **keys)
        assert run(command()) == code
    said = capsys.readouterr().err
    assert all(text in said for text in says), said
    assert "fix:" in said


def test_an_over_long_and_an_empty_answer(tmp_path, monkeypatch, capsys):
    answers = ["word " * 400, "", "fine"]
    monkeypatch.chdir(tmp_path)
    with RewardServer("vllm") as server:
        workspace(tmp_path, server.url, answers)
        assert run(command()) == 6
        found, truth = scores(tmp_path), expected(server, answers)
    said = capsys.readouterr().err
    assert found == {**truth, "r0": None}
    assert "rows.jsonl:1" in said
    assert "more than the 256 allowed" in said


def test_work_done_before_a_server_went_away_is_kept(tmp_path, monkeypatch, capsys):
    answers = [f"answer number {i:03}" for i in range(60)]
    monkeypatch.chdir(tmp_path)

    def leaves(texts, seen):
        return "503" if sum(server.rows.values()) > 70 else None

    with RewardServer("vllm", misbehave=leaves) as server:
        workspace(tmp_path, server.url, answers)
        assert run(command("--batch-tokens", "128")) == 6
        assert "what was scored is kept, the same command goes on" in capsys.readouterr().err
        assert not (tmp_path / "scores.jsonl").exists()
    with RewardServer("vllm") as server:
        workspace(tmp_path, server.url, answers)
        assert run(command()) == 0
        new = int(re.search(r"(\d+) conversations scored", capsys.readouterr().err)[1])
        assert 0 < new < 50
        assert scores(tmp_path) == expected(server, answers)


def test_no_key_in_anything_that_a_run_writes(tmp_path):
    answers = ["good", "poison"]

    def spoil(texts, seen):
        return "echo" if any("poison" in text for text in texts) else None

    with RewardServer("vllm", misbehave=spoil) as server:
        server.key = SECRET
        workspace(tmp_path, server.url, answers, key_env="RM_KEY")
        os.environ["RM_KEY"] = SECRET
        try:
            done = child(tmp_path, *command())
            out, err = done.communicate(timeout=60)
        finally:
            del os.environ["RM_KEY"]
    assert done.returncode == 6, err
    written = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert len(written) >= 3
    assert not [data for data in [out.encode(), err.encode(), *written] if SECRET.encode() in data]


def test_a_bug_leaves_no_key_in_its_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RM_KEY", SECRET)
    monkeypatch.chdir(tmp_path)

    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(client, "_whole", fail)
    with RewardServer("vllm") as server:
        workspace(tmp_path, server.url, ["a"], key_env="RM_KEY")
        assert run(command()) == 1
    path = Path(re.search(r"traceback is in (\S+),", capsys.readouterr().err)[1])
    text = path.read_text("utf-8")
    path.unlink()
    assert "ZeroDivisionError" in text
    assert SECRET not in text


def test_show_says_what_is_declared_and_asks_nobody(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    workspace(tmp_path, "http://127.0.0.1:9", ["a"], key_env="RM_KEY")
    assert run(["reward-models", "show", "served"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["endpoint"]["url"] == "http://127.0.0.1:9"
    assert found["manifest"]["endpoint"] == {"model": MODEL, "revision": "0123abc4"}
    assert found["manifest"]["dtype"] == "bfloat16"


def test_list_knows_every_dialect(capsys):
    assert run(["reward-models", "list"]) == 0
    said = capsys.readouterr().out
    assert all(f"{name}  (dialect" in said for name in [*dialects(), "openai-judge"])


def test_a_judge_needs_neither_torch_nor_transformers(tmp_path):
    script = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from evalkit.cli import run\n"
        "code = run(['compare', '-m', 'a.jsonl', '-r', 'b.jsonl', '--rm', 'served', '--json'])\n"
        "sys.exit(code)"
    )
    with RewardServer("openai", judge=lambda prompt: "[[A]]") as server:
        workspace(tmp_path, server.url, [], dialect="openai-judge", tokenizer=None, max_length=None)
        for name in "ab":
            lines = [
                json.dumps({"id": str(i), "messages": [{"role": "user", "content": f"Q{i}"}],
                            "completion": name})
                for i in range(3)
            ]  # fmt: skip
            (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["comparisons"]
    assert found["estimates"]["win_rate"]["value"] == 0.5
    assert found["first_shown"]["value"] == 1.0


def test_rows_that_a_server_fails_on_are_to_be_asked_for_again_and_not_mended(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with RewardServer("vllm", misbehave=on_poison("html")) as server:
        workspace(tmp_path, server.url, ["poison", "fine"])
        assert run(command()) == 6
        fix = capsys.readouterr().err.split("fix: ")[1]
        assert "give the same command again" in fix
        assert "--max-length" not in fix
        workspace(tmp_path, server.url, ["poison", "fine", "word " * 400])
        assert run(command()) == 6
    fix = capsys.readouterr().err.split("fix: ")[1]
    assert "give the same command again" in fix
    assert "mend these rows (see --max-length" in fix


def test_a_reply_that_breaks_off_is_said_in_words(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(BEFORE, "broken chunk", break_off)
    with RewardServer("vllm", misbehave=on_poison("broken chunk")) as server:
        workspace(tmp_path, server.url, ["poison", "fine"])
        assert run(command()) == 6
    said = capsys.readouterr().err
    assert "the server failed: the connection was closed before the end of the reply" in said


def on_poison(mode):
    """Misbehaves towards requests that hold a marked row."""
    return lambda texts, times: mode if any("poison" in text for text in texts) else None


def break_off(handler):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b'40\r\n{"data"')


def test_a_judge_that_is_not_understood_is_asked_again_and_never_cut(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("ours", "theirs"):
        row = {"id": "p", "messages": [{"role": "user", "content": "Q?"}], "completion": name}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    compare = (
        "--no-progress",
        "compare",
        "-m",
        "ours.jsonl",
        "-r",
        "theirs.jsonl",
        "--rm",
        "served",
    )
    answers = ["Hm.", "[[A]]"]
    with RewardServer("openai", judge=lambda prompt: answers[0]) as server:
        (tmp_path / "evalkit.toml").write_text(
            toml(endpoint=server.url, dialect="openai-judge", model=MODEL)
        )
        for arguments in (compare, ("reward-models", "check", "served")):
            assert run(arguments) == 6
            fix = capsys.readouterr().err.split("fix: ")[1]
            assert 'verdict = "letter"' in fix
            assert "--max-length" not in fix
        answers.pop(0)
        assert run(compare) == 0
    said = capsys.readouterr().out
    assert said.startswith("judge served #")
    assert "float32" not in said.splitlines()[0]
