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
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(summary).open("ab") as file:
                room = gate.MARKDOWN_BYTES - file.tell()
                text = gate.to_markdown(verdict, most=room)
                file.write(text if len(text) <= room else b"")
        except OSError as error:
            click.echo(f"warning: no step summary is written: {error.strerror}", err=True)
