"""The table of intervals as text and Markdown; computes nothing, only lays out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from evalkit.report.layout import aligned, markdown_table
from evalkit.text import count
from evalkit.validate import Cell

HEAD = ("metric", "n", "icc", "mean", "whose", "method", "coverage", "width", "verdict")


def to_lines(cells: Sequence[Cell]) -> list[str]:
    """The table for a terminal, and how much of evalkit's is as it says."""
    return [*aligned([HEAD, *(_row(cell) for cell in cells)]), tally(cells)]


def tally(cells: Sequence[Cell]) -> str:
    """How much of evalkit's is as it says."""
    own = [cell for cell in cells if cell.whose == "evalkit"]
    fine = sum(cell.verdict == "ok" for cell in own)
    said = sum(cell.passes for cell in own) - fine
    cells_of = count(len(own), "cell")
    return (
        f"evalkit: {cells_of}, {fine} ok, {said} explained, {len(own) - fine - said} not; "
        f"{max(cell.trials for cell in cells)} trials a cell"
    )


def to_markdown(cells: Sequence[Cell]) -> list[str]:
    """A section a metric, a line a design, a column a method; what is not as said comes first."""
    head = ("metric", "n", "icc", "mean", "method", "coverage", "no interval", "verdict")
    beyond = [
        (*_row(cell)[:4], cell.method, _exact(cell), f"{cell.undefined}", cell.verdict)
        for cell in cells
        if cell.whose == "evalkit" and not cell.as_said
    ]
    lines = ["## evalkit's cells outside the limits", "", *markdown_table([head, *beyond])]
    for metric, of_metric in groupby(cells, key=lambda cell: cell.metric):
        lines += ["", f"## {metric[0].upper()}{metric[1:]}", ""]
        by_design = [
            list(of_design)
            for _, of_design in groupby(of_metric, key=lambda cell: (cell.mean, cell.n, cell.icc))
        ]
        names = [_column(cell) for cell in by_design[0]]
        rows = [(*_row(row[0])[1:4], *map(_both, row)) for row in by_design]
        lines += markdown_table([("n", "icc", "mean", *names), *rows])
    return lines


def _row(cell: Cell) -> tuple[str, ...]:
    return (
        cell.metric,
        f"{cell.n}",
        f"{cell.icc:g}",
        f"{cell.mean:.3g}",
        cell.whose,
        cell.method,
        _coverage(cell),
        "" if cell.width is None else f"{cell.width:.4f}",
        cell.verdict,
    )


def _coverage(cell: Cell) -> str:
    return f"{100 * cell.coverage:.1f} %"


def _column(cell: Cell) -> str:
    if cell.whose == "peer":
        return cell.method
    return f"evalkit: {cell.method}" if cell.width is None else "evalkit"


def _exact(cell: Cell) -> str:
    return f"{_coverage(cell)} ± {100 * cell.stderr:.1f}"


def _both(cell: Cell) -> str:
    return _coverage(cell) + ("" if cell.width is None else f" ({cell.width:.3f})")
