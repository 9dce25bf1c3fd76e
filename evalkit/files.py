"""Files of any kind: TOML whose keys are checked, and writing whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evalkit.errors import InputError
from evalkit.text import clip, did_you_mean, listing


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        InputError: It is malformed; the message has the line.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}", fix="correct this TOML file") from None


def check_keys(
    path: Path, place: str, content: Mapping[str, Any], known: Mapping[str, type]
) -> None:
    """Refuse a table of a TOML file with unknown keys, or values of another type.

    Raises:
        InputError: Naming the file, the table and the key.
    """
    for key in content:
        if key not in known:
            raise InputError(
                f"unknown key {key!r} in {place}",
                where=str(path),
                fix=f"known keys: {listing(list(known))}. {did_you_mean(key, known)}".strip(),
            )
    check_types(path, place, content, known)


def check_types(
    path: Path, place: str, content: Mapping[str, Any], known: Mapping[str, type]
) -> None:
    """The same for the types alone."""
    words = {
        str: "text in quotes",
        int: "an integer",
        float: "a number",
        bool: "true or false",
        list: "a list",
        dict: "a table",
    }
    for key, kind in known.items():
        value = content.get(key, kind())
        fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise InputError(
                f"{key!r} in {place} must be {words[kind]}, got {clip(value)}",
                where=str(path),
                fix="correct this key",
            )


def slug(text: str) -> str:
    """A file name for a name that may hold anything: letters, digits, `.`, `_`, `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:60].strip(".-") or "run"


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename, fsync of the folder.

    Raises:
        InputError: The folder does not exist or cannot be written to.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"cannot write {path}: it is no regular file", fix="name another file")
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}", fix="create the folder, or name another file"
        ) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), path.stat().st_mode & 0o777 if path.exists() else 0o644)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise InputError(
            f"cannot write {path}: {error.strerror}", fix="free disk space, or name another file"
        ) from None
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
