"""What a leaderboard is: its choices, its players, and its signature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from evalkit.data import FloatArray
from evalkit.errors import InputError
from evalkit.pairing import Missing, TieRule
from evalkit.signature import Line
from evalkit.statistics.bradley_terry import ELO_PER_UNIT

Role = Literal["checkpoint", "reference"]


@dataclass(frozen=True, slots=True)
class Options:
    """Every choice of `leaderboard` that can move a number.

    Attributes:
        benchmark: Whose prompts every player must answer; if None, the one the references answer,
            or the checkpoints where there is no reference.
        ties: The tie rule, pair of completions by pair of completions.
        missing: What to do about prompts that some player has no completion or reward for.
        level: Nominal coverage of the intervals and rank ranges, in (0, 1).
        anchor: The player whose strength is 0; if None, the strengths sum to 0.
        soft: Take verdicts as the probabilities they are, not as win, tie or loss.
    """

    benchmark: str | None = None
    ties: TieRule = field(default_factory=TieRule)
    missing: Missing = "error"
    level: float = 0.95
    anchor: str | None = None
    soft: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise InputError(f"level {self.level}", fix="the level lies between 0 and 1")
        if self.soft and self.ties != TieRule():
            raise InputError("soft outcomes have no ties", fix="leave --ties out, or --soft")


@dataclass(frozen=True, slots=True)
class Signature(Line):
    """What a leaderboard was made of and how; printed as `leaderboard|key:value|…` on one line.

    Attributes:
        players: `c=` or `r=`, name, `#` and 12 digits of the digest of its completions, by name;
            of verdicts no digest, as that of `decided_by` covers them.
        anchor: The player at 0; empty if the strengths sum to 0.
        decided_by: Name and the first 16 digits of the fingerprint of what decided, joined by `#`.
        dtype, max_length, overlong, output: Of the reward model; of verdicts output is their
            coding, and the others are empty or 0.
        outcome: `hard` for win, tie and loss, `soft` for probabilities.
        benchmark: Whose prompts had to be answered; empty if none was named.
        n: Prompts with a game.
        games: Games: one for every prompt and two players.
        left_out: Prompts that not every two players met on.
        truncated: Completions, or ordered pairs, that lost tokens.
        missing, ties: As asked for.
        ci: The interval's method and level.
        version: Of evalkit.
    """

    KIND: ClassVar[str] = "leaderboard"

    players: tuple[str, ...]
    anchor: str
    decided_by: str
    dtype: str
    max_length: int
    overlong: str
    output: str
    outcome: str
    benchmark: str
    n: int
    games: int
    left_out: int
    truncated: int
    missing: str
    ties: str
    ci: str
    version: str


class Decider(NamedTuple):
    """What decided the games: a reward model, or verdicts somebody already has.

    Attributes:
        kind: Which of the two.
        name: Of the reward model, the annotator or the file.
        fingerprint: Of the reward model, or the digest of the verdicts.
        dtype, max_length, overlong: Of the reward model; empty or 0 of verdicts.
        output: What the reward model's number is, or the verdicts' coding.
    """

    kind: Literal["reward model", "verdicts"]
    name: str
    fingerprint: str
    dtype: str
    max_length: int
    overlong: str
    output: str


@dataclass(frozen=True, slots=True)
class Player:
    """One checkpoint or reference on the scale; undefined numbers are None.

    Attributes:
        name: Of the completion set.
        role: What it was named as.
        strength: In natural-log units.
        low, high: Ends of its interval, clustered by prompt.
        stderr: Its standard error, clustered by prompt; 0 at the anchor.
        best_rank: 1 + the number of players that are surely stronger.
        worst_rank: All players less those that are surely weaker.
        separable_from_first: Whether it is surely weaker than the first.
        wins: Games with an outcome above one half, a game being a prompt and another player.
        ties: Games with the outcome one half, or whose pairs are all ties.
        losses: Games with an outcome below one half.
        win_probability: Mean fitted probability to beat each of the others, in [0, 1].
    """

    name: str
    role: Role
    strength: float
    low: float | None
    high: float | None
    stderr: float | None
    best_rank: int
    worst_rank: int
    separable_from_first: bool
    wins: int
    ties: int
    losses: int
    win_probability: float

    @property
    def elo(self) -> float:
        """The strength in Elo points: × 400 / ln 10."""
        return ELO_PER_UNIT * self.strength

    @property
    def elo_interval(self) -> tuple[float, float] | None:
        """The interval in Elo points."""
        if self.low is None or self.high is None:
            return None
        return ELO_PER_UNIT * self.low, ELO_PER_UNIT * self.high


@dataclass(frozen=True)
class Leaderboard:
    """Players by strength, M of them.

    Attributes:
        players: In the order of their strengths, which is a ranking only as far as the rank ranges
            say so.
        groups: Names: the first and all not surely below it, then the same among the rest.
        decided_by: What decided the games.
        observed: (M, M) mean outcome of the row's player against the column's, in [0, 1]; NaN where
            they did not meet.
        fitted: (M, M) the probability the strengths give instead; ½ on the diagonal.
        gap: The largest |observed - fitted|, and between whom.
        intransitive: Share of the triples that all met in which each beat the next; None without
            such a triple.
        state: "separated" if some strengths are finite by convention alone.
        explanation: What that means here; empty if "ok".
        n: Prompts with a game.
        games: One for every prompt and two players.
        left_out: Who, or which two -> the prompts they have no completion or verdict for.
        unscored: Prompt id -> why some completion has no reward.
        level: Nominal coverage.
        options: The choices it was made with.
        notices: What a reader must know.
        signature: Every choice that can move the numbers.
    """

    players: tuple[Player, ...]
    groups: tuple[tuple[str, ...], ...]
    decided_by: Decider
    observed: FloatArray
    fitted: FloatArray
    gap: tuple[float, tuple[str, str]]
    intransitive: float | None
    state: Literal["ok", "separated"]
    explanation: str
    n: int
    games: int
    left_out: Mapping[str, tuple[str, ...]]
    unscored: Mapping[str, str]
    options: Options
    notices: tuple[str, ...]
    signature: Signature
