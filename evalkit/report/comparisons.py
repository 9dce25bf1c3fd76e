"""Comparisons in every format, and the folder of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evalkit.comparison import Comparison
from evalkit.data import digest
from evalkit.errors import InputError
from evalkit.report import document, tables
from evalkit.report.layout import Writers
from evalkit.workspace import slug, write_atomic


def _svg(comparisons: Sequence[Comparison]) -> bytes:
    from evalkit.report import plots

    return plots.render(plots.comparison_figure(comparisons), "svg")


def _png(comparisons: Sequence[Comparison]) -> bytes:
    from evalkit.report import plots

    return plots.render(plots.comparison_figure(comparisons), "png")


def _html(comparisons: Sequence[Comparison]) -> bytes:
    from evalkit.report import html

    return html.render(comparisons)


WRITERS = Writers[Sequence[Comparison]](
    {
        ".json": document.to_json,
        ".jsonl": document.to_prompt_lines,
        ".csv": tables.to_csv,
        ".md": tables.to_markdown,
        ".svg": _svg,
        ".png": _png,
        ".html": _html,
    }
)
check_output, write = WRITERS.check, WRITERS.write
RUN_FILES = ("results.json", "prompts.jsonl", "comparison.svg", "comparison.png", "report.html")


def write_run(
    comparisons: Sequence[Comparison], reports: Path, results: bytes | None = None
) -> Path:
    """Write the folder of a run: the report, its figures and its numbers.

    The folder's name follows from the comparisons, so that a rerun writes the same bytes in place.

    Args:
        comparisons: At least one.
        reports: The folder of all runs.
        results: The JSON of the comparisons where it has an exit code to tell.

    Returns:
        The path of `report.html`.
    """
    first = comparisons[0]
    title = slug(f"{first.checkpoint.name}-vs-{first.reference.name}")
    identity = digest("run", [str(c.signature) for c in comparisons])[:12]
    folder = reports / f"{title}-{identity}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror}", fix="make it writable, or use --no-report"
        ) from None
    for name in RUN_FILES:
        if name == "results.json" and results is not None:
            write_atomic(folder / name, results)
        else:
            write(comparisons, folder / name)
    return folder / "report.html"
