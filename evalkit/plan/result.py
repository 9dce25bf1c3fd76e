"""What a plan takes and returns: choices, designs, and what would settle an undecided rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from evalkit.errors import InputError
from evalkit.gate import Judged
from evalkit.gate.policy import ALARM, PREVIOUS
from evalkit.pairing import Missing, TieRule
from evalkit.plan.pilot import Metric
from evalkit.signature import Line
from evalkit.statistics.gates import FEW_DECIDING
from evalkit.statistics.planning import Components

Cause = Literal["interval", "few deciding", "left out", "no interval", "nothing earlier"]
SUREST = 0.999999  # a level or power beyond it is no plan
FEASIBLE = 100  # times the prompts of the run; a plan for more is none


@dataclass(frozen=True, slots=True)
class Options:
    """Every choice of a plan that can move a number.

    Attributes:
        detect: The difference to find: of two checkpoints, in (0, 1); of one from ½, in (0, ½).
        completions: K to plan with, each ≥ 1; if empty, 1, 2, 4 and 8, where the pilot tells.
        references: R to plan with; if empty, 1, 2, 4 and the pilot's own, where it tells.
        metric: What differs.
        benchmark: Whose prompts must all be answered; if None, the one the references answer.
        ties: The tie rule; none that drops ties.
        missing: What to do about prompts without a completion or a known reward.
        temperature: Of the win probability, as for `compare`.
        level: 1 − the error of the two-sided test, and of the ranges, in (0, 1).
        power: Chance to find the difference, above 1 − level and below 1.
    """

    detect: float
    completions: tuple[int, ...] = ()
    references: tuple[int, ...] = ()
    metric: Metric = "win_rate"
    benchmark: str | None = None
    ties: TieRule = field(default_factory=TieRule)
    missing: Missing = "error"
    temperature: float | None = None
    level: float = 0.95
    power: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.detect < 1:
            raise InputError(f"a difference of {self.detect}", fix="a fraction, such as 0.02")
        if not 0 < self.level <= SUREST or not 1 - self.level < self.power <= SUREST:
            raise InputError(
                f"level {self.level!r}, power {self.power!r}",
                fix="the level lies between 0 and 1, the power between 1 − level and 1, and "
                f"neither above {SUREST!r}",
            )
        for name, numbers in (("completions", self.completions), ("references", self.references)):
            if any(number < 1 for number in numbers):
                raise InputError(f"a plan with {min(numbers)} {name}", fix="each is at least 1")
        if self.ties.drop:
            raise InputError(
                "dropped ties leave out other prompts at every run, which no plan can count on",
                fix="plan with --ties half, or margin=EPS",
            )


@dataclass(frozen=True, slots=True)
class Signature(Line):
    """What was planned and from what; printed as `plan|key:value|…` in a fixed order.

    Attributes:
        checkpoints: Each name and the first 12 digits of its completions' digest, joined by `#`.
        references: Likewise.
        rm: Name and the first 16 digits of its fingerprint, joined by `#`.
        metric: What differs.
        benchmark: Whose prompts had to be answered; empty if none was named.
        n: Prompts of the pilot.
        k: Completions a prompt of each checkpoint in the pilot.
        left_out: Prompts that are not in the pilot.
        missing: What was to be done about those.
        ties: The tie rule.
        temperature: Of the win probability; empty if it is the model's own, or undefined.
        detect: The difference to find.
        plan_k: Completions planned with.
        plan_r: References planned with.
        ci: Level of the test and the ranges.
        power: Chance to find the difference.
        version: Of evalkit.
    """

    KIND: ClassVar[str] = "plan"

    checkpoints: tuple[str, ...]
    references: tuple[str, ...]
    rm: str
    metric: str
    benchmark: str
    n: int
    k: tuple[str, ...]
    left_out: int
    missing: str
    ties: str
    temperature: str
    detect: str
    plan_k: tuple[str, ...]
    plan_r: tuple[str, ...]
    ci: str
    power: str
    version: str


@dataclass(frozen=True, slots=True)
class Design:
    """Prompts that find the difference with so many completions and references a prompt.

    Attributes:
        completions: K of each checkpoint.
        references: R.
        prompts: Whole; what the pilot's variance calls for.
        fewest: The same for the lower end of that variance's range.
        most: For the upper end; None beyond 10⁹ or so.
        generated: Completions of all checkpoints.
        answers: Completions of references beyond those that the pilot's references have.
        detectable: What the pilot's number of prompts would find as often.
        curve: What `Plan.grid` prompts would.
    """

    completions: int
    references: int
    prompts: int
    fewest: int
    most: int | None
    generated: int
    answers: int
    detectable: float
    curve: tuple[float, ...]

    @property
    def total(self) -> int:
        """Completions to generate in all."""
        return self.generated + self.answers


@dataclass(frozen=True, slots=True)
class Plan:
    """How many prompts, completions and references find a difference, from a pilot.

    Attributes:
        checkpoints: One, held against ½, or two, held against each other.
        references: Of the pilot.
        reward_model: Its name.
        prompts: Of the pilot.
        completions: Of each checkpoint in the pilot, a prompt.
        components: What varies.
        options: Every choice, with the completions and references planned with.
        designs: By R, then K, as in the options.
        grid: Prompts of the curves.
        ceiling: Of one checkpoint, with one completion and reference: prompts for any that is so
            far from ½, whatever its spread; None for two.
        notices: What a reader must know.
        signature: The same choices on one line.
    """

    checkpoints: tuple[str, ...]
    references: tuple[str, ...]
    reward_model: str
    prompts: int
    completions: tuple[int, ...]
    components: Components
    options: Options
    designs: tuple[Design, ...]
    grid: tuple[int, ...]
    ceiling: int | None
    notices: tuple[str, ...]
    signature: Signature

    @property
    def cheapest(self) -> Design:
        """The design with the fewest completions to generate; of equal ones, the fewest prompts."""
        return min(self.designs, key=lambda d: (d.total, d.prompts))


class Instead(NamedTuple):
    """Completions a prompt, and the prompts that would then decide."""

    completions: int
    prompts: int


@dataclass(frozen=True, slots=True)
class Undecided:
    """An inconclusive rule, why it is, and what would settle it.

    Attributes:
        judged: The gate's answer, with the prompts that would decide.
        distance: Of the value from the limit; None without a value.
        half_width: From the value to the end that would have to clear the limit; None without.
        instead: Prompts that would decide with more completions each; empty where no pilot with
            several completions is at hand.
        floor: Prompts that no number of completions goes below; None likewise.
        absent: What of a pilot is not at hand; empty if nothing, or where none is wanted.
    """

    judged: Judged
    distance: float | None
    half_width: float | None
    instead: tuple[Instead, ...] = ()
    floor: int | None = None
    absent: str = ""

    @property
    def cause(self) -> Cause:
        """Why the rule is inconclusive."""
        j = self.judged
        if j.rule.metric == ALARM:
            return "left out"
        if j.baseline == PREVIOUS:
            return "nothing earlier"
        if j.low is None or j.high is None:
            return "no interval"
        if j.left_out and j.low >= j.limit:
            return "left out"
        if j.deciding is not None and j.deciding < FEW_DECIDING:
            return "few deciding"
        return "interval"

    @property
    def feasible(self) -> bool:
        """Whether the prompts that would decide are no more than 100 times those of the run."""
        needed = self.judged.n_needed
        return needed is not None and needed <= FEASIBLE * self.judged.n


@dataclass(frozen=True, slots=True)
class AfterSignature(Line):
    """What result was asked about which rules; printed as `settle|key:value|…` in a fixed order.

    Attributes:
        after: The first 12 digits of the result's digest.
        rules: As judged.
        ci: Level of the policy.
        version: Of evalkit.
    """

    KIND: ClassVar[str] = "settle"

    after: str
    rules: tuple[str, ...]
    ci: str
    version: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """What would settle the rules that a saved result left undecided.

    Attributes:
        rules: How many were judged.
        failed: How many of them surely fail, which no further prompt is to change.
        undecided: The inconclusive ones.
        level: Of the policy.
        signature: The result and rules on one line.
    """

    rules: int
    failed: int
    undecided: tuple[Undecided, ...]
    level: float
    signature: AfterSignature
