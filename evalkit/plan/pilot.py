"""A pilot: what is known already of checkpoints against references, completion by completion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from evalkit.data import CompletionSet, FloatArray, Item, Prompt, Rewards, item_key
from evalkit.errors import InputError, MissingError
from evalkit.pairing import Missing, match
from evalkit.scoring import Scored, known_rewards, ordered_pairs, preferences_of, rewards_of
from evalkit.sets import NamedSet, check_names
from evalkit.statistics.outcomes import outcomes, win_probabilities
from evalkit.store import Store
from evalkit.text import count, listing

Metric = Literal["win_rate", "win_probability"]


class Measure(NamedTuple):
    """Whose rewards are read, and what becomes of a margin.

    Attributes:
        name: Of the reward model.
        fingerprint: Its identity in store and packs.
        is_pairwise: Whether it scores two answers against each other.
        metric: What is averaged.
        tie: |margin| ≤ this is a tie; of a pair-preference model, |P − ½|.
        temperature: Of the win probability, in reward units; None for a pair-preference model.
    """

    name: str
    fingerprint: str
    is_pairwise: bool
    metric: Metric
    tie: float
    temperature: float | None

    def value(self, lead: FloatArray) -> FloatArray:
        """Of margins (of a pair-preference model, P − ½) of any shape; NaN stays NaN."""
        if self.metric == "win_rate":
            return outcomes(lead, tie=self.tie)
        if self.is_pairwise:
            return lead + 0.5
        return win_probabilities(lead, temperature=self.temperature or 1.0)


@dataclass(frozen=True, slots=True)
class Pilot:
    """Checkpoints against references on the P prompts on which everything is known.

    Attributes:
        values: Of each checkpoint (P, R, K): what each of its completions gets against each
            reference, in [0, 1], the mean over the reference's completions. K is the fewest
            completions of a prompt.
        most: Of each checkpoint, the most completions of a prompt.
        left_out: Prompts that are not in the pilot.
        truncated: Completions scored with tokens cut off, or pairs of them.
    """

    values: tuple[FloatArray, ...]
    most: tuple[int, ...]
    left_out: int
    truncated: int

    @property
    def prompts(self) -> int:
        """P."""
        return len(self.values[0])

    @property
    def completions(self) -> tuple[int, ...]:
        """K of each checkpoint."""
        return tuple(of.shape[2] for of in self.values)

    def sides(self) -> tuple[FloatArray, FloatArray]:
        """What is held against what: two checkpoints, or one against ½, which does not vary."""
        if len(self.values) == 2:
            return self.values[0], self.values[1]
        # twice, as anything constant is known however often it is repeated
        half = np.full((*self.values[0].shape[:2], 2), 0.5)
        return self.values[0], half


def read_pilot(
    checkpoints: Sequence[NamedSet],
    references: Sequence[NamedSet],
    measure: Measure,
    store: Store,
    *,
    expected: Sequence[Prompt] = (),
    missing: Missing = "error",
    fix: str = "",
) -> Pilot:
    """The pilot that store and packs hold; no reward model is loaded.

    Args:
        checkpoints: One or two.
        references: At least one.
        measure: Whose rewards, and what of them.
        store: Known rewards.
        expected: The benchmark's prompts, where one is named.
        missing: What to do about prompts without a completion or a reward: refuse, or leave out.
        fix: The command that makes missing rewards.

    Raises:
        InputError: Unmatched prompts under `missing="error"`, or fewer than two prompts.
        IntegrityError: Prompts that differ under one id.
        MissingError: Rewards that are not known under `missing="error"`.
    """
    check_names([*checkpoints, *references])
    left, right = ([found.completions for found in side] for side in (checkpoints, references))
    prompts: dict[str, Prompt] = {}
    for one, other in product(left, right):
        prompts |= match(one, other, missing=missing, expected=expected)
    packs = [pack for found in (*checkpoints, *references) for pack in found.packs()]
    items = _items(left, right, pairwise=measure.is_pairwise)
    wanted = [item for of in items.values() for item in of]
    scored = known_rewards(measure.fingerprint, wanted, store, packs=packs)
    if missing == "error" and scored.problems:
        raise _missing(items, scored, measure, fix)
    games = [[dict(_games(one, other, scored, measure)) for other in right] for one in left]
    kept = [
        i
        for i in sorted(prompts)
        if all(i in of and not np.isnan(of[i]).any() for row in games for of in row)
    ]
    if len(kept) < 2:
        raise InputError(
            f"a pilot of {count(len(kept), 'prompt')} says nothing of others",
            where=listing([found.name for found in (*left, *right)]),
            fix="name sets that answer the same prompts and are scored",
        )
    sizes = [[len(row[0][i]) for i in kept] for row in games]
    return Pilot(
        values=tuple(
            np.stack([[of[i][: min(size)] for of in row] for i in kept])
            for row, size in zip(games, sizes, strict=True)
        ),
        most=tuple(max(size) for size in sizes),
        left_out=len(prompts) - len(kept),
        truncated=sum(row.cut > 0 for row in scored.rewards.values()),
    )


def _items(
    left: Sequence[CompletionSet], right: Sequence[CompletionSet], *, pairwise: bool
) -> dict[str, list[Item]]:
    """What must be known, by the name of the set, or of the two, it belongs to."""
    if not pairwise:
        return {found.name: list(found.conversations()) for found in (*left, *right)}
    return {
        f"{one.name} against {other.name}": [x for both in ordered_pairs(one, other) for x in both]
        for one, other in product(left, right)
    }


def _missing(
    items: dict[str, list[Item]], scored: Scored, measure: Measure, fix: str
) -> MissingError:
    lacking = {
        name: sum(item_key(item) in scored.problems for item in of) for name, of in items.items()
    }
    lines = [f"{name}: {n} of {len(items[name])}" for name, n in lacking.items() if n]
    return MissingError(
        f"a plan is made from rewards that are known, and {count(len(scored.problems), 'reward')} "
        f"of {measure.name!r} are not",
        where=listing(lines, separator="\n     "),
        fix=fix,
    )


def _games(
    ours: CompletionSet, theirs: CompletionSet, scored: Scored, measure: Measure
) -> Iterator[tuple[str, FloatArray]]:
    """(K,) values of a prompt's completions, each the mean over the reference's completions."""
    for prompt_id, lead in _leads(ours, theirs, scored, measure):
        yield prompt_id, measure.value(lead).mean(axis=1)


def _leads(
    ours: CompletionSet, theirs: CompletionSet, scored: Scored, measure: Measure
) -> Iterator[tuple[str, FloatArray]]:
    """(K, M) margins of a prompt that both answer; of a pair-preference model, P − ½."""
    if not measure.is_pairwise:
        mine, other = (_rewards(side, rewards_of(side, scored)) for side in (ours, theirs))
        for prompt_id in mine.keys() & other.keys():
            yield prompt_id, mine[prompt_id][:, None] - other[prompt_id]
        return
    said = preferences_of(ours, theirs, scored).probability - 0.5
    answered = {p.prompt_id: len(c) for p, c in theirs.by_prompt()}
    at = 0
    for prompt, completions in ours.by_prompt():
        shape = (len(completions), answered.get(prompt.prompt_id, 0))
        lead = said[at : at + shape[0] * shape[1]].reshape(shape)
        at += lead.size
        if lead.size:
            yield prompt.prompt_id, lead


def _rewards(completions: CompletionSet, rewards: Rewards) -> dict[str, FloatArray]:
    ends = np.cumsum([len(answers) for answers in completions.completions])[:-1]
    parts = np.split(rewards.reward, ends)
    return {p.prompt_id: of for p, of in zip(completions.prompts, parts, strict=True)}
