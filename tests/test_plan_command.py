"""`evalkit plan` from the command line: nothing is scored, refusals leave nothing behind."""

import json

import pytest

from tests.workspace_copy import copy_workspace, evalkit

FILES = ("out.json", "out.md", "out.html", "out.svg", "out.png")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """ckpt_800 and ckpt_1200 are scored, ckpt_400 is not."""
    found = copy_workspace(tmp_path_factory.mktemp("plan"))
    compared = ("compare", "-m", "ckpt_800", "-m", "ckpt_1200", "--no-report", "-o", "r.json")
    done = evalkit(found, "--no-progress", *compared)
    assert done.returncode == 0, done.stderr
    return found


def test_two_checkpoints_are_planned_in_every_format(workspace):
    outputs = [part for name in FILES for part in ("-o", name)]
    asked = ("plan", "-m", "ckpt_800", "-m", "ckpt_1200", "--detect", "0.02")
    done = evalkit(workspace, *asked, *outputs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("To tell ckpt_800 from ckpt_1200 against gpt4_refs")
    assert "gpt4_refs is a stand-in, not GPT-4 output" in done.stdout
    read = json.loads((workspace / "out.json").read_text("utf-8"))
    assert read["pilot"]["prompts"] == 160
    assert f"{read['designs'][0]['prompts']:,} prompts [" in done.stdout
    again = evalkit(workspace, *asked, "--json")
    assert again.stdout.encode() == (workspace / "out.json").read_bytes()
    assert (workspace / "out.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_is_settled_by_the_rules_of_the_gate(workspace):
    rules = ("--fail-under", "win_rate=0.62", "--fail-on", "regression:vs=previous")
    asked = ("plan", "--after", "r.json", *rules, "--margin", "0.03")
    done = evalkit(workspace, *asked, "-o", "s.json", "-o", "s.md")
    assert done.returncode == 0, done.stderr
    gate = evalkit(workspace, "gate", "r.json", *rules, "--margin", "0.03", "--json")
    judged = [j for j in json.loads(gate.stdout)["judged"] if j["state"] == "inconclusive"]
    assert judged
    read = json.loads((workspace / "s.json").read_text("utf-8"))
    assert [u["judged"] for u in read["undecided"]] == judged
    (workspace / "p.toml").write_text('[[gate.rules]]\nmetric = "win_rate"\nbound = 0.3\n')
    calm = evalkit(workspace, "plan", "--after", "r.json", "--policy", "p.toml")
    assert (calm.returncode, calm.stdout.splitlines()[0]) == (
        0,
        "Nothing is to settle: 2 of 2 rules decided.",
    )


def test_a_tracked_run_is_settled_too(workspace):
    run = ("track", "-m", "ckpt_800", "-m", "ckpt_1200", "--window", "1", "-o", "run.json")
    assert evalkit(workspace, "--no-progress", *run).returncode == 0
    done = evalkit(workspace, "plan", "--after", "run.json", "--fail-under", "win_rate=0.62")
    assert done.returncode == 0, done.stderr
    assert "about" in done.stdout
    assert "ckpt_1200" in done.stdout


REFUSED = [
    (("-m", "ckpt_400", "--detect", "0.02"), 6, "evalkit compare --model ckpt_400 --ref gpt4_refs"),
    (("-m", "ckpt_80", "--detect", "0.02"), 2, "did you mean: ckpt_800?"),
    (("-m", "ckpt_800"), 2, "no difference to find"),
    (("--detect", "0.02"), 2, "no checkpoint"),
    (("-m", "ckpt_800", "--detect", "1.5"), 2, "a difference of 1.5"),
    (("-m", "ckpt_800", "--detect", "0.02", "--power", "0"), 2, "power 0.0"),
    (("-m", "ckpt_800", "--detect", "0.02", "--ci", "0.9999999999999999"), 2, "0.9999999999999999"),
    (("-m", "ckpt_800", "--detect", "0.02", "--power", "0.9999999999999999"), 2, "neither above"),
    (("-m", "ckpt_800", "--detect", "0.02", "--completions", "1,x"), 2, "is no list of numbers"),
    (("-m", "ckpt_800", "--detect", "0.02", "--completions", "2"), 2, "the pilot has one"),
    (("-m", "ckpt_800", "--detect", "0.02", "--margin", "0.1"), 2, "no use for --margin"),
    (("--after", "r.json", "--power", "0.8", "--fail-under", "win_rate=0.5"), 2, "use for --power"),
    (("--after", "r.json", "-r", "b"), 2, "no use for --ref\n"),
    (("--after", "r.json", "--references", "2"), 2, "no use for --references"),
    (("--after", "r.json"), 2, "no [gate] in the file"),
    (("--after", "evalkit.toml", "--fail-under", "win_rate=0.5"), 2, "write it anew"),
    (("--after", "out.html", "--fail-under", "win_rate=0.5", "-o", "x.svg"), 2, "unknown suffix"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), REFUSED)
def test_refusals(workspace, arguments, code, said):
    before = (workspace / ".evalkit" / "store.db").read_bytes()
    output = () if "-o" in arguments else ("-o", "refused.json")
    done = evalkit(workspace, "plan", *arguments, *output)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (workspace / "refused.json").exists()
    assert (workspace / ".evalkit" / "store.db").read_bytes() == before
