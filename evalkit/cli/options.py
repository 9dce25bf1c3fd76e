"""Options that several commands take, each declared once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from evalkit.errors import InputError

SETTINGS = ("family", "parameters", "dtype", "max_length", "overlong")  # of a reward model
ties_option = click.option(
    "--ties",
    default="half",
    show_default=True,
    metavar="RULE",
    help="half, drop, or margin=EPS (|margin| ≤ EPS is a tie).",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
level_option = click.option(
    "--ci",
    "level",
    default=0.95,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Interval level.",
)
seed_option = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
benchmark_option = click.option(
    "-b", "--benchmark", metavar="NAME", help="All of its prompts must be answered."
)
prompts_option = click.option(
    "-b", "--benchmark", metavar="NAME", help="Whose prompts the ids stand for."
)
metric_option = click.option(
    "--metric",
    type=click.Choice(["win_rate", "win_probability"]),
    default="win_rate",
    show_default=True,
)
temperature_option = click.option(
    "--temperature",
    type=click.FloatRange(0, min_open=True),
    metavar="T",
    help="Of the win probability σ(margin / T). [1 for Bradley-Terry reward models, else none]",
)
policy_option = click.option(
    "--policy",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A TOML file with [gate]. [evalkit.toml of the workspace]",
)


def with_options(
    options: Iterable[Callable[..., Any]], command: Callable[..., Any]
) -> Callable[..., Any]:
    """A command with several options, in their order."""
    for option in reversed(list(options)):
        command = option(command)
    return command


def model_and_ref_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which checkpoints and references, by name or file, and whose prompts they must answer."""
    named = "a name or a file of completions; repeatable."
    options = [
        click.option(
            "-m", "--model", "models", multiple=True, metavar="M", help=f"Checkpoint: {named}"
        ),
        click.option(
            "-r", "--ref", "references", multiple=True, metavar="R", help=f"Reference: {named}"
        ),
        benchmark_option,
    ]
    return with_options(options, command)


def verdict_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A judge's verdicts in place of rewards."""
    options = [
        click.option(
            "--preferences",
            metavar="FILE",
            help="Verdicts of a judge instead of rewards: AlpacaEval's annotations.json, or a "
            "table with model, preference and the prompt (JSON Lines, CSV, Parquet).",
        ),
        click.option(
            "--annotator", metavar="NAME", help="Whose verdicts, if FILE has several judges'."
        ),
        click.option(
            "--coding",
            type=click.Choice(["unit", "alpaca-eval"]),
            help="Of preferences: 0 to 1, or 1 to 2 with 0 for a draw. [alpaca-eval if any is "
            "above 1]",
        ),
    ]
    return with_options(options, command)


def missing_option(what: str) -> Callable[..., Any]:
    """What becomes of prompts (or pairs) that cannot be used."""
    return click.option(
        "--missing",
        type=click.Choice(["error", "drop"]),
        default="error",
        show_default=True,
        help=what,
    )


def reference_option(use: str = "") -> Callable[..., Any]:
    """One reference, and what it is of use for."""
    return click.option(
        "-r", "--ref", "reference", metavar="R", help=f"Reference{use}: a name or a file."
    )


def output_option(suffixes: str) -> Callable[..., Any]:
    """Files to write."""
    return click.option(
        "-o",
        "--output",
        "outputs",
        multiple=True,
        type=click.Path(path_type=Path),
        help=f"Write FILE as {suffixes}; repeatable.",
    )


def output_options(suffixes: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Files to write, and JSON in place of the table."""
    options = [
        output_option(suffixes),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table."),
    ]
    return lambda command: with_options(options, command)


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say what a reward model is, beyond its files."""
    options = [
        click.option(
            "--family",
            metavar="FAMILY",
            help="How it scores: a family, or the id of a published model. [told by its files]",
        ),
        click.option(
            "--param",
            "parameters",
            multiple=True,
            metavar="KEY=VALUE",
            help="A parameter of the family, such as beta=0.1 or reference=FOLDER.",
        ),
        click.option(
            "--dtype", metavar="DTYPE", help="float32, bfloat16 or float16. [of the model]"
        ),
        click.option("--max-length", type=int, metavar="N", help="Tokens, template included."),
        click.option(
            "--overlong",
            metavar="POLICY",
            help="error, truncate-left (keeps the answer's end) or truncate-right. [error]",
        ),
    ]
    return with_options(options, command)


def reward_model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which reward model scores, and how."""
    return known_rewards_options(run_options(command))


def known_rewards_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say whose rewards are meant, where none are computed."""
    name = click.option(
        "--reward-model", "--rm", metavar="RM", help="Name, folder, or org/name[@revision]."
    )
    return name(settings_options(command))


def reward_models_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same for several reward models side by side, under the same settings."""
    names = click.option(
        "--reward-model",
        "--rm",
        "reward_models",
        multiple=True,
        metavar="RM",
        help="Name, folder, or org/name[@revision]; repeatable.",
    )
    return names(settings_options(run_options(command)))


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where and in which batches a reward model scores."""
    options = [
        device_option,
        click.option(
            "--batch-tokens",
            type=click.IntRange(min=1),
            help="Padded tokens per batch. [2048 on a CPU, else 16384]",
        ),
    ]
    return with_options(options, command)


def option_of(parameter: click.Parameter) -> str:
    """The long name of an option, as people write it."""
    return max(parameter.opts, key=len)


def whole_numbers(
    _context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[int, ...]:
    """The numbers of an option that takes several joined by commas, as its callback."""
    try:
        return () if text is None else tuple(map(int, text.split(",")))
    except ValueError:
        option = option_of(parameter)
        raise InputError(
            f"{option} {text!r} is no list of numbers",
            fix=f"whole numbers joined by commas, such as {option} 1,2,4",
        ) from None
