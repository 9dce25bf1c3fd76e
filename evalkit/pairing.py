"""Two completion sets with their rewards -> one row per prompt, every prompt left out named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from evalkit.data import (
    UNREADABLE,
    CompletionSet,
    FloatArray,
    IntArray,
    Preferences,
    Prompt,
    Rewards,
    TextArray,
    fix_of,
)
from evalkit.errors import InputError, IntegrityError, MissingError
from evalkit.statistics.outcomes import all_pairs, mean_by_group, outcomes, win_probabilities
from evalkit.statistics.resampling import Keys
from evalkit.text import by_kind, count, listing

if TYPE_CHECKING:
    import pandas as pd

Missing = Literal["error", "drop"]
Reasons = list[tuple[str, str]]  # prompt id, why one of its completions has no number
NO_REWARD = "it has no reward"
CLIP = 60


@dataclass(frozen=True, slots=True)
class TieRule:
    """What counts as a tie and what becomes of it.

    Attributes:
        margin: |margin| ≤ this is a tie, in reward-model units; of a pair-preference model,
            |P − ½| ≤ this.
        drop: Leave ties out of the win rate instead of counting them one half.
    """

    margin: float = 0.0
    drop: bool = False

    def __str__(self) -> str:
        margin = f"margin={self.margin!r}" if self.margin else ""
        return ",".join(filter(None, [margin, "drop" if self.drop else ""])) or "half"


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Prompts that are not in the table, and why.

    Attributes:
        missing_in_checkpoint: Prompt ids the checkpoint has no completion for.
        missing_in_reference: Prompt ids the reference has no completion for.
        unscored: Prompt id -> why one of its completions has no reward.
    """

    missing_in_checkpoint: tuple[str, ...] = ()
    missing_in_reference: tuple[str, ...] = ()
    unscored: Mapping[str, str] = field(default_factory=dict)

    @property
    def prompt_ids(self) -> set[str]:
        """All of them."""
        return {*self.missing_in_checkpoint, *self.missing_in_reference, *self.unscored}

    @property
    def unreadable(self) -> int:
        """How many are unscored because a judge's verdict could not be read."""
        return sum(why.startswith(UNREADABLE) for why in self.unscored.values())

    def __len__(self) -> int:
        return len(self.prompt_ids)


@dataclass(frozen=True, slots=True)
class PairedTable:
    """One row per prompt, P rows sorted by prompt id; columns are read-only.

    Attributes:
        prompt_id: (P,).
        subset: (P,) empty text where the prompt has none.
        checkpoint_reward: (P,) mean over the prompt's completions, reward-model units.
        reference_reward: (P,) likewise.
        outcome: (P,) mean outcome over all K_p·M_p pairs, in [0, 1]; NaN if ties are dropped and
            all pairs are tied.
        probability: (P,) mean win probability over the same pairs, in [0, 1]; NaN if the reward
            model's margins have no temperature.
        order_gap: (P,) how much being shown first helps with a pair-preference model: probability
            shown first minus shown second, mean over pairs, in [-1, 1]; NaN for other reward
            models, as the rewards and tokens are for a pair-preference model.
        order_shift: (P,) mean over pairs of the size of that difference, in [0, 1]; likewise.
        checkpoint_tokens: (P,) mean tokens of the conversations before any cut, template included.
        reference_tokens: (P,) likewise.
        truncated: Completions of these prompts that lost tokens.
        unmatched: The prompts left out.
    """

    prompt_id: TextArray
    subset: TextArray
    checkpoint_reward: FloatArray
    reference_reward: FloatArray
    outcome: FloatArray
    probability: FloatArray
    order_gap: FloatArray
    order_shift: FloatArray
    checkpoint_tokens: FloatArray
    reference_tokens: FloatArray
    truncated: int
    unmatched: Unmatched

    @property
    def margin(self) -> FloatArray:
        """(P,) checkpoint reward minus reference reward."""
        return self.checkpoint_reward - self.reference_reward

    @property
    def lead(self) -> FloatArray:
        """(P,) how clearly the checkpoint is ahead: the margin, or P − ½ where there is none."""
        return np.where(np.isnan(self.margin), self.probability - 0.5, self.margin)

    def rows(self, subset: str) -> IntArray:
        """Row numbers of one subset."""
        return np.flatnonzero(self.subset == subset)

    def to_frame(self) -> pd.DataFrame:
        """The table as a data frame, one row per prompt."""
        import pandas as pd

        return pd.DataFrame(self.columns())

    def columns(self) -> dict[str, TextArray | FloatArray]:
        """Column name -> values, in the order they are written."""
        pairwise = {} if np.all(np.isnan(self.order_gap)) else {"order_gap": self.order_gap}
        return {
            "prompt_id": self.prompt_id,
            "subset": self.subset,
            "checkpoint_reward": self.checkpoint_reward,
            "reference_reward": self.reference_reward,
            "margin": self.margin,
            "outcome": self.outcome,
            "win_probability": self.probability,
            **pairwise,
            "checkpoint_tokens": self.checkpoint_tokens,
            "reference_tokens": self.reference_tokens,
        }


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
        (str(rewards.prompt_id[row]), f"{found.name}: {rewards.failures.get(row, NO_REWARD)}")
        for found, rewards in (checkpoint, reference)
        for row in np.flatnonzero(np.isnan(rewards.reward)).tolist()
    ]
    kept, unmatched = _keep(checkpoint[0], reference[0], prompts, reasons, missing)
    left, right = (_rows_by_prompt(side[1].prompt_id, kept) for side in (checkpoint, reference))
    prompt, i, j = all_pairs(left.sizes, right.sizes)
    margins = checkpoint[1].reward[left.order][i] - reference[1].reward[right.order][j]
    unknown = np.full(len(margins), np.nan)
    games = _Games(
        prompt,
        margins,
        unknown if temperature is None else win_probabilities(margins, temperature=temperature),
        unknown,
    )
    means = [
        mean_by_group(values[rows.order].astype(np.float64), rows.prompt, len(kept))
        for (_, rewards), rows in ((checkpoint, left), (reference, right))
        for values in (rewards.reward, rewards.tokens + rewards.cut)
    ]
    truncated = sum(
        int(np.count_nonzero(rewards.cut[rows.order]))
        for (_, rewards), rows in ((checkpoint, left), (reference, right))
    )
    return _table(kept, (checkpoint[0], reference[0]), means, games, ties, (truncated, unmatched))


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
    kept, unmatched = _keep(checkpoint, reference, prompts, reasons, missing)
    rows = _rows_by_prompt(preferences.prompt_id, kept)
    probability = preferences.probability[rows.order]
    gap = preferences.order_gap[rows.order]
    truncated = int(np.count_nonzero(preferences.cut[rows.order]))
    return _table(
        kept,
        (checkpoint, reference),
        [np.full(len(kept), np.nan)] * 4,
        _Games(rows.prompt, probability - 0.5, probability, gap),
        ties,
        (truncated, unmatched),
    )


def match(
    checkpoint: CompletionSet,
    reference: CompletionSet,
    *,
    missing: Missing = "error",
    expected: Iterable[Prompt] = (),
) -> dict[str, Prompt]:
    """The prompts of either set by id; refuses what could not be paired, before any scoring.

    Args:
        checkpoint: The set under test.
        reference: The set it is held against.
        missing: Whether prompts on one side only are refused or left for `pair` to leave out.
        expected: The benchmark's prompts, where one is named.

    Raises:
        InputError: Prompts missing on one side under `missing="error"`.
        IntegrityError: A prompt id that stands for different messages or subsets in the two sets.
    """
    _check_same_prompts(checkpoint, reference)
    prompts = {p.prompt_id: p for p in [*reference.prompts, *checkpoint.prompts, *expected]}
    absent = [
        (completions.name, prompt_id)
        for completions in (checkpoint, reference)
        for prompt_id in _absent(completions, prompts)
    ]
    if absent and missing == "error":
        lines = [f"{name} lacks {_name(prompts[prompt_id])}" for name, prompt_id in absent]
        n = len({prompt_id for _, prompt_id in absent})
        raise InputError(
            f"{count(n, 'prompt')} without a completion on one side",
            where=listing(lines, separator="\n     "),
            fix="add the missing completions, or compare the others with --missing drop",
        )
    return prompts


def _check_same_prompts(checkpoint: CompletionSet, reference: CompletionSet) -> None:
    known = {p.prompt_id: p for p in reference.prompts}
    differing = [
        p.prompt_id
        for p in checkpoint.prompts
        if (other := known.get(p.prompt_id, p)).messages != p.messages
        or (other.subset and p.subset and other.subset != p.subset)
    ]
    if differing:
        raise IntegrityError(
            f"different messages or subsets under {count(len(differing), 'prompt id')} of "
            f"{checkpoint.name!r} and {reference.name!r}",
            where=listing(differing),
            fix="compare answers to the same prompts, or leave the ids out: prompts are then "
            "matched by their messages",
        )


def _keep(
    checkpoint: CompletionSet,
    reference: CompletionSet,
    prompts: Mapping[str, Prompt],
    reasons: Reasons,
    missing: Missing,
) -> tuple[list[str], Unmatched]:
    """The prompts to compare, sorted, and those left out; refuses what `missing` does not allow."""
    unscored: dict[str, list[str]] = {}
    for prompt_id, reason in reasons:
        unscored.setdefault(prompt_id, []).append(reason)
    unmatched = Unmatched(
        _absent(checkpoint, prompts),
        _absent(reference, prompts),
        {prompt_id: "; ".join(dict.fromkeys(why)) for prompt_id, why in sorted(unscored.items())},
    )
    kept = sorted(prompts.keys() - unmatched.prompt_ids)
    if unmatched.unscored and (missing == "error" or not kept):
        raise _unscored(unmatched, prompts, left=len(kept))
    if not kept:
        raise InputError(
            f"{checkpoint.name!r} and {reference.name!r} have no scored prompt in common",
            fix="compare answers to the same prompts",
        )
    return kept, unmatched


def _absent(completions: CompletionSet, prompts: Mapping[str, Prompt]) -> tuple[str, ...]:
    return tuple(sorted(prompts.keys() - {p.prompt_id for p in completions.prompts}))


def _unscored(unmatched: Unmatched, prompts: Mapping[str, Prompt], *, left: int) -> MissingError:
    reasons = [(_name(prompts[i]), why) for i, why in unmatched.unscored.items()]
    unread = f", {unmatched.unreadable} for want of a readable verdict"
    others = "compare the others with --missing drop; the rewards of all others are kept"
    return MissingError(
        f"{count(len(reasons), 'prompt')} with a completion that has no reward"
        f"{unread if unmatched.unreadable else ''}{'' if left else ': none is left to compare'}",
        where=listing(
            [f"{name}: {why}" for name, why in reasons] if left else by_kind(reasons),
            separator="\n     ",
        ),
        fix=f"{fix_of(unmatched.unscored.values())}{f'; or {others}' if left else ''}",
    )


def _name(prompt: Prompt) -> str:
    short = prompt.prompt_id if len(prompt.prompt_id) <= CLIP else f"{prompt.prompt_id[:12]}…"
    if not prompt.messages:  # of verdicts, whose prompts may be known by their ids alone
        return short
    text = " ".join(prompt.messages[-1].content.split())
    return f"{short} {text[:CLIP]!r}{'…' if len(text) > CLIP else ''}"


class _Games(NamedTuple):
    """N pairings of completions: (N,) row of the table, lead, probability and order gap."""

    prompt: IntArray
    lead: FloatArray
    probability: FloatArray
    order_gap: FloatArray


def _table(
    kept: list[str],
    sets: tuple[CompletionSet, CompletionSet],
    means: Sequence[FloatArray],
    games: _Games,
    ties: TieRule,
    rest: tuple[int, Unmatched],
) -> PairedTable:
    n = len(kept)
    subsets = {p.prompt_id: p.subset for p in sets[0].prompts}
    subsets |= {p.prompt_id: p.subset for p in sets[1].prompts if p.subset}
    checkpoint_reward, checkpoint_tokens, reference_reward, reference_tokens = means
    outcome = outcomes(games.lead, tie=ties.margin, drop_ties=ties.drop)
    table = PairedTable(
        prompt_id=np.array(kept, dtype=object),
        subset=np.array([subsets[prompt_id] for prompt_id in kept], dtype=object),
        checkpoint_reward=checkpoint_reward,
        reference_reward=reference_reward,
        outcome=mean_by_group(outcome, games.prompt, n),
        probability=mean_by_group(games.probability, games.prompt, n),
        order_gap=mean_by_group(games.order_gap, games.prompt, n),
        order_shift=mean_by_group(np.abs(games.order_gap), games.prompt, n),
        checkpoint_tokens=checkpoint_tokens,
        reference_tokens=reference_tokens,
        truncated=rest[0],
        unmatched=rest[1],
    )
    for column in (*table.columns().values(), table.order_gap, table.order_shift):
        column.setflags(write=False)
    return table


class _Rows(NamedTuple):
    """Rows of the kept prompts, prompt by prompt: their numbers, prompts, and how many each has."""

    order: IntArray
    prompt: IntArray
    sizes: IntArray


def _rows_by_prompt(prompt_ids: TextArray, kept: list[str]) -> _Rows:
    rows: dict[str, list[int]] = {}
    for row, prompt_id in enumerate(prompt_ids.tolist()):
        rows.setdefault(prompt_id, []).append(row)
    sizes = np.array([len(rows[prompt_id]) for prompt_id in kept], dtype=np.int64)
    order = np.array([row for prompt_id in kept for row in rows[prompt_id]], dtype=np.int64)
    return _Rows(order, np.repeat(np.arange(len(kept)), sizes), sizes)
