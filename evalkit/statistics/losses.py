"""Losses of the field as metrics on labelled pairs: lower is better, ln 2 is a coin's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from evalkit.data import FloatArray, IntArray

# INF-ORM's weights of the magnitudes "slightly better", "better", "much better"
MAGNITUDES: Mapping[int, float] = {1: 1.0, 2: 3.0, 3: 10.0}


def bradley_terry_loss(margins: FloatArray, *, temperature: float = 1.0) -> FloatArray:
    """−log σ(Δ / T) of each pair, in nats.

    Args:
        margins: (N,) reward of the chosen answer minus reward of the rejected one; NaN stays NaN.
        temperature: In reward-model units, > 0.

    Returns:
        (N,) ≥ 0; ln 2 for a tie; stable for any finite margin.
    """
    with np.errstate(invalid="ignore"):  # NaN is an answer here, not an accident
        return np.logaddexp(0.0, -np.asarray(margins, dtype=np.float64) / temperature)


def scaled_bradley_terry_loss(margins: FloatArray, magnitudes: IntArray) -> FloatArray:
    """−d · log σ(Δ) of each pair, d = 1, 3, 10 for the magnitudes 1, 2, 3 (INF-ORM's loss).

    Args:
        margins: (N,) reward of the chosen answer minus reward of the rejected one; NaN stays NaN.
        magnitudes: (N,) in {1, 2, 3}: by how much the chosen answer was judged better.

    Returns:
        (N,) ≥ 0.

    Raises:
        ValueError: A magnitude other than 1, 2, 3.
    """
    known = sorted(MAGNITUDES)
    if not np.all(np.isin(magnitudes, known)):
        raise ValueError(f"magnitudes are among {known}, not {np.unique(magnitudes).tolist()}")
    weights = np.array([MAGNITUDES[level] for level in known])
    return weights[np.searchsorted(known, magnitudes)] * bradley_terry_loss(margins)
