"""`evalkit compare`: the headline command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.demands import demand_options, demands
from evalkit.cli.github import tell_github
from evalkit.cli.options import (
    level_option,
    missing_option,
    model_and_ref_options,
    output_options,
    reward_model_options,
    seed_option,
    temperature_option,
    ties_option,
    verdict_options,
)
from evalkit.cli.shared import (
    Context,
    Session,
    check_outputs,
    default_reference,
    present,
    refuse_reward_options,
    refuse_verdict_options,
    tell_store,
    tie_rule,
)
from evalkit.errors import InputError

if TYPE_CHECKING:
    from evalkit.comparison import Comparison, Options


@click.command()
@model_and_ref_options
@verdict_options
@click.option(
    "--human",
    metavar="FILE",
    help="Human verdicts on some of the prompts, as for --preferences, to correct the rest by.",
)
@reward_model_options
@missing_option("Prompts that cannot be paired: refuse, or drop and count.")
@ties_option
@click.option(
    "--cluster-by",
    type=click.Choice(["prompt", "subset"]),
    default="prompt",
    show_default=True,
    help="What is independent: prompts, or whole subsets of them.",
)
@temperature_option
@level_option
@click.option(
    "--bootstrap",
    "resamples",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Resamples for BCa bootstrap intervals, at least 100; 0 for analytic ones.",
)
@seed_option
@demand_options
@output_options(".json .jsonl .csv .md .svg .png or .html")
@click.option("--report/--no-report", default=True, help="Write reports/<run>/. [report]")
@click.pass_obj
def compare(context: Context, /, outputs: tuple[Path, ...], **chosen: Any) -> int:
    """Compare checkpoints with references under one reward model.

    \b
    evalkit compare --model ckpt_1200 --ref gpt4_refs
    evalkit compare -m ckpt_800 -m ckpt_1200 -r gpt4_refs -o table.md -o result.json
    evalkit compare --model answers.jsonl --ref gpt4_1106_preview.json --rm demo-rm --json
    evalkit compare --preferences annotations.json
    """
    from evalkit.comparison import Options
    from evalkit.contrasts import compared
    from evalkit.gate import judge
    from evalkit.report import comparisons as report
    from evalkit.report.gate import to_text

    verdicts = (chosen["preferences"], chosen["human"])
    inputs = (*chosen["models"], *chosen["references"], *verdicts)
    check_outputs(report.check_output, outputs, inputs)
    options = Options(
        benchmark=chosen["benchmark"],
        ties=tie_rule(chosen["ties"]),
        missing=chosen["missing"],
        level=chosen["level"],
        resamples=chosen["resamples"],
        seed=chosen["seed"],
        cluster_by=chosen["cluster_by"],
        temperature=chosen["temperature"],
    )
    demanded = demands(chosen)
    session = Session(context, chosen)
    if chosen["preferences"]:
        comparisons = _of_verdicts(chosen, options)
    else:
        comparisons = _of_rewards(session, chosen, options)
    if chosen["human"]:
        comparisons = _corrected(chosen, comparisons)
    found = compared(comparisons)
    if demanded:
        found = replace(found, verdict=judge(report.document(found), demanded))
    present(report, found, outputs, as_json=chosen["as_json"])
    if chosen["report"]:
        page = report.write_run(found, session.workspace.reports)
        click.echo(f"report: {page}", err=True)
    if found.verdict:
        click.echo(to_text(found.verdict), nl=False, err=True)
        tell_github(found.verdict, asked=chosen["github"])
    return found.exit_code


def _of_rewards(session: Session, chosen: dict[str, Any], options: Options) -> list[Comparison]:
    from evalkit.compare import compare as run

    # the coding is also that of human verdicts
    refuse_verdict_options(["annotator"] if chosen["human"] else ["annotator", "coding"])
    if not chosen["models"]:
        raise InputError("no checkpoint is named", fix="--model NAME, or --preferences FILE")
    references = chosen["references"] or (default_reference(session),)
    with session.open_store() as store:
        found = run(
            chosen["models"],
            references,
            session.reward_model(store),
            session.workspace,
            store,
            options=options,
            settings=session.settings,
        )
        tell_store(store)
    return found


def _of_verdicts(chosen: dict[str, Any], options: Options) -> list[Comparison]:
    from evalkit.preferences import compare_preferences

    refuse_reward_options()
    return compare_preferences(
        chosen["preferences"],
        checkpoints=chosen["models"],
        references=chosen["references"],
        annotator=chosen["annotator"],
        coding=chosen["coding"],
        options=options,
    )


def _corrected(chosen: dict[str, Any], comparisons: list[Comparison]) -> list[Comparison]:
    from evalkit.preferences import with_human_labels

    return with_human_labels(comparisons, chosen["human"], coding=chosen["coding"])
