"""Names resolve by one rule, and files are written whole or not at all."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evalkit.errors import InputError, IntegrityError
from evalkit.files import slug, write_atomic
from evalkit.sets import check_names, read_prompts, read_set, read_sets
from evalkit.workspace import Workspace

ROW = '{"instruction": "a", "output": "b"}\n'


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return Workspace.find(root)


def reference(name, **manifest):
    folder = f"reference_cache/{name}"
    stated = {"schema": "evalkit.reference/1", "name": name, "digest": "0"}
    return {
        f"{folder}/manifest.json": json.dumps(
            {**stated, "prompts": 1, "completions": 1, **manifest}
        ),
        f"{folder}/completions.jsonl": ROW,
    }


def completions(benchmark, file):
    return {
        f"benchmarks/{benchmark}/completions/{file}": ROW,
        f"benchmarks/{benchmark}/prompts.jsonl": "",
    }


def table(kind):
    return {"evalkit.toml": f'[{kind}.x]\npath = "listed.jsonl"\n', "listed.jsonl": ROW}


EVERYWHERE = {**reference("x"), **completions("bench", "x.jsonl")}


@pytest.mark.parametrize(
    ("role", "files", "path"),
    [
        ("checkpoint", {**EVERYWHERE, **table("checkpoints")}, "listed.jsonl"),
        ("checkpoint", EVERYWHERE, "benchmarks/bench/completions/x.jsonl"),
        ("checkpoint", {**EVERYWHERE, **table("refs")}, "benchmarks/bench/completions/x.jsonl"),
        ("checkpoint", reference("x"), "reference_cache/x"),
        ("reference", {**EVERYWHERE, **table("refs")}, "listed.jsonl"),
        ("reference", EVERYWHERE, "reference_cache/x"),
        ("reference", {**EVERYWHERE, **table("checkpoints")}, "reference_cache/x"),
        ("reference", completions("bench", "x.json"), "benchmarks/bench/completions/x.json"),
    ],
    ids=[
        "checkpoint-table",
        "checkpoint-benchmark",
        "checkpoint-benchmark-not-refs-table",
        "checkpoint-reference-at-last",
        "reference-table",
        "reference-folder",
        "reference-folder-not-checkpoints-table",
        "reference-benchmark-at-last",
    ],
)
def test_a_name_is_the_first_set_that_its_role_finds(root, role, files, path):
    found = put(root, files).completion_set("x", role)
    assert (found.name, found.path) == ("x", str(root / path))


@pytest.mark.parametrize("role", ["checkpoint", "reference"])
def test_two_sets_at_one_level_are_ambiguous_and_both_are_named(root, role):
    workspace = put(root, {**completions("a", "x.jsonl"), **completions("b", "x.json")})
    with pytest.raises(InputError, match="'x' is ambiguous") as refusal:
        workspace.completion_set("x", role)
    for place in ("a/completions/x.jsonl", "b/completions/x.json"):
        assert str(root / "benchmarks" / place) in refusal.value.where


@pytest.mark.parametrize("role", ["checkpoint", "reference"])
def test_a_miss_lists_where_it_looked_and_a_close_name(root, role):
    workspace = put(root, completions("bench", "ckpt_100.jsonl"))
    with pytest.raises(InputError, match=f"{role} 'ckpt_10' not found") as refusal:
        workspace.completion_set("ckpt_10", role)
    for place in ("evalkit.toml", "reference_cache/ckpt_10/", "completions/ckpt_10."):
        assert place in refusal.value.where
    assert "did you mean: ckpt_100?" in refusal.value.fix


@pytest.mark.parametrize("spec", ["x.jsonl", "./x.jsonl", "sub/../x.jsonl", "{root}/x.jsonl"])
def test_a_path_is_taken_as_it_is_whatever_has_that_name(root, spec):
    workspace = put(root, {**EVERYWHERE, "x.jsonl": ROW, "sub/file": ""})
    found = workspace.completion_set(spec.format(root=root), "reference")
    assert (found.name, found.folder) == ("x", None)
    assert Path(found.path).samefile(root / "x.jsonl")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.jsonl", "a"),
        ("a.jsonl.gz", "a"),
        ("a.json.gz", "a"),
        ("a.b.parquet", "a.b"),
        ("./odd.txt", "odd.txt"),
    ],
)
def test_a_file_is_called_by_its_name_without_the_known_suffix(root, file, name):
    assert put(root, {}).completion_set(file, "checkpoint").name == name


def test_a_data_set_of_the_hub_is_called_by_its_id(root):
    found = put(root, {}).completion_set("hf://org/name@main#test", "checkpoint")
    assert (found.name, found.path) == ("org/name@main#test", "hf://org/name@main#test")


def test_the_workspace_is_the_nearest_folder_upwards_with_a_configuration(root):
    put(root, {"evalkit.toml": "", "a/evalkit.toml": "", "a/b/c/file": "", "d/file": ""})
    assert Workspace.find(root / "a" / "b" / "c").root == root / "a"
    assert Workspace.find(root / "d").root == root


def test_without_a_configuration_the_workspace_is_the_folder_itself(root):
    (root / "a").mkdir()
    workspace = Workspace.find(root / "a")
    assert workspace.root == root / "a"
    assert workspace.default("benchmark") is None
    assert workspace.names() == []


def test_defaults_come_from_the_configuration(root):
    workspace = put(root, {"evalkit.toml": '[defaults]\nreference = "r"\n'})
    assert (workspace.default("reference"), workspace.default("reward_model")) == ("r", None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[defaults\n", "line 1"),
        ("[refs.x]\npth = 1\n", "'pth' in [refs.x]"),
        ("[reward_models.x]\nbatch_size = 1\n", "'batch_size' in [reward_models.x]"),
        ("[defaults]\nreferences = 1\n", "did you mean: reference?"),
        ("gate = 1\n", "'gate' in the file"),
        ("refs = 1\n", "'refs' in the file"),
    ],
)
def test_a_configuration_with_an_unknown_key_is_refused(root, text, says):
    with pytest.raises(InputError) as refusal:
        put(root, {"evalkit.toml": text})
    assert says in str(refusal.value)
    assert str(root / "evalkit.toml") in str(refusal.value)


def test_a_sidecar_gives_step_and_notice_and_its_folder_the_benchmark(root):
    files = completions("bench", "ckpt_9.jsonl.gz")
    files["benchmarks/bench/completions/ckpt_9.toml"] = 'step = 900\nnotice = "an example"\n'
    found = put(root, files).completion_set("ckpt_9", "checkpoint")
    assert (found.step, found.notice, found.benchmark) == (900, "an example", "bench")


def test_a_step_is_never_guessed_from_a_name(root):
    found = put(root, completions("b", "ckpt_9.jsonl")).completion_set("ckpt_9", "checkpoint")
    assert found.step is None


def test_the_table_of_a_name_overrides_what_its_files_say(root):
    entry = '[checkpoints.mine]\npath = "{}"\nstep = 5\nnotice = "n"\nbenchmark = "other"\n'
    files = completions("bench", "a.jsonl") | {"benchmarks/bench/completions/a.toml": "step = 1\n"}
    files["evalkit.toml"] = entry.format("benchmarks/bench/completions/a.jsonl")
    found = put(root, files).completion_set("mine", "checkpoint")
    assert (found.name, found.step, found.notice, found.benchmark) == ("mine", 5, "n", "other")
    assert found.path == str(root / "benchmarks/bench/completions/a.jsonl")


def test_a_table_may_give_a_reference_another_name(root):
    files = reference("real", benchmark="bench", stand_in="stand-in, not X")
    files["evalkit.toml"] = '[refs.alias]\npath = "reference_cache/real"\n'
    found = put(root, files).completion_set("alias", "reference")
    assert (found.name, found.benchmark, found.notice) == (
        "alias",
        "bench",
        "real is a stand-in, not X",
    )
    assert found.folder == root / "reference_cache/real"


def test_all_names_of_the_workspace_are_known(root):
    files = {**reference("ref"), **completions("a", "c.jsonl"), **table("refs")}
    files["benchmarks/a/completions/c.toml"] = "step = 1\n"
    assert put(root, files).names() == ["c", "ref", "x"]


def test_an_unknown_benchmark_lists_those_there_are(root):
    workspace = put(root, completions("bench", "a.jsonl"))
    with pytest.raises(InputError, match="'bnch' not found") as refusal:
        read_prompts("bnch", workspace)
    assert "known benchmarks: bench. did you mean: bench?" in refusal.value.fix


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "\udcff"])
def test_an_unreadable_manifest_is_an_integrity_error(root, text):
    put(root, reference("x"))
    path = root / "reference_cache/x/manifest.json"
    path.write_text(text, "utf-8", "surrogateescape")
    with pytest.raises(IntegrityError, match=str(path)):
        read_set("x", "reference", Workspace.find(root))


def test_two_inputs_with_one_name_are_refused_and_one_input_twice_is_not(root):
    workspace = put(root, {"a/x.jsonl": ROW, "b/x.jsonl": ROW})
    check_names(read_sets(["a/x.jsonl", "a/x.jsonl"], "checkpoint", workspace, None))
    with pytest.raises(InputError, match="two inputs are called 'x'") as refusal:
        check_names(read_sets(["a/x.jsonl", "b/x.jsonl"], "checkpoint", workspace, None))
    assert refusal.value.where == f"{root}/a/x.jsonl and {root}/b/x.jsonl"


def test_no_input_at_all_is_refused(root):
    with pytest.raises(InputError, match="no reference is named"):
        read_sets([], "reference", put(root, {}), None)


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "out.json"
    write_atomic(path, b"old")
    write_atomic(path, b"new\0\xff")
    assert path.read_bytes() == b"new\0\xff"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["fsync", "fchmod"])
@pytest.mark.parametrize("before", [b"old", None])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, name, before):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "out.json"
    if before is not None:
        path.write_bytes(before)
    monkeypatch.setattr(os, name, fail)
    with pytest.raises(InputError, match=r"cannot write .*out\.json: No space left") as refusal:
        write_atomic(path, b"new")
    assert refusal.value.fix
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == ({path: before} if before else {})


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file or directory") as refusal:
        write_atomic(tmp_path / "no" / "out.json", b"")
    assert "create the folder" in refusal.value.fix
    assert list(tmp_path.iterdir()) == []


HOSTILE = [
    "",
    ".",
    "..",
    "../../x",
    "/etc/passwd",
    "a\\b",
    "\0",
    "a\nb",
    "-rf",
    "é" * 300,
    "~",
    "C:",
]


@given(st.text() | st.sampled_from(HOSTILE))
@example("../" * 100)
def test_a_slug_is_always_one_plain_file_name(name):
    found = slug(name)
    assert 0 < len(found) <= 60
    assert found[0] not in ".-"
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@pytest.mark.parametrize("name", ["x" * 59 + "/y", "x" * 59 + " (2)", "x" * 59 + ".jsonl"])
def test_a_slug_is_its_own_slug_so_that_it_can_be_suggested(name):
    assert slug(slug(name)) == slug(name)


@pytest.mark.parametrize("name", ["gpt4_refs", "Llama-3.1-8B", "a.b", "0"])
def test_a_slug_leaves_good_names_alone(name):
    assert slug(name) == name
