"""Runs whose truth is known, and how often the rules that watch a run are right about them.

Beside evalkit's rules stand those that people use: any drop, below the best so far, more than so
many points below it, and paired t tests against it.

Outcomes are win probabilities Φ(a_t + τ·z_it) with the spread that sibling checkpoints have. Their
means are exact; the standard deviation of 0.41, and the correlation between the checkpoints of a
run, are those at a mean of a half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import expit, ndtr, ndtri, stdtr

from evalkit.data import FloatArray
from evalkit.statistics.checkpoint_choice import best_set, chosen
from evalkit.statistics.resampling import Keys

VARIANCE = 0.168  # of outcomes at a mean of a half; siblings then differ by 0.37 (measured: .366)
# of Φ(τz): asin(ρ)/2π with ρ = τ²/(1 + τ²)
RHO = math.sin(2 * math.pi * VARIANCE)
TAU = math.sqrt(RHO / (1 - RHO))

Columns = tuple[FloatArray, ...]  # (P, T) under one reward model, or under two
Alarms = npt.NDArray[np.bool_]  # (T,)
Monitor = Callable[[Columns, Keys], Mapping[str, Alarms]]  # rules by name


@dataclass(frozen=True, slots=True)
class RunDesign:
    """A simulated run.

    Attributes:
        name: What it shows.
        curves: True means in (0, 1) of T checkpoints, under each reward model.
        turn: Column of the true best checkpoint, after which it declines; None if it never does.
        prompts: P.
        correlation: Of a prompt's outcomes at two checkpoints, in [0, 1).
        between: The same of two reward models at one checkpoint, in the latent z.
    """

    name: str
    curves: tuple[tuple[float, ...], ...]
    turn: int | None
    prompts: int = 500
    correlation: float = 0.6
    between: float = 0.5

    def draw(self, rng: np.random.Generator) -> Columns:
        """(P, T) outcomes of every prompt and checkpoint, under each reward model."""
        steps = len(self.curves[0])
        shared = math.sin(self.correlation * 2 * math.pi * VARIANCE) / RHO
        found: list[FloatArray] = []
        first: FloatArray | None = None
        for curve in self.curves:
            prompt = rng.standard_normal((self.prompts, 1))
            own = rng.standard_normal((self.prompts, steps))
            z = math.sqrt(shared) * prompt + math.sqrt(1 - shared) * own
            if first is None:
                first = z
            else:
                z = self.between * first + math.sqrt(1 - self.between**2) * z
            found.append(ndtr(math.sqrt(1 + TAU**2) * ndtri(np.array(curve)) + TAU * z))
        return tuple(found)


def flat(steps: int = 30, *, correlation: float = 0.6) -> RunDesign:
    """A run that never changes: the hardest of those that never decline."""
    return RunDesign(
        f"flat, {steps} checkpoints, {correlation:g}", ((0.5,) * steps,), None, 500, correlation
    )


def peaked(decline: float, *, steps: int = 30, turn: int = 11, rise: float = 0.015) -> RunDesign:
    """A run that rises in a straight line to 0.6 at one column and declines in another."""
    t = np.arange(steps) - turn
    curve = 0.6 + rise * np.minimum(t, 0) - decline * np.maximum(t, 0)
    return RunDesign(f"declines by {decline:g} a checkpoint", (tuple(curve.tolist()),), turn)


def rising(*, steps: int = 30, rise: float = 0.008) -> RunDesign:
    """A run that rises in a straight line to the end, through a half in its middle."""
    curve = 0.5 + rise * (np.arange(steps) - (steps - 1) / 2)
    return RunDesign("rises to the end", (tuple(curve.tolist()),), None)


def plateau() -> RunDesign:
    """A run that rises as `peaked` does, and stays there."""
    return replace(peaked(0.0), name="rises to a plateau", turn=None)


def gold_and_proxy(*, root: bool = False, steps: int = 30, turn: int = 12) -> RunDesign:
    """Reinforcement learning on a proxy (Gao, Schulman and Hilton 2022, arXiv 2210.10760).

    With d = √KL from the start, rewards are d·(α − β·ln d): relative to its maximum at d* the
    gold reward is x·(1 − ln x), x = d/d*. It peaks at 0.73 (1 logit); the proxy, whose own maximum
    lies five times as far, still rises at the end.

    Args:
        root: Whether KL grows in proportion to the steps, not d: the turn is slower still.
        steps: T; checkpoints are at 1, 2, …, T of the time unit.
        turn: Time of the gold's maximum.
    """
    time = np.arange(1, steps + 1) / turn
    x, far = (np.sqrt(time), math.sqrt(5)) if root else (time, 5)
    curves = (1.6 * _overoptimised(x / far), _overoptimised(x))
    proxy, gold = (tuple(expit(c).tolist()) for c in curves)
    return RunDesign(f"gold turns, {'KL' if root else 'd'} linear", (proxy, gold), turn - 1)


def both_rise(*, plateau: bool = False, proxy_too: bool = False, steps: int = 30) -> RunDesign:
    """The trained-against reward rises; the held-out one rises with it, or to a plateau.

    Args:
        plateau: Whether the held-out reward stops rising at the 12th checkpoint.
        proxy_too: Whether the trained-against one stops then as well.
        steps: T.
    """
    time = np.arange(1, steps + 1) / 12
    stopped = np.minimum(time, 1)
    proxy, gold = (stopped if stops else time / 5 for stops in (proxy_too, plateau))
    curves = (1.6 * _overoptimised(proxy), _overoptimised(gold))
    who = "both rise" if proxy_too == plateau else "B rises"
    return RunDesign(
        f"{who} to a plateau" if plateau else who,
        tuple(tuple(expit(c).tolist()) for c in curves),
        None,
    )


def _overoptimised(x: FloatArray) -> FloatArray:
    found: FloatArray = x * (1 - np.log(x))
    return found


def any_drop(table: FloatArray) -> Alarms:
    """Alarms where the mean is below that of the checkpoint before; (P, T) values to (T,)."""
    means = table.mean(axis=0)
    below: Alarms = np.diff(means, prepend=means[0]) < 0
    return below


def below_best(table: FloatArray, points: float) -> Alarms:
    """Alarms where the mean is more than so much below the best so far, in units of the mean."""
    means = table.mean(axis=0)
    below: Alarms = means < np.maximum.accumulate(means) - points
    return below


def paired_t(table: FloatArray, alpha: float) -> Alarms:
    """Alarms where the two-sided paired t test against the best checkpoint so far finds a drop."""
    means, (n, steps) = table.mean(axis=0), table.shape
    found = np.zeros(steps, dtype=np.bool_)
    for t in range(1, steps):
        d = table[:, t] - table[:, np.argmax(means[:t])]
        found[t] = stdtr(n - 1, d.mean() / (d.std(ddof=1) / math.sqrt(n))) < alpha / 2
    return found


@dataclass(frozen=True, slots=True)
class Characteristics:
    """How a rule behaves on a design.

    Attributes:
        design: Its name.
        trials: Simulated runs.
        false: Share that alarm without or before a decline.
        found: Share that alarm after the turn, and not before; None without a turn.
        within: (3, 4, 5) checkpoints after the turn: share whose first alarm comes by then.
        delay: Median checkpoints from the turn to the first alarm, of all runs not alarmed before;
            infinite where fewer than half of them alarm.
    """

    design: str
    trials: int
    false: float
    found: float | None
    within: tuple[float, float, float] | None
    delay: float | None


def characteristics(
    monitor: Monitor, design: RunDesign, *, trials: int, seed: int
) -> dict[str, Characteristics]:
    """Count the alarms of every rule over the same runs; the same arguments give the same numbers.

    Args:
        monitor: What watches; it gets the columns and keys of the prompts.
        design: What is simulated.
        trials: Runs, ≥ 1.
        seed: ≥ 0; trial i draws from (seed, i), whatever the rules.
    """
    first: dict[str, list[float]] = {}
    for trial in range(trials):
        for name, alarms in monitor(*simulated(design, trial, seed)).items():
            raised = np.flatnonzero(alarms)
            first.setdefault(name, []).append(float(raised[0]) if len(raised) else math.inf)
    return {name: _counted(design, np.array(found)) for name, found in first.items()}


def _counted(design: RunDesign, first: FloatArray) -> Characteristics:
    if design.turn is None:
        share = float(np.mean(np.isfinite(first)))
        return Characteristics(design.name, len(first), share, None, None, None)
    early, delay = first <= design.turn, first - design.turn
    by = [float(np.mean(~early & (delay <= k))) for k in (3, 4, 5)]
    return Characteristics(
        design=design.name,
        trials=len(first),
        false=float(np.mean(early)),
        found=float(np.mean(~early & np.isfinite(first))),
        within=(by[0], by[1], by[2]),
        delay=float(np.median(delay[~early])) if not early.all() else None,
    )


def simulated(design: RunDesign, trial: int, seed: int) -> tuple[Columns, Keys]:
    """The columns of a simulated run, and keys of its prompts."""
    keys = np.random.default_rng([seed, trial, 1]).integers(
        0, 2**64, design.prompts, dtype=np.uint64
    )
    return design.draw(np.random.default_rng([seed, trial])), keys


@dataclass(frozen=True, slots=True)
class ChoiceCharacteristics:
    """What `best_set` and `chosen` make of a design.

    Attributes:
        design: Its name.
        trials: Simulated runs.
        holds_best: Share of best sets that hold the truly best checkpoint, the first of equals.
        size: Mean number of checkpoints in the set.
        naive_bias: Mean of the chosen checkpoint's mean minus its true mean.
        naive_stderr: Monte-Carlo standard error of that.
        bias: The same of the corrected value.
        bias_stderr: Monte-Carlo standard error of that.
        naive_coverage: Share of naive intervals that hold the true mean.
        coverage: The same of the corrected ones.
    """

    design: str
    trials: int
    holds_best: float
    size: float
    naive_bias: float
    naive_stderr: float
    bias: float
    bias_stderr: float
    naive_coverage: float
    coverage: float


def choice_characteristics(
    design: RunDesign, *, trials: int, seed: int, resamples: int = 2000
) -> ChoiceCharacteristics:
    """Choose among simulated checkpoints; the same arguments give the same numbers.

    Args:
        design: What is simulated; its last reward model counts.
        trials: Runs, ≥ 2.
        seed: ≥ 0.
        resamples: Of the best set.
    """
    truth = np.array(design.curves[-1])
    rows = np.empty((trials, 6))
    for trial in range(trials):
        columns, keys = simulated(design, trial, seed)
        members = best_set(columns[-1], keys, resamples=resamples).members
        pick = chosen(columns[-1], keys)
        true = truth[pick.index]
        estimates = (pick.naive, pick.corrected)
        errors = [(e.value or 0.0) - true for e in estimates]
        held = [(e.low or 0.0) <= true <= (e.high or 0.0) for e in estimates]
        rows[trial] = [int(np.argmax(truth)) in members, len(members), *errors, *held]
    mean = rows.mean(axis=0).tolist()
    spread = rows.std(axis=0, ddof=1).tolist()
    return ChoiceCharacteristics(
        design=design.name,
        trials=trials,
        holds_best=mean[0],
        size=mean[1],
        naive_bias=mean[2],
        naive_stderr=spread[2] / math.sqrt(trials),
        bias=mean[3],
        bias_stderr=spread[3] / math.sqrt(trials),
        naive_coverage=mean[4],
        coverage=mean[5],
    )
