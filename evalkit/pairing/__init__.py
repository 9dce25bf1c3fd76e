"""Two completion sets with their rewards -> one row per prompt, every prompt left out named."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from evalkit.data import (
    CompletionSet,
    FloatArray,
    IntArray,
    Preferences,
    Prompt,
    Rewards,
    TextArray,
    of_side,
)
from evalkit.pairing.matching import Missing, Reasons, keep, match
from evalkit.pairing.table import PairedTable, TieRule, Unmatched
from evalkit.statistics.outcomes import all_pairs, mean_by_group, outcomes, win_probabilities
from evalkit.statistics.resampling import Keys

__all__ = [
    "NO_REWARD",
    "Missing",
    "PairedTable",
    "Rows",
    "TieRule",
    "Unmatched",
    "bootstrap_keys",
    "match",
    "pair",
    "pair_preferences",
    "rows_by_prompt",
]
NO_REWARD = "it has no reward"


def bootstrap_keys(prompt_ids: Sequence[str], seed: int) -> Keys:
    """(P,) the bootstrap key of each prompt: of its id and the seed alone."""
    return np.array([_key(prompt_id, seed) for prompt_id in prompt_ids], dtype=np.uint64)


def _key(prompt_id: str, seed: int) -> int:
    data = f"{seed}\0{prompt_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def pair(
    checkpoint: tuple[CompletionSet, Rewards],
    reference: tuple[CompletionSet, Rewards],
    *,
    ties: TieRule,
    missing: Missing = "error",
    expected: Iterable[Prompt] = (),
    temperature: float | None = 1.0,
) -> PairedTable:
    """Match two sets by prompt, whatever the order of their rows.

    Args:
        checkpoint: The set under test and its rewards.
        reference: The set it is held against and its rewards.
        ties: The tie rule.
        missing: What to do about prompts that cannot be paired: refuse, or leave out and count.
        expected: The benchmark's prompts, where one is named: all of them must be answered.
        temperature: Of the win probability, in reward-model units; None for no probability.

    Returns:
        The table, sorted by prompt id.

    Raises:
        InputError: Prompts missing on one side under `missing="error"`, or none in common.
        IntegrityError: A prompt id that stands for different messages or subsets in the two sets.
        MissingError: Completions without a reward under `missing="error"`.
    """
    prompts = match(checkpoint[0], reference[0], missing=missing, expected=expected)
    reasons: Reasons = [
        (str(rewards.prompt_id[row]), of_side(found.name, rewards.failures.get(row, NO_REWARD)))
        for found, rewards in (checkpoint, reference)
        for row in np.flatnonzero(np.isnan(rewards.reward)).tolist()
    ]
    kept, unmatched = keep(checkpoint[0], reference[0], prompts, reasons, missing)
    left, right = (rows_by_prompt(side[1].prompt_id, kept) for side in (checkpoint, reference))
    prompt, i, j = all_pairs(left.sizes, right.sizes)
    margins = checkpoint[1].reward[left.order][i] - reference[1].reward[right.order][j]
    unknown = np.full(len(margins), np.nan)
    games = _Games(
        prompt,
        margins,
        unknown if temperature is None else win_probabilities(margins, temperature=temperature),
        unknown,
    )
    cut = (checkpoint[1].cut[left.order], reference[1].cut[right.order])
    return _table(
        kept,
        _side(*checkpoint, left),
        _side(*reference, right),
        games,
        ties,
        truncated=sum(map(int, map(np.count_nonzero, cut))),
        unmatched=unmatched,
    )


def pair_preferences(
    checkpoint: CompletionSet,
    reference: CompletionSet,
    preferences: Preferences,
    *,
    ties: TieRule,
    missing: Missing = "error",
    expected: Iterable[Prompt] = (),
) -> PairedTable:
    """The table of a pair-preference model, which compares answers and gives none a reward.

    Arguments, order and errors as for `pair`.
    """
    prompts = match(checkpoint, reference, missing=missing, expected=expected)
    reasons: Reasons = [
        (str(preferences.prompt_id[row]), preferences.failures.get(row, NO_REWARD))
        for row in np.flatnonzero(np.isnan(preferences.probability)).tolist()
    ]
    kept, unmatched = keep(checkpoint, reference, prompts, reasons, missing)
    rows = rows_by_prompt(preferences.prompt_id, kept)
    probability = preferences.probability[rows.order]
    gap = preferences.order_gap[rows.order]
    unknown = np.full(len(kept), np.nan)
    return _table(
        kept,
        _Side(checkpoint, reward=unknown, tokens=unknown),
        _Side(reference, reward=unknown, tokens=unknown),
        _Games(rows.prompt, probability - 0.5, probability, gap),
        ties,
        truncated=int(np.count_nonzero(preferences.cut[rows.order])),
        unmatched=unmatched,
    )


class Rows(NamedTuple):
    """Rows of P kept prompts, prompt by prompt.

    Attributes:
        order: (N,) their numbers.
        prompt: (N,) which of the prompts each belongs to, from 0.
        sizes: (P,) how many rows each prompt has.
    """

    order: IntArray
    prompt: IntArray
    sizes: IntArray


def rows_by_prompt(prompt_ids: TextArray, kept: Collection[str]) -> Rows:
    """Where the rows of each kept prompt are.

    Args:
        prompt_ids: (N,) of the rows.
        kept: The prompts wanted, each with at least one row, in the order to give them.
    """
    rows: dict[str, list[int]] = {}
    for row, prompt_id in enumerate(prompt_ids.tolist()):
        rows.setdefault(prompt_id, []).append(row)
    sizes = np.array([len(rows[prompt_id]) for prompt_id in kept], dtype=np.int64)
    order = np.array([row for prompt_id in kept for row in rows[prompt_id]], dtype=np.int64)
    return Rows(order, np.repeat(np.arange(len(kept)), sizes), sizes)


class _Games(NamedTuple):
    """N pairings of completions: (N,) row of the table, lead, probability and order gap."""

    prompt: IntArray
    lead: FloatArray
    probability: FloatArray
    order_gap: FloatArray


class _Side(NamedTuple):
    """A completion set and (P,) means over each kept prompt's completions."""

    completions: CompletionSet
    reward: FloatArray
    tokens: FloatArray


def _side(completions: CompletionSet, rewards: Rewards, rows: Rows) -> _Side:
    def means(values: FloatArray) -> FloatArray:
        return mean_by_group(values[rows.order], rows.prompt, len(rows.sizes))

    tokens = (rewards.tokens + rewards.cut).astype(np.float64)
    return _Side(completions, reward=means(rewards.reward), tokens=means(tokens))


def _table(
    kept: list[str],
    checkpoint: _Side,
    reference: _Side,
    games: _Games,
    ties: TieRule,
    *,
    truncated: int,
    unmatched: Unmatched,
) -> PairedTable:
    n = len(kept)
    subsets = {p.prompt_id: p.subset for p in checkpoint.completions.prompts}
    subsets |= {p.prompt_id: p.subset for p in reference.completions.prompts if p.subset}
    outcome = outcomes(games.lead, tie=ties.margin, drop_ties=ties.drop)
    return PairedTable(
        prompt_id=np.array(kept, dtype=object),
        subset=np.array([subsets[prompt_id] for prompt_id in kept], dtype=object),
        checkpoint_reward=checkpoint.reward,
        reference_reward=reference.reward,
        outcome=mean_by_group(outcome, games.prompt, n),
        probability=mean_by_group(games.probability, games.prompt, n),
        order_gap=mean_by_group(games.order_gap, games.prompt, n),
        order_shift=mean_by_group(np.abs(games.order_gap), games.prompt, n),
        checkpoint_tokens=checkpoint.tokens,
        reference_tokens=reference.tokens,
        truncated=truncated,
        unmatched=unmatched,
    )
