"""What several comparisons say together: checkpoints against each other, and over all references.

Two checkpoints held against one reference answer the same prompts, so that their difference is
paired; all differences under one reference get bands that hold at once (max-t).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr

from evalkit.comparison import Comparison, Units, units_of
from evalkit.data import FloatArray
from evalkit.gate import Verdict
from evalkit.statistics.deciding import DecidedDifference, decided_difference
from evalkit.statistics.intervals import Estimate, mean
from evalkit.statistics.length_diagnostics import reward_length_correlation
from evalkit.statistics.multiplicity import Band, holm_where_defined, max_t_bands
from evalkit.statistics.paired import (
    McNemar,
    PairedDifference,
    mcnemar,
    paired_difference,
    permutation_p,
)
from evalkit.statistics.power import minimum_detectable_effect, prompts_needed
from evalkit.statistics.within_prompt import ENOUGH_REFERENCES, pool_percentile, standardise

RESAMPLES = 4_999
TWO_POINTS = 0.02
POWER = 0.8
# Metric -> its column; a margin to the same reference differs by what the reward does.
METRICS = {
    "win_rate": "outcome",
    "win_probability": "probability",
    "mean_reward": "checkpoint_reward",
}


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
            under this reference, and the p-value that goes with it. Contrasts on different prompts
            share out the error between them, so that its level may be above the one asked for.
        holm: p of the paired t test, Holm-adjusted over the same contrasts; None if undefined.
        permutation_p: Of the same mean difference, by swapping both sides within clusters.
        mcnemar: Another estimand: among prompts that one wins and the other loses, who wins.
        detectable: Smallest difference that the band leaves 0 out for with a chance of 80 %; None
            without spread.
        prompts_for_two_points: Prompts on which that would be 0.02.
        metrics: Subset ("" for all prompts) -> metric -> the difference, as `metric_differences`
            has it.
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
    metrics: Mapping[str, Mapping[str, DecidedDifference]]


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
        length: Mean over prompts of Spearman's correlation of reward and tokens among the
            references, what the reward model makes of length; None for fewer than 4 references.
    """

    checkpoint: str
    references: tuple[str, ...]
    estimates: Mapping[str, Estimate]
    capped: float | None
    length: Estimate | None


@dataclass(frozen=True, eq=False)
class Compared:
    """What a run of `compare` found.

    Attributes:
        comparisons: At least one.
        contrasts: Every two checkpoints under one reference.
        macros: Every checkpoint over all its references, where it has several.
        verdict: What a gate says of all this; None where none was asked.
    """

    comparisons: tuple[Comparison, ...]
    contrasts: tuple[Contrast, ...]
    macros: tuple[Macro, ...]
    verdict: Verdict | None = None

    @property
    def exit_code(self) -> int:
        """The gate's; 0 where none was asked."""
        return self.verdict.exit_code if self.verdict else 0


def compared(comparisons: Sequence[Comparison]) -> Compared:
    """Comparisons of one run, at least one, with what they say together."""
    return Compared(tuple(comparisons), tuple(contrasts(comparisons)), tuple(macros(comparisons)))


def contrasts(comparisons: Sequence[Comparison]) -> list[Contrast]:
    """Every two checkpoints under one reference; none where only one is named."""
    found = []
    for reference, group in _grouped(comparisons, lambda c: c.reference.name):
        if len(group) > 1:
            found += _under_one_reference(reference, group)
    return found


def metric_differences(
    later: Comparison, early: Comparison
) -> dict[str, dict[str, DecidedDifference]]:
    """Subset ("" for all prompts) -> metric -> later − early, both against one reference.

    A metric is absent where no prompt has it on both sides, the win rate of all prompts because
    it is the `Contrast`'s own.
    """
    found: dict[str, dict[str, DecidedDifference]] = {}
    subsets = dict(zip(later.table.prompt_id.tolist(), later.table.subset.tolist(), strict=True))
    level = later.overall.estimates["win_rate"].level
    for metric, column in METRICS.items():
        ids, (ours, theirs) = _common([later, early], column)
        named = np.array([subsets[i] for i in ids], dtype=object)
        clusters = _units(ids, later).clusters
        for subset in ["", *sorted(set(named) - {""})]:
            rows = np.flatnonzero(named == subset) if subset else np.arange(len(ids))
            if not len(rows) or (metric, subset) == ("win_rate", ""):
                continue
            found.setdefault(subset, {})[metric] = decided_difference(
                ours[rows], theirs[rows], level=level, clusters=clusters[rows]
            )
    return found


def macros(comparisons: Sequence[Comparison]) -> list[Macro]:
    """Every checkpoint over all its references; none where only one is named."""
    return [
        _macro(checkpoint, group)
        for checkpoint, group in _grouped(comparisons, lambda c: c.checkpoint.name)
        if len(group) > 1
    ]


def _under_one_reference(reference: str, group: Sequence[Comparison]) -> list[Contrast]:
    """Each two on the prompts that both have; bands per set of prompts, their levels shared out."""
    level = group[0].overall.estimates["win_rate"].level
    by_prompts: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for early, later in combinations(range(len(group)), 2):
        ids, _ = _common([group[early], group[later]], "outcome")
        if ids:
            by_prompts.setdefault(tuple(ids), []).append((early, later))
    share = 1 - (1 - level) / max(1, len(by_prompts))
    drawn = {
        pair_of: drawing
        for ids, pairs in by_prompts.items()
        for pair_of, drawing in _drawn(ids, pairs, group, share).items()
    }
    ordered = sorted(drawn)
    adjusted = holm_where_defined([drawn[pair_of].difference.p for pair_of in ordered])
    return [
        _contrast(reference, group[later], group[early], drawn[early, later], p)
        for (early, later), p in zip(ordered, adjusted, strict=True)
    ]


class _Drawn(NamedTuple):
    """Two checkpoints on their common prompts."""

    ours: FloatArray
    theirs: FloatArray
    units: Units
    difference: PairedDifference
    band: Band
    alone: float  # level of one interval as wide as the band


def _drawn(
    ids: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    group: Sequence[Comparison],
    share: float,
) -> dict[tuple[int, int], _Drawn]:
    first, level = group[0], group[0].overall.estimates["win_rate"].level
    units = _units(ids, group[pairs[0][0]])
    columns = [[_at(group[k], ids) for k in pair_of] for pair_of in pairs]
    bands = max_t_bands(
        np.column_stack([later - early for early, later in columns]),
        keys=units.keys,
        resamples=max(RESAMPLES, math.ceil(share / (1 - share))),
        level=share,
        clusters=units.clusters,
        seed=first.signature.seed,
    )
    alone = level
    if bands.critical is not None:
        alone = 1 - 2 * float(stdtr(len(np.unique(units.clusters)) - 1, -bands.critical))
    return {
        pair_of: _Drawn(
            later,
            early,
            units,
            paired_difference(later, early, level=level, clusters=units.clusters),
            band,
            alone,
        )
        for pair_of, (early, later), band in zip(pairs, columns, bands.bands, strict=True)
    }


def _contrast(
    reference: str, later: Comparison, early: Comparison, drawn: _Drawn, p: float | None
) -> Contrast:
    differences, e = drawn.ours - drawn.theirs, drawn.difference.estimate
    powered = bool(e.stderr) and 1 - drawn.alone < POWER
    return Contrast(
        checkpoint=later.checkpoint.name,
        against=early.checkpoint.name,
        reference=reference,
        prompts=len(differences),
        deciding=int(np.count_nonzero(differences)),
        difference=drawn.difference,
        band=drawn.band,
        holm=p,
        permutation_p=permutation_p(
            differences, clusters=drawn.units.clusters, keys=drawn.units.keys, draws=RESAMPLES
        ),
        mcnemar=mcnemar(drawn.ours, drawn.theirs),
        detectable=minimum_detectable_effect(
            e.stderr or 0.0, level=drawn.alone, power=POWER, df=e.clusters - 1
        )
        if powered
        else None,
        prompts_for_two_points=prompts_needed(
            TWO_POINTS, (e.stderr or 0.0) ** 2 * len(differences), level=drawn.alone, power=POWER
        )
        if powered
        else None,
        metrics=metric_differences(later, early),
    )


def _units(ids: Sequence[str], comparison: Comparison) -> Units:
    table = comparison.table
    subsets = dict(zip(table.prompt_id.tolist(), table.subset.tolist(), strict=True))
    named = [subsets[i] for i in ids]
    return units_of(ids, named, comparison.cluster_by, comparison.signature.seed)


def _at(comparison: Comparison, ids: Sequence[str]) -> FloatArray:
    rows = {i: row for row, i in enumerate(comparison.table.prompt_id.tolist())}
    return comparison.table.outcome[[rows[i] for i in ids]]


def _macro(checkpoint: str, group: Sequence[Comparison]) -> Macro:
    level = group[0].overall.estimates["win_rate"].level
    estimates = {}

    def over_prompts(ids: Sequence[str], column: FloatArray, *, bounded: bool = True) -> Estimate:
        known = ~np.isnan(column)
        clusters = _units(ids, group[0]).clusters[known]
        return mean(column[known], bounded=bounded, level=level, clusters=clusters)

    for name, column in (("win_rate", "outcome"), ("win_probability", "probability")):
        ids, columns = _common(group, column)
        averaged = np.mean(columns, axis=0) if ids else np.empty(0)
        estimates[name] = over_prompts(ids, averaged)
    ids, pool = _common(group, "reference_reward")
    _, rewards = _common(group, "checkpoint_reward")
    references = np.column_stack(pool)
    estimates["percentile"] = over_prompts(ids, pool_percentile(rewards[0], references))
    capped = length = None
    if len(group) >= ENOUGH_REFERENCES:
        found = standardise(rewards[0], references)
        capped = found.capped
        estimates["standardised_reward"] = over_prompts(ids, found.z, bounded=False)
        length = reward_length_correlation(
            references,
            np.column_stack(_common(group, "reference_tokens")[1]),
            clusters=_units(ids, group[0]).clusters,
            level=level,
        )
    return Macro(checkpoint, tuple(c.reference.name for c in group), estimates, capped, length)


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
