"""The policy of a gate: `[gate]` of `evalkit.toml`, or of a TOML file of its own.

[gate]
level = 0.95              # of every interval
inconclusive = "fail"     # or "pass": what too few prompts mean for the exit code

[[gate.rules]]
metric = "win_rate"       # against every reference of the result, surely at least
bound = 0.5

[[gate.rules]]
metric = "win_rate"       # surely no loss of 3 points to a checkpoint on the same prompts
against = "previous"      # the checkpoint before it, or a name
margin = 0.03             # also of win_probability, mean_reward or margin, also of a subset
reward_model = "ours"     # of a run under several: this one alone
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evalkit.errors import InputError
from evalkit.files import check_keys, check_types, read_toml
from evalkit.text import did_you_mean, listing
from evalkit.workspace import KEYS

# Metric -> where a comparison of a saved result has its estimate.
METRICS: Mapping[str, tuple[str, ...]] = {
    "win_rate": ("estimates", "win_rate"),
    "win_probability": ("estimates", "win_probability"),
    "mean_reward": ("estimates", "mean_reward"),
    "margin": ("estimates", "margin"),
    "mean_over_subsets": ("mean_over_subsets",),
    "length_controlled_win_rate": ("lengths", "controlled", "estimate"),
}
IN_SUBSETS = ("win_rate", "win_probability", "mean_reward", "margin")
RATES = ("win_rate", "win_probability", "mean_over_subsets", "length_controlled_win_rate")
REFERENCE, PREVIOUS = "reference", "previous"
ALARM = "alarm"  # of a run of `evalkit track`, in place of a metric
RULE_KEYS: Mapping[str, type] = {
    "metric": str,
    "subset": str,
    "checkpoint": str,
    "reference": str,
    "reward_model": str,
    "against": str,
    "bound": float,
    "margin": float,
    "strict": bool,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One demand on a result: a value at least `bound`, or no loss of `margin` to a checkpoint.

    Of a run also that it raises no alarm.

    Attributes:
        metric: Of a comparison; rates are fractions. `alarm` for a run, which stands alone.
        bound: What the metric must surely reach, in its units; None for a margin.
        margin: The loss to the checkpoint `against` that would matter, declared before the run; in
            the metric's units, a rate's in (0, 1); None for a bound.
        against: `reference` for a bound; for a margin a checkpoint, or `previous` for the one
            before it, in order of training steps if all are known, else as they were named.
        subset: Of the prompts; empty for all of them.
        checkpoint: Under test; empty for every one that is no rule's baseline.
        reference: Held against; empty for every reference of the result.
        reward_model: The name of the one it is under; empty for every one of a run.
        strict: Whether any sure loss fails, even one smaller than the margin.

    Raises:
        InputError: The parts do not fit together.
    """

    metric: str
    bound: float | None = None
    margin: float | None = None
    against: str = REFERENCE
    subset: str = ""
    checkpoint: str = ""
    reference: str = ""
    strict: bool = False
    reward_model: str = ""

    def __post_init__(self) -> None:
        if self.metric == ALARM:
            self._check_alarm()
            return
        if self.metric not in METRICS:
            names = [*METRICS, ALARM]
            known, hint = listing(names), did_you_mean(self.metric, names)
            raise InputError(
                f"unknown metric {self.metric!r}", fix=f"known: {known}. {hint}".strip()
            )
        if self.subset and self.metric not in IN_SUBSETS:
            raise InputError(
                f"{self.metric} is of all prompts, not of subset {self.subset!r}",
                fix=f"leave out subset, or name one of {listing(IN_SUBSETS)}",
            )
        if (self.bound is None) == (self.margin is None):
            raise InputError(
                "a rule has either bound or margin",
                fix="bound = 0.5 for what the metric must reach, or margin = 0.03 with against = "
                '"CHECKPOINT" for the loss that must not be',
            )
        if self.margin is None:
            self._check_bound()
        else:
            self._check_margin(self.margin)

    def _check_alarm(self) -> None:
        beside = (self.subset, self.checkpoint, self.reference, self.reward_model, self.strict)
        bounds = (self.bound, self.margin)  # of which 0 is one too
        if any(beside) or bounds != (None, None) or self.against != REFERENCE:
            raise InputError("an alarm has nothing beside it", fix=f'metric = "{ALARM}" alone')

    def _check_bound(self) -> None:
        if self.against != REFERENCE or self.strict:
            raise InputError(
                "a bound is on a comparison with a reference; it has no against and no strict",
                fix=f"margin = 0.03 holds a checkpoint against {self.against!r}",
            )
        bound = math.nan if self.bound is None else self.bound
        if self.metric in RATES and not 0 < bound < 1:
            raise InputError(f"bound {bound:g} of {self.metric}", fix="a fraction, such as 0.5")
        if not math.isfinite(bound):
            raise InputError(f"bound {bound}", fix="a number in reward units")

    def _check_margin(self, margin: float) -> None:
        if self.metric not in IN_SUBSETS:
            raise InputError(
                f"checkpoints are not held against each other by {self.metric}",
                fix=f"name one of {listing(IN_SUBSETS)}, or a bound in place of the margin",
            )
        if not 0 < margin < (1 if self.metric in RATES else math.inf):
            units = "a fraction" if self.metric in RATES else "a number in reward units"
            raise InputError(f"margin {margin:g}", fix=f"{units} above 0, such as 0.03")
        if self.against == REFERENCE:
            raise InputError(
                "a margin is against a checkpoint",
                fix=f'add against = "{PREVIOUS}" or a name; against a reference say bound = 0.47',
            )


@dataclass(frozen=True, slots=True)
class Policy:
    """What a result must show.

    Attributes:
        rules: At least one; all of them must pass.
        level: Of the intervals, in [0.5, 1): each end of them is wrong with half of 1 − level.
        inconclusive: What too few prompts to tell mean for the exit code.

    Raises:
        InputError: No rule, or a value out of range.
    """

    rules: tuple[Rule, ...]
    level: float = 0.95
    inconclusive: Literal["pass", "fail"] = "fail"

    def __post_init__(self) -> None:
        if not self.rules:
            raise InputError(
                "a gate without rules passes nothing",
                fix='add [[gate.rules]] with metric = "win_rate" and bound = 0.5',
            )
        if not 0.5 <= self.level < 1:
            raise InputError(f"level {self.level:g}", fix="a coverage, such as 0.95")
        if self.inconclusive not in {"pass", "fail"}:
            raise InputError(f"inconclusive = {self.inconclusive!r}", fix='it is "pass" or "fail"')


def read_policy(path: Path) -> Policy:
    """The policy in a TOML file, `evalkit.toml` or another with a table `[gate]`.

    Raises:
        InputError: The file is malformed, has no `[gate]`, an unknown key, or a rule that does not
            fit together; it names the file and the rule.
    """
    found = read_toml(path)
    check_keys(path, "the file", found, dict.fromkeys(KEYS, dict))
    if "gate" not in found:
        raise InputError(
            "no [gate] in the file",
            where=str(path),
            fix='add [[gate.rules]] with metric = "win_rate" and bound = 0.5',
        )
    return policy_of(found["gate"], path)


def policy_of(table: Mapping[str, Any], path: Path) -> Policy:
    """The policy that a table `[gate]` states; `path` is for errors.

    Raises:
        InputError: As `read_policy`.
    """
    check_keys(path, "[gate]", table, KEYS["gate"])
    rules = tuple(_rule(entry, n, path) for n, entry in enumerate(table.get("rules", []), 1))
    stated = {key: table[key] for key in ("level", "inconclusive") if key in table}
    try:
        return Policy(rules, **stated)
    except InputError as error:
        raise InputError(error.what, where=f"{path}, [gate]", fix=error.fix) from None


def _rule(entry: object, number: int, path: Path) -> Rule:
    place = f"[[gate.rules]] number {number}"
    check_types(path, "[[gate.rules]]", {str(number): entry}, {str(number): dict})
    stated = dict(entry) if isinstance(entry, dict) else {}
    check_keys(path, place, stated, RULE_KEYS)
    if "metric" not in stated:
        raise InputError(
            f"{place} has no metric", where=str(path), fix=f"one of {listing([*METRICS, ALARM])}"
        )
    try:
        return Rule(**stated)
    except InputError as error:
        raise InputError(error.what, where=f"{path}, {place}", fix=error.fix) from None
