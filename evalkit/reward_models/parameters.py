"""The parameters of each kind of family, with their defaults, and what their values may be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from evalkit.reward_models import nets

# What a table of families.toml, of published.toml or of evalkit.toml may set, kind by kind, with
# the defaults. `{ config = KEY, default = VALUE }` stands for what config.json says.
AFFINE: Mapping[str, Any] = {"normalize": False, "center": True, "mean": 0.0, "std": 1.0, "sign": 1}
TRUNK: Mapping[str, Any] = {"model_type": "", "strip": "", "convert": "", "ignore": []}
TEMPLATE: Mapping[str, Any] = {"template": "", "frame": True}
CONVERSATION: Mapping[str, Any] = {**TEMPLATE, "answer": "", "append": "", "append_id": -1}


def _net(key: str) -> dict[str, Any]:
    """The parameters of one net: the prefix of its tensors, and its rule."""
    return {key: "", **{f"{key}_{k}": v for k, v in nets.Rule()._asdict().items()}}


PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "classifier": {**CONVERSATION, **AFFINE, "labels": 1, "index": 0, "columns": 1, "weights": []},
    "scalar": {
        **CONVERSATION, **TRUNK, **AFFINE, **_net("head"), "activation": "", "pool": "last",
        "row": -1, "normalizer": "",
    },
    "gated": {
        **CONVERSATION, **TRUNK, **_net("regression"), **_net("gate"), "activation": "",
        "gate_activation": "", "transform": "", "scale": "", "columns": 1, "column": "first",
        "bins": 0, "temperature": 1.0, "softmax": True, "gate_at": "last", "kept": "transformed",
    },
    "pair-head": {
        **TEMPLATE, **TRUNK, **_net("head"), "activation": "", "answer": "", "lengths": [],
    },
    "pair-prompt": {**TEMPLATE, "context": "", "tokens": [], "chat": True, "seq2seq": False},
    "logprob": {
        **TEMPLATE, "norm": "sum", "beta": 1.0, "reference": "", "rewardbench_compatible": False,
    },
    "served": {**CONVERSATION, "identity": False, "label": ""},
    "judge": {
        "prompt": "", "verdict": "last-line", "seed": 0, "max_tokens": 1024,
        "limit": "max_tokens", "greedy": True,
    },
}  # fmt: skip
LAYERED = ("head", "regression", "gate")
NETS = (*LAYERED, "transform", "scale", "normalizer")
ACTIVATIONS = ("", "relu", "tanh", "selu", "leaky_relu")
CHOICES: Mapping[str, tuple[object, ...]] = {
    "activation": ACTIVATIONS,
    "verdict": ("last-line", "letter"),
    "limit": ("max_tokens", "max_completion_tokens"),
    "gate_activation": ACTIVATIONS,
    "head_bias": nets.BIASES,
    "regression_bias": nets.BIASES,
    "gate_bias": nets.BIASES,
    "pool": ("last", "before-last", "mean"),
    "gate_at": ("last", "header"),
    "kept": ("raw", "transformed"),
    "column": ("first", "mean"),
    "norm": ("ratio", "sum", "avg", "norm"),
    "sign": (1, -1),
}
LEAST = {"columns": 1, "labels": 1, "index": 0, "bins": 0, "row": -1, "append_id": -1, "seed": 0,
         "max_tokens": 1}  # fmt: skip
POSITIVE = ("temperature", "std", "beta")
ELEMENTS: Mapping[str, type] = {"weights": float, "lengths": int, "tokens": str, "ignore": str}


def wrong(key: str, value: object, default: object) -> str:
    """What a parameter's value must be and is not; empty if it is."""
    if isinstance(value, Mapping):
        return "" if isinstance(value.get("config"), str) else "must name a key of config.json"
    if key.endswith("_bias") and isinstance(value, bool):  # as some config.json says it
        return ""
    if not _alike(value, default):
        return f"must be like {default!r}"
    if key in CHOICES and value not in CHOICES[key]:
        return f"must be one of {', '.join(map(str, CHOICES[key]))}"
    return _wrong_list(key, value) if isinstance(value, list) else _wrong_number(key, value)


def inconsistencies(kind: str, values: Mapping[str, Any], attributes: int) -> Iterator[str]:
    """What does not fit together among the parameters of a family."""
    if kind == "classifier" and values["index"] >= values["labels"]:
        yield f"index {values['index']}, where there are {values['labels']} labels"
    if kind == "classifier" and (weights := values["weights"]):
        if len(weights) * values["columns"] != values["labels"]:
            yield f"{len(weights)} weights of {values['columns']} columns, not {values['labels']}"
        if attributes != len(weights):
            yield f"{attributes} attributes for {len(weights)} weights"
    if kind == "pair-prompt" and len(values["tokens"]) != 2:
        yield "tokens must name the first and the second answer"


def _wrong_number(key: str, value: object) -> str:
    if isinstance(value, int | float) and value < LEAST.get(key, -math.inf):
        return f"must be at least {LEAST[key]}"
    positive = key not in POSITIVE or (isinstance(value, int | float) and value > 0)
    return "" if positive else "must be above 0"


def _wrong_list(key: str, value: list[object]) -> str:
    kind = ELEMENTS.get(key, object)
    for item in value:
        number = isinstance(item, int | float) and not isinstance(item, bool)
        fits = number and math.isfinite(float(str(item))) if kind is float else type(item) is kind
        if not fits:
            return f"must be a list of {kind.__name__}"
    if key == "lengths" and (len(value) != 2 or min(map(int, map(str, value))) < 1):
        return "must be two numbers, of all tokens and of the source's"
    return ""


def _alike(value: object, default: object) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, type(default))
