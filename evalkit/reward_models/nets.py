"""The layout of a head's nets, by the names and shapes of their tensors, without torch.

A net is one linear layer (`net.weight`) or numbered layers (`net.0.weight`, `net.2.weight`), the
numbers between them being activations and dropout. Its rule says where the numbers begin, how far
they lie apart, and which layers have a bias; a batch normalisation may follow an activation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]
BIASES = ("all", "none", "last")
STATISTICS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


class Rule(NamedTuple):
    """How a net is laid out.

    Attributes:
        first: Number of its first linear layer.
        stride: Distance between the numbers of its linear layers.
        bias: Which linear layers have one: all, none or last.
        normalised: Whether each linear layer but the last is followed by a batch normalisation.
        depth: How many linear layers it has; 0 for any number.
    """

    first: int = 0
    stride: int = 2
    bias: str = "all"
    normalised: bool = False
    depth: int = 0


class Layer(NamedTuple):
    """A layer by the prefix of its tensors."""

    prefix: str
    is_norm: bool


def below(tensor: str, net: str) -> bool:
    """Whether a tensor belongs to a net."""
    return tensor == net or tensor.startswith(f"{net}.")


def layers(net: str, shapes: Shapes) -> list[Layer]:
    """The layers of a net in the order they are applied; none for a bare tensor."""
    if f"{net}.weight" in shapes:
        return [Layer(net, is_norm=False)]
    numbers = {int(m[1]) for name in shapes if (m := re.match(rf"{re.escape(net)}\.(\d+)\.", name))}
    prefixes = [f"{net}.{number}" for number in sorted(numbers)]
    return [Layer(p, _is_norm(p, shapes)) for p in prefixes]


def outputs(net: str, shapes: Shapes) -> int:
    """How many values a net gives; 0 if it has no layer."""
    found = layers(net, shapes)
    return shapes.get(f"{found[-1].prefix}.weight", (0,))[0] if found else 0


def problems(net: str, rule: Rule, shapes: Shapes, width: int) -> Iterator[str]:
    """Why the tensors of a net are not laid out by its rule.

    Args:
        net: Prefix of its tensors.
        rule: How it is laid out.
        shapes: All tensors.
        width: How many values it reads; 0 if unknown.
    """
    mine = {name: shape for name, shape in shapes.items() if below(name, net)}
    if not mine:
        yield f"no tensor {net}.*"
        return
    found = layers(net, shapes)
    linear = [layer.prefix for layer in found if not layer.is_norm]
    wanted = [f"{net}.{rule.first + i * rule.stride}" for i in range(len(linear))]
    if not linear or linear not in ([net], wanted):
        yield f"layers {[layer.prefix for layer in found]}, where linear ones are at {wanted}"
        return
    if rule.depth not in {0, len(linear)}:
        yield f"{len(linear)} linear layers in {net}, where the layout has {rule.depth}"
    norms = sum(layer.is_norm for layer in found)
    if norms != (len(linear) - 1 if rule.normalised else 0):
        yield f"{norms} normalisations among {len(linear)} linear layers of {net}"
    expected = _expected(found, rule, shapes, width)
    for name in sorted(expected.keys() | mine.keys()):
        if mine.get(name) != expected.get(name):
            have, want = mine.get(name), expected.get(name)
            yield f"tensor {name} is {_said(have)}, where the layout has {_said(want)}"


def _expected(found: list[Layer], rule: Rule, shapes: Shapes, width: int) -> Shapes:
    """The tensors of these layers, each layer reading what the one before it gives."""
    expected: dict[str, tuple[int, ...]] = {}
    for layer in found:
        if layer.is_norm:
            expected |= {f"{layer.prefix}.{name}": (width,) for name in STATISTICS}
            expected[f"{layer.prefix}.num_batches_tracked"] = ()
            continue
        out, reads = _size(layer.prefix, shapes)
        expected[f"{layer.prefix}.weight"] = (out, width or reads)
        if rule.bias == "all" or (rule.bias == "last" and layer is found[-1]):
            expected[f"{layer.prefix}.bias"] = (out,)
        width = out
    return expected


def _is_norm(prefix: str, shapes: Shapes) -> bool:
    """Whether a layer is a normalisation; one without a weight is a linear one that lost it."""
    return f"{prefix}.running_mean" in shapes or len(shapes.get(f"{prefix}.weight", (0, 0))) != 2


def _size(prefix: str, shapes: Shapes) -> tuple[int, int]:
    """How many values a linear layer gives and reads, as far as its tensors say."""
    if f"{prefix}.weight" in shapes:
        out, reads = shapes[f"{prefix}.weight"]
        return out, reads
    return shapes.get(f"{prefix}.bias", (0,))[0], 0


def _said(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else str(list(shape))
