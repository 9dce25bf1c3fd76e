"""`evalkit validate`: do intervals and rules hold what they say?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evalkit.cli.options import output_option
from evalkit.cli.shared import Context, check_outputs
from evalkit.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from evalkit.validate import Validation

FAILED = 3


@click.command()
@click.option("--quick", is_flag=True, help="A few designs and trials: under 30 seconds.")
@click.option(
    "--trials",
    type=click.IntRange(min=2),
    help="Data sets a design; fewer of long ones. [4000, 300 if quick]",
)
@click.option("--seed", type=click.IntRange(min=0), help="[that of docs/validation.csv]")
@output_option(".md (both tables), .csv (the intervals) or .decisions.csv (the rules)")
@click.option(
    "--check",
    "written",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Compare with a file written before, byte for byte; repeatable.",
)
@click.pass_obj
def validate(
    context: Context,
    /,
    quick: bool,  # noqa: FBT001
    trials: int | None,
    seed: int | None,
    outputs: tuple[Path, ...],
    written: tuple[Path, ...],
) -> int:
    """Simulate how often evalkit's intervals hold a known truth, beside other methods.

    And how often its gates and alarms are wrong, beside other rules. About 12 minutes. Exit code 3
    if an interval or a rule of evalkit does not do as it says and the tables do not say why, 5 if
    --check finds a difference.

    \b
    evalkit validate --quick
    evalkit validate --check docs/validation.md
    """
    from evalkit import validate as of
    from evalkit.files import write_atomic
    from evalkit.report import validation

    check_outputs(validation.check_output, outputs, written)
    for path in written:
        validation.check_output(path)
    if quick and written:
        raise InputError("--quick rebuilds no whole table", fix="leave --quick or --check out")
    count = trials or (of.QUICK_TRIALS if quick else of.TRIALS)
    number = of.SEED if seed is None else seed
    shown = context.progress and sys.stderr.isatty()
    tables = _simulated(count, number, quick=quick, shown=shown)
    click.echo(validation.to_text(tables), nl=False)
    for path in outputs:
        write_atomic(path, validation.written(path, tables))
        click.echo(f"wrote {path}", err=True)
    for path in written:
        if line := validation.difference(path, tables):
            raise IntegrityError(
                f"{path} is not what the simulation gives",
                where=line,
                fix=f"if the change is meant: evalkit validate -o {path}",
            )
    return 0 if tables.passes else FAILED


def _simulated(trials: int, seed: int, *, quick: bool, shown: bool) -> Validation:
    """Both tables, behind a progress bar if it is shown."""
    from tqdm import tqdm

    from evalkit import validate as of

    designs, studies = (
        (of.quick_designs(), of.quick_studies()) if quick else (of.designs(), of.studies())
    )
    tables = of.Validation([], [])
    number = len(designs) + len(studies)
    with tqdm(total=number, unit="design", leave=False, disable=not shown) as bar:
        for design in designs:
            tables.cells.extend(of.simulate(trials=trials, seed=seed, cells=[design]))
            bar.update()
        for study in studies:
            tables.decisions.extend(of.decide(trials=trials, seed=seed, of=[study]))
            bar.update()
    return tables
