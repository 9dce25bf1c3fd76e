"""Batches of similar length under a token budget, and what to do when one does not fit."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from evalkit.reward_models import (
    PartialBatchError,
    Rendered,
    RewardModel,
    RewardModelMemoryError,
)
from evalkit.store import StoredReward
from evalkit.text import first_line

Batch = list[str]


def plan(lengths: Mapping[str, int], batch_tokens: int) -> list[Batch]:
    """Keys in batches of at most `batch_tokens` padded tokens, longest first.

    Longest first shows a lack of memory at once and lets the time left only shrink.

    Args:
        lengths: Key -> tokens.
        batch_tokens: Rows times the longest row; a single longer row is a batch of its own.
    """
    batches: list[Batch] = []
    room = 0
    for key in sorted(lengths, key=lambda k: (-lengths[k], k)):
        if room == 0:
            batches.append([])
            room = max(1, batch_tokens // max(1, lengths[key]))
        batches[-1].append(key)
        room -= 1
    return batches


def score_batches(
    model: RewardModel, rendered: Mapping[str, Rendered], batches: Sequence[Batch]
) -> Iterator[tuple[dict[str, StoredReward], dict[str, str]]]:
    """Score batch after batch; one that does not fit is halved, and so are later ones of its size.

    Of one that failed in part, the rows that are to be asked again alone go back, in halves.

    Args:
        model: The reward model.
        rendered: Key -> token ids.
        batches: In the order they are to be scored.

    Yields:
        The rewards of a batch, and why some of its conversations have none: not finite, failing
        alone, or for the reason the model gives.
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
        again: Batch = []
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
        yield _sort_out(batch, found.tolist(), rendered, reasons, {*again})


def _halves(batch: Batch) -> list[Batch]:
    middle = (len(batch) + 1) // 2
    return [half for half in (batch[:middle], batch[middle:]) if half]


def _sort_out(
    batch: Batch,
    found: Sequence[Sequence[float]],
    rendered: Mapping[str, Rendered],
    reasons: Mapping[int, str],
    again: Collection[str],
) -> tuple[dict[str, StoredReward], dict[str, str]]:
    rewards: dict[str, StoredReward] = {}
    failed: dict[str, str] = {}
    for i, (key, (reward, *attributes)) in enumerate(zip(batch, found, strict=True)):
        if key in again:
            continue
        item = rendered[key]
        if np.all(np.isfinite([reward, *attributes])):
            digest = tokens_digest(item.ids)
            rewards[key] = StoredReward(
                key, reward, len(item.ids), item.cut, digest, tuple(attributes)
            )
        else:
            failed[key] = reasons.get(i) or f"the reward is not finite ({reward})"
    return rewards, failed


def tokens_digest(ids: Sequence[int]) -> str:
    """SHA-256 of token ids as little-endian 64-bit integers."""
    return hashlib.sha256(np.array(ids, dtype="<i8").tobytes()).hexdigest()
