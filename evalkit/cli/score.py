"""`evalkit score`: one reward per row of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from evalkit.cli.options import prompts_option, reward_model_options
from evalkit.cli.shared import Context, Session, refuse_overwriting, refuse_pairwise, tell_store
from evalkit.errors import InputError, MissingError
from evalkit.text import count, listing, printable


@click.command()
@click.argument("source", metavar="[FILE|NAME]", required=False)
@reward_model_options
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="YAML",
    help="OpenDataArena's InfOrmScorer configuration: model, max_length and, where it has them, "
    "input and output; over-long rows lose their end, as there.",
)
@prompts_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write JSON Lines to FILE. [stdout]",
)
@click.pass_obj
def score(context: Context, /, source: str | None, output: Path | None, **chosen: Any) -> None:
    """Write {"id": …, "score": …} for each row, ids and order as in FILE.

    \b
    evalkit score answers.jsonl --reward-model demo-rm -o scores.jsonl
    evalkit score --config InfOrmScorer.yaml rows.jsonl -o scores.jsonl
    """
    from evalkit.data import fix_of
    from evalkit.scoring import lines
    from evalkit.scoring import score as run
    from evalkit.sets import packs_of, read_rows

    source, output, make = _configure(chosen, source, output)
    if output is not None:
        _check_output(output, source, make=make)
    session = Session(context, chosen)
    rows, prompts, found = read_rows(source, "checkpoint", session.workspace, chosen["benchmark"])
    conversations = lines.conversations(rows, prompts, source)
    with session.open_store() as store:
        spec = session.reward_model(store)
        refuse_pairwise(spec)
        scored = run(spec, conversations, store, packs=packs_of(found), settings=session.settings)
        tell_store(store, scored)
    for note in filter(None, (spec.notice, spec.family.note)):
        click.echo(f"note: {printable(note)}", err=True)
    text, cut, problems = lines.score_lines(rows, conversations, scored, spec.attributes)
    if cut:
        said = f"warning: {cut} of {count(len(rows), 'row')} lost tokens: tokens_cut in its line"
        click.echo(said, err=True)
    if output is None:
        click.echo(text, nl=False)
    else:
        _write(output, text, make=make)
    if problems:
        raise MissingError(
            f"{count(len(problems), 'row')} without a score: null in the output, with the reason",
            where=listing(problems, separator="\n     "),
            fix=fix_of(scored.problems.values()),
        )


def _configure(
    chosen: dict[str, Any], source: str | None, output: Path | None
) -> tuple[str, Path | None, bool]:
    """Let a configuration say what the command line does not.

    Returns:
        The rows, the output, and whether its folder is to be made: a configuration's is.
    """
    make = False
    if chosen["config"] is not None:
        from evalkit.scoring.opendataarena import OVERLONG, read_config

        config = read_config(chosen["config"])
        for note in config.notes:
            click.echo(f"note: {printable(note)}", err=True)
        asked = {
            "reward_model": config.model,
            "max_length": config.max_length,
            "overlong": OVERLONG,
            "batch_tokens": config.batch_size * config.max_length,
        }
        chosen |= {key: value for key, value in asked.items() if chosen[key] is None}
        make = output is None
        source, output = source or config.source, output or config.output
    if source is None:
        raise InputError("no rows to score are named", fix="evalkit score FILE --reward-model RM")
    return source, output, make


def _check_output(output: Path, source: str, *, make: bool) -> None:
    if not output.parent.is_dir() and not make:
        raise InputError(
            f"cannot write {output}: no folder {output.parent}", fix="create the folder"
        )
    refuse_overwriting(output, [source])


def _write(output: Path, text: str, *, make: bool) -> None:
    from evalkit.files import write_atomic

    try:
        if make:
            output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {output.parent}: {error.strerror}",
            fix="name another with -o FILE",
        ) from None
    write_atomic(output, text.encode())
    click.echo(f"wrote {output}", err=True)
