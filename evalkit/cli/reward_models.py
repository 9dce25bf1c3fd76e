"""`evalkit reward-models`: what is known, and what one of them is."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from evalkit.cli.shared import (
    Context,
    Session,
    refuse_pairwise,
    reward_model_options,
    settings_options,
)
from evalkit.text import count


@click.group("reward-models")
def reward_models() -> None:
    """List the reward models evalkit knows, and show one.

    \b
    evalkit reward-models list
    evalkit reward-models show demo-rm
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
    from evalkit.scoring import lines
    from evalkit.scoring.noise import measure
    from evalkit.sets import read_rows

    session = Session(context, chosen)
    rows, prompts, _ = read_rows(source, "checkpoint", session.workspace, chosen["benchmark"])
    conversations = lines.conversations(rows[: chosen["rows"]], prompts, source)
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
