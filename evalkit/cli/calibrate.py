"""`evalkit calibrate`: what a win probability is worth, and the temperature to pass on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.options import (
    SETTINGS,
    level_option,
    missing_option,
    output_options,
    reward_model_options,
    seed_option,
)
from evalkit.cli.shared import Context, Session, check_outputs, present, refuse_given, tell_store
from evalkit.errors import InputError

if TYPE_CHECKING:
    from evalkit.calibrate import Calibration, Options


@click.command()
@click.argument("pairs", metavar="[PAIRS]", required=False)
@click.option(
    "--rewards",
    metavar="FILE",
    help="Rewards you already have, instead of PAIRS: reward_chosen and reward_rejected (JSON "
    "Lines, CSV, Parquet).",
)
@reward_model_options
@missing_option("Pairs without a reward: refuse, or drop and count.")
@click.option("--folds", type=click.IntRange(min=2), default=2, show_default=True)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Shuffles of the pairs into folds.",
)
@click.option(
    "--bins",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    help="Of the confidence, for the calibration error and the figure.",
)
@level_option
@seed_option
@output_options(".json .md .svg or .png")
@click.pass_obj
def calibrate(
    context: Context, /, pairs: str | None, outputs: tuple[Path, ...], **chosen: Any
) -> None:
    """Fit the temperature of the win probability σ(margin / T) to labelled pairs.

    \b
    evalkit calibrate pairs.jsonl --reward-model demo-rm
    evalkit calibrate pairs.jsonl --rm demo-rm -o calibration.md -o reliability.svg
    evalkit calibrate --rewards rewards.csv --json
    """
    from evalkit.calibrate import Options
    from evalkit.report import calibration as report

    source = pairs or chosen["rewards"]
    if not source or (pairs and chosen["rewards"]):
        raise InputError(
            "name either labelled pairs or their rewards",
            fix="evalkit calibrate PAIRS --reward-model RM, or evalkit calibrate --rewards FILE",
        )
    check_outputs(report.check_output, outputs, [source])
    names = ("folds", "repeats", "seed", "bins", "level", "missing")
    options = Options(**{name: chosen[name] for name in names})
    found = _of_pairs(context, pairs, chosen, options) if pairs else _of_rewards(source, options)
    present(report, found, outputs, as_json=chosen["as_json"])


def _of_pairs(
    context: Context, pairs: str, chosen: dict[str, Any], options: Options
) -> Calibration:
    from evalkit.calibrate import calibrate as run

    session = Session(context, chosen)
    with session.open_store() as store:
        found = run(
            pairs,
            session.reward_model(store),
            store,
            options=options,
            settings=session.settings,
        )
        tell_store(store)
    return found


def _of_rewards(source: str, options: Options) -> Calibration:
    from evalkit.calibrate import calibrate_rewards

    refuse_given(("reward_model", *SETTINGS), why="rewards that are already there have")
    return calibrate_rewards(source, options=options)
