"""Faults that show in the rewards themselves, and what of a text is cut off."""

from __future__ import annotations

import numpy as np

from evalkit.check.result import Finding, Inapplicable
from evalkit.check.subject import BATCH, Baseline, Shift, Subject, rewards_of
from evalkit.check.tokens import MOVED
from evalkit.data import FloatArray
from evalkit.reward_models import KINDS
from evalkit.reward_models.checkpoint import Checkpoint, limit, read_json
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.text import count

ENOUGH = 8  # rewards that must all lie in [0, 1] to be more than chance
EQUAL = "equal rewards"
RAISE = "raise --max-length if the model allows it"
CUT = {
    "error": "has no reward",
    "truncate-left": "loses its beginning",
    "truncate-right": "loses its end, the token that closes the answer with it",
}


def moves_with_batch(subject: Subject) -> Finding | Inapplicable | None:
    """Rewards that depend on the rows beside them: batches of 8, as given and shuffled."""
    if subject.spec.is_judge:
        return Inapplicable("each verdict is a request of its own; see wavers")
    rows = subject.base.rows
    orders = [np.arange(len(rows)), np.random.default_rng(0).permutation(len(rows))]
    shifts = [
        subject.base.shift(rewards_of(subject.model, rows, batch=BATCH, order=order.tolist()))
        for order in orders
    ]
    worst = max(shifts, key=lambda shift: (shift.beyond, shift.delta))
    if not worst.beyond:
        return None
    return Finding(
        "moves-with-batch",
        f"a reward moves with the rows beside it: {_flips(subject.base, worst)} between batches "
        f"of 1 and of {BATCH}",
        worst.delta,
        MOVED,
        "pool by the attention mask and mask padding in every layer; until then score in batches "
        "of 1",
    )


def moves_with_padding_side(subject: Subject) -> Finding | Inapplicable | None:
    """Rewards that depend on the side padding is put on."""
    local = subject.local
    if local is None:
        return Inapplicable("it pads as it likes")
    if local.native_pooling:
        return Inapplicable("its class reads the first column, and can only be padded right")
    before = local.padding_side
    local.padding_side = "left"
    try:
        shift = subject.base.shift(rewards_of(local, subject.base.rows, batch=BATCH))
    finally:
        local.padding_side = before
    if not shift.beyond:
        return None
    return Finding(
        "moves-with-padding-side",
        f"a reward moves when padding is on the left: {_flips(subject.base, shift)}",
        shift.delta,
        MOVED,
        "count positions from each row's first token (position_ids), or pad on the right only",
        here=False,
    )


def _flips(base: Baseline, shift: Shift) -> str:
    return f"{shift.flipped} of {count(base.verdicts, 'pair verdict')} flip"


def constant(subject: Subject) -> Finding | Inapplicable | None:
    """Different conversations that all have one reward, or one verdict of a judge."""
    n = len(subject.base.alone)
    if n < ENOUGH:
        return Inapplicable(f"{n} rewards are too few to tell")
    if np.ptp(subject.base.alone) > 0:
        return None
    value = float(subject.base.alone[0])
    if subject.spec.is_judge:
        shown = {1: "[[A]]", -1: "[[B]]", 0: "[[C]]"}[int(np.sign(value))]
        what = f"all {n} verdicts are {shown}, whichever answer is shown first"
        fix = "read what it is sent and what it writes: it judges no answers"
    else:
        what = f"all {n} conversations have the reward {value:g}"
        fix = "look at its head: zeros, or one that was never loaded; fetch the checkpoint again"
    return Finding("constant", what, n, EQUAL, fix)


def squashed(subject: Subject) -> Finding | Inapplicable | None:
    """Rewards declared unbounded that all lie in [0, 1]: a sigmoid or softmax stands behind."""
    family, rewards = subject.spec.family, subject.base.alone
    if family.output != "bradley-terry":
        return Inapplicable(f"its output is {family.output}, which may be bounded")
    if family.kind in KINDS and subject.local is not None:
        return Inapplicable("evalkit computes its head itself, without a squash")
    if len(rewards) < ENOUGH:
        return Inapplicable(f"{len(rewards)} rewards are too few to tell")
    if np.ptp(rewards) == 0:
        return Inapplicable("all of its rewards are one; see constant")
    if rewards.min() < 0 or rewards.max() > 1:
        return None
    ties = len(rewards) - len(np.unique(rewards))
    return Finding(
        "squashed",
        f"all {len(rewards)} rewards lie in [0, 1], where a Bradley-Terry reward has no bounds; "
        f"{ties} of them are exactly equal to another",
        float(np.ptp(rewards)),
        "max − min",
        'ask for raw scores (use_activation=false, raw_scores=true, function_to_apply="none"), or '
        'declare output = "absolute" in evalkit.toml',
    )


def soft_cap_kernel(subject: Subject) -> Finding | Inapplicable | None:
    """Capped attention under a kernel that knows no cap: the one in use, or the one asked for."""
    local = subject.local
    cap = getattr(local.model.config, "attn_logit_softcapping", None) if local else None
    if local is None or cap is None:
        return Inapplicable("its attention has no cap")
    used = str(local.model.config._attn_implementation)
    if used != "eager":
        with local.eager():
            shift = subject.base.shift(rewards_of(local, subject.base.rows))
        if shift.beyond:
            return _uncapped(subject, f"in use here, {used},", shift, here=True)
    config = Checkpoint(subject.spec.path, subject.spec.name).config
    asked = config.get("attn_implementation") or config.get("_attn_implementation")
    if asked != "sdpa":  # which older versions of transformers run all the same
        return None
    with local.eager(capped=False):
        shift = subject.base.shift(rewards_of(local, subject.base.rows))
    if not shift.beyond:
        return None
    return _uncapped(subject, f"that config.json asks for, {asked},", shift, here=False)


def _uncapped(subject: Subject, kernel: str, shift: Shift, *, here: bool) -> Finding:
    return Finding(
        "soft-cap-kernel",
        f"the attention kernel {kernel} leaves out the cap of the attention's logits: "
        f"{_flips(subject.base, shift)}",
        shift.delta,
        MOVED,
        'use attn_implementation="eager", or a kernel that is told the cap',
        here=here,
    )


def truncated_tail(subject: Subject) -> Finding | Inapplicable | None:
    """Conversations beyond the limit, or a limit beside the model's own that cuts unasked."""
    spec, base = subject.spec, subject.base
    if base.too_long:
        return too_long(spec, base.too_long, base.total)
    if subject.local is None:
        return None
    return _silent_limit(Checkpoint(spec.path, spec.name), spec.max_length)


def too_long(spec: RewardModelSpec, found: int, total: int) -> Finding:
    """How many of all conversations are beyond the limit, and where that limit is stated."""
    place = _place(spec)
    return Finding(
        "truncated-tail",
        f"{found} of {count(total, 'conversation')} are longer than {spec.max_length} tokens, "
        f"{f'the {place}' if place else 'as you say'}; under {spec.overlong!r} each "
        f"{CUT[spec.overlong]}",
        found / total,
        "share too long",
        f"{'correct it there if it is no limit of the model' if place else RAISE}; --overlong "
        "truncate-left keeps the answer's end",
    )


def _place(spec: RewardModelSpec) -> str:
    """Where the files of a reward model state its limit; empty if they state another or none."""
    files = {
        name: read_json(spec.path / name, missing_ok=True)
        for name in ("tokenizer_config.json", "config.json")
    }
    keys = ("model_max_length", "max_position_embeddings", "n_positions")
    return next(
        (
            f"{key} of {name}"
            for name, content in files.items()
            for key in keys
            if limit(content.get(key)) == spec.max_length
        ),
        "",
    )


def _silent_limit(checkpoint: Checkpoint, used: int) -> Finding | None:
    truncation = read_json(checkpoint.folder / "tokenizer.json").get("truncation") or {}
    stated = {
        "model_max_length of tokenizer_config.json": limit(
            checkpoint.tokenizer_config.get("model_max_length")
        ),
        "truncation of tokenizer.json": limit(truncation.get("max_length")),
    }
    allowed = checkpoint.positions or used
    below = {place: n for place, n in stated.items() if n is not None and n < allowed}
    if not below:
        return None
    place = min(below, key=lambda k: below[k])
    return Finding(
        "truncated-tail",
        f"{place} is {below[place]} and the model's own limit {allowed}: servers and pipelines "
        "cut there and say nothing",
        float(below[place]),
        "tokens",
        f"state {allowed} there, or what it was trained with everywhere",
        here=False,
    )


def random_head(base: Baseline, again: FloatArray) -> Finding | None:
    """Rewards that are others after a second load: something of it is made up at each."""
    shift = base.shift(again)
    if not shift.beyond:
        return None
    return Finding(
        "random-head",
        f"loaded a second time it gives other rewards: {_flips(base, shift)}",
        shift.delta,
        MOVED,
        "fetch the checkpoint again and load every tensor of it; score in evaluation mode",
    )


def wavers(base: Baseline, again: FloatArray) -> Finding | None:
    """Verdicts of a judge that are others when it is asked again.

    Args:
        base: The first verdicts.
        again: (N,) the second ones, NaN where one cannot be read.
    """
    unreadable = int(np.isnan(again).sum())
    changed = int(np.sum(again != base.alone))  # NaN is unequal to every verdict
    if not changed:
        return None
    of = count(len(again), "verdict")
    return Finding(
        "wavers",
        f"asked again, {changed} of {of} come out differently, {unreadable} of these unreadable",
        changed / len(again),
        "share of verdicts that change",
        "its server is not deterministic at temperature 0: read no difference of this size out of "
        "its verdicts; each is asked for once and kept",
    )
