"""A verdict where GitHub Actions shows it: the step summary, and annotations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from evalkit.gate import Verdict


def tell_github(verdict: Verdict, *, asked: bool | None) -> None:
    """Append the verdict to the step summary and print its annotations on stderr.

    A summary that cannot be written is said and moves no exit code.

    Args:
        verdict: What to show.
        asked: By --github or --no-github; None for neither, which is to do it in Actions alone.
    """
    from evalkit.report import gate

    if not (os.environ.get("GITHUB_ACTIONS") == "true" if asked is None else asked):
        return
    for line in gate.github_annotations(verdict):
        click.echo(line, err=True)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary and (why := _unwritten(Path(summary), verdict)):
        click.echo(f"warning: no step summary is written: {why}", err=True)


def _unwritten(summary: Path, verdict: Verdict) -> str | None:
    """Append the verdict to the summary; why not, where it cannot be or has no room left."""
    from evalkit.report import gate

    try:
        with summary.open("ab") as file:
            room = gate.MARKDOWN_BYTES - file.tell()
            text = gate.to_markdown(verdict, most=room)
            if len(text) > room:
                return "no room is left in it"
            file.write(text)
    except OSError as error:
        return error.strerror
    return None
