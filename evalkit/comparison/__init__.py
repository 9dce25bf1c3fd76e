"""What a comparison is: one table, its estimates overall and per subset, and how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evalkit.breakdown import Group, breakdown, contradictions
from evalkit.comparison.result import ClusterBy, Comparison, Example, Options
from evalkit.data import CompletionSet, FloatArray, IntArray
from evalkit.lengths import Pooled, lengths_of, sizes_of
from evalkit.notices import of_sets, of_table
from evalkit.pairing import PairedTable, bootstrap_keys
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.signature import Signature
from evalkit.statistics.intervals import Estimate, mean
from evalkit.statistics.resampling import Keys
from evalkit.version import __version__

__all__ = [
    "ClusterBy", "Comparison", "Example", "Group", "Options", "Units", "comparison_of",
    "temperature_of", "units_of",
]  # fmt: skip
ENOUGH_CLUSTERS = 40


def temperature_of(options: Options, reward_model: RewardModelSpec) -> float | None:
    """The temperature of the win probability; None where it is the model's own, or undefined."""
    if reward_model.is_pairwise or options.temperature is not None:
        return options.temperature
    return 1.0 if reward_model.family.output == "bradley-terry" else None


def comparison_of(
    checkpoint: CompletionSet,
    reference: CompletionSet,
    table: PairedTable,
    reward_model: RewardModelSpec,
    options: Options,
    pool: Sequence[Pooled] = (),
) -> Comparison:
    """The counts and estimates of a table, overall and per subset.

    `pool` are other answers to the same reference, for the win rate at equal lengths.
    """
    units = units_of(
        table.prompt_id.tolist(), table.subset.tolist(), options.cluster_by, options.seed
    )
    everything = np.arange(len(table.prompt_id))
    names = sorted(set(table.subset.tolist()) - {""})
    overall = _group(table, everything, units, options)
    subsets = {name: _group(table, table.rows(name), units, options) for name in names}
    win_rates = {name: group.estimates["win_rate"] for name, group in subsets.items()}
    together = breakdown(
        table.outcome,
        {name: table.rows(name) for name in names},
        list(win_rates.values()),
        units.clusters,
        units.keys,
    )
    sizes = sizes_of(table, checkpoint, reference)
    lengths = lengths_of(table, sizes, options.level, units.clusters, pool)
    first_shown = _first_shown(table, units, options)
    temperature = temperature_of(options, reward_model)
    return Comparison(
        checkpoint=checkpoint,
        reference=reference,
        reward_model=reward_model,
        table=table,
        overall=overall,
        subsets=subsets,
        breakdown=together,
        lengths=lengths,
        worst_case=_worst_case(table),
        notices=tuple(
            dict.fromkeys(
                [
                    *of_sets([reference, checkpoint], reward_model, table.prompt_id.tolist()),
                    *of_table(checkpoint.name, reference.name, table, reward_model, temperature),
                    *contradictions(
                        together,
                        {name: rate.value for name, rate in win_rates.items()},
                        overall.estimates["win_rate"].value,
                        options.level,
                    ),
                    *_few_clusters(units),
                    *_of_position(reward_model, first_shown),
                ]
            )
        ),
        signature=_signature(
            checkpoint, reference, reward_model, table, options, lengths.pool if lengths else ()
        ),
        cluster_by=options.cluster_by,
        first_shown=first_shown,
    )


class Units(NamedTuple):
    """Which prompts are drawn together: (P,) cluster of each, and its bootstrap key."""

    clusters: IntArray
    keys: Keys


def units_of(
    prompt_ids: Sequence[str], subsets: Sequence[str], cluster_by: ClusterBy, seed: int
) -> Units:
    """What is independent of what: prompts, or whole subsets of them.

    A prompt without a subset is a cluster of its own.
    """
    if cluster_by == "prompt":
        return Units(np.arange(len(prompt_ids)), bootstrap_keys(prompt_ids, seed))
    names = [s or f"\0{i}" for s, i in zip(subsets, prompt_ids, strict=True)]
    _, clusters = np.unique(names, return_inverse=True)
    return Units(clusters.astype(np.int64), bootstrap_keys(names, seed))


def _group(table: PairedTable, rows: IntArray, units: Units, options: Options) -> Group:
    outcome = table.outcome[rows]
    wins, losses = int(np.sum(outcome > 0.5)), int(np.sum(outcome < 0.5))

    def estimate(column: FloatArray, *, bounded: bool) -> Estimate:
        known = ~np.isnan(column[rows])
        return mean(
            column[rows][known],
            bounded=bounded,
            level=options.level,
            clusters=units.clusters[rows][known],
            keys=units.keys[rows][known],
            resamples=options.resamples,
            seed=options.seed,
        )

    return Group(
        n=len(rows),
        wins=wins,
        ties=len(rows) - wins - losses,
        losses=losses,
        estimates={
            "mean_reward": estimate(table.checkpoint_reward, bounded=False),
            "reference_mean_reward": estimate(table.reference_reward, bounded=False),
            "win_rate": estimate(table.outcome, bounded=True),
            "win_probability": estimate(table.probability, bounded=True),
            "margin": estimate(table.margin, bounded=False),
        },
    )


def _first_shown(table: PairedTable, units: Units, options: Options) -> Estimate | None:
    known = ~np.isnan(table.order_gap)
    if not known.any():
        return None
    share = 0.5 + table.order_gap[known] / 2
    return mean(share, bounded=True, level=options.level, clusters=units.clusters[known])


def _of_position(reward_model: RewardModelSpec, share: Estimate | None) -> list[str]:
    """What it is worth to be shown first; the win rate is asked for in both orders."""
    if share is None or share.value is None:
        return []
    within = "" if share.low is None else f" ({share.low:.3f} to {share.high:.3f})"
    return [
        f"{share.value:.3f}{within} of {reward_model.name}'s verdicts go to the answer shown "
        "first, where ½ is no position bias"
    ]


def _few_clusters(units: Units) -> list[str]:
    n = len(np.unique(units.clusters))
    if n == len(units.clusters) or n >= ENOUGH_CLUSTERS:
        return []
    return [
        f"{n} clusters are few: intervals over {len(units.clusters)} prompts rest on Student's t "
        "with as few degrees of freedom"
    ]


def _worst_case(table: PairedTable) -> tuple[float, float] | None:
    left_out = len(table.unmatched)
    if not left_out:
        return None
    won = float(np.nansum(table.outcome))
    n = int(np.sum(~np.isnan(table.outcome))) + left_out
    return won / n, (won + left_out) / n


def _signature(
    checkpoint: CompletionSet,
    reference: CompletionSet,
    reward_model: RewardModelSpec,
    table: PairedTable,
    options: Options,
    pool: tuple[str, ...],
) -> Signature:
    method = "bca" if options.resamples else "logit-t,betting,t"
    temperature = temperature_of(options, reward_model)
    return Signature(
        checkpoint=checkpoint.label,
        reference=reference.label,
        rm=reward_model.label,
        dtype=reward_model.dtype,
        max_length=reward_model.max_length,
        overlong=reward_model.overlong,
        benchmark=options.benchmark or "",
        n=len(table.prompt_id),
        left_out=len(table.unmatched),
        truncated=table.truncated,
        missing=options.missing,
        ties=str(options.ties),
        clusters=options.cluster_by,
        output=reward_model.family.output,
        human="",
        length_pool=tuple(sorted(pool)),
        temperature="" if temperature is None else repr(float(temperature)),
        ci=f"{method};{options.level!r}",
        resamples=options.resamples,
        seed=options.seed,
        version=__version__,
    )
