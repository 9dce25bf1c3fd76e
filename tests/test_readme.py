"""What the README shows is run: every `$` line and the Python example, in a fresh workspace."""

import re
import shlex
import subprocess
import sys

import pytest

from evalkit.cli import cli
from evalkit.report import supported
from tests.shared_data import REPOSITORY
from tests.workspace_copy import QUIET, copy_workspace, evalkit

README = (REPOSITORY / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"^\$ evalkit (.*)$", README, re.M)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return copy_workspace(tmp_path_factory.mktemp("readme"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_works(workspace, command):
    done = evalkit(workspace, *shlex.split(command))
    assert done.returncode == 0, done.stderr


def test_the_python_example_works(workspace):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workspace, env=QUIET, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Estimate(value=" in done.stdout


def test_every_command_is_in_the_readme():
    shown = {command.split()[0] for command in COMMANDS}
    assert shown == set(cli.commands)


def test_the_table_of_reward_models_is_made_from_the_toml():
    _, _, rest = README.partition("<!-- evalkit reward-models list --markdown -->\n")
    assert rest.startswith(supported.to_markdown())


def test_every_link_of_the_documents_leads_somewhere():
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (REPOSITORY / name).read_text("utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (REPOSITORY / target).exists(), target
