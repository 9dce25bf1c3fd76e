"""Each format people have gives exactly the rows that were written."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.data import Message, Prompt, completion_set, default_prompt_id
from evalkit.errors import InputError, MalformedError
from evalkit.formats import read_prompts, read_rows
from tests.shared_data import ALPACA_EVAL, needs_shared

BOM = b"\xef\xbb\xbf"
LOOK_ALIKES = ["00123", "2024-01-01", "1e5", "NA", "None", "null", "true", "", " ", "-0", "\ufeff"]
SEPARATORS = "a\u2028b\u2029c\x85d\0e\x0bf\x0cg\x1ch\ri\nj\r\nk"
TEXTS = st.sampled_from([*LOOK_ALIKES, SEPARATORS]) | st.text(
    st.characters(exclude_categories=["Cs"])
)


def user(text):
    return (Message("user", text),)


def lines(*records, ascii_only=False):
    return b"".join(json.dumps(r, ensure_ascii=ascii_only).encode() + b"\n" for r in records)


def array(*records):
    return json.dumps(records, ensure_ascii=False, indent=4).encode()


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="rows.jsonl"):
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write_file


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A small data set with every kind of field, after the caches have been moved here."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets.Dataset.from_list(
        [
            {"id": f"00{i}", "instruction": f"Why {i}?", "input": "", "output": text, "index": None}
            for i, text in enumerate([*LOOK_ALIKES, SEPARATORS])
        ]
    )


def test_native_rows_hold_prompt_completion_subset_and_index(write):
    (row,) = read_rows(
        write(
            lines(
                {
                    "prompt_id": "p",
                    "messages": [
                        {"role": "system", "content": "Be brief."},
                        {"role": "user", "content": "Why?"},
                    ],
                    "completion": "Because.",
                    "subset": "short",
                    "index": 2,
                    "tokens": 7,
                }
            )
        )
    )
    assert (row.id, row.completion, row.subset, row.index) == ("p", "Because.", "short", 2)
    assert row.messages == (Message("system", "Be brief."), Message("user", "Why?"))


def test_native_rows_may_leave_the_messages_to_the_benchmark(write):
    rows = read_rows(write(lines({"prompt_id": "p", "completion": "c"})))
    assert rows[0].messages is None
    found = completion_set("set", rows, prompts={"p": Prompt("p", user("Why?"), "s")})
    assert found.prompts == (Prompt("p", user("Why?"), "s"),)


def test_a_prompt_without_an_id_is_known_by_its_messages(write):
    messages = [{"role": "user", "content": "Why?"}]
    rows = read_rows(write(lines({"messages": messages, "completion": "c"})))
    assert completion_set("set", rows).prompts[0].prompt_id == default_prompt_id(user("Why?"))


def test_instruction_and_input_are_joined_by_one_newline_and_the_id_is_kept(write):
    rows = read_rows(
        write(
            lines(
                {"id": 7, "instruction": "Sum", "input": "1 2", "output": "3"},
                {"id": "7", "instruction": "Sum", "input": "", "output": "0"},
                {"instruction": "Sum", "input": None, "output": "-"},
            )
        )
    )
    assert [row.messages for row in rows] == [user("Sum\n1 2"), user("Sum"), user("Sum")]
    assert [row.id for row in rows] == [7, "7", None]


def test_alpaca_eval_arrays_give_their_dataset_as_subset(write):
    rows = read_rows(
        write(
            array(
                {"dataset": "koala", "instruction": "a", "output": "b", "generator": "g"},
                {"dataset": "vicuna", "instruction": "c", "output": "", "generator": "g"},
            ),
            "model_outputs.json",
        )
    )
    assert [(row.subset, row.completion) for row in rows] == [("koala", "b"), ("vicuna", "")]


def test_conversations_of_several_turns_end_with_the_completion(write):
    roles = ("system", "user", "assistant", "user", "assistant")
    turns = [{"role": role, "content": str(i)} for i, role in enumerate(roles)]
    (row,) = read_rows(write(lines({"id": 3, "messages": turns, "subset": "chat"})))
    assert row.messages == tuple(Message(role, str(i)) for i, role in enumerate(roles[:-1]))
    assert (row.id, row.completion, row.subset) == (3, "4", "chat")


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=5), st.booleans())
@settings(deadline=None)
def test_texts_come_back_code_point_for_code_point(tmp_path_factory, texts, ascii_only):
    path = tmp_path_factory.getbasetemp() / "texts.jsonl"
    shapes = {
        "instructions": lambda i, p, c: {"id": i, "instruction": p, "output": c},
        "native": lambda i, p, c: {
            "prompt_id": i,
            "messages": [{"role": "user", "content": p}],
            "completion": c,
        },
        "conversations": lambda i, p, c: {
            "id": i,
            "messages": [{"role": "user", "content": p}, {"role": "assistant", "content": c}],
        },
    }
    for shape in shapes.values():
        records = [shape(*text) for text in texts]
        for content in (lines(*records, ascii_only=ascii_only), array(*records)):
            path.write_bytes(content)
            rows = read_rows(str(path))
            assert [(row.id, row.messages, row.completion) for row in rows] == [
                (i, user(p), c) for i, p, c in texts
            ]


@pytest.mark.parametrize("text", [*LOOK_ALIKES, SEPARATORS])
def test_texts_that_look_like_something_else_stay_text(write, text):
    (row,) = read_rows(write(lines({"id": text, "instruction": text, "output": text})))
    assert (row.id, row.messages, row.completion) == (text, user(text), text)


@pytest.mark.parametrize("number", [0, -1, 1, 2**63 - 1, -(2**63), 12345678901234567])
def test_integer_ids_stay_exact_integers_beside_texts(write, number):
    rows = read_rows(
        write(
            lines(
                {"id": number, "instruction": "a", "output": "b"},
                {"id": str(number), "instruction": "a", "output": "b"},
            )
        )
    )
    assert [row.id for row in rows] == [number, str(number)]


PLAIN = lines(
    {"instruction": "a", "output": SEPARATORS.replace("\n", "")},
    {"instruction": "c", "output": "d"},
)


CONTAINERS = {
    "lines": PLAIN,
    "no-newline-at-the-end": PLAIN.rstrip(),
    "bom": BOM + PLAIN,
    "crlf": PLAIN.replace(b"\n", b"\r\n"),
    "blank-lines": b"\n \n" + PLAIN.replace(b"\n", b"\n\n\t\n"),
    "gzip": gzip.compress(PLAIN),
    "gzip-bom": gzip.compress(BOM + PLAIN),
    "gzip-of-two-members": gzip.compress(PLAIN[:30]) + gzip.compress(PLAIN[30:]),
    "array": b"[" + PLAIN.replace(b"\n", b",", 1) + b"]",
    "array-spaced": BOM + b" \r\n[\r\n" + PLAIN.replace(b"\n", b"\r\n,", 1) + b"]\r\n\t ",
    "array-gzip": gzip.compress(b"[" + PLAIN.replace(b"\n", b",", 1) + b"]"),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz", "rows"])
def test_the_container_is_told_by_its_bytes_whatever_the_name(write, container, name):
    rows = read_rows(write(CONTAINERS[container], name))
    assert [row.completion for row in rows] == [SEPARATORS.replace("\n", ""), "d"]


def test_line_separators_inside_strings_do_not_split_a_line(write):
    path = write(lines({"instruction": "a", "output": "\u2028\x85"}) + b"{")
    with pytest.raises(MalformedError) as refusal:
        read_rows(path)
    assert [fault.where for fault in refusal.value.faults] == [f"{path}:2"]


def test_rows_know_the_line_they_start_at(write):
    row = '{\n"instruction": "a",\n"output": "\u2028"}'.encode()
    path = write(lines({"instruction": "a", "output": "b"}) + b"\n\n" + PLAIN)
    assert [row.where for row in read_rows(path)] == [f"{path}:{n}" for n in (1, 4, 5)]
    path = write(b"\n[" + row + b",\n\n" + row + b", " + row + b"]", "rows.json")
    assert [row.where for row in read_rows(path)] == [f"{path}:{n}" for n in (2, 6, 8)]


def test_every_row_of_a_file_has_the_format_of_the_first(write):
    path = write(
        lines(
            {"instruction": "a", "output": "b"},
            {"messages": [{"role": "user", "content": "a"}], "completion": "b"},
        )
    )
    with pytest.raises(MalformedError, match="field 'instruction' is missing"):
        read_rows(path)


def test_the_first_20_faults_are_listed_and_the_others_counted(write):
    path = write(lines({"instruction": "a", "output": "b"}, *[{"instruction": "a"}] * 25))
    with pytest.raises(MalformedError) as refusal:
        read_rows(path)
    text = str(refusal.value)
    assert len(refusal.value.faults) == 25
    assert [f"{path}:{n}:" in text for n in (1, 2, 21, 22)] == [False, True, True, False]
    assert "5 more" in text


def test_completions_of_one_prompt_are_told_apart_by_index(write):
    rows = read_rows(
        write(
            lines(
                {"id": 1, "index": 1, "instruction": "a", "output": "second"},
                {"id": 2, "instruction": "b", "output": "other"},
                {"id": 1, "index": 0, "instruction": "a", "output": "first"},
                {"id": 1, "index": 0, "instruction": "a", "output": "first"},
            )
        )
    )
    found = completion_set("set", rows)
    assert [prompt.prompt_id for prompt in found.prompts] == ["1", "2"]
    assert found.completions == (("first", "second"), ("other",))


def test_rows_without_ids_that_repeat_a_prompt_are_its_further_completions(write):
    rows = read_rows(
        write(lines(*({"instruction": p, "output": c} for p, c in ("ax", "by", "az", "ax"))))
    )
    assert completion_set("set", rows).completions == (("x", "z", "x"), ("y",))


def test_the_digest_of_a_set_ignores_the_order_and_name_of_its_rows(write):
    rows = read_rows(write(lines(*({"instruction": p, "output": "x"} for p in "abc"))))
    forth, back = completion_set("set", rows), completion_set("other", rows[::-1])
    assert forth.digest == back.digest
    assert forth.digest != completion_set("set", rows[:2]).digest


def test_a_folder_with_completions_is_read_as_that_file(write, tmp_path):
    write(PLAIN, "completions.jsonl")
    assert len(read_rows(str(tmp_path))) == 2


def test_parquet_keeps_every_text_and_type(dataset, tmp_path):
    dataset.to_parquet(tmp_path / "rows.parquet")
    rows = read_rows(str(tmp_path / "rows.parquet"))
    assert [row.completion for row in rows] == [*LOOK_ALIKES, SEPARATORS]
    assert [row.id for row in rows] == [f"00{i}" for i in range(len(rows))]
    assert {row.index for row in rows} == {None}
    assert rows[2].where == f"{tmp_path / 'rows.parquet'}, row 3"


def test_a_folder_of_parquet_files_is_read_in_the_order_of_their_names(dataset, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    dataset.select(range(5, 12)).to_parquet(folder / "b.parquet")
    dataset.select(range(5)).to_parquet(folder / "a.parquet")
    assert [row.completion for row in read_rows(str(folder))] == [*LOOK_ALIKES, SEPARATORS]


def test_a_saved_data_set_is_read_from_its_one_split(dataset, tmp_path):
    import datasets

    dataset.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict({"test": dataset}).save_to_disk(tmp_path / "split")
    datasets.DatasetDict({"a": dataset, "b": dataset}).save_to_disk(tmp_path / "two")
    for name in ("plain", "split"):
        rows = read_rows(str(tmp_path / name))
        assert [row.completion for row in rows] == [*LOOK_ALIKES, SEPARATORS]
    with pytest.raises(InputError, match="the splits a, b"):
        read_rows(str(tmp_path / "two"))


def test_conversations_in_parquet_keep_their_turns(dataset, tmp_path):
    import datasets

    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    datasets.Dataset.from_list([{"id": 1, "messages": turns}]).to_parquet(tmp_path / "c.parquet")
    (row,) = read_rows(str(tmp_path / "c.parquet"))
    assert (row.id, row.messages, row.completion) == (1, user("q"), "a")


def test_a_column_of_dates_in_parquet_is_refused_not_turned_into_text(dataset, tmp_path):
    import datetime

    import datasets

    day = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    rows = datasets.Dataset.from_list([{"instruction": "a", "output": day}])
    rows.to_parquet(tmp_path / "d.parquet")
    with pytest.raises(MalformedError, match="'output' must be text"):
        read_rows(str(tmp_path / "d.parquet"))


def test_prompts_of_a_benchmark_are_read_by_id_in_order(write):
    records = [
        {"prompt_id": i, "messages": [{"role": "user", "content": i}], "subset": "s"} for i in "ba"
    ]
    found = read_prompts(write(lines(*records), "prompts.jsonl"))
    assert list(found.items()) == [(i, Prompt(i, user(i), "s")) for i in "ba"]


@needs_shared
def test_the_real_alpaca_eval_files_give_all_their_rows():
    sizes = {}
    for path in sorted(ALPACA_EVAL.glob("*.json")):
        rows = read_rows(str(path))
        raw = json.loads(path.read_bytes())
        assert [row.completion for row in rows] == [record["output"] for record in raw]
        assert all(row.messages == user(r["instruction"]) for row, r in zip(rows, raw, strict=True))
        sizes[path.stem] = len(rows)
    assert len(sizes) == 14
    assert set(sizes.values()) <= {803, 805}
