"""Reward models: what identifies one, how a conversation becomes token ids, how those are scored.

The only package that may import torch, and only below `load`: the identity of a reward model is
its files, so looking up known rewards needs neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import NamedTuple, Protocol

from evalkit.data import FloatArray, Item
from evalkit.errors import EvalkitError, MissingError, RefusedModelError
from evalkit.reward_models.spec import RewardModelSpec


class Rendered(NamedTuple):
    """A conversation or ordered pair as token ids, or why it cannot be scored.

    Attributes:
        ids: Token ids, in the order the model reads them.
        cut: Tokens lost to truncation, or for which the conversation is refused as too long.
        problem: Why there are no ids; empty if there are.
        marks: Positions in `ids` that the family reads beside the last one.
        segments: Which of two texts each id is of, as the tokenizer numbers them; empty where the
            model does not ask.
        texts: What a server that takes no ids is sent: one text, or two that it encodes as a pair.
    """

    ids: list[int]
    cut: int = 0
    problem: str = ""
    marks: tuple[int, ...] = ()
    segments: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()


class RewardModelMemoryError(Exception):
    """A batch did not fit into the device's memory; a smaller one may."""


class PartialBatchError(Exception):
    """Some rows of a batch have no reward; the others have theirs.

    Args:
        rewards: (B, 1 + A) as `RewardModel.rewards` gives them, NaN where there is none.
        reasons: Row number -> why it has none.
        again: Numbers of rows that failed together, and may not in smaller batches.
    """

    def __init__(
        self, rewards: FloatArray, reasons: Mapping[int, str], again: Sequence[int] = ()
    ) -> None:
        super().__init__(f"{len(reasons) + len(again)} of {len(rewards)} rows have no reward")
        self.rewards, self.reasons, self.again = rewards, reasons, again


class RewardModel(Protocol):
    """A loaded reward model."""

    device: str

    def render(self, items: Sequence[Item]) -> list[Rendered]:
        """Token ids of each conversation or, for a pair-preference model, of each ordered pair."""

    def rewards(self, batch: Sequence[Rendered]) -> FloatArray:
        """(len(batch), 1 + A) float64: the reward, then the family's A attributes.

        NaN where the model gives no finite number. A pair-preference model gives the log-odds that
        the first answer of the pair is the better one.

        Raises:
            RewardModelMemoryError: The batch is too large for the device.
            PartialBatchError: Some rows have no reward, or none yet.
            RuntimeError: The batch failed, and its halves may not.
        """


KINDS = {
    "classifier": "evalkit.reward_models.pointwise:load_classifier",
    "scalar": "evalkit.reward_models.pointwise:load_scalar",
    "gated": "evalkit.reward_models.pointwise:load_gated",
    "pair-head": "evalkit.reward_models.pairs:load_head_model",
    "pair-prompt": "evalkit.reward_models.pairs:load_prompt",
    "logprob": "evalkit.reward_models.logprob:load",
    "served": "evalkit.reward_models.remote.served:load",
    "judge": "evalkit.reward_models.remote.judge:load",
}


def load(spec: RewardModelSpec, *, device: str = "auto") -> RewardModel:
    """Load a reward model, or refuse it.

    Args:
        spec: Which one, exactly.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes all GPUs there are, else the CPU.

    Raises:
        RefusedModelError: Its tensors, class or files do not explain each other.
        MissingError: The extra `models` is not installed, or the device lacks memory.
    """
    target = KINDS.get(spec.family.kind)
    try:
        return _loader(target or spec.family.name)(spec, device=device)
    except ModuleNotFoundError as error:
        raise MissingError(
            f"scoring needs the package {error.name!r}", fix='pip install "evalkit-rm[models]"'
        ) from None
    except RewardModelMemoryError as error:
        raise MissingError(
            f"reward model {spec.name!r} does not fit into the memory of its device: {error}",
            fix="use a larger device, several GPUs, or a smaller --dtype",
        ) from None
    except EvalkitError:
        raise
    except Exception as error:
        if target is not None:
            raise
        raise RefusedModelError(
            f"the family {spec.family.name} of reward model {spec.name!r} failed to load: "
            f"{type(error).__name__}: {error}",
            fix="mend its module",
        ) from error


def hardware(device: str) -> str:
    """What a loaded model's device is, in words: the GPU's name, or the CPU and its threads."""
    found: str = import_module("evalkit.reward_models.batch").hardware(device)
    return found


def _loader(target: str) -> Callable[..., RewardModel]:
    module, function = target.split(":")
    found: Callable[..., RewardModel] = getattr(import_module(module), function)
    return found
