"""How far length explains who wins: the length-controlled win rate of a table, and more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evalkit.data import IntArray
from evalkit.pairing import PairedTable
from evalkit.statistics.length import LengthControlled, length_controlled
from evalkit.statistics.length_diagnostics import LengthDiagnostics, length_diagnostics


@dataclass(frozen=True, slots=True)
class Lengths:
    """What the lengths of the answers, in the reward model's tokens, say of a comparison.

    Attributes:
        controlled: Win rate at equal lengths; it stands beside the win rate, never in its place.
        diagnostics: Correlations, win rates among longer and shorter answers, length-only baseline.
    """

    controlled: LengthControlled
    diagnostics: LengthDiagnostics


def lengths_of(table: PairedTable, level: float, clusters: IntArray) -> Lengths | None:
    """The lengths of a table with the cluster of each prompt; None where they are not known.

    Both sides' tokens hold the prompt and the template too, which cancel in the difference.
    """
    known = ~np.isnan(table.outcome) & ~np.isnan(table.checkpoint_tokens)
    if not np.any(known):
        return None
    ours, theirs = table.checkpoint_tokens[known], table.reference_tokens[known]
    outcome, margin = table.outcome[known], table.margin[known]
    units = clusters[known]
    return Lengths(
        length_controlled(outcome, ours - theirs, clusters=units, level=level),
        length_diagnostics(outcome, margin, ours, theirs, clusters=units, level=level),
    )
