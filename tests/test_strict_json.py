"""Strict JSON: each value exactly as written, or a refusal; never anything else."""

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evalkit.errors import InputError
from evalkit.formats import read_prompts, read_rows
from evalkit.strict_json import Decoder, ProblemError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)
VALID = b"".join(
    json.dumps(row, ensure_ascii=False).encode() + b"\n"
    for row in (
        {"id": 1, "instruction": "Why?", "output": "Grün 😀", "input": "", "index": 0},
        {"id": "a", "instruction": "How?", "output": "\u2028\\u00e9", "index": 2**40},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
    )
)
PIECES = [*rb'{}[]":,\ ', *b"\n\r\0\xff\xef\x1f\xc3-0e.", b"null", b"NaN", b"1e999", rb"\ud83d"]


def refusal(read, *arguments):
    """The refusal of what was asked, None if it went well; anything else is an error."""
    try:
        read(*arguments)
    except (InputError, ProblemError) as error:
        return error
    return None


def decode(text):
    value, end = Decoder().decode(text)
    assert end == len(text)
    return value


@given(VALUES, st.booleans())
def test_every_json_value_comes_back_as_it_was_written(value, ascii_only):
    found = decode(json.dumps(value, ensure_ascii=ascii_only))
    assert found == value
    assert repr(found) == repr(value)  # 1, 1.0 and True are equal, and so are 0.0 and -0.0


@pytest.mark.parametrize("text", ["2024-01-01", "00123", "1e5", "NA", "None", "null", "", "\0"])
def test_texts_that_look_like_something_else_stay_text(text):
    assert decode(json.dumps({"output": text})) == {"output": text}


@pytest.mark.parametrize("number", [-(2**63), 2**63 - 1, 12345678901234567])
def test_integers_of_64_bits_stay_exact_beside_small_ones(number):
    assert decode(f"[{number}, 2]") == [number, 2]


def test_control_characters_inside_strings_stay_as_they_are():
    assert decode('"a\0b\tc\x1b"') == "a\0b\tc\x1b"


def test_a_whole_surrogate_pair_is_one_character():
    assert decode(r'"\ud83d\ude00"') == "😀"


@pytest.mark.parametrize(
    ("text", "field", "what"),
    [
        ('{"a": 1, "a": 2}', "a", "twice"),
        ('{"x": [{"b": 1, "b": 1}]}', "b", "twice"),
        ("NaN", "", "NaN"),
        ("[Infinity]", "", "Infinity"),
        ("-Infinity", "", "-Infinity"),
        ("1e999", "", "1e999"),
        ("-1e999", "", "-1e999"),
        ("9223372036854775808", "", "64 bits"),
        ("-9223372036854775809", "", "64 bits"),
        ("7" * 5000, "", "64 bits"),
        (r'"\ud83d"', "", "half a surrogate"),
        (r'{"a": ["x", "\ude00\ud83d"]}', "a[1]", "half a surrogate"),
        (r'{"a": {"\ud83d": 1}}', "a", "half a surrogate"),
        ("[" * 100_000, "", "too deeply"),
        ('{"a":' * 100_000, "", "too deeply"),
        ("", "", "not JSON"),
        ("{'a': 1}", "", "not JSON"),
        ("[1,]", "", "not JSON"),
        ("nul", "", "not JSON"),
        (".5", "", "not JSON"),
        ("\ufeff1", "", "not JSON"),
        (r'"\x41"', "", "not JSON"),
        ('"open', "", "not JSON"),
    ],
)
def test_what_lenient_parsers_let_through_is_refused(text, field, what):
    with pytest.raises(ProblemError, match=what) as refusal:
        Decoder().decode(text)
    assert refusal.value.field == field
    assert len(str(refusal.value)) < 100


@pytest.mark.parametrize("depth", [900, 1500, 3000])
@pytest.mark.parametrize("leaf", ["1", r'"\ud83d"'])
def test_deep_values_are_decoded_or_refused_on_every_python(depth, leaf):
    refused = refusal(Decoder().decode, "[" * depth + leaf + "]" * depth)
    assert refused is None or "nested" in str(refused) or "surrogate" in str(refused)


def test_a_refused_value_tells_where_it_ends_so_that_reading_can_go_on():
    with pytest.raises(ProblemError) as refusal:
        Decoder().decode("[NaN] 7")
    assert refusal.value.end == 5


def test_a_decoder_forgets_the_problems_of_the_value_before():
    decoder = Decoder()
    with pytest.raises(ProblemError):
        decoder.decode("[NaN]")
    assert decoder.decode("[1]") == ([1], 3)


@st.composite
def mutations(draw):
    """The valid file with bytes replaced, inserted, removed or repeated."""
    data = VALID if draw(st.booleans()) else b"[" + b",".join(VALID.splitlines()) + b"]"
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        piece = draw(st.sampled_from(PIECES) | st.binary(max_size=3))
        piece = bytes([piece]) if isinstance(piece, int) else piece
        again = data[start:end] if draw(st.booleans()) else b""
        data = data[:start] + again + piece + data[end:]
    return data


@settings(max_examples=400, deadline=None)
@given(mutations())
@example(b"")
@example(b"\x1f\x8b")
@example(b"\xef\xbb\xbf")
@example(b"[")
@example(b"[,")
@example(b"\x0c[1]")
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(data)
    for read in (read_rows, read_prompts):
        refused = refusal(read, str(path))
        assert refused is None or refused.fix


@given(VALUES)
def test_a_record_with_any_value_in_a_field_is_read_or_refused(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "fields.jsonl"
    for name in ("id", "instruction", "output", "input", "index", "subset", "messages"):
        record = {"instruction": "a", "output": "b", name: value}
        path.write_text(json.dumps(record), "utf-8")
        refused = refusal(read_rows, str(path))
        assert refused is None or f"{path}:1: field '{name}" in str(refused)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_bit_for_bit(value):
    found = decode(repr(value))
    assert (found, math.copysign(1, found)) == (value, math.copysign(1, value))
