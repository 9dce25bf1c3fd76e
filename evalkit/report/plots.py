"""The comparison plots, drawn without pyplot and byte for byte the same on every run."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evalkit.comparison import Comparison
from evalkit.statistics.intervals import Estimate
from evalkit.text import printable

# The four Okabe-Ito colours with a contrast of at least 3 on white and on near-black, each with
# its own marker, so that colour never carries meaning alone.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))
GREY = "#767676"
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "evalkit",
    "text.parse_math": False,  # names may hold dollar signs
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
BINS = 40
MOST_ROWS = 60


def comparison_figure(comparisons: Sequence[Comparison]) -> Figure:
    """Win rates with intervals on the left, the distribution of margins on the right."""
    rows = _interval_rows(comparisons)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(10, max(2.6, 0.28 * len(rows) + 1.2)), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_intervals(left, rows, comparisons)
        _draw_margins(right, comparisons)
        caption(figure, dict.fromkeys(n for c in comparisons for n in c.notices), 150)
    return figure


def interval_figure(comparisons: Sequence[Comparison]) -> Figure:
    """Win rate and interval of each comparison and subset."""
    rows = _interval_rows(comparisons)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(7.5, 0.28 * len(rows) + 1.2), layout="constrained")
        _draw_intervals(figure.subplots(), rows, comparisons)
    return figure


def margin_figure(comparisons: Sequence[Comparison]) -> Figure:
    """How the margins of each comparison are distributed."""
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(7.5, 3.2), layout="constrained")
        _draw_margins(figure.subplots(), comparisons)
    return figure


def caption(figure: Figure, said: Iterable[str], width: int) -> int:
    """Write below a figure what a reader of it alone must know.

    Args:
        figure: What is written on.
        said: Sentences.
        width: Characters of a line.

    Returns:
        The number of lines.
    """
    lines = [line for text in said for line in textwrap.wrap(printable(text), width)]
    with mpl.rc_context(SETTINGS):
        figure.supxlabel("\n".join(lines), fontsize=7, x=0.01, ha="left")
    return len(lines)


def captioned(figure: Figure, said: Iterable[str]) -> Figure:
    """A figure that grows by its caption."""
    lines = caption(figure, said, 130)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.14 * lines)
    return figure


def short(name: str, most: int) -> str:
    """A name cut in the middle: its end often tells it from others."""
    text = printable(name)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 + 1 :]}"


def render(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    """The figure as SVG or PNG bytes, without a date."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context(SETTINGS):
        figure.savefig(buffer, format=kind, metadata=metadata, dpi=150)
    return buffer.getvalue()


def _interval_rows(comparisons: Sequence[Comparison]) -> list[tuple[str, int, Estimate]]:
    """Label, comparison and win rate of each row; without subsets where they would be too many."""
    subsets = sum(1 + len(c.subsets) for c in comparisons) <= MOST_ROWS
    rows = []
    for i, c in enumerate(comparisons):
        name = _label(c)
        rows.append((name, i, c.overall.estimates["win_rate"]))
        if subsets:
            rows += [(f"{s} ({g.n})", i, g.estimates["win_rate"]) for s, g in c.subsets.items()]
    return rows


def _draw_intervals(
    axes: Axes, rows: Sequence[tuple[str, int, Estimate]], comparisons: Sequence[Comparison]
) -> None:
    axes.axvline(50, color=GREY, linewidth=1, linestyle="--")
    for y, (_, i, e) in enumerate(rows):
        colour, marker = STYLES[i % len(STYLES)]
        if e.value is None:
            continue
        axes.plot([100 * e.value], [y], marker=marker, color=colour, markersize=5)
        if e.low is not None and e.high is not None:
            axes.plot([100 * e.low, 100 * e.high], [y, y], color=colour, linewidth=1.5)
    level = comparisons[0].overall.estimates["win_rate"].level
    axes.set_yticks(range(len(rows)), [_clip(name) for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"win rate in %, {100 * level:g} % interval")


def _draw_margins(axes: Axes, comparisons: Sequence[Comparison]) -> None:
    margins = [c.table.lead for c in comparisons[: len(STYLES)]]
    low, high = (f(np.concatenate(margins)) for f in (np.min, np.max))
    edges = np.linspace(min(low, 0.0), max(high, 0.0), BINS + 1)
    if edges[0] == edges[-1]:
        edges = np.linspace(-1.0, 1.0, BINS + 1)
    axes.axvline(0, color=GREY, linewidth=1, linestyle="--")
    for c, values, (colour, _) in zip(comparisons, margins, STYLES, strict=False):
        label = _label(c)
        axes.hist(
            values, bins=edges.tolist(), histtype="step", color=colour, linewidth=1.5, label=label
        )
    pairwise = comparisons[0].reward_model.is_pairwise
    axes.set_xlabel(
        "P(checkpoint is better) − ½"
        if pairwise
        else "margin (checkpoint − reference), reward units"
    )
    axes.set_ylabel("prompts")
    if len(comparisons) > 1:
        axes.legend(frameon=False, fontsize=8)
    if len(comparisons) > len(STYLES):
        axes.set_title(f"the first {len(STYLES)} of {len(comparisons)} comparisons", fontsize=9)


def _label(c: Comparison) -> str:
    """Both names, each cut in the middle if it is long: its end often tells checkpoints apart."""
    names = (printable(name) for name in (c.checkpoint.name, c.reference.name))
    short = (n if len(n) <= 24 else f"{n[:11]}…{n[-12:]}" for n in names)
    return " vs ".join(short)


def _clip(text: str, most: int = 48) -> str:
    text = printable(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"
