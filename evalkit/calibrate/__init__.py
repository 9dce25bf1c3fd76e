"""How far a reward model's win probability can be believed, and the temperature that mends it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from evalkit.breakdown import Group
from evalkit.calibrate.result import Calibration, Options, Reliability, Signature
from evalkit.data import FloatArray, IntArray, Messages, conversation_key, digest
from evalkit.errors import InputError, MissingError
from evalkit.formats.pairs import PreferencePair, RewardPair, read_pairs, read_reward_pairs
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring import RunSettings, Scored, score
from evalkit.statistics.calibration import (
    Floor,
    HeldOut,
    brier_losses,
    calibration_floor,
    cross_validated_log_loss,
    expected_calibration_error,
    fit_temperature,
    reliability_curve,
)
from evalkit.statistics.intervals import Estimate, mean
from evalkit.statistics.losses import bradley_terry_loss, scaled_bradley_terry_loss
from evalkit.store import Store
from evalkit.text import count, listing
from evalkit.version import __version__

__all__ = [
    "Calibration", "Group", "Options", "Reliability", "Signature", "calibrate", "calibrate_rewards",
]  # fmt: skip
DRAWS = 1000  # simulated sets of outcomes behind a floor
BOUNDED = {"accuracy", "accuracy_half_credit", "brier_raw", "brier_calibrated"}


class _Input(NamedTuple):
    """Pairs with their rewards, and where both come from."""

    source: str
    digest: str
    pairs: list[RewardPair]
    reward_model: RewardModelSpec | None
    truncated: int
    notices: list[str]


class _Columns(NamedTuple):
    """The scored pairs, one row each, in an order that follows from their content."""

    margin: FloatArray
    cluster: IntArray
    magnitude: IntArray  # 0 where there is none
    subset: list[str]


def calibrate(
    pairs: str,
    reward_model: RewardModelSpec,
    store: Store,
    *,
    options: Options | None = None,
    settings: RunSettings | None = None,
) -> Calibration:
    """Score labelled pairs and fit the temperature of the win probability to them.

    Args:
        pairs: A file or data set, as `evalkit.formats.pairs` reads it.
        reward_model: What scores both answers; none that compares answers.
        store: Known rewards; new ones are added.
        options: Choices that can move a number.
        settings: Choices that cannot.

    Raises:
        InputError: A pair-preference model, a malformed file, fewer independent pairs than folds.
        IntegrityError: Known rewards come out differently now.
        MissingError: Pairs without a reward under `missing="error"`.
    """
    if reward_model.is_pairwise:
        raise InputError(
            f"{reward_model.name!r} states probabilities of its own, which have no temperature",
            fix="name a reward model that gives each answer a reward",
        )
    read = read_pairs(pairs)
    both = [pair.conversations() for pair in read]
    scored = score(reward_model, [c for two in both for c in two], store, settings=settings)
    keys = {conversation_key(c) for two in both for c in two}
    truncated = sum(scored.rewards[k].cut > 0 for k in keys if k in scored.rewards)
    said = [(p.messages, p.chosen, p.rejected, p.subset, p.magnitude, p.cluster) for p in read]
    rewarded = [_rewarded(p, two, scored) for p, two in zip(read, both, strict=True)]
    return _calibration(
        _Input(
            source=pairs,
            digest=digest("preference-pairs", sorted(map(list, said), key=repr)),
            pairs=rewarded,
            reward_model=reward_model,
            truncated=truncated,
            notices=_notices(read, reward_model, truncated),
        ),
        options or Options(),
    )


def calibrate_rewards(rewards: str, *, options: Options | None = None) -> Calibration:
    """Fit the temperature to rewards somebody already has.

    Args:
        rewards: A file with `reward_chosen` and `reward_rejected`, as `evalkit.formats.pairs`
            reads it.
        options: Choices that can move a number.

    Raises:
        InputError: A malformed file, or fewer independent pairs than folds.
        MissingError: Pairs without a reward under `missing="error"`.
    """
    read = read_reward_pairs(rewards)
    said = [[repr(p.chosen), repr(p.rejected), p.subset, p.magnitude, p.cluster] for p in read]
    identity = digest("reward-pairs", sorted(said, key=repr))
    return _calibration(_Input(rewards, identity, read, None, 0, []), options or Options())


def _rewarded(pair: PreferencePair, both: tuple[Messages, Messages], scored: Scored) -> RewardPair:
    keys = {"chosen": conversation_key(both[0]), "rejected": conversation_key(both[1])}
    known = (scored.rewards.get(key) for key in keys.values())
    chosen, rejected = (math.nan if found is None else found.reward for found in known)
    problems = [f"{name}: {scored.problems[k]}" for name, k in keys.items() if k in scored.problems]
    row = (pair.pair_id, chosen, rejected, pair.subset, pair.magnitude, pair.cluster, pair.where)
    return RewardPair(*row, "; ".join(problems))


def _notices(
    pairs: Sequence[PreferencePair], reward_model: RewardModelSpec, truncated: int
) -> list[str]:
    name, output = reward_model.name, reward_model.family.output
    found = [reward_model.notice]
    if output != "bradley-terry":
        found.append(
            f"{name} gives {output} scores, which state no probability: its raw one, σ(margin), is "
            "for comparison only"
        )
    if reward_model.family.note:
        found.append(f"{name}: {reward_model.family.note}")
    if reward_model.dtype != "float32":
        found.append(f"rewards are computed in {reward_model.dtype}")
    if truncated:
        found.append(f"{count(truncated, 'answer')} scored with tokens cut off")
    if equal := sum(p.chosen == p.rejected for p in pairs):
        found.append(f"{count(equal, 'pair')} of two equal answers, which can only tie")
    return [notice for notice in found if notice]


def _calibration(given: _Input, options: Options) -> Calibration:
    unscored = tuple(
        ": ".join(dict.fromkeys((p.where, p.pair_id, p.problem))) for p in given.pairs if p.problem
    )
    if unscored and options.missing == "error":
        raise MissingError(
            f"{count(len(unscored), 'pair')} without a reward",
            where=listing(unscored, separator="\n     "),
            fix="mend them, or leave them out and count them with --missing drop",
        )
    columns = _columns([p for p in given.pairs if not p.problem])
    units = len(np.unique(columns.cluster))
    if units < options.folds:
        raise InputError(
            f"{count(units, 'independent pair')} for {options.folds} folds",
            where=given.source,
            fix="pairs of one prompt or cluster count once: give more, or fewer folds (at least 2)",
        )
    margin, right = columns.margin, np.ones(len(columns.margin))
    found = fit_temperature(margin, right, clusters=columns.cluster, level=options.level)
    held = cross_validated_log_loss(
        margin,
        right,
        clusters=columns.cluster,
        folds=options.folds,
        repeats=options.repeats,
        rng=np.random.default_rng(options.seed),
    )
    values = _values(columns, found.value, held)
    subset = np.array(columns.subset, dtype=object)
    names = sorted(set(columns.subset) - {""})
    left_out = f"{len(unscored)} of {count(len(given.pairs), 'pair')} left out: no reward"
    return Calibration(
        source=given.source,
        reward_model=given.reward_model,
        temperature=found,
        overall=_group(columns, values, np.arange(len(margin)), options.level),
        subsets={
            name: _group(columns, values, np.flatnonzero(subset == name), options.level)
            for name in names
        },
        raw=_reliability(margin, 1.0, options),
        calibrated=None if found.value is None else _reliability(margin, found.value, options),
        undefined_fits=held.undefined,
        unscored=unscored,
        truncated=given.truncated,
        notices=(*given.notices, *([left_out] if unscored else [])),
        signature=_signature(given, len(margin), len(unscored), options),
    )


def _columns(pairs: Sequence[RewardPair]) -> _Columns:
    """The order of the file moves nothing: rows are sorted by what they hold."""
    rows = sorted(
        pairs, key=lambda p: (p.cluster, p.chosen, p.rejected, p.subset, p.magnitude or 0)
    )
    label: dict[tuple[str, int], int] = {}
    cluster = [
        label.setdefault((p.cluster, -1) if p.cluster else ("", row), len(label))
        for row, p in enumerate(rows)
    ]
    return _Columns(
        margin=np.array([p.chosen - p.rejected for p in rows], dtype=np.float64),
        cluster=np.array(cluster, dtype=np.int64),
        magnitude=np.array([p.magnitude or 0 for p in rows], dtype=np.int64),
        subset=[p.subset for p in rows],
    )


def _values(columns: _Columns, temperature: float | None, held: HeldOut) -> dict[str, FloatArray]:
    """What is averaged, a row per pair; NaN where a pair has no value."""
    margin = columns.margin
    nothing, known = np.full(len(margin), np.nan), columns.magnitude > 0
    scaled = nothing.copy()
    scaled[known] = scaled_bradley_terry_loss(margin[known], columns.magnitude[known])
    fitted = nothing if held.undefined else held.fitted
    return {
        "accuracy": (margin > 0).astype(np.float64),
        "accuracy_half_credit": np.heaviside(margin, 0.5),
        "bradley_terry_loss": bradley_terry_loss(margin),
        "held_out_loss": fitted,
        "held_out_gain": held.raw - fitted,
        "scaled_bradley_terry_loss": scaled,
        "brier_raw": brier_losses(expit(margin), np.ones(len(margin))),
        "brier_calibrated": nothing
        if temperature is None
        else brier_losses(expit(margin / temperature), np.ones(len(margin))),
    }


def _group(
    columns: _Columns, values: Mapping[str, FloatArray], rows: IntArray, level: float
) -> Group:
    def estimate(name: str) -> Estimate:
        known = rows[~np.isnan(values[name][rows])]
        return mean(
            values[name][known],
            bounded=name in BOUNDED,
            level=level,
            clusters=columns.cluster[known],
        )

    margin = columns.margin[rows]
    return Group(
        n=len(rows),
        wins=int(np.sum(margin > 0)),
        ties=int(np.sum(margin == 0)),
        losses=int(np.sum(margin < 0)),
        estimates={name: estimate(name) for name in values},
    )


def _reliability(margin: FloatArray, temperature: float, options: Options) -> Reliability:
    chance, right = expit(margin / temperature), np.ones(len(margin))
    floor = calibration_floor(
        chance,
        bins=options.bins,
        draws=DRAWS,
        level=options.level,
        rng=np.random.default_rng([options.seed, 1]),
    )
    return Reliability(
        temperature,
        reliability_curve(chance, right, bins=options.bins, level=options.level),
        expected_calibration_error(chance, right, bins=options.bins) or 0.0,  # there are pairs
        floor or Floor(0.0, 0.0),
    )


def _signature(given: _Input, n: int, left_out: int, options: Options) -> Signature:
    model = given.reward_model
    return Signature(
        pairs=f"{Path(given.source).name}#{given.digest[:12]}",
        rm="" if model is None else model.label,
        dtype="" if model is None else model.dtype,
        max_length=None if model is None else model.max_length,
        overlong="" if model is None else model.overlong,
        output="" if model is None else model.family.output,
        n=n,
        left_out=left_out,
        truncated=given.truncated,
        missing=options.missing,
        folds=options.folds,
        repeats=options.repeats,
        bins=options.bins,
        draws=DRAWS,
        ci=f"logit-t,betting,t;{options.level!r}",
        seed=options.seed,
        version=__version__,
    )
