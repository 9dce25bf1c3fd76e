"""The command line: parses and prints, decides nothing."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from evalkit.cli.accuracy import accuracy
from evalkit.cli.best_of_n import best_of_n
from evalkit.cli.calibrate import calibrate
from evalkit.cli.compare import compare
from evalkit.cli.gate import gate
from evalkit.cli.leaderboard import leaderboard
from evalkit.cli.plan import plan
from evalkit.cli.refs import refs
from evalkit.cli.reward_models import reward_models
from evalkit.cli.score import score
from evalkit.cli.shared import Context
from evalkit.cli.streams import heard
from evalkit.cli.track import track
from evalkit.cli.validate import validate
from evalkit.errors import EvalkitError
from evalkit.version import __version__

INTERRUPTED = 130
ISSUES = "please report it with that file"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="evalkit %(version)s")
@click.option("-C", "folder", default=".", metavar="DIR", help="Run as if started in DIR.")
@click.option(
    "--allow-download", is_flag=True, help="Fetch reward models and data sets from the Hub."
)
@click.option("--no-progress", is_flag=True, help="Show no progress on stderr.")
@click.pass_context
def cli(ctx: click.Context, folder: str, allow_download: bool, no_progress: bool) -> None:  # noqa: FBT001
    """Is this checkpoint better than that reference, by how much, and how sure are we?

    \b
    evalkit compare --model ckpt_1200 --ref gpt4_refs
    evalkit score answers.jsonl --reward-model demo-rm -o scores.jsonl
    evalkit refs list
    """
    if not allow_download:
        os.environ["HF_HUB_OFFLINE"] = "1"  # what `datasets` goes by
    if not Path(folder).is_dir():
        raise click.UsageError(f"-C {folder}: no such folder")
    os.chdir(folder)
    ctx.obj = Context(progress=not no_progress, download=allow_download)


COMMANDS = (
    accuracy, best_of_n, calibrate, compare, gate, leaderboard, plan, refs, reward_models, score,
    track, validate,
)  # fmt: skip
for command in COMMANDS:
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run evalkit and exit with its code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.stdout, sys.stderr = heard(sys.stdout, needed=True), heard(sys.stderr, needed=False)
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run evalkit; returns the exit code. Only a bug has a traceback, and that goes to a file."""
    try:
        code = cli.main(args=arguments, prog_name="evalkit", standalone_mode=False)
    except EvalkitError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: finished work is kept, the same command resumes", err=True)
        return INTERRUPTED
    except Exception:
        handle, name = tempfile.mkstemp(prefix="evalkit-bug-", suffix=".txt")
        with os.fdopen(handle, "w") as file:
            traceback.print_exc(file=file)
        click.echo(f"error: a bug in evalkit; the traceback is in {name}, {ISSUES}", err=True)
        return 1
    return int(code or 0)
