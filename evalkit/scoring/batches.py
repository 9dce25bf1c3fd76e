"""Batches of similar length under a token budget, and what to do when one does not fit."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from evalkit.data import Item
from evalkit.reward_models import (
    PartialBatchError,
    Rendered,
    RewardModel,
    RewardModelMemoryError,
)
from evalkit.text import first_line

Key = TypeVar("Key", bound=Hashable)


def plan(lengths: Mapping[str, int], batch_tokens: int) -> list[list[str]]:
    """Keys in batches of at most `batch_tokens` padded tokens, longest first.

    Longest first shows a lack of memory at once and lets the time left only shrink.

    Args:
        lengths: Key -> tokens.
        batch_tokens: Rows times the longest row; a single longer row is a batch of its own.
    """
    batches: list[list[str]] = []
    room = 0
    for key in sorted(lengths, key=lambda k: (-lengths[k], k)):
        if room == 0:
            batches.append([])
            room = max(1, batch_tokens // max(1, lengths[key]))
        batches[-1].append(key)
        room -= 1
    return batches


def render_all(
    model: RewardModel, items: Mapping[str, Item]
) -> tuple[dict[str, Rendered], dict[str, str]]:
    """Token ids of the items that have them, and why the others have none, by their keys."""
    rendered = dict(zip(items, model.render(list(items.values())), strict=True))
    problems = {key: row.problem for key, row in rendered.items() if row.problem}
    return {key: row for key, row in rendered.items() if key not in problems}, problems


def score_batches(
    model: RewardModel, rendered: Mapping[Key, Rendered], batches: Sequence[list[Key]]
) -> Iterator[tuple[dict[Key, list[float]], dict[Key, str]]]:
    """Score batch after batch; one that does not fit is halved, and so are later ones of its size.

    Of one that failed in part, the rows that are to be asked again alone go back, in halves.

    Args:
        model: The reward model.
        rendered: Key -> token ids.
        batches: Of keys, in the order they are to be scored.

    Yields:
        The finite rewards of a batch, each with its attributes behind it, and why some of its rows
        have none: not finite, failing alone, or for the reason the model gives.
    """
    waiting = deque(batches)
    limit = float("inf")
    while waiting:
        batch = waiting.popleft()
        size = len(batch) * max(len(rendered[key].ids) for key in batch)
        if size > limit and len(batch) > 1:
            waiting.extendleft(reversed(_halves(batch)))
            continue
        reasons: Mapping[int, str] = {}
        again: list[Key] = []
        try:
            found = model.rewards([rendered[key] for key in batch])
        except PartialBatchError as partial:
            found, reasons = partial.rewards, partial.reasons
            again = [batch[i] for i in partial.again] if len(batch) > 1 else []
            waiting.extendleft(reversed(_halves(again)))
        except (RewardModelMemoryError, RuntimeError, IndexError) as error:
            if len(batch) > 1:
                if isinstance(error, RewardModelMemoryError):
                    limit = size * len(_halves(batch)[0]) / len(batch)
                waiting.extendleft(reversed(_halves(batch)))
            else:
                yield {}, {batch[0]: f"the reward model failed: {first_line(error)}"}
            continue
        yield _sort_out(batch, found.tolist(), reasons, {*again})


def _halves(batch: list[Key]) -> list[list[Key]]:
    middle = (len(batch) + 1) // 2
    return [half for half in (batch[:middle], batch[middle:]) if half]


def _sort_out(
    batch: list[Key],
    found: Sequence[list[float]],
    reasons: Mapping[int, str],
    again: Collection[Key],
) -> tuple[dict[Key, list[float]], dict[Key, str]]:
    rewards: dict[Key, list[float]] = {}
    failed: dict[Key, str] = {}
    for i, (key, values) in enumerate(zip(batch, found, strict=True)):
        if key in again:
            continue
        if np.all(np.isfinite(values)):
            rewards[key] = values
        else:
            failed[key] = reasons.get(i) or f"the reward is not finite ({values[0]})"
    return rewards, failed
