"""What several commands take: the reward model, how to run it, and the workspace."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click
from click.core import ParameterSource

from evalkit.errors import InputError
from evalkit.text import count, listing

if TYPE_CHECKING:
    from evalkit.pairing import TieRule
    from evalkit.reward_models.spec import RewardModelSpec
    from evalkit.scoring import RunSettings, Scored
    from evalkit.store import Store
    from evalkit.workspace import Workspace


SETTINGS = ("family", "parameters", "dtype", "max_length", "overlong")  # of a reward model


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
        click.option(
            "-b", "--benchmark", metavar="NAME", help="All of its prompts must be answered."
        ),
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


def output_options(suffixes: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Files to write, and JSON in place of the table."""
    options = [
        click.option(
            "-o",
            "--output",
            "outputs",
            multiple=True,
            type=click.Path(path_type=Path),
            help=f"Write FILE as {suffixes}; repeatable.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table."),
    ]
    return lambda command: with_options(options, command)


def present(
    report: Report[T_contra], result: T_contra, outputs: Iterable[Path], *, as_json: bool
) -> None:
    """Print a result as `output_options` ask for it, and write every output."""
    text = report.to_json(result).decode() if as_json else report.to_text(result)
    click.echo(text, nl=False)
    for path in outputs:
        report.write(result, path)
        click.echo(f"wrote {path}", err=True)


def with_options(
    options: Iterable[Callable[..., Any]], command: Callable[..., Any]
) -> Callable[..., Any]:
    """A command with several options, in their order."""
    for option in reversed(list(options)):
        command = option(command)
    return command


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


class Session:
    """The workspace, its store and the reward model of one command.

    Args:
        context: Options of `evalkit`.
        chosen: The values of `reward_model_options`, or of `settings_options` and `reward_model`.
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

    def reward_model(self, store: Store) -> RewardModelSpec:
        """The reward model asked for, else the workspace's default."""
        from evalkit.reward_models.lookup import built_ins, find_reward_model

        name = self._chosen["reward_model"] or self.workspace.default("reward_model")
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
            overrides={
                **{name: self._chosen[name] for name in SETTINGS},
                "parameters": dict(map(_parameter, self._chosen["parameters"])),
            },
            download=self._download,
        )


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


def option_of(parameter: click.Parameter) -> str:
    """The long name of an option, as people write it."""
    return max(parameter.opts, key=len)


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
