"""From what the user wrote after `--reward-model` to one spec, or an error that says what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from evalkit.errors import InputError, MissingError
from evalkit.reward_models.checkpoint import FileDigest
from evalkit.reward_models.describe import describe, own_card
from evalkit.reward_models.families import families, published
from evalkit.reward_models.own import describe_own, is_own
from evalkit.reward_models.remote.declared import describe_endpoint
from evalkit.reward_models.spec import RewardModelSpec, is_commit
from evalkit.text import did_you_mean, first_line, listing
from evalkit.workspace import ENDPOINT, Workspace

HUB_ID = re.compile(r"(hf://)?(?P<repo>\w[\w.-]*/[\w.-]+?)(@(?P<revision>[\w./-]+))?")


def find_reward_model(
    name: str,
    workspace: Workspace,
    file_digest: FileDigest,
    *,
    overrides: Mapping[str, Any] | None = None,
    download: bool = False,
) -> RewardModelSpec:
    """Resolve `--reward-model`: a name of `evalkit.toml`, a built-in, a folder, or a Hub id.

    A table of `evalkit.toml` with an `endpoint` is a served reward model; nothing is asked of it.

    Args:
        name: What the user wrote; `org/name[@revision]` for the Hub.
        workspace: Whose `evalkit.toml` holds `[reward_models]`.
        file_digest: SHA-256 of a file, possibly remembered.
        overrides: `dtype`, `max_length`, `overlong`, `family` and `parameters` from the command
            line; None means not given.
        download: Whether a Hub repository may be fetched.

    Raises:
        MissingError: Nothing has this name, or it is not on this machine.
        InputError: A setting is unknown or wrong.
        RefusedModelError: The files are no safe, complete checkpoint.
    """
    declared = name in workspace.config["reward_models"]
    entry = dict(workspace.config["reward_models"].get(name, {}))
    given = {k: v for k, v in (overrides or {}).items() if v is not None}
    target = str(entry.pop("model", name))
    settings = {**entry, **given}
    settings["parameters"] = {
        **_from_root(entry.get("parameters", {}), workspace),
        **given.get("parameters", {}),
    }
    if ENDPOINT.keys() & entry.keys():
        settings["model"] = workspace.config["reward_models"][name].get("model")
        return describe_endpoint(name, settings, workspace.root, file_digest)
    match = HUB_ID.fullmatch(target)
    trusted = bool(settings.get("trust_remote_code"))
    if trusted and not (match and is_commit(match["revision"] or "", whole=True)):
        raise InputError(
            f"trust_remote_code needs a pinned revision, got {target!r}",
            where=f"[reward_models.{name}] in evalkit.toml",
            fix='model = "org/name@REVISION" with a commit of 40 hex digits',
        )
    own = is_own(settings.get("family"))
    if own and "model" not in workspace.config["reward_models"].get(name, {}):
        return describe_own(None, name, file_digest, settings)
    local = _local(target, workspace, declared=declared) if not trusted else None
    folder = local or _folder(target, workspace, download=download, code=trusted)
    if own:
        return describe_own(folder, name, file_digest, settings)
    label = name if declared else _label(target, folder)
    id_ = match["repo"] if match and local is None else ""
    return describe(folder, label, file_digest, settings, id_=id_)


def _local(target: str, workspace: Workspace, *, declared: bool) -> Path | None:
    """The folder a target names: of evalkit.toml from its own folder, else from here."""
    if declared and (workspace.root / target).is_dir():
        return workspace.root / target
    built_in = files("evalkit.reward_models").joinpath(target)
    if "/" not in target and built_in.joinpath("config.json").is_file():
        return Path(str(built_in))
    return Path(target) if Path(target).is_dir() else None


class Stated(NamedTuple):
    """What is stated of a reward model and not measured; empty where nothing is.

    Attributes:
        citation: How its authors are to be cited, or where they describe it.
        licence: Of its weights.
        checked: What its arithmetic was held against.
    """

    citation: str
    licence: str
    checked: str


def stated(spec: RewardModelSpec) -> Stated:
    """What a reward model's own card.toml states, else what is known of it if it is published.

    A served one has no files here, and a card.toml beside its tokenizer or evalkit.toml is of
    something else. A published model is told by its id on the Hub, so not under a name of
    evalkit.toml.
    """
    card = own_card(spec.path) if spec.path != Path() and spec.endpoint is None else {}
    match = HUB_ID.fullmatch(spec.name)
    known = published().get(match["repo"]) if match else None
    return Stated(
        citation=card.get("citation")
        or (f"its authors' model card: https://huggingface.co/{known.id}" if known else ""),
        licence=card.get("licence") or (known.licence if known else ""),
        checked=known.checked if known else spec.family.checked,
    )


def built_ins() -> list[str]:
    """The reward models that come with the package."""
    return sorted(
        entry.name
        for entry in files("evalkit.reward_models").iterdir()
        if entry.joinpath("config.json").is_file()
    )


def _from_root(parameters: Mapping[str, Any], workspace: Workspace) -> dict[str, Any]:
    """Parameters of evalkit.toml, whose paths start at its folder."""
    found = dict(parameters)
    if isinstance(found.get("reference"), str):
        found["reference"] = str(workspace.root / found["reference"])
    return found


def _folder(target: str, workspace: Workspace, *, download: bool, code: bool) -> Path:
    match = HUB_ID.fullmatch(target)
    if match is not None:
        return _snapshot(match["repo"], match["revision"], download=download, code=code)
    known = [*workspace.config["reward_models"], *built_ins()]
    raise MissingError(
        f"reward model {target!r} not found",
        where="looked in evalkit.toml [reward_models], the built-in reward models, and for a "
        "folder of that name",
        fix=f"known reward models: {listing(known)}. {did_you_mean(target, known)}".strip(),
    )


def _snapshot(repo: str, revision: str | None, *, download: bool, code: bool) -> Path:
    """The local folder of a Hub repository; downloads only where that was allowed."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ModuleNotFoundError:
        raise MissingError(
            "reward models of the Hub need the package huggingface_hub",
            fix='pip install "evalkit-rm[models]"',
        ) from None
    at = f"@{revision}" if revision else ""
    wanted = ["*.json", "*.jinja", "*.safetensors", "*.model", "*.txt", *(["*.py"] if code else [])]
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                local_files_only=not download,
                allow_patterns=[*wanted, *(name for f in families() for name in f.requires)],
            )
        )
    except (OSError, ValueError, HFValidationError, HfHubHTTPError) as error:
        raise MissingError(
            f"reward model {repo}{at} is neither a folder nor on this machine's Hub cache",
            where=first_line(error),
            fix=f"fetch it: hf download {repo}{f' --revision {revision}' if revision else ''}, or "
            "run the same command with `evalkit --allow-download …`",
        ) from None


def _label(target: str, folder: Path) -> str:
    return folder.resolve().name if Path(target).is_dir() else target
