"""`evalkit reward-models`: what is known, and what one of them is, measures and gets wrong."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.options import (
    device_option,
    level_option,
    option_of,
    output_options,
    prompts_option,
    reward_model_options,
    run_options,
    seed_option,
    settings_options,
)
from evalkit.cli.shared import (
    Context,
    Session,
    check_outputs,
    is_given,
    present,
    refuse_pairwise,
    tell_store,
    write_outputs,
)
from evalkit.errors import RefusedModelError
from evalkit.text import count

if TYPE_CHECKING:
    from evalkit.check import Checked
    from evalkit.data import Messages


@click.group("reward-models")
def reward_models() -> None:
    """List the reward models evalkit knows; show, check and measure one.

    \b
    evalkit reward-models list
    evalkit reward-models show demo-rm
    evalkit reward-models check demo-rm
    evalkit reward-models card demo-rm -o card.md
    """


@reward_models.command("list")
@click.option("--markdown", is_flag=True, help="Print the table of the README.")
def list_(markdown: bool) -> None:  # noqa: FBT001 - click passes flags so
    """List families and published models, what they output and how they were checked."""
    from evalkit.report import supported

    click.echo(supported.to_markdown() if markdown else supported.to_text(), nl=False)


@reward_models.command()
@click.argument("name")
@settings_options
@click.pass_obj
def show(context: Context, /, name: str, **chosen: Any) -> None:
    """Print as JSON what a reward model is, and all that its fingerprint is over; loads nothing."""
    session = Session(context, chosen)
    with session.open_store() as store:
        spec = session.reward_model(store, name)
    about: dict[str, object] = {
        "name": spec.name,
        "path": str(spec.path),
        "family": spec.family.name,
        "output": spec.family.output,
        "attributes": list(spec.attributes),
        "notices": [note for note in (spec.notice, spec.family.note) if note],
        "fingerprint": spec.fingerprint,
        "manifest": spec.manifest,
    }
    if spec.endpoint is not None:
        about["endpoint"] = asdict(spec.endpoint)
    click.echo(json.dumps(about, indent=2, ensure_ascii=True))


@reward_models.command()
@click.argument("source", metavar="FILE|NAME")
@reward_model_options
@prompts_option
@click.option("--rows", type=click.IntRange(min=1), default=64, show_default=True, help="At most.")
@click.pass_obj
def noise(context: Context, /, source: str, **chosen: Any) -> None:
    """Score rows alone and in batches: how small a margin is the reward model's own noise?"""
    from evalkit.scoring.noise import measure

    session = Session(context, chosen)
    conversations = _conversations(session, source, chosen)
    with session.open_store() as store:
        spec = session.reward_model(store)
    refuse_pairwise(spec)
    found = measure(spec, conversations, settings=session.settings)
    click.echo(
        f"{spec.name} ({spec.dtype}): {count(found.conversations, 'conversation')} scored alone "
        f"and twice in batches; one reward moves by at most {found.band:.3g}"
        + (f", {found.spread:.3g} being their standard deviation" if found.spread else "")
    )
    click.echo(f"use it as a tie band: --ties margin={found.band!r}")


@reward_models.command()
@click.argument("name", metavar="RM")
@click.option("--data", metavar="FILE|NAME", help="Completions to try. [own-written probes]")
@prompts_option
@click.option(
    "--rows", type=click.IntRange(min=1), default=64, show_default=True, help="Of --data, at most."
)
@settings_options
@device_option
@output_options(".json, .md or .txt")
@click.pass_obj
def check(context: Context, /, name: str, outputs: tuple[Path, ...], **chosen: Any) -> int:
    """Load a reward model and measure what goes wrong in practice, each finding with its fix.

    Doubled BOS, an open last turn, padding that is EOS, rewards that move with batch, padding side
    or date, random heads, squashed scores, cut tails and others; also where evalkit itself is
    immune and others who read the same files are not. Exits with 3 if anything is found.

    \b
    evalkit reward-models check demo-rm
    evalkit reward-models check org/name@revision --data ckpt_1200 -o check.md
    """
    from evalkit.report import check as report

    check_outputs(report.check_output, outputs, [chosen["data"]])
    found = _checked(Session(context, chosen), name, chosen)
    present(report, found, outputs, as_json=chosen["as_json"])
    return found.exit_code


def _checked(session: Session, name: str, chosen: dict[str, Any]) -> Checked:
    from evalkit.check import check as run
    from evalkit.check import of_refusal

    data = chosen["data"]
    conversations = _conversations(session, data, chosen) if data else []
    try:
        with session.open_store() as store:
            spec = session.reward_model(store, name)
    except RefusedModelError as error:
        return of_refusal(Path(name).name if Path(name).is_dir() else name, error)
    return run(spec, conversations, device=session.settings.device)


def _conversations(session: Session, source: str, chosen: dict[str, Any]) -> list[Messages]:
    from evalkit.scoring import lines
    from evalkit.sets import read_rows

    rows, prompts, _ = read_rows(source, "checkpoint", session.workspace, chosen["benchmark"])
    return lines.conversations(rows[: chosen["rows"]], prompts, source)


@reward_models.command()
@click.argument("name")
@settings_options
@run_options
@click.option(
    "-d",
    "--data",
    multiple=True,
    metavar="FILE|NAME",
    help="Completions to measure on; repeatable. [all that answers the benchmark]",
)
@prompts_option
@click.option("--pairs", metavar="FILE", help="Labelled pairs, for accuracy and calibration.")
@click.option(
    "--accuracy",
    "suites",
    multiple=True,
    metavar="SUITE[=PATH]",
    help="A suite for accuracy, and where its rows are; repeatable.",
)
@click.option(
    "--noise-rows",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Scored again for noise and throughput, at most; none by a judge.",
)
@click.option(
    "--throughput/--no-throughput",
    default=True,
    help="Time the forward passes, or the requests to a server, but not to a judge; without, the "
    "same command writes the same bytes. [on]",
)
@level_option
@seed_option
@output_options(".md or .json")
@click.pass_context
def card(ctx: click.Context, /, name: str, outputs: tuple[Path, ...], **chosen: Any) -> None:
    """Measure a reward model and write its metric card.

    \b
    evalkit reward-models card demo-rm -o card.md
    evalkit reward-models card models/rm -d ckpt_1200 -d gpt4_refs --pairs pairs.jsonl
    """
    from evalkit.card import Options, measure
    from evalkit.report import card as report

    check_outputs(report.check_output, outputs, (*chosen["data"], chosen["pairs"]))
    session = Session(ctx.obj, chosen)
    names = ("benchmark", "pairs", "noise_rows", "throughput", "level", "seed")
    options = Options(
        suites=tuple(
            (suite, path) for suite, _, path in (s.partition("=") for s in chosen["suites"])
        ),
        command=_command(ctx),
        **{option: chosen[option] for option in names},
    )
    with session.open_store() as store:
        found = measure(
            session.reward_model(store, name),
            chosen["data"],
            session.workspace,
            store,
            options=options,
            settings=session.settings,
        )
        tell_store(store)
    text = report.to_json(found) if chosen["as_json"] else report.to_markdown(found)
    click.echo(text.decode(), nl=False)
    write_outputs(report.write, found, outputs)


def _command(ctx: click.Context) -> str:
    """The command line as given, less what says where its result goes."""
    words = [ctx.command_path]
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if not is_given(name) or name in {"outputs", "as_json"}:
            continue
        value = ctx.params[name]
        if isinstance(parameter, click.Argument):
            words.append(shlex.quote(value))
        elif isinstance(value, bool):
            words.append([*parameter.secondary_opts, *parameter.opts][value])
        else:
            for one in value if isinstance(value, tuple) else [value]:
                words += [option_of(parameter), shlex.quote(str(one))]
    return " ".join(words)
