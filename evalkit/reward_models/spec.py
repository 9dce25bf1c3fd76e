"""What a reward model is: everything that can move a reward, by content, and nothing else.

Batch size, device, attention kernel, library versions, names and paths are not part of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from evalkit.data import canonical_json, digest
from evalkit.errors import InputError, MissingError, RefusedModelError
from evalkit.text import did_you_mean, listing
from evalkit.workspace import Workspace, read_toml

Overlong = Literal["error", "truncate-left"]
OVERLONG: tuple[Overlong, ...] = ("error", "truncate-left")
DTYPES = ("float32", "bfloat16", "float16")

# Raised whenever the code below changes what a family computes from the same files.
ABI = 1
RENDERING = "template once; one frame; special tokens in text literal; date 2024-07-26"

TOKENIZER_FILES = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json")
NOT_BEHAVIOUR = ("transformers_version", "_name_or_path", "name_or_path", "chat_template")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
TRAINER_LEFTOVERS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
HUB_ID = re.compile(r"(hf://)?(?P<repo>\w[\w.-]*/[\w.-]+?)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class RewardModelSpec:
    """One reward-model set-up.

    Attributes:
        name: How reports call it; not part of the fingerprint.
        path: The folder of its files; not part of the fingerprint.
        family: How it turns text into a number.
        weights: SHA-256 of each safetensors file, in the order of the file names.
        config: Digest of config.json without library versions and names.
        tokenizer: Digest of the tokenizer's files.
        template: The chat template itself.
        dtype: Of the trunk; the head always computes in float32.
        max_length: Tokens, template included.
        overlong: What becomes of a conversation beyond `max_length`.
        notice: What a reader must know about it; not part of the fingerprint.
    """

    name: str
    path: Path
    family: str
    weights: tuple[str, ...]
    config: str
    tokenizer: str
    template: str
    dtype: str
    max_length: int
    overlong: Overlong
    notice: str = ""

    @cached_property
    def manifest(self) -> dict[str, object]:
        """Everything the fingerprint is over."""
        return {
            "family": self.family,
            "abi": ABI,
            "rendering": RENDERING,
            "weights": list(self.weights),
            "config": self.config,
            "tokenizer": self.tokenizer,
            "template": digest("template", self.template),
            "dtype": self.dtype,
            "max_length": self.max_length,
            "overlong": self.overlong,
        }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the manifest, 64 hex digits."""
        return digest("reward-model", self.manifest)

    @property
    def tolerance(self) -> float:
        """How far two scorings of one conversation may lie apart, relative to max(1, |reward|).

        Batch composition moves the last bits: in float32 by 8e-6 of a standard deviation, in
        float16 by 0.012, in bfloat16 by 0.1 (SmolLM2-135M, 20 chats, batch 8 against 1).
        """
        return {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.25}[self.dtype]


def find_reward_model(
    name: str,
    workspace: Workspace,
    file_digest: Callable[[Path], str],
    *,
    overrides: Mapping[str, object] | None = None,
    download: bool = False,
) -> RewardModelSpec:
    """Resolve `--reward-model`: a name of `evalkit.toml`, a built-in, a folder, or a Hub id.

    Args:
        name: What the user wrote; `org/name[@revision]` for the Hub.
        workspace: Whose `evalkit.toml` holds `[reward_models]`.
        file_digest: SHA-256 of a file, possibly remembered.
        overrides: `dtype`, `max_length`, `overlong` from the command line; None means not given.
        download: Whether a Hub repository may be fetched.

    Raises:
        MissingError: Nothing has this name, or it is not on this machine.
        InputError: A setting is unknown or wrong.
        RefusedModelError: The files are no safe, complete checkpoint.
    """
    entry = dict(workspace.config["reward_models"].get(name, {}))
    target = str(entry.pop("model", name))
    if name in workspace.config["reward_models"] and (workspace.root / target).is_dir():
        folder = workspace.root / target
    else:
        folder = _folder(target, workspace, download=download)
    settings = {**entry, **{k: v for k, v in (overrides or {}).items() if v is not None}}
    label = name if name in workspace.config["reward_models"] else _label(target, folder)
    return describe(folder, label, file_digest, settings)


def describe(
    folder: Path,
    name: str,
    file_digest: Callable[[Path], str],
    settings: Mapping[str, object],
) -> RewardModelSpec:
    """The spec of the checkpoint in `folder`, from its files alone.

    Args:
        folder: With config.json, safetensors and a tokenizer.
        name: How reports call it.
        file_digest: SHA-256 of a file.
        settings: `dtype`, `max_length`, `overlong`, `notice` where they differ from the files.

    Raises:
        RefusedModelError: No config.json, no safetensors, or no chat template.
        InputError: A setting out of range.
    """
    config = _json(folder / "config.json")
    weights = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if not weights:
        found = pickles(folder)
        raise RefusedModelError(
            f"reward model {name!r} has no safetensors weights"
            + (f", only {listing(found)}" if found else ""),
            where=str(folder),
            fix="convert it to safetensors: pickled weights can run code and are never opened",
        )
    if (folder / "adapter_config.json").exists():
        raise RefusedModelError(
            f"reward model {name!r} comes with an adapter, which may or may not be applied",
            where=str(folder),
            fix="merge the adapter into the weights",
        )
    if not (folder / "tokenizer.json").is_file():
        raise RefusedModelError(
            f"reward model {name!r} has no tokenizer.json",
            where=str(folder),
            fix="add it: AutoTokenizer.from_pretrained(…).save_pretrained(…) writes one",
        )
    tokenizer_config = _json(folder / "tokenizer_config.json", missing_ok=True)
    return RewardModelSpec(
        name=name,
        path=folder,
        family="sequence-classifier",
        weights=tuple(file_digest(path) for path in weights),
        config=digest("config", _behaviour(config)),
        tokenizer=_tokenizer_digest(folder, file_digest, tokenizer_config),
        template=_template(folder, name, tokenizer_config),
        dtype=_dtype(settings.get("dtype") or config.get("dtype") or config.get("torch_dtype")),
        max_length=_max_length(settings.get("max_length"), config, tokenizer_config),
        overlong=_overlong(settings.get("overlong") or "error"),
        notice=str(settings.get("notice") or _card_notice(folder)),
    )


def _folder(target: str, workspace: Workspace, *, download: bool) -> Path:
    built_in = files("evalkit.reward_models").joinpath(target)
    if "/" not in target and built_in.joinpath("config.json").is_file():
        return Path(str(built_in))
    if Path(target).is_dir():
        return Path(target)
    match = HUB_ID.fullmatch(target)
    if match is not None:
        return _snapshot(match["repo"], match["revision"], download=download)
    known = [*workspace.config["reward_models"], *built_ins()]
    raise MissingError(
        f"reward model {target!r} not found",
        where="looked in evalkit.toml [reward_models], the built-in reward models, and for a "
        "folder of that name",
        fix=f"known reward models: {listing(known)}. {did_you_mean(target, known)}".strip(),
    )


def pickles(folder: Path) -> list[str]:
    """Pickled files of a checkpoint that may be part of it; a trainer's own leftovers are not."""
    found = (p.name for pattern in PICKLES for p in folder.glob(pattern))
    return sorted(n for n in found if n not in TRAINER_LEFTOVERS and "rng_state" not in n)


def built_ins() -> list[str]:
    """The reward models that come with the package."""
    return sorted(
        entry.name
        for entry in files("evalkit.reward_models").iterdir()
        if entry.joinpath("config.json").is_file()
    )


def _snapshot(repo: str, revision: str | None, *, download: bool) -> Path:
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
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                local_files_only=not download,
                allow_patterns=["*.json", "*.jinja", "*.safetensors", "*.model", "*.txt"],
            )
        )
    except (OSError, ValueError, HFValidationError, HfHubHTTPError) as error:
        raise MissingError(
            f"reward model {repo}{at} is neither a folder nor on this machine's Hub cache",
            where=str(error).splitlines()[0],
            fix=f"fetch it: hf download {repo}{f' --revision {revision}' if revision else ''}, or "
            "run the same command with `evalkit --allow-download …`",
        ) from None


def _label(target: str, folder: Path) -> str:
    return folder.resolve().name if Path(target).is_dir() else target


def _json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    if missing_ok and not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
        canonical_json(value)  # refuses what no digest can be over, such as NaN
    except OSError:
        raise RefusedModelError(
            f"{path.parent} is no reward model: it has no {path.name}",
            fix="name the folder that holds config.json, the tokenizer and the safetensors files",
        ) from None
    except (ValueError, RecursionError) as error:
        raise RefusedModelError(f"{path} is not JSON: {error}", fix="fetch it again") from None
    if not isinstance(value, dict):
        raise RefusedModelError(f"{path} is no JSON object", fix="fetch it again")
    return value


def _behaviour(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in NOT_BEHAVIOUR}


def _tokenizer_digest(
    folder: Path, file_digest: Callable[[Path], str], config: Mapping[str, Any]
) -> str:
    parts: dict[str, object] = {
        name: file_digest(folder / name) for name in TOKENIZER_FILES if (folder / name).exists()
    }
    parts["tokenizer_config.json"] = _behaviour(config)
    return digest("tokenizer", parts)


def _template(folder: Path, name: str, tokenizer_config: Mapping[str, Any]) -> str:
    """The chat template that transformers would choose: the file, else the tokenizer's default."""
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return path.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise RefusedModelError(f"{path} is not text: {error}", fix="fetch it again") from None
    found = tokenizer_config.get("chat_template")
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    if not isinstance(found, str):
        raise RefusedModelError(
            f"reward model {name!r} has no chat template",
            where=str(folder),
            fix="add the template it was trained with as chat_template.jinja; evalkit never "
            "substitutes another",
        )
    return found


def _dtype(value: object) -> str:
    name = str(value or "float32").removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(
            f"unknown dtype {name!r}",
            fix=f"choose one of {', '.join(DTYPES)}. {did_you_mean(name, DTYPES)}".strip(),
        )
    return name


def _max_length(
    asked: object, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]
) -> int:
    limits = [
        config.get("max_position_embeddings"),
        config.get("n_positions"),
        tokenizer_config.get("model_max_length"),
    ]
    # a tokenizer without a limit of its own states 1e30
    known = [int(x) for x in limits if isinstance(x, int | float) and 1 < x < 1e9]
    if asked is None:
        if known:
            return min(known)
        raise InputError(
            "the reward model states no maximum length", fix="give one with --max-length"
        )
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise InputError(
            f"max_length must be an integer of at least 1, got {asked!r}",
            fix="correct --max-length, or max_length in evalkit.toml",
        )
    if known and asked > min(known):
        raise InputError(
            f"max_length {asked} is beyond the model's {min(known)} tokens",
            fix="choose a smaller one",
        )
    return asked


def _overlong(value: object) -> Overlong:
    for policy in OVERLONG:
        if value == policy:
            return policy
    raise InputError(
        f"unknown over-long policy {value!r}", fix=f"choose one of {', '.join(OVERLONG)}"
    )


def _card_notice(folder: Path) -> str:
    """What a model's own card.toml says must stand beside every number."""
    path = folder / "card.toml"
    if not path.exists():
        return ""
    return str(read_toml(path).get("notice", ""))
