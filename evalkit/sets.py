"""Completion sets by name or path: resolve, read, look prompts up, and find their packs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from evalkit import formats
from evalkit.data import CompletionSet, Prompt, Row, completion_set
from evalkit.errors import InputError
from evalkit.store import Pack, find_packs
from evalkit.workspace import Role, SetSource, Workspace


class NamedSet(NamedTuple):
    """A completion set and where it came from."""

    completions: CompletionSet
    source: SetSource

    def packs(self) -> list[Pack]:
        """The packs of rewards that lie beside it."""
        return list(find_packs(self.source.folder)) if self.source.folder else []


class NamedRows(NamedTuple):
    """The rows of an input, one by one as it gives them, and the prompts their ids stand for."""

    rows: list[Row]
    prompts: dict[str, Prompt]
    source: SetSource


def read_rows(
    spec: str, role: Role, workspace: Workspace, benchmark: str | None = None
) -> NamedRows:
    """Read the rows of a name or path.

    Args:
        spec: As for `--model` and `--ref`.
        role: Which of the two.
        workspace: Where names are looked up.
        benchmark: Whose prompts the ids stand for; else the input's own, else for ids without
            messages the workspace's default.

    Raises:
        InputError: Unknown name, or a malformed file.
    """
    source = workspace.completion_set(spec, role)
    rows = formats.read_rows(source.path)
    named = benchmark or source.benchmark
    if named is None and any(row.messages is None for row in rows):
        named = workspace.default("benchmark")
    return NamedRows(rows, read_prompts(named, workspace), source)


def read_set(spec: str, role: Role, workspace: Workspace, benchmark: str | None = None) -> NamedSet:
    """Read a completion set; arguments and errors as for `read_rows`."""
    rows, prompts, source = read_rows(spec, role, workspace, benchmark)
    completions = completion_set(
        source.name,
        rows,
        prompts=prompts,
        step=source.step,
        source=source.path,
        notice=source.notice,
    )
    return NamedSet(completions, source)


def read_sets(
    specs: Sequence[str], role: Role, workspace: Workspace, benchmark: str | None
) -> list[NamedSet]:
    """Read several completion sets, at least one.

    Raises:
        InputError: None is named, one is unknown, or a file is malformed.
    """
    if not specs:
        raise InputError(f"no {role} is named", fix="name at least one")
    return [read_set(spec, role, workspace, benchmark) for spec in specs]


def read_prompts(benchmark: str | None, workspace: Workspace) -> dict[str, Prompt]:
    """The prompts of a benchmark by id; empty if none is named."""
    if benchmark is None:
        return {}
    return formats.read_prompts(str(workspace.benchmark_prompts(benchmark)))


def check_names(sets: Sequence[NamedSet]) -> None:
    """Refuse two different inputs under one name: no output could tell them apart.

    Raises:
        InputError: Naming both.
    """
    paths: dict[str, str] = {}
    for completions, source in sets:
        if paths.setdefault(completions.name, source.path) != source.path:
            raise InputError(
                f"two inputs are called {completions.name!r}",
                where=f"{paths[completions.name]} and {source.path}",
                fix="rename one, or give it a name in evalkit.toml",
            )
