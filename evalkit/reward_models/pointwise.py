"""Families that give one conversation a number: scalar heads, attributes, gated mixtures.

Decoders are read at the last attended token, found by the attention mask and never by token id;
native encoders through their own pooling. These heads compute in float32 whatever the trunk's
dtype; a language model's own output layer does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from evalkit.data import FloatArray
from evalkit.reward_models.batch import Batch, TorchRewardModel, at
from evalkit.reward_models.heads import build_net, one_tensor, outputs
from evalkit.reward_models.rendering import ConversationRenderer
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.reward_models.tokenizer import load_tokenizer, refuse
from evalkit.reward_models.trunk import load_head, load_model


class PointwiseModel(TorchRewardModel):
    """A trunk, the place it is read at, and what turns that into rewards.

    Args:
        spec: The reward model.
        model: The transformers model.
        read: From a batch to (B, n) float32 values.
        finish: From those to (B, 1 + A).
    """

    def __init__(
        self,
        spec: RewardModelSpec,
        model: Any,
        read: Callable[[Any, Batch], torch.Tensor],
        finish: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        super().__init__(spec, model)
        self._read, self._finish = read, finish
        self.renderer = ConversationRenderer(spec, load_tokenizer(spec), self.vocabulary)

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, 1 + A) the reward and the attributes of each row."""
        return self._finish(self._read(self.model, batch))


def load_classifier(
    spec: RewardModelSpec, *, device: str = "auto", max_memory: dict[str | int, str] | None = None
) -> PointwiseModel:
    """A native `*ForSequenceClassification`, its labels weighted as the family says.

    Raises:
        RefusedModelError: A tensor, class or file that nothing explains.
    """
    model = load_model(spec, "classifier", device=device, max_memory=max_memory)
    _keep_head_in_float32(model)
    head = getattr(model, "score", None)
    decoder = isinstance(head, nn.Linear)
    read = _score if decoder else _own_logits
    finish = _attributes(spec) if spec.family.setting("weights") else _scalar(spec, {})
    loaded = PointwiseModel(spec, model, read, finish)
    loaded.native_pooling = not decoder
    loaded.check_company()
    return loaded


def load_scalar(spec: RewardModelSpec, *, device: str = "auto") -> PointwiseModel:
    """A trunk with a head of one value.

    Raises:
        RefusedModelError: A tensor, class or file that nothing explains.
    """
    model = load_model(spec, "trunk", device=device)
    tensors = load_head(spec)
    net = build_net(spec, "head", tensors, model.config.hidden_size)
    if (values := outputs(net)) != 1:
        raise refuse(spec, [f"{spec.family.setting('head')} gives {values} values, not 1"])
    pool = POOLS[spec.family.setting("pool")]
    loaded = PointwiseModel(
        spec, model, lambda trunk, batch: _placed(net, pool(trunk, batch)), _scalar(spec, tensors)
    )
    loaded.check_company()
    return loaded


def load_gated(spec: RewardModelSpec, *, device: str = "auto") -> PointwiseModel:
    """A trunk with a head of several objectives and a gate that weighs them.

    Raises:
        RefusedModelError: A tensor, class or file that nothing explains.
    """
    model = load_model(spec, "trunk", device=device)
    mixture = GatedMixture(spec, load_head(spec), model.config.hidden_size)
    at_header = spec.family.setting("gate_at") == "header"

    def read(trunk: Any, batch: Batch) -> torch.Tensor:
        hidden = _hidden(trunk, batch)
        last = at(hidden, batch.last)
        gate = at(hidden, batch.mark(0)) if at_header else last
        return _placed(mixture, torch.stack([last, gate], dim=1))

    loaded = PointwiseModel(spec, model, read, lambda values: values)
    loaded.check_company()
    return loaded


class GatedMixture(nn.Module):
    """Objectives weighed by a gate: ArmoRM, QRM, URM, LDL.

    With `bins`, each objective is a distribution over a grid on [0, 1], its value the mean; the
    standard deviation of the reward, the objectives taken as independent, comes last.

    Args:
        spec: The reward model.
        tensors: The head's tensors.
        width: Of the trunk's hidden state.

    Raises:
        RefusedModelError: Tensors that are missing or do not fit each other.
    """

    def __init__(
        self, spec: RewardModelSpec, tensors: Mapping[str, torch.Tensor], width: int
    ) -> None:
        super().__init__()
        family = spec.family
        self._grid: torch.Tensor
        self._regression = build_net(spec, "regression", tensors, width)
        self._gate = build_net(spec, "gate", tensors, width)
        n = outputs(self._gate)
        self._columns = family.setting("bins") or family.setting("columns")
        if outputs(self._regression) != n * self._columns or n != spec.objectives:
            shape = f"{outputs(self._regression)} outputs of {self._columns} columns"
            raise refuse(spec, [f"{shape}, {n} gates, {spec.objectives} objectives"])
        self._family = family
        transform, scale = family.setting("transform"), family.setting("scale")
        eye = one_tensor(spec, "transform", tensors, n, n) if transform else torch.eye(n)
        self.register_buffer("_transform", eye)
        self.register_buffer(
            "_scale", one_tensor(spec, "scale", tensors, 1) if scale else torch.ones(1)
        )
        self.register_buffer("_grid", torch.linspace(0, 1, self._columns))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, 2, h) the hidden state at the last token and at the gate -> (B, 1 + A)."""
        family = self._family
        gates = self._gate(hidden[:, 1])
        if family.setting("softmax"):
            gates = (gates / family.setting("temperature")).softmax(dim=-1)
        gates = gates * self._scale
        parts = self._regression(hidden[:, 0]).unflatten(-1, (-1, self._columns))
        more = []
        if family.setting("bins"):
            parts = parts.softmax(dim=-1)
            values = parts @ self._grid
            spread = parts @ self._grid**2 - values**2
            mixture = (gates.unsqueeze(-1) * parts).sum(dim=1)
            more = [mixture, (gates**2 * spread).sum(dim=-1, keepdim=True).clamp(min=0).sqrt()]
        else:
            values = parts.mean(dim=-1) if family.setting("column") == "mean" else parts[..., 0]
        transformed = values @ self._transform
        reward = (gates * transformed).sum(dim=-1, keepdim=True)
        kept = values if family.setting("kept") == "raw" else transformed
        return torch.cat([reward, kept, gates, *more], dim=-1)


def weighted(attributes: FloatArray, weights: Sequence[float]) -> FloatArray:
    """(N,) weighted sums of (N, n) attributes, in float64.

    Nemotron-4-340B's published weights on its published example give 3.315625.
    """
    return np.asarray(attributes, dtype=np.float64) @ np.asarray(weights, dtype=np.float64)


def _attributes(spec: RewardModelSpec) -> Callable[[torch.Tensor], torch.Tensor]:
    weights, columns = spec.family.setting("weights"), spec.family.setting("columns")

    def finish(values: torch.Tensor) -> torch.Tensor:
        attributes = values.reshape(len(values), -1, columns)[..., 0].double().cpu()
        reward = torch.from_numpy(weighted(attributes.numpy(), weights))
        return torch.cat([reward[:, None], attributes], dim=-1)

    return finish


def _scalar(
    spec: RewardModelSpec, tensors: Mapping[str, torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """One label, shifted and scaled where the family normalises, and turned to higher is better."""
    family = spec.family
    index = family.setting("index") or 0
    mean, deviation = float(family.setting("mean")), float(family.setting("std"))
    if buffers := family.setting("normalizer"):
        mean = float(tensors[f"{buffers}.mean"])
        deviation = float(tensors[f"{buffers}.var"].sqrt() + 1e-8)  # upstream's epsilon

    def finish(values: torch.Tensor) -> torch.Tensor:
        reward = values[:, index : index + 1]
        if family.setting("normalize"):
            reward = (reward - (mean if family.setting("center") else 0.0)) / deviation
        return reward * float(family.setting("sign"))

    return finish


def _hidden(trunk: Any, batch: Batch) -> torch.Tensor:
    found: torch.Tensor = trunk(**batch.inputs, use_cache=False).last_hidden_state
    return found


def _score(model: Any, batch: Batch) -> torch.Tensor:
    found: torch.Tensor = model.score(at(_hidden(model.base_model, batch), batch.last))
    return found


def _own_logits(model: Any, batch: Batch) -> torch.Tensor:
    logits: torch.Tensor = model(**batch.inputs).logits
    return logits.float()


def _pool_last(trunk: Any, batch: Batch) -> torch.Tensor:
    return at(_hidden(trunk, batch), batch.last)


def _pool_before_last(trunk: Any, batch: Batch) -> torch.Tensor:
    """For models trained where padding was the end-of-turn token itself."""
    return at(_hidden(trunk, batch), batch.last - 1)


def _pool_mean(trunk: Any, batch: Batch) -> torch.Tensor:
    hidden = _hidden(trunk, batch).float()
    mask = batch.inputs["attention_mask"].to(hidden.device).unsqueeze(-1)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


POOLS = {"last": _pool_last, "before-last": _pool_before_last, "mean": _pool_mean}


def _placed(net: nn.Module, values: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = net.to(values.device)(values)
    return found


def _keep_head_in_float32(model: Any) -> None:
    """Let everything outside the trunk compute in float32, whatever the trunk gives it."""

    def widen(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(a.float() if torch.is_tensor(a) and a.is_floating_point() else a for a in args)

    for name, child in model.named_children():
        if name != model.base_model_prefix:
            child.float()
            child.register_forward_pre_hook(widen)
