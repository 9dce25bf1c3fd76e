"""`evalkit track`: a run over its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from evalkit.cli.demands import demand_options, demands
from evalkit.cli.github import tell_github
from evalkit.cli.options import (
    benchmark_option,
    level_option,
    metric_option,
    missing_option,
    output_options,
    reference_option,
    reward_models_options,
    seed_option,
    temperature_option,
    ties_option,
)
from evalkit.cli.shared import (
    Context,
    Session,
    check_outputs,
    default_reference,
    is_given,
    present,
    refuse_overwriting,
    tell_store,
    tie_rule,
)
from evalkit.errors import InputError
from evalkit.text import count

if TYPE_CHECKING:
    from evalkit.comparison import Comparison
    from evalkit.gate import Policy
    from evalkit.track import Options
    from evalkit.track.history import History

DIRECT = (
    "metric",
    "benchmark",
    "planned",
    "window",
    "missing",
    "level",
    "seed",
    "proxy",
    "temperature",
)


@click.command()
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    metavar="M",
    help="Checkpoints: a name, a file of completions, or a pattern such as 'ckpt_*'; repeatable.",
)
@reference_option()
@benchmark_option
@reward_models_options
@click.option(
    "--proxy", metavar="RM", help="The reward model trained against; the others are held out."
)
@metric_option
@temperature_option
@click.option(
    "--planned",
    type=click.IntRange(min=1),
    metavar="N",
    help="Checkpoints the run will have, said before it starts; alarms then come sooner.",
)
@click.option(
    "--window",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Neighbouring checkpoints averaged for the alarm.",
)
@click.option(
    "--history",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Checkpoints of earlier runs are read from FILE, and these are added; it keeps --planned, "
    "--window, --ci and --temperature.",
)
@missing_option("Prompts that cannot be paired: refuse, or drop and count.")
@ties_option
@level_option
@seed_option
@partial(demand_options, alarm=True)
@output_options(".json .csv .md .html .svg or .png")
@click.pass_obj
def track(context: Context, /, outputs: tuple[Path, ...], **chosen: Any) -> int:
    """Follow a run: which checkpoint to take, and is it past its best?

    \b
    evalkit track --model 'ckpt_*' --ref gpt4_refs --history run.jsonl
    evalkit track -m ckpt_1600 -r gpt4_refs --history run.jsonl --fail-on alarm
    evalkit track -m 'ckpt_*' -r gpt4_refs --fail-on regression:vs=previous --margin 0.05
    evalkit track -m 'ckpt_*' -r gpt4_refs --rm ours --rm other --proxy ours -o run.html
    """
    from evalkit.gate import judge
    from evalkit.report import track as report
    from evalkit.report.gate import to_text
    from evalkit.track import track as run
    from evalkit.track.history import read_history

    session = Session(context, chosen)
    named = _named(session, chosen, outputs)
    history = None if chosen["history"] is None else read_history(chosen["history"])
    options = _options(chosen, history)
    demanded = _demanded(chosen, options)
    comparisons = _compared(session, chosen, named, history, options)
    found = run(comparisons, history=history, options=options)
    if demanded:
        found = replace(found, verdict=judge(report.document(found), demanded))
    present(report, found, outputs, as_json=chosen["as_json"])
    if found.stored:
        said = f"{count(len(found.stored), 'checkpoint')} from {chosen['history']} alone"
        click.echo(said, err=True)
    if found.verdict:
        click.echo(to_text(found.verdict), nl=False, err=True)
        tell_github(found.verdict, asked=chosen["github"])
    return found.exit_code


def _demanded(chosen: dict[str, Any], options: Options) -> Policy | None:
    """The rules of the command line; what they are about must be what is tracked."""
    from evalkit.gate.policy import ALARM
    from evalkit.track.result import Metric

    demanded = demands({**chosen, "level": options.level}, alarm=True)
    for rule in demanded.rules if demanded else ():
        if rule.metric not in {options.metric, ALARM}:
            other = rule.metric if rule.metric in get_args(Metric) else ""
            instead = f"--metric {other}" if other else "evalkit compare for rules in other metrics"
            raise InputError(
                f"the run tracks {options.metric}, not {rule.metric}",
                fix=f"{instead}, or a rule of {options.metric}, such as --fail-on "
                f"regression:metric={options.metric}:vs=previous",
            )
    return demanded


def _named(
    session: Session, chosen: dict[str, Any], outputs: tuple[Path, ...]
) -> tuple[list[str], str]:
    """The checkpoints and the reference; no output or history is one of them."""
    from evalkit.report.track import check_output
    from evalkit.track import matching

    if not chosen["models"]:
        raise InputError("no checkpoint is named", fix="--model NAME, or --model 'ckpt_*'")
    checkpoints = matching(chosen["models"], session.workspace)
    reference = chosen["reference"] or default_reference(session)
    sources = [session.workspace.completion_set(name, "checkpoint") for name in checkpoints]
    sources.append(session.workspace.completion_set(reference, "reference"))
    inputs = [source.path for source in sources]
    if (history := chosen["history"]) is not None:
        _check_writable(history, inputs, outputs)
    check_outputs(check_output, outputs, inputs)
    return checkpoints, reference


def _compared(
    session: Session,
    chosen: dict[str, Any],
    named: tuple[list[str], str],
    history: History | None,
    options: Options,
) -> list[list[Comparison]]:
    """Every checkpoint under every reward model; what can be refused is, before one is loaded."""
    from evalkit.track import check_history, compare_all

    checkpoints, reference = named
    with session.open_store() as store:
        names = chosen["reward_models"] or [None]
        models = [session.reward_model(store, name) for name in names]
        if history is not None:
            check_history(history, checkpoints, reference, models, session.workspace, options)
        found = compare_all(
            checkpoints,
            reference,
            models,
            session.workspace,
            store,
            options=options,
            settings=session.settings,
        )
        tell_store(store)
    return found


def _options(chosen: dict[str, Any], history: History | None) -> Options:
    """The choices; what the command line leaves out of the plan is the history's, and is said."""
    from evalkit.track import Options

    direct = {name: chosen[name] for name in DIRECT}
    if history is not None and history.plan is not None:
        plan = {k: v for k, v in history.plan._asdict().items() if not is_given(k)}
        if plan != {k: direct[k] for k in plan}:
            click.echo(f"{history.plan}: as {history.path} says", err=True)
        direct |= plan
    return Options(ties=tie_rule(chosen["ties"]), **direct)


def _check_writable(history: Path, inputs: Sequence[str], outputs: tuple[Path, ...]) -> None:
    """Refuse a history that cannot be written, before any work is done for it."""
    from evalkit.track.history import is_file

    is_file(history)
    refuse_overwriting(history, inputs)
    if any(path.resolve() == history.resolve() for path in outputs):
        raise InputError(f"{history} is the history", fix="name another output")
    if not history.parent.is_dir():
        raise InputError(f"cannot write {history}: no folder {history.parent}", fix="create it")
