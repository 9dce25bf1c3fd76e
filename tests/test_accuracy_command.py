"""`evalkit accuracy` from the command line: tables, files, exports and refusals."""

import json

import pytest

from tests.shared_data import SHARED, needs_shared
from tests.workspace_copy import copy_workspace, evalkit

PAIRS = "benchmarks/starter/pairs.jsonl"
JUDGEBENCH = SHARED / "data" / "judgebench"
OF_A_SCORE = {"strict", "half_credit", "low", "high", "n", "ties", "errors", "truncated"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return copy_workspace(tmp_path_factory.mktemp("accuracy"))


@pytest.fixture
def run(workspace):
    def of(*arguments):
        return evalkit(workspace, "--no-progress", "accuracy", *arguments)

    return of


def test_a_suite_is_scored_once_and_its_json_keeps_the_contract(run):
    first = run("starter", "--data", PAIRS, "--rm", "demo-rm", "--json")
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert document["schema_version"] == 1
    assert document["suite"] == "starter"
    assert document["exit_code"] == 0
    (table,) = document["tables"]
    assert table["reward_model"] == "demo-rm"
    assert table["overall"].keys() >= OF_A_SCORE
    assert table["sections"] == {}
    assert len(table["subsets"]) == 8
    for subset in table["subsets"].values():
        assert subset.keys() >= OF_A_SCORE | {"weight", "length_baseline"}
        assert subset["n"] == 5
    right = sum(round(5 * subset["strict"]) for subset in table["subsets"].values())
    assert table["overall"]["strict"] == right / 40
    again = run("starter", "--data", PAIRS, "--rm", "demo-rm", "--json")
    assert again.stdout == first.stdout


def test_every_format_and_export_is_written(run, workspace):
    names = [f"out.{suffix}" for suffix in ("json", "md", "tex", "csv", "html", "svg", "png")]
    kinds = ["rewardbench-outputs", "rewardbench-scores", "every-eval-ever"]
    done = run(
        "starter", "--data", f"main={PAIRS}", "--rm", "demo-rm", "--date", "2026-11-22",
        *(part for name in names for part in ("-o", name)),
        *(part for kind in kinds for part in ("--export", f"{kind}={kind}.out")),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all((workspace / name).stat().st_size for name in names)
    assert "not better than the length-only baseline" in done.stdout
    lines = (workspace / "rewardbench-outputs.out").read_text("utf-8").splitlines()
    assert len(lines) == 40
    # and what was written is read: the same table without a reward model
    back = run("starter", "--rewards", "rewardbench-scores.out", "--json")
    assert back.returncode == 0, back.stderr
    tables = [json.loads(text)["tables"][0] for text in (back.stdout, _json(workspace))]
    assert tables[0]["overall"]["strict"] == tables[1]["overall"]["strict"]


def _json(workspace):
    return (workspace / "out.json").read_text("utf-8")


@needs_shared
def test_published_rewards_of_several_models_stand_side_by_side(run):
    files = sorted(map(str, JUDGEBENCH.glob("*judge_model*")))
    done = run("judgebench-gpt-4o", *(part for f in files for part in ("--rewards", f)), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    strict = {t["reward_model"]: t["overall"]["strict"] for t in document["tables"]}
    assert sorted(round(350 * value) for value in strict.values()) == [208, 222, 225]
    assert [t["overall"]["ties"] for t in document["tables"]] == [0, 3, 0]
    assert document["ranking"]["ranks"]["groups"] == [[1, 2, 0]]
    text = run("judgebench-gpt-4o", *(part for f in files for part in ("--rewards", f))).stdout
    assert "64.3 %" in text
    assert "the first place is shared by" in text


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("nothing",), "suite 'nothing' not found", 2),
        (("starter", "--rm", "demo-rm"), "are on no Hub", 2),
        (("starter", "--rm", "demo-rm", "--data", "nowhere.jsonl"), "no such file", 2),
        (("starter", "--rm", "demo-rm", "--data", f"other={PAIRS}"), "has no data 'other'", 2),
        (("starter", "--rm", "no-such-rm", "--data", PAIRS), "no-such-rm", 6),
        (("starter", "--rewards", "r.jsonl", "--dtype", "float32"), "have no use for --dtype", 2),
        (("starter", "--data", PAIRS, "--rm", "demo-rm", "-o", PAIRS), "cannot write", 2),
        (("starter", "--data", PAIRS, "--rm", "demo-rm", "--export", "hubb=x"), "mean: hub", 2),
        (("starter", "--data", PAIRS, "--rm", "demo-rm", "--export", "hub"), "is no KIND=FILE", 2),
        # no reward model is loaded, nor looked for, for an export that cannot be
        (("starter", "--data", PAIRS, "--rm", "no-such", "--export", "hub=x"), "are on no Hub", 2),
        (("llmbar", "--rm", "demo-rm", "--data", "benchmarks"), "holds no file of LLMBar", 2),
        (("starter", "--data", PAIRS, "--rm", "demo-rm", "--rm", "demo-rm"), "two reward", 2),
    ],
)  # fmt: skip
def test_refusals_say_what_where_and_how_and_have_no_traceback(run, arguments, said, code):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_data_that_are_not_the_suites_stop_before_a_model_is_loaded(run, workspace):
    lines = (workspace / PAIRS).read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    faults = {
        "column": ([{k: v for k, v in row.items() if k != "chosen"} for row in rows], "chosen"),
        "subset": ([{**rows[0], "subset": "poetry"}, *rows[1:]], "poetry"),
        "count": (rows[1:], "has 4 of 5"),
        "twice": ([{**row, "id": "same"} for row in rows], "is that of"),
    }
    for name, (wrong, said) in faults.items():
        path = workspace / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in wrong), "utf-8")
        done = run("starter", "--data", str(path), "--rm", "demo-rm")
        assert done.returncode == 2, name
        assert said in done.stderr, done.stderr
    path = workspace / "count.jsonl"
    partial = run("starter", "--data", str(path), "--rm", "demo-rm", "--partial")
    assert partial.returncode == 0
    assert "is not complete" in partial.stdout
