"""The files of a checkpoint, read without torch: config, tensor names and shapes, chat template.

A safetensors file starts with eight bytes, the little-endian length of a JSON header that names
every tensor with its shape (https://huggingface.co/docs/safetensors): enough to tell families.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evalkit.data import canonical_json, digest
from evalkit.errors import RefusedModelError
from evalkit.text import listing

TOKENIZER_FILES = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json")
NOT_BEHAVIOUR = ("transformers_version", "_name_or_path", "name_or_path", "chat_template")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
TRAINER_LEFTOVERS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
NO_LIMIT = 1e9  # a tokenizer without a limit of its own states 1e30
LONGEST_HEADER = 100_000_000  # what safetensors itself allows

FileDigest = Callable[[Path], str]


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config.json, safetensors and a tokenizer.

    Attributes:
        folder: Where it is.
        name: How errors call it.
    """

    folder: Path
    name: str

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.json says.

        Raises:
            RefusedModelError: There is none, or it is no JSON object.
        """
        return read_json(self.folder / "config.json")

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """What tokenizer_config.json says; empty if there is none."""
        return read_json(self.folder / "tokenizer_config.json", missing_ok=True)

    @property
    def architecture(self) -> str:
        """The class the checkpoint declares; empty if none."""
        declared = self.config.get("architectures")
        return str(declared[0]) if isinstance(declared, list) and declared else ""

    @cached_property
    def weights(self) -> list[Path]:
        """Its safetensors files, by name.

        Raises:
            RefusedModelError: There are none, or an adapter lies beside them.
        """
        found = sorted(path for path in self.folder.glob("*.safetensors") if path.is_file())
        if not found:
            others = pickles(self.folder)
            raise RefusedModelError(
                f"reward model {self.name!r} has no safetensors weights"
                + (f", only {listing(others)}" if others else ""),
                where=str(self.folder),
                fix="convert it to safetensors: pickled weights can run code and are never opened",
            )
        if (self.folder / "adapter_config.json").exists():
            raise RefusedModelError(
                f"reward model {self.name!r} comes with an adapter, which may or may not be "
                "applied",
                where=str(self.folder),
                fix="merge the adapter into the weights",
            )
        return found

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, by name.

        Raises:
            RefusedModelError: A damaged file, or one tensor in two files.
        """
        found: dict[str, tuple[int, ...]] = {}
        for path in self.weights:
            for name, shape in _header(path).items():
                if name in found:
                    raise RefusedModelError(
                        f"tensor {name} is in two files of reward model {self.name!r}",
                        where=str(path),
                        fix="remove the file that does not belong to the checkpoint",
                    )
                found[name] = shape
        return found

    @property
    def hidden_size(self) -> int:
        """Width of the trunk's last hidden state; 0 if config.json does not say."""
        for key in ("hidden_size", "n_embd", "d_model"):
            if isinstance(self.config.get(key), int):
                return int(self.config[key])
        return 0

    @property
    def positions(self) -> int | None:
        """How many tokens its trunk has positions for; None where config.json states no number."""
        stated = (limit(self.config.get(k)) for k in ("max_position_embeddings", "n_positions"))
        return min((number for number in stated if number is not None), default=None)

    def tokenizer_digest(self, file_digest: FileDigest) -> str:
        """Identity of the tokenizer.

        Raises:
            RefusedModelError: There is no tokenizer.json.
        """
        if not (self.folder / "tokenizer.json").is_file():
            raise RefusedModelError(
                f"reward model {self.name!r} has no tokenizer.json",
                where=str(self.folder),
                fix="add it: AutoTokenizer.from_pretrained(…).save_pretrained(…) writes one",
            )
        parts: dict[str, object] = {
            name: file_digest(self.folder / name)
            for name in TOKENIZER_FILES
            if (self.folder / name).exists()
        }
        parts["tokenizer_config.json"] = behaviour(self.tokenizer_config)
        return digest("tokenizer", parts)

    def chat_template(self) -> str | None:
        """The template transformers would choose: the file, else the tokenizer's default."""
        path = self.folder / "chat_template.jinja"
        if path.exists():
            try:
                return path.read_text("utf-8")
            except (OSError, ValueError) as error:
                raise RefusedModelError(
                    f"{path} is not text: {error}", fix="fetch it again"
                ) from None
        found = self.tokenizer_config.get("chat_template")
        if isinstance(found, list):
            named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
            found = named.get("default")
        return found if isinstance(found, str) else None


def limit(stated: object) -> int | None:
    """A number of tokens as a file states it; None where it states none, or none that limits."""
    return int(stated) if isinstance(stated, int | float) and 1 < stated < NO_LIMIT else None


def behaviour(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without library versions and names."""
    return {key: value for key, value in config.items() if key not in NOT_BEHAVIOUR}


def pickles(folder: Path) -> list[str]:
    """Pickled files of a checkpoint that may be part of it; a trainer's own leftovers are not."""
    found = (p.name for pattern in PICKLES for p in folder.glob(pattern))
    return sorted(n for n in found if n not in TRAINER_LEFTOVERS and "rng_state" not in n)


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """A JSON object of a checkpoint.

    Raises:
        RefusedModelError: It is missing, damaged, or holds what no digest can be over (NaN).
    """
    if missing_ok and not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
        canonical_json(value)
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


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        return {k: tuple(v["shape"]) for k, v in header.items() if k != "__metadata__"}
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise RefusedModelError(
            f"damaged safetensors: {error}", where=str(path), fix="fetch it again"
        ) from None
