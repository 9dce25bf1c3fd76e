"""`evalkit reward-models`: what is known, what one of them is, and what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.shared import (
    Context,
    Session,
    device_option,
    output_options,
    refuse_overwriting,
    refuse_pairwise,
    reward_model_options,
    settings_options,
)
from evalkit.errors import RefusedModelError
from evalkit.text import count

if TYPE_CHECKING:
    from evalkit.check import Checked
    from evalkit.data import Messages


@click.group("reward-models")
def reward_models() -> None:
    """List the reward models evalkit knows, show one, and look for what is wrong with one.

    \b
    evalkit reward-models list
    evalkit reward-models show demo-rm
    evalkit reward-models check demo-rm
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
    session = Session(context, {**chosen, "reward_model": name})
    with session.open_store() as store:
        spec = session.reward_model(store)
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
@click.option("-b", "--benchmark", metavar="NAME", help="Whose prompts the ids stand for.")
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
    found = measure(spec, conversations, device=session.settings.device)
    click.echo(
        f"{spec.name} ({spec.dtype}): {count(found.conversations, 'conversation')} scored alone "
        f"and twice in batches; one reward moves by at most {found.band:.3g}"
        + (f", {found.spread:.3g} being their standard deviation" if found.spread else "")
    )
    click.echo(f"use it as a tie band: --ties margin={found.band!r}")


@reward_models.command()
@click.argument("name", metavar="RM")
@click.option("--data", metavar="FILE|NAME", help="Completions to try. [own-written probes]")
@click.option(
    "-b", "--benchmark", metavar="NAME", help="Whose prompts the ids of --data stand for."
)
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

    for path in outputs:
        report.check_output(path)
        refuse_overwriting(path, [chosen["data"]] if chosen["data"] else [])
    found = _checked(Session(context, {**chosen, "reward_model": name}), name, chosen)
    click.echo(
        report.to_json(found).decode() if chosen["as_json"] else report.to_text(found), nl=False
    )
    for path in outputs:
        report.write(found, path)
        click.echo(f"wrote {path}", err=True)
    return found.exit_code


def _checked(session: Session, name: str, chosen: dict[str, Any]) -> Checked:
    from evalkit.check import check as run
    from evalkit.check import of_refusal

    data = chosen["data"]
    conversations = _conversations(session, data, chosen) if data else []
    try:
        with session.open_store() as store:
            spec = session.reward_model(store)
    except RefusedModelError as error:
        return of_refusal(name, error)
    return run(spec, conversations, device=session.settings.device)


def _conversations(session: Session, source: str, chosen: dict[str, Any]) -> list[Messages]:
    from evalkit.scoring import lines
    from evalkit.sets import read_rows

    rows, prompts, _ = read_rows(source, "checkpoint", session.workspace, chosen["benchmark"])
    return lines.conversations(rows[: chosen["rows"]], prompts, source)
