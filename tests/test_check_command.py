"""`evalkit reward-models check`: tables, files, exit codes, own families, and what is refused."""

import json
import shutil
from typing import NamedTuple

import pytest

from evalkit.cli import run as run_evalkit
from tests.shared_data import DEMO_RM
from tests.tiny_checkpoints import change
from tests.workspace_copy import copy_workspace, evalkit

OWN = """
import numpy as np
from evalkit.reward_models import Rendered

class Length:
    device = "cpu"

    def render(self, items):
        return [Rendered(list("".join(m.content for m in chat).encode())) for chat in items]

    def rewards(self, batch):
        logits = np.array([[len(row.ids) - 60.0] for row in batch])
        return ACTIVATION

def load(spec, *, device="auto"):
    return Length()
"""
SERVED = """
[reward_models.served]
family = "MODULE:load"
output = "bradley-terry"
max_length = 4000
"""


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    folder = copy_workspace(tmp_path / "ws")
    monkeypatch.chdir(folder)  # and back again
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def run(capsys):
    """The command in this process: loading torch once is most of its time."""

    def command(*arguments):
        code = run_evalkit(["reward-models", "check", *arguments])
        return Done(code, *capsys.readouterr())

    return command


def planted(workspace):
    shutil.copytree(DEMO_RM, workspace / "rm")
    change(workspace / "rm" / "config.json", pad_token_id=2)
    return "rm"


def test_a_clean_model_has_no_findings_and_exit_code_0(workspace):
    done = evalkit(workspace, "reward-models", "check", "demo-rm")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("demo-rm: no findings (11 checks on 17 conversations")
    assert "not applicable: soft-cap-kernel: its attention has no cap" in done.stdout


def test_a_finding_has_code_number_and_fix_everywhere_and_exit_code_3(workspace, run):
    outputs = [workspace / f"check.{suffix}" for suffix in ("json", "md", "txt")]
    flags = [part for path in outputs for part in ("-o", str(path))]
    done = run(planted(workspace), *flags)
    assert done.returncode == 3, done.stderr
    document = json.loads(outputs[0].read_text())
    (finding,) = document["findings"]
    assert (finding["code"], document["exit_code"], finding["here"]) == ("pad-is-eos", 3, False)
    assert f"pad-is-eos  {finding['number']:.4g} max |Δ|  others' rewards" in done.stdout
    assert f"fix: {finding['fix']}" in done.stdout
    assert outputs[2].read_text() == done.stdout
    (row,) = [line for line in outputs[1].read_text().splitlines() if line.startswith("| pad-is")]
    assert f"{finding['number']:.4g}" in row


def test_completions_of_ones_own_are_tried(workspace, run):
    done = run("demo-rm", "--data", "ckpt_1200", "--rows", "8", "--max-length", "60", "--json")
    assert done.returncode == 3, done.stderr
    (finding,) = json.loads(done.stdout)["findings"]
    assert (finding["code"], 0 < finding["number"] < 1) == ("truncated-tail", True)
    assert "of 8 conversations are longer than 60 tokens" in finding["what"]


@pytest.mark.parametrize(
    ("activation", "codes"), [("logits", []), ("1 / (1 + np.exp(-logits))", ["squashed"])]
)
def test_a_family_of_ones_own_that_squashes_is_found(workspace, run, activation, codes):
    module = f"served_rm_{len(codes)}"  # one of its own: imported modules outlive a test
    (workspace / f"{module}.py").write_text(OWN.replace("ACTIVATION", activation))
    with (workspace / "evalkit.toml").open("a") as file:
        file.write(SERVED.replace("MODULE", module))
    done = run("served", "--json")
    assert done.returncode == (3 if codes else 0), done.stderr
    document = json.loads(done.stdout)
    assert [f["code"] for f in document["findings"]] == codes
    assert "special-tokens-parsed" in document["inapplicable"]


def test_a_refusal_with_a_code_is_a_finding(workspace, run):
    folder = workspace / planted(workspace)
    change(
        folder / "config.json", architectures=["INFORMForSequenceClassification"], pad_token_id=0
    )
    done = run("./rm")
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("rm: 1 finding; it is refused, and nothing could be scored")
    assert "random-head  2 faults of tensors" in done.stdout
    assert "score" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("no-such-rm",), 6, "known reward models"),
        (("demo-rm", "--data", "no-such-set"), 2, "no-such-set"),
        (("demo-rm", "-o", "check.pdf"), 2, "unknown suffix"),
        (("demo-rm", "--dtype", "int8"), 2, "unknown dtype"),
    ],
)
def test_bad_input_is_refused(workspace, run, arguments, code, said):
    done = run(*arguments)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "fix:" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("stated", [True, False])
def test_a_limit_that_nothing_fits_is_named_with_its_place(workspace, run, stated):
    folder = workspace / planted(workspace)
    change(folder / "config.json", pad_token_id=0)
    if stated:
        change(folder / "tokenizer_config.json", model_max_length=4)
    done = run("rm", *([] if stated else ["--max-length", "4"]))
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("rm: 1 finding; nothing could be scored")
    assert "truncated-tail  1 share too long  evalkit's own rewards" in done.stdout
    place = "the model_max_length of tokenizer_config.json" if stated else "as you say"
    assert f"17 of 17 conversations are longer than 4 tokens, {place}" in done.stdout
    assert ("correct it there" if stated else "raise --max-length") in done.stdout


def test_weights_that_are_no_safetensors_stay_a_refusal(workspace, run):
    folder = workspace / planted(workspace)
    (folder / "model.safetensors").write_bytes(b"no tensors")
    done = run("rm")
    assert (done.returncode, "damaged safetensors" in done.stderr) == (2, True)
