"""A user's own family: `"package.module:load"`, or the name of an entry point that stands for it.

`load(spec, *, device)` returns a `RewardModel`. Its identity is every source file of its package,
every file of the folder it is given, and its parameters: nobody knows which of them it reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evalkit.data import canonical_json, digest
from evalkit.errors import InputError
from evalkit.reward_models.checkpoint import Checkpoint, FileDigest
from evalkit.reward_models.families import OUTPUTS, Family, families
from evalkit.reward_models.settings import dtype_of, max_length_of, overlong_of
from evalkit.reward_models.spec import RewardModelSpec

NAME = re.compile(r"[\w.]+:\w+")
PLACE = "[reward_models] in evalkit.toml"


def is_own(name: object) -> bool:
    """Whether a family is a user's own; the names of evalkit's families are never taken."""
    if not isinstance(name, str) or any(name == f.name for f in families()):
        return False
    return ":" in name or name in _entry_points()


def describe_own(
    folder: Path | None, name: str, file_digest: FileDigest, settings: Mapping[str, Any]
) -> RewardModelSpec:
    """The spec of a reward model of a user's own family.

    Args:
        folder: Where its files lie; None if it has none.
        name: How reports call it.
        file_digest: SHA-256 of a file.
        settings: `family`, `output` and, unless the folder's config.json states one, `max_length`;
            `dtype`, `overlong`, `notice`, `attributes` and `parameters` may be given.

    Raises:
        InputError: Something is not given, or the module is not found.
    """
    family, sources = _family(str(settings["family"]), settings)
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder else []
    names = {str(p.relative_to(folder)): file_digest(p) for p in files} if folder else {}
    checkpoint = Checkpoint(folder or Path(), name)
    has_config = folder is not None and (folder / "config.json").is_file()
    config = checkpoint.config if has_config else {}
    return RewardModelSpec(
        name=name,
        path=folder or Path(),
        family=family,
        weights=tuple(names.values()),
        config=digest("config", names),
        tokenizer="",
        template=(checkpoint.chat_template() if folder else None) or "",
        dtype=dtype_of(settings.get("dtype") or config.get("dtype")),
        max_length=max_length_of(
            settings.get("max_length"), [checkpoint.positions if has_config else None]
        ),
        overlong=overlong_of(settings.get("overlong") or "error"),
        notice=str(settings.get("notice") or ""),
        code=tuple(file_digest(path) for path in sources),
    )


def _family(name: str, settings: Mapping[str, Any]) -> tuple[Family, list[Path]]:
    """The family, and the source files of the package it lies in."""
    target = _entry_points().get(name, name)
    output = settings.get("output")
    if output not in OUTPUTS:
        raise InputError(
            f"family {name!r} must say what its number is, not {output!r}",
            where=PLACE,
            fix=f"output = one of {', '.join(OUTPUTS)}",
        )
    if not NAME.fullmatch(target):
        raise InputError(
            f"{target!r} names no function", where=PLACE, fix='family = "package.module:load"'
        )
    parameters = dict(settings.get("parameters") or {})
    try:
        canonical_json(parameters)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"a parameter of family {name!r} has no digest: {error}",
            where=PLACE,
            fix="use text, numbers, true or false, lists and tables",
        ) from None
    own = Family(
        name=target,
        kind="own",
        output=output,
        parameters=parameters,
        attributes=tuple(settings.get("attributes") or ()),
    )
    return own, _sources(target.partition(":")[0])


def _sources(module: str) -> list[Path]:
    """The files of the top package a module lies in, or its own file if it lies in none."""
    try:
        top = find_spec(module.partition(".")[0])
        here = find_spec(module)  # imports its parents
    except (ImportError, ValueError, AttributeError):
        top = here = None
    if top is None or here is None or here.origin is None or not Path(here.origin).is_file():
        raise InputError(
            f"the module {module!r} of a family cannot be imported from a file",
            where=PLACE,
            fix="install it, or put its folder on PYTHONPATH",
        )
    folders = [Path(folder) for folder in top.submodule_search_locations or ()]
    return sorted({Path(here.origin), *(p for f in folders for p in f.rglob("*.py"))})


@cache
def _entry_points() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group="evalkit.families")}
