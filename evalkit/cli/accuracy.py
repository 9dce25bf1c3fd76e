"""`evalkit accuracy`: how often reward models prefer the right answers of a suite."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.options import (
    SETTINGS,
    level_option,
    output_options,
    reward_models_options,
    seed_option,
)
from evalkit.cli.shared import (
    Context,
    Session,
    check_outputs,
    present,
    refuse_given,
    refuse_overwriting,
    tell_store,
)
from evalkit.errors import InputError

if TYPE_CHECKING:
    from evalkit.accuracy import Accuracies, Options


@click.command()
@click.argument("suite")
@reward_models_options
@click.option(
    "--rewards",
    multiple=True,
    metavar="FILE",
    help="Rewards you already have: of RewardBench, JudgeBench or RMB, or one score a line, its id "
    "naming the answer; repeatable.",
)
@click.option(
    "--data",
    multiple=True,
    metavar="[NAME=]PATH",
    help="The suite's rows: a file, folder or hf:// data set; NAME= where the suite has several.",
)
@click.option("--partial", is_flag=True, help="Rows or subsets of the suite may be missing.")
@click.option(
    "--tie-band",
    "tie",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="EPS",
    help="Rewards no further apart than EPS tie.",
)
@level_option
@seed_option
@click.option(
    "--export",
    "exports",
    multiple=True,
    metavar="KIND=FILE",
    help="Write what others read: rewardbench-outputs, rewardbench-scores, hub or "
    "every-eval-ever; repeatable.",
)
@click.option("--date", metavar="YYYY-MM-DD", help="Of exports. [today]")
@click.option(
    "--organization",
    default="unknown",
    show_default=True,
    metavar="NAME",
    help="Who evaluated, for every-eval-ever.",
)
@output_options(".json .md .tex .csv .html .svg or .png")
@click.pass_obj
def accuracy(context: Context, /, suite: str, outputs: tuple[Path, ...], **chosen: Any) -> None:
    """How often reward models prefer the right answers of SUITE, a name or a .toml file.

    \b
    evalkit accuracy rewardbench --reward-model demo-rm
    evalkit accuracy llmbar --data LLMBar/ --rm demo-rm --rm other-rm -o table.html
    evalkit accuracy judgebench-gpt-4o --rewards outputs.jsonl --json
    """
    from evalkit.accuracy import Options
    from evalkit.files import write_atomic
    from evalkit.report import accuracy as report
    from evalkit.report.accuracy.exports import check_kind, exports

    written = [_named(text, "export") for text in chosen["exports"]]
    date = chosen["date"] or f"{datetime.now(UTC):%Y-%m-%d}"
    for kind, _ in written:
        check_kind(kind)
    _check_exports(written, date, len(chosen["reward_models"]) + len(chosen["rewards"]))
    inputs = [*chosen["rewards"], *(_named(text, "data", "main")[1] for text in chosen["data"])]
    check_outputs(report.check_output, outputs, inputs)
    exported = [Path(file) for _, file in written]
    for path in exported:
        refuse_overwriting(path, inputs)
    places = [*outputs, *exported]
    if len({path.resolve() for path in places}) < len(places):
        raise InputError("two outputs have one name", fix="give each a file of its own")
    options = Options(**{name: chosen[name] for name in ("tie", "level", "seed", "partial")})
    found = _run(context, suite, chosen, options)
    present(report, found, outputs, as_json=chosen["as_json"])
    for kind, file in written:
        data = exports(found, kind, date, organization=chosen["organization"])
        write_atomic(Path(file), data)
        click.echo(f"wrote {file}", err=True)


def _check_exports(written: Sequence[tuple[str, str]], date: str, models: int) -> None:
    """Refuse what no export could hold, before anything is scored."""
    if written and models > 1:
        raise InputError(f"an export holds one reward model, not {models}", fix="name one of them")
    try:
        datetime.fromisoformat(date)
    except ValueError:
        raise InputError(f"--date {date!r} is no date", fix="YYYY-MM-DD") from None
    for _, file in written:
        if not Path(file).parent.is_dir():
            raise InputError(f"cannot write {file}: no folder", fix="create the folder")


def _run(context: Context, suite: str, chosen: dict[str, Any], options: Options) -> Accuracies:
    from evalkit.accuracy import accuracy as run
    from evalkit.report.accuracy.exports import check_suite
    from evalkit.suites import find_suite

    session = Session(context, chosen)
    found = find_suite(suite, session.workspace)
    for text in chosen["exports"]:
        check_suite(_named(text, "export")[0], found)
    names = list(chosen["reward_models"])
    if not names and not chosen["rewards"]:
        names = [session.workspace.default("reward_model")]
    if not names:
        fix = "leave it out, or name a reward model with --reward-model"
        refuse_given(SETTINGS, why="rewards that are already there have", fix=fix)
    given = [_named(text, "data", found.data[0].name) for text in chosen["data"]]
    data = dict(given)
    if len(data) < len(given):
        raise InputError(
            "--data names one source twice", fix="give the folder that holds all its files"
        )
    with session.open_store() as store:
        result = run(
            found,
            [session.reward_model(store, name) for name in names],
            store,
            rewards=chosen["rewards"],
            data=data,
            options=options,
            settings=session.settings,
        )
        tell_store(store)
    return result


def _named(text: str, option: str, default: str = "") -> tuple[str, str]:
    """NAME=VALUE; without a name, the default one."""
    name, equals, value = text.partition("=")
    if equals and value and name and "/" not in name:
        return name, value
    if not default:
        raise InputError(f"--{option} {text!r} is no KIND=FILE", fix="such as hub=results.yaml")
    return default, text
