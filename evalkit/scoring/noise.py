"""A reward model's own noise: the same conversations alone, and beside others in other batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.data import FloatArray, Item, item_key
from evalkit.errors import MissingError
from evalkit.reward_models import Rendered, RewardModel
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring import RunSettings
from evalkit.scoring.batches import render_all, score_batches
from evalkit.statistics.within_prompt import noise_band

BATCH = 8


@dataclass(frozen=True, slots=True)
class Noise:
    """How far rewards of one conversation lie apart.

    Attributes:
        band: Margins up to it may be noise: the widest range of one conversation's rewards.
        conversations: How many were scored, each three times.
        spread: Standard deviation over conversations, to hold the band against; None for one.
    """

    band: float
    conversations: int
    spread: float | None


def measure(
    spec: RewardModelSpec,
    items: Sequence[Item],
    *,
    seed: int = 0,
    settings: RunSettings | None = None,
) -> Noise:
    """Score conversations (or ordered pairs) alone, and twice in shuffled batches of 8.

    Args:
        spec: The reward model.
        items: Like those to be compared; equal ones count once.
        seed: Of the shuffles.
        settings: How to score, but for the batches.

    Raises:
        MissingError: None of them can be scored.
    """
    settings = settings or RunSettings()
    model = settings.load(spec, device=settings.device)
    rendered, _ = render_all(model, {item_key(item): item for item in items})
    rng = np.random.default_rng(seed)
    plans: list[list[list[str]]] = [[[key] for key in rendered]]
    for _ in range(2):
        order = [list(rendered)[i] for i in rng.permutation(len(rendered))]
        plans.append([order[i : i + BATCH] for i in range(0, len(order), BATCH)])
    scorings = [_rewards(model, rendered, batches) for batches in plans]
    keys = sorted(set.intersection(*(set(scoring) for scoring in scorings)))
    if not keys:
        raise MissingError(
            f"{spec.name!r} gives none of these conversations a reward",
            fix="choose others; see --max-length and --overlong for long ones",
        )
    repeats: FloatArray = np.array([[scoring[key] for scoring in scorings] for key in keys])
    spread = float(np.std(repeats.mean(axis=1), ddof=1)) if len(keys) > 1 else None
    return Noise(noise_band(repeats), len(keys), spread)


def _rewards(
    model: RewardModel, rendered: Mapping[str, Rendered], batches: Sequence[list[str]]
) -> dict[str, float]:
    return {
        key: reward
        for rewards, _ in score_batches(model, rendered, batches)
        for key, (reward, *_) in rewards.items()
    }
