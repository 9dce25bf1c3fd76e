"""The reward models evalkit knows, as a table: from the TOML and nothing else."""

from __future__ import annotations

from typing import NamedTuple

from evalkit.reward_models.families import families, published
from evalkit.reward_models.remote import judge
from evalkit.reward_models.remote.dialects import dialects

HEAD = ("family", "what it computes", "output", "models", "checked against")


class Supported(NamedTuple):
    """The published models of one family that were checked in one way."""

    family: str
    title: str
    output: str
    models: tuple[str, ...]
    checked: str


def rows() -> list[Supported]:
    """A row per family, output and check, in the order the families are tried."""
    found = []
    for family in families():
        models = [m for m in published().values() if m.family.name == family.name]
        ways = dict.fromkeys((m.family.output, m.checked) for m in models)
        if family.fixture or not models:
            ways = {(family.output, family.checked): None, **ways}
        found += [
            Supported(
                family.name,
                family.title,
                output,
                tuple(m.id for m in models if (m.family.output, m.checked) == (output, checked)),
                checked,
            )
            for output, checked in ways
        ]
    return found


def to_text() -> str:
    """The table for a terminal: a model on a line, with what its authors state of it."""
    lines = []
    for row in rows():
        lines.append(f"{row.family}  ({row.output}; checked: {row.checked})  {row.title}")
        lines += [f"    {model}{_stated(model)}" for model in row.models]
    lines += [f"{name}  (dialect of endpoints)  {title}" for name, title in _dialects()]
    return "\n".join(lines) + "\n"


def _dialects() -> list[tuple[str, str]]:
    """What `dialect` may say in a table of evalkit.toml with an endpoint."""
    judge_title = "OpenAI-compatible /v1/chat/completions: a chat model judges two answers"
    return [*((d.name, d.title) for d in dialects().values()), (judge.NAME, judge_title)]


def _stated(model: str) -> str:
    about = published()[model]
    stated = [
        about.licence,
        f"at most {about.max_length:,} tokens" if about.max_length else "",
        f"card: {', '.join(f'{score:g}' for score in about.examples)}" if about.examples else "",
        about.family.note,
    ]
    found = "; ".join(filter(None, stated))
    return f"  ({found})" if found else ""


def to_markdown() -> str:
    """The table of the README."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + " --- |" * len(HEAD)]
    for row in rows():
        models = "<br>".join(row.models) or "any checkpoint of this layout"
        cells = (f"`{row.family}`", row.title, row.output, models, row.checked)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    lines += ["", "| dialect | server |", "| --- | --- |"]
    lines += [f"| `{name}` | {title} |" for name, title in _dialects()]
    return "\n".join(lines) + "\n"
