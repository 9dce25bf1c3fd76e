"""`evalkit gate` and the rules of `compare`: one verdict in every output and the exit code."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from evalkit.cli import run
from tests.workspace_copy import QUIET, copy_workspace, evalkit

PASSES = ("--fail-under", "win_rate=0.3")
FAILS = ("--fail-under", "win_rate=0.9")
UNSURE = ("--fail-under", "win_rate=0.62")
needs_full = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="no device that is always full"
)
CODES = {PASSES: 0, FAILS: 3, UNSURE: 4}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    found = copy_workspace(tmp_path_factory.mktemp("gate"))
    compared = ("compare", "-m", "ckpt_1200", "-r", "gpt4_refs", "--no-report", "-o", "r.json")
    done = evalkit(found, "--no-progress", *compared)
    assert done.returncode == 0, done.stderr
    return found


@pytest.mark.parametrize("rule", CODES)
def test_every_output_and_the_exit_code_say_the_same(workspace, rule):
    done = evalkit(workspace, "gate", "r.json", *rule, "-o", "g.json", "-o", "g.md", "-o", "g.xml")
    state = {0: "pass", 3: "fail", 4: "inconclusive"}[CODES[rule]]
    assert done.returncode == CODES[rule]
    assert f"exit code {CODES[rule]}" in done.stdout
    document = json.loads((workspace / "g.json").read_text("utf-8"))
    assert (document["exit_code"], document["state"]) == (CODES[rule], state)
    assert document["judged"][0]["state"] == state
    assert f"exit code {CODES[rule]}" in (workspace / "g.md").read_text("utf-8")
    suites = ET.parse(workspace / "g.xml").getroot()
    assert suites.get("failures") == ("0" if state == "pass" else "1")
    shown = evalkit(workspace, "gate", "r.json", *rule, "--json")
    assert (shown.returncode, json.loads(shown.stdout)) == (CODES[rule], document)


def streamed(workspace, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE):
    return subprocess.run(
        [sys.executable, "-m", "evalkit", *arguments],
        cwd=workspace, stdout=stdout, stderr=stderr, text=True, check=False,
    )  # fmt: skip


@needs_full
def test_a_log_that_takes_nothing_leaves_result_file_and_exit_code(workspace):
    with Path("/dev/full").open("w") as full:
        done = streamed(workspace, "gate", "r.json", *FAILS, "-o", "unheard.json", stderr=full)
        assert (done.returncode, "FAIL" in done.stdout) == (3, True)
        assert (workspace / "unheard.json").is_file()
        assert streamed(workspace, "nonsense", stderr=full).returncode == 2


@pytest.mark.parametrize("rule", CODES)
def test_a_reader_who_has_gone_takes_neither_files_nor_exit_code_along(workspace, rule):
    reader, writer = os.pipe()
    os.close(reader)
    outputs = ("-o", "gone.json", "-o", "gone.md")
    done = streamed(workspace, "gate", "r.json", *rule, *outputs, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (CODES[rule], "wrote gone.json\nwrote gone.md\n")
    for name in ("gone.json", "gone.md"):
        (workspace / name).unlink()


@needs_full
def test_a_full_disk_under_the_output_is_told_and_files_are_written(workspace):
    with Path("/dev/full").open("w") as full:
        done = streamed(workspace, "gate", "r.json", *FAILS, "-o", "full.json", stdout=full)
    assert (done.returncode, "No space left" in done.stderr) == (2, True)
    assert "bug" not in done.stderr
    assert json.loads((workspace / "full.json").read_text("utf-8"))["state"] == "fail"


@pytest.mark.parametrize(("rule", "as_json"), list(itertools.product(CODES, [True, False])))
def test_compare_judges_as_gate_does(workspace, rule, as_json):
    done = evalkit(
        workspace, "--no-progress", "compare", "-m", "ckpt_1200", "-r", "gpt4_refs",
        "--no-report", *rule, *(["--json"] if as_json else []),
    )  # fmt: skip
    assert done.returncode == CODES[rule]
    assert f"exit code {CODES[rule]}" in done.stderr
    if as_json:
        assert json.loads(done.stdout)["exit_code"] == CODES[rule]


def test_every_output_of_a_comparison_holds_the_verdict(workspace):
    outputs = [f"-ox{suffix}" for suffix in (".json", ".md", ".html")]
    command = ("--no-progress", "compare", "-m", "ckpt_1200", "-r", "gpt4_refs", *outputs)
    for rule, code in CODES.items():
        written = []
        for _ in range(2):
            done = evalkit(workspace, *command, *rule)
            assert done.returncode == code
            (kept,) = (workspace / "reports").glob("*/results.json")
            written += [kept.read_bytes(), (workspace / "x.json").read_bytes()]
        assert len(set(written)) == 1
        saved = json.loads(written[0])
        assert saved["exit_code"] == saved["verdict"]["exit_code"] == code
        (judged,) = saved["verdict"]["judged"]
        headline = next(line for line in done.stderr.splitlines() if line.startswith("gate "))
        markdown = (workspace / "x.md").read_text("utf-8")
        assert markdown.startswith(f"## {headline}\n")
        assert f"| {judged['state'].upper()} | " in markdown
        for page in (workspace / "x.html", kept.parent / "report.html"):
            shown = page.read_text("utf-8")
            assert f"<h2>{headline}</h2>" in shown
            assert f"<td>{judged['state'].upper()}</td>" in shown
        again = evalkit(workspace, "gate", "x.json", *rule, "--json")
        assert json.loads(again.stdout) == saved["verdict"]


def test_a_comparison_without_a_gate_says_nothing_of_one(workspace):
    outputs = [f"-oy{suffix}" for suffix in (".json", ".md", ".html")]
    done = evalkit(
        workspace, "--no-progress", "compare", "-m", "ckpt_1200", "-r", "gpt4_refs",
        "--no-report", *outputs,
    )  # fmt: skip
    assert done.returncode == 0
    assert json.loads((workspace / "y.json").read_text("utf-8"))["verdict"] is None
    for suffix in (".md", ".html"):
        assert "gate " not in (workspace / f"y{suffix}").read_text("utf-8")


def test_a_result_from_before_verdicts_were_kept_is_judged_all_the_same(workspace):
    saved = json.loads((workspace / "r.json").read_text("utf-8"))
    del saved["verdict"]
    (workspace / "old.json").write_text(json.dumps(saved))
    verdicts = [
        evalkit(workspace, "gate", name, *FAILS, "--json") for name in ("old.json", "r.json")
    ]
    assert [done.returncode for done in verdicts] == [3, 3]
    assert verdicts[0].stdout == verdicts[1].stdout


AT = ("--fail-under", "win_rate=0.58")  # sure at 80 %, not at 95 %
LEVELS = {"0.8": 0, "0.95": 4, "0.99": 4}
SAID = {"0.8": "gate passed at 80 %: ", "0.95": "gate inconclusive: of", "0.99": " at 99 %: "}


@pytest.mark.parametrize("made", LEVELS)
def test_the_same_result_and_level_give_the_same_verdict_and_say_the_level(workspace, made):
    command = ("compare", "-m", "ckpt_1200", "-r", "gpt4_refs", "--no-report", "-o", "at.json")
    done = evalkit(workspace, "--no-progress", *command, "--ci", made, *AT)
    assert done.returncode == LEVELS[made]
    assert SAID[made] in done.stderr
    for asked, code in LEVELS.items():
        gate = evalkit(workspace, "gate", "at.json", *AT, "--ci", asked)
        assert gate.returncode == code
        assert SAID[asked] in gate.stdout
        assert gate.stderr == ""
        if asked == made:
            assert gate.stdout in done.stderr
        plan = evalkit(workspace, "plan", "--after", "at.json", *AT, "--ci", asked, "--json")
        settled = json.loads(plan.stdout)
        assert (settled["level"], bool(settled["undecided"])) == (float(asked), code == 4)


@pytest.mark.parametrize("made", LEVELS)
def test_without_ci_the_level_is_95_percent_and_another_one_of_the_result_is_said(workspace, made):
    command = ("compare", "-m", "ckpt_1200", "-r", "gpt4_refs", "--no-report", "-o", "at.json")
    evalkit(workspace, "--no-progress", *command, "--ci", made)
    said = "" if made == "0.95" else f"at.json was made at --ci {made}, and is judged at 0.95"
    for asked in (("gate", "at.json"), ("plan", "--after", "at.json")):
        done = evalkit(workspace, *asked, *AT)
        assert said in done.stderr
        assert bool(done.stderr) == bool(said)
    assert evalkit(workspace, "gate", "at.json", *AT).returncode == 4


def test_a_tracked_run_is_judged_at_its_level_too(workspace):
    run = ("track", "-m", "ckpt_800", "-m", "ckpt_1200", "-r", "gpt4_refs", "-o", "run.json")
    for ci, code in LEVELS.items():
        done = evalkit(workspace, "--no-progress", *run, "--ci", ci, *AT)
        gate = evalkit(workspace, "gate", "run.json", *AT, "--ci", ci)
        assert (done.returncode, gate.returncode) == (code, code)
        assert SAID[ci] in gate.stdout
        assert gate.stdout in done.stderr
    shown = evalkit(workspace, "gate", "run.json", *AT).stderr
    assert "run.json was made at --ci 0.99, and is judged at 0.95" in shown


def test_the_level_of_a_policy_holds_unless_the_command_line_says_another(workspace):
    (workspace / "l.toml").write_text(
        '[gate]\nlevel = 0.8\n[[gate.rules]]\nmetric = "win_rate"\nbound = 0.58\n'
    )
    judged = ("gate", "r.json", "--policy", "l.toml")
    for ci, level, code in (((), 0.8, 0), (("--ci", "0.8"), 0.8, 0), (("--ci", "0.95"), 0.95, 4)):
        done = evalkit(workspace, *judged, *ci, "--json")
        assert (json.loads(done.stdout)["level"], done.returncode) == (level, code)
        after = evalkit(workspace, "plan", "--after", "r.json", "--policy", "l.toml", *ci, "--json")
        assert json.loads(after.stdout)["level"] == level


@pytest.mark.parametrize(
    ("in_actions", "flag", "shown"),
    [("true", (), True), ("", (), False), ("true", ("--no-github",), False),
     ("", ("--github",), True)],
)  # fmt: skip
def test_a_verdict_is_shown_in_actions(workspace, monkeypatch, tmp_path, in_actions, flag, shown):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setitem(QUIET, "GITHUB_ACTIONS", in_actions)
    monkeypatch.setitem(QUIET, "GITHUB_STEP_SUMMARY", str(summary))
    compare = ("--no-progress", "compare", "-m", "ckpt_1200", "-r", "gpt4_refs", "--no-report")
    for command in (("gate", "r.json"), compare):
        done = evalkit(workspace, *command, *FAILS, *flag)
        assert done.returncode == 3
        annotated = [line for line in done.stderr.splitlines() if line.startswith("::")]
        assert len(annotated) == shown
        assert "::error" not in done.stdout
    text = summary.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.count("**gate failed") == 2 * shown


def test_a_summary_that_is_full_or_cannot_be_written_moves_no_exit_code(
    workspace, monkeypatch, tmp_path
):
    summary = tmp_path / "summary.md"
    for full in (950_000, 899_900):
        summary.write_bytes(b"x" * full)
        monkeypatch.setitem(QUIET, "GITHUB_STEP_SUMMARY", str(summary))
        done = evalkit(workspace, "gate", "r.json", *FAILS, "--github")
        assert done.returncode == 3
        assert summary.stat().st_size == full
        assert "no step summary is written: no room is left in it" in done.stderr
    monkeypatch.setitem(QUIET, "GITHUB_STEP_SUMMARY", str(tmp_path))
    done = evalkit(workspace, "gate", "r.json", *FAILS, "--github")
    assert done.returncode == 3
    assert "no step summary is written" in done.stderr


def test_inconclusive_may_pass(workspace):
    assert evalkit(workspace, "gate", "r.json", *UNSURE, "--inconclusive", "pass").returncode == 0
    assert evalkit(workspace, "gate", "r.json", *FAILS, "--inconclusive", "pass").returncode == 3
    (workspace / "u.toml").write_text('[gate]\n[[gate.rules]]\nmetric = "win_rate"\nbound = 0.62\n')
    judged = ("gate", "r.json", "--policy", "u.toml")
    assert evalkit(workspace, *judged).returncode == 4
    assert evalkit(workspace, *judged, "--inconclusive", "pass").returncode == 0


def test_a_margin_of_rewards_on_the_command_line(workspace):
    compared = ("compare", "-m", "ckpt_400", "-m", "ckpt_1200", "--no-report", "-o", "two.json")
    rule = ("--fail-on", "regression:metric=mean_reward:vs=ckpt_400", "--margin", "2.5")
    done = evalkit(workspace, "--no-progress", *compared, *rule)
    assert "mean_reward of ckpt_1200 − ckpt_400 against gpt4_refs > -2.5" in done.stderr
    judged = evalkit(workspace, "gate", "two.json", *rule, "--json")
    assert judged.returncode == done.returncode == 0


def test_a_policy_is_read_from_the_workspace_or_a_file(workspace):
    policy = '[gate]\n[[gate.rules]]\nmetric = "win_rate"\nbound = 0.9\n'
    (workspace / "p.toml").write_text(policy)
    assert evalkit(workspace, "gate", "r.json", "--policy", "p.toml").returncode == 3
    config = workspace / "evalkit.toml"
    before = config.read_text("utf-8")
    config.write_text(before + "\n" + policy, "utf-8")
    try:
        assert evalkit(workspace, "gate", "r.json").returncode == 3
    finally:
        config.write_text(before, "utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing.json", *PASSES), "nothing.json"),
        (("r.json",), "no [gate] in the file"),
        (("r.json", "--fail-under", "win_rat=0.5"), "did you mean: win_rate"),
        (("r.json", "--fail-under", "win_rate"), "is no METRIC=BOUND"),
        (("r.json", "--fail-on", "regression:vs=a"), "is not declared"),
        (("r.json", "--fail-on", "worse"), "regression:vs=NAME"),
        (("r.json", "--fail-on", "regression:metric=:vs=a", "--margin", "1"), "unknown metric ''"),
        (("r.json", "--fail-on", "regression:vs=a", "--margin", "1"), "a fraction above 0"),
        (("r.json", "--margin", "0.03", *PASSES), "--margin without --fail-on"),
        (("r.json", *PASSES, "-o", "r.json"), "is an input"),
        (("r.json", *PASSES, "-o", "g.html"), "unknown suffix"),
        (("r.json", *PASSES, "--ci", "0.3"), "level 0.3"),
    ],
)
def test_refusals(workspace, arguments, said):
    before = (workspace / "r.json").read_bytes()
    done = evalkit(workspace, "gate", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert (workspace / "r.json").read_bytes() == before


@pytest.mark.parametrize("command", [("gate", "r.json"), ("plan", "--after", "r.json")])
def test_neither_result_nor_policy_is_written_over_and_rules_come_from_one_place(
    workspace, monkeypatch, capsys, command
):
    monkeypatch.chdir(workspace)
    policy = workspace / "policy.json"
    policy.write_text('[gate]\n[[gate.rules]]\nmetric = "win_rate"\nbound = 0.3\n')
    before = [(workspace / name).read_bytes() for name in ("r.json", "policy.json")]
    for arguments, said in (
        (("-o", "r.json"), "r.json is an input"),
        (("-o", "policy.json"), "policy.json is an input"),
        (PASSES, "a policy and rules of the command line"),
    ):
        assert run([*command, "--policy", "policy.json", *arguments]) == 2
        assert said in capsys.readouterr().err
    assert [(workspace / name).read_bytes() for name in ("r.json", "policy.json")] == before


def test_a_gate_is_judged_with_numpy_and_nothing_heavier(workspace):
    code = (
        "import sys; from evalkit.cli import run; "
        "assert run(['gate', 'r.json', '--fail-under', 'win_rate=0.3']) == 0; "
        "heavy = {'torch', 'pandas', 'scipy', 'matplotlib', 'pyarrow', 'datasets', 'jinja2'}; "
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workspace, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
