"""What can be refused of a run before anything is scored, and which checkpoints a pattern names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from glob import glob
from pathlib import Path

from evalkit.errors import InputError
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.sets import read_set
from evalkit.text import did_you_mean, listing
from evalkit.track.history import History, RunPlan, entry_to_come, merged
from evalkit.track.result import Options
from evalkit.workspace import Workspace

OTHER_HISTORY = (
    "the alarms' error was shared out over those planned: start another history with all "
    "checkpoints, whose rewards are known"
)
MOST_DIGITS = 15  # more are no count of steps but a date, a hash or a seed


def matching(patterns: Sequence[str], workspace: Workspace) -> list[str]:
    """The checkpoints that names, paths and patterns such as `ckpt_*` stand for.

    Raises:
        InputError: A pattern that nothing matches.
    """
    found: dict[str, None] = {}
    references = {*workspace.reference_names(), *workspace.config["refs"]}
    names = [name for name in workspace.names() if name not in references]
    for pattern in patterns:
        if not any(sign in pattern for sign in "*?[") or Path(pattern).exists():
            hits = [pattern]
        elif "/" in pattern:
            found_here = glob(pattern)  # noqa: PTH207 - Path's drops "./" and refuses "/…"
            hits = sorted(path for path in found_here if not path.endswith(".toml"))
        else:
            hits = [name for name in names if fnmatchcase(name, pattern)]
        if not hits:
            raise InputError(
                f"no checkpoint matches {pattern!r}",
                where=f"known: {listing(names)}",
                fix=did_you_mean(pattern, names) or "name files, or a pattern with a folder in it",
            )
        found |= dict.fromkeys(hits)
    return list(found)


def check_before(
    checkpoints: Sequence[str], models: Sequence[str], workspace: Workspace, options: Options
) -> None:
    """Refuse what needs no file read: the proxy, steps, more checkpoints than planned."""
    check_proxy(models, options)
    found = [workspace.completion_set(spec, "checkpoint") for spec in checkpoints]
    steps = {source.name: known_step(source.name, source.step, source.path) for source in found}
    check_distinct(steps, options)


def check_history(
    history: History,
    checkpoints: Sequence[str],
    reference: str,
    reward_models: Sequence[RewardModelSpec],
    workspace: Workspace,
    options: Options,
) -> None:
    """Refuse, as far as files tell, a history of another run, before anything is scored for it.

    Args:
        history: As it was read.
        checkpoints: Names or paths, as for `compare_all`.
        reference: What all of them are held against.
        reward_models: Under which.
        workspace: Where names are looked up.
        options: Of the run.

    Raises:
        InputError: As `track` does; the message names what differs.
    """
    right = read_set(reference, "reference", workspace, options.benchmark)
    benchmark = options.benchmark or right.source.benchmark
    choices = benchmark or "", str(options.ties)
    sets = [read_set(c, "checkpoint", workspace, benchmark).completions for c in checkpoints]
    to_come = [
        entry_to_come(
            one, known_step(one.name, one.step, one.source), right.completions, model, choices
        )
        for model in reward_models
        for one in sets
    ]
    entries = merged(history, to_come, run_plan(options))
    check_distinct({e.checkpoint: e.step for e in entries}, options, history)


def check_proxy(names: Sequence[str], options: Options) -> None:
    """Refuse a proxy that is not one of several reward models."""
    if options.proxy is not None and len(names) < 2:
        raise InputError(
            f"a proxy needs a second, held-out reward model; there is only {listing(names)}",
            fix="--reward-model for each of them, the proxy included",
        )
    if options.proxy is not None and options.proxy not in names:
        raise InputError(
            f"proxy {options.proxy!r} is none of the reward models: {listing(names)}",
            fix=did_you_mean(options.proxy, names) or "name it with --reward-model too",
        )


def known_step(name: str, step: int | None, where: str) -> int:
    """The training step of a checkpoint: as stated, else the last integer of its name.

    Raises:
        InputError: Neither is there; tracking cannot do without.
    """
    found = step if step is not None else step_in(name)
    if found is None:
        raise InputError(
            f"checkpoint {name!r} has no training step",
            where=where,
            fix=f"step = 1200 in [checkpoints.{name}] of evalkit.toml, or in a .toml file beside "
            "its own",
        )
    return found


def step_in(name: str) -> int | None:
    """The last integer of a name, such as 1200 of `ckpt_1200`; None without one of 15 digits."""
    digits = re.findall("[0-9]+", name)
    return int(digits[-1]) if digits and len(digits[-1]) <= MOST_DIGITS else None


def check_distinct(
    steps: Mapping[str, int], options: Options, history: History | None = None
) -> None:
    """Refuse, of checkpoint -> step, two alike or more than planned, by a history or just now."""
    known = list(steps.values())
    if len(set(known)) < len(known):
        twice = next(step for step in known if known.count(step) > 1)
        raise InputError(
            f"two checkpoints have step {twice}: "
            f"{listing([name for name, step in steps.items() if step == twice])}",
            fix="give each its own step, or leave one out",
        )
    if options.planned is not None and len(known) > options.planned:
        what = f"{len(known)} checkpoints, but {options.planned} were planned"
        if history and history.plan:
            raise InputError(what, where=str(history.path), fix=OTHER_HISTORY)
        raise InputError(
            what,
            fix="the alarms' error was shared out over those planned: plan for all of them, before "
            "the run, or leave --planned out",
        )


def run_plan(options: Options) -> RunPlan:
    """What a history keeps of the options."""
    return RunPlan(options.planned, options.window, options.level, options.temperature)
