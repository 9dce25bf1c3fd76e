"""What several comparisons say together: checkpoints against each other, and over all references.

Two checkpoints held against one reference answer the same prompts, so that their difference is
paired; all differences under one reference get bands that hold at once (max-t).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby

import numpy as np

from evalkit.comparison import Comparison, units_of
from evalkit.data import FloatArray
from evalkit.statistics.intervals import Estimate, mean
from evalkit.statistics.multiplicity import Band, holm, max_t_bands
from evalkit.statistics.paired import (
    McNemar,
    PairedDifference,
    mcnemar,
    minimum_detectable_effect,
    paired_difference,
    permutation_p,
    prompts_needed,
)
from evalkit.statistics.within_prompt import ENOUGH_REFERENCES, pool_percentile, standardise

RESAMPLES = 4_999
TWO_POINTS = 0.02


@dataclass(frozen=True, slots=True)
class Contrast:
    """The difference of two checkpoints' win rates against one reference.

    Attributes:
        checkpoint: The later named of the two.
        against: The earlier named.
        reference: What both are held against.
        prompts: Prompts on which both have an outcome.
        deciding: Those on which the outcomes differ; under 10 of them the intervals of a mean
            difference are too narrow (see docs/validation.md).
        difference: Win rate of `checkpoint` minus that of `against`, paired by prompt.
        band: The same with an interval that holds together with those of all other contrasts
            under this reference, and the p-value that goes with it.
        holm: p of the paired t test, Holm-adjusted over the same contrasts; None if undefined.
        permutation_p: Of the same mean difference, by swapping both sides within clusters.
        mcnemar: Another estimand: among prompts that one wins and the other loses, who wins.
        detectable: Smallest difference found with 80 % power at this level; None without spread.
        prompts_for_two_points: Prompts that find a difference of 0.02 with 80 % power.
    """

    checkpoint: str
    against: str
    reference: str
    prompts: int
    deciding: int
    difference: PairedDifference
    band: Band
    holm: float | None
    permutation_p: float | None
    mcnemar: McNemar
    detectable: float | None
    prompts_for_two_points: float | None


@dataclass(frozen=True, slots=True)
class Macro:
    """A checkpoint against several references: the mean over references within each prompt.

    Attributes:
        checkpoint: Whose.
        references: Against whom.
        estimates: Over the prompts that all references answer: `win_rate`, `win_probability`,
            `percentile` within the references' rewards, and, from 4 references on,
            `standardised_reward` in standard deviations of the prompt's references.
        capped: Share of standardised rewards beyond 5 on either side, taken as 5; None without.
    """

    checkpoint: str
    references: tuple[str, ...]
    estimates: Mapping[str, Estimate]
    capped: float | None


def contrasts(comparisons: Sequence[Comparison]) -> list[Contrast]:
    """Every two checkpoints under one reference; none where only one is named."""
    found = []
    for reference, group in _grouped(comparisons, lambda c: c.reference.name):
        if len(group) > 1:
            found += _under_one_reference(reference, group)
    return found


def macros(comparisons: Sequence[Comparison]) -> list[Macro]:
    """Every checkpoint over all its references; none where only one is named."""
    return [
        _macro(checkpoint, group)
        for checkpoint, group in _grouped(comparisons, lambda c: c.checkpoint.name)
        if len(group) > 1
    ]


def _under_one_reference(reference: str, group: Sequence[Comparison]) -> list[Contrast]:
    ids, outcomes = _common(group, "outcome")
    if not len(ids):
        return []
    first = group[0]
    level, seed = first.overall.estimates["win_rate"].level, first.signature.seed
    pairs = list(combinations(range(len(group)), 2))
    columns = np.column_stack([outcomes[later] - outcomes[early] for early, later in pairs])
    subsets = dict(zip(first.table.prompt_id.tolist(), first.table.subset.tolist(), strict=True))
    clusters, keys = units_of(ids, [subsets[i] for i in ids], first.cluster_by, seed)
    bands = max_t_bands(
        columns, keys=keys, resamples=RESAMPLES, level=level, clusters=clusters, seed=seed
    )
    differences = [
        paired_difference(outcomes[later], outcomes[early], level=level, clusters=clusters)
        for early, later in pairs
    ]
    adjusted = _holm([d.p for d in differences])
    found = []
    for k, (early, later) in enumerate(pairs):
        stderr = differences[k].estimate.stderr
        found.append(
            Contrast(
                checkpoint=group[later].checkpoint.name,
                against=group[early].checkpoint.name,
                reference=reference,
                prompts=len(ids),
                deciding=int(np.count_nonzero(columns[:, k])),
                difference=differences[k],
                band=bands.bands[k],
                holm=adjusted[k],
                permutation_p=permutation_p(
                    columns[:, k], clusters=clusters, keys=keys, draws=RESAMPLES
                ),
                mcnemar=mcnemar(outcomes[later], outcomes[early]),
                detectable=minimum_detectable_effect(stderr, level=level) if stderr else None,
                prompts_for_two_points=(
                    prompts_needed(TWO_POINTS, stderr**2 * len(ids), level=level)
                    if stderr
                    else None
                ),
            )
        )
    return found


def _holm(p: Sequence[float | None]) -> list[float | None]:
    """Adjusted over those that are defined."""
    known = [value for value in p if value is not None]
    adjusted = iter(holm(known).tolist() if known else ())
    return [None if value is None else next(adjusted) for value in p]


def _macro(checkpoint: str, group: Sequence[Comparison]) -> Macro:
    level = group[0].overall.estimates["win_rate"].level
    estimates = {}
    for name, column in (("win_rate", "outcome"), ("win_probability", "probability")):
        _, columns = _common(group, column)
        averaged = np.mean(columns, axis=0) if len(columns[0]) else np.empty(0)
        estimates[name] = mean(averaged, bounded=True, level=level)
    _, pool = _common(group, "reference_reward")
    _, rewards = _common(group, "checkpoint_reward")
    references = np.column_stack(pool)
    percentile = pool_percentile(rewards[0], references)
    estimates["percentile"] = mean(percentile, bounded=True, level=level)
    capped = None
    if len(group) >= ENOUGH_REFERENCES:
        found = standardise(rewards[0], references)
        capped = found.capped
        z = found.z[~np.isnan(found.z)]
        estimates["standardised_reward"] = mean(z, bounded=False, level=level)
    return Macro(checkpoint, tuple(c.reference.name for c in group), estimates, capped)


def _common(group: Sequence[Comparison], column: str) -> tuple[list[str], list[FloatArray]]:
    """The prompts on which all have a value, sorted, and each one's values there."""
    values = [
        dict(zip(c.table.prompt_id.tolist(), getattr(c.table, column).tolist(), strict=True))
        for c in group
    ]
    known = [{i for i, value in each.items() if not math.isnan(value)} for each in values]
    ids = sorted(set.intersection(*known))
    return ids, [np.array([each[i] for i in ids], dtype=np.float64) for each in values]


def _grouped(
    comparisons: Sequence[Comparison], name: Callable[[Comparison], str]
) -> list[tuple[str, list[Comparison]]]:
    order = list(dict.fromkeys(map(name, comparisons)))
    ranked = sorted(comparisons, key=lambda c: order.index(name(c)))
    return [(key, list(group)) for key, group in groupby(ranked, key=name)]
