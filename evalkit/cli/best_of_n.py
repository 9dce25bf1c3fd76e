"""`evalkit best-of-n`: what choosing among several completions is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.options import (
    benchmark_option,
    level_option,
    missing_option,
    output_options,
    reference_option,
    reward_model_options,
    whole_numbers,
)
from evalkit.cli.shared import Context, Session, check_outputs, present, tell_store

if TYPE_CHECKING:
    from evalkit.best_of_n import BestOfN, Options


@click.command("best-of-n")
@click.option(
    "-m",
    "--model",
    required=True,
    metavar="M",
    help="Checkpoint: a name or a file with several completions per prompt.",
)
@reference_option(", for the pick's win rate")
@benchmark_option
@reward_model_options
@click.option(
    "--score-with",
    "scorer",
    metavar="RM",
    help="Another reward model, to score what --reward-model chooses; --family, --param, --dtype, "
    "--max-length and --overlong are not for it.",
)
@click.option(
    "--k",
    "ks",
    metavar="K,…",
    callback=whole_numbers,
    help="Completions to choose from, such as 1,2,4,8. [powers of 2 up to the fewest of a prompt]",
)
@missing_option(
    "Prompts with too few completions, or one without a reward: refuse, or drop and count."
)
@level_option
@output_options(".json .csv .md or .svg")
@click.pass_obj
def best_of_n(context: Context, /, outputs: tuple[Path, ...], **chosen: Any) -> None:
    """What the best of k completions is worth, chosen by one reward model, scored by another.

    \b
    evalkit best-of-n --model samples.jsonl --reward-model demo-rm
    evalkit best-of-n -m samples.jsonl -r gpt4_refs --rm demo-rm --k 1,2,4 -o curve.svg
    """
    from evalkit.best_of_n import Options
    from evalkit.report import best_of_n as report

    check_outputs(report.check_output, outputs, (chosen["model"], chosen["reference"]))
    options = Options(
        benchmark=chosen["benchmark"],
        ks=chosen["ks"],
        missing=chosen["missing"],
        level=chosen["level"],
    )
    found = _run(context, chosen, options)
    present(report, found, outputs, as_json=chosen["as_json"])


def _run(context: Context, chosen: dict[str, Any], options: Options) -> BestOfN:
    from evalkit.best_of_n import Models
    from evalkit.best_of_n import best_of_n as run

    session = Session(context, chosen)
    with session.open_store() as store:
        selector = session.reward_model(store)
        scorer = selector
        if chosen["scorer"]:
            scorer = session.reward_model(store, chosen["scorer"], as_stated=True)
        found = run(
            chosen["model"],
            Models(selector, scorer),
            session.workspace,
            store,
            reference=chosen["reference"],
            options=options,
            settings=session.settings,
        )
        tell_store(store)
    return found
