"""The parameters of each kind of family, with their defaults, and what their values may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evalkit.reward_models import nets

# What a table of families.toml, of published.toml or of evalkit.toml may set, kind by kind, with
# the defaults. `{ config = KEY, default = VALUE }` stands for what config.json says.
AFFINE: Mapping[str, Any] = {"normalize": False, "center": True, "mean": 0.0, "std": 1.0, "sign": 1}
TRUNK: Mapping[str, Any] = {
    "model_type": "",
    "strip": "",
    "convert": "",
    "ignore": [],
    "pool": "last",
}
RENDER: Mapping[str, Any] = {
    "template": "",
    "answer": "",
    "append": "",
    "append_id": -1,
    "frame": True,
}


def _net(key: str) -> dict[str, Any]:
    """The parameters of one net: the prefix of its tensors, and its rule."""
    return {key: "", **{f"{key}_{k}": v for k, v in nets.Rule()._asdict().items()}}


PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "classifier": {**RENDER, **AFFINE, "labels": 1, "index": 0, "columns": 1, "weights": []},
    "scalar": {
        **RENDER, **TRUNK, **AFFINE, **_net("head"), "activation": "", "row": -1, "normalizer": "",
    },
    "gated": {
        **RENDER, **TRUNK, **_net("regression"), **_net("gate"), "activation": "",
        "gate_activation": "", "transform": "", "scale": "", "columns": 1, "column": "first",
        "bins": 0, "temperature": 1.0, "softmax": True, "gate_at": "last", "kept": "transformed",
    },
    "pair-head": {**RENDER, **TRUNK, **_net("head"), "activation": "", "lengths": []},
    "pair-prompt": {**RENDER, "context": "", "labels": [], "chat": True, "seq2seq": False},
    "logprob": {
        **RENDER, "norm": "sum", "beta": 1.0, "reference": "", "rewardbench_compatible": False,
    },
}  # fmt: skip
LAYERED = ("head", "regression", "gate")
NETS = (*LAYERED, "transform", "scale", "normalizer")
# what a value means, where the text itself matters
CHOICES: Mapping[str, tuple[str, ...]] = {
    "activation": ("", "relu", "tanh", "selu", "leaky_relu"),
    "gate_activation": ("", "relu", "tanh", "selu", "leaky_relu"),
    "head_bias": nets.BIASES,
    "regression_bias": nets.BIASES,
    "gate_bias": nets.BIASES,
    "pool": ("last", "before-last", "mean"),
    "gate_at": ("last", "header"),
    "kept": ("raw", "transformed"),
    "column": ("first", "mean"),
    "norm": ("ratio", "sum", "avg", "norm"),
}

POSITIVE = ("temperature", "std", "columns", "beta")


def wrong(key: str, value: object, default: object) -> str:
    """What a parameter's value must be and is not; empty if it is."""
    if isinstance(value, Mapping):
        return "" if isinstance(value.get("config"), str) else "must name a key of config.json"
    if key.endswith("_bias") and isinstance(value, bool):  # as some config.json says it
        return ""
    if not _alike(value, default):
        return f"must be like {default!r}"
    if key in CHOICES and value not in CHOICES[key]:
        return f"must be one of {', '.join(CHOICES[key])}"
    if key in POSITIVE and isinstance(value, int | float) and value <= 0:
        return "must be above 0"
    return "must be two numbers" if key == "lengths" and len(_list(value)) not in {0, 2} else ""


def _alike(value: object, default: object) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, int | float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
