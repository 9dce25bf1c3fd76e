"""The metric card of what is served says whose number it is, and in which unit it reads."""

import json
import shutil

import pytest

from evalkit.card import Options, measure
from evalkit.report.card import to_markdown
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
        "tokens per second",
    ),
    "openai-judge": (
        [
            "ℓ(a, b) = 1000 for the verdict [[A]], −1000 for [[B]], 0 for [[C]]",
            "at most 200,000 bytes, the prompt included",
        ],
        "bytes per second",
    ),
}


@pytest.mark.parametrize("dialect", CASES)
def test_a_card_of_a_served_reward_model(dialect, tmp_path):
    said, unit = CASES[dialect]
    rows = [
        {"messages": [{"role": "user", "content": f"Q{i}?"}], "completion": text, "index": k}
        for i in range(3)
        for k, text in enumerate(("Yes.", "No, never."))
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (
        RewardServer({**KINDS, "openai-judge": "openai"}[dialect]) as server,
        Store(tmp_path / "store.db") as store,
    ):
        spec = declare(tmp_path / "w", server.url, dialect)
        found = measure(
            spec, [str(data)], Workspace(tmp_path / "w"), store,
            options=Options(noise_rows=4), settings=RunSettings(progress=False),
        )  # fmt: skip
    assert found.throughput.hardware == server.url
    text = to_markdown(found).decode()
    assert all(line in text for line in said), text
    assert unit in text
    assert "declared and not verified" in text


@pytest.mark.parametrize("dialect", CASES)
def test_a_card_toml_beside_what_is_declared_is_of_something_else(dialect, tmp_path):
    folder = tmp_path / "tokenizer"
    shutil.copytree(DEMO_RM, folder)
    tokenizer = None if dialect == "openai-judge" else str(folder)
    served = declare(tmp_path / "w", dialect=dialect, tokenizer=tokenizer)
    for place in (folder, tmp_path / "w"):
        (place / "card.toml").write_text('citation = "them"\nlicence = "theirs"\n')
    assert stated(served)[:2] == ("", "")
