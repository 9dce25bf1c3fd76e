"""Nets rebuilt from their tensors: what is not in a checkpoint is never made up."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from evalkit.reward_models import nets
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.reward_models.tokenizer import refuse

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "": nn.Identity,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "selu": nn.SELU,
    "leaky_relu": nn.LeakyReLU,  # slope 0.01
}


def build_net(
    spec: RewardModelSpec, key: str, tensors: Mapping[str, torch.Tensor], width: int
) -> nn.Sequential:
    """A float32 net of linear layers, with the family's activation after all but the last.

    A batch normalisation follows the activation of its layer, with the statistics it was saved
    with.

    Args:
        spec: The reward model.
        key: The parameter that holds the name prefix of its tensors.
        tensors: The head's tensors.
        width: What it reads.

    Raises:
        RefusedModelError: Tensors that are missing or do not fit each other.
    """
    prefix = spec.family.setting(key)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wrong := list(nets.problems(prefix, spec.family.rule(key), shapes, width)):
        raise refuse(spec, wrong, "random-head", len(wrong))
    activation = "gate_activation" if key == "gate" else "activation"
    activate = ACTIVATIONS[spec.family.setting(activation)]
    found: list[nn.Module] = []
    for layer in nets.layers(prefix, shapes):
        start = f"{layer.prefix}."
        part = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        if found and isinstance(found[-1], nn.Linear):
            found.append(activate())
        found.append(_batch_norm(part) if layer.is_norm else _linear(part))
    return nn.Sequential(*found).eval()


def outputs(net: nn.Sequential) -> int:
    """How many values a net gives."""
    last = net[-1]
    return last.out_features if isinstance(last, nn.Linear) else 0


def one_tensor(
    spec: RewardModelSpec, key: str, tensors: Mapping[str, torch.Tensor], *shape: int
) -> torch.Tensor:
    """A tensor of the head by the parameter that names it.

    Raises:
        RefusedModelError: It is missing, or of another shape.
    """
    name = spec.family.setting(key)
    found = tensors.get(name)
    if found is None or tuple(found.shape) != shape:
        have = "missing" if found is None else f"{list(found.shape)}, not {list(shape)}"
        raise refuse(spec, [f"tensor {name} is {have}"], "random-head", 1)
    return found


def _linear(part: Mapping[str, torch.Tensor]) -> nn.Linear:
    weight = part["weight"]
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in part)
    layer.load_state_dict(part)
    return layer


def _batch_norm(part: Mapping[str, torch.Tensor]) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(part["running_mean"].shape[0])
    layer.load_state_dict(part)
    return layer
