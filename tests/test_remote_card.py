"""The metric card of what is served says whose number it is, and in which unit it reads."""

import json
import re
import shutil

import pytest

from evalkit.card import Options, measure
from evalkit.report.card import to_json, to_markdown
from evalkit.reward_models.lookup import stated
from evalkit.scoring import RunSettings
from evalkit.store import Store
from evalkit.workspace import Workspace
from tests.endpoints import KINDS, declare
from tests.reward_server import RewardServer
from tests.shared_data import DEMO_RM

CASES = {
    "vllm-pooling": (
        ["r(x, y) is the raw score its server gives (vLLM, /pooling: token ids)"],
        "requests from here, network and waiting among them; http://127.0.0.1",
    ),
    "openai-judge": (
        [
            "ℓ(a, b) = 1000 for the verdict [[A]], −1000 for [[B]], 0 for [[C]]",
            "at most 200,000 bytes, the prompt included",
        ],
        "Not measured: every repeat is a paid request.",
    ),
}


def card_of(spec, folder):
    rows = [
        {"messages": [{"role": "user", "content": f"Q{i}?"}], "completion": text, "index": k}
        for i in range(3)
        for k, text in enumerate(("Yes.", "No, never."))
    ]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Store(folder / "store.db") as store:
        return measure(
            spec, [str(data)], Workspace(folder / "w"), store,
            options=Options(noise_rows=4), settings=RunSettings(progress=False),
        )  # fmt: skip


@pytest.mark.parametrize("dialect", CASES)
def test_a_card_of_a_served_reward_model(dialect, tmp_path):
    said, clock = CASES[dialect]
    with RewardServer({**KINDS, "openai-judge": "openai"}[dialect]) as server:
        found = card_of(declare(tmp_path / "w", server.url, dialect), tmp_path)
    text = to_markdown(found).decode()
    assert all(line in text for line in said), text
    assert clock in text
    assert "forward passes" not in text
    assert "declared and not verified" in text


def test_a_card_asks_a_judge_for_each_verdict_once_and_measures_no_repeats(tmp_path):
    with RewardServer("openai") as server:
        spec = declare(tmp_path / "w", server.url, "openai-judge")
        found = card_of(spec, tmp_path)
        asked = [n for prompt, n in server.rows.items() if re.search(r"Q\d\?", prompt)]
        assert asked == [1] * 6
        before = len(server.requests)
        assert to_json(card_of(spec, tmp_path)) == to_json(found)
        assert len(server.requests) - before == 1  # whether it still answers
    assert found.noise is found.throughput is found.same_prompt.within_noise is None
    assert json.loads(to_json(found))["noise"] is None
    text = to_markdown(found).decode()
    assert "| batch noise | not measured: every repeat is a paid request | 0 items |" in text
    assert "tie rate, within the noise" not in text


@pytest.mark.parametrize("dialect", CASES)
def test_a_card_toml_beside_what_is_declared_is_of_something_else(dialect, tmp_path):
    folder = tmp_path / "tokenizer"
    shutil.copytree(DEMO_RM, folder)
    tokenizer = None if dialect == "openai-judge" else str(folder)
    served = declare(tmp_path / "w", dialect=dialect, tokenizer=tokenizer)
    for place in (folder, tmp_path / "w"):
        (place / "card.toml").write_text('citation = "them"\nlicence = "theirs"\n')
    assert stated(served)[:2] == ("", "")
