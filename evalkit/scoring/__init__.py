"""What is not known yet → batches → forward → store; everything known is only looked up.

The reward model is loaded when the first unknown conversation is met, and not at all without one.
Whenever it is loaded, a few known rewards are computed again: if they moved, nothing is mixed.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from evalkit import reward_models
from evalkit.data import (
    CompletionSet,
    Item,
    Pair,
    Preferences,
    Rewards,
    Unreadable,
    conversation_key,
    item_key,
)
from evalkit.errors import IntegrityError, MissingError, RefusedModelError
from evalkit.reward_models import Rendered, RewardModel
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring.batches import plan, render_all, score_batches
from evalkit.scoring.progress import Progress
from evalkit.statistics.outcomes import win_probabilities
from evalkit.store import Pack, Store, StoredReward
from evalkit.text import count

SENTINELS = 8
UNKNOWN = "no reward of it is known"

Load = Callable[..., RewardModel]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How to score; none of it may move a reward beyond the reward model's tolerance.

    Attributes:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        batch_tokens: Padded tokens per batch, a longer conversation being a batch of its own; None
            for 2,048 on a CPU, where larger batches leave the cache, and 16,384 elsewhere.
        progress: Whether to show progress on stderr.
        load: How a reward model is loaded.
    """

    device: str = "auto"
    batch_tokens: int | None = None
    progress: bool = True
    load: Load = reward_models.load


@dataclass(frozen=True, slots=True)
class Scored:
    """Rewards of some conversations or ordered pairs, and those that have none.

    Attributes:
        rewards: `item_key` -> reward.
        problems: `item_key` -> why it has no reward.
        forwards: Items the reward model computed in this run.
    """

    rewards: Mapping[str, StoredReward]
    problems: Mapping[str, str]
    forwards: int


def score(
    spec: RewardModelSpec,
    items: Sequence[Item],
    store: Store,
    *,
    packs: Sequence[Pack] = (),
    settings: RunSettings | None = None,
) -> Scored:
    """Rewards of conversations, or of ordered pairs, each distinct one computed at most once, ever.

    Every finished batch is in the store before the next one starts, so that an interrupted run
    loses at most the batch in flight and the same command resumes.

    Args:
        spec: The reward model.
        items: N conversations, or ordered pairs for a pair-preference model; equal ones share a
            reward.
        store: Known rewards; new ones are added.
        packs: More known rewards.
        settings: How to score.

    Raises:
        IntegrityError: Known rewards come out differently now.
    """
    settings = settings or RunSettings()
    by_key = {item_key(item): item for item in items}
    known = store.lookup(spec.fingerprint, by_key, packs)
    unknown = {key: item for key, item in by_key.items() if key not in known}
    if not unknown:
        return Scored(known, {}, 0)
    model = settings.load(spec, device=settings.device)
    _check_sentinels(spec, model, known, by_key)
    todo, problems = render_all(model, unknown)
    fresh: dict[str, StoredReward] = {}
    batch_tokens = settings.batch_tokens or batch_tokens_of(spec, model)
    provenance = _provenance(model, batch_tokens)
    with Progress(sum(len(item.ids) for item in todo.values()), settings.progress) as progress:
        batches = plan({key: len(item.ids) for key, item in todo.items()}, batch_tokens)
        for found, failed in score_batches(model, todo, batches):
            rewards = {key: _stored(key, todo[key], values) for key, values in found.items()}
            _check_attributes(spec, rewards.values())
            if rewards:
                store.add(
                    spec.fingerprint,
                    spec.manifest,
                    list(rewards.values()),
                    tolerance=spec.tolerance,
                    provenance=provenance,
                )
            # another process may have been first: what the store keeps is the reward
            fresh |= {**rewards, **store.lookup(spec.fingerprint, rewards)}
            problems |= failed
            done = [*rewards, *failed]
            progress.advance(len(done), sum(len(todo[key].ids) for key in done))
    return Scored({**known, **fresh}, problems, len(fresh))


def known_rewards(
    fingerprint: str, items: Iterable[Item], store: Store, *, packs: Sequence[Pack] = ()
) -> Scored:
    """What store and packs know of some items under a reward model, which is not loaded.

    Items that nobody scored yet, or that could not be, have a problem that says so.
    """
    keys = {item_key(item) for item in items}
    rewards = store.lookup(fingerprint, keys, packs)
    return Scored(rewards, dict.fromkeys(keys - rewards.keys(), UNKNOWN), 0)


def batch_tokens_of(spec: RewardModelSpec, model: RewardModel) -> int:
    """Padded tokens per batch that suit where a reward model computes."""
    if spec.endpoint is not None:
        return 65536  # rows for all requests that may be under way at once
    return 2048 if model.device == "cpu" else 16384


def _stored(key: str, row: Rendered, values: Sequence[float]) -> StoredReward:
    digest = tokens_digest(row.ids)
    return StoredReward(key, values[0], len(row.ids), row.cut, digest, tuple(values[1:]))


def tokens_digest(ids: Sequence[int]) -> str:
    """SHA-256 of token ids as little-endian 64-bit integers."""
    return hashlib.sha256(np.array(ids, dtype="<i8").tobytes()).hexdigest()


def _check_attributes(spec: RewardModelSpec, rows: Iterable[StoredReward]) -> None:
    """A family of the user's own may compute something else than it declares."""
    wrong = {len(row.attributes) for row in rows} - {len(spec.attributes)}
    if wrong:
        raise RefusedModelError(
            f"reward model {spec.name!r} computes {wrong.pop()} attributes beside the reward, and "
            f"declares {len(spec.attributes)}",
            fix="attributes = [a name for each, in order] in evalkit.toml",
        )


def rewards_of(completions: CompletionSet, scored: Scored) -> Rewards:
    """The rewards of a set, one row per completion, NaN and a reason where there is none."""
    ids = [prompt.prompt_id for prompt, _ in completions.answers()]
    keys = [conversation_key(messages) for messages in completions.conversations()]
    rows = [scored.rewards.get(key) for key in keys]
    return Rewards(
        prompt_id=np.array(ids, dtype=object),
        reward=np.array([np.nan if row is None else row.reward for row in rows], dtype=np.float64),
        tokens=np.array([0 if row is None else row.tokens for row in rows], dtype=np.int64),
        cut=np.array([0 if row is None else row.cut for row in rows], dtype=np.int64),
        failures={i: scored.problems[keys[i]] for i, row in enumerate(rows) if row is None},
    )


def ordered_pairs(checkpoint: CompletionSet, reference: CompletionSet) -> list[tuple[Pair, Pair]]:
    """Every pairing of completions to the prompts both sets answer, in both orders.

    Prompt by prompt as the checkpoint has them; the checkpoint's completion first, then second.
    """
    other = {p.prompt_id: answers for p, answers in reference.by_prompt()}
    return [
        (Pair(prompt.messages, ours, theirs), Pair(prompt.messages, theirs, ours))
        for prompt, answers in checkpoint.by_prompt()
        for ours in answers
        for theirs in other.get(prompt.prompt_id, ())
    ]


def preferences_of(
    checkpoint: CompletionSet, reference: CompletionSet, scored: Scored
) -> Preferences:
    """What the scored pairs say of a checkpoint against a reference."""
    other = {p.prompt_id: len(answers) for p, answers in reference.by_prompt()}
    ids = [
        prompt.prompt_id
        for prompt, answers in checkpoint.by_prompt()
        for _ in range(len(answers) * other.get(prompt.prompt_id, 0))
    ]
    keys = [(item_key(a), item_key(b)) for a, b in ordered_pairs(checkpoint, reference)]
    rows = [(scored.rewards.get(a), scored.rewards.get(b)) for a, b in keys]
    log_odds = np.array([[np.nan if r is None else r.reward for r in row] for row in rows])
    first = win_probabilities(log_odds.reshape(-1, 2)[:, 0])
    second = 1 - win_probabilities(log_odds.reshape(-1, 2)[:, 1])
    return Preferences(
        prompt_id=np.array(ids, dtype=object),
        probability=(first + second) / 2,
        order_gap=first - second,
        cut=np.array([sum(r.cut for r in row if r) for row in rows], dtype=np.int64),
        failures={
            i: _worst([scored.problems[key] for key in keys[i] if key in scored.problems])
            for i, row in enumerate(rows)
            if None in row
        },
    )


def _worst(reasons: Sequence[str]) -> str:
    """Of both orders of a pair the reason to say: a verdict that cannot be read is counted."""
    return next((why for why in reasons if isinstance(why, Unreadable)), reasons[0])


def _check_sentinels(
    spec: RewardModelSpec,
    model: RewardModel,
    known: Mapping[str, StoredReward],
    by_key: Mapping[str, Item],
) -> None:
    """Compute a few known rewards again: swapped weights or a changed library show here.

    A judge may waver on a close pair, even at temperature 0: up to half of `SENTINELS` verdicts
    that come out differently are a warning, and the known ones stay.
    """
    keys = sorted(known)[:SENTINELS]
    rendered, _ = render_all(model, {key: by_key[key] for key in keys})
    now: dict[str, StoredReward] = {}
    for rewards, failed in score_batches(model, rendered, [[key] for key in rendered]):
        now |= {key: _stored(key, rendered[key], values) for key, values in rewards.items()}
        _check_answered(spec, failed)
    moved = [
        f"{key[:12]}: {known[key].reward!r} before, {now[key].reward if key in now else None!r} now"
        for key in keys
        if key not in now or not _same(known[key], now[key], spec.tolerance)
    ]
    if spec.is_judge and len(moved) <= SENTINELS / 2:
        if moved:
            sys.stderr.write(
                f"warning: {len(moved)} of {count(len(keys), 'known verdict')} of {spec.name!r} "
                "came out differently; the known ones are kept\n"
            )
        return
    if moved:
        raise IntegrityError(
            f"{count(len(moved), 'known reward')} of {spec.name!r} came out differently (of "
            f"{len(keys)} checked); nothing was scored, so that old and new are never mixed",
            where="\n     ".join(moved),
            fix="find out what changed (weights, tokenizer, library); to start over, move "
            ".evalkit/store.db and the reference's rewards/ folder away",
        )


def _check_answered(spec: RewardModelSpec, failed: Mapping[str, str]) -> None:
    """A server that fails says nothing about what it serves."""
    reasons = [why for why in failed.values() if not isinstance(why, Unreadable)]
    if spec.endpoint is not None and reasons:
        raise MissingError(
            f"the server of reward model {spec.name!r} fails on what it has scored before: "
            f"{reasons[0]}",
            where=spec.endpoint.url,
            fix="mend or restart it; what was scored is kept",
        )


def _same(known: StoredReward, now: StoredReward, tolerance: float) -> bool:
    near = abs(now.reward - known.reward) <= tolerance * max(1.0, abs(known.reward))
    return near and now.tokens_digest == known.tokens_digest


def _provenance(model: RewardModel, batch_tokens: int) -> dict[str, object]:
    packages = {"evalkit-rm", "torch", "transformers", "numpy"}
    found = {name: _version(name) for name in sorted(packages)}
    return {
        "python": platform.python_version(),
        "packages": {name: number for name, number in found.items() if number},
        "device": model.device,
        "batch_tokens": batch_tokens,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a judge needs no torch
        return ""
