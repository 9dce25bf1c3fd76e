"""Do evalkit's decision rules err and find as often as they say? Simulated, beside other rules.

* gate: a CI run of one or ten checkpoints (`gates`). Wrong is to fail what is no worse, or to pass
  a loss of the margin or more; each end of a gate's interval answers for 2.5 %.
* run: 30 checkpoints watched as they come (`tracking`). Wrong is an alarm before the run declines,
  or of one that never does, at any look; `LEVEL` says how often all looks are right.
* over-optimisation: the same under two reward models, of which the first is trained against.
* choice: which of 30 checkpoints is the best. Wrong is a set that does not hold the truly best one,
  or an interval of the chosen one's mean that does not hold the true mean.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from evalkit.data import FloatArray
from evalkit.statistics.over_optimisation import over_optimisation
from evalkit.statistics.resampling import Keys
from evalkit.statistics.sequential import Plan
from evalkit.statistics.tracking import watch
from evalkit.validate import gates, tracking
from evalkit.validate.metrics import Whose
from evalkit.validate.tracking import Alarms, Characteristics, Columns, Monitor, RunDesign

Kind = Literal["gate", "run", "over-optimisation", "choice"]

SIZES = (200, 805)
LOOKS, LEVEL, RESAMPLES = 30, 0.95, 2000
PLAN = Plan(looks=LOOKS, level=LEVEL, resamples=RESAMPLES)
POINTS = 0.02
IN_TIME = 4  # checkpoints after the turn
STEEP = 0.02  # a decline a checkpoint that is to be found in time, from so many prompts on
STEEP_FROM, STEEP_POWER = 500, 0.95

CHANCE = 2.0  # Monte-Carlo standard errors allowed beyond what is said
NO_BIAS = 0.002  # of a corrected value, which is said to be nearly unbiased

OK, AT_LIMIT = "ok", "at the limit, within Monte-Carlo error"
WRONG, MISSES, BIASED = "wrong too often", "finds too little", "biased"


@dataclass(frozen=True, slots=True)
class Decision:
    """What one rule made of one design.

    Attributes:
        kind: What is decided.
        design: What was simulated.
        n: Prompts.
        rule: What decided.
        whose: evalkit's rule, or one that others use, on the same data.
        trials: Simulated gates or runs.
        wrong: Share of them in which the rule was wrong.
        stderr: Monte-Carlo standard error of that (Agresti and Coull 1998, Am. Stat. 52:2).
        at_most: What evalkit says of the share that is wrong; others are held to the same.
        found: Share with the right verdict of a gate, or with the first alarm after the turn of a
            run; None where there is nothing to find.
        in_time: Share with the first alarm at most 4 checkpoints after the turn.
        at_least: What evalkit says of `in_time`, or of `found` of a gate; None if nothing.
        delay: Median checkpoints from the turn to the first alarm, of all trials without an alarm
            before; infinite where fewer than half have one.
        bias: Mean of the estimate minus the truth, of a choice, in win rate.
        bias_stderr: Monte-Carlo standard error of that.
        verdict: "ok" if all is as said, else what is not.
    """

    kind: Kind
    design: str
    n: int
    rule: str
    whose: Whose
    trials: int
    wrong: float
    stderr: float
    at_most: float
    found: float | None = None
    in_time: float | None = None
    at_least: float | None = None
    delay: float | None = None
    bias: float | None = None
    bias_stderr: float | None = None
    verdict: str = ""

    @property
    def passes(self) -> bool:
        """Whether the rule does as it says, Monte-Carlo error allowed for."""
        return self.verdict in {OK, AT_LIMIT}


class Study(NamedTuple):
    """A design, and how many data sets of it are simulated.

    Attributes:
        name: The design and its prompts; what is drawn depends on it.
        share: One in so many of the trials asked for; some take long.
        rows: (trials, seed) -> what every rule made of them, without a verdict.
    """

    name: str
    share: int
    rows: Callable[[int, int], Iterator[Decision]]


def studies() -> list[Study]:
    """Every study of the committed table, in its order."""
    one = [_gate(d, 1) for n in SIZES for d in gates.one_checkpoint(n)]
    many = [_gate(d, 4) for n in SIZES for d in gates.many_checkpoints(n)]
    flat, steep = replace(tracking.flat(LOOKS), name="flat"), tracking.peaked(STEEP)
    runs = [
        _watched("run", replace(design, prompts=n), watch_run, share)
        for design, share, sizes in (
            (flat, 4, SIZES),
            (tracking.plateau(), 16, SIZES),
            (tracking.rising(), 16, SIZES),
            (steep, 8, (200, STEEP_FROM, 805)),
            (tracking.peaked(0.01), 16, SIZES),
        )
        for n in sizes
    ]
    two = [
        _watched("over-optimisation", replace(design, prompts=n), watch_two, 16)
        for design in (
            tracking.both_rise(),
            tracking.both_rise(plateau=True),
            tracking.both_rise(plateau=True, proxy_too=True),
            tracking.gold_and_proxy(),
        )
        for n in SIZES
    ]
    choices = [
        _choice(replace(design, prompts=n))
        for design in (flat, steep, tracking.peaked(0.003))
        for n in SIZES
    ]
    return [*one, *many, *runs, *two, *choices]


def quick_studies() -> list[Study]:
    """One of each kind at 200 prompts, for a first look."""
    kinds = ("identical", "10 identical", "flat, 200", "B rises to a plateau", "choice, flat")
    small = [study for study in studies() if study.name.endswith(" 200 prompts")]
    return [next(s for s in small if s.name.startswith(kind)) for kind in kinds]


def decide(*, trials: int, seed: int, of: Sequence[Study] | None = None) -> list[Decision]:
    """Simulate and judge; the same arguments give the same numbers.

    Args:
        trials: Data sets of the cheapest studies, ≥ 2; the others take their share of them, ≥ 2.
        seed: ≥ 0; the numbers of a study depend on it, the trials and the study alone.
        of: What is simulated; None for all `studies()`.

    Returns:
        For every study evalkit's rules first, then the others.
    """
    return [
        replace(row, verdict=verdict_of(row))
        for study in (studies() if of is None else of)
        for row in study.rows(
            max(2, trials // study.share), zlib.crc32(f"{seed} {study.name}".encode())
        )
    ]


def verdict_of(row: Decision) -> str:
    """Hold what was counted against what is said, beyond Monte-Carlo error."""
    told = row.found if row.in_time is None else row.in_time
    missing = 0.0 if row.at_least is None or told is None else row.at_least - told
    off = 0.0 if row.bias is None else abs(row.bias) - NO_BIAS
    excess = {
        WRONG: (row.wrong - row.at_most, row.stderr),
        MISSES: (missing, share_stderr(told or 0.0, row.trials)),
        BIASED: (off, row.bias_stderr or 0.0),
    }
    for name, (beyond, stderr) in excess.items():
        if not beyond <= CHANCE * stderr:  # NaN is no excuse
            return name
    return OK if all(beyond <= 0 for beyond, _ in excess.values()) else AT_LIMIT


def share_stderr(share: float, trials: int) -> float:
    """Monte-Carlo standard error of a share, above 0 also where it is 0 or 1."""
    near = (share * trials + 2) / (trials + 4)
    return math.sqrt(near * (1 - near) / (trials + 4))


# Gates


def _gate(design: gates.GateDesign, share: int) -> Study:
    def rows(trials: int, seed: int) -> Iterator[Decision]:
        for rule, found in gates.count_states(design, trials=trials, seed=seed).items():
            yield Decision(
                kind="gate",
                design=design.name,
                n=design.prompts,
                rule=rule,
                whose="evalkit" if rule in gates.POLICIES else "peer",
                trials=trials,
                wrong=found.wrong,
                stderr=share_stderr(found.wrong, trials),
                at_most=(1 - gates.LEVEL) / 2,
                found=found.right,
                at_least=design.power.get(rule),
            )

    return Study(f"{design.name}, {design.prompts} prompts", share, rows)


# Runs

TRACK, TURNED, HARD = "alarms of track", "B turned", "B below its start"
OURS = (TRACK, TURNED, HARD)


def watch_run(columns: Columns, keys: Keys) -> Mapping[str, Alarms]:
    """Every rule that watches one reward model."""
    (table,) = columns
    return {TRACK: watch(table, keys, PLAN).alarms, **_peers(table)}


def watch_two(columns: Columns, keys: Keys) -> Mapping[str, Alarms]:
    """Every rule that watches a reward model trained against and one held out."""
    proxy, held_out = columns
    looks = over_optimisation(proxy, held_out, keys, PLAN)
    return {
        TURNED: np.array([look.turned for look in looks]),
        HARD: np.array([look.hard for look in looks]),
        **_peers(held_out),
    }


def _peers(table: FloatArray) -> Mapping[str, Alarms]:
    return {
        "any drop": tracking.any_drop(table),
        "below the best so far": tracking.below_best(table, 0.0),
        "more than 2 points below it": tracking.below_best(table, POINTS),
        "paired t to it, .05 each": tracking.paired_t(table, 0.05),
    }


def _watched(kind: Kind, design: RunDesign, monitor: Monitor, share: int) -> Study:
    def rows(trials: int, seed: int) -> Iterator[Decision]:
        found = tracking.characteristics(monitor, design, trials=trials, seed=seed)
        for rule, made in found.items():
            yield _run_row(kind, design, rule, made)

    return Study(f"{design.name}, {design.prompts} prompts", share, rows)


def _run_row(kind: Kind, design: RunDesign, rule: str, made: Characteristics) -> Decision:
    steep = replace(tracking.peaked(STEEP), prompts=design.prompts)
    powered = rule == TRACK and design == steep and design.prompts >= STEEP_FROM
    return Decision(
        kind=kind,
        design=design.name,
        n=design.prompts,
        rule=rule,
        whose="evalkit" if rule in OURS else "peer",
        trials=made.trials,
        wrong=made.false,
        stderr=share_stderr(made.false, made.trials),
        at_most=1 - LEVEL,
        found=made.found,
        in_time=made.within[IN_TIME - 3] if made.within else None,
        at_least=STEEP_POWER if powered else None,
        delay=made.delay,
    )


# Choices


def _choice(design: RunDesign) -> Study:
    def rows(trials: int, seed: int) -> Iterator[Decision]:
        found = tracking.choice_characteristics(
            design, trials=trials, seed=seed, resamples=RESAMPLES
        )
        made: tuple[tuple[str, Whose, float, float | None, float | None], ...] = (
            ("set of the best", "evalkit", found.holds_best, None, None),
            ("corrected value", "evalkit", found.coverage, found.bias, found.bias_stderr),
            ("its own mean", "peer", found.naive_coverage, found.naive_bias, found.naive_stderr),
        )
        for rule, whose, held, bias, bias_stderr in made:
            yield Decision(
                kind="choice",
                design=design.name,
                n=design.prompts,
                rule=rule,
                whose=whose,
                trials=trials,
                wrong=1 - held,
                stderr=share_stderr(1 - held, trials),
                at_most=1 - LEVEL,
                bias=bias,
                bias_stderr=bias_stderr,
            )

    return Study(f"choice, {design.name}, {design.prompts} prompts", 8, rows)
