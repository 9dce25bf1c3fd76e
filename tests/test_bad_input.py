"""Whatever is malformed is refused with its place and a fix, and nothing is written."""

import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from evalkit import cli
from evalkit.data import CompletionSet, Message, Prompt
from evalkit.text import first_line

ROWS = '{"instruction": "Why?", "output": "B"}\n{"instruction": "How?", "output": "S"}\n'
ROW = ROWS.splitlines()[0]
PROMPTS = "".join(
    json.dumps({"prompt_id": i, "messages": [{"role": "user", "content": f"Ask {i}"}]}) + "\n"
    for i in ("p1", "p2")
)
ANSWERS = '{"prompt_id": "p1", "completion": "One."}\n{"prompt_id": "p2", "completion": "Two."}\n'
PLAIN = '"architectures": ["LlamaForSequenceClassification"]'
HEADER = b'{"score.weight":{"dtype":"F32","shape":[1,8],"data_offsets":[0,32]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(32)
MODEL = {
    "rm/config.json": f'{{"max_position_embeddings": 512, "dtype": "float32", {PLAIN}}}',
    "rm/tokenizer.json": "{}",
    "rm/chat_template.jinja": "{{ messages }}",
    "rm/model.safetensors": WEIGHTS,
}
TOML = '[defaults]\nreward_model = "fake"\n[reward_models.fake]\nmodel = "rm"\n'
MANIFEST = "reference_cache/refs_one/manifest.json"
DIGEST = CompletionSet(
    "refs_one",
    tuple(Prompt(i, (Message("user", f"Ask {i}"),)) for i in ("p1", "p2")),
    (("One.",), ("Two.",)),
).digest
SIDECAR = "benchmarks/bench/completions/ckpt_10.toml"
WORKSPACE = {
    "evalkit.toml": TOML,
    "benchmarks/bench/prompts.jsonl": PROMPTS,
    "benchmarks/bench/completions/ckpt_10.jsonl": ANSWERS,
    MANIFEST: json.dumps(
        {
            "schema": "evalkit.reference/1",
            "name": "refs_one",
            "benchmark": "bench",
            "prompts": 2,
            "completions": 2,
            "digest": DIGEST,
        }
    ),
    "reference_cache/refs_one/completions.jsonl": ANSWERS,
    "good.jsonl": ROWS,
    "folder.md/empty": "",
    **MODEL,
}
CONTROL = {chr(i) for i in (*range(32), *range(127, 160))} - {"\n"}
READERS = ("compare --model {} --ref good.jsonl", "score {}", "refs add new {}")


class Case(NamedTuple):
    """A command line, the files it meets, and what must be said about them, parted by ` | `."""

    id: str
    command: str
    says: str
    files: dict[str, str | bytes]
    code: int = 2


def output(value):
    return f'{{"instruction": "Who?", "output": {value}}}'


def plain(**fields):
    return json.dumps({"instruction": "Who?", "output": "I", **fields})


def native(**fields):
    return json.dumps({"prompt_id": "p9", "completion": "c", **fields})


def turns(*roles, content="x"):
    return [{"role": role, "content": content} for role in roles]


def talk(*roles, **fields):
    return json.dumps({"messages": turns(*roles, **fields)})


def lines(last):
    """Two good lines and a third."""
    return ROWS.encode() + (last if isinstance(last, bytes) else last.encode()) + b"\n"


LINES = [  # one bad line after two good ones, in JSON Lines
    ("syntax", '{"instruction": "Who?" "output": "I"}', "not JSON | column 24"),
    ("line-cut-off", '{"instruction": "Who?", "outp', "not JSON"),
    ("text-after-json", f"{ROW} more", "text after the JSON value | more"),
    (
        "duplicate-key",
        '{"output": "a", "instruction": "b", "output": "c"}',
        "'output' is given twice",
    ),
    ("nan", output("NaN"), "NaN | no JSON number"),
    ("infinity", output("-Infinity"), "-Infinity | no JSON number"),
    ("1e999", output("1e999"), "1e999 | no double"),
    ("beyond-64-bits", output(2**63), "9223372036854775808 | 64 bits"),
    ("5000-digits", output("7" * 5000), "777 | 64 bits"),
    ("lone-surrogate", output(r'"\ud83d"'), "'output' | half a surrogate pair"),
    ("100k-deep", output("[" * 100_000), "nested too deeply"),
    ("900-deep", output("[" * 900 + "]" * 900), "'output' | must be text"),
    ("invalid-utf8", b'{"instruction": "\xff\xfe"}', "not UTF-8 | byte 17"),
    ("line-over-16-mb", output('"' + "x" * 2**24 + '"'), "longer than 16 MB"),
    ("number", "17", "must be a JSON object | 17"),
    ("output-missing", '{"instruction": "a", "outputs": "b"}', "'output' | did you mean: outputs?"),
    ("output-number", output("3.5"), "'output' | must be text | 3.5"),
    ("output-null", output("null"), "'output' | must be text"),
    ("output-list", output('["a"]'), "'output' | must be text | [\"a\"]"),
    ("instruction-bool", plain(instruction=True), "'instruction' | must be text"),
    ("input-number", plain(input=7), "'input' | must be text | 7"),
    ("index-negative", plain(index=-1), "'index' | must be an integer | -1"),
    ("index-text", plain(index="0"), "'index' | must be an integer | \"0\""),
    ("index-bool", plain(index=True), "'index' | must be an integer"),
    ("id-float", plain(id=1.0), "'id' | text or an integer | 1.0"),
    ("id-list", plain(id=["x"]), "'id' | text or an integer | [\"x\"]"),
    ("subset-number", plain(subset=3), "'subset' | must be text | 3"),
    ("escape-codes", '{"instruction": "a", "\\u0007\\u009b": "b"}', "'output' | is missing"),
]
FILES = [  # a whole file, `bad` plus its suffix
    ("array-cut-off", ".json", f"[\n{ROW},\n{ROW}", "bad.json:3 | cut off"),
    ("array-cut-in-row", ".json", f"[\n{ROW},\n" + '{"instr', "bad.json:3 | not JSON"),
    ("array-of-texts", ".json", f'[\n{ROW},\n"a"]', "bad.json:3 | must be a JSON object"),
    ("array-row", ".json", f'[{ROW},\n{{"instruction":\n"a"}}]', "bad.json:2 | 'output'"),
    ("array-key-twice", ".json", f'[{ROW},\n{{"a": 1, "a": 2}}]', "bad.json:2 | 'a' | twice"),
    ("array-ends-in-comma", ".json", f"[{ROW},\n]", "bad.json:"),
    ("text-after-array", ".json", f"[{ROW}]\n[]", "bad.json:2 | after the array"),
    ("empty-array", ".json", "[]", "bad.json | no completions"),
    ("empty-file", ".jsonl", "", "bad.jsonl | no completions"),
    ("blank-lines", ".jsonl", "\n  \n\r\n", "bad.jsonl | no completions"),
    ("damaged-gzip", ".jsonl.gz", gzip.compress(b"a" * 99)[:-9], "bad.jsonl.gz | damaged gzip"),
    ("false-gzip", ".jsonl.gz", b"\x1f\x8b" + b"\0" * 99, "bad.jsonl.gz | damaged gzip"),
    ("gzip-bomb", ".jsonl.gz", gzip.compress(b" " * 2**20) * 257, "bad.jsonl.gz | 100 times"),
    ("fault-after-bom", ".jsonl", b"\xef\xbb\xbf{", "bad.jsonl:1 | not JSON"),
    ("57-faults", ".jsonl", ROWS + "{\n" * 57, "57 faults | bad.jsonl:22: | and 37 more"),
    ("fields", ".jsonl", '{"instructions": "a", "answer": "b"}', "bad.jsonl:1 | instruction?"),
    ("no-fields", ".jsonl", "{}", "bad.jsonl:1 | (none)"),
    ("terminal-codes", ".jsonl", r'{"\u0007\u009bx": "a"}', "bad.jsonl:1"),
    ("completion", ".jsonl", native(messages=turns("user"), completion=3), ":1 | 'completion'"),
    ("prompt-id-number", ".jsonl", native(prompt_id=3), "bad.jsonl:1 | 'prompt_id' | must be text"),
    ("no-prompt", ".jsonl", native(prompt_id=None), "bad.jsonl:1 | 'prompt_id' | is missing"),
    ("prompt-ends-with-assistant", ".jsonl", native(messages=turns("user", "assistant")),
     "bad.jsonl:1 | 'messages' | must end with the user's turn"),
    ("messages-text", ".jsonl", '{"messages": "hello"}', "jsonl:1 | 'messages' | list of turns"),
    ("messages-empty", ".jsonl", talk(), "jsonl:1 | 'messages' | list of turns"),
    ("role-unknown", ".jsonl", talk("user", "bot"), "bad.jsonl:1 | 'messages[1].role' | \"bot\""),
    ("content-list", ".jsonl", talk("user", content=["x"]), ":1 | 'messages[0].content' | text"),
    ("turn-text", ".jsonl", '{"messages": ["hello"]}', "bad.jsonl:1 | 'messages[0]' | hello"),
    ("late-system-turn", ".jsonl", talk("user", "system", "assistant"), ":1 | 'messages' | system"),
    ("only-system", ".jsonl", talk("system"), "bad.jsonl:1 | 'messages' | no user turn"),
    ("ends-with-user", ".jsonl", talk("user", "assistant", "user"), ":1 | 'messages' | assistant"),
    ("no-user-turn", ".jsonl", talk("system", "assistant"), "bad.jsonl:1 | 'messages' | user"),
    ("id-without-messages", ".jsonl", native(), "bad.jsonl:1 | 'prompt_id' | no benchmark"),
]  # fmt: skip
SOURCES = [  # what is named instead of a good file
    ("file-missing", "god.jsonl", {}, "no such file: god.jsonl | did you mean: good.jsonl?"),
    ("parquet-missing", "no.parquet", {}, "no such file: no.parquet"),
    ("folder-without-data", "./rm", {}, "rm | completions.jsonl"),
    ("saved-data-damaged", "./saved", {"saved/state.json": "{"}, "saved"),
    ("this-folder", ".", {}, "completions.jsonl"),
    ("name-too-long", "x" * 300 + ".jsonl", {}, "xxx"),
    ("data-set-id-malformed", "hf://org", {}, "hf://org | hf://org/name"),
]
BENCHMARK = [  # with `-b bench`
    ("id-unknown", ANSWERS + native(), "bad.jsonl:3 | 'prompt_id' | 'p9' | prompts.jsonl"),
    ("messages-differ", native(prompt_id="p1", messages=turns("user")), ":1 | 'messages' | 'p1'"),
]
GROUPS = [  # not for `score`, which takes each row for itself
    ("same-index-twice", f"{plain(id=1, output='b')}\n{plain(id=1)}", "bad.jsonl:2 | 'index'"),
    ("one-id-two-prompts", f"{plain(id=1, instruction='a')}\n{plain(id=1)}", "bad.jsonl:2 | 'id'"),
]
COMPARE = [  # options of `compare`
    ("unknown-tie-rule", "--ties most", "'most' | margin=EPS"),
    ("negative-tie-margin", "--ties margin=-1", "'margin=-1' | EPS ≥ 0"),
    ("nan-tie-margin", "--ties margin=nan", "'margin=nan' | EPS ≥ 0"),
    ("level-above-one", "--ci 1.5", "--ci | 1.5"),
    ("level-nan", "--ci nan", "level nan"),
    ("negative-bootstrap", "--bootstrap -1", "--bootstrap | -1"),
    ("unknown-suffix", "-o table.mdd", "table.mdd | '.mdd' | did you mean: .md?"),
    ("no-suffix", "-o table", "table | .json"),
    ("output-folder-missing", "-o out/table.md", "out/table.md | create the folder"),
    ("output-is-folder", "-o folder.md", "folder.md | it is a folder"),
    ("unknown-benchmark", "-b bnch", "benchmark 'bnch' | looked for | did you mean: bench?"),
]
SCORE = [  # options of `score`, each a setting or a model that is refused
    ("unknown-dtype", "--dtype float", "'float' | did you mean: float32?"),
    ("max-length-0", "--max-length 0", "max_length | at least 1"),
    ("max-length-beyond", "--max-length 513", "max_length 513 | 512 tokens"),
    ("unknown-overlong", "--overlong drop", "'drop' | truncate-left"),
    ("output-folder-missing", "-o out/scores.jsonl", "out/scores.jsonl | create the folder"),
    ("unknown-benchmark", "-b bnch", "benchmark 'bnch' | did you mean: bench?"),
]
MODELS = [  # files of the reward model that are other than good; None is missing
    ("no-config", {"rm/config.json": None}, "no config.json | name the folder"),
    ("config-not-json", {"rm/config.json": "{"}, "config.json | not JSON"),
    ("config-array", {"rm/config.json": "[]"}, "config.json | no JSON object"),
    ("config-nan", {"rm/config.json": '{"max_position_embeddings": NaN}'}, "config.json | not"),
    ("config-100k-deep", {"rm/config.json": "[" * 100_000}, "config.json"),
    ("no-maximum-length", {"rm/config.json": f"{{{PLAIN}}}"}, "no maximum length | --max-length"),
    ("dtype-int8", {"rm/config.json": f'{{"dtype": "int8", {PLAIN}}}'}, "'int8' | float32"),
    ("no-weights", {"rm/model.safetensors": None}, "no safetensors weights"),
    ("weights-damaged", {"rm/model.safetensors": "no weights"}, "damaged safetensors"),
    ("weights-cut", {"rm/model.safetensors": WEIGHTS[:40]}, "damaged safetensors"),
    ("only-pickles", {"rm/model.safetensors": None, "rm/pytorch_model.bin": "x"},
     "only pytorch_model.bin | convert it to safetensors"),
    ("no-chat-template", {"rm/chat_template.jinja": None}, "no chat template"),
    ("template-not-utf8", {"rm/chat_template.jinja": b"\xff"}, "chat_template.jinja"),
    ("template-list-of-texts", {"rm/chat_template.jinja": None,
     "rm/tokenizer_config.json": '{"chat_template": ["a"]}'}, "chat template"),
    ("max-length-text", {"evalkit.toml": TOML + 'max_length = "512"'}, 'max_length | "512"'),
    ("card-not-toml", {"rm/card.toml": "notice"}, "card.toml"),
]  # fmt: skip
CONFIG = [  # evalkit.toml, and a command
    ("toml-malformed", "[defaults]\nreward_model =\n", "good.jsonl", "line 2"),
    ("toml-not-utf8", b"\xff", "good.jsonl", "utf-8"),
    ("key-unknown", '[defaults]\nbenchmrk = "b"', "good.jsonl", "did you mean: benchmark?"),
    ("table-unknown", '[ref.x]\npath = "a"', "good.jsonl", "'ref' | did you mean: refs?"),
    ("path-missing", "[checkpoints.x]\nstep = 3", "x", '[checkpoints.x] | add path = "'),
    ("entry-is-text", '[checkpoints]\npath = "good.jsonl"', "path", "checkpoints"),
    ("model-entry-is-text", '[reward_models]\nmodel = "rm"', "good.jsonl --rm model", "model"),
    ("benchmark-number", '[checkpoints.x]\npath = "good.jsonl"\nbenchmark = 5', "x", "benchmark"),
    ("step-text", TOML + '[checkpoints.x]\npath = "good.jsonl"\nstep = "ten"', "x", "step"),
]  # fmt: skip
OTHER = [
    Case("unknown-reference", "compare --model good.jsonl --ref refs_on",
         "reference 'refs_on' | looked in | did you mean: refs_one? | refs add refs_on", {}),
    Case("csv", "score table.csv", "'table.csv' | not read | .jsonl", {"table.csv": "a,b"}),
    Case("unknown-checkpoint", "compare --model ckpt_11 --ref refs_one",
         "checkpoint 'ckpt_11' | looked in | did you mean: ckpt_10? | --model path", {}),
    Case("no-reference", "compare --model good.jsonl", "no reference is named | --ref NAME", {}),
    Case("one-name-twice", "compare --model good.jsonl --ref other/good.jsonl",
         "two inputs are called 'good' | other/good.jsonl", {"other/good.jsonl": ROWS}),
    Case("no-prompt-in-common", "compare --model good.jsonl --ref refs_one",
         "4 prompts without a completion | p1 | --missing drop", {}),
    Case("prompts-differ", "compare --model a.jsonl --ref refs_one",
         "a.jsonl:1 | 'messages' of prompt 'p1' differ | of its",
         {"a.jsonl": native(prompt_id="p1", messages=turns("user"))}),
    Case("prompt-repeated", "score ckpt_10", "prompts.jsonl:3 | 'prompt_id' | repeated",
         {"benchmarks/bench/prompts.jsonl": PROMPTS + PROMPTS}),
    Case("sidecar-malformed", "score ckpt_10", "ckpt_10.toml | line 2",
         {SIDECAR: "step = 1\nstep\n"}),
    Case("sidecar-step-text", "score ckpt_10", "ckpt_10.toml | step", {SIDECAR: 'step = "ten"'}),
    Case("manifest-damaged", "compare --model good.jsonl --ref refs_one", "manifest.json | again",
         {MANIFEST: "{"}, 5),
    Case("manifest-array", "refs show refs_one", "manifest.json | again", {MANIFEST: "[]"}, 5),
    Case("manifest-empty", "refs show refs_one", "manifest.json", {MANIFEST: '{"name": "x"}'}, 5),
    Case("pack-manifest-array", "refs show refs_one", "manifest.json | delete this folder",
         {"reference_cache/refs_one/rewards/ab/manifest.json": "[]"}, 5),
    Case("completions-edited", "refs verify refs_one", "refs_one | --replace",
         {"reference_cache/refs_one/completions.jsonl": ANSWERS.replace("One", "Won")}, 5),
    Case("name-taken", "refs add refs_one good.jsonl", "'refs_one' | --replace", {}),
    Case("name-outside", "refs add ../x good.jsonl", "'../x' | letters, digits", {}),
    Case("name-hidden", "refs add .x good.jsonl", "'.x' | letters, digits", {}),
    Case("name-empty", "refs add  good.jsonl", "'' | letters, digits", {}),
    Case("add-unknown-model", "refs add new good.jsonl --rm fakes", "'fakes'", {}, 6),
    Case("remove-unasked", "refs remove refs_one", "refusing to delete 'refs_one' | --yes", {}),
    Case("remove-unknown", "refs remove refs_on --yes", "'refs_on' | refs_one", {}),
    Case("remove-outside", "refs remove ../rm --yes", "'../rm' | refs_one", {}),
    Case("unknown-reward-model", "compare --model good.jsonl --ref good.jsonl --rm fakes",
         "'fakes' | looked in | did you mean: fake?", {}, 6),
    Case("hub-model-absent", "score good.jsonl --rm org/nonsuch",
         "org/nonsuch | hf download", {}, 6),
    Case("store-damaged", "score good.jsonl", "store.db | move it away",
         {".evalkit/store.db": "no database" * 999}, 5),
]  # fmt: skip

CASES = [
    *(
        Case(name, reader.format("bad.jsonl"), f"bad.jsonl:3 | {says}", {"bad.jsonl": lines(line)})
        for name, line, says in LINES
        for reader in READERS
    ),
    *(
        Case(name, reader.format(f"bad{suffix}"), says, {f"bad{suffix}": content})
        for name, suffix, content, says in FILES
        for reader in READERS
    ),
    *(
        Case(name, reader.format(source), says, files)
        for name, source, files, says in SOURCES
        for reader in READERS
    ),
    *(
        Case(name, reader.format("bad.jsonl") + " -b bench", says, {"bad.jsonl": content})
        for name, content, says in BENCHMARK
        for reader in READERS
    ),
    *(
        Case(name, reader.format("bad.jsonl"), says, {"bad.jsonl": content})
        for name, content, says in GROUPS
        for reader in READERS
        if not reader.startswith("score")
    ),
    *(
        Case(name, f"compare --model good.jsonl --ref good.jsonl {options}", says, {})
        for name, options, says in COMPARE
    ),
    *(Case(name, f"score good.jsonl {options}", says, {}) for name, options, says in SCORE),
    *(Case(name, "score good.jsonl", says, files) for name, files, says in MODELS),
    *(
        Case(name, f"score {source}", f"evalkit.toml | {says}", {"evalkit.toml": content})
        for name, content, source, says in CONFIG
    ),
    *OTHER,
]


# Ids of cases that are not refused as they should be, and why; to be emptied.
def _parameter(case):
    words = case.command.split()
    command = words[0] if words[0] != "refs" else f"refs-{words[1]}"
    return pytest.param(case, id=f"{case.id}-{command}")


def _write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _everything(folder):
    """Every file and folder of the workspace, with its bytes."""
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    folder = tmp_path / "workspace"
    _write(folder, WORKSPACE)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    return folder


@pytest.mark.parametrize("case", [_parameter(case) for case in CASES])
def test_bad_input_is_refused_with_place_and_fix_and_nothing_is_written(workspace, capsys, case):
    _write(workspace, case.files)
    before = _everything(workspace)
    code = cli.run(case.command.split(" "))
    out, err = capsys.readouterr()
    assert code == case.code, err
    assert err.splitlines()[0].startswith(("error: ", "Usage: "))
    assert "fix: " in err or "Try 'evalkit" in err
    for fragment in case.says.split(" | "):
        assert fragment in err
    assert "Traceback" not in err
    assert not set(err) & CONTROL
    assert not out
    assert _everything(workspace) == before
    assert not list(Path(tempfile.gettempdir()).glob("evalkit-bug-*"))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("score bad.jsonl", 2, "bad.jsonl:1: is not JSON"),
        ("compare --model ckpt_10 --ref nonsuch", 2, "reference 'nonsuch' not found"),
        ("refs verify refs_bad", 5, "manifest.json"),
        ("score bad.parquet", 2, "bad.parquet"),
    ],
)
def test_the_program_itself_refuses_with_the_same_codes(workspace, arguments, code, says):
    broken = {"bad.jsonl": "{", "bad.parquet": "PAR1 no"}
    _write(workspace, {**broken, "reference_cache/refs_bad/manifest.json": "{"})
    done = subprocess.run(
        [sys.executable, "-m", "evalkit", *arguments.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert "fix: " in done.stderr


def test_malformed_input_is_refused_before_torch_is_imported(workspace):
    _write(workspace, {"bad.jsonl": ROWS + "{"})
    program = """
import sys
from evalkit import cli
codes = [cli.run(sys.argv[1:]), cli.run(["compare", "-m", *sys.argv[2:], "-r", "refs_one"])]
sys.exit(repr((codes, sorted({"torch", "transformers"} & set(sys.modules)))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "score", "bad.jsonl"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.endswith("([2, 2], [])\n")


def test_the_good_files_of_these_tables_are_good(workspace, capsys):
    assert cli.run(["refs", "add", "a", "good.jsonl"]) == 0
    assert cli.run(["refs", "add", "b", "ckpt_10"]) == 0
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "shown"), [("", "OSError"), ("\n", "OSError"), ("one\ntwo", "one"), ("\n one", "one")]
)
def test_an_error_of_another_library_is_shown_by_its_first_words_or_its_name(said, shown):
    assert first_line(OSError(said)) == shown
