"""How far length explains who wins: the length-controlled win rate of a table, and more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from evalkit.data import CompletionSet, FloatArray, IntArray, TextArray
from evalkit.pairing import PairedTable
from evalkit.statistics.intervals import Estimate
from evalkit.statistics.length import (
    MIN_COMPARISONS,
    WEAK_PRIOR,
    LengthControlled,
    LengthPrior,
    State,
    difficulty_from_pool,
    length_controlled,
    prior_from_pool,
)
from evalkit.statistics.length_diagnostics import (
    LengthDiagnostics,
    length_balanced,
    length_diagnostics,
    length_matched,
)


class Sizes(NamedTuple):
    """Mean length of each prompt's answers: (P,) on either side.

    Tokens are the reward model's and hold the prompt and the template too, which cancel in the
    difference; characters stand in where no reward model counted tokens.
    """

    unit: Literal["tokens", "characters"]
    checkpoint: FloatArray
    reference: FloatArray


class Pooled(NamedTuple):
    """One of the other answers to a reference: what it says of the prompts, and of the judge.

    Attributes:
        name: Whose answers.
        prompt_id: (P,).
        lead: (P,) how clearly it is ahead of the reference.
        outcome: (P,) in [0, 1].
        difference: (P,) its length minus the reference's.
    """

    name: str
    prompt_id: TextArray
    lead: FloatArray
    outcome: FloatArray
    difference: FloatArray


@dataclass(frozen=True, slots=True)
class Lengths:
    """What the lengths of the answers say of a comparison.

    Attributes:
        unit: Of the lengths.
        controlled: Win rate at equal lengths; it stands beside the win rate, never in its place.
        matched: Win rate on the half of the prompts whose answers differ least in length.
        balanced: Mean of the win rates among longer and among shorter answers.
        balanced_state: Why `balanced` is undefined, or that it rests on few prompts.
        diagnostics: Correlations, win rates among longer and shorter answers, length-only baseline.
        pool: Whose answers to the same reference gave `controlled` its difficulties and its prior;
            empty where they are fewer than 4, and the prior is weak.
    """

    unit: str
    controlled: LengthControlled
    matched: Estimate
    balanced: Estimate
    balanced_state: State
    diagnostics: LengthDiagnostics
    pool: tuple[str, ...]


def sizes_of(
    table: PairedTable, checkpoint: CompletionSet, reference: CompletionSet
) -> Sizes | None:
    """The lengths of a table's rows; None where neither tokens nor texts are known."""
    if not np.all(np.isnan(table.checkpoint_tokens)):
        return Sizes("tokens", table.checkpoint_tokens, table.reference_tokens)
    characters = [_characters(found, table.prompt_id) for found in (checkpoint, reference)]
    return None if np.any(np.isnan(characters)) else Sizes("characters", *characters)


def _characters(found: CompletionSet, prompt_ids: TextArray) -> FloatArray:
    mean = {
        prompt.prompt_id: sum(map(len, answers)) / len(answers)
        for prompt, answers in found.by_prompt()
        if answers
    }
    return np.array([mean.get(i, np.nan) for i in prompt_ids.tolist()], dtype=np.float64)


def pooled(table: PairedTable, checkpoint: CompletionSet, reference: CompletionSet) -> Pooled:
    """What one of the other answers to a reference adds to a pool."""
    sizes = sizes_of(table, checkpoint, reference)
    difference = np.full(len(table.outcome), np.nan)
    if sizes is not None:
        difference = sizes.checkpoint - sizes.reference
    return Pooled(checkpoint.name, table.prompt_id, table.lead, table.outcome, difference)


def lengths_of(
    table: PairedTable,
    sizes: Sizes | None,
    level: float,
    clusters: IntArray,
    pool: Sequence[Pooled] = (),
) -> Lengths | None:
    """The lengths of a table with the cluster of each prompt; None where they are not known."""
    known = ~np.isnan(table.outcome)
    if sizes is None or not np.any(known):
        return None
    ours, theirs = sizes.checkpoint[known], sizes.reference[known]
    outcome, margin = table.outcome[known], table.margin[known]
    units, difference = clusters[known], ours - theirs
    difficulty, prior = _from_pool(table.prompt_id[known], pool)
    balanced, state = length_balanced(outcome, difference, clusters=units, level=level)
    return Lengths(
        sizes.unit,
        length_controlled(
            outcome, difference, difficulty=difficulty, prior=prior, clusters=units, level=level
        ),
        length_matched(outcome, difference, clusters=units, level=level),
        balanced,
        state,
        length_diagnostics(
            outcome,
            None if np.any(np.isnan(margin)) else margin,
            ours,
            theirs,
            difficulty=difficulty,
            clusters=units,
            level=level,
        ),
        () if difficulty is None else tuple(p.name for p in pool),
    )


def _from_pool(
    prompt_ids: TextArray, pool: Sequence[Pooled]
) -> tuple[FloatArray | None, LengthPrior]:
    """How hard each prompt is, and what length is worth to this judge; nothing from a few."""
    if len(pool) < MIN_COMPARISONS:
        return None, WEAK_PRIOR
    lead, outcome, difference = (
        np.column_stack([_at(prompt_ids, p.prompt_id, getattr(p, column)) for p in pool])
        for column in ("lead", "outcome", "difference")
    )
    everywhere = not np.any(np.all(np.isnan(lead), axis=1))
    difficulty = difficulty_from_pool(lead) if everywhere else None
    if difficulty is None:
        return None, WEAK_PRIOR
    return difficulty, prior_from_pool(outcome, difference, difficulty=difficulty)


def _at(prompt_ids: TextArray, of: TextArray, column: FloatArray) -> FloatArray:
    """A column at the prompts of another table; NaN where it has none."""
    values = dict(zip(of.tolist(), column.tolist(), strict=True))
    return np.array([values.get(i, np.nan) for i in prompt_ids.tolist()], dtype=np.float64)
