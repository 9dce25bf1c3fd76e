"""What a comparison is: one table, its estimates overall and per subset, and how they were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from evalkit.breakdown import Breakdown, breakdown, contradictions
from evalkit.data import CompletionSet, FloatArray, IntArray, Prompt
from evalkit.errors import InputError
from evalkit.lengths import Lengths, Pooled, lengths_of, sizes_of
from evalkit.notices import of_sets, of_table
from evalkit.pairing import Missing, PairedTable, TieRule, bootstrap_keys
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.signature import Signature
from evalkit.statistics.intervals import Estimate, mean
from evalkit.statistics.ppi import PredictionPowered
from evalkit.statistics.resampling import Keys
from evalkit.statistics.within_prompt import Location, robust_location
from evalkit.version import __version__

if TYPE_CHECKING:
    import pandas as pd

ClusterBy = Literal["prompt", "subset"]
FEWEST_RESAMPLES = 100
ENOUGH_CLUSTERS = 40


@dataclass(frozen=True, slots=True)
class Options:
    """Every choice of `compare` that can move a number.

    Attributes:
        benchmark: Whose prompts must all be answered; if None, the one the references answer.
        ties: The tie rule.
        missing: What to do about prompts that cannot be paired.
        level: Nominal coverage of the intervals, in (0, 1).
        resamples: Keyed bootstrap draws for BCa intervals; 0 for analytic ones.
        seed: Of the draws.
        cluster_by: What is independent: prompts, or whole subsets of them.
        temperature: Of the win probability σ(margin / temperature), in reward-model units, > 0; if
            None, 1 for Bradley-Terry reward models, and no win probability for any other.
    """

    benchmark: str | None = None
    ties: TieRule = field(default_factory=TieRule)
    missing: Missing = "error"
    level: float = 0.95
    resamples: int = 0
    seed: int = 0
    cluster_by: ClusterBy = "prompt"
    temperature: float | None = None

    def __post_init__(self) -> None:
        few = 0 < self.resamples < FEWEST_RESAMPLES
        if not 0 < self.level < 1 or self.resamples < 0 or few or self.seed < 0:
            raise InputError(
                f"level {self.level}, resamples {self.resamples}, seed {self.seed}",
                fix=f"the level lies between 0 and 1, the seed is at least 0, and resamples are 0 "
                f"or at least {FEWEST_RESAMPLES}",
            )
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise InputError(
                f"temperature {self.temperature}", fix="it is a number above 0, in reward units"
            )


@dataclass(frozen=True, slots=True)
class Group:
    """All prompts of a comparison, or those of one subset.

    Attributes:
        n: Prompts.
        wins: Prompts whose mean outcome is above one half.
        ties: Prompts whose mean outcome is one half, or whose pairs are all ties.
        losses: Prompts whose mean outcome is below one half.
        estimates: `mean_reward`, `reference_mean_reward`, `win_rate`, `win_probability`, `margin`.
    """

    n: int
    wins: int
    ties: int
    losses: int
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt of a comparison with the completions on both sides, for people to read.

    Attributes:
        row: Its row in the table.
        prompt: What was asked.
        checkpoint: The checkpoint's completions.
        reference: The reference's completions.
    """

    row: int
    prompt: Prompt
    checkpoint: tuple[str, ...]
    reference: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """One checkpoint against one reference under one reward model.

    Attributes:
        checkpoint: The set under test.
        reference: The set it is held against.
        reward_model: What scored both.
        table: One row per prompt.
        overall: Counts and estimates over all prompts.
        subsets: Subset -> the same, in alphabetical order; empty if no prompt names one.
        breakdown: What the subsets say together.
        lengths: What the lengths of the answers say; None where they are not known.
        worst_case: Win rate if every prompt left out were lost, and if it were won; None if none
            was left out.
        notices: What a reader must know: stand-ins, models for trying out, rows left out.
        signature: Every choice that can move the numbers.
        human: Win rate corrected by human labels on some prompts; None without labels.
        cluster_by: What is independent: prompts, or whole subsets of them.
        first_shown: Share of a pair-preference model's or judge's verdicts that go to the answer
            shown first, ½ without position bias; None for other reward models.
    """

    checkpoint: CompletionSet
    reference: CompletionSet
    reward_model: RewardModelSpec
    table: PairedTable
    overall: Group
    subsets: Mapping[str, Group]
    breakdown: Breakdown
    lengths: Lengths | None
    worst_case: tuple[float, float] | None
    notices: tuple[str, ...]
    signature: Signature
    human: PredictionPowered | None = None
    cluster_by: ClusterBy = "prompt"
    first_shown: Estimate | None = None

    def to_frame(self) -> pd.DataFrame:
        """Every estimate on a row: subset, metric, counts, value, interval and how it was made.

        `table.to_frame()` has the prompts instead.
        """
        import pandas as pd

        return pd.DataFrame(list(self.records()))

    def records(self) -> Iterator[dict[str, object]]:
        """The rows of `to_frame`."""
        for subset, group in [("", self.overall), *self.subsets.items()]:
            for metric, e in group.estimates.items():
                yield {
                    "checkpoint": self.checkpoint.name,
                    "reference": self.reference.name,
                    "reward_model": self.reward_model.name,
                    "subset": subset,
                    "metric": metric,
                    "value": e.value,
                    "low": e.low,
                    "high": e.high,
                    "stderr": e.stderr,
                    "level": e.level,
                    "n": e.n,
                    "method": e.method,
                    "wins": group.wins,
                    "ties": group.ties,
                    "losses": group.losses,
                    "left_out": len(self.table.unmatched),
                    "truncated": self.table.truncated,
                    "notices": "; ".join(self.notices),
                    "signature": str(self.signature),
                }

    @property
    def robust(self) -> dict[str, Location]:
        """Median and trimmed mean of rewards and margins, which a few prompts cannot move."""
        columns = {
            "reward": self.table.checkpoint_reward,
            "reference_reward": self.table.reference_reward,
            "margin": self.table.margin,
        }
        return {name: robust_location(c[~np.isnan(c)]) for name, c in columns.items()}

    def examples(self, most: int) -> tuple[list[Example], list[Example]]:
        """The prompts with the largest losses and with the largest wins, largest first."""
        lead = self.table.lead
        order = np.lexsort((self.table.prompt_id, lead)).tolist()
        losses = [row for row in order if lead[row] < 0][:most]
        wins = [row for row in reversed(order) if lead[row] > 0][:most]
        return [self._example(row) for row in losses], [self._example(row) for row in wins]

    def _example(self, row: int) -> Example:
        prompt_id = self.table.prompt_id[row]
        i, j = (
            next(i for i, p in enumerate(s.prompts) if p.prompt_id == prompt_id)
            for s in (self.checkpoint, self.reference)
        )
        return Example(
            row,
            self.reference.prompts[j],
            self.checkpoint.completions[i],
            self.reference.completions[j],
        )


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
        checkpoint=f"{checkpoint.name}#{checkpoint.digest[:12]}",
        reference=f"{reference.name}#{reference.digest[:12]}",
        rm=f"{reward_model.name}#{reward_model.fingerprint[:16]}",
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
