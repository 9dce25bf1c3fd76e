"""What must stand beside the numbers: stand-ins, what an output does not mean, rows left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from evalkit.data import CompletionSet, FloatArray
from evalkit.pairing import PairedTable
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.text import count, listing


def of_sets(
    sets: Sequence[CompletionSet], reward_model: RewardModelSpec, prompt_ids: Collection[str]
) -> list[str]:
    """What is to be said of completion sets and what scored them, whoever meets whom.

    Args:
        sets: What was scored.
        reward_model: What scored them.
        prompt_ids: The prompts that numbers are made of.
    """
    found = [*(one.notice for one in sets), reward_model.notice, *_of_output(reward_model)]
    kept = set(prompt_ids)
    found += [
        f"{one.name}: {count(empty, 'empty completion')} scored as it is"
        for one in sets
        if (empty := sum(c == "" for p, c in one.answers() if p.prompt_id in kept))
    ]
    if reward_model.dtype != "float32":
        found.append(
            f"rewards are computed in {reward_model.dtype}: margins below about "
            f"{reward_model.tolerance} of a reward's spread are numeric noise"
        )
    return [notice for notice in found if notice]


def of_table(
    checkpoint: str,
    reference: str,
    table: PairedTable,
    reward_model: RewardModelSpec,
    temperature: float | None,
) -> list[str]:
    """What is to be said of one table: prompts left out, answers cut, a mean of few prompts.

    Args:
        checkpoint: Name of the set under test.
        reference: Name of the set it is held against.
        table: What came of it.
        reward_model: What scored both.
        temperature: Of the win probability; None if it is the model's own, or undefined.
    """
    found = []
    if temperature is None and not reward_model.is_pairwise:
        found.append(
            f"{reward_model.name} gives {reward_model.family.output} scores, which state no "
            "probability: no win probability without --temperature"
        )
    found += of_orders(reward_model, table.order_shift)
    if left_out := sorted(table.unmatched.prompt_ids):
        n = len(left_out) + len(table.prompt_id)
        found.append(
            f"{len(left_out)} of {n} prompts are left out of {checkpoint} against {reference}: "
            f"{listing(left_out)}"
        )
    if unread := table.unmatched.unreadable:
        found.append(f"{count(unread, 'prompt')} of these for want of a readable verdict")
    who = f"{checkpoint} under {reward_model.name}"
    found += [f"{who}: {said}" for said in _of_disagreement(table)]
    return [*found, *of_truncated(table.truncated)]


def of_orders(reward_model: RewardModelSpec, order_shift: FloatArray) -> list[str]:
    """How far a pair-preference model depends on the order; `order_shift` as in `PairedTable`."""
    if np.all(np.isnan(order_shift)):
        return []
    return [
        f"{reward_model.name} compares answers and gives none a reward; asked in both orders, its "
        f"probability moves by {float(np.nanmean(order_shift)):.2f} on average"
    ]


def of_truncated(completions: int) -> list[str]:
    """That so many completions lost tokens; nothing of none."""
    return [f"{count(completions, 'completion')} scored with tokens cut off"] if completions else []


def _of_disagreement(table: PairedTable) -> list[str]:
    """Where mean margin and win rate point to different sides, and which prompts make the mean."""
    margin, outcome = table.margin, table.outcome
    if not len(margin) or np.any(np.isnan(margin)) or np.all(np.isnan(outcome)):
        return []
    mean, rate = float(margin.mean()), float(np.nanmean(outcome))
    if mean * (rate - 0.5) >= 0:
        return []
    order = np.argsort(-np.sign(mean) * margin, kind="stable")[:3]
    return [
        f"the mean margin ({mean:.3g}) and the win rate ({rate:.3f}) point to different sides; the "
        f"mean rests most on {listing([str(i) for i in table.prompt_id[order]])}"
    ]


def _of_output(reward_model: RewardModelSpec) -> list[str]:
    """What the reward model's kind of output does not allow to be read out of it."""
    name = reward_model.name
    if reward_model.is_pairwise:
        return []
    found = []
    if reward_model.family.output != "absolute":
        found.append(
            f"rewards of {name} are comparable within one prompt: read margins, not mean rewards"
        )
    if reward_model.family.note:
        found.append(f"{name}: {reward_model.family.note}")
    return found
