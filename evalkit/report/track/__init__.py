"""A run over its checkpoints as text, Markdown, JSON, CSV, HTML and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.report.gate import gated
from evalkit.report.layout import (
    Writers,
    aligned,
    escape,
    images,
    markdown_block,
    markdown_signature,
)
from evalkit.report.track.document import document, to_csv, to_json
from evalkit.report.track.tables import blocks, notices, notices_of_figure, title, verdicts
from evalkit.text import printable
from evalkit.track import Track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "check_output",
    "document",
    "to_csv",
    "to_html",
    "to_json",
    "to_markdown",
    "to_text",
    "write",
]


def to_text(track: Track) -> str:
    """For a terminal: the verdict of each curve first, then tables, notices and the signature."""
    lines = [*verdicts(track), title(track)]
    for block in blocks(track):
        lines += ["", block.title, *(aligned(block.table) if block.table else [])]
        lines += block.lines
    lines += ["", *(f"note: {notice}" for notice in notices(track))]
    lines += [f"signature: {track.signature}"]
    return "".join(f"{printable(line)}\n" for line in lines)


def to_markdown(track: Track) -> bytes:
    """The same as Markdown; text is escaped."""
    lines = [f"{escape(printable(line))}\n" for line in [*verdicts(track), title(track)]]
    for block in [*gated(track.verdict), *blocks(track)]:
        lines += markdown_block(block)
    lines += [f"- note: {escape(printable(notice))}" for notice in notices(track)]
    return ("\n".join([*lines, markdown_signature(track.signature)]) + "\n").encode()


def to_html(track: Track) -> bytes:
    """One self-contained page, under the policy that all pages share."""
    from evalkit.report.html import inline_svg, page
    from evalkit.report.track.plots import figure

    return page(
        "track.html.jinja",
        track=track,
        title=title(track),
        verdicts=verdicts(track),
        blocks=[*gated(track.verdict), *blocks(track)],
        notices=notices(track),
        level=f"{100 * track.options.level:g}",
        error=f"{100 * (1 - track.options.level):g}",
        figure=inline_svg(figure(track), "track", "The run over its steps"),
    )


def _figure(track: Track) -> Figure:
    from evalkit.report.plots import captioned
    from evalkit.report.track.plots import figure

    return captioned(figure(track), [*verdicts(track), title(track), *notices_of_figure(track)])


WRITERS = Writers[Track](
    {
        ".json": to_json,
        ".csv": to_csv,
        ".md": to_markdown,
        **images(_figure),
        ".html": to_html,
    }
)
check_output, write = WRITERS.check, WRITERS.write
