"""What `best-of-n` takes and returns: choices, points of the curve, the signature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from evalkit.data import CompletionSet
from evalkit.errors import InputError
from evalkit.pairing import Missing
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.signature import Line
from evalkit.statistics.intervals import Estimate

METRICS = ("reward", "gain", "scored_reward", "scored_gain", "win_rate")


@dataclass(frozen=True, slots=True)
class Options:
    """Every choice of `best-of-n` that can move a number.

    Attributes:
        benchmark: Whose prompts must all be answered; if None, the one the reference answers, or
            the checkpoint where there is no reference.
        ks: How many completions to choose from, each ≥ 1; if empty, the powers of two up to the
            fewest completions of a prompt.
        missing: What to do about prompts that have fewer than k completions, one without a reward,
            or none: refuse, or leave out and count.
        level: Nominal coverage of the intervals, in (0, 1).
    """

    benchmark: str | None = None
    ks: tuple[int, ...] = ()
    missing: Missing = "error"
    level: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise InputError(f"level {self.level}", fix="the level lies between 0 and 1")
        if any(k < 1 for k in self.ks):
            raise InputError(f"the best of {min(self.ks)}", fix="every k is at least 1")


@dataclass(frozen=True, slots=True)
class Signature(Line):
    """What was chosen and scored, and how; printed as `best-of-n|key:value|…` in a fixed order.

    Attributes:
        checkpoint: Name and the first 12 digits of its completions' digest, joined by `#`.
        reference: Likewise; empty without one.
        select: Reward model that chooses: name and the first 16 digits of its fingerprint.
        select_dtype, select_max_length, select_overlong, select_output: Of that reward model.
        score: Reward model that scores what is chosen; the same as `select` if none is named.
        score_dtype, score_max_length, score_overlong, score_output: Of that one.
        benchmark: Whose prompts had to be answered; empty if none.
        k: How many completions were chosen from, joined by commas.
        n: Prompts behind each of them, joined by commas.
        left_out: Prompts left out for every k.
        truncated: Completions that lost tokens, counted once for each reward model.
        missing: What was to be done about prompts left out, or out for some k.
        ties: Of the choice and of the outcome.
        ci: The interval's methods and level.
        version: Of evalkit.
    """

    KIND: ClassVar[str] = "best-of-n"

    checkpoint: str
    reference: str
    select: str
    select_dtype: str
    select_max_length: str
    select_overlong: str
    select_output: str
    score: str
    score_dtype: str
    score_max_length: str
    score_overlong: str
    score_output: str
    benchmark: str
    k: str
    n: str
    left_out: int
    truncated: int
    missing: str
    ties: str
    ci: str
    version: str


class Models(NamedTuple):
    """The reward model that chooses, and the one that scores what it chose: often the same."""

    selector: RewardModelSpec
    scorer: RewardModelSpec

    @property
    def are_one(self) -> bool:
        """Whether one reward model does both."""
        return self.selector.fingerprint == self.scorer.fingerprint


@dataclass(frozen=True, slots=True)
class Point:
    """The best of k completions.

    Attributes:
        k: Completions chosen from, without replacement.
        kl: How far the choice moves the checkpoint, in nats: ln k − (k−1)/k.
        short: Prompts with fewer than k completions, on which it is undefined: not among the `n`.
        n: Prompts averaged over.
        estimates: Means over prompts: `reward`, the selector's reward of its pick, and
            `scored_reward`, that of a scorer which is another; `gain` and `scored_gain`, by how
            much they exceed that of a plain completion of the same prompt, for k > 1; `win_rate` of
            the pick against the reference. Only what was asked for.
    """

    k: int
    kl: float
    short: tuple[str, ...]
    n: int
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True)
class BestOfN:
    """What choosing among a checkpoint's completions is worth.

    Attributes:
        checkpoint: Whose completions are chosen from.
        reference: What the pick is held against; None without one.
        models: What chooses and what scores.
        points: By ascending k.
        prompts: Prompts with everything needed but for the number of completions.
        left_out: Prompt id -> why it is left out for every k.
        truncated: Completions that lost tokens, counted once for each reward model.
        options: Every choice behind the numbers, with the benchmark and the ks found.
        notices: What a reader must know.
        signature: The same choices on one line.
    """

    checkpoint: CompletionSet
    reference: CompletionSet | None
    models: Models
    points: tuple[Point, ...]
    prompts: int
    left_out: Mapping[str, str]
    truncated: int
    options: Options
    notices: tuple[str, ...]
    signature: Signature

    def records(self) -> Iterator[dict[str, object]]:
        """Every estimate on a row."""
        for point in self.points:
            for metric, e in point.estimates.items():
                yield {
                    "checkpoint": self.checkpoint.name,
                    "reference": "" if self.reference is None else self.reference.name,
                    "selector": self.models.selector.name,
                    "scorer": self.models.scorer.name,
                    "k": point.k,
                    "kl": point.kl,
                    "metric": metric,
                    "value": e.value,
                    "low": e.low,
                    "high": e.high,
                    "stderr": e.stderr,
                    "level": e.level,
                    "n": e.n,
                    "method": e.method,
                    "short": len(point.short),
                    "left_out": len(self.left_out),
                    "truncated": self.truncated,
                    "notices": "; ".join(self.notices),
                    "signature": str(self.signature),
                }
