"""Accuracies with their intervals, beside what picking by length alone would get."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evalkit.accuracy.result import Accuracies, AccuracyTable
from evalkit.report.accuracy.tables import OVERALL, Place, level, places
from evalkit.report.plots import GREY, MOST_ROWS, SETTINGS, STYLES, short

# Each marker filled, then hollow: as many reward models as one figure can hold apart.
LOOKS = tuple((colour, marker, fill) for fill in (True, False) for colour, marker in STYLES)
LABEL = 36


def forest(run: Accuracies) -> Figure:
    """Overall, sections and subsets from top to bottom, the reward models below each other."""
    rows = _rows(run)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(8.5, _height(run, rows)), layout="constrained")
        _draw(figure.subplots(), run, rows)
        figure.legend(frameon=False, fontsize=8, loc="outside upper left", ncols=2)
    return figure


def _rows(run: Accuracies) -> list[Place]:
    """Without subsets where they would be too many."""
    found = [OVERALL, *places(run)]
    whole = len(found) * len(_shown(run)) <= MOST_ROWS * 2
    return found if whole else [place for place in found if place.kind != "subset"]


def _shown(run: Accuracies) -> tuple[AccuracyTable, ...]:
    return run.tables[: len(LOOKS)]


def _height(run: Accuracies, rows: list[Place]) -> float:
    shown = len(_shown(run))
    return (0.14 + 0.12 * shown) * len(rows) + 0.1 * shown + 1.2


def _draw(axes: Axes, run: Accuracies, rows: list[Place]) -> None:
    shown = _shown(run)
    step = 0.8 / len(shown)
    for k, table in enumerate(shown):
        offset = (k - (len(shown) - 1) / 2) * step
        _draw_one(axes, run, table, [(y + offset, place) for y, place in enumerate(rows)], k)
    baselines = [place.of(table) for table in shown for place in rows]
    if any(part and part.length for part in baselines):
        style: dict[str, Any] = {"linestyle": "none", "marker": "|", "markersize": 9}
        axes.plot([], [], color=GREY, label="length alone (the better of two)", **style)
    axes.set_yticks(range(len(rows)), [_label(run, place) for place in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-3, 103)  # Ties of RewardBench 2 go from −1 to 101
    axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.5)
    axes.set_xlabel(f"accuracy in %, {100 * level(run):g} % interval")
    if len(shown) < len(run.tables):
        axes.set_title(f"the first {len(shown)} of {len(run.tables)} reward models", fontsize=9)


def _draw_one(
    axes: Axes, run: Accuracies, table: AccuracyTable, rows: list[tuple[float, Place]], k: int
) -> None:
    """One reward model: a marker with its interval a row, and its length-only baseline."""
    colour, marker, filled = LOOKS[k]
    style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5}
    if not filled:
        style["markerfacecolor"] = "none"
    axes.plot([], [], linewidth=1.5, label=short(table.reward_model, LABEL), **style)
    for y, place in rows:
        part = place.of(table)
        if part is None:
            continue
        estimate = part.score.of(run.suite.credit)
        if part.length is not None and part.length.best is not None:
            axes.plot([100 * part.length.best], [y], color=GREY, marker="|", markersize=9)
        if estimate.value is None:
            continue
        if estimate.low is not None and estimate.high is not None:
            ends = [100 * estimate.low, 100 * estimate.high]
            axes.plot(ends, [y, y], color=colour, linewidth=1.5)
        axes.plot([100 * estimate.value], [y], linestyle="none", **style)


def _label(run: Accuracies, place: Place) -> str:
    """Its name and rows; sections stand out by a mark, as their subsets follow them."""
    n = sorted({part.score.n for table in run.tables if (part := place.of(table))})
    rows = f"{n[0]}" if len(n) == 1 else f"{n[0]}–{n[-1]}"
    head = "▸ " if place.kind == "section" else ""
    return f"{head}{short(place.name, LABEL)} ({rows})"
