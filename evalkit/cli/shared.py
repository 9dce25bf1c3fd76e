"""What several commands do: their workspace, reward model and outputs, and what they refuse."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click
from click.core import ParameterSource

from evalkit.cli.options import SETTINGS, option_of
from evalkit.errors import InputError
from evalkit.text import count, listing

if TYPE_CHECKING:
    from evalkit.pairing import TieRule
    from evalkit.reward_models.spec import RewardModelSpec
    from evalkit.scoring import RunSettings, Scored
    from evalkit.store import Store
    from evalkit.workspace import Workspace


T_contra = TypeVar("T_contra", contravariant=True)


class Report(Protocol[T_contra]):
    """What lays a result out, a module of `evalkit.report`."""

    def to_json(self, result: T_contra, /) -> bytes:
        """The result as JSON."""

    def to_text(self, result: T_contra, /) -> str:
        """The result for a terminal."""

    def write(self, result: T_contra, path: Path, /) -> None:
        """The result as the path's suffix says."""


@dataclass(frozen=True, slots=True)
class Context:
    """Options of `evalkit` itself."""

    progress: bool
    download: bool


def present(
    report: Report[T_contra], result: T_contra, outputs: Iterable[Path], *, as_json: bool
) -> None:
    """Write every output, and print the result as `output_options` ask for it."""
    write_outputs(report.write, result, outputs)
    text = report.to_json(result).decode() if as_json else report.to_text(result)
    click.echo(text, nl=False)


def write_outputs(
    write: Callable[[T_contra, Path], None], result: T_contra, outputs: Iterable[Path]
) -> None:
    """Write a result to every output, and say so."""
    for path in outputs:
        write(result, path)
        click.echo(f"wrote {path}", err=True)


def check_outputs(
    check: Callable[[Path], None], outputs: Iterable[Path], inputs: Iterable[str | Path | None]
) -> None:
    """Refuse outputs before any work is done for them.

    Args:
        check: Of the report: refuses what it cannot write.
        outputs: As the command line names them.
        inputs: What none of them may be; None for one that is not named.
    """
    named = [str(one) for one in inputs if one is not None]
    for path in outputs:
        check(path)
        refuse_overwriting(path, named)


class Session:
    """The workspace, its store and the reward model of one command.

    Args:
        context: Options of `evalkit`.
        chosen: The values of the command's options, `settings_options` among them where it asks
            for a reward model.
    """

    def __init__(self, context: Context, chosen: dict[str, Any]) -> None:
        from evalkit.scoring import RunSettings
        from evalkit.workspace import Workspace

        self.workspace: Workspace = Workspace.find(Path.cwd())
        self.settings: RunSettings = RunSettings(
            device=chosen.get("device", "auto"),
            batch_tokens=chosen.get("batch_tokens"),
            progress=context.progress,
        )
        self._chosen = chosen
        self._download = context.download

    def open_store(self) -> Store:
        """The live store of the workspace."""
        from evalkit.store import Store

        store = Store(self.workspace.store)
        if not store.writable:
            click.echo(f"warning: {store.path} is read-only; new rewards are not kept", err=True)
        return store

    def reward_model(
        self, store: Store, name: str | None = None, *, as_stated: bool = False
    ) -> RewardModelSpec:
        """The reward model of a name, else the one asked for, else the workspace's default.

        Args:
            store: Remembers the digests of files.
            name: Where the command has another one than `--reward-model`.
            as_stated: Take its settings from evalkit.toml and itself alone, as those of the command
                line are another one's.
        """
        from evalkit.reward_models.lookup import built_ins, find_reward_model

        name = name or self._chosen.get("reward_model") or self.workspace.default("reward_model")
        if name is None:
            raise InputError(
                "no reward model is named",
                fix=f"--reward-model NAME, or [defaults] reward_model in evalkit.toml; built in: "
                f"{listing(built_ins())}",
            )
        return find_reward_model(
            name,
            self.workspace,
            store.file_digest,
            overrides={} if as_stated else self._settings(),
            download=self._download,
        )

    def _settings(self) -> dict[str, Any]:
        """The settings of the command line."""
        stated = {name: self._chosen[name] for name in SETTINGS}
        return {**stated, "parameters": dict(map(_parameter, stated["parameters"]))}


def default_reference(session: Session) -> str:
    """The workspace's own, where none is named."""
    default = session.workspace.default("reference")
    if default is None:
        raise InputError(
            "no reference is named", fix="--ref NAME, or [defaults] reference in evalkit.toml"
        )
    return default


def _parameter(text: str) -> tuple[str, object]:
    """KEY=VALUE, the value as TOML writes it; what is no TOML value is text."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InputError(f"{text!r} is no KEY=VALUE", fix="such as --param beta=0.1")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def tell_store(store: Store, scored: Scored | None = None) -> None:
    """Say on stderr what was scored, and what the store had to do beyond serving rewards."""
    if store.damaged:
        click.echo(
            f"warning: {count(store.damaged, 'damaged row')} of the store scored again", err=True
        )
    if store.conflicts:
        click.echo(
            f"warning: {count(store.conflicts, 'reward')} other than stored; the stored are kept",
            err=True,
        )
    if scored is not None:
        known = len(scored.rewards) - scored.forwards
        click.echo(
            f"{scored.forwards} conversations scored, {known} known, {len(scored.problems)} failed",
            err=True,
        )


def is_given(name: str) -> bool:
    """Whether the command line states a parameter, be it by its default value."""
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def refuse_given(names: Iterable[str], *, why: str, fix: str = "") -> None:
    """Refuse the first of some options that the command line states.

    Args:
        names: Of the command's parameters.
        why: Who has no use for it, such as `verdicts have`.
        fix: What to do instead; else to leave it out.
    """
    parameters = {p.name: p for p in click.get_current_context().command.params}
    for name in filter(is_given, names):
        option = option_of(parameters[name])
        raise InputError(f"{why} no use for {option}", fix=fix or f"leave {option} out")


def refuse_overwriting(output: Path, inputs: Iterable[str]) -> None:
    """Refuse an output that is one of the inputs."""
    if output.exists() and any(output.resolve() == Path(name).resolve() for name in inputs):
        raise InputError(f"{output} is an input", fix="name another output")


def refuse_reward_options() -> None:
    """Refuse what says how rewards are made where verdicts stand in their place."""
    refuse_given(("reward_model", *SETTINGS, "benchmark"), why="verdicts have")


def refuse_verdict_options(names: Iterable[str] = ("annotator", "coding")) -> None:
    """Refuse what says how verdicts are read where rewards stand in their place."""
    fix = "name the verdicts with --preferences FILE, or leave it out"
    refuse_given(names, why="without --preferences there is", fix=fix)


def refuse_pairwise(spec: RewardModelSpec) -> None:
    """Refuse a model that scores two answers against each other, where one alone is asked for."""
    if spec.is_pairwise:
        raise InputError(
            f"{spec.name!r} scores two answers against each other, not one alone",
            fix="compare two sets: evalkit compare --model A --ref B",
        )


def tie_rule(text: str) -> TieRule:
    """What `--ties` says."""
    from evalkit.pairing import TieRule

    if text in {"half", "drop"}:
        return TieRule(drop=text == "drop")
    name, _, value = text.partition("=")
    try:
        margin = float(value)
    except ValueError:
        margin = -1.0
    if name != "margin" or not 0 <= margin < float("inf"):
        raise InputError(
            f"unknown tie rule {text!r}", fix="use half, drop or margin=EPS with EPS ≥ 0"
        )
    return TieRule(margin=margin)
