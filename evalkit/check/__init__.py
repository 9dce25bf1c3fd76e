"""What goes wrong with a reward model in practice, measured: `evalkit reward-models check`.

Each check is a function from a loaded reward model with some rewards to a finding, nothing, or why
it does not apply. Faults that evalkit itself repairs or refuses are findings too: others who read
the same files get wrong numbers.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from evalkit import reward_models
from evalkit.check import rewards, tokens
from evalkit.check.probes import probe_conversations
from evalkit.check.result import Checked, Finding, Inapplicable
from evalkit.check.subject import Baseline, Subject, items_of, rewards_of, subject_of, verdicts_of
from evalkit.check.tokens import MOVED
from evalkit.data import Messages
from evalkit.errors import IntegrityError, RefusedModelError
from evalkit.reward_models import RewardModel
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring import Load

__all__ = ["CHECKS", "Checked", "Finding", "check", "of_refusal"]

CHECKS: Mapping[str, Callable[[Subject], Finding | Inapplicable | None]] = {
    "double-bos": tokens.double_bos,
    "missing-eos": tokens.missing_eos,
    "generation-prompt": tokens.generation_prompt,
    "pad-is-eos": tokens.pad_is_eos,
    "special-tokens-parsed": tokens.special_tokens_parsed,
    "moving-date": tokens.moving_date,
    "truncated-tail": rewards.truncated_tail,
    "moves-with-batch": rewards.moves_with_batch,
    "moves-with-padding-side": rewards.moves_with_padding_side,
    "soft-cap-kernel": rewards.soft_cap_kernel,
    "constant": rewards.constant,
    "squashed": rewards.squashed,
}
RELOADED = "random-head"
DRIFTS = "drifts"  # of a server, which is then asked no more
ASKED_AGAIN = "wavers"  # of a judge, in place of RELOADED
# What the number of a refusal to load is, where it is no change of a reward.
UNITS = {
    RELOADED: "faults of tensors",
    "squashed": "max − min",
    "double-bos": "tokens more than sent",
    "truncated-tail": "tokens fewer than sent",
    "row-order": "rows in another's place",
    "constant": rewards.EQUAL,
    "not-finite": "rewards that are not finite",
}


def check(
    spec: RewardModelSpec,
    conversations: Sequence[Messages] = (),
    *,
    device: str = "auto",
    load: Load = reward_models.load,
) -> Checked:
    """Load a reward model, twice, and look for everything that is known to go wrong.

    Args:
        spec: The reward model.
        conversations: What to score; own-written probes if none. For a pair-preference model the
            answers to each prompt are paired, in both orders.
        device: As for scoring.
        load: How a reward model is loaded.

    Raises:
        MissingError: None of the conversations has a reward, or something is missing.
        RefusedModelError: A refusal that is none of the faults this looks for.
    """
    try:
        return _checked(spec, conversations, partial(load, spec, device=device))
    except RefusedModelError as error:
        return of_refusal(spec.name, error)
    except IntegrityError as error:  # of a server, in the middle of what it is asked
        finding = Finding(DRIFTS, error.what, None, MOVED, error.fix)
        return Checked(spec.name, (finding,))


def _checked(
    spec: RewardModelSpec, conversations: Sequence[Messages], load: Callable[[], RewardModel]
) -> Checked:
    model = load()
    items = items_of(spec, conversations or probe_conversations())
    rendered = model.render(items)
    if all(row.cut for row in rendered):
        return Checked(spec.name, (rewards.too_long(spec, len(items), len(items)),))
    subject = subject_of(spec, model, items, rendered)
    found = {code: run(subject) for code, run in CHECKS.items()}
    base = subject.base
    del model, subject
    gc.collect()  # the device may have room for one at a time
    found |= _again(base, load())
    return Checked(
        name=spec.name,
        findings=tuple(f for f in found.values() if isinstance(f, Finding)),
        clean=tuple(code for code, f in found.items() if f is None),
        inapplicable={code: f.why for code, f in found.items() if isinstance(f, Inapplicable)},
        conversations=len(base.rows),
        pairs=base.verdicts,
        unscored=base.unscored,
    )


def _again(base: Baseline, model: RewardModel) -> dict[str, Finding | None]:
    """What a second load, or a judge's second answer, shows."""
    rows = model.render(base.items)
    if base.spec.is_judge:
        return {ASKED_AGAIN: rewards.wavers(base, verdicts_of(model, rows))}
    return {RELOADED: rewards.random_head(base, rewards_of(model, rows))}


def of_refusal(name: str, error: RefusedModelError) -> Checked:
    """The finding that a refusal to load is.

    Raises:
        RefusedModelError: The same, where it is none of the faults this looks for.
    """
    if not error.code:
        raise error
    unit = UNITS.get(error.code, MOVED)
    what = f"{error.what}: {error.where}" if error.where else error.what
    number = error.number if math.isfinite(error.number) else None
    return Checked(name, (Finding(error.code, what, number, unit, error.fix, here=False),))
