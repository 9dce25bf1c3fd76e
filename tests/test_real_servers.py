"""Real servers, where some are running: their rewards are those of the same files computed here.

EVALKIT_INFINITY=http://127.0.0.1:7997     serving `two`, a regression of two labels
EVALKIT_INFINITY_MODEL=/tmp/inf/two        its folder; the first label is the reward
EVALKIT_JUDGE=http://127.0.0.1:7998        `transformers serve`, or any other of its kind
EVALKIT_JUDGE_MODEL=/models/smollm2        as it calls its model
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from evalkit.data import Message, Pair, conversation_key, item_key
from evalkit.reward_models import load
from evalkit.store import Store
from tests.endpoints import Raw, chat, declare, run
from tests.shared_data import REPOSITORY, spec_of

needs_infinity = pytest.mark.skipif(
    "EVALKIT_INFINITY" not in os.environ, reason="EVALKIT_INFINITY names no server"
)
needs_judge = pytest.mark.skipif(
    "EVALKIT_JUDGE" not in os.environ, reason="EVALKIT_JUDGE names no server"
)


def starter(n):
    path = REPOSITORY / "benchmarks" / "starter" / "completions" / "ckpt_1200.jsonl"
    lines = path.read_text("utf-8").splitlines()[:n]
    return [chat(json.loads(line)["completion"]) for line in lines]


@needs_infinity
def test_infinity_gives_what_the_same_files_give_here(tmp_path):
    folder = Path(os.environ["EVALKIT_INFINITY_MODEL"])
    labels = json.loads((folder / "config.json").read_text())["id2label"]
    items = [*starter(40), (Message("user", "Q"), Message("assistant", ""))]
    spec = declare(
        tmp_path / "w", os.environ["EVALKIT_INFINITY"], "infinity-classify",
        model=folder.name, tokenizer=str(folder), dtype="float32", timeout=120.0,
        parameters=Raw(f'{{label = "{labels["0"]}"}}'),
    )  # fmt: skip
    with Store(tmp_path / "store.db") as store:
        served = run(spec, store, items)
    here = load(
        spec_of(folder, family="sequence-classifier", max_length=512,
                parameters={"labels": len(labels), "index": 0}), device="cpu",
    )  # fmt: skip
    expected = [here.rewards([row])[0, 0] for row in here.render(items)]
    found = [served.rewards[conversation_key(messages)].reward for messages in items]
    assert np.abs(np.array(found) - expected).max() < 2e-5


@needs_judge
def test_a_judge_gives_a_verdict_or_a_reason_and_never_a_number_of_its_own(tmp_path):
    question = chat("")[:1]
    items = [Pair(question, "Because it rains.", "No."), Pair(question, "No.", "Because it rains.")]
    spec = declare(
        tmp_path / "w", os.environ["EVALKIT_JUDGE"], "openai-judge", timeout=600.0, concurrency=1,
        model=os.environ["EVALKIT_JUDGE_MODEL"], parameters=Raw("{max_tokens = 60}"),
    )  # fmt: skip
    with Store(tmp_path / "store.db") as store:
        scored = run(spec, store, items)
    assert {*scored.rewards, *scored.problems} == {item_key(item) for item in items}
    assert {row.reward for row in scored.rewards.values()} <= {-1000.0, 0.0, 1000.0}
    assert all(why.startswith("unreadable verdict") for why in scored.problems.values())
