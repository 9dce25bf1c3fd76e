"""Reward models: what identifies one, how a conversation becomes token ids, how those are scored.

The only package that may import torch, and only below `load`: the identity of a reward model is
its files, so looking up known rewards needs neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple, Protocol

from evalkit.data import FloatArray, Messages
from evalkit.errors import MissingError
from evalkit.reward_models.spec import RewardModelSpec


class Rendered(NamedTuple):
    """A conversation as token ids, or why it cannot be scored.

    Attributes:
        ids: Token ids, in the order the model reads them.
        cut: Tokens lost to truncation.
        problem: Why there are no ids; empty if there are.
    """

    ids: list[int]
    cut: int = 0
    problem: str = ""


class RewardModelMemoryError(Exception):
    """A batch did not fit into the device's memory; a smaller one may."""


class RewardModel(Protocol):
    """A loaded reward model."""

    device: str

    def render(self, conversations: Sequence[Messages]) -> list[Rendered]:
        """Token ids of each conversation."""

    def rewards(self, batch: Sequence[Sequence[int]]) -> FloatArray:
        """(len(batch),) float64 rewards; NaN where the model gives no finite number.

        Raises:
            RewardModelMemoryError: The batch is too large for the device.
        """


FAMILIES = {"sequence-classifier": "evalkit.reward_models.classifier:load"}


def load(spec: RewardModelSpec, *, device: str = "auto") -> RewardModel:
    """Load a reward model, or refuse it.

    Args:
        spec: Which one, exactly.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes all GPUs there are, else the CPU.

    Raises:
        RefusedModelError: Its tensors, class or files do not explain each other.
        MissingError: The extra `models` is not installed.
    """
    module, function = FAMILIES[spec.family].split(":")
    try:
        loader = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        raise MissingError(
            f"scoring needs the package {error.name!r}", fix='pip install "evalkit-rm[models]"'
        ) from None
    model: RewardModel = loader(spec, device=device)
    return model
