"""OpenDataArena's InfOrmScorer configuration, as it is, and what it must refuse."""

import json

import pytest

from evalkit.cli import run
from evalkit.errors import InputError
from evalkit.scoring.opendataarena import read_config
from tests.shared_data import DEMO_RM, FIXTURES, needs_shared
from tests.workspace_copy import evalkit

# keys and layout as published; paths and model are this test's
WHOLE = """\
input_path: rows.jsonl
output_path: results/InfOrmScorer/
num_gpu: 4
num_gpu_per_job: 1
scorers:
- name: InfOrmScorer
  model: {model}
  batch_size: 8
  max_length: {max_length}
  num_gpu_per_job: 4
"""
ROWS = [
    {"id": "00123", "instruction": "Why?", "input": "", "output": "Because."},
    {"id": 7, "instruction": "Say it", "input": "in French", "output": "Bonjour. " * 30},
    {"instruction": "Say it\nin French", "output": "Salut."},
]


@pytest.fixture
def folder(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "rows.jsonl").write_text(text)
    (tmp_path / "InfOrmScorer.yaml").write_text(WHOLE.format(model=DEMO_RM, max_length=64))
    return tmp_path


def scores(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_it_is_scored_as_it_is_and_again_without_a_forward_pass(folder):
    command = ("score", "--config", "InfOrmScorer.yaml")
    done = evalkit(folder, *command)
    assert done.returncode == 0, done.stderr
    path = folder / "results" / "InfOrmScorer" / "InfOrmScorer.jsonl"
    first = scores(path)
    assert [row["id"] for row in first] == ["00123", 7, ""]
    assert all(isinstance(row["score"], float) for row in first)
    assert [set(row) for row in first] == [
        {"id", "score"},
        {"id", "score", "tokens_cut"},
        {"id", "score"},
    ]
    assert "1 of 3 rows lost tokens" in done.stderr
    path.unlink()
    again = evalkit(folder, *command)
    assert "0 conversations scored, 3 known" in again.stderr
    assert scores(path) == first


def test_the_command_line_goes_before_the_configuration(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert (
        run(["score", "--config", "InfOrmScorer.yaml", "--overlong", "error", "-o", "x.jsonl"]) == 6
    )
    assert "more than the 64 allowed" in capsys.readouterr().err
    assert [row["score"] is None for row in scores(folder / "x.jsonl")] == [False, True, False]
    assert not (folder / "results").exists()


def test_instruction_and_input_are_one_prompt(folder):
    evalkit(folder, "score", "rows.jsonl", "--rm", str(DEMO_RM), "-o", "a.jsonl")
    joined = [{"messages": [
        {"role": "user", "content": "Say it\nin French"},
        {"role": "assistant", "content": "Bonjour. " * 30},
    ]}]  # fmt: skip
    (folder / "joined.jsonl").write_text(json.dumps(joined[0]) + "\n")
    evalkit(folder, "score", "joined.jsonl", "--rm", str(DEMO_RM), "-o", "b.jsonl")
    assert scores(folder / "a.jsonl")[1]["score"] == scores(folder / "b.jsonl")[0]["score"]


def test_a_model_that_is_not_there_is_an_error_and_never_another(folder):
    (folder / "InfOrmScorer.yaml").write_text(WHOLE.format(model="models/gone", max_length=64))
    done = evalkit(folder, "score", "--config", "InfOrmScorer.yaml")
    assert done.returncode == 6
    assert "models/gone" in done.stderr
    assert not list((folder / "results").rglob("*.jsonl"))


@needs_shared
def test_cut_at_64_tokens_it_is_opendataarenas_own_number(folder):
    model = FIXTURES / "inform"
    (folder / "InfOrmScorer.yaml").write_text(WHOLE.format(model=model, max_length=64))
    chats = [json.loads(x) for x in (model / "conversations.jsonl").read_text().splitlines()]
    rows = [
        {"id": chat["id"], "instruction": chat["messages"][0]["content"],
         "output": chat["messages"][1]["content"]}
        for chat in chats if len(chat["messages"]) == 2
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evalkit(folder, "score", "--config", "InfOrmScorer.yaml", "-o", "out.jsonl")
    found = {row["id"]: row for row in scores(folder / "out.jsonl")}
    # 282 tokens whole; OpenDataArena's code gave 0.880 at 64, and 0.5375432968139648 for c0
    assert found["c5"]["tokens_cut"] == 282 - 64
    assert found["c5"]["score"] == pytest.approx(0.880, abs=5e-4)
    assert found["c0"]["score"] == pytest.approx(0.5375432968139648, abs=2e-5)


def config(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    return read_config(tmp_path / "c.yaml")


def test_the_scorer_alone_is_a_configuration_too_and_defaults_are_said(tmp_path):
    found = config(tmp_path, "name: InfOrmScorer\nmodel: rm\nresume: true\n")
    assert (found.model, found.batch_size, found.max_length) == ("rm", 32, 4096)
    assert found.source is found.output is None
    assert any("batch_size is not given: 32" in note for note in found.notes)
    assert any("resume: without effect" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [", "not a scorer's configuration"),
        ("a text", "one scorer"),
        ("scorers: []", "one scorer"),
        ("scorers: [{name: InfOrmScorer}, {name: InfOrmScorer}]", "one scorer"),
        ("name: AtheneScorer", "'AtheneScorer' is not known"),
        ("name: InfOrmScorer\nmax_lenght: 3", "unknown key 'max_lenght'"),
        ("name: InfOrmScorer\nmax_length: 0", "at least 1"),
        ("name: InfOrmScorer\nbatch_size: '8'", "at least 1"),
        ("name: InfOrmScorer\nmax_length: true", "at least 1"),
        ("name: InfOrmScorer\nmodel: 3", "must be text"),
        ("!!python/object/apply:os.system ['true']", "not a scorer's configuration"),
    ],
)
def test_what_is_no_such_configuration_is_refused(tmp_path, text, says):
    with pytest.raises(InputError, match=says) as refusal:
        config(tmp_path, text)
    assert "c.yaml" in refusal.value.where
