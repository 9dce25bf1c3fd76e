"""A copy of the repository's own workspace, and evalkit run in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.shared_data import REPOSITORY

QUIET = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}


def copy_workspace(target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(REPOSITORY / "evalkit.toml", target)
    for name in ("benchmarks", "reference_cache"):
        shutil.copytree(REPOSITORY / name, target / name)
    return target


def evalkit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "evalkit", *arguments],
        cwd=folder,
        env=QUIET,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def start_evalkit(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "evalkit", *arguments],
        cwd=folder,
        env=QUIET,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
