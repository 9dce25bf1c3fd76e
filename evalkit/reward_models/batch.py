"""A batch on a device: padded on one side, positions found by lengths and never by token id."""

from __future__ import annotations

import contextlib
import inspect
import platform
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from evalkit.data import FloatArray, Item
from evalkit.errors import RefusedModelError
from evalkit.reward_models import Rendered, RewardModelMemoryError
from evalkit.reward_models.rendering import Encoder
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.reward_models.tokenizer import refuse
from evalkit.text import count


class Batch(NamedTuple):
    """B rows of at most L tokens.

    Attributes:
        inputs: `input_ids` and `attention_mask`, both (B, L); with padding on the left also
            `position_ids`, which count from each row's first token; `token_type_ids` where the
            model tells the texts of a pair apart by them.
        start: (B,) column of each row's first token.
        length: (B,) tokens of each row.
        rows: What each row was made of.
    """

    inputs: dict[str, torch.Tensor]
    start: torch.Tensor
    length: torch.Tensor
    rows: Sequence[Rendered]

    @property
    def last(self) -> torch.Tensor:
        """(B,) column of each row's last token."""
        return self.start + self.length - 1

    def mark(self, number: int) -> torch.Tensor:
        """(B,) column of each row's mark of that number."""
        return self.start + torch.tensor([row.marks[number] for row in self.rows])


class TorchRewardModel(ABC):
    """What every loaded model shares: padding, the device, and what a lack of memory becomes.

    Args:
        spec: The reward model.
        model: The transformers model that reads the tokens.

    Attributes:
        model: The transformers model.
        device: Where its inputs go, such as `cpu` or `cuda:0`.
        padding_side: `right` or `left`; it moves no reward beyond float32's last bits.
        native_pooling: Whether the class pools at a place of its own, such as the first column,
            and can only be padded on the right.
        renderer: What makes token ids of texts.
    """

    padding_side: Literal["right", "left"] = "right"
    native_pooling: bool = False
    renderer: Encoder

    def __init__(self, spec: RewardModelSpec, model: Any) -> None:
        self.spec = spec
        self.model = model
        pad = model.config.pad_token_id
        self._pad = pad if isinstance(pad, int) and 0 <= pad < self.vocabulary else 0
        self.device = str(model.get_input_embeddings().weight.device)
        if self.device == "meta":  # offloaded: accelerate moves what it needs to the CPU
            self.device = "cpu"

    @property
    def vocabulary(self) -> int:
        """Token ids the model has an embedding for."""
        return int(self.model.get_input_embeddings().num_embeddings)

    def rewards(self, batch: Sequence[Rendered]) -> FloatArray:
        """(len(batch), 1 + A) rewards and attributes, independent of what else is in the batch.

        Raises:
            RewardModelMemoryError: The device is out of memory.
        """
        try:
            with torch.inference_mode():
                found = self.forward(self._padded(batch))
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise RewardModelMemoryError(str(error)) from None
        return np.asarray(found.double().cpu().numpy(), dtype=np.float64)

    def render(self, items: Sequence[Item]) -> list[Rendered]:
        """Token ids of each conversation or ordered pair, or why it cannot be scored."""
        return self.renderer.render(items)

    @abstractmethod
    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, 1 + A) the reward and the attributes of each row."""

    def check_company(self) -> None:
        """Refuse a model whose reward of one row depends on the rows beside it.

        Some classes pool at a token id or at the last column, and read padding in a batch. One
        whose rewards are no numbers even alone says nothing of that, and is refused as such.
        """
        probes = [self.probe(3), self.probe(9)]
        alone = np.concatenate([self.rewards([row]) for row in probes])
        if missing := int(np.sum(~np.isfinite(alone).all(axis=1))):
            raise RefusedModelError(
                f"reward model {self.spec.name!r} gives {missing} of {len(probes)} probes a reward "
                f"that is not finite, in {self.spec.dtype}",
                where=str(self.spec.path),
                fix="fetch the checkpoint again: its weights hold what is no number, or overflow; "
                "see --dtype float32",
                code="not-finite",
                number=missing,
            )
        moved = np.abs(self.rewards(probes) - alone)
        if not np.all(moved <= self.spec.tolerance * np.maximum(1.0, np.abs(alone))):
            what = f"a reward moves by {moved.max():.3g} with the rows beside it"
            raise refuse(self.spec, [what], "moves-with-batch", float(moved.max()))

    def rendered_with(self, template: str, items: Sequence[Item]) -> list[Rendered]:
        """Token ids as another chat template makes them."""
        spec = replace(self.spec, template=template)
        other = type(self.renderer)(spec, self.renderer.tokenizer, self.vocabulary)
        return other.render(items)

    @contextlib.contextmanager
    def eager(self, *, capped: bool = True) -> Iterator[None]:
        """Compute attention by plain arithmetic; without the cap of its logits, as some kernels do.

        That is what any kernel is to give, up to rounding.
        """
        kernels = {id(m.config): m.config for m in self.model.modules() if hasattr(m, "config")}
        before = {key: config._attn_implementation for key, config in kernels.items()}
        caps = {
            m: m.attn_logit_softcapping
            for m in self.model.modules()
            if not capped and hasattr(m, "attn_logit_softcapping")
        }
        for config in kernels.values():
            config._attn_implementation_internal = "eager"
        for module in caps:
            module.attn_logit_softcapping = None
        try:
            yield
        finally:
            for key, config in kernels.items():
                config._attn_implementation_internal = before[key]
            for module, cap in caps.items():
                module.attn_logit_softcapping = cap

    def probe(self, length: int) -> Rendered:
        """A row of that many tokens, for `check_company`."""
        return Rendered(list(range(1, length + 1)), marks=(1, length))

    def _padded(self, batch: Sequence[Rendered]) -> Batch:
        lengths = torch.tensor([len(row.ids) for row in batch])
        longest = int(lengths.max())
        left = self.padding_side == "left"
        start = longest - lengths if left else torch.zeros_like(lengths)
        ids = torch.full((len(batch), longest), self._pad, dtype=torch.long)
        mask, segments = torch.zeros_like(ids), torch.zeros_like(ids)
        for i, row in enumerate(batch):
            here = slice(int(start[i]), int(start[i]) + len(row.ids))
            ids[i, here] = torch.tensor(row.ids)
            mask[i, here] = 1
            segments[i, here] = torch.tensor(row.segments or 0)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.spec.segments:
            inputs["token_type_ids"] = segments
        if left and "position_ids" in inspect.signature(self.model.forward).parameters:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        placed = {name: value.to(self.device) for name, value in inputs.items()}
        return Batch(placed, start, lengths, batch)


def at(hidden: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(B, h) the hidden state of each row at its column, in float32."""
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, columns.to(hidden.device)].float()


def logits_at(model: Any, batch: Batch, columns: torch.Tensor) -> torch.Tensor:
    """(B, len(columns), V) the model's own logits at these columns, and at no others if it can."""
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        # columns stay on the CPU: the hidden states may lie on another GPU than the inputs
        found: torch.Tensor = model(**batch.inputs, use_cache=False, logits_to_keep=columns).logits
        return found
    logits: torch.Tensor = model(**batch.inputs, use_cache=False).logits
    return logits[:, columns.to(logits.device)]


def hardware(device: str) -> str:
    """The name of a GPU, or the kind of CPU with the threads that compute on it."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{device}, {platform.machine()}, {count(torch.get_num_threads(), 'thread')}"
