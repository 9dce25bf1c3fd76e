"""Real servers, started here: what they serve is scored as the same files are, or said not to be.

`transformers serve` comes with the development group, Infinity with `make servers`; SmolLM2 is
written by scripts/smollm2.py, as its own lines say.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from evalkit.cli import run as evalkit
from evalkit.data import Message, conversation_key
from evalkit.reward_models import load
from evalkit.store import Store
from tests.endpoints import Raw, declare, run, toml
from tests.shared_data import REPOSITORY, spec_of
from tests.tiny_served import chat_model, cross_encoder

TRANSFORMERS = Path(sys.executable).with_name("transformers")
INFINITY = REPOSITORY / ".venv-servers" / "bin" / "infinity_emb"
SMOLLM2 = Path(os.environ.get("EVALKIT_SMOLLM2", REPOSITORY / ".evalkit" / "smollm2"))
STARTER = REPOSITORY / "benchmarks" / "starter"
STAND_INS = REPOSITORY / "reference_cache" / "gpt4_refs" / "completions.jsonl"

needs_transformers = pytest.mark.skipif(
    not TRANSFORMERS.is_file() or find_spec("uvicorn") is None,
    reason="transformers[serving] is not installed",
)
needs_infinity = pytest.mark.skipif(
    not INFINITY.is_file(), reason="Infinity is not installed: make servers"
)
needs_smollm2 = pytest.mark.skipif(
    not SMOLLM2.is_dir(), reason="scripts/smollm2.py has not written .evalkit/smollm2"
)


@contextlib.contextmanager
def serving(command, log, ready):
    """A server on a port of its own, until the path that shows it is ready answers; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with log.open("w") as out:
        child = subprocess.Popen(
            [*map(str, command), "--host", "127.0.0.1", "--port", str(port)],
            stdout=out, stderr=out, env={**os.environ, **offline}, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while not answers(port, ready):
            assert child.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def answers(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def judging(folder, log):
    command = [TRANSFORMERS, "serve", folder, "--device", "cpu", "--dtype", "float32"]
    return serving(command, log, "/health")


def embedded(n, *, turns=None):
    """Prompts of the embedded benchmark with the answers of a checkpoint and of the stand-ins."""

    def texts(path):
        rows = map(json.loads, path.read_text("utf-8").splitlines())
        return {row["prompt_id"]: row["completion"] for row in rows if not row.get("index")}

    ours, theirs = texts(STARTER / "completions" / "ckpt_1200.jsonl"), texts(STAND_INS)
    prompts = map(json.loads, (STARTER / "prompts.jsonl").read_text("utf-8").splitlines())
    found = [p for p in prompts if turns is None or len(p["messages"]) == turns]
    both = [p for p in found if p["prompt_id"] in ours.keys() & theirs.keys()]
    return [(p, ours[p["prompt_id"]], theirs[p["prompt_id"]]) for p in both[:n]]


def write_sets(folder, rows):
    for name, place in (("ours", 1), ("theirs", 2)):
        lines = [
            {"prompt_id": r[0]["prompt_id"], "messages": r[0]["messages"], "completion": r[place]}
            for r in rows
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def judged(folder, url, model, **parameters):
    """Exit code of a comparison by the judge, which writes out.json."""
    settings = ", ".join(f"{key} = {json.dumps(value)}" for key, value in parameters.items())
    (folder / "evalkit.toml").write_text(
        toml(endpoint=url, dialect="openai-judge", model=str(model), timeout=600.0, concurrency=2,
             parameters=Raw(f"{{{settings}}}"))
    )  # fmt: skip
    return evalkit(
        ["--no-progress", "compare", "--model", "ours.jsonl", "--ref", "theirs.jsonl",
         "--rm", "served", "--missing", "drop", "-o", "out.json"]
    )  # fmt: skip


@needs_transformers
def test_a_chat_model_that_writes_noise_gives_no_verdict_and_no_number(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    folder = chat_model(tmp_path / "noise")
    write_sets(tmp_path, embedded(3))
    with judging(folder, tmp_path / "log") as url:
        code = judged(tmp_path, url, folder, max_tokens=8)
    err = capsys.readouterr().err
    assert code == 6, err
    assert "3 prompts with a completion that has no reward, 3 for want of a readable" in err
    assert re.search("3 × unreadable verdict, such as", err), err
    assert not (tmp_path / "out.json").exists()


@needs_transformers
def test_a_chat_model_that_always_prefers_the_first_answer_is_all_position(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    folder = chat_model(tmp_path / "first", says="[[A]]")
    write_sets(tmp_path, embedded(4))
    with judging(folder, tmp_path / "log") as url:
        code = judged(tmp_path, url, folder, max_tokens=8)
    assert code == 0, capsys.readouterr().err
    (found,) = json.loads((tmp_path / "out.json").read_text())["comparisons"]
    assert found["first_shown"]["value"] == 1
    assert found["estimates"]["win_rate"]["value"] == 0.5


@pytest.mark.slow
@needs_transformers
@needs_smollm2
@pytest.mark.parametrize("parameters", [{"verdict": "letter"}, {"max_tokens": 64}], ids=str)
def test_smollm2_as_a_judge_of_20_prompts(tmp_path, monkeypatch, capsys, parameters):
    monkeypatch.chdir(tmp_path)
    write_sets(tmp_path, embedded(20))
    with judging(SMOLLM2, tmp_path / "log") as url:
        code = judged(tmp_path, url, SMOLLM2, **parameters)
    out, err = capsys.readouterr()
    print(out, err)
    assert code in {0, 6}
    if code == 6:  # a model of this size seldom keeps to the longer format
        assert "verdict" not in parameters
        assert "20 for want of a readable verdict" in err
        return
    (found,) = json.loads((tmp_path / "out.json").read_text())["comparisons"]
    share = found["first_shown"]
    assert 0 <= share["low"] <= share["value"] <= share["high"] <= 1
    unread = [why for why in found["unmatched"]["unscored"].values() if "unreadable" in why]
    assert len(unread) + found["n"] == 20


@pytest.mark.slow
@needs_infinity
def test_infinity_gives_what_the_same_files_give_here(tmp_path):
    sizes = {"max_position_embeddings": 4096}
    labels = {"num_labels": 2, "id2label": {0: "reward", 1: "other"},
              "label2id": {"reward": 0, "other": 1}, "problem_type": "regression"}  # fmt: skip
    two = cross_encoder(tmp_path / "two", **sizes, **labels)
    one = cross_encoder(tmp_path / "one", **sizes)
    served = [part for f in (two, one) for part in ("--model-id", f, "--served-model-name", f.name)]
    options = ["--device", "cpu", "--dtype", "float32", "--no-model-warmup",
               "--no-bettertransformer", "--no-compile"]  # fmt: skip
    with serving([INFINITY, "v2", *served, *options], tmp_path / "log", "/models") as url:
        for folder, dialect, family, parameters in (
            (two, "infinity-classify", "sequence-classifier", {"labels": 2, "index": 0}),
            (one, "infinity-rerank", "openassistant-deberta", {}),
        ):
            expected = here(folder, family, parameters)
            found = there(tmp_path, url, folder, dialect)
            assert found.keys() == expected.keys()
            moved = max(abs(found[key] - expected[key]) for key in expected)
            print(f"{dialect}: {len(expected)} rewards, max |Δ| {moved:.2g}")
            assert moved < 1e-5
            assert np.std(list(expected.values())) > 0.01


def items_of():
    return [
        (
            *(Message(m["role"], m["content"]) for m in prompt["messages"]),
            Message("assistant", ours),
        )
        for prompt, ours, _ in embedded(40, turns=1)
    ]


def here(folder, family, parameters):
    spec = spec_of(folder, family=family, max_length=4096, parameters=parameters)
    model, items = load(spec, device="cpu"), items_of()
    return {
        conversation_key(item): model.rewards([row])[0, 0]
        for item, row in zip(items, model.render(items), strict=True)
    }


def there(folder, url, model, dialect):
    label = Raw('{label = "reward"}') if dialect == "infinity-classify" else None
    spec = declare(
        folder / f"w-{model.name}", url, dialect, model=model.name, tokenizer=str(model),
        dtype="float32", max_length=4096, timeout=120.0, parameters=label,
    )  # fmt: skip
    with Store(folder / f"{model.name}.db") as store:
        scored = run(spec, store, items_of())
    assert not scored.problems
    return {key: row.reward for key, row in scored.rewards.items()}
