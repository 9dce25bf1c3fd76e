"""What must stand beside the numbers: stand-ins, what an output does not mean, rows left out."""

from __future__ import annotations

import numpy as np

from evalkit.data import CompletionSet
from evalkit.pairing import PairedTable
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.text import count, listing


def notices(
    checkpoint: CompletionSet,
    reference: CompletionSet,
    reward_model: RewardModelSpec,
    table: PairedTable,
    temperature: float | None,
) -> tuple[str, ...]:
    """Everything to be said, each thing once.

    Args:
        checkpoint: The set under test.
        reference: The set it is held against.
        reward_model: What scored both.
        table: What came of it.
        temperature: Of the win probability; None if it is the model's own, or undefined.
    """
    found = [reference.notice, checkpoint.notice, reward_model.notice]
    found += _of_output(reward_model, table, temperature)
    if left_out := sorted(table.unmatched.prompt_ids):
        n = len(left_out) + len(table.prompt_id)
        found.append(
            f"{len(left_out)} of {n} prompts are left out of {checkpoint.name} against "
            f"{reference.name}: {listing(left_out)}"
        )
    if unread := table.unmatched.unreadable:
        found.append(f"{count(unread, 'prompt')} of these for want of a readable verdict")
    kept = set(table.prompt_id.tolist())
    found += [
        f"{side.name}: {count(empty, 'empty completion')} scored as it is"
        for side in (checkpoint, reference)
        if (empty := sum(c == "" for p, c in side.answers() if p.prompt_id in kept))
    ]
    if table.truncated:
        found.append(f"{count(table.truncated, 'completion')} scored with tokens cut off")
    who = f"{checkpoint.name} under {reward_model.name}"
    found += [f"{who}: {said}" for said in _of_disagreement(table)]
    if reward_model.dtype != "float32":
        found.append(
            f"rewards are computed in {reward_model.dtype}: margins below about "
            f"{reward_model.tolerance} of a reward's spread are numeric noise"
        )
    return tuple(dict.fromkeys(notice for notice in found if notice))


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


def _of_output(
    reward_model: RewardModelSpec, table: PairedTable, temperature: float | None
) -> list[str]:
    """What the reward model's kind of output does not allow to be read out of it."""
    output, name = reward_model.family.output, reward_model.name
    if output == "preference" and np.all(np.isnan(table.order_gap)):
        return []
    if output == "preference":
        gap = float(np.nanmean(table.order_shift))
        return [
            f"{name} compares answers and gives none a reward; asked in both orders, its "
            f"probability moves by {gap:.2f} on average"
        ]
    found = []
    if output != "absolute":
        found.append(
            f"rewards of {name} are comparable within one prompt: read margins, not mean rewards"
        )
    if temperature is None:
        found.append(
            f"{name} gives {output} scores, which state no probability: no win probability without "
            "--temperature"
        )
    if reward_model.family.note:
        found.append(f"{name}: {reward_model.family.note}")
    return found
