"""What tables and outputs have in common: columns that align, cells that cannot act, places."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from evalkit.errors import InputError
from evalkit.files import write_atomic
from evalkit.text import did_you_mean, listing, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Result = TypeVar("Result")

FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Block(NamedTuple):
    """One topic: a table, the first row its head, and what is to be said below it."""

    title: str
    table: list[list[str]]
    lines: list[str]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines of a terminal, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells, the first of them the head, as lines of Markdown; text is escaped."""
    lines = ["| " + " | ".join(escape(cell.strip()) for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return lines


def markdown_block(block: Block) -> list[str]:
    """A topic under a heading, as lines of Markdown; text is escaped."""
    rows = [[printable(cell) for cell in row] for row in block.table]
    return [
        f"## {escape(printable(block.title))}",
        "",
        *([*markdown_table(rows), ""] if rows else []),
        *(f"- {escape(printable(line))}" for line in block.lines),
        "",
    ]


def markdown_signature(signature: object) -> str:
    """A signature as an item of Markdown."""
    return f"- signature: `{printable(str(signature)).replace('`', '')}`"


def group_lines(groups: Sequence[Sequence[str]]) -> list[str]:
    """Names by groups that cannot be told apart, the strongest first, in words."""
    first, *others = groups
    head = (
        f"the first place is shared by {listing(first)}: not separable"
        if len(first) > 1
        else f"the first is {first[0]}, separable from all others"
    )
    return [head, *(f"then: {listing(group)}" for group in others)]


def csv_lines(records: Sequence[Mapping[str, object]]) -> bytes:
    """Records as CSV, numbers in full; text cells cannot act as formulas."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: guard(value) for key, value in record.items()} for record in records)
    return buffer.getvalue().encode()


def json_document(found: Mapping[str, object]) -> bytes:
    """A document as indented JSON; numbers that JSON does not have are an error.

    Names may hold lone surrogates, which no encoding has: escaped, they are what JSON calls them.
    """
    text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode(errors="backslashreplace")


class Writers(dict[str, Callable[[Result], bytes]]):
    """Suffix of a file -> what makes its bytes out of a result."""

    def check(self, path: Path) -> None:
        """Refuse an output before any work is done for it.

        Raises:
            InputError: An unknown suffix, a folder that does not exist, or a folder in its place.
        """
        if path.suffix not in self:
            raise InputError(
                f"cannot write {path}: unknown suffix {path.suffix!r}",
                fix=f"use one of {', '.join(self)}. {did_you_mean(path.suffix, self)}".strip(),
            )
        if not path.parent.is_dir():
            raise InputError(
                f"cannot write {path}: no folder {path.parent}", fix="create the folder"
            )
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder", fix="name a file")

    def write(self, result: Result, path: Path) -> None:
        """Write exactly `path`, in the format of its suffix."""
        self.check(path)
        write_atomic(path, self[path.suffix](result))


def images(draw: Callable[[Result], Figure]) -> dict[str, Callable[[Result], bytes]]:
    """The writers of a figure as SVG and PNG; matplotlib is imported when one is drawn."""

    def drawn(result: Result, kind: Literal["svg", "png"]) -> bytes:
        from evalkit.report.plots import render

        return render(draw(result), kind)

    return {".svg": partial(drawn, kind="svg"), ".png": partial(drawn, kind="png")}


def guard(value: object) -> object:
    """A cell of CSV: numbers in full, and text that no spreadsheet takes for a formula."""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return repr(value) if isinstance(value, float) else value


def escape(text: str) -> str:
    """A line of text that Markdown leaves as it is, even if it begins as a list or a rule does."""
    escaped = re.sub(r"([\\`*_{}\[\]<>|#!~])", r"\\\1", text)
    return re.sub(r"^(\s*(?=[-+])|\s*\d+(?=[.)]))(.)(?=[-+\s]|$)", r"\1\\\2", escaped)
