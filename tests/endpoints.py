"""Declaring and loading endpoints in tests."""

from __future__ import annotations

from dataclasses import replace

from evalkit.data import Message
from evalkit.reward_models.lookup import find_reward_model
from evalkit.scoring import RunSettings, score
from evalkit.workspace import Workspace
from tests.reward_server import MODEL, reward_of
from tests.shared_data import DEMO_RM, file_digest

KINDS = {
    "vllm-pooling": "vllm",
    "vllm-classify": "vllm",
    "sglang-classify": "sglang",
    "tei-predict": "tei",
    "tei-rerank": "tei",
    "openrlhf": "openrlhf",
    "infinity-classify": "infinity",
    "infinity-rerank": "infinity",
}
QUIET = RunSettings(progress=False)


def toml(**keys: object) -> str:
    """A table of evalkit.toml; None leaves a key out."""
    lines = ["[reward_models.served]"]
    for key, value in keys.items():
        if value is not None:
            text = str(value).lower() if isinstance(value, bool) else f"{value!r}".replace("'", '"')
            lines.append(f"{key} = {value if isinstance(value, Raw) else text}")
    return "\n".join(lines) + "\n"


class Raw(str):
    """TOML as it is."""


def declare(folder, url="http://127.0.0.1:9", dialect="vllm-pooling", **keys: object):
    """The spec of an endpoint declared in a workspace of its own."""
    known = {
        "endpoint": url,
        "dialect": dialect,
        "model": MODEL,
        "revision": "0123abc4",
        "tokenizer": None if dialect == "openai-judge" else str(DEMO_RM),
        "max_length": None if dialect == "openai-judge" else 512,
        "timeout": 10.0,
    }
    folder.mkdir(exist_ok=True)
    (folder / "evalkit.toml").write_text(toml(**{**known, **keys}))
    return find_reward_model("served", Workspace(folder), file_digest)


def chat(answer: str, question: str = "Why?"):
    return (Message("user", question), Message("assistant", answer))


def run(spec, store, items, **options):
    return score(spec, items, store, settings=replace(QUIET, **options))


def truth(server, messages) -> float:
    """What the server's model gives the conversation, tokenised by the template's own text."""
    text = "".join(f"<|{m.role}|>{m.content}<|end|>" for m in messages)
    return reward_of(server.tokenizer.encode(text, add_special_tokens=True).ids)
