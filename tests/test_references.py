"""References: added whole or not at all, shown, verified, replaced and removed."""

import errno
import json
import os

import pytest

from evalkit import cli, references
from evalkit.data import completion_set
from evalkit.errors import EvalkitError, InputError, IntegrityError, MalformedError
from evalkit.formats import read_rows
from evalkit.sets import read_set
from evalkit.store import write_pack
from evalkit.store.rows import StoredReward
from evalkit.workspace import Workspace

FINGERPRINT = "ab" * 32


def prompt(i):
    return {"prompt_id": i, "messages": [{"role": "user", "content": f"Ask {i}"}], "subset": "s"}


def write_lines(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    path.write_text(text, "utf-8")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "benchmarks/bench/prompts.jsonl", prompt("p1"), prompt("p2"))
    write_lines(
        tmp_path / "answers.jsonl",
        {**prompt("p1"), "completion": "Eins\u2028\0"},
        {**prompt("p2"), "completion": "b", "index": 1},
        {**prompt("p2"), "completion": "a", "index": 0},
    )
    (tmp_path / "evalkit.toml").touch()
    return Workspace.find(tmp_path)


def records(folder):
    text = (folder / "completions.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def everything(workspace):
    root = workspace.references
    return {p.relative_to(root): p.is_file() and p.read_bytes() for p in root.rglob("*")}


def edit(folder, old, new):
    path = folder / "completions.jsonl"
    path.write_bytes(path.read_bytes().replace(old, new))


def test_a_reference_is_added_shown_verified_and_removed(workspace, capsys):
    assert cli.run(["refs", "add", "mine", "answers.jsonl", "--generator", "a person"]) == 0
    assert cli.run(["refs", "list"]) == 0
    assert capsys.readouterr().out == "mine  3 completions  rewards: none\n"
    assert cli.run(["refs", "show", "mine"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["generator"] == "a person"
    assert (about["prompts"], about["completions"], about["subsets"]) == (2, 3, {"s": 2})
    assert (about["source"], about["stand_in"], about["rewards"]) == ("answers.jsonl", None, {})
    assert cli.run(["refs", "verify", "mine"]) == 0
    assert f"3 match digest {about['digest'][:12]}" in capsys.readouterr().out
    assert cli.run(["refs", "remove", "mine", "--yes"]) == 0
    assert everything(workspace) == {}


def test_a_reference_is_the_same_set_as_the_file_it_was_made_of(workspace):
    references.add("mine", "answers.jsonl", workspace)
    made = completion_set("answers", read_rows("answers.jsonl"))
    found = read_set("mine", "reference", workspace).completions
    assert (found.name, found.prompts, found.completions) == (
        "mine",
        made.prompts,
        (("Eins\u2028\0",), ("a", "b")),
    )
    assert found.digest == made.digest


def test_texts_of_the_benchmark_are_not_repeated_and_others_are_kept(workspace):
    own = {"prompt_id": "own", "messages": [{"role": "user", "content": "?"}], "completion": "!"}
    with (workspace.root / "answers.jsonl").open("a") as file:
        file.write(json.dumps(own) + "\n")
    folder = references.add("mine", "answers.jsonl", workspace, benchmark="bench")
    assert [sorted(record) for record in records(folder)] == [
        ["completion", "prompt_id"],
        ["completion", "index", "prompt_id"],
        ["completion", "index", "prompt_id"],
        ["completion", "messages", "prompt_id"],
    ]
    found = read_set("mine", "reference", workspace).completions
    assert found.digest == completion_set("answers", read_rows("answers.jsonl")).digest
    assert [p.subset for p in found.prompts] == ["s", "s", ""]


def test_a_set_of_a_benchmark_keeps_it_without_being_told(workspace):
    path = workspace.benchmarks / "bench/completions/ckpt_1.jsonl"
    write_lines(path, {"prompt_id": "p1", "completion": "a"})
    folder = references.add("mine", "ckpt_1", workspace)
    assert json.loads((folder / "manifest.json").read_bytes())["benchmark"] == "bench"
    assert records(folder) == [{"prompt_id": "p1", "completion": "a"}]


def test_the_digest_is_over_content_alone(workspace):
    lines = (workspace.root / "answers.jsonl").read_text("utf-8").removesuffix("\n").split("\n")
    (workspace.root / "other.jsonl").write_text("\n".join(reversed(lines)), "utf-8")
    made = [
        references.add("one", "answers.jsonl", workspace, benchmark="bench"),
        references.add("two", "other.jsonl", workspace),
    ]
    one, two = (json.loads((folder / "manifest.json").read_bytes()) for folder in made)
    assert one["digest"] == two["digest"]


def test_a_stand_in_says_so_wherever_it_is_read(workspace, capsys):
    note = "stand-in, not GPT-4 output"
    assert cli.run(["refs", "add", "gpt4", "answers.jsonl", "--stand-in", note]) == 0
    assert read_set("gpt4", "reference", workspace).completions.notice == f"gpt4 is a {note}"
    assert cli.run(["refs", "list"]) == 0
    assert f"({note})" in capsys.readouterr().out
    assert cli.run(["refs", "add", "gpt4", "answers.jsonl", "--replace"]) == 0
    assert read_set("gpt4", "reference", workspace).completions.notice == ""


def test_a_taken_name_is_only_replaced_on_request_and_then_wholly(workspace):
    folder = references.add("mine", "answers.jsonl", workspace)
    (folder / "rewards").mkdir()
    before = everything(workspace)
    write_lines(workspace.root / "new.jsonl", {**prompt("p1"), "completion": "new"})
    with pytest.raises(InputError, match="'mine' exists") as refusal:
        references.add("mine", "new.jsonl", workspace)
    assert "--replace" in refusal.value.fix
    assert everything(workspace) == before
    references.add("mine", "new.jsonl", workspace, replace=True)
    assert [record["completion"] for record in records(folder)] == ["new"]
    assert sorted(p.name for p in workspace.references.rglob("*")) == [
        "completions.jsonl",
        "manifest.json",
        "mine",
    ]


@pytest.mark.parametrize(("old", "new"), [(b"Eins", b"Zwei"), (b"Ask p1", b"Ask px")])
def test_an_edited_reference_fails_verification(workspace, old, new):
    folder = references.add("mine", "answers.jsonl", workspace)
    edit(folder, old, new)
    with pytest.raises(IntegrityError, match="not those its manifest was written for"):
        references.verify("mine", workspace)


def test_a_reference_whose_lines_were_only_reordered_is_intact(workspace):
    folder = references.add("mine", "answers.jsonl", workspace)
    write_lines(folder / "completions.jsonl", *reversed(records(folder)))
    assert references.verify("mine", workspace)[0].startswith("completions: 3 match")


def test_a_changed_benchmark_fails_verification(workspace):
    references.add("mine", "answers.jsonl", workspace, benchmark="bench")
    path = workspace.benchmarks / "bench/prompts.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Ask p1", b"Ask px"))
    with pytest.raises(IntegrityError, match="not those its manifest was written for"):
        references.verify("mine", workspace)


def test_a_removed_row_fails_verification(workspace):
    folder = references.add("mine", "answers.jsonl", workspace)
    write_lines(folder / "completions.jsonl", *records(folder)[1:])
    with pytest.raises(IntegrityError):
        references.verify("mine", workspace)


def test_rewards_beside_a_reference_are_shown_and_verified(workspace):
    folder = references.add("mine", "answers.jsonl", workspace)
    reward = StoredReward("cd" * 32, 1.5, 7, 0, "ef" * 32)
    pack = write_pack(folder, FINGERPRINT, {"name": "rm"}, [reward])
    assert references.describe("mine", workspace)["rewards"] == {FINGERPRINT[:16]: "rm"}
    assert references.verify("mine", workspace)[1] == "rewards of rm: 1 rows intact"
    for path in pack.glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-1] + b"X")
    with pytest.raises(IntegrityError, match="does not match its digest"):
        references.verify("mine", workspace)


def test_rewards_go_beside_the_completions_they_are_of(workspace, capsys):
    kept = references.add("kept", "answers.jsonl", workspace)
    kept.rename(workspace.root / "elsewhere")
    (workspace.root / "evalkit.toml").write_text('[refs.mine]\npath = "elsewhere"\n')
    assert cli.run(["refs", "score", "mine", "--reward-model", "demo-rm"]) == 0
    packs = read_set("mine", "reference", Workspace(workspace.root)).packs()
    assert [(pack.name, pack.verify()) for pack in packs] == [("demo-rm", 3)]
    assert str(packs[0].folder) in capsys.readouterr().err
    assert everything(workspace) == {}


def test_a_folder_that_takes_no_rewards_is_named(workspace, capsys):
    folder = references.add("mine", "answers.jsonl", workspace)
    (folder / "rewards").touch()
    assert cli.run(["refs", "score", "mine", "--reward-model", "demo-rm"]) == 2
    error = capsys.readouterr().err
    assert f"cannot write {folder / 'rewards'}" in error
    assert f"make {folder} a writable folder" in error


@pytest.mark.parametrize("name", ["mine", "./answers.jsonl", "../{root}/answers.jsonl"])
def test_what_could_not_carry_its_rewards_is_refused_before_it_is_scored(workspace, capsys, name):
    (workspace.root / "evalkit.toml").write_text('[refs.mine]\npath = "answers.jsonl"\n')
    before = sorted(workspace.root.rglob("*"))
    name = name.format(root=workspace.root.name)
    assert cli.run(["refs", "score", name, "--reward-model", "demo-rm"]) == 2
    error = capsys.readouterr().err
    assert "nothing could carry the rewards" in error
    assert "evalkit refs add" in error
    assert sorted(workspace.root.rglob("*")) == before


BAD = {
    "malformed": '{"instruction": "a"',
    "no-output": '{"instruction": "a", "outptu": "b"}',
    "two-prompts-of-one-id": '{"id": 1, "instruction": "a", "output": "b"}\n'
    '{"id": 1, "instruction": "c", "output": "b"}',
    "empty": "",
}


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("content", BAD)
def test_a_refused_file_leaves_nothing_behind_and_the_old_in_place(workspace, content, replace):
    if replace:
        references.add("mine", "answers.jsonl", workspace)
    before = everything(workspace)
    (workspace.root / "bad.jsonl").write_text(BAD[content])
    with pytest.raises((InputError, MalformedError)):
        references.add("mine", "bad.jsonl", workspace, replace=replace)
    assert everything(workspace) == before


@pytest.mark.parametrize("replace", [False, True])
def test_a_failed_write_leaves_nothing_behind_and_the_old_in_place(workspace, monkeypatch, replace):
    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if replace:
        references.add("mine", "answers.jsonl", workspace)
    before = everything(workspace)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(EvalkitError, match="No space left"):
        references.add("mine", "answers.jsonl", workspace, replace=replace)
    assert everything(workspace) == before


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/abs/x", ".hidden", "a b", "é", "x" * 61, "-x", "a\0"]
)
def test_a_bad_name_is_refused_and_a_good_one_suggested(workspace, name):
    with pytest.raises(InputError, match="is no name for a reference") as refusal:
        references.add(name, "answers.jsonl", workspace)
    suggested = refusal.value.fix.rsplit(": ", 1)[1]
    references.add(suggested, "answers.jsonl", workspace)
    assert workspace.reference_names() == [suggested]
    assert [p.name for p in workspace.references.iterdir()] == [suggested]


@pytest.mark.parametrize("name", ["nonsuch", "../benchmarks/bench", ".", ""])
@pytest.mark.parametrize("command", ["show", "verify", "remove"])
def test_what_is_no_reference_is_refused_and_the_known_ones_listed(
    workspace, capsys, command, name
):
    references.add("mine", "answers.jsonl", workspace)
    before = everything(workspace)
    yes = ["--yes"] if command == "remove" else []
    assert cli.run(["refs", command, name, *yes]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert f"reference {name!r} not found" in err
    assert "known references: mine" in err
    assert everything(workspace) == before
    assert (workspace.benchmarks / "bench/prompts.jsonl").exists()
