"""`evalkit plan`: what a run needs, before it is paid for; or what would settle one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from evalkit.cli.demands import rule_options
from evalkit.cli.gate import policy_of_gate, tell_level
from evalkit.cli.options import (
    SETTINGS,
    known_rewards_options,
    level_option,
    metric_option,
    missing_option,
    model_and_ref_options,
    output_options,
    policy_option,
    temperature_option,
    ties_option,
    whole_numbers,
)
from evalkit.cli.shared import (
    Context,
    Session,
    check_outputs,
    default_reference,
    present,
    refuse_given,
    tie_rule,
)
from evalkit.errors import InputError

DIRECT = ("metric", "benchmark", "missing", "temperature", "level", "power")
AFTER = ("policy", "fail_under", "fail_on", "margin")
BEFORE = (
    "models", "references", "benchmark", "reward_model", *SETTINGS, "detect", "completions",
    "planned_references", "metric", "power", "missing", "ties", "temperature",
)  # fmt: skip


@click.command()
@model_and_ref_options
@known_rewards_options
@click.option("--detect", type=float, metavar="D", help="The difference to find, as a fraction.")
@click.option(
    "--completions",
    metavar="K,…",
    callback=whole_numbers,
    help="To plan with, such as 1,2,4. [as the pilot tells]",
)
@click.option(
    "--references",
    "planned_references",
    metavar="R,…",
    callback=whole_numbers,
    help="How many to plan with, such as 1,2,4. [as the pilot tells]",
)
@metric_option
@temperature_option
@missing_option("Prompts without a completion or a known reward: refuse, or drop and count.")
@ties_option
@click.option(
    "--power",
    type=float,
    default=0.8,
    show_default=True,
    help="Chance to find the difference.",
)
@level_option
@click.option(
    "--after",
    type=click.Path(path_type=Path),
    metavar="RESULT",
    help="A JSON file of `evalkit compare -o` or `evalkit track -o`: why its rules are undecided, "
    "and what would settle them.",
)
@policy_option
@partial(rule_options, alarm=True)
@output_options(".json .md .html .svg or .png (after a run .json or .md)")
@click.pass_obj
def plan(context: Context, /, **chosen: Any) -> None:
    """How many prompts, completions and references find a difference, from known rewards.

    One checkpoint is told from 50 %, two from each other. Nothing is scored.

    \b
    evalkit plan --model ckpt_800 --ref gpt4_refs --detect 0.05
    evalkit plan -m ckpt_800 -m ckpt_1200 -r gpt4_refs --detect 0.02 -o plan.html
    evalkit plan --after result.json --fail-under win_rate=0.5
    """
    if chosen["after"] is not None:
        refuse_given(BEFORE, why="with --after there is")
        _after(context, chosen)
    else:
        fix = "leave it out, or name a result: --after RESULT"
        refuse_given(AFTER, why="without --after there is", fix=fix)
        _before(context, chosen)


def _before(context: Context, chosen: dict[str, Any]) -> None:
    from evalkit.plan import Options
    from evalkit.plan import plan as run
    from evalkit.report import plan as report

    inputs = (*chosen["models"], *chosen["references"])
    check_outputs(report.check_output, chosen["outputs"], inputs)
    if not chosen["models"] or chosen["detect"] is None:
        raise InputError(
            "no checkpoint, or no difference to find, is named",
            fix="evalkit plan --model NAME --detect 0.02, or --after RESULT",
        )
    options = Options(
        detect=chosen["detect"],
        completions=chosen["completions"],
        references=chosen["planned_references"],
        ties=tie_rule(chosen["ties"]),
        **{name: chosen[name] for name in DIRECT},
    )
    session = Session(context, chosen)
    references = chosen["references"] or (default_reference(session),)
    with session.open_store() as store:
        found = run(
            chosen["models"],
            references,
            session.reward_model(store),
            session.workspace,
            store,
            options=options,
        )
    present(report, found, chosen["outputs"], as_json=chosen["as_json"])


def _after(context: Context, chosen: dict[str, Any]) -> None:
    from evalkit.gate import read_result
    from evalkit.plan import settle
    from evalkit.report.plan import after as report

    result = chosen["after"]
    check_outputs(report.check_output, chosen["outputs"], (result, chosen["policy"]))
    asked = policy_of_gate(chosen)
    saved = read_result(result)
    tell_level(result, saved, asked)
    session = Session(context, chosen)
    with session.open_store() as store:
        found = settle(saved, asked, session.workspace, store)
    present(report, found, chosen["outputs"], as_json=chosen["as_json"])
