"""The workspace: its folders, its `evalkit.toml`, and the one rule by which names resolve.

The workspace is the nearest folder upwards that holds `evalkit.toml`, else the current folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evalkit.errors import InputError, IntegrityError
from evalkit.files import check_keys, check_types, read_toml
from evalkit.text import did_you_mean, listing

CONFIG = "evalkit.toml"
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")
ENDPOINT: Mapping[str, type] = {
    "endpoint": str, "dialect": str, "revision": str, "tokenizer": str, "key_env": str,
    "timeout": float, "concurrency": int,
}  # fmt: skip
KEYS: Mapping[str, Mapping[str, type]] = {
    "defaults": {"benchmark": str, "reward_model": str, "reference": str},
    "checkpoints": {"path": str, "step": int, "benchmark": str, "notice": str},
    "refs": {"path": str, "benchmark": str, "notice": str},
    "reward_models": {
        "model": str,
        "dtype": str,
        "max_length": int,
        "overlong": str,
        "notice": str,
        "family": str,
        "output": str,
        "attributes": list,
        "parameters": dict,
        "trust_remote_code": bool,
        **ENDPOINT,
    },
    "gate": {"level": float, "inconclusive": str, "rules": list},
}
PLAIN = ("defaults", "gate")  # tables of keys; the others are tables of named tables
SIDECAR: Mapping[str, type] = {"step": int, "notice": str}
REFERENCE_SCHEMA = "evalkit.reference/1"
MANIFEST: Mapping[str, type] = {"name": str, "digest": str, "prompts": int, "completions": int}
Role = Literal["checkpoint", "reference"]


@dataclass(frozen=True, slots=True)
class SetSource:
    """Where a completion set is and what is known about it before it is read.

    Attributes:
        name: How reports call it.
        path: A file, folder or `hf://` data set, as `evalkit.formats.read_rows` takes it.
        step: Training step, if its sidecar or `evalkit.toml` states one.
        notice: What a reader must know about it.
        benchmark: The benchmark whose prompts it answers, if known.
        folder: The reference folder it is, for its packs; None for anything else.
        manifest: The reference's manifest; empty for anything else.
    """

    name: str
    path: str
    step: int | None = None
    notice: str = ""
    benchmark: str | None = None
    folder: Path | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)


class Workspace:
    """Folders, configuration and name resolution of one workspace.

    Args:
        root: The folder that holds `evalkit.toml` (or would).

    Raises:
        InputError: `evalkit.toml` is malformed or has an unknown key.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = _read_config(root / CONFIG)

    @classmethod
    def find(cls, start: Path) -> Workspace:
        """The workspace that `start` lies in."""
        start = start.resolve()
        for folder in (start, *start.parents):
            if (folder / CONFIG).is_file():
                return cls(folder)
        return cls(start)

    @property
    def store(self) -> Path:
        """The live reward store."""
        return self.root / ".evalkit" / "store.db"

    @property
    def references(self) -> Path:
        """One folder per named reference."""
        return self.root / "reference_cache"

    @property
    def benchmarks(self) -> Path:
        """One folder per benchmark."""
        return self.root / "benchmarks"

    @property
    def reports(self) -> Path:
        """One folder per run."""
        return self.root / "reports"

    def default(self, key: str) -> str | None:
        """A value of `[defaults]`."""
        value = self.config["defaults"].get(key)
        return None if value is None else str(value)

    def benchmark_prompts(self, name: str) -> Path:
        """The prompts of a benchmark.

        Raises:
            InputError: There is no such benchmark.
        """
        path = self.benchmarks / name / "prompts.jsonl"
        if not path.is_file():
            known = sorted(p.parent.name for p in self.benchmarks.glob("*/prompts.jsonl"))
            raise InputError(
                f"benchmark {name!r} not found",
                where=f"looked for {path}",
                fix=f"known benchmarks: {listing(known)}. {did_you_mean(name, known)}".strip()
                + ("" if known else " Start in the workspace that has it: evalkit -C DIR …"),
            )
        return path

    def completion_set(self, spec: str, role: Role) -> SetSource:
        """Resolve `--model` or `--ref`.

        A path (with a separator, a known suffix or a leading dot) or `hf://` data set is taken as
        it is; a name is looked up in `evalkit.toml`, then for a reference in `reference_cache/`
        and `benchmarks/*/completions/`, for a checkpoint the other way round.

        Raises:
            InputError: Nothing has this name, or two sets do.
        """
        if spec.startswith("hf://"):
            return SetSource(name=spec.removeprefix("hf://"), path=spec)
        if _is_path(spec):
            try:
                return self._from_path(Path(spec))
            except (OSError, ValueError) as error:
                raise InputError(
                    f"cannot look for {role} {spec[:80]!r}: {error}", fix="check the path"
                ) from None
        table = "refs" if role == "reference" else "checkpoints"
        if spec in self.config[table]:
            return self._from_config(table, spec)
        levels = [self._in_references(spec), self._in_benchmarks(spec)]
        for hits in levels if role == "reference" else reversed(levels):
            if len(hits) > 1:
                raise InputError(
                    f"{role} {spec!r} is ambiguous",
                    where=", ".join(str(hit) for hit in hits),
                    fix="name the file instead",
                )
            if hits:
                return self._from_path(hits[0])
        raise self._not_found(spec, role, table)

    def names(self) -> list[str]:
        """Every name that `--model` and `--ref` know."""
        found = {*self.config["refs"], *self.config["checkpoints"], *self.reference_names()}
        found |= {
            _stem(p) for p in self.benchmarks.glob("*/completions/*") if p.name.endswith(SUFFIXES)
        }
        return sorted(found)

    def reference_names(self) -> list[str]:
        """The references in `reference_cache/`."""
        found = (p.parent.name for p in self.references.glob("*/manifest.json"))
        return sorted(name for name in found if not name.startswith("."))

    def _in_references(self, name: str) -> list[Path]:
        return [self.references / name] if name in self.reference_names() else []

    def _in_benchmarks(self, name: str) -> list[Path]:
        return sorted(
            p
            for p in self.benchmarks.glob("*/completions/*")
            if p.name.endswith(SUFFIXES) and _stem(p) == name
        )

    def _from_config(self, table: str, name: str) -> SetSource:
        entry = self.config[table][name]
        if "path" not in entry:
            raise InputError(
                f"[{table}.{name}] has no path",
                where=str(self.root / CONFIG),
                fix=f'add path = "answers.jsonl" below [{table}.{name}]',
            )
        path = str(entry["path"])
        hub = SetSource(name=name, path=path)
        found = hub if path.startswith("hf://") else self._from_path(self.root / path)
        return SetSource(
            name=name,
            path=found.path,
            step=entry.get("step", found.step),
            notice=entry.get("notice", found.notice),
            benchmark=entry.get("benchmark", found.benchmark),
            folder=found.folder,
            manifest=found.manifest,
        )

    def _from_path(self, path: Path) -> SetSource:
        resolved = path.resolve()
        str(resolved).encode()  # a name that is not text could not be written into any output
        if path.name == "completions.jsonl" and (path.parent / "manifest.json").is_file():
            return self._from_path(path.parent)
        if (path / "manifest.json").is_file():
            manifest = read_manifest(path)
            return SetSource(
                name=resolved.name,
                path=str(path),
                notice=_stand_in(manifest),
                benchmark=manifest.get("benchmark"),
                folder=path,
                manifest=manifest,
            )
        benchmark = resolved.parent.parent
        inside = resolved.parent.name == "completions" and (benchmark / "prompts.jsonl").is_file()
        sidecar = resolved.parent / f"{_stem(resolved)}.toml"
        about = read_toml(sidecar) if sidecar.is_file() else {}
        check_types(sidecar, "the file", about, SIDECAR)
        return SetSource(
            name=_stem(resolved),
            path=str(path),
            step=about.get("step"),
            notice=str(about.get("notice", "")),
            benchmark=benchmark.name if inside else None,
        )

    def _not_found(self, spec: str, role: Role, table: str) -> InputError:
        if Path(spec).is_file():
            return InputError(
                f"{role} {spec!r} is a file of a format that is not read",
                fix=f"convert it to one of {', '.join(SUFFIXES)}",
            )
        hint = did_you_mean(spec, self.names())
        return InputError(
            f"{role} {spec!r} not found",
            where=f"looked in {CONFIG} [{table}], {self.references}/{spec}/, "
            f"{self.benchmarks}/*/completions/{spec}.*",
            fix=(f"{hint} Or " if hint else "")
            + (
                f"add it from your file: evalkit refs add {spec} answers.jsonl"
                if role == "reference"
                else "name its file: --model path/to/answers.jsonl"
            ),
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a reference folder.

    Raises:
        IntegrityError: It is unreadable.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{path} is unreadable: {error}", fix="add the reference again"
        ) from None
    if not isinstance(manifest, dict) or manifest.get("schema") != REFERENCE_SCHEMA:
        raise IntegrityError(
            f"{path} is no manifest of a reference ({REFERENCE_SCHEMA})",
            fix="add the reference again, or name its completions.jsonl",
        )
    wrong = [key for key, kind in MANIFEST.items() if not isinstance(manifest.get(key), kind)]
    if wrong or not isinstance(manifest.get("benchmark"), str | None):
        raise IntegrityError(
            f"{path} lacks {listing(wrong or ['benchmark'])}", fix="add the reference again"
        )
    return manifest


def _read_config(path: Path) -> dict[str, dict[str, Any]]:
    found = read_toml(path) if path.is_file() else {}
    check_keys(path, "the file", found, dict.fromkeys(KEYS, dict))
    for table, known in KEYS.items():
        content = found.get(table, {})
        if table in PLAIN:
            check_keys(path, f"[{table}]", content, known)
            continue
        for name, entry in content.items():
            check_types(path, f"[{table}]", {name: entry}, {name: dict})
            check_keys(path, f"[{table}.{name}]", entry, known)
    return {table: dict(found.get(table, {})) for table in KEYS}


def _is_path(spec: str) -> bool:
    return os.sep in spec or spec.startswith(".") or spec.endswith(SUFFIXES)


def _stem(path: Path) -> str:
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def _stand_in(manifest: Mapping[str, Any]) -> str:
    note = manifest.get("stand_in")
    return f"{manifest.get('name')} is a {note}" if note else ""
