"""What a metric card holds: measured figures, each with its n, and what is stated of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from evalkit.accuracy import AccuracyTable
from evalkit.calibrate import Calibration
from evalkit.errors import InputError
from evalkit.reward_models.lookup import Stated
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring.noise import Noise
from evalkit.scoring.throughput import Throughput
from evalkit.signature import Line
from evalkit.statistics.intervals import Estimate
from evalkit.statistics.reward_scale import Quantiles, Spread
from evalkit.suites import Suite

SystemTurn = Literal["read", "dropped", "refused"]


@dataclass(frozen=True, slots=True)
class Options:
    """Every choice of a card that can move a number.

    Attributes:
        benchmark: Whose prompts ids without messages stand for; without data, all that answers it
            is the data.
        pairs: Labelled pairs, for accuracy and calibration; None for neither.
        suites: Suites for accuracy, each with the place its rows are read from; empty for its own.
        noise_rows: Conversations scored again for noise and throughput, at most; none by a judge.
        throughput: Whether to time them, which no rerun repeats.
        level: Nominal coverage of the intervals, in (0, 1).
        seed: Of the shuffled batches and of the calibration.
        command: The command line that makes the card, which it prints; it moves nothing.
    """

    benchmark: str | None = None
    pairs: str | None = None
    suites: tuple[tuple[str, str], ...] = ()
    noise_rows: int = 64
    throughput: bool = True
    level: float = 0.95
    seed: int = 0
    command: str = ""

    def __post_init__(self) -> None:
        if not (0 < self.level < 1 and self.noise_rows >= 1 and self.seed >= 0):
            raise InputError(
                f"level {self.level}, rows {self.noise_rows}, seed {self.seed}",
                fix="the level lies between 0 and 1, rows are at least 1, the seed at least 0",
            )


@dataclass(frozen=True, slots=True)
class Signature(Line):
    """What a card measured itself, and how; printed as `card|key:value|…` in a fixed order.

    Attributes:
        rm: Name and the first 16 digits of the fingerprint, joined by `#`.
        dtype, max_length, overlong, output: Of the reward model.
        data: Each set's name and the first 12 digits of its digest, joined by `#`.
        prompts: Distinct prompts.
        n: Completions, or ordered pairs, with a reward.
        unscored: Those without.
        truncated: Those that lost tokens.
        noise_rows: Scored again for noise, at most; 0 of a judge.
        pairs: Name of the file of labelled pairs; empty without.
        suites: Suites for accuracy.
        ci: The interval's methods and level.
        seed: Of the shuffled batches and of the calibration.
        version: Of evalkit.
    """

    KIND: ClassVar[str] = "card"

    rm: str
    dtype: str
    max_length: int
    overlong: str
    output: str
    data: tuple[str, ...]
    prompts: int
    n: int
    unscored: int
    truncated: int
    noise_rows: int
    pairs: str
    suites: tuple[str, ...]
    ci: str
    seed: int
    version: str


@dataclass(frozen=True, slots=True)
class Source:
    """One of the sets that were scored.

    Attributes:
        name: As reports call it.
        digest: Of its prompts and completions.
        prompts: How many.
        completions: How many.
        notice: What a reader must know about it.
    """

    name: str
    digest: str
    prompts: int
    completions: int
    notice: str


@dataclass(frozen=True, slots=True)
class Rows:
    """What was scored.

    Attributes:
        prompts: Distinct ones.
        completions: Distinct ones of a prompt, over all sources.
        repeats: Further completions equal to one of these, counted once.
        items: Conversations scored, or for a pair-preference model ordered pairs.
        unscored: Why some have no reward -> how many.
        truncated: Items that lost tokens.
        longest: Tokens of the longest item with a reward, template included.
    """

    prompts: int
    completions: int
    repeats: int
    items: int
    unscored: Mapping[str, int]
    truncated: int
    longest: int


@dataclass(frozen=True, slots=True)
class SamePrompt:
    """What every two completions of a prompt say; estimates are clustered by prompt.

    The margin is the difference of two rewards; for a pair-preference model half the difference of
    the log-odds in either order, which has the sign of its mean probability less one half.

    Attributes:
        pairs: Pairs with a margin.
        prompts: Prompts they are of.
        size: Of |margin|; None without pairs.
        tied: Share of margins of exactly 0.
        within_noise: Share of margins no larger than the noise band, those of 0 among them; None
            where that was not measured.
        longer: How often the longer of two completions of unequal length has the higher reward, a
            tie counting one half; longer in tokens, or for a pair-preference model in characters.
    """

    pairs: int
    prompts: int
    size: Quantiles | None
    tied: Estimate
    within_noise: Estimate | None
    longer: Estimate


@dataclass(frozen=True, slots=True)
class Alone:
    """What a reward model that gives single completions rewards says of them.

    Attributes:
        spread: Within prompts and between them.
        correlation: Mean over prompts of Spearman's correlation of reward and tokens.
        slope: Change of the reward per +100 tokens within prompts.
    """

    spread: Spread
    correlation: Estimate
    slope: Estimate


@dataclass(frozen=True, slots=True)
class Position:
    """What the order of two answers does to a pair-preference model; clustered by prompt.

    Attributes:
        first: Mean probability that the first answer is the better one; ½ if order does nothing.
        gap: Mean distance of the two orders' probabilities for one of the answers.
        flips: Share of pairs for which either order favours another answer.
    """

    first: Estimate
    gap: Estimate
    flips: Estimate


@dataclass(frozen=True)
class Card:
    """A reward model's metric card.

    Attributes:
        reward_model: Whose.
        stated: What is stated of it and not measured.
        sources: What was scored.
        rows: How much of it.
        rewards: Ends and quantiles: of rewards, or of the log-odds of ordered pairs.
        same_prompt: What pairs of completions say.
        alone: What single ones say; None for a pair-preference model.
        position: What the order of a pair does; None for any other.
        system_turn: What becomes of a system turn, tried on one conversation.
        noise: How far rewards of one conversation lie apart; None of a judge, of which every repeat
            is a paid request.
        throughput: None if it was not asked for, and of a judge.
        calibration: Of labelled pairs; None without, or for a pair-preference model.
        accuracies: A suite and its table, for each asked for.
        notices: What a reader must know.
        options: The choices.
        signature: Every choice that can move the numbers of its own; calibration and accuracies
            have theirs.
    """

    reward_model: RewardModelSpec
    stated: Stated
    sources: tuple[Source, ...]
    rows: Rows
    rewards: Quantiles | None
    same_prompt: SamePrompt
    alone: Alone | None
    position: Position | None
    system_turn: SystemTurn
    noise: Noise | None
    throughput: Throughput | None
    calibration: Calibration | None
    accuracies: tuple[tuple[Suite, AccuracyTable], ...]
    notices: tuple[str, ...]
    options: Options
    signature: Signature
