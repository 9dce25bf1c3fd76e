"""What a comparison takes and is: choices, one table, estimates overall and per subset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from evalkit.breakdown import Breakdown, Group
from evalkit.data import CompletionSet, Prompt
from evalkit.errors import InputError
from evalkit.lengths import Lengths
from evalkit.pairing import Missing, PairedTable, TieRule
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.signature import Signature
from evalkit.statistics.intervals import Estimate
from evalkit.statistics.ppi import PredictionPowered
from evalkit.statistics.within_prompt import Location, robust_location

if TYPE_CHECKING:
    import pandas as pd

ClusterBy = Literal["prompt", "subset"]
FEWEST_RESAMPLES = 100


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
        overall: Counts and estimates over all prompts: `mean_reward`, `reference_mean_reward`,
            `win_rate`, `win_probability` and `margin`.
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
