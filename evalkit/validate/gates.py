"""Simulated CI runs whose truth is known, and what gates make of them.

A run has a baseline and one or ten checkpoints on the same prompts, with the spread and the
correlation of `tracking.RunDesign`. evalkit's rules are those of `evalkit.gate`, judged as `evalkit
gate` judges a saved result. Beside them stand a fall of any size, one of more than so many points,
and paired t tests of each checkpoint by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from evalkit.data import FloatArray
from evalkit.gate import Policy, Rule, judge
from evalkit.gate.saved import SCHEMA_VERSION
from evalkit.statistics.gates import State, shared_level
from evalkit.statistics.paired import PairedDifference, paired_difference
from evalkit.statistics.power import minimum_detectable_effect
from evalkit.validate.tracking import VARIANCE, RunDesign, simulated

MARGIN, POINTS, LEVEL, POWER = 0.03, 0.02, 0.95, 0.8
CORRELATION = 0.6
SD = math.sqrt(2 * VARIANCE * (1 - CORRELATION))  # of the difference of two checkpoints
MANY = 10
BASELINE, REFERENCE = "baseline", "reference"

MARGIN_RULE, STRICT_RULE = "margin of 3 points", "margin of 3 points, strict"
ANY_DROP, MORE_THAN, ALONE = "any drop", "more than 2 points below", "paired t each, .05"
POLICIES = {
    name: Policy((Rule("win_rate", margin=MARGIN, against=BASELINE, strict=strict),), level=LEVEL)
    for name, strict in ((MARGIN_RULE, False), (STRICT_RULE, True))
}


@dataclass(frozen=True, slots=True)
class GateDesign:
    """A simulated CI run.

    Attributes:
        name: What it shows.
        gains: True difference of each checkpoint to the baseline, in win rate.
        prompts: P.
        right: What the gate should say; the opposite is wrong, "inconclusive" neither.
        power: Rule -> how often it should say so at least, where it states that.
    """

    name: str
    gains: tuple[float, ...]
    prompts: int
    right: State
    power: Mapping[str, float]

    @property
    def wrong(self) -> State:
        """What the gate must not say."""
        return "pass" if self.right == "fail" else "fail"

    @property
    def run(self) -> RunDesign:
        """The baseline and the checkpoints; the least of them as far from a half as the baseline.

        So both have the spread that outcomes have at a mean of a half.
        """
        start = 0.5 - min(self.gains) / 2
        means = (start, *(start + gain for gain in self.gains))
        return RunDesign(self.name, (means,), None, self.prompts, CORRELATION)


def detectable(prompts: int, checkpoints: int = 1) -> float:
    """The least loss below its limit that one rule of as many should find with `POWER`."""
    level = shared_level(LEVEL, checkpoints)
    stderr = SD / math.sqrt(prompts)
    return minimum_detectable_effect(stderr, level=level, power=POWER, df=prompts - 1)


def one_checkpoint(prompts: int) -> list[GateDesign]:
    """One checkpoint against the baseline: no worse, worse by so much, better."""
    least = detectable(prompts)
    beyond = {MARGIN_RULE: POWER, STRICT_RULE: POWER}
    strict = {STRICT_RULE: POWER}
    return [
        GateDesign("identical", (0.0,), prompts, "pass", {}),
        GateDesign("gain of 3 points", (0.03,), prompts, "pass", {}),
        GateDesign("loss of the margin", (-MARGIN,), prompts, "fail", {}),
        GateDesign("detectable loss", (-least,), prompts, "fail", strict),
        GateDesign("loss of the margin + detectable", (-MARGIN - least,), prompts, "fail", beyond),
    ]


def many_checkpoints(prompts: int) -> list[GateDesign]:
    """Ten at once under one policy, which errs as often as one.

    Where one of them loses, nine gain: only it can fail.
    """
    identical, others = (0.0,) * MANY, (0.1,) * (MANY - 1)
    lost = -MARGIN - detectable(prompts, MANY)
    powers = {MARGIN_RULE: POWER, STRICT_RULE: POWER}
    return [
        GateDesign("10 identical", identical, prompts, "pass", {}),
        GateDesign("1 of 10 loses the margin", (-MARGIN, *others), prompts, "fail", {}),
        GateDesign("1 of 10 loses margin + detectable", (lost, *others), prompts, "fail", powers),
    ]


class Counted(NamedTuple):
    """Shares of the runs that a rule got wrong and right."""

    wrong: float
    right: float


def count_states(design: GateDesign, *, trials: int, seed: int) -> dict[str, Counted]:
    """Judge simulated CI runs by every rule; the same arguments give the same numbers.

    Args:
        design: What is simulated.
        trials: Runs, ≥ 1.
        seed: ≥ 0; trial i draws from (seed, i).

    Returns:
        Rule -> shares, evalkit's rules first.
    """
    drawn = design.run
    runs = [states(simulated(drawn, trial, seed)[0][0]) for trial in range(trials)]
    return {
        rule: Counted(*(sum(run[rule] == state for run in runs) / trials for state in sides))
        for sides in [(design.wrong, design.right)]
        for rule in runs[0]
    }


def states(columns: FloatArray) -> dict[str, State]:
    """What every rule says of one run; column 0 is the baseline."""
    base, *checkpoints = columns.T
    differences = [paired_difference(column, base) for column in checkpoints]
    saved = saved_result(differences, [int(np.sum(c != base)) for c in checkpoints])
    values = [d.estimate.value or 0.0 for d in differences]
    fallen = [d.p is not None and d.p < 1 - LEVEL for d in differences]
    sure = any(f and v < 0 for f, v in zip(fallen, values, strict=True))
    return {
        **{name: judge(saved, policy).state for name, policy in POLICIES.items()},
        ANY_DROP: _fails(min(values) < 0),
        MORE_THAN: _fails(min(values) < -POINTS),
        ALONE: _fails(sure),
    }


def _fails(failed: bool) -> State:  # noqa: FBT001
    return "fail" if failed else "pass"


def saved_result(
    differences: Sequence[PairedDifference], deciding: Sequence[int]
) -> dict[str, Any]:
    """As much of the JSON of `evalkit compare` as a margin rule reads.

    Args:
        differences: Of each checkpoint to the baseline.
        deciding: Prompts on which the two differ.
    """
    names = [f"checkpoint {i}" for i in range(1, len(differences) + 1)]
    complete: dict[str, Any] = {"missing_in_checkpoint": [], "missing_in_reference": []}
    rest = {"step": None, "subsets": {}, "unmatched": {**complete, "unscored": {}}}
    return {
        "schema_version": SCHEMA_VERSION,
        "comparisons": [
            {"checkpoint": name, "reference": REFERENCE, **rest} for name in (BASELINE, *names)
        ],
        "differences": [
            {
                "checkpoint": name,
                "against": BASELINE,
                "reference": REFERENCE,
                "prompts": found.estimate.n,
                "deciding": several,
                "difference": {"estimate": asdict(found.estimate)},
            }
            for name, found, several in zip(names, differences, deciding, strict=True)
        ],
    }
