"""Comparisons in every format, and the folder of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.contrasts import Compared
from evalkit.data import digest
from evalkit.errors import InputError
from evalkit.files import slug
from evalkit.report.document import document, to_json, to_prompt_lines
from evalkit.report.layout import Writers, images
from evalkit.report.tables import to_csv, to_markdown, to_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "check_output",
    "document",
    "to_csv",
    "to_html",
    "to_json",
    "to_markdown",
    "to_prompt_lines",
    "to_text",
    "write",
    "write_run",
]


def to_html(found: Compared) -> bytes:
    """One self-contained page."""
    from evalkit.report import html

    return html.render(found)


def _figure(found: Compared) -> Figure:
    from evalkit.report.plots import comparison_figure

    return comparison_figure(found.comparisons)


WRITERS = Writers[Compared](
    {
        ".json": to_json,
        ".jsonl": to_prompt_lines,
        ".csv": to_csv,
        ".md": to_markdown,
        **images(_figure),
        ".html": to_html,
    }
)
check_output, write = WRITERS.check, WRITERS.write
RUN_FILES = ("results.json", "prompts.jsonl", "comparison.svg", "comparison.png", "report.html")


def write_run(found: Compared, reports: Path) -> Path:
    """Write the folder of a run: the report, its figures and its numbers.

    The folder's name follows from the comparisons, so that a rerun writes the same bytes in place.

    Args:
        found: What is written.
        reports: The folder of all runs.

    Returns:
        The path of `report.html`.
    """
    first = found.comparisons[0]
    title = slug(f"{first.checkpoint.name}-vs-{first.reference.name}")
    identity = digest("run", [str(c.signature) for c in found.comparisons])[:12]
    folder = reports / f"{title}-{identity}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror}", fix="make it writable, or use --no-report"
        ) from None
    for name in RUN_FILES:
        write(found, folder / name)
    return folder / "report.html"
