"""`evalkit refs`: references, their origin and their cached rewards."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from evalkit.cli.options import reward_model_options
from evalkit.cli.shared import Context, Session, tell_store
from evalkit.errors import EvalkitError, InputError, MissingError
from evalkit.text import listing, printable


@click.group()
def refs() -> None:
    """Add, list, show, verify and remove references.

    \b
    evalkit refs add my_refs answers.jsonl --generator "my model" --reward-model demo-rm
    evalkit refs show gpt4_refs
    """


@refs.command()
@click.argument("name")
@click.argument("file")
@click.option("-b", "--benchmark", metavar="NAME", help="Whose prompts it answers.")
@click.option("--generator", default="", help="What wrote the completions.")
@click.option("--source", "origin", default="", help="Where they come from. [the file's name]")
@click.option("--licence", default="", help="Under which terms.")
@click.option(
    "--stand-in",
    default="",
    metavar="NOTE",
    help='Say in every output what it only stands in for, e.g. "stand-in, not GPT-4 output".',
)
@click.option("--replace", is_flag=True, help="Replace an existing reference and its rewards.")
@reward_model_options
@click.pass_obj
def add(context: Context, /, name: str, file: str, **chosen: Any) -> None:
    """Make the reference NAME of the completions in FILE.

    With --reward-model its rewards are computed now and put beside it, to travel with it.
    """
    from evalkit import references

    session = Session(context, chosen)
    origin = references.Origin(
        generator=chosen["generator"],
        source=chosen["origin"],
        licence=chosen["licence"],
        stand_in=chosen["stand_in"],
    )
    if chosen["reward_model"]:  # refused before anything is written
        with session.open_store() as store:
            session.reward_model(store)
    folder = references.add(
        name,
        file,
        session.workspace,
        benchmark=chosen["benchmark"],
        origin=origin,
        replace=chosen["replace"],
    )
    click.echo(f"added {folder}", err=True)
    if chosen["reward_model"]:
        _cache(name, session)


def _cache(name: str, session: Session) -> None:
    from evalkit import references
    from evalkit.data import fix_of

    with session.open_store() as store:
        spec = session.reward_model(store)
        pack, scored = references.cache_rewards(
            name, spec, session.workspace, store, session.settings
        )
        tell_store(store, scored)
    if pack is None:
        raise MissingError(
            f"{len(scored.problems)} completions of {name!r} have no reward",
            where=listing(list(scored.problems.values())),
            fix=f"{fix_of(scored.problems.values())}; then add the reference again with --replace, "
            "or score it again: rewards are kept",
        )
    click.echo(f"rewards: {pack}", err=True)


@refs.command()
@click.argument("name")
@reward_model_options
@click.pass_obj
def score(context: Context, /, name: str, **chosen: Any) -> None:
    """Put the rewards of one more reward model beside the reference NAME."""
    _cache(name, Session(context, chosen))


@refs.command("list")
def list_() -> None:
    """List the references of the workspace."""
    from evalkit import references

    workspace = _workspace()
    if not workspace.reference_names():
        click.echo(f"no references in {workspace.references}", err=True)
    for name in workspace.reference_names():
        try:
            about = references.describe(name, workspace)
        except EvalkitError as error:
            click.echo(printable(f"{name}  damaged: {error.what}"))
            continue
        note = f"  ({about['stand_in']})" if about.get("stand_in") else ""
        rewards = listing(sorted(about["rewards"].values()))
        line = f"{name}  {about['completions']} completions  rewards: {rewards}{note}"
        click.echo(printable(line))


@refs.command()
@click.argument("name")
def show(name: str) -> None:
    """Print what is known about a reference as JSON."""
    from evalkit import references

    about = references.describe(name, _workspace())
    click.echo(json.dumps(about, indent=2, ensure_ascii=True))


@refs.command()
@click.argument("name")
def verify(name: str) -> None:
    """Check a reference and its rewards against their digests."""
    from evalkit import references

    for line in references.verify(name, _workspace()):
        click.echo(line)


@refs.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(name: str, yes: bool) -> None:  # noqa: FBT001 - click passes flags so
    """Delete a reference; its rewards stay in the live store."""
    from evalkit import references

    workspace = _workspace()
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(f"refusing to delete {name!r} unasked", fix="confirm with --yes")
        click.confirm(f"delete reference {name!r}?", abort=True)
    references.remove(name, workspace)
    click.echo(f"removed {name}", err=True)


def _workspace() -> Any:
    from pathlib import Path

    from evalkit.workspace import Workspace

    return Workspace.find(Path.cwd())
