"""A paired mean difference together with how many prompts decide it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.intervals import Estimate
from evalkit.statistics.paired import paired_difference


@dataclass(frozen=True, slots=True)
class DecidedDifference:
    """The mean over prompts of a − b.

    Attributes:
        prompts: How many there are.
        deciding: Those on which a and b differ; under 10 of them the interval is too narrow.
        estimate: Of the mean, in units of the columns; by itself, not simultaneous with others.
    """

    prompts: int
    deciding: int
    estimate: Estimate


def decided_difference(
    a: FloatArray, b: FloatArray, *, level: float = 0.95, clusters: IntArray | None = None
) -> DecidedDifference:
    """The paired difference, and its deciding prompts; arguments as for `paired_difference`."""
    estimate = paired_difference(a, b, level=level, clusters=clusters).estimate
    return DecidedDifference(
        len(a), int(np.count_nonzero(np.asarray(a) != np.asarray(b))), estimate
    )
