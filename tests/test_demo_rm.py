"""demo-rm is what its card says."""

import re
import sys
import tomllib

import numpy as np
import pytest

from evalkit.data import Message
from evalkit.reward_models import load
from evalkit.scoring.batches import plan
from tests.shared_data import DEMO_RM, REPOSITORY, SHARED, needs_shared, spec_of

CARD = (DEMO_RM / "README.md").read_text("utf-8")


def claimed(row):
    """(n, accuracy in %) of a row of the card's table."""
    n, accuracy = re.search(rf"^\| {row}[^|]*\| ([\d,]+) \| ([\d.]+) %", CARD, re.M).groups()
    return int(n.replace(",", "")), float(accuracy)


@pytest.fixture(scope="module")
def training():
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    try:
        import train_demo_rm
    finally:
        sys.path.remove(str(REPOSITORY / "scripts"))
    return train_demo_rm


def accuracy(pairs):
    model = load(spec_of(DEMO_RM), device="cpu")
    sides = [side for pair in pairs for side in pair.sides()]
    rendered = model.render([tuple(Message(**m) for m in side) for side in sides])
    rewards = np.empty(len(rendered))
    for batch in plan({str(i): len(row.ids) for i, row in enumerate(rendered)}, 2048):
        rows = [int(key) for key in batch]
        rewards[rows] = model.rewards([rendered[row] for row in rows])[:, 0]
    margins = rewards[::2] - rewards[1::2]
    return len(pairs), 100 * float(np.mean((margins > 0) + 0.5 * (margins == 0)))


@needs_shared
def test_its_accuracy_on_held_out_human_preferences_is_the_cards(training):
    path = SHARED / "data" / "hh-rlhf" / "harmless-base_test.jsonl.gz"
    pairs = [p for p in training.read_hh(path) if training.held_out(p.prompt[0]["content"])]
    n, percent = accuracy(pairs)
    assert (n, round(percent, 1)) == claimed("human preferences")


@needs_shared
def test_its_accuracy_on_llmbar_is_the_cards(training):
    path = SHARED / "data" / "llmbar" / "Natural" / "dataset.json"
    n, percent = accuracy(list(training.read_llmbar(path)))
    assert (n, round(percent, 1)) == claimed("LLMBar Natural")


def test_its_notice_states_the_accuracies_of_its_card():
    notice = tomllib.loads((DEMO_RM / "card.toml").read_text("utf-8"))["notice"]
    for row in ("all", "human preferences", "LLMBar Natural"):
        n, percent = claimed(row)
        assert f"{percent} % of {n:,}" in notice
    assert "for trying the pipeline" in notice


def test_it_is_small_and_holds_nothing_but_safetensors_and_text():
    sizes = {path.name: path.stat().st_size for path in DEMO_RM.iterdir()}
    assert sum(sizes.values()) < 8e6
    assert {name.rsplit(".", 1)[1] for name in sizes} == {
        "json",
        "jinja",
        "md",
        "safetensors",
        "toml",
    }
