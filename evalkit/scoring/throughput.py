"""How fast a loaded reward model scores here; a clock's word, which no rerun repeats."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from evalkit import reward_models
from evalkit.data import Item, item_key
from evalkit.errors import MissingError
from evalkit.reward_models import RewardModel
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring import batch_tokens_of
from evalkit.scoring.batches import plan, render_all, score_batches


@dataclass(frozen=True, slots=True)
class Throughput:
    """What a reward model got through.

    Attributes:
        conversations: Scored, each once.
        tokens: Of these, template included, padding not.
        seconds: What the forward passes took; of a served reward model the requests, network and
            waiting among them.
        hardware: What they ran on, in words; of a served reward model its server.
    """

    conversations: int
    tokens: int
    seconds: float
    hardware: str

    @property
    def tokens_per_second(self) -> float:
        """Tokens over seconds."""
        return self.tokens / self.seconds

    @property
    def conversations_per_second(self) -> float:
        """Conversations over seconds."""
        return self.conversations / self.seconds


def measure(
    spec: RewardModelSpec,
    model: RewardModel,
    items: Sequence[Item],
    *,
    batch_tokens: int | None = None,
) -> Throughput:
    """Time the scoring of some conversations (or ordered pairs), batched as scoring does.

    Args:
        spec: The reward model.
        model: The same, loaded, and best used before: a first batch may be slower.
        items: Equal ones count once.
        batch_tokens: As for scoring.

    Raises:
        MissingError: None of them can be scored.
    """
    rendered, _ = render_all(model, {item_key(item): item for item in items})
    batches = plan(
        {key: len(row.ids) for key, row in rendered.items()},
        batch_tokens or batch_tokens_of(spec, model),
    )
    start = time.perf_counter()
    scored = [key for rewards, _ in score_batches(model, rendered, batches) for key in rewards]
    seconds = time.perf_counter() - start
    if not scored:
        raise MissingError("none of these conversations gets a reward", fix="choose others")
    tokens = sum(len(rendered[key].ids) for key in scored)
    where = spec.endpoint.url if spec.endpoint else reward_models.hardware(model.device)
    return Throughput(len(scored), tokens, seconds, where)
