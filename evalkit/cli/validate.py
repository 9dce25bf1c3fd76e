"""`evalkit validate`: do the intervals hold the truth as often as they say?"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from evalkit.cli.shared import Context, refuse_overwriting
from evalkit.errors import InputError, IntegrityError

FAILED = 3


@click.command()
@click.option("--quick", is_flag=True, help="A few designs and trials: under 20 seconds.")
@click.option(
    "--trials", type=click.IntRange(min=2), help="Data sets a design. [4000, 300 if quick]"
)
@click.option("--seed", type=click.IntRange(min=0), help="[that of docs/validation.csv]")
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Write FILE as .csv or .md; repeatable.",
)
@click.option(
    "--check",
    "written",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Compare with a table written before, byte for byte.",
)
@click.pass_obj
def validate(
    context: Context,
    /,
    quick: bool,  # noqa: FBT001
    trials: int | None,
    seed: int | None,
    outputs: tuple[Path, ...],
    written: Path | None,
) -> int:
    """Simulate how often evalkit's intervals hold a known truth, beside other methods.

    About 5 minutes. Exit code 3 if an interval of evalkit holds less or more than it says and the
    table does not say why, 5 if --check finds a difference.

    \b
    evalkit validate --quick
    evalkit validate --check docs/validation.csv
    """
    from tqdm import tqdm

    from evalkit import validate as of
    from evalkit.report import validation
    from evalkit.workspace import write_atomic

    for path in (*outputs, *filter(None, [written])):
        validation.check_output(path)
    for path in outputs:
        refuse_overwriting(path, [str(written)] if written else [])
    if quick and written:
        raise InputError("--quick rebuilds no whole table", fix="leave --quick or --check out")
    count = trials or (of.QUICK_TRIALS if quick else of.TRIALS)
    bar = tqdm(
        of.quick_designs() if quick else of.designs(),
        unit="design",
        leave=False,
        disable=not (context.progress and sys.stderr.isatty()),
    )
    number = of.SEED if seed is None else seed
    cells = [c for one in bar for c in of.simulate(trials=count, seed=number, cells=[one])]
    click.echo(validation.to_text(cells), nl=False)
    for path in outputs:
        write_atomic(path, validation.WRITERS[path.suffix](cells))
        click.echo(f"wrote {path}", err=True)
    if written and (line := validation.difference(written, cells)):
        raise IntegrityError(
            f"{written} is not what the simulation gives",
            where=line,
            fix=f"if the change is meant: evalkit validate -o {written}",
        )
    return 0 if all(c.passes for c in cells if c.whose == "evalkit") else FAILED
