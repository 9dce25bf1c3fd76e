"""What `calibrate` takes and returns: choices, the temperature, how honest it is, the signature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from evalkit.breakdown import Group
from evalkit.errors import InputError
from evalkit.pairing import Missing
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.signature import Line
from evalkit.statistics.calibration import Floor, ReliabilityCurve, Temperature


@dataclass(frozen=True, slots=True)
class Options:
    """Every choice of `calibrate` that can move a number.

    Attributes:
        folds: Of the cross-validation, ≥ 2.
        repeats: Times the clusters are shuffled into folds.
        seed: Of the shuffles and of the floors.
        bins: Equal bins of the confidence in [½, 1].
        level: Nominal coverage of the intervals, in (0, 1).
        missing: What to do about pairs without a reward.
    """

    folds: int = 2
    repeats: int = 50
    seed: int = 0
    bins: int = 10
    level: float = 0.95
    missing: Missing = "error"

    def __post_init__(self) -> None:
        counts = (self.folds >= 2, self.repeats >= 1, self.seed >= 0, self.bins >= 1)
        if not all(counts) or not 0 < self.level < 1:
            raise InputError(
                f"{self}",
                fix="at least 2 folds, 1 repeat and 1 bin, a seed of at least 0, and a level "
                "between 0 and 1",
            )


@dataclass(frozen=True, slots=True)
class Reliability:
    """How honest σ(margin / temperature) is.

    Attributes:
        temperature: In reward-model units; 1 is the raw probability.
        curve: Confidence against outcome.
        error: Expected calibration error, in [0, 1].
        floor: The error that sampling alone would show.
    """

    temperature: float
    curve: ReliabilityCurve
    error: float
    floor: Floor


@dataclass(frozen=True, slots=True)
class Signature(Line):
    """What was fitted to what, and how; printed as `calibrate|key:value|…` in a fixed order.

    Attributes:
        pairs: Name of the file of pairs or rewards and the first 12 digits of its digest, joined
            by `#`.
        rm: Likewise, with 16 digits of the fingerprint; empty for rewards that were there already.
        dtype, max_length, overlong, output: Of the reward model; empty or None without one.
        n: Pairs.
        left_out: Pairs without a reward.
        truncated: Answers that lost tokens.
        missing: What was to be done about pairs left out.
        folds, repeats: Of the cross-validation.
        bins: Of the confidence.
        draws: Simulated sets of outcomes behind a floor.
        ci: The interval's methods and level.
        seed: Of the shuffles and of the floors.
        version: Of evalkit.
    """

    KIND: ClassVar[str] = "calibrate"

    pairs: str
    rm: str
    dtype: str
    max_length: int | None
    overlong: str
    output: str
    n: int
    left_out: int
    truncated: int
    missing: str
    folds: int
    repeats: int
    bins: int
    draws: int
    ci: str
    seed: int
    version: str


@dataclass(frozen=True)
class Calibration:
    """What labelled pairs say of a reward model's win probability.

    Attributes:
        source: Where the pairs were read from.
        reward_model: What scored them; None for rewards that somebody already had.
        temperature: Fitted to all pairs, or the state that says why there is none.
        overall: Counts and estimates over all pairs: `accuracy` (a tie is wrong),
            `accuracy_half_credit` (a tie is ½), `bradley_terry_loss` (T = 1), `held_out_loss` (each
            pair at a T of other clusters), `held_out_gain` (the first less the second),
            `scaled_bradley_terry_loss` (of the pairs with a magnitude, T = 1), `brier_raw` and
            `brier_calibrated` (at the fitted T).
        subsets: Subset -> the same at the overall temperature, in alphabetical order.
        raw: How honest σ(margin) is.
        calibrated: Likewise at the fitted temperature, on the pairs it was fitted to; None
            without one.
        undefined_fits: Fits of the cross-validation that have no temperature; if there are any,
            there is no held-out loss.
        unscored: `where: id: why` of each pair left out.
        truncated: Answers scored with tokens cut off.
        notices: What a reader must know.
        signature: Every choice that can move the numbers.
    """

    source: str
    reward_model: RewardModelSpec | None
    temperature: Temperature
    overall: Group
    subsets: Mapping[str, Group]
    raw: Reliability
    calibrated: Reliability | None
    undefined_fits: int
    unscored: tuple[str, ...]
    truncated: int
    notices: tuple[str, ...]
    signature: Signature
