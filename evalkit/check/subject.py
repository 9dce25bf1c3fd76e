"""A loaded reward model with the rewards of some conversations, each scored alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from evalkit.check.probes import ordered_pairs, verdicts
from evalkit.data import FloatArray, Item, Messages, Pair, Unreadable, fix_of
from evalkit.errors import MissingError
from evalkit.reward_models import Rendered, RewardModel
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring.batches import score_batches

if TYPE_CHECKING:
    from evalkit.reward_models.batch import TorchRewardModel

BATCH = 8


class Shift(NamedTuple):
    """How far rewards lie from those of each conversation alone.

    Attributes:
        delta: The largest difference, in reward-model units.
        beyond: Whether one is beyond what the reward model's dtype explains.
        flipped: Verdicts that are others now; a tie is a verdict.
    """

    delta: float
    beyond: bool
    flipped: int


@dataclass(frozen=True)
class Baseline:
    """What everything is held against: the rewards of conversations, each scored alone.

    Attributes:
        spec: The reward model.
        items: (N,) what is scored.
        rows: (N,) their token ids.
        alone: (N,) the reward of each, scored alone.
        pairs: Positions of two answers to one prompt; empty where the items are pairs themselves.
        too_long: How many of all were longer than the reward model takes.
        total: How many there were.
        unscored: Reason -> how many have no reward for it.
    """

    spec: RewardModelSpec
    items: tuple[Item, ...]
    rows: tuple[Rendered, ...]
    alone: FloatArray
    pairs: tuple[tuple[int, int], ...]
    too_long: int
    total: int
    unscored: Mapping[str, int]

    @property
    def verdicts(self) -> int:
        """How many verdicts there are."""
        return len(self.items) if self.spec.is_pairwise else len(self.pairs)

    def shift(self, rewards: FloatArray, of: Sequence[int] | None = None) -> Shift:
        """How far (N,) rewards, or those of some positions, lie from the ones alone."""
        every = np.arange(len(self.alone)) if of is None else np.array(of, dtype=np.int64)
        moved = np.abs(rewards - self.alone[every])
        beyond = moved > self.spec.tolerance * np.maximum(1.0, np.abs(self.alone[every]))
        other = self.alone.copy()
        other[every] = rewards
        flipped = np.sum(self._signs(other) != self._signs(self.alone))
        return Shift(float(moved.max(initial=0.0)), bool(beyond.any()), int(flipped))

    def _signs(self, rewards: FloatArray) -> FloatArray:
        if self.spec.is_pairwise:
            return np.sign(rewards)
        first, second = np.array(self.pairs, dtype=np.int64).reshape(-1, 2).T
        return np.sign(rewards[first] - rewards[second])


@dataclass(frozen=True)
class Subject:
    """What the checks look at.

    Attributes:
        base: Its rewards, which outlive the model.
        model: The reward model, loaded; it may fill its device.
        local: The same where evalkit computes it itself; None for a family of the user's own, and
            for what a server computes.
    """

    base: Baseline
    model: RewardModel
    local: TorchRewardModel | None

    @property
    def spec(self) -> RewardModelSpec:
        """The reward model."""
        return self.base.spec

    @property
    def counted(self) -> bool:
        """Whether the tokens it reads are known to be those of the rows."""
        return self.spec.family.kind != "served" or bool(getattr(self.model, "counts", True))

    def moved(self, rows: Sequence[Rendered]) -> float | None:
        """The largest change of a reward under other token ids; None if none of them fit."""
        fits = [
            i
            for i, row in enumerate(rows)
            if not row.problem and not row.cut and len(row.ids) <= self.spec.max_length
        ]
        if not fits:
            return None
        rewards = rewards_of(self.model, [rows[i] for i in fits])
        return self.base.shift(rewards, fits).delta


def items_of(spec: RewardModelSpec, conversations: Sequence[Messages]) -> list[Item]:
    """What is scored: conversations, or of a pair-preference model their ordered pairs."""
    return ordered_pairs(conversations) if spec.is_pairwise else [*conversations]


def subject_of(
    spec: RewardModelSpec, model: RewardModel, every: Sequence[Item], rendered: Sequence[Rendered]
) -> Subject:
    """Score what is rendered.

    Raises:
        MissingError: None of it has a reward.
    """
    from evalkit.reward_models.batch import TorchRewardModel

    fits = [i for i, row in enumerate(rendered) if not row.problem and not row.cut]
    alone, failed = _score(model, [rendered[i] for i in fits], 1)
    kept = [i for i, reward in zip(fits, alone, strict=True) if np.isfinite(reward)]
    reasons = [row.problem for row in rendered if row.problem and not row.cut] + failed
    if not kept:
        raise MissingError(
            f"{spec.name!r} gives none of these conversations a reward",
            where="\n     ".join(dict.fromkeys(reasons)),
            fix=f"choose others with --data; {fix_of(reasons)}",
        )
    scored = [every[i] for i in kept]
    pairs = [] if spec.is_pairwise else verdicts([i for i in scored if not isinstance(i, Pair)])
    base = Baseline(
        spec=spec,
        items=tuple(scored),
        rows=tuple(rendered[i] for i in kept),
        alone=alone[np.isfinite(alone)],
        pairs=tuple(pairs),
        too_long=sum(row.cut > 0 for row in rendered),
        total=len(every),
        unscored=dict(Counter(reasons)),
    )
    return Subject(base, model, model if isinstance(model, TorchRewardModel) else None)


def rewards_of(
    model: RewardModel, rows: Sequence[Rendered], *, batch: int = 1, order: Sequence[int] = ()
) -> FloatArray:
    """(N,) rewards of rows that can be scored, in batches of some order.

    Raises:
        MissingError: One has none now.
    """
    found, failed = _score(model, rows, batch, order)
    _check_scored(failed)
    return found


def verdicts_of(model: RewardModel, rows: Sequence[Rendered]) -> FloatArray:
    """(N,) what a judge says of ordered pairs; NaN where its verdict cannot be read.

    Raises:
        MissingError: One has none for another reason.
    """
    found, failed = _score(model, rows, BATCH)
    _check_scored([why for why in failed if not isinstance(why, Unreadable)])
    return found


def _check_scored(failed: Sequence[str]) -> None:
    if failed:
        raise MissingError(
            "a conversation that has a reward alone has none in another batch or form",
            where=failed[0],
            fix=fix_of(failed),
        )


def _score(
    model: RewardModel, rows: Sequence[Rendered], batch: int, order: Sequence[int] = ()
) -> tuple[FloatArray, list[str]]:
    """(N,) rewards, NaN where there is none, and why there is none."""
    places = list(order) or list(range(len(rows)))
    batches = [places[i : i + batch] for i in range(0, len(places), batch)]
    found: FloatArray = np.full(len(rows), np.nan)
    failed: list[str] = []
    for rewards, problems in score_batches(model, dict(enumerate(rows)), batches):
        for place, (reward, *_) in rewards.items():
            found[place] = reward
        failed += problems.values()
    return found, failed
