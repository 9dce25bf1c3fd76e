"""`evalkit gate`: does a saved result show what a policy demands?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.demands import demand_options, demands
from evalkit.cli.github import tell_github
from evalkit.cli.options import level_option, output_options, policy_option
from evalkit.cli.shared import check_outputs, is_given, present
from evalkit.errors import InputError

if TYPE_CHECKING:
    from evalkit.gate import Policy


@click.command()
@click.argument("result", type=click.Path(path_type=Path))
@policy_option
@level_option
@partial(demand_options, alarm=True)
@output_options(".json .md or .xml (JUnit)")
def gate(result: Path, policy: Path | None, outputs: tuple[Path, ...], **chosen: Any) -> int:
    """Judge RESULT, JSON that `evalkit compare -o` or `track -o` wrote: pass, fail or inconclusive.

    Exit code 0 if every rule passes, 3 if one surely fails, 4 if too few prompts tell.

    \b
    evalkit gate result.json
    evalkit gate result.json --policy release.toml -o junit.xml -o summary.md
    evalkit gate result.json --fail-under win_rate=0.5
    evalkit gate result.json --fail-on regression:vs=ckpt_800 --margin 0.03
    """
    from evalkit.gate import judge, read_result
    from evalkit.report import gate as report

    check_outputs(report.check_output, outputs, (result, policy))
    asked = policy_of_gate({**chosen, "policy": policy})
    found = read_result(result)
    verdict = judge(found, asked)
    tell_level(result, found, asked)
    present(report, verdict, outputs, as_json=chosen["as_json"])
    tell_github(verdict, asked=chosen["github"])
    return verdict.exit_code


def policy_of_gate(chosen: Mapping[str, Any]) -> Policy:
    """The rules of the command line, else those of `--policy` or of the workspace.

    What the command line says beside rules goes before what a file says.
    """
    from evalkit.gate import read_policy
    from evalkit.workspace import CONFIG, Workspace

    asked, path = demands(chosen, alarm=True), chosen["policy"]
    if asked and path:
        raise InputError("a policy and rules of the command line", fix="leave one of them out")
    if asked:
        return asked
    found = read_policy(path or Workspace.find(Path.cwd()).root / CONFIG)
    return replace(
        found,
        level=chosen["level"] if is_given("level") else found.level,
        inconclusive=chosen.get("inconclusive") or found.inconclusive,
    )


def tell_level(path: Path, result: Mapping[str, Any], asked: Policy) -> None:
    """Say that a result is judged at another level than its own, unless --ci asks for that."""
    from evalkit.gate.saved import saved_level

    own = saved_level(result)
    if own not in {None, asked.level} and not is_given("level"):
        said = f"note: {path} was made at --ci {own}, and is judged at {asked.level}"
        click.echo(f"{said}; --ci says another", err=True)
