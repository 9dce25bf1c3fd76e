"""Before a run: how many prompts, completions and references find a difference, from a pilot.

The pilot are rewards that store and packs hold; nothing is scored. `settle` is for after a run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from shlex import quote

import numpy as np

from evalkit.comparison import Options as CompareOptions
from evalkit.comparison import temperature_of
from evalkit.data import FloatArray
from evalkit.errors import InputError
from evalkit.plan.after import settle
from evalkit.plan.pilot import Measure, Metric, Pilot, read_pilot
from evalkit.plan.result import (
    AfterSignature,
    Design,
    Instead,
    Options,
    Plan,
    Settlement,
    Signature,
    Undecided,
)
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.sets import NamedSet, benchmark_of, read_prompts, read_sets
from evalkit.statistics.gates import FEW_DECIDING
from evalkit.statistics.planning import Components, components, trade_off, variance_range
from evalkit.statistics.power import prompts_needed
from evalkit.store import Store
from evalkit.text import count
from evalkit.version import __version__
from evalkit.workspace import Workspace

__all__ = [
    "AfterSignature", "Design", "Instead", "Metric", "Options", "Plan", "Settlement", "Signature",
    "Undecided", "plan", "settle",
]  # fmt: skip

COMPLETIONS, REFERENCES = (1, 2, 4, 8), (1, 2, 4)
GRID = 33  # points of a curve
MOST_PROMPTS = 1e9  # a plan for more is none
FEW_PROMPTS = 30


def plan(
    checkpoints: Sequence[str],
    references: Sequence[str],
    reward_model: RewardModelSpec,
    workspace: Workspace,
    store: Store,
    *,
    options: Options,
) -> Plan:
    """Plan a comparison from rewards that are known; no reward model is loaded.

    Args:
        checkpoints: Names or paths, as for `--model`: one, to be told from ½, or two, to be told
            from each other on the same prompts.
        references: Names or paths, as for `--ref`; values are means over them.
        reward_model: Whose rewards are the pilot.
        workspace: Where names are looked up.
        store: Known rewards.
        options: Choices that can move a number.

    Raises:
        InputError: Unknown names, malformed files, unmatched prompts, a pilot that does not tell
            what was asked for, or has no spread.
        IntegrityError: As for `evalkit.compare.compare`.
        MissingError: Rewards that are not known; it names the command that makes them.
    """
    _check(checkpoints, options)
    measure = _measure(reward_model, options)
    right = read_sets(references, "reference", workspace, options.benchmark)
    options = replace(options, benchmark=benchmark_of(options.benchmark, right))
    left = read_sets(checkpoints, "checkpoint", workspace, options.benchmark)
    pilot = read_pilot(
        left,
        right,
        measure,
        store,
        expected=list(read_prompts(options.benchmark, workspace).values()),
        missing=options.missing,
        fix=_command(checkpoints, references, reward_model),
    )
    found = components(*pilot.sides())
    options = _with_designs(options, found, pilot)
    designs, grid = _designs(pilot, found, options)
    return Plan(
        checkpoints=tuple(one.completions.name for one in left),
        references=tuple(one.completions.name for one in right),
        reward_model=reward_model.name,
        prompts=pilot.prompts,
        completions=pilot.completions,
        components=found,
        options=options,
        designs=designs,
        grid=grid,
        ceiling=_ceiling(pilot, options),
        notices=_notices([*left, *right], reward_model, pilot),
        signature=_signature(left, right, reward_model, measure, pilot, options),
    )


def _check(checkpoints: Sequence[str], options: Options) -> None:
    if not 1 <= len(checkpoints) <= 2:
        raise InputError(
            f"a plan for {count(len(checkpoints), 'checkpoint')}",
            fix="name one, to be told from 50 %, or two, to be told from each other",
        )
    if len(set(checkpoints)) < len(checkpoints):
        raise InputError(f"{checkpoints[0]!r} is named twice", fix="name another beside it")
    if len(checkpoints) == 1 and options.detect >= 0.5:
        raise InputError(
            f"no win rate is {options.detect} above one half", fix="a fraction, such as 0.02"
        )


def _measure(reward_model: RewardModelSpec, options: Options) -> Measure:
    temperature = temperature_of(CompareOptions(temperature=options.temperature), reward_model)
    if reward_model.is_pairwise and temperature is not None:
        raise InputError(
            f"{reward_model.name!r} states probabilities of its own, which have no temperature",
            fix="leave --temperature out",
        )
    if options.metric == "win_probability" and temperature is None and not reward_model.is_pairwise:
        raise InputError(
            f"{reward_model.name!r} gives {reward_model.family.output} scores, which state no "
            "probability",
            fix="state --temperature, or plan for the win rate",
        )
    return Measure(
        reward_model.name,
        reward_model.fingerprint,
        reward_model.is_pairwise,
        options.metric,
        options.ties.margin,
        temperature,
    )


def _command(
    checkpoints: Sequence[str], references: Sequence[str], reward_model: RewardModelSpec
) -> str:
    named = [("--model", name) for name in checkpoints] + [("--ref", name) for name in references]
    parts = [f"{option} {quote(name)}" for option, name in named]
    command = f"evalkit compare {' '.join(parts)} --reward-model {quote(reward_model.name)}"
    return f"{command} makes them; --missing drop plans from the prompts that have theirs"


def _with_designs(options: Options, found: Components, pilot: Pilot) -> Options:
    """The options with the K and R to plan with; refuses those that the pilot does not tell."""
    tells_k = found.a is not None and found.b is not None
    ks, rs = options.completions, options.references
    ks = ks or (COMPLETIONS if tells_k else (1,))
    rs = rs or ((*REFERENCES, found.references) if found.references > 1 else (1,))
    if max(ks) > 1 and not tells_k:
        raise InputError(
            f"{max(ks)} completions a prompt: the pilot has one, which says nothing of more",
            fix="leave --completions out, or score a few completions for each prompt of a set",
        )
    if max(rs) > 1 and found.references == 1:
        raise InputError(
            f"{max(rs)} references: the pilot has one, which says nothing of more",
            fix="leave --references out, or name further references with --ref",
        )
    return replace(options, completions=tuple(sorted({*ks})), references=tuple(sorted({*rs})))


def _ceiling(pilot: Pilot, options: Options) -> int | None:
    """Prompts for one checkpoint, whatever its spread: none in [0, 1] is above p·(1 − p)."""
    return _needed(0.25 - options.detect**2, options) if len(pilot.values) == 1 else None


def _designs(
    pilot: Pilot, found: Components, options: Options
) -> tuple[tuple[Design, ...], tuple[int, ...]]:
    how = {"level": options.level, "power": options.power}
    _check_spread(found, options)
    points = list(
        trade_off(
            found,
            options.detect,
            completions=options.completions,
            references=options.references,
            **how,
        )
    )
    grid = _grid([pilot.prompts, *(p.prompts for p in points)])
    sides = pilot.sides()
    ceiling = _ceiling(pilot, options) or math.inf
    designs = []
    for p in points:
        prompts = int(min(p.prompts, ceiling))
        k = (p.completions, p.completions)
        low, high = variance_range(*sides, k, p.references, level=options.level)
        there = min(p.references, found.references) * min(prompts, pilot.prompts)
        designs.append(
            Design(
                completions=p.completions,
                references=p.references,
                prompts=prompts,
                fewest=int(min(_needed(low, options), ceiling)),
                most=_most(high, ceiling, options),
                generated=prompts * p.completions * len(pilot.values),
                answers=p.references * prompts - there,
                detectable=found.detectable(pilot.prompts, k, p.references, **how),
                curve=tuple(found.detectable(n, k, p.references, **how) for n in grid),
            )
        )
    return tuple(designs), grid


def _most(variance: float, ceiling: float, options: Options) -> int | None:
    feasible = _is_feasible(variance, options)
    return int(min(_needed(variance, options), ceiling)) if feasible else None


def _check_spread(found: Components, options: Options) -> None:
    for r in options.references:
        for k in options.completions:
            variance = found.variance((k, k), r)
            if not variance:
                raise InputError(
                    "every prompt of the pilot says the same, so that it has no spread to plan by",
                    fix="plan from more prompts, or from checkpoints that differ on some",
                )
            if not _is_feasible(variance, options):
                raise InputError(
                    f"no feasible number of prompts finds a difference of {options.detect}",
                    fix="ask for a larger one",
                )


def _needed(variance: float, options: Options) -> int:
    return math.ceil(
        prompts_needed(options.detect, variance, level=options.level, power=options.power)
    )


def _is_feasible(variance: float, options: Options) -> bool:
    return variance < MOST_PROMPTS / 10 * options.detect**2  # (z + z)² is 8 at the usual level


def _grid(numbers: Sequence[int]) -> tuple[int, ...]:
    """Prompts from a fifth of the smallest of some numbers to twice the largest."""
    low, high = max(5.0, min(numbers) / 5), 2.0 * max(numbers)
    points = np.geomspace(low, max(high, 2 * low), GRID)
    return tuple(dict.fromkeys(int(n) for n in np.rint(points)))


def _notices(
    sets: Sequence[NamedSet], reward_model: RewardModelSpec, pilot: Pilot
) -> tuple[str, ...]:
    found = [one.completions.notice for one in sets] + [reward_model.notice]
    if pilot.left_out:
        n = pilot.prompts + pilot.left_out
        found.append(f"{pilot.left_out} of {n} prompts are not in the pilot")
    found += [
        f"{one.completions.name}: prompts have {least} to {most} completions, of which the first "
        f"{least} are the pilot"
        for one, least, most in zip(sets, pilot.completions, pilot.most, strict=False)
        if least < most
    ]
    if pilot.truncated:
        found.append(f"{count(pilot.truncated, 'completion')} scored with tokens cut off")
    if min(pilot.completions) == 1:
        found.append(
            "one completion a prompt says nothing of what more would bring: a plan for that needs "
            "a pilot with several"
        )
    if pilot.values[0].shape[1] == 1:
        found.append("one reference says nothing of what more would bring")
    else:
        found.append(
            "what further references bring supposes that they differ on a prompt as these do"
        )
    found += _of_small(pilot)
    return tuple(dict.fromkeys(filter(None, found)))


def _of_small(pilot: Pilot) -> list[str]:
    found = []
    if pilot.prompts < FEW_PROMPTS:
        found.append(f"a pilot of {pilot.prompts} prompts knows the spread poorly: mind the range")
    a, b = (_of_prompts(side) for side in pilot.sides())
    if len(pilot.values) == 2 and (differing := int(np.count_nonzero(a - b))) < FEW_DECIDING:
        found.append(f"the two differ on {count(differing, 'prompt')} only: mind the range")
    return found


def _of_prompts(values: FloatArray) -> FloatArray:
    means: FloatArray = values.mean(axis=(1, 2))
    return means


def _signature(
    left: Sequence[NamedSet],
    right: Sequence[NamedSet],
    reward_model: RewardModelSpec,
    measure: Measure,
    pilot: Pilot,
    options: Options,
) -> Signature:
    return Signature(
        checkpoints=tuple(one.completions.label for one in left),
        references=tuple(one.completions.label for one in right),
        rm=reward_model.label,
        metric=options.metric,
        benchmark=options.benchmark or "",
        n=pilot.prompts,
        k=tuple(map(str, pilot.completions)),
        left_out=pilot.left_out,
        missing=options.missing,
        ties=str(options.ties),
        temperature="" if measure.temperature is None else repr(float(measure.temperature)),
        detect=repr(options.detect),
        plan_k=tuple(map(str, options.completions)),
        plan_r=tuple(map(str, options.references)),
        ci=repr(options.level),
        power=repr(options.power),
        version=__version__,
    )
