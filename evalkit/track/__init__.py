"""A run over its checkpoints: which is the best, is it past its best, is it over-optimised?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from evalkit.compare import compare
from evalkit.comparison import Comparison
from evalkit.comparison import Options as CompareOptions
from evalkit.data import FloatArray, TextArray, digest
from evalkit.errors import InputError
from evalkit.pairing import bootstrap_keys
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring import RunSettings
from evalkit.statistics.agreement import agreement
from evalkit.statistics.checkpoint_choice import Chosen, best_set, chosen
from evalkit.statistics.curve_agreement import kendall_tau_b
from evalkit.statistics.deciding import decided_difference
from evalkit.statistics.intervals import mean
from evalkit.statistics.multiplicity import max_t_bands
from evalkit.statistics.over_optimisation import (
    TOLERANCE,
    correlation_drift,
    length_drift,
    over_optimisation,
)
from evalkit.statistics.resampling import Keys
from evalkit.statistics.sequential import Plan
from evalkit.statistics.tracking import change_point, watch
from evalkit.store import Store
from evalkit.text import count, listing
from evalkit.track.before import (
    check_before,
    check_distinct,
    check_history,
    check_proxy,
    known_step,
    matching,
    run_plan,
)
from evalkit.track.history import Entry, History, entry_of, merged, up_to_date, write_history
from evalkit.track.result import (
    Consensus,
    Curve,
    Metric,
    Monitor,
    Options,
    Point,
    Signature,
    Track,
)
from evalkit.version import __version__
from evalkit.workspace import Workspace

__all__ = [
    "Consensus", "Curve", "Monitor", "Options", "Point", "Signature", "Track",
    "check_history", "compare_all", "matching", "track",
]  # fmt: skip

RESAMPLES = 4_999
ROUNDING = 1e-9
COLUMN: dict[Metric, int] = {"win_rate": 0, "win_probability": 1}
TOKENS = 2


class _Run(NamedTuple):
    """The checkpoints of a run under one reward model, on the prompts they share.

    `outcomes` are the metric's, `verdicts` (P,) what the tie rule says of the last checkpoint: NaN
    where a tie is dropped.
    """

    reward_model: str
    entries: Sequence[Entry]
    prompt_id: TextArray
    outcomes: FloatArray
    verdicts: FloatArray
    tokens: FloatArray
    left_out: tuple[str, ...]
    notices: tuple[str, ...]
    steps_by_name: tuple[str, ...]


def compare_all(
    checkpoints: Sequence[str],
    reference: str,
    reward_models: Sequence[RewardModelSpec],
    workspace: Workspace,
    store: Store,
    *,
    options: Options | None = None,
    settings: RunSettings | None = None,
) -> list[list[Comparison]]:
    """Every checkpoint against the reference, under each reward model; for `track`.

    Args:
        checkpoints: Names or paths; each has a training step.
        reference: What all of them are held against.
        reward_models: At least one.
        workspace: Where names are looked up.
        store: Known rewards; new ones are added.
        options: Choices that can move a number.
        settings: Choices that cannot.

    Raises:
        InputError, IntegrityError, MissingError: As for `compare`.
    """
    options = options or Options()
    how = CompareOptions(
        benchmark=options.benchmark,
        ties=options.ties,
        missing=options.missing,
        level=options.level,
        seed=options.seed,
        temperature=options.temperature,
    )
    check_before(checkpoints, [spec.name for spec in reward_models], workspace, options)
    return [
        compare(checkpoints, [reference], spec, workspace, store, options=how, settings=settings)
        for spec in reward_models
    ]


def track(
    comparisons: Sequence[Sequence[Comparison]],
    *,
    history: History | None = None,
    options: Options | None = None,
) -> Track:
    """Follow a run over its checkpoints under one reward model or several.

    Args:
        comparisons: As `compare_all` gives them: for each reward model all checkpoints.
        history: Of the run, as it was read; these checkpoints are added to its file, and to what
            another run has added since.
        options: Choices that can move a number.

    Raises:
        InputError: Checkpoints without steps or with equal ones, a history of another run or
            plan, or that another run has written meanwhile, more checkpoints than planned, a proxy
            that is not among several reward models.
    """
    options = options or Options()
    _check_models(comparisons, options)
    now = [_entry(c) for of_model in comparisons for c in of_model]
    stored, plan = None if history is None else up_to_date(history), run_plan(options)
    entries = merged(stored, now, plan)
    runs = sorted(
        (_run(of_model[0].reward_model, entries, options.metric) for of_model in comparisons),
        key=lambda run: (not _is_proxy(run, options), run.reward_model),
    )
    check_distinct({e.checkpoint: e.step for e in runs[0].entries}, options, stored)
    monitored = runs[1:] if options.proxy is not None else []
    result = Track(
        reference=comparisons[0][0].reference.name,
        options=options,
        curves=tuple(_curve(run, options) for run in runs),
        consensus=_consensus(runs, options) if len(runs) > 1 else None,
        monitors=tuple(_monitor(runs[0], run, options) for run in monitored),
        stored=tuple(sorted({e.checkpoint for e in entries} - {e.checkpoint for e in now})),
        signature=_signature(runs, comparisons[0][0], options),
    )
    if stored is not None:
        write_history(stored, plan, entries)
    return result


def _check_models(comparisons: Sequence[Sequence[Comparison]], options: Options) -> None:
    models = [of_model[0].reward_model for of_model in comparisons if of_model]
    if not models:
        raise InputError("no checkpoint is compared", fix="name some, such as --model 'ckpt_*'")
    names = [model.name for model in models]
    for said in (names, [model.fingerprint for model in models]):
        if len(set(said)) < len(said):
            raise InputError(
                f"a reward model is named twice: {listing(names)}", fix="name each of them once"
            )
    check_proxy(names, options)


def _is_proxy(run: _Run, options: Options) -> bool:
    return run.reward_model.rpartition("#")[0] == options.proxy


def _entry(c: Comparison) -> Entry:
    """What a comparison leaves to the history; a step that only its name tells is said to be so."""
    name, stated = c.checkpoint.name, c.checkpoint.step
    step = known_step(name, stated, c.checkpoint.source)
    return entry_of(c, step, () if stated is not None else (_of_step(step, name),))


def _of_step(step: int, name: str) -> str:
    return f"step {step} of {name} is read from its name"


def _run(model: RewardModelSpec, entries: Sequence[Entry], metric: Metric) -> _Run:
    """The entries of one reward model on the prompts that all of them have a number on."""
    mine = sorted((e for e in entries if e.fingerprint == model.fingerprint), key=lambda e: e.step)
    column = COLUMN[metric]
    known = [{i for i, row in e.prompts.items() if row[column] is not None} for e in mine]
    shared = sorted(set.intersection(*known))
    if not shared:
        raise InputError(
            f"no prompt has a {metric} under {model.name!r} at every checkpoint",
            fix="track another metric, or checkpoints that answer the same prompts; a reward model "
            "whose scores state no probability takes --temperature",
        )
    values, tokens = (
        np.array([[e.prompts[i][k] for e in mine] for i in shared], dtype=np.float64)
        for k in (column, TOKENS)
    )
    of_step = {_of_step(e.step, e.checkpoint): e.checkpoint for e in mine}
    notices = dict.fromkeys(notice for e in mine for notice in e.notices)
    return _Run(
        model.label,
        mine,
        np.array(shared, dtype=object),
        values,
        _verdicts(mine[-1], shared),
        tokens,
        _left_out(mine),
        (*(n for n in notices if n not in of_step), *_of_prompts(mine, known, len(shared), metric)),
        tuple(name for notice, name in of_step.items() if notice in notices),
    )


def _of_prompts(
    entries: Sequence[Entry], known: Sequence[set[str]], shared: int, metric: Metric
) -> list[str]:
    """How many prompts are left out of all checkpoints, and how far the newest one is why.

    Alarms at earlier checkpoints are those of the prompts that remain, so that one may be gone.
    """
    found = []
    if lacking := len(set.union(*known)) - shared:
        found.append(f"{count(lacking, 'prompt')} without a {metric} at every checkpoint left out")
    before = len(set.intersection(*known[:-1])) if known[:-1] else shared
    if shared < before:
        found.append(
            f"the newest checkpoint {entries[-1].checkpoint} leaves {shared:,} of the "
            f"{before:,} prompts that the earlier ones share; all checkpoints and their alarms "
            "are now judged on these"
        )
    return found


def _verdicts(entry: Entry, prompts: Sequence[str]) -> FloatArray:
    """Win 1, tie ½, loss 0 by the tie rule, of means over completions too."""
    outcome = [entry.prompts[i][COLUMN["win_rate"]] for i in prompts]
    verdicts: FloatArray = (np.sign(np.array(outcome, dtype=np.float64) - 0.5) + 1) / 2
    return verdicts


def _left_out(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Prompts that one of the entries does not have; a tie that was dropped is one it has."""
    every = {i for e in entries for i in (*e.prompts, *e.left_out)}
    return tuple(sorted(i for i in every if any(i not in e.prompts for e in entries)))


def _plan(options: Options) -> Plan:
    return Plan(looks=options.planned, window=options.window, level=options.level)


def _curve(run: _Run, options: Options) -> Curve:
    keys = _keys(run, options)
    watched = watch(run.outcomes, keys, _plan(options))
    bands = max_t_bands(
        run.outcomes,
        keys=keys,
        resamples=RESAMPLES,
        level=options.level,
        bounded=True,
        seed=options.seed,
    )
    points = tuple(
        Point(
            e.checkpoint,
            e.step,
            mean(run.outcomes[:, t], bounded=True, level=options.level),
            bands.bands[t],
            _tokens(run.tokens[:, t]),
        )
        for t, e in enumerate(run.entries)
    )
    steps = np.array([e.step for e in run.entries], dtype=np.float64)
    taken = chosen(run.outcomes, keys, level=options.level, bounded=True)
    return Curve(
        reward_model=run.reward_model,
        points=points,
        outcomes=run.outcomes,
        prompt_id=run.prompt_id,
        looks=watched.looks,
        cusum=watched.cusum,
        change=change_point(run.outcomes, keys, steps=steps, level=options.level),
        best=best_set(run.outcomes, keys, level=options.level),
        chosen=taken,
        differences=tuple(
            decided_difference(run.outcomes[:, -1], earlier, level=options.level)
            for earlier in run.outcomes.T[:-1]
        ),
        left_out=run.left_out,
        notices=(*run.notices, *_of_choice(run, taken, options.metric)),
        steps_by_name=run.steps_by_name,
    )


def _of_choice(run: _Run, found: Chosen, metric: Metric) -> list[str]:
    """That a corrected value is none that any checkpoint has, as happens where few are alike."""
    value, means = found.corrected.value, run.outcomes.mean(axis=0)
    low, high = float(means.min()), float(means.max())
    if value is None or low - ROUNDING <= value <= high + ROUNDING:
        return []
    side = f"below the lowest measured ({low:.3f})" if value < low else f"above {high:.3f}"
    return [
        f"the corrected {metric} of {run.entries[found.index].checkpoint} under {run.reward_model} "
        f"({value:.3f}) is {side}: the correction is right on average over runs, and too large or "
        "too small in one, above all with few checkpoints that are close to each other"
    ]


def _keys(run: _Run, options: Options) -> Keys:
    return bootstrap_keys(run.prompt_id.tolist(), options.seed)


def _tokens(column: FloatArray) -> float | None:
    known = column[~np.isnan(column)]
    return float(np.mean(known)) if len(known) else None


def _shared(runs: Sequence[_Run]) -> tuple[list[str], list[FloatArray]]:
    """The prompts that all reward models have, and the outcomes on those under each."""
    shared = sorted(set.intersection(*({*run.prompt_id.tolist()} for run in runs)))
    if not shared:
        raise InputError(
            f"{listing([run.reward_model for run in runs])} share no prompt",
            fix="track them on the same prompts",
        )
    return shared, [run.outcomes[np.isin(run.prompt_id, shared)] for run in runs]


def _consensus(runs: Sequence[_Run], options: Options) -> Consensus:
    shared, outcomes = _shared(runs)
    keys = bootstrap_keys(shared, options.seed)
    verdicts = np.column_stack([run.verdicts[np.isin(run.prompt_id, shared)] for run in runs])
    return Consensus(
        prompts=len(shared),
        orders={
            (i, j): kendall_tau_b(outcomes[i], outcomes[j], keys, level=options.level)
            for i, j in combinations(range(len(runs)), 2)
        },
        agreement=agreement(verdicts, level=options.level),
    )


def _monitor(proxy: _Run, held_out: _Run, options: Options) -> Monitor:
    shared, (a, b) = _shared([proxy, held_out])
    keys = bootstrap_keys(shared, options.seed)
    plan = _plan(options)
    tokens = proxy.tokens[np.isin(proxy.prompt_id, shared)]
    counted = not np.isnan(tokens).any()
    return Monitor(
        proxy=proxy.reward_model,
        held_out=held_out.reward_model,
        prompts=len(shared),
        looks=over_optimisation(a, b, keys, plan),
        length=length_drift(tokens, keys, plan) if counted else None,
        length_correlation=correlation_drift(a, tokens, keys, plan) if counted else None,
    )


def _signature(runs: Sequence[_Run], first: Comparison, options: Options) -> Signature:
    said = [(e.checkpoint, e.digest, e.step) for e in runs[0].entries]
    return Signature(
        checkpoints=f"{len(said)}#{digest('run', said)[:12]}",
        reference=first.reference.label,
        rm=tuple(run.reward_model for run in runs),
        proxy=options.proxy or "",
        benchmark=first.signature.benchmark,
        metric=options.metric,
        temperature="" if options.temperature is None else repr(options.temperature),
        n=tuple(str(len(run.prompt_id)) for run in runs),
        missing=options.missing,
        ties=str(options.ties),
        planned=options.planned,
        window=options.window,
        tolerance=repr(TOLERANCE),
        ci=f"logit-t,betting,max-t;{options.level!r}",
        seed=options.seed,
        version=__version__,
    )
