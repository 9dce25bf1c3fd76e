"""What a result must show, said on the command line: the options, and the policy they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.options import with_options
from evalkit.errors import InputError

if TYPE_CHECKING:
    from evalkit.gate import Policy, Rule


def rule_options(command: Callable[..., Any], *, alarm: bool = False) -> Callable[..., Any]:
    """What a result must show; of a run also that no alarm is raised."""
    options = [
        click.option(
            "--fail-under",
            multiple=True,
            metavar="METRIC=BOUND",
            help="Surely at least BOUND, such as win_rate=0.5; repeatable.",
        ),
        click.option(
            "--fail-on",
            multiple=True,
            metavar=f"{'alarm|' if alarm else ''}regression[:metric=METRIC]:vs=NAME",
            help=f"{'An alarm; or a' if alarm else 'A'} sure loss of --margin to checkpoint NAME, "
            "or `previous`, in win_rate or METRIC (of a run the one it tracks); repeatable.",
        ),
        click.option(
            "--margin",
            type=click.FloatRange(0, min_open=True),
            help="The loss that would matter: of a rate as a fraction, else in reward units.",
        ),
    ]
    return with_options(options, command)


def demand_options(command: Callable[..., Any], *, alarm: bool = False) -> Callable[..., Any]:
    """The same, and what becomes of the verdict."""
    options = [
        click.option(
            "--inconclusive",
            type=click.Choice(["pass", "fail"]),
            help="What too few prompts mean for the exit code. [fail, or as the policy says]",
        ),
        click.option(
            "--github/--no-github",
            default=None,
            help="Show the verdict in GitHub Actions: step summary, annotations. [in Actions]",
        ),
    ]
    return rule_options(with_options(options, command), alarm=alarm)


def demands(chosen: Mapping[str, Any], *, alarm: bool = False) -> Policy | None:
    """The policy of `rule_options`, at the level of --ci; None if they name no rule."""
    from evalkit.gate import Policy

    if "alarm" in chosen["fail_on"] and not alarm:
        raise InputError("a comparison has no alarms", fix="--fail-on alarm is of evalkit track")
    rules = [*map(_bound, chosen["fail_under"]), *_conditions(chosen)]
    if rules:
        level = chosen["level"]
        return Policy(tuple(rules), level=level, inconclusive=chosen.get("inconclusive") or "fail")
    if chosen.get("inconclusive") and "policy" not in chosen:
        raise InputError("--inconclusive without a rule", fix="add --fail-under or --fail-on")
    return None


def _bound(text: str) -> Rule:
    from evalkit.gate import Rule

    metric, _, bound = text.partition("=")
    try:
        return Rule(metric, bound=float(bound))
    except ValueError:
        raise InputError(
            f"--fail-under {text!r} is no METRIC=BOUND", fix="such as win_rate=0.5"
        ) from None


def _conditions(chosen: Mapping[str, Any]) -> Iterator[Rule]:
    """The rules of --fail-on."""
    from evalkit.gate import Rule
    from evalkit.gate.policy import ALARM

    margin = chosen["margin"]
    if margin is not None and not set(chosen["fail_on"]) - {ALARM}:
        raise InputError("--margin without --fail-on", fix="--fail-on regression:vs=NAME")
    for text in chosen["fail_on"]:
        if text == ALARM:
            yield Rule(ALARM)
            continue
        about, _, baseline = text.partition(":vs=")
        kind, named, metric = about.partition(":metric=")
        if kind != "regression" or not baseline:
            raise InputError(f"--fail-on {text!r}", fix="regression:vs=NAME, or :vs=previous")
        if margin is None:
            raise InputError(
                "the margin of a regression is not declared",
                fix="--margin 0.03: the loss that would matter",
            )
        yield Rule(metric if named else "win_rate", margin=margin, against=baseline)
