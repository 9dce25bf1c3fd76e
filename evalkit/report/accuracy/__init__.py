"""Accuracy on a suite as text, Markdown, LaTeX, CSV, JSON, plots and HTML; computes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from evalkit.accuracy.result import Accuracies
from evalkit.report.accuracy import ranking
from evalkit.report.accuracy.document import to_csv, to_json
from evalkit.report.accuracy.tables import (
    legend,
    named,
    notices,
    results,
    title,
    verdicts,
)
from evalkit.report.layout import (
    Block,
    Writers,
    aligned,
    escape,
    images,
    markdown_signature,
    markdown_table,
)
from evalkit.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LATEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "{}$&#%_"},
}


def to_text(run: Accuracies) -> str:
    """The tables for a terminal, each with what it says, then notices and signatures."""
    first, *others = blocks(run)
    lines = [printable(title(run)), *(f"reward model {printable(named(t))}" for t in run.tables)]
    lines += aligned(first.table)
    lines += [printable(line) for line in (*legend(run), *verdicts(run), *first.lines)]
    for block in others:
        lines += ["", f"{block.title}:", *(aligned(block.table) if block.table else [])]
        lines += [printable(line) for line in block.lines]
    lines += [""] if others else []
    lines += [f"note: {printable(notice)}" for notice in notices(run)]
    lines += [f"signature: {printable(str(table.signature))}" for table in run.tables]
    return "\n".join(lines) + "\n"


def to_markdown(run: Accuracies) -> bytes:
    """The same as Markdown; text is escaped."""
    first, *others = blocks(run)
    lines = [escape(printable(title(run))), "", *markdown_table(first.table), ""]
    lines += [
        f"- {escape(printable(line))}" for line in (*legend(run), *verdicts(run), *first.lines)
    ]
    for block in others:
        lines += ["", f"**{escape(block.title)}**", ""]
        lines += [*markdown_table(block.table), ""] if block.table else []
        lines += [f"- {escape(printable(line))}" for line in block.lines]
    lines += [""] if others else []
    lines += [f"- reward model {escape(printable(named(table)))}" for table in run.tables]
    lines += [f"- note: {escape(printable(notice))}" for notice in notices(run)]
    lines += [markdown_signature(table.signature) for table in run.tables]
    return ("\n".join(lines) + "\n").encode()


def to_latex(run: Accuracies) -> bytes:
    """The table of the results for LaTeX with booktabs, all else in its caption and comments."""
    first = results(run)
    head, *rows = first.table
    caption = latex("; ".join([title(run), *legend(run)]))
    comments = [*verdicts(run), *first.lines, *(f"note: {notice}" for notice in notices(run))]
    comments += [f"signature: {table.signature}" for table in run.tables]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{caption[0].upper()}{caption[1:]}.}}",
        f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        _latex_row(head),
        r"\midrule",
        *map(_latex_row, rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        *(f"% {printable(comment)}" for comment in comments),
    ]
    return ("\n".join(lines) + "\n").encode()


def latex(text: str) -> str:
    r"""Text that LaTeX sets as it is, even a bracket or star first, which `\\` before takes."""
    escaped = "".join(LATEX.get(character, character) for character in printable(text))
    return re.sub(r"^[\[*]", lambda m: f"{{{m[0]}}}", escaped)


def _latex_row(cells: list[str]) -> str:
    indent = r"\quad " if cells[0].startswith("  ") else ""
    return indent + " & ".join(latex(cell.strip()) for cell in cells) + r" \\"


def blocks(run: Accuracies) -> list[Block]:
    """The results, and for several reward models how they compare."""
    return [results(run), *ranking.blocks(run.ranking)]


def to_html(run: Accuracies) -> bytes:
    """One self-contained page."""
    from evalkit.report.accuracy import html

    return html.render(run, blocks(run))


def _figure(run: Accuracies) -> Figure:
    from evalkit.report.accuracy.plots import forest
    from evalkit.report.plots import captioned

    return captioned(forest(run), [title(run), *verdicts(run), *notices(run)])


__all__ = [
    "blocks", "check_output", "to_csv", "to_html", "to_json", "to_latex", "to_markdown", "to_text",
    "write",
]  # fmt: skip

WRITERS = Writers[Accuracies](
    {
        ".json": to_json,
        ".csv": to_csv,
        ".md": to_markdown,
        ".tex": to_latex,
        **images(_figure),
        ".html": to_html,
    }
)
check_output, write = WRITERS.check, WRITERS.write
