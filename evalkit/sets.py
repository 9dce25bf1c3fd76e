"""Completion sets by name or path: resolve, read, look prompts up, and find their packs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from evalkit import formats
from evalkit.data import CompletionSet, Prompt, Row, completion_set, default_prompt_id
from evalkit.errors import InputError, IntegrityError
from evalkit.store import Pack, find_packs
from evalkit.workspace import Role, SetSource, Workspace


class NamedSet(NamedTuple):
    """A completion set and where it came from."""

    completions: CompletionSet
    source: SetSource

    def packs(self) -> list[Pack]:
        """The packs of rewards that lie beside it."""
        return packs_of(self.source)


class NamedRows(NamedTuple):
    """The rows of an input, one by one as it gives them, and the prompts their ids stand for."""

    rows: list[Row]
    prompts: dict[str, Prompt]
    source: SetSource


def packs_of(source: SetSource) -> list[Pack]:
    """The packs of rewards that lie beside a set."""
    return list(find_packs(source.folder)) if source.folder else []


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
    return NamedRows(rows, _by_any_id(read_prompts(named, workspace)), source)


def read_set(spec: str, role: Role, workspace: Workspace, benchmark: str | None = None) -> NamedSet:
    """Read a completion set; arguments and errors as for `read_rows`.

    Raises:
        IntegrityError: A reference whose completions are not those of its manifest.
    """
    rows, prompts, source = read_rows(spec, role, workspace, benchmark)
    completions = completion_set(
        source.name,
        rows,
        prompts=prompts,
        step=source.step,
        source=source.path,
        notice=source.notice,
    )
    if source.manifest and source.manifest["digest"] != completions.digest:
        raise IntegrityError(
            f"the completions of {source.name!r} are not those its manifest was written for",
            where=source.path,
            fix="restore them, or add the reference again with --replace",
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


def benchmark_of(asked: str | None, references: Sequence[NamedSet]) -> str | None:
    """The benchmark asked for, else the one that all references answer."""
    named = {found.source.benchmark for found in references}
    return named.pop() if asked is None and len(named) == 1 else asked


def read_prompts(benchmark: str | None, workspace: Workspace) -> dict[str, Prompt]:
    """The prompts of a benchmark by id; empty if none is named."""
    if benchmark is None:
        return {}
    return formats.read_prompts(str(workspace.benchmark_prompts(benchmark)))


def _by_any_id(prompts: Mapping[str, Prompt]) -> dict[str, Prompt]:
    """The prompts by their own id and by that of their messages, for rows that have no id."""
    by_messages = {default_prompt_id(p.messages): p for p in prompts.values()}
    return {**by_messages, **prompts}


def check_names(sets: Sequence[NamedSet]) -> None:
    """Refuse two different inputs under one name: no output could tell them apart.

    Raises:
        InputError: Naming both.
    """
    paths: dict[str, Path] = {}
    for completions, source in sets:
        path = Path(source.path).resolve()
        if paths.setdefault(completions.name, path) != path:
            raise InputError(
                f"two inputs are called {completions.name!r}",
                where=f"{paths[completions.name]} and {path}",
                fix="rename one, or give it a name in evalkit.toml",
            )
