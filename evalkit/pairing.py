"""Two completion sets with their rewards -> one row per prompt, every prompt left out named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from evalkit.data import CompletionSet, FloatArray, IntArray, Prompt, Rewards, TextArray
from evalkit.errors import InputError, IntegrityError, MissingError
from evalkit.statistics.outcomes import all_pairs, mean_by_group, outcomes, win_probabilities
from evalkit.statistics.resampling import Keys
from evalkit.text import count, listing

if TYPE_CHECKING:
    import pandas as pd

Missing = Literal["error", "drop"]
CLIP = 60


@dataclass(frozen=True, slots=True)
class TieRule:
    """What counts as a tie and what becomes of it.

    Attributes:
        margin: |margin| ≤ this is a tie, in reward-model units.
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
        probability: (P,) mean win probability over the same pairs, in [0, 1].
        checkpoint_tokens: (P,) mean tokens of the conversations, template included.
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
    checkpoint_tokens: FloatArray
    reference_tokens: FloatArray
    truncated: int
    unmatched: Unmatched

    @property
    def margin(self) -> FloatArray:
        """(P,) checkpoint reward minus reference reward."""
        return self.checkpoint_reward - self.reference_reward

    def rows(self, subset: str) -> IntArray:
        """Row numbers of one subset."""
        return np.flatnonzero(self.subset == subset)

    def resample_keys(self, seed: int) -> Keys:
        """(P,) the bootstrap key of each prompt: of its id and the seed alone."""
        return np.array([_key(prompt_id, seed) for prompt_id in self.prompt_id], dtype=np.uint64)

    def to_frame(self) -> pd.DataFrame:
        """The table as a data frame, one row per prompt."""
        import pandas as pd

        return pd.DataFrame(self.columns())

    def columns(self) -> dict[str, TextArray | FloatArray]:
        """Column name -> values, in the order they are written."""
        return {
            "prompt_id": self.prompt_id,
            "subset": self.subset,
            "checkpoint_reward": self.checkpoint_reward,
            "reference_reward": self.reference_reward,
            "margin": self.margin,
            "outcome": self.outcome,
            "win_probability": self.probability,
            "checkpoint_tokens": self.checkpoint_tokens,
            "reference_tokens": self.reference_tokens,
        }


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
) -> PairedTable:
    """Match two sets by prompt, whatever the order of their rows.

    Args:
        checkpoint: The set under test and its rewards.
        reference: The set it is held against and its rewards.
        ties: The tie rule.
        missing: What to do about prompts that cannot be paired: refuse, or leave out and count.
        expected: The benchmark's prompts, where one is named: all of them must be answered.

    Returns:
        The table, sorted by prompt id.

    Raises:
        InputError: Prompts missing on one side under `missing="error"`, or none in common.
        IntegrityError: A prompt id that stands for different messages or subsets in the two sets.
        MissingError: Completions without a reward under `missing="error"`.
    """
    prompts = match(checkpoint[0], reference[0], missing=missing, expected=expected)
    unmatched = _unmatched(checkpoint, reference, prompts)
    if missing == "error" and unmatched.unscored:
        raise _unscored(unmatched, prompts)
    kept = sorted(prompts.keys() - unmatched.prompt_ids)
    if not kept:
        raise InputError(
            f"{checkpoint[0].name!r} and {reference[0].name!r} have no scored prompt in common",
            fix="compare answers to the same prompts",
        )
    return _table(kept, checkpoint, reference, ties, unmatched)


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


def _unmatched(
    checkpoint: tuple[CompletionSet, Rewards],
    reference: tuple[CompletionSet, Rewards],
    prompts: Mapping[str, Prompt],
) -> Unmatched:
    reasons: dict[str, list[str]] = {}
    for completions, rewards in (checkpoint, reference):
        for row in np.flatnonzero(np.isnan(rewards.reward)).tolist():
            reason = f"{completions.name}: {rewards.failures.get(row, 'it has no reward')}"
            reasons.setdefault(str(rewards.prompt_id[row]), []).append(reason)
    return Unmatched(
        _absent(checkpoint[0], prompts),
        _absent(reference[0], prompts),
        {prompt_id: "; ".join(dict.fromkeys(why)) for prompt_id, why in sorted(reasons.items())},
    )


def _absent(completions: CompletionSet, prompts: Mapping[str, Prompt]) -> tuple[str, ...]:
    return tuple(sorted(prompts.keys() - {p.prompt_id for p in completions.prompts}))


def _unscored(unmatched: Unmatched, prompts: Mapping[str, Prompt]) -> MissingError:
    lines = [f"{_name(prompts[i])}: {why}" for i, why in unmatched.unscored.items()]
    return MissingError(
        f"{count(len(lines), 'prompt')} with a completion that has no reward",
        where=listing(lines, separator="\n     "),
        fix="mend these rows (see --max-length and --overlong for long ones), or compare the "
        "others with --missing drop; the rewards of all others are kept",
    )


def _name(prompt: Prompt) -> str:
    text = " ".join(prompt.messages[-1].content.split())
    short = prompt.prompt_id if len(prompt.prompt_id) <= CLIP else f"{prompt.prompt_id[:12]}…"
    return f"{short} {text[:CLIP]!r}{'…' if len(text) > CLIP else ''}"


def _table(
    kept: list[str],
    checkpoint: tuple[CompletionSet, Rewards],
    reference: tuple[CompletionSet, Rewards],
    ties: TieRule,
    unmatched: Unmatched,
) -> PairedTable:
    left, left_sizes = _rows_by_prompt(checkpoint[1], kept)
    right, right_sizes = _rows_by_prompt(reference[1], kept)
    prompt, i, j = all_pairs(left_sizes, right_sizes)
    margins = checkpoint[1].reward[left][i] - reference[1].reward[right][j]
    n = len(kept)

    def per_prompt(values: FloatArray | IntArray, sizes: IntArray) -> FloatArray:
        return mean_by_group(values.astype(np.float64), np.repeat(np.arange(n), sizes), n)

    subsets = {p.prompt_id: p.subset for p in checkpoint[0].prompts}
    subsets |= {p.prompt_id: p.subset for p in reference[0].prompts if p.subset}
    table = PairedTable(
        prompt_id=np.array(kept, dtype=object),
        subset=np.array([subsets[prompt_id] for prompt_id in kept], dtype=object),
        checkpoint_reward=per_prompt(checkpoint[1].reward[left], left_sizes),
        reference_reward=per_prompt(reference[1].reward[right], right_sizes),
        outcome=mean_by_group(outcomes(margins, tie=ties.margin, drop_ties=ties.drop), prompt, n),
        probability=mean_by_group(win_probabilities(margins), prompt, n),
        checkpoint_tokens=per_prompt(checkpoint[1].tokens[left], left_sizes),
        reference_tokens=per_prompt(reference[1].tokens[right], right_sizes),
        truncated=sum(
            int(np.count_nonzero(rewards.cut[rows]))
            for rewards, rows in ((checkpoint[1], left), (reference[1], right))
        ),
        unmatched=unmatched,
    )
    for column in table.columns().values():
        column.setflags(write=False)
    return table


def _rows_by_prompt(rewards: Rewards, kept: list[str]) -> tuple[IntArray, IntArray]:
    """Row numbers of the kept prompts, prompt by prompt, and how many each has."""
    rows: dict[str, list[int]] = {}
    for row, prompt_id in enumerate(rewards.prompt_id.tolist()):
        rows.setdefault(prompt_id, []).append(row)
    sizes = np.array([len(rows[prompt_id]) for prompt_id in kept], dtype=np.int64)
    order = np.array([row for prompt_id in kept for row in rows[prompt_id]], dtype=np.int64)
    return order, sizes
