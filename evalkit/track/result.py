"""What tracking returns: the curve over training steps, its alarms, and the checkpoint to take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from evalkit.data import FloatArray, TextArray
from evalkit.errors import InputError
from evalkit.gate import Verdict
from evalkit.gate.saved import ALARMS
from evalkit.pairing import Missing, TieRule
from evalkit.signature import Line
from evalkit.statistics.agreement import Agreement
from evalkit.statistics.checkpoint_choice import BestSet, Chosen
from evalkit.statistics.curve_agreement import RankCorrelation
from evalkit.statistics.deciding import DecidedDifference
from evalkit.statistics.intervals import Estimate
from evalkit.statistics.multiplicity import Band
from evalkit.statistics.over_optimisation import Change, OverOptimisationLook
from evalkit.statistics.tracking import ChangePoint, Cusum, DegradationLook

Metric = Literal["win_rate", "win_probability"]


@dataclass(frozen=True, slots=True)
class Options:
    """Every choice of `track` that can move a number, or the exit code.

    Attributes:
        metric: What is tracked.
        benchmark: Whose prompts must all be answered; if None, the one the reference answers.
        planned: Checkpoints the run will have, over which the error of its alarms is spent; None
            if nobody knows, at the price of later alarms.
        window: Neighbouring checkpoints averaged before they are compared.
        ties: The tie rule.
        missing: What to do about prompts that cannot be paired.
        level: Of intervals and bands. One minus it bounds the chance that a run without fault
            raises any alarm: of a decline under one reward model (both alarms share it), of each
            kind in a monitor.
        seed: Of the keyed resamples.
        temperature: Of the win probability σ(margin / temperature), as for a comparison; if None,
            1 for Bradley-Terry reward models, and no win probability for any other.
        proxy: The name of the reward model the run is trained against, the others being held out;
            None if that is not said, and nothing is monitored.
    """

    metric: Metric = "win_rate"
    benchmark: str | None = None
    planned: int | None = None
    window: int = 3
    ties: TieRule = field(default_factory=TieRule)
    missing: Missing = "error"
    level: float = 0.95
    seed: int = 0
    temperature: float | None = None
    proxy: str | None = None

    def __post_init__(self) -> None:
        sound = (
            0 < self.level < 1,
            self.window >= 1,
            self.planned is None or self.planned >= 1,
            self.seed >= 0,
            self.temperature is None or 0 < self.temperature < float("inf"),
        )
        if not all(sound):
            raise InputError(
                f"level {self.level}, window {self.window}, planned {self.planned}, seed "
                f"{self.seed}, temperature {self.temperature}",
                fix="the level lies between 0 and 1, window and planned are at least 1, the seed "
                "is at least 0, and the temperature is above 0",
            )


@dataclass(frozen=True, slots=True)
class Signature(Line):
    """What run was tracked, and how; printed as `track|key:value|…` in a fixed order.

    Attributes:
        checkpoints: How many, and the first 12 digits of the digest over their names, completions
            and steps, joined by `#`.
        reference: Name and the first 12 digits of its completions' digest, joined by `#`.
        rm: Each reward model's name and the first 16 digits of its fingerprint, joined by `#`.
        proxy: Name of the one the run is trained against; empty if that is not said.
        benchmark: Whose prompts had to be answered; empty if none was named.
        metric: What is tracked.
        temperature: Of the win probability; empty if it is not asked for.
        n: Prompts under each reward model.
        missing, ties: As asked for.
        planned: Looks planned; None if that is not said.
        window: Neighbouring checkpoints averaged.
        tolerance: Change of the held-out reward model that counts as none.
        ci: The interval's methods and level.
        seed: Of the keyed resamples.
        version: Of evalkit.
    """

    KIND: ClassVar[str] = "track"

    checkpoints: str
    reference: str
    rm: tuple[str, ...]
    proxy: str
    benchmark: str
    metric: str
    temperature: str
    n: tuple[str, ...]
    missing: str
    ties: str
    planned: int | None
    window: int
    tolerance: str
    ci: str
    seed: int
    version: str


@dataclass(frozen=True, slots=True)
class Point:
    """One checkpoint of a curve.

    Attributes:
        checkpoint: Its name.
        step: Its training step.
        estimate: The metric against the reference, over the prompts that all checkpoints share.
        band: The same with an interval that holds together with those of all checkpoints.
        tokens: Mean tokens of its conversations; None where unknown.
    """

    checkpoint: str
    step: int
    estimate: Estimate
    band: Band
    tokens: float | None


@dataclass(frozen=True, eq=False)
class Curve:
    """The checkpoints of a run under one reward model, in order of their steps.

    Attributes:
        reward_model: Its name and the first 16 digits of its fingerprint, joined by `#`.
        points: T of them.
        outcomes: (P, T) the metric per prompt.
        prompt_id: (P,) sorted.
        looks: The last window against the best earlier one, at each checkpoint.
        cusum: A slower second alarm.
        change: Where the curve bends; None below four checkpoints or without variance.
        best: The checkpoints that could be the best.
        chosen: The earliest within a standard error of the best, with its corrected value.
        differences: The newest checkpoint minus each earlier one, T − 1 of them.
        left_out: Prompts that some checkpoint does not have, sorted.
        notices: What a reader must know.
        steps_by_name: Checkpoints whose steps only their names tell.
    """

    reward_model: str
    points: tuple[Point, ...]
    outcomes: FloatArray
    prompt_id: TextArray
    looks: tuple[DegradationLook, ...]
    cusum: Cusum
    change: ChangePoint | None
    best: BestSet
    chosen: Chosen
    differences: tuple[DecidedDifference, ...]
    left_out: tuple[str, ...]
    notices: tuple[str, ...]
    steps_by_name: tuple[str, ...]

    @property
    def alarm_possible(self) -> bool:
        """Whether there are checkpoints enough for either alarm; they grow with the window."""
        bounds = [look.upper for look in self.looks if look.upper is not None]
        return bool(np.isfinite([*bounds, *self.cusum.limits]).any())

    @property
    def read_steps(self) -> list[str]:
        """A notice of the steps that only names tell, if any are."""
        names = self.steps_by_name
        if len(names) < 2:
            steps = {point.checkpoint: point.step for point in self.points}
            return [f"step {steps[name]} of {name} is read from its name" for name in names]
        shown = ", ".join(names) if len(names) < 4 else f"{names[0]} … {names[-1]}"
        return [f"steps of {len(names)} checkpoints are read from their names: {shown}"]

    @property
    def alarms(self) -> list[int]:
        """Columns at which either alarm is raised."""
        slow = self.cusum.alarm.tolist()
        return [look.step for look in self.looks if look.alarm or slow[look.step]]


@dataclass(frozen=True, eq=False)
class Monitor:
    """The reward model a run is trained against beside one that is held out.

    Attributes:
        proxy: Trained against.
        held_out: The other.
        prompts: Those that both have a number on at every checkpoint.
        looks: What both say at each checkpoint.
        length: Change of the log of the mean tokens since the first checkpoint, None there; beside
            the alarms, to tell what the proxy may be rewarding. None where tokens are not known.
        length_correlation: The same of the correlation over prompts of the metric under the proxy
            and tokens; None too at checkpoints where either does not vary.
    """

    proxy: str
    held_out: str
    prompts: int
    looks: tuple[OverOptimisationLook, ...]
    length: tuple[Change | None, ...] | None
    length_correlation: tuple[Change | None, ...] | None

    @property
    def alarms(self) -> dict[str, list[int]]:
        """Kind of alarm -> the columns at which it is raised."""
        kinds = (*ALARMS, "soft")
        return {kind: [x.step for x in self.looks if getattr(x, kind)] for kind in kinds}

    @property
    def alarmed(self) -> list[int]:
        """The columns at which an alarm is raised that is not soft, in order."""
        return sorted({t for kind in ALARMS for t in self.alarms[kind]})


@dataclass(frozen=True, eq=False)
class Consensus:
    """Several reward models on the prompts that all of them have a number on.

    Attributes:
        prompts: How many those are.
        orders: Two reward models, as indices of the curves -> Kendall's correlation of their
            curves; None below four checkpoints, or where a curve is level.
        agreement: Of their verdicts (win 1, tie, loss 0) on the last checkpoint, per prompt: by the
            tie rule, whatever the metric; a tie that is dropped is no verdict. Its credit is the
            share of wins, its rows without full agreement are contested.
    """

    prompts: int
    orders: Mapping[tuple[int, int], RankCorrelation | None]
    agreement: Agreement


@dataclass(frozen=True, eq=False)
class Track:
    """What `track` returns.

    Attributes:
        reference: What every checkpoint is held against.
        options: As asked for.
        curves: One a reward model, the proxy first where there is one.
        consensus: What several reward models agree on; None for one.
        monitors: The proxy beside each other reward model; empty without a proxy.
        stored: Checkpoints that came from the history file alone.
        signature: Every choice that can move the numbers.
        verdict: What a gate says of the newest checkpoint and of alarms; None where none was
            asked.
    """

    reference: str
    options: Options
    curves: tuple[Curve, ...]
    consensus: Consensus | None
    monitors: tuple[Monitor, ...]
    stored: tuple[str, ...]
    signature: Signature
    verdict: Verdict | None = None

    @property
    def alarmed(self) -> bool:
        """Whether any alarm is raised: a decline, or over-optimisation (but for the soft one)."""
        return any(m.alarmed for m in self.monitors) or any(c.alarms for c in self.curves)

    @property
    def exit_code(self) -> int:
        """The gate's; 0 where none was asked."""
        return self.verdict.exit_code if self.verdict else 0
