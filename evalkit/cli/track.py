"""`evalkit track`: a run over its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from evalkit.cli.demands import demand_options, demands
from evalkit.cli.github import tell_github
from evalkit.cli.shared import (
    Context,
    Session,
    default_reference,
    level_option,
    missing_option,
    output_options,
    present,
    refuse_overwriting,
    reward_models_options,
    tell_store,
    tie_rule,
    ties_option,
)
from evalkit.errors import InputError
from evalkit.text import count

if TYPE_CHECKING:
    from evalkit.comparison import Comparison
    from evalkit.gate import Policy
    from evalkit.track import Options

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
@click.option("-r", "--ref", "reference", metavar="R", help="Reference: a name or a file.")
@click.option("-b", "--benchmark", metavar="NAME", help="All of its prompts must be answered.")
@reward_models_options
@click.option(
    "--proxy", metavar="RM", help="The reward model trained against; the others are held out."
)
@click.option(
    "--metric",
    type=click.Choice(["win_rate", "win_probability"]),
    default="win_rate",
    show_default=True,
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, min_open=True),
    metavar="T",
    help="Of the win probability σ(margin / T). [1 for Bradley-Terry reward models, else none]",
)
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
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
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
    from evalkit.track import Options
    from evalkit.track import track as run

    for path in outputs:
        report.check_output(path)
    named = _named(Session(context, chosen), chosen, outputs)
    _follow_plan(chosen)
    options = Options(
        ties=tie_rule(chosen["ties"]),
        **{name: chosen[name] for name in DIRECT},
    )
    demanded = _demanded(chosen, options)
    comparisons = _compared(context, chosen, named, options)
    found = run(comparisons, history=chosen["history"], options=options)
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

    demanded = demands(chosen, alarm=True)
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
    for path in outputs:
        refuse_overwriting(path, inputs)
    return checkpoints, reference


def _compared(
    context: Context, chosen: dict[str, Any], named: tuple[list[str], str], options: Options
) -> list[list[Comparison]]:
    """Every checkpoint under every reward model; what can be refused is, before one is loaded."""
    from evalkit.track import check_history, compared
    from evalkit.track.history import read_history

    session, (checkpoints, reference) = Session(context, chosen), named
    with session.open_store() as store:
        sessions = [
            Session(context, {**chosen, "reward_model": name})
            for name in chosen["reward_models"] or [None]
        ]
        models = [one.reward_model(store) for one in sessions]
        if chosen["history"] is not None:
            known = read_history(chosen["history"])
            check_history(known, checkpoints, reference, models, session.workspace, options)
        found = compared(
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


def _follow_plan(chosen: dict[str, Any]) -> None:
    """Take what the command line leaves out of the plan from the history, and say so."""
    from evalkit.track.history import read_history

    plan = read_history(chosen["history"]).plan if chosen["history"] else None
    if plan is None:
        return
    source = click.get_current_context().get_parameter_source
    stated = {name for name in plan._fields if source(name) is ParameterSource.COMMANDLINE}
    followed = {k: v for k, v in plan._asdict().items() if k not in stated and chosen[k] != v}
    if followed:
        chosen.update(followed)
        click.echo(f"{plan}: as {chosen['history']} says", err=True)


def _check_writable(history: Path, inputs: Sequence[str], outputs: tuple[Path, ...]) -> None:
    """Refuse a history that cannot be written, before any work is done for it."""
    from evalkit.track.history import is_file

    is_file(history)
    refuse_overwriting(history, inputs)
    if any(path.resolve() == history.resolve() for path in outputs):
        raise InputError(f"{history} is the history", fix="name another output")
    if not history.parent.is_dir():
        raise InputError(f"cannot write {history}: no folder {history.parent}", fix="create it")
