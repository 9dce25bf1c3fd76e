"""What is written: the same bytes again, nothing in a text acts, numbers equal the comparison's."""

import csv
import dataclasses
import io
import json
import math
import re
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from evalkit.comparison import Options, comparison_of
from evalkit.contrasts import compared
from evalkit.data import CompletionSet, Message, Prompt, Rewards
from evalkit.pairing import TieRule, pair
from evalkit.report import comparisons as report
from evalkit.report import tables
from evalkit.report.layout import escape, json_document
from evalkit.report.track import tables as track_tables
from evalkit.reward_models.families import family
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.track import Options as TrackOptions
from evalkit.track import track
from tests.test_contrasts import side
from tests.test_track import at, held

HOSTILE = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror=alert(1)>",
    "</pre></details></script><script>alert(1)</script>",
    "{{ 7 * 7 }} {% raw %}",
    "a\u202eb\u200bc\u2028d\x1b[31me\x00f",
    "'\"><svg onload=alert(1)>",
    "$\\frac{1}{$",
]
SPEC = RewardModelSpec(
    name="rm<b>", path=Path(), family=family("sequence-classifier"), weights=("0" * 64,), config="",
    tokenizer="", template="", dtype="float32", max_length=10, overlong="error",
    notice="<i>notice</i>",
)  # fmt: skip


def comparison(name="ckpt<1>", texts=HOSTILE, seed=0):
    rng = np.random.default_rng(seed)
    prompts = tuple(
        Prompt(f"p{i}", (Message("user", text),), f"s{i % 2}<u>") for i, text in enumerate(texts)
    )
    sides = []
    for label in (name, "ref&"):
        completions = CompletionSet(label, prompts, tuple((text,) for text in texts))
        n = len(texts)
        rewards = Rewards(
            np.array([p.prompt_id for p in prompts], dtype=object),
            rng.normal(size=n), np.full(n, 9), np.zeros(n, np.int64),
        )  # fmt: skip
        sides.append((completions, rewards))
    table = pair(*sides, ties=TieRule())
    return comparison_of(sides[0][0], sides[1][0], table, SPEC, Options())


class Page(HTMLParser):
    """Collects tags and the text a reader sees."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page():
    from evalkit.report import html

    return html.render(compared([comparison()])).decode()


def test_the_report_has_no_script_no_handler_and_no_request(page):
    found = Page(page)
    assert "script" not in found.tags
    assert "img" not in found.tags
    assert not [a for a in found.attributes if a[1].startswith("on") or a[1] in {"src", "style"}]
    links = [value for _, key, value in found.attributes if key in {"href", "xlink:href"}]
    assert all(link.startswith("#") for link in links)
    assert "default-src 'none'" in page


def test_texts_are_shown_verbatim_with_hidden_characters_made_visible(page):
    text = Page(page).text
    for hostile in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[3], HOSTILE[5], HOSTILE[6]):
        assert hostile in text
    assert "a\\u202eb\\u200bc\\u2028d\\u001b[31me\\u0000f" in text
    assert not re.search("[\u202e\u200b\x1b\x00]", page)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("~~~ pwned", r"\~\~\~ pwned"),
        ("- pwned", r"\- pwned"),
        (" + pwned", r" \+ pwned"),
        ("---", r"\---"),
        ("- - -", r"\- - -"),
        ("12. pwned", r"12\. pwned"),
        ("1) pwned", r"1\) pwned"),
        ("-0.5 to 1. A", "-0.5 to 1. A"),
        ("1.5", "1.5"),
        ("--flag", r"\--flag"),
        ("a - b + c", "a - b + c"),
    ],
)
def test_a_line_of_markdown_begins_no_block(text, shown):
    assert escape(text) == shown


def test_an_unescaped_page_would_be_caught():
    assert "script" in Page(f"<pre>{HOSTILE[0]}</pre>").tags


def test_the_style_sheet_is_the_one_the_policy_allows(page):
    import base64
    import hashlib

    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page


def test_figures_carry_distinct_ids_and_no_style_attributes(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 10
    assert page.count("<svg ") == 2
    assert "style=" not in page


def test_the_numbers_in_the_report_are_those_of_the_comparison(page):
    found = comparison()
    text = Page(page).text
    for group in (found.overall, *found.subsets.values()):
        for cell in tables.cells(group):
            assert cell in text


@pytest.mark.parametrize("suffix", report.WRITERS)
def test_every_format_gives_the_same_bytes_again(tmp_path, suffix):
    for name in ("a", "b"):
        found = compared([comparison(), comparison("other", seed=1)])
        report.write(found, tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_the_same_run_lands_in_the_same_folder_whatever_its_names(tmp_path):
    hostile = compared([comparison("../../etc/passwd\n" + "x" * 300)])
    first, second = report.write_run(hostile, tmp_path), report.write_run(hostile, tmp_path)
    assert first == second
    assert first.parent.parent == tmp_path
    assert sorted(p.name for p in first.parent.iterdir()) == sorted(report.RUN_FILES)


def test_csv_text_cannot_act_as_a_formula_and_numbers_are_untouched():
    found = comparison("=cmd()")
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(compared([found])).decode())))
    assert {row["checkpoint"] for row in rows} == {"'=cmd()"}
    (margin,) = [r for r in rows if r["metric"] == "margin" and r["subset"] == ""]
    assert float(margin["value"]) == found.overall.estimates["margin"].value


def test_markdown_text_cannot_make_markup():
    text = tables.to_markdown(compared([comparison("a|b [x](y) <b> `c`\n# head")])).decode()
    row = next(line for line in text.splitlines() if line.startswith("| a"))
    assert "\\|" in row
    assert "\\[x\\]" in row
    assert "\\<b\\>" in row
    assert not any(line.startswith("# head") for line in text.splitlines())


def test_nothing_of_a_name_acts_on_a_terminal():
    text = tables.to_text(compared([comparison("\x1b]0;pwned\x07\x9b31m\u202e")]))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


@pytest.mark.parametrize(
    "name",
    [
        "::error::all is well",
        "  ::add-mask::x",
        "##vso[task.x]y",
        "##[group]",
        "n ##vso[task.x]y",
        "a ##[stop-commands]",
    ],
)
def test_no_name_is_a_command_of_a_ci_log(name):
    # a runner skips blanks before `::`, and finds `##[` anywhere in a line
    commands = re.compile(r"^\s*::|##(vso)?\[", re.MULTILINE)
    assert commands.search(name)
    text = tables.to_text(compared([comparison(name)]))
    assert not commands.search(text)
    assert re.sub(r"^\W*", "", name) in re.sub(r"\\u00..", lambda m: chr(int(m[0][2:], 16)), text)


def test_undefined_is_null_in_json_and_named_in_tables():
    found = comparison(texts=["one prompt"])
    margin = json.loads(report.to_json(compared([found])))["comparisons"][0]["estimates"]["margin"]
    assert margin["stderr"] is margin["low"] is margin["high"] is None
    assert "[undefined]" in tables.to_text(compared([found]))


def test_the_prompt_lines_hold_the_paired_table():
    found = comparison()
    lines = [json.loads(x) for x in report.to_prompt_lines(compared([found])).decode().splitlines()]
    assert [line["margin"] for line in lines] == found.table.margin.tolist()
    assert [line["prompt_id"] for line in lines] == found.table.prompt_id.tolist()


def test_largest_losses_and_wins_come_first():
    losses, wins = comparison().examples(3)
    margins = comparison().table.margin
    assert [e.row for e in losses] == np.argsort(margins)[: len(losses)].tolist()
    assert [e.row for e in wins] == np.argsort(-margins)[: len(wins)].tolist()


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.51, 0.7, "better"),
        (0.2, 0.49, "worse"),
        (0.4, 0.6, "not separable"),
        (None, None, "too few"),
    ],
)
def test_the_verdict_says_what_the_interval_supports(low, high, words):
    found = comparison()
    rate = dataclasses.replace(found.overall.estimates["win_rate"], low=low, high=high)
    overall = dataclasses.replace(
        found.overall, estimates={**found.overall.estimates, "win_rate": rate}
    )
    assert words in tables.sentence(dataclasses.replace(found, overall=overall))


@pytest.mark.parametrize("places", [1, 2])
def test_shares_of_160_prompts_are_rounded_as_the_exact_fractions_are(places):
    for wins in range(-160, 161):
        exact = round(Fraction(100 * wins, 160), places)  # a half goes to the even digit
        assert Fraction(tables.points(wins / 160, places)) == exact
        assert Fraction(tables.percent(wins / 160, places)) == exact
        assert tables.points(wins / 160, places)[0] in "+-"


def test_a_difference_is_one_number_in_every_table():
    # 102 of 160 more wins are 63.75 points; 100 * (102 / 160) is the double just below
    against = side("ref", np.zeros(160))
    comparisons = []
    for step, wins in enumerate((0, 102)):
        rewards = np.where(np.arange(160) < wins, 1.0, -1.0)
        comparisons.append(held(at(side("ab"[step], rewards), step), against))
    assert comparisons[1].overall.estimates["win_rate"].value == 0.6375
    found = compared(comparisons)
    ((_, cell, *_),) = tables.contrast_table(found)[1:]
    (said,) = tables.contrast_lines(found)
    (block,) = track_tables.blocks(track([comparisons], options=TrackOptions(window=1)))
    assert cell == "+63.8"
    assert ": +63.8 points on 160 prompts" in said
    assert block.table[-1][4] == "+63.8 (up to a)"


def test_an_end_of_an_interval_is_rounded_as_its_value_is():
    e = comparison().overall.estimates["win_rate"]
    ends = dataclasses.replace(e, value=0.6375, low=0.6375, high=0.6375)
    assert tables.rate(ends) == "63.8 % [63.8, 63.8]"
    assert tables.difference(ends) == "+63.8 [+63.8, +63.8]"


@pytest.mark.parametrize("undefined", [None, math.nan, math.inf])
def test_an_undefined_difference_is_no_number(undefined):
    assert tables.points(undefined) == "n/a"


def test_json_holds_a_lone_surrogate_as_an_escape_and_all_else_as_it_is():
    # no encoding has it, and a name read from somebody's JSON may
    written = json_document({"name": "\ud800ü\u2028", "n": None})
    assert written == '{\n  "name": "\\ud800ü\u2028",\n  "n": null\n}\n'.encode()
    assert json.loads(written) == {"name": "\ud800ü\u2028", "n": None}
    with pytest.raises(ValueError, match="JSON compliant"):
        json_document({"n": math.nan})


def test_every_reports_json_takes_a_lone_surrogate():
    found = comparison()
    named = dataclasses.replace(found, notices=("\ud800",))
    assert json.loads(report.to_json(compared([named])))["comparisons"][0]["notices"] == ["\ud800"]
