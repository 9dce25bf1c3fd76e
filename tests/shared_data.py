"""Where the real data and the fixtures lie, when they lie beside the checkout."""

import hashlib
import json
from pathlib import Path

import pytest

from evalkit.data import Message, Messages
from evalkit.reward_models.describe import describe
from evalkit.reward_models.spec import RewardModelSpec

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared"
FIXTURES = SHARED / "fixtures" / "reward_models"
ALPACA_EVAL = SHARED / "data" / "alpaca_eval" / "alpaca_eval_outputs"
DEMO_RM = REPOSITORY / "evalkit" / "reward_models" / "demo-rm"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def spec_of(folder: Path, **settings: object) -> RewardModelSpec:
    return describe(folder, folder.name, file_digest, settings)


def conversations_of(path: Path) -> list[Messages]:
    lines = path.read_text("utf-8").splitlines()
    return [
        tuple(Message(m["role"], m["content"]) for m in json.loads(x)["messages"]) for x in lines
    ]
