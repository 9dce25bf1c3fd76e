"""`evalkit leaderboard`: all checkpoints and references on one scale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.options import (
    level_option,
    missing_option,
    model_and_ref_options,
    output_options,
    reward_model_options,
    ties_option,
    verdict_options,
)
from evalkit.cli.shared import (
    Context,
    Session,
    check_outputs,
    present,
    refuse_reward_options,
    refuse_verdict_options,
    tell_store,
    tie_rule,
)

if TYPE_CHECKING:
    from evalkit.leaderboard import Leaderboard, Options


@click.command()
@model_and_ref_options
@verdict_options
@click.option(
    "--soft", is_flag=True, help="Verdicts as the probabilities they are. [win, tie or loss]"
)
@reward_model_options
@missing_option("Prompts that some player lacks: refuse, or let the others meet on them and count.")
@ties_option
@level_option
@click.option("--anchor", metavar="NAME", help="The player at 0. [the strengths sum to 0]")
@output_options(".json .csv or .md")
@click.pass_obj
def leaderboard(context: Context, /, outputs: tuple[Path, ...], **chosen: Any) -> None:
    """Put checkpoints and references on one scale: who beats whom, prompt by prompt.

    \b
    evalkit leaderboard -m ckpt_400 -m ckpt_800 -m ckpt_1200 -r gpt4_refs
    evalkit leaderboard -m ckpt_800 -m ckpt_1200 -r gpt4_refs --anchor gpt4_refs -o board.md
    evalkit leaderboard --preferences annotations.json
    """
    from evalkit.leaderboard import Options
    from evalkit.report import leaderboard as report

    inputs = (*chosen["models"], *chosen["references"], chosen["preferences"])
    check_outputs(report.check_output, outputs, inputs)
    options = Options(
        benchmark=chosen["benchmark"],
        ties=tie_rule(chosen["ties"]),
        missing=chosen["missing"],
        level=chosen["level"],
        anchor=chosen["anchor"],
        soft=chosen["soft"],
    )
    if chosen["preferences"]:
        board = _of_verdicts(chosen, options)
    else:
        board = _of_rewards(Session(context, chosen), chosen, options)
    present(report, board, outputs, as_json=chosen["as_json"])


def _of_rewards(session: Session, chosen: dict[str, Any], options: Options) -> Leaderboard:
    from evalkit.leaderboard import leaderboard as run

    refuse_verdict_options()
    with session.open_store() as store:
        found = run(
            chosen["models"],
            chosen["references"],
            session.reward_model(store),
            session.workspace,
            store,
            options=options,
            settings=session.settings,
        )
        tell_store(store)
    return found


def _of_verdicts(chosen: dict[str, Any], options: Options) -> Leaderboard:
    from evalkit.leaderboard import leaderboard_of_verdicts

    refuse_reward_options()
    return leaderboard_of_verdicts(
        chosen["preferences"],
        checkpoints=chosen["models"],
        references=chosen["references"],
        annotator=chosen["annotator"],
        coding=chosen["coding"],
        options=options,
    )
