"""What an accuracy run returns: a table per reward model, and how the models compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from evalkit.errors import InputError
from evalkit.formats.rewarded_layouts import RewardedRow
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.signature import Line
from evalkit.statistics.agreement import Agreement
from evalkit.statistics.calibration import Floor
from evalkit.statistics.intervals import Estimate
from evalkit.statistics.model_ranking import OverallDifferences, SubsetTest
from evalkit.statistics.ranking import RankRanges
from evalkit.suites import Suite
from evalkit.suites.definition import Credit


@dataclass(frozen=True, slots=True)
class Options:
    """Every choice of `accuracy` that can move a number.

    Attributes:
        tie: Rewards no further apart than this tie, in reward-model units, ≥ 0.
        level: Nominal coverage of the intervals, in (0, 1).
        seed: Of the floor under the calibration error.
        partial: Whether rows and subsets of the suite may be missing, with a notice for each.
    """

    tie: float = 0.0
    level: float = 0.95
    seed: int = 0
    partial: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.level < 1 and 0 <= self.tie < float("inf") and self.seed >= 0):
            raise InputError(
                f"level {self.level}, tie {self.tie}, seed {self.seed}",
                fix="the level lies between 0 and 1, tie and seed are at least 0",
            )


@dataclass(frozen=True, slots=True)
class Signature(Line):
    """What was tried on what, and how; printed as `accuracy|key:value|…` in a fixed order.

    Attributes:
        suite: Its name and the first 12 digits of its data's digest, joined by `#`; the name alone
            where rewards came without it.
        rm: Name and the first 16 digits of the fingerprint, joined by `#`; empty for rewards that
            were there already.
        rewards: The first 12 digits of the digest of those; empty for a reward model.
        dtype, max_length, overlong, output: Of the reward model; empty or None without one.
        n: Rows with a verdict.
        errors: Rows without one.
        truncated: Rows of which an answer lost tokens.
        credit: What a tie counts.
        tie: Rewards no further apart tie.
        ci: The interval's methods and level.
        seed: Of the floor under the calibration error.
        version: Of evalkit.
    """

    KIND: ClassVar[str] = "accuracy"

    suite: str
    rm: str
    rewards: str
    dtype: str
    max_length: int | None
    overlong: str
    output: str
    n: int
    errors: int
    truncated: int
    credit: str
    tie: str
    ci: str
    seed: int
    version: str


@dataclass(frozen=True, slots=True)
class Score:
    """How often the right answer has the highest reward, in some rows.

    Attributes:
        strict: A tie is wrong.
        half_credit: A right answer among m at the top counts 1/m.
        n: Rows with a verdict.
        ties: Of those, where a right answer shares the top.
        errors: Rows without a verdict, not among n; nothing stands in for them.
        truncated: Rows of which an answer lost tokens.
    """

    strict: Estimate
    half_credit: Estimate
    n: int
    ties: int
    errors: int
    truncated: int

    def of(self, credit: Credit) -> Estimate:
        """The estimate under one of the two policies."""
        return self.strict if credit == "strict" else self.half_credit


@dataclass(frozen=True, slots=True)
class LengthBaseline:
    """What picking by length alone would get, equal lengths sharing the point.

    Attributes:
        longest, shortest: Accuracy of always picking the longest or the shortest answer.
        ahead: Accuracy of the reward model (half credit) minus the better of the two, paired by
            row; its interval is this difference's own.
    """

    longest: Estimate
    shortest: Estimate
    ahead: Estimate

    @property
    def best(self) -> float | None:
        """The better of the two; None without rows."""
        known = [e.value for e in (self.longest, self.shortest) if e.value is not None]
        return max(known, default=None)

    @property
    def beaten(self) -> bool:
        """Whether the reward model is surely better than both.

        One lead on every row has no interval; it is sure where as many heads in a row would be.
        """
        e = self.ahead
        if e.low is not None:
            return e.low > 0
        heads = e.stderr == 0 and (e.value or 0.0) > 0
        return heads and 2 ** (1 - e.clusters) <= 1 - e.level


@dataclass(frozen=True, slots=True)
class Part:
    """A section or subset.

    Attributes:
        score: Of its rows.
        weight: In the overall, or of a subset in its section, as declared; None where rows weigh.
        length: The length-only baseline; None where texts are not known, or for a rule without one.
        note: What a reader must know about it.
    """

    score: Score
    weight: float | None
    length: LengthBaseline | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Margins:
    """What the margins of pairs say of σ(margin) as a probability.

    Attributes:
        log_loss: Mean −log σ(margin); log 2 = 0.693 is that of a coin.
        calibration_error: Of σ(margin), in [0, 1].
        floor: The error that sampling alone would show.
        scaled_loss: Scaled Bradley-Terry loss of the pairs with a magnitude.
    """

    log_loss: Estimate
    calibration_error: float
    floor: Floor
    scaled_loss: Estimate


@dataclass(frozen=True)
class AccuracyTable:
    """The accuracy of one reward model on a suite.

    Attributes:
        reward_model: Its name.
        spec: The reward model; None for rewards that somebody already had.
        overall: Weighted as the suite says; its length-only baseline likewise.
        sections: Section -> score, in the suite's order; empty without sections.
        subsets: Subset -> score, in the suite's order, those without rows left out.
        views: Further numbers of this kind of suite: `hard`, `normal` and `easy` of styles;
            `single_game` of JudgeBench.
        margins: Of the pairs; None if rows are no pairs, or the output no Bradley-Terry reward.
            Rewards that somebody already had are taken for such, and a notice says so.
        rows: Every row, those without a verdict among them.
        notices: What a reader must know.
        signature: Every choice that can move the numbers.
    """

    reward_model: str
    spec: RewardModelSpec | None
    overall: Part
    sections: Mapping[str, Part]
    subsets: Mapping[str, Part]
    views: Mapping[str, Estimate]
    margins: Margins | None
    rows: tuple[RewardedRow, ...]
    notices: tuple[str, ...]
    signature: Signature


@dataclass(frozen=True, eq=False)
class Ranking:
    """Several reward models on the rows they share.

    Attributes:
        names: M reward models, in the order of the tables.
        n: Rows on which all of them have a verdict.
        differences: Of every two overalls, paired by row, Holm-adjusted.
        ranks: The ranks that these leave, and the groups not separable from their first.
        subset_tests: Exact McNemar tests of every two in every subset, Holm over all of them.
        agreement: How far their verdicts agree.
        left_out: Subsets that take no part: Ties, whose score is no mean of rows, and those of
            which no row is known to be shared by all.
    """

    names: tuple[str, ...]
    n: int
    differences: OverallDifferences
    ranks: RankRanges
    subset_tests: tuple[SubsetTest, ...]
    agreement: Agreement
    left_out: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Accuracies:
    """What `accuracy` returns.

    Attributes:
        suite: The suite.
        tables: One a reward model, in the order named.
        ranking: How they compare; None for a single one, or if they share no row.
        prompts: `(subset, row id)` -> the prompt as one text, where the rows' texts are known.
    """

    suite: Suite
    tables: tuple[AccuracyTable, ...]
    ranking: Ranking | None
    prompts: Mapping[tuple[str, str], str]
