"""`evalkit score`: one reward per row of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from evalkit.cli.shared import (
    Context,
    Session,
    refuse_overwriting,
    reward_model_options,
    tell_store,
)
from evalkit.errors import InputError, MissingError
from evalkit.text import count, listing, printable


@click.command()
@click.argument("source", metavar="FILE|NAME")
@reward_model_options
@click.option("-b", "--benchmark", metavar="NAME", help="Whose prompts the ids stand for.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write JSON Lines to FILE. [stdout]",
)
@click.pass_obj
def score(
    context: Context, /, source: str, output: Path | None, benchmark: str | None, **chosen: Any
) -> None:
    """Write {"id": …, "score": …} for each row, ids and order as in FILE.

    \b
    evalkit score answers.jsonl --reward-model demo-rm -o scores.jsonl
    """
    from evalkit.scoring import lines
    from evalkit.scoring import score as run
    from evalkit.sets import packs_of, read_rows
    from evalkit.workspace import write_atomic

    if output is not None and not output.parent.is_dir():
        raise InputError(
            f"cannot write {output}: no folder {output.parent}", fix="create the folder"
        )
    if output is not None:
        refuse_overwriting(output, [source])
    session = Session(context, chosen)
    rows, prompts, found = read_rows(source, "checkpoint", session.workspace, benchmark)
    conversations = lines.conversations(rows, prompts, source)
    with session.open_store() as store:
        spec = session.reward_model(store)
        scored = run(spec, conversations, store, packs=packs_of(found), settings=session.settings)
        tell_store(store, scored)
    if spec.notice:
        click.echo(f"note: {printable(spec.notice)}", err=True)
    text, problems = lines.score_lines(rows, conversations, scored)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_atomic(output, text.encode())
        click.echo(f"wrote {output}", err=True)
    if problems:
        raise MissingError(
            f"{count(len(problems), 'row')} without a score: null in the output, with the reason",
            where=listing(problems, separator="\n     "),
            fix="mend these rows; for long ones see --max-length and --overlong",
        )
