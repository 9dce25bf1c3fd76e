"""OpenDataArena's scorer configuration: the YAML of its InfOrmScorer, as it is.

Read from its documentation and code (OpenDataArena-Tool, model_based): a scorer has `name`,
`model`, `batch_size` and `max_length`; a row's conversation is its instruction, a newline and the
input if that is not empty, and the output; what is longer than `max_length` loses its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evalkit.errors import InputError
from evalkit.text import clip, did_you_mean, listing

SCORER = "InfOrmScorer"
DEFAULTS: Mapping[str, Any] = {
    "model": "infly/INF-ORM-Llama3.1-70B",
    "batch_size": 32,
    "max_length": 4096,
}
# what says how OpenDataArena spreads the work, which moves no score
WITHOUT_EFFECT = ("num_gpu", "num_gpu_per_job", "resume", "sub_name")
OVERLONG = "truncate-right"


@dataclass(frozen=True, slots=True)
class ScorerConfig:
    """What a configuration asks for.

    Attributes:
        model: The reward model: a folder or a Hub id.
        batch_size: Rows per batch.
        max_length: Tokens, template included; the end of what is longer is cut off.
        source: The rows to score; None if it names none.
        output: Where the scores go; None if it names no folder.
        notes: What a reader must know: defaults taken, keys without effect.
    """

    model: str
    batch_size: int
    max_length: int
    source: str | None
    output: Path | None
    notes: tuple[str, ...]


def read_config(path: Path) -> ScorerConfig:
    """Read a configuration.

    Args:
        path: YAML with a list `scorers` that holds one InfOrmScorer, or that scorer's keys alone.

    Raises:
        InputError: It is not YAML, names another scorer, or has a key of another name or type.
    """
    try:
        found = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(
            f"not a scorer's configuration: {error}", where=str(path), fix="name a YAML file"
        ) from None
    whole = found if isinstance(found, dict) else {}
    scorers = whole.get("scorers", [found])
    if not isinstance(scorers, list) or len(scorers) != 1 or not isinstance(scorers[0], dict):
        raise _wrong(path, "it must hold one scorer", f"leave {SCORER} alone in `scorers`")
    scorer = {str(key): value for key, value in scorers[0].items()}
    name = scorer.get("name")
    if name != SCORER:
        raise _wrong(path, f"scorer {name!r} is not known", f"name: {SCORER}")
    known = ("name", *DEFAULTS, *WITHOUT_EFFECT, "input_path", "output_path", "scorers")
    for key in (*scorer, *map(str, whole)):
        if key not in known:
            hint = did_you_mean(key, known)
            raise _wrong(path, f"unknown key {key!r}", f"known: {listing(known)}. {hint}".strip())
    notes = [
        f"{key} is not given: {value}, InfOrmScorer's default"
        for key, value in DEFAULTS.items()
        if scorer.get(key) is None
    ]
    if idle := sorted({*scorer, *map(str, whole)} & {*WITHOUT_EFFECT}):
        notes.append(f"{', '.join(idle)}: without effect here, a reward is known once computed")
    output = _text(path, whole, "output_path")
    return ScorerConfig(
        model=_text(path, scorer, "model") or str(DEFAULTS["model"]),
        batch_size=_number(path, scorer, "batch_size"),
        max_length=_number(path, scorer, "max_length"),
        source=_text(path, whole, "input_path"),
        output=Path(output) / f"{SCORER}.jsonl" if output else None,
        notes=tuple(notes),
    )


def _text(path: Path, table: Mapping[Any, Any], key: str) -> str | None:
    value = table.get(key)
    if value is None or (isinstance(value, str) and value):
        return value
    raise _wrong(path, f"{key} must be text, not {clip(value)}", "correct it")


def _number(path: Path, table: Mapping[str, Any], key: str) -> int:
    value = table.get(key)
    if value is None:
        return int(DEFAULTS[key])
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise _wrong(path, f"{key} must be an integer of at least 1, not {clip(value)}", "correct it")


def _wrong(path: Path, what: str, fix: str) -> InputError:
    return InputError(f"scorer's configuration: {what}", where=str(path), fix=fix)
