"""Planning a comparison from a pilot: what varies, and what more prompts or completions would buy.

The difference of two checkpoints on prompt i, with K_A and K_B completions each held against the
same R references, is taken to vary by

    w² + v²/R + Σ over both sides (c² + e²/R) / K:

w² between prompts, v² between the references of a prompt, c² between the completions of a prompt,
e² what a completion does against one reference and not another. All are estimated by analysis of
variance: unbiased, then truncated at 0. References are those of the pilot; what further ones would
bring supposes that they differ on a prompt as these do. More completions and references cut only
their own parts: below w²/n no standard error falls except by prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from evalkit.data import FloatArray
from evalkit.statistics.intervals import check_level
from evalkit.statistics.power import minimum_detectable_effect, prompts_needed


class Within(NamedTuple):
    """What the completions of one prompt on one side vary by.

    Attributes:
        completions: c², ≥ 0; with one reference it includes e².
        by_reference: e², ≥ 0; 0 with one reference.
    """

    completions: float
    by_reference: float


@dataclass(frozen=True, slots=True)
class Components:
    """Variance components of a paired difference, in squared units of the pilot.

    Attributes:
        mean: Of the difference in the pilot.
        prompts: Of the pilot.
        references: R of the pilot.
        between: w², ≥ 0; includes what a single reference or completion leaves unseparated.
        by_reference: v², ≥ 0; None with one reference, which says nothing of more.
        a: Within prompts on side A; None with one completion, likewise.
        b: On side B.
    """

    mean: float
    prompts: int
    references: int
    between: float
    by_reference: float | None
    a: Within | None
    b: Within | None

    def variance(self, completions: tuple[int, int], references: int = 1) -> float:
        """Of the difference on one prompt, with (K_A, K_B) completions and R references.

        Raises:
            ValueError: A number below 1, or another than the pilot's 1 that it says nothing of.
        """
        across = self._across(references)
        return across + math.fsum(s / k for s, k in self._within(completions, references))

    def prompts_needed(
        self,
        delta: float,
        completions: tuple[int, int],
        references: int = 1,
        *,
        level: float = 0.95,
        power: float = 0.8,
    ) -> float:
        """Prompts on which a paired t test finds a true difference of `delta` so often.

        As `power.prompts_needed`, which see for range and errors.
        """
        return prompts_needed(
            delta,
            self._across(references),
            within=self._within(completions, references),
            level=level,
            power=power,
        )

    def detectable(
        self,
        prompts: int,
        completions: tuple[int, int],
        references: int = 1,
        *,
        level: float = 0.95,
        power: float = 0.8,
    ) -> float:
        """The true difference that a paired t test on so many prompts (≥ 2) finds so often."""
        if prompts < 2:
            raise ValueError(f"a paired test needs 2 prompts, not {prompts}")
        stderr = math.sqrt(self.variance(completions, references) / prompts)
        return minimum_detectable_effect(stderr, level=level, power=power, df=prompts - 1)

    def _across(self, references: int) -> float:
        """What more completions cannot cut: w² + v²/R."""
        if references < 1 or (self.by_reference is None and references > 1):
            raise ValueError(f"{references} references: the pilot has {self.references}")
        return self.between + (self.by_reference or 0.0) / references

    def _within(self, completions: tuple[int, int], references: int) -> list[tuple[float, int]]:
        for side, k in zip((self.a, self.b), completions, strict=True):
            if k < 1 or (side is None and k > 1):
                raise ValueError(f"{k} completions: the pilot of that side does not tell")
        return [
            (side.completions + side.by_reference / references, k)
            for side, k in zip((self.a, self.b), completions, strict=True)
            if side
        ]


class TradeOff(NamedTuple):
    """One point of the trade-off between prompts, completions and references.

    Attributes:
        prompts: To be answered; whole.
        completions: K of each prompt and side.
        references: R of each prompt.
        generated: Completions of one side in all, prompts · K.
    """

    prompts: int
    completions: int
    references: int
    generated: int


def components(a: FloatArray, b: FloatArray) -> Components:
    """Variance components of the difference a − b.

    Args:
        a: (P, K_A) values of side A's completions, or (P, R, K_A) of each against R references;
            finite, in any units.
        b: Side B's, of the same P and R in the same order.

    Returns:
        The components. Estimates: the mean square of a completion's values about their prompt's
        mean, of what is left of a prompt's R differences beside the means of prompt and reference,
        and of the prompts' differences; each less its share of those below it.

    Raises:
        ValueError: Fewer than two prompts, other shapes, NaN or infinity.
    """
    x, y = _cubes(a, b)
    found = _by_prompt(x, y)
    between, by_reference = (None if c is None else float(c.mean()) for c in found[:2])
    return Components(
        mean=float((x.mean(axis=2) - y.mean(axis=2)).mean()),
        prompts=len(x),
        references=x.shape[1],
        between=max(0.0, between or 0.0),
        by_reference=None if by_reference is None else max(0.0, by_reference),
        a=_within(found.a),
        b=_within(found.b),
    )


def variance_range(
    a: FloatArray,
    b: FloatArray,
    completions: tuple[int, int],
    references: int = 1,
    *,
    level: float = 0.95,
) -> tuple[float, float]:
    """How far `Components.variance` may be off: a pilot is small, and knows a spread least of all.

    The variance is a mean over prompts of what each contributes (squared deviations, less what lies
    below them). Its standard error gives an interval on the log scale, with Student's t of P − 1
    degrees of freedom. Simulated with outcomes of 0, ½ and 1, one for 95 % holds 92 to 97 % of true
    variances from 20 prompts on; 90 % where a component was truncated, which plans for too many;
    and too few, but misses by less than 1/√P of itself, where the win rate is ½ and the variance
    can be no larger.

    Args:
        a: (P, K_A) or (P, R, K_A), as for `components`.
        b: Side B's, likewise.
        completions: (K_A, K_B) to plan with.
        references: R to plan with.
        level: Of the interval, in (0, 1).

    Returns:
        Both ends, in squared units; both 0 where nothing varies.

    Raises:
        ValueError: As `components` and `Components.variance`.
    """
    check_level(level)
    variance = components(a, b).variance(completions, references)
    if not variance:
        return 0.0, 0.0
    between, by_reference, *sides = _by_prompt(*_cubes(a, b))
    contributions = between + (0.0 if by_reference is None else by_reference / references)
    for side, k in zip(sides, completions, strict=True):
        if side is not None:
            contributions = contributions + (side[0] + side[1] / references) / k
    prompts = len(contributions)
    stderr = float(contributions.std(ddof=1)) / math.sqrt(prompts)
    reach = float(stdtrit(prompts - 1, (1 + level) / 2)) * stderr / variance
    # a reach no double can be raised to says as much as infinity: nothing is known
    return variance * math.exp(-reach), variance * math.exp(min(reach, 700.0))


def trade_off(
    found: Components,
    delta: float,
    *,
    completions: Sequence[int],
    references: Sequence[int] = (1,),
    level: float = 0.95,
    power: float = 0.8,
) -> Iterator[TradeOff]:
    """What finds a difference of `delta` so often: prompts for each K (both sides) and R.

    In the order given, references outermost; for a curve, or the cheapest by `generated`.
    """
    for r in references:
        for k in completions:
            n = math.ceil(found.prompts_needed(delta, (k, k), r, level=level, power=power))
            yield TradeOff(n, k, r, n * k)


class _ByPrompt(NamedTuple):
    """Unbiased estimates of each component from each prompt; the mean over prompts is the whole's.

    All are (P,); None where the pilot says nothing. Sides: c² and e².
    """

    between: FloatArray
    by_reference: FloatArray | None
    a: tuple[FloatArray, FloatArray] | None
    b: tuple[FloatArray, FloatArray] | None


def _by_prompt(x: FloatArray, y: FloatArray) -> _ByPrompt:
    prompts, references = x.shape[:2]
    sides = [_side(x), _side(y)]
    found = [(*s, c.shape[2]) for s, c in zip(sides, (x, y), strict=True) if s is not None]
    differences = x.mean(axis=2) - y.mean(axis=2)
    below = sum(((c + e / references) / k for c, e, k in found), np.zeros(prompts))
    share = prompts / (prompts - 1)
    by_reference = None
    if references > 1:
        left = differences - differences.mean(axis=0) - differences.mean(axis=1, keepdims=True)
        squares = np.sum((left + differences.mean()) ** 2, axis=1)
        by_reference = share * squares / (references - 1) - sum(e / k for _, e, k in found)
        below = below + by_reference / references
    of_prompts = differences.mean(axis=1)
    between = share * (of_prompts - of_prompts.mean()) ** 2 - below
    return _ByPrompt(between, by_reference, *sides)


def _cubes(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    x, y = _cube(a), _cube(b)
    if x.shape[:2] != y.shape[:2]:
        raise ValueError(f"both sides have the same prompts and references: {x.shape}, {y.shape}")
    if len(x) < 2:
        raise ValueError("one prompt says nothing of others")
    return x, y


def _cube(values: FloatArray) -> FloatArray:
    cube = np.asarray(values, dtype=np.float64)
    if cube.ndim == 2:
        cube = cube[:, None, :]
    if cube.ndim != 3 or not cube.size:
        raise ValueError(f"values are (prompts, completions), not of shape {np.shape(values)}")
    if not np.all(np.isfinite(cube)):
        raise ValueError("the pilot holds NaN or infinity; decide about those rows first")
    return cube


def _side(cube: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """c² and e² of each prompt; None with one completion. c² may be below 0."""
    prompts, references, completions = cube.shape
    if completions < 2:
        return None
    of_means = cube.mean(axis=1).var(axis=1, ddof=1)  # c² + e²/R
    if references < 2:
        return of_means, np.zeros(prompts)
    left = cube - cube.mean(axis=1, keepdims=True) - cube.mean(axis=2, keepdims=True)
    squares = np.sum((left + cube.mean(axis=(1, 2), keepdims=True)) ** 2, axis=(1, 2))
    by_reference = squares / ((references - 1) * (completions - 1))
    return of_means - by_reference / references, by_reference


def _within(side: tuple[FloatArray, FloatArray] | None) -> Within | None:
    return side and Within(max(0.0, float(side[0].mean())), float(side[1].mean()))
