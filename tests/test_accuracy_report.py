"""What is written of an accuracy run: its own numbers, nothing made up, no text that acts."""

import csv
import dataclasses
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from evalkit.accuracy.result import (
    Accuracies,
    AccuracyTable,
    LengthBaseline,
    Margins,
    Part,
    Ranking,
    Score,
)
from evalkit.errors import InputError
from evalkit.formats.rewarded_layouts import RewardedRow
from evalkit.report import accuracy
from evalkit.report.accuracy import plots
from evalkit.report.accuracy.exports import KINDS, exports
from evalkit.reward_models.families import family
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.statistics.agreement import Agreement
from evalkit.statistics.calibration import Floor
from evalkit.statistics.intervals import Estimate
from evalkit.statistics.model_ranking import OverallDifference, OverallDifferences, SubsetTest
from evalkit.statistics.ranking import RankRanges
from evalkit.suites.definition import Data, Section, Subset, Suite

DATE = "2026-01-31T10:30:00Z"
UNDEFINED = Estimate(None, None, None, None, 0.95, 0, 0, "undefined")
HOSTILE = [
    "<script>window.pwned = 1</script>",
    "</title></table><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }} {% raw %}",
    "=cmd()|a [x](y) `c`\n# head",
    "a\u202eb\u200bc\u2028d\x1b[31me\x00f",
    "\\input{/etc/passwd} $x_1^2$ & 100 % #1 ~ {",
    "[5pt] *\\\\ \\end{tabular}",
]
SPEC = RewardModelSpec(
    name="org/a", path=Path(), family=family("sequence-classifier"), weights=("0" * 64,), config="",
    tokenizer="", template="{{ messages }}", dtype="bfloat16", max_length=10, overlong="error",
)  # fmt: skip


def share(right, n, width=0.0625, method="wilson"):
    """`right` of n rows; an interval with ends of its own, so that no two numbers are alike."""
    value = right / n
    return Estimate(value, value - width, value + width / 2, width / 4, 0.95, n, n, method)


def ahead(value, low, high):
    return Estimate(value, low, high, 0.01, 0.95, 10, 10, "t")


LEADS = {
    "better": ahead(0.25, 0.125, 0.375),
    "unsure": ahead(0.0625, -0.03125, 0.15625),
    "below": ahead(-0.0625, -0.15625, 0.03125),
    "worse": ahead(-0.25, -0.375, -0.125),
}


def score(right, n, *, ties=0, errors=0, truncated=0):
    strict, half = share(right, n), share(right + ties / 2, n, 0.03125, "logit-t")
    return Score(strict, half, n, ties, errors, truncated)


def part(right, n, weight=None, *, lead=None, note="", **counts):
    length = None
    if lead is not None:
        length = LengthBaseline(share(9, 16), share(5, 16), LEADS[lead])
    return Part(score(right, n, **counts), weight, length, note)


def suite_of(names=("Chat", "Safety", "easy", "hard", "refuse"), *, credit="strict", hub=None):
    chat, safety, *subsets = names
    data = Data("main", "hf://org/suite@v1#test" if hub is None else hub, None, False, "", {}, ())
    made = tuple(Subset(name, None, 1.0, "", "best", "main") for name in subsets)
    return Suite(
        name="my-suite", title="My suite", layout="pairs", credit=credit, pooled=False,
        source="", licence="", notes="", data=(data,), columns={},
        sections=(Section(chat, 2.0, made[:2]), Section(safety, 1.0, made[2:])), subsets=made,
        path="my-suite.toml",
    )  # fmt: skip


def row(row_id, rewards=(2.0, 1.0), subset="easy", texts=("right", "wrong")):
    return RewardedRow(row_id=row_id, subset=subset, rewards=rewards, where="f:1", texts=texts)


MARGINS = Margins(
    share(9, 8, method="t"), 0.1875, Floor(0.046875, 0.078125),
    Estimate(2.5, 2.25, 2.75, 0.125, 0.95, 40, 40, "t"),
)  # fmt: skip


def table_of(suite, name="org/a", *, spec=SPEC, shift=0, lead="better"):
    chat, safety = (section.name for section in suite.sections)
    easy, hard, refuse = (subset.name for subset in suite.subsets)
    return AccuracyTable(
        reward_model=name,
        spec=spec,
        overall=part(70 + shift, 96, lead=lead, ties=3, errors=2, truncated=1),
        sections={
            chat: part(40 + shift, 64, 2.0, lead="better", ties=3, errors=2),
            safety: part(30, 32, 1.0, truncated=1),
        },
        subsets={
            easy: part(30 + shift, 32, 1.0, lead="better"),
            hard: part(10, 32, 3.0, lead="worse", ties=3, errors=2, note="made of tricks"),
            refuse: part(30, 32, 1.0, truncated=1),
        },
        views={"single_game": share(11, 32)},
        margins=MARGINS,
        rows=(row("1"), row("2", (1.0, 1.0)), row("3", (math.nan, 1.0), "hard")),
        notices=("read with care",),
        signature=f"my-suite|{name}",
    )


def run_of(names=None, *, credit="strict", **settings):
    suite = suite_of(names, credit=credit) if names else suite_of(credit=credit)
    prompts = {("easy", "1"): "p1", ("easy", "2"): "p2", ("hard", "3"): "p3"}
    return Accuracies(suite, (table_of(suite, **settings),), None, prompts)


NAMES = ("org/a", "org/b", "org/c")


def ranking_of(names=NAMES, subset="hard"):
    pairs = (
        OverallDifference(0, 1, ahead(0.021, 0.003, 0.039), 50.5, 0.0215, 0.043),
        OverallDifference(0, 2, ahead(0.057, 0.031, 0.083), 61.5, 0.0007, 0.0021),
        OverallDifference(1, 2, Estimate(0.036, None, None, None, 0.95, 94, 1, "undefined"),
                          None, None, None),
    )  # fmt: skip
    share_ = np.array([[1.0, 0.566, math.nan], [0.566, 1.0, 0.75], [math.nan, 0.75, 1.0]])
    return Ranking(
        names=names,
        n=94,
        differences=OverallDifferences(np.array([0.71, 0.689, math.nan]), pairs, 0.95),
        ranks=RankRanges(
            np.array([1, 1, 3]), np.array([2, 2, 3]),
            np.array([[False, False, True]] * 2 + [[False] * 3]), ((0, 1), (2,)),
        ),
        subset_tests=(
            SubsetTest(subset, 0, 1, 32, 20, 3, 0.0005, 0.0015),
            SubsetTest(subset, 0, 2, 32, 9, 8, 1.0, 1.0),
            SubsetTest(subset, 1, 2, 0, 0, 0, None, None),
        ),
        agreement=Agreement(
            n=np.array([[94, 94, 0], [94, 94, 90], [0, 90, 94]]),
            share=share_,
            kappa=np.where(np.isnan(share_), math.nan, share_ - 0.25),
            unanimous=share(53, 94),
            accuracy_unanimous=share(41, 53),
            accuracy_contested=share(21, 41),
        ),
        left_out=("Ties",),
    )  # fmt: skip


def several(names=NAMES, suite=None):
    suite = suite or suite_of()
    leads = ("better", "unsure", "worse")
    tables = [
        table_of(suite, name, spec=SPEC if k == 0 else None, shift=-k, lead=leads[k])
        for k, name in enumerate(names)
    ]
    return Accuracies(suite, tuple(tables), ranking_of(names, suite.subsets[1].name), {})


class Page(HTMLParser):
    """Collects tags, attributes and the text a reader sees."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(page.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        self.text += " " * (tag == "td")

    def handle_data(self, data):
        self.text += data


def readable(run):
    """What people read, by format, without the escapes of Markdown."""
    return {
        "text": accuracy.to_text(run),
        "markdown": re.sub(r"\\(.)", r"\1", accuracy.to_markdown(run).decode()),
        "html": Page(accuracy.to_html(run)).text,
    }


# JSON


def test_the_contract_key_by_key():
    found = json.loads(accuracy.to_json(run_of()))
    assert set(found) == {"schema_version", "suite", "tables", "ranking", "exit_code"}
    assert (found["schema_version"], found["exit_code"]) == (1, 0)
    assert (found["suite"], found["ranking"]) == ("my-suite", None)
    (table,) = found["tables"]
    assert table["reward_model"] == "org/a"
    hard = {
        "strict": 10 / 32, "half_credit": 11.5 / 32,
        "low": 10 / 32 - 0.0625, "high": 10 / 32 + 0.03125,
        "n": 32, "ties": 3, "errors": 2, "truncated": 0, "weight": 3.0, "length_baseline": 9 / 16,
    }  # fmt: skip
    assert hard.items() <= table["subsets"]["hard"].items()
    assert list(table["sections"]) == ["Chat", "Safety"]
    assert list(table["subsets"]) == ["easy", "hard", "refuse"]
    assert table["sections"]["Chat"]["weight"] == 2.0
    overall = {"strict": 70 / 96, "half_credit": 71.5 / 96, "n": 96, "ties": 3, "errors": 2}
    assert overall.items() <= table["overall"].items()


def test_what_json_has_beside_the_contract():
    (table,) = json.loads(accuracy.to_json(run_of()))["tables"]
    hard = table["subsets"]["hard"]
    assert hard["longest"]["value"] == 9 / 16
    assert hard["shortest"]["value"] == 5 / 16
    assert hard["ahead_of_length"] == {"value": -0.25, "low": -0.375, "high": -0.125}
    assert hard["note"] == "made of tricks"
    assert hard["estimates"]["half_credit"]["method"] == "logit-t"
    assert table["credit"] == "strict"
    assert table["fingerprint"] == SPEC.fingerprint
    assert table["views"]["single_game"]["value"] == 11 / 32
    assert table["margins"]["floor"] == {"mean": 0.046875, "high": 0.078125}
    assert table["margins"]["calibration_error"] == 0.1875
    assert table["notices"] == ["read with care"]
    assert table["signature"] == "my-suite|org/a"


def test_the_interval_belongs_to_the_suites_own_credit():
    (table,) = json.loads(accuracy.to_json(run_of(credit="half-credit")))["tables"]
    value = 71.5 / 96
    assert (table["overall"]["low"], table["overall"]["high"]) == (
        value - 0.03125,
        value + 0.015625,
    )


def test_a_ranking_is_plain_lists_with_null_for_nan():
    found = json.loads(accuracy.to_json(several()))["ranking"]
    assert found["names"] == list(NAMES)
    assert found["differences"]["values"] == [0.71, 0.689, None]
    first, *_, last = found["differences"]["pairs"]
    assert (first["a"], first["b"], first["p_holm"]) == (0, 1, 0.043)
    assert first["estimate"]["value"] == 0.021
    assert last["p"] is last["p_holm"] is last["estimate"]["low"] is None
    assert found["ranks"]["best"] == [1, 1, 3]
    assert found["ranks"]["above"][0] == [False, False, True]
    assert found["ranks"]["groups"] == [[0, 1], [2]]
    assert found["agreement"]["share"][0] == [1.0, 0.566, None]
    assert found["agreement"]["n"][0] == [94, 94, 0]
    assert found["subset_tests"][2]["p"] is None
    assert found["left_out"] == ["Ties"]


def undefined_run():
    suite = suite_of()
    nothing = Part(Score(UNDEFINED, UNDEFINED, 0, 0, 32, 0), 1.0, None)
    unknown = LengthBaseline(UNDEFINED, UNDEFINED, UNDEFINED)
    table = dataclasses.replace(
        table_of(suite, spec=None),
        overall=dataclasses.replace(nothing, weight=None, length=unknown),
        sections={},
        subsets={"hard": nothing},
        views={"single_game": UNDEFINED},
        margins=Margins(UNDEFINED, math.nan, Floor(math.nan, math.nan), UNDEFINED),
        notices=(),
    )
    return Accuracies(suite, (table,), None, {})


def test_what_is_undefined_is_null_or_said_and_never_0():
    run = undefined_run()
    (table,) = json.loads(accuracy.to_json(run))["tables"]
    for name in ("strict", "half_credit", "low", "high", "length_baseline"):
        assert table["overall"][name] is table["subsets"]["hard"][name] is None
    assert table["fingerprint"] is table["margins"]["calibration_error"] is None
    assert table["views"]["single_game"]["value"] is None
    for text in readable(run).values():
        assert "no accuracy on My suite (0 rows with a verdict, 32 without)" in text
        assert "n/a" in text
        assert "0.0 %" not in text
        assert "nan" not in text.lower()
    cells = list(csv.DictReader(io.StringIO(accuracy.to_csv(run).decode())))
    assert {line["strict"] + line["half_credit"] + line["longest"] for line in cells} == {""}
    assert "0.0" not in accuracy.to_latex(run).decode()
    accuracy.WRITERS[".svg"](run)


# Numbers


def test_csv_has_every_number_in_full():
    lines = list(csv.DictReader(io.StringIO(accuracy.to_csv(several()).decode())))
    assert len(lines) == 3 * (1 + 2 + 3)
    (hard,) = [x for x in lines if (x["reward_model"], x["name"]) == ("org/b", "hard")]
    of = several().tables[1].subsets["hard"]
    assert hard["kind"] == "subset"
    for name, estimate in [
        ("strict", of.score.strict),
        ("half_credit", of.score.half_credit),
        ("longest", of.length.longest),
        ("shortest", of.length.shortest),
        ("ahead_of_length", of.length.ahead),
    ]:
        assert float(hard[name]) == estimate.value
        assert float(hard[f"{name}_low"]) == estimate.low
        assert float(hard[f"{name}_high"]) == estimate.high
        assert float(hard[f"{name}_stderr"]) == estimate.stderr
    assert (hard["n"], hard["ties"], hard["errors"], hard["weight"]) == ("32", "3", "2", "3.0")


def test_one_reward_model_has_a_row_a_part_with_the_overall_last():
    lines = accuracy.to_text(run_of()).splitlines()
    head = next(i for i, line in enumerate(lines) if "half credit  n" in line)
    body = lines[head + 1 : head + 7]
    assert [re.split(r"  +", line.strip())[0] for line in body] == [
        "Chat", "easy", "hard", "Safety", "refuse", "overall",
    ]  # fmt: skip
    assert [line.startswith("  ") for line in body] == [False, True, True, False, True, False]
    hard = re.split(r"  +", body[2].strip())
    assert hard == [
        "hard", "31.2 % [25.0, 34.4] *", "35.9 %", "32", "3", "2", "0", "56.2 %", "31.2 %",
        "-25.0 [-37.5, -12.5]", "3",
    ]  # fmt: skip
    assert re.split(r"  +", body[4].strip())[-5:] == ["1", "n/a", "n/a", "n/a", "1"]
    assert "strict credit: a tie is wrong" in lines[0]
    assert "half credit: a right answer among m" in accuracy.to_text(run_of(credit="half-credit"))


def test_every_reader_sees_the_same_cells():
    cells = [cell for line in accuracy.results(run_of()).table for cell in line]
    for text in readable(run_of()).values():
        assert all(cell.strip() in text for cell in cells)
    latex = accuracy.to_latex(run_of()).decode()
    assert all(accuracy.latex(cell.strip()) in latex for cell in cells)


def test_several_reward_models_are_columns_with_the_overall_first():
    head, overall, *rows = accuracy.results(several()).table
    assert head == ["", "n", *NAMES]
    assert overall == [
        "overall", "96", "72.9 % [66.7, 76.0]", "71.9 % [65.6, 75.0] *", "70.8 % [64.6, 74.0] *",
    ]  # fmt: skip
    by_name = {line[0].strip(): line for line in rows}
    assert by_name["overall: half credit"][2:] == ["74.5 %", "73.4 %", "72.4 %"]
    assert by_name["overall: ties"][2:] == ["3", "3", "3"]
    assert by_name["overall: errors"][2:] == ["2", "2", "2"]
    assert by_name["easy"] == [
        "  easy", "32", "93.8 % [87.5, 96.9]", "90.6 % [84.4, 93.8]", "87.5 % [81.2, 90.6]",
    ]  # fmt: skip


def test_a_part_that_one_reward_model_lacks_is_not_0():
    run = several()
    first, *others = run.tables
    part_of_it = {name: p for name, p in first.subsets.items() if name != "easy"}
    fewer = dataclasses.replace(part_of_it["hard"].score, n=30)
    part_of_it["hard"] = dataclasses.replace(part_of_it["hard"], score=fewer)
    tables = (dataclasses.replace(first, subsets=part_of_it), *others)
    rows = {
        line[0]: line for line in accuracy.results(dataclasses.replace(run, tables=tables)).table
    }
    assert rows["  easy"][1:3] == ["32", "n/a"]
    assert rows["  hard"][1] == "30–32"


# INF-ORM's counts on RewardBench; rounded twice they would be 96.7 and 93.7
@pytest.mark.parametrize(
    ("right", "n", "said"),
    [(346, 358, "96.6 %"), (693, 740, "93.6 %"), (415, 456, "91.0 %"), (102, 160, "63.8 %")],
)
def test_percentages_are_rounded_once(right, n, said):
    suite = suite_of()
    table = dataclasses.replace(table_of(suite), overall=part(right, n, lead="better"))
    for text in readable(Accuracies(suite, (table,), None, {})).values():
        assert f"accuracy {said}" in text


# Sentences


@pytest.mark.parametrize(
    ("lead", "words"),
    [
        ("better", "; better than the length-only baseline (longest 56.2 %, shortest 31.2 %) by"),
        ("unsure", "not better than the length-only baseline (longest 56.2 %, shortest 31.2 %): "
                   "above it, but not surely"),
        ("below", "not better than the length-only baseline (longest 56.2 %, shortest 31.2 %): "
                  "below it, but not surely"),
        ("worse", "not better than the length-only baseline (longest 56.2 %, shortest 31.2 %) but "
                  "worse, -25.0 [-37.5, -12.5] points"),
    ],
)  # fmt: skip
def test_a_reward_model_below_its_length_baseline_is_named(lead, words):
    run = run_of(lead=lead)
    for text in readable(run).values():
        sentence = next(line for line in text.splitlines() if "org/a: accuracy" in line)
        assert words in sentence
        assert "length: org/a: at or below the length-only baseline on hard" in text
        assert "* not surely better than picking by length alone" in text


def test_without_texts_nothing_is_said_of_length():
    suite = suite_of()
    table = table_of(suite, lead=None)
    table = dataclasses.replace(table, subsets={"refuse": table.subsets["refuse"]}, sections={})
    text = accuracy.to_text(Accuracies(suite, (table,), None, {}))
    assert "no length-only baseline to hold it against" in text
    assert "length: " not in text
    assert "* not surely" not in text


def test_the_lowest_subsets_are_named_where_there_are_more_than_three():
    names = ("Chat", "Safety", "easy", "hard", "refuse", "odd")
    suite = suite_of(names)
    table = table_of(suite_of())
    table = dataclasses.replace(table, subsets={**table.subsets, "odd": part(1, 2, 1.0)})
    text = accuracy.to_text(Accuracies(suite, (table,), None, {}))
    lowest = next(line for line in text.splitlines() if line.startswith("lowest: "))
    assert re.findall(r"(\w+) [\d.]+ %", lowest) == ["hard", "odd", "easy"]
    assert "lowest: " not in accuracy.to_text(run_of())


def test_margins_are_held_against_a_coin_and_against_sampling():
    for text in readable(run_of()).values():
        assert "log loss of σ(margin) 1.125 [1.062, 1.156], worse than a coin's 0.693" in text
        assert "calibration error 0.188 (of sampling alone 0.047, upper end 0.078)" in text
        assert "scaled Bradley-Terry loss 2.500 [2.250, 2.750]" in text
        assert "views: org/a: single game 34.4 % [28.1, 37.5]" in text


def test_a_ranking_says_no_more_than_its_tests():
    for text in readable(several()).values():
        flat = re.sub(r"[\s|]+", " ", text)
        assert "the first place is shared by org/a, org/b: not separable" in flat
        assert "then: org/c" in flat
        assert "1–2 org/a 71.0 %" in flat
        assert "3–3 org/c n/a" in flat
        assert "org/a − org/b +2.1 [+0.3, +3.9] 0.021 0.043" in flat
        assert "org/b − org/c +3.6 [undefined] n/a n/a" in flat
        assert "1 of 3 tests significant at 5 %" in flat
        assert "hard: org/a alone is right on 20, org/b alone on 3 of 32 rows" in flat
        assert "56.6 % (0.32)" in flat
        assert "same verdict on 56.4 %" in flat
        assert "on 94 rows with a verdict of all of them; without Ties" in flat


def test_notes_and_signatures_come_last():
    *_, care, tricks, signature = accuracy.to_text(run_of()).splitlines()
    assert care == "note: read with care"
    assert tricks == "note: hard: made of tricks"
    assert signature == "signature: my-suite|org/a"


# Texts of others


def hostile_run():
    suite = suite_of(HOSTILE[:5])
    suite = dataclasses.replace(suite, title=HOSTILE[6], notes=HOSTILE[0], source=HOSTILE[1])
    names = (HOSTILE[3], HOSTILE[5], HOSTILE[6])
    run = several(names, suite)
    tables = [dataclasses.replace(t, notices=(HOSTILE[4], HOSTILE[0])) for t in run.tables]
    return dataclasses.replace(run, tables=tuple(tables))


CONTROL = "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028\u202e]"


@pytest.mark.parametrize("single", [True, False], ids=["one", "several"])
def test_nothing_of_a_name_acts(single):
    run = hostile_run()
    if single:
        run = dataclasses.replace(run, tables=run.tables[:1], ranking=None)
    for write in (accuracy.to_markdown, accuracy.to_latex, accuracy.to_html):
        assert not re.search(CONTROL, write(run).decode())
    assert not re.search(CONTROL, accuracy.to_text(run))
    markdown = accuracy.to_markdown(run).decode()
    assert not re.search(r"(?<!\\)<", markdown)
    assert "\\<script\\>" in markdown
    assert not any(line.startswith("#") for line in markdown.splitlines())
    page = accuracy.to_html(run)
    found = Page(page)
    assert not {"script", "img"} & set(found.tags)
    assert not [a for a in found.attributes if a[1].startswith("on") or a[1] in {"src", "style"}]
    links = [value for _, key, value in found.attributes if key in {"href", "xlink:href"}]
    assert all(link.startswith("#") for link in links)
    assert HOSTILE[0] in found.text
    assert HOSTILE[2] in found.text
    assert "default-src 'none'" in page.decode()
    cells = csv.reader(io.StringIO(accuracy.to_csv(run).decode()))
    assert not any(cell.startswith("=") for line in cells for cell in line)


def test_latex_sets_names_and_does_not_run_them():
    assert accuracy.latex(r"a_b & c% #1 $x$ {y} \z ~^ <>|") == (
        r"a\_b \& c\% \#1 \$x\$ \{y\} \textbackslash{}z \textasciitilde{}\textasciicircum{} "
        r"\textless{}\textgreater{}\textbar{}"
    )
    assert accuracy.latex("[5pt]") == "{[}5pt]"  # after a row's \\ it would be a skip
    assert accuracy.latex("* star") == "{*} star"
    lines = accuracy.to_latex(hostile_run()).decode().splitlines()
    body = [line for line in lines if not line.startswith("%")]
    assert sum(line.count(r"\end{tabular}") for line in body) == 1
    rows = [line for line in body if line.endswith(r" \\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {4}
    commands = set(re.findall(r"\\([a-zA-Z]+)", "\n".join(body)))
    assert commands <= {
        "begin", "end", "centering", "caption", "toprule", "midrule", "bottomrule", "quad",
        "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar",
    }  # fmt: skip


# Files


@pytest.mark.parametrize("suffix", accuracy.WRITERS)
def test_every_format_gives_the_same_bytes_again(tmp_path, suffix):
    for name in ("a", "b"):
        accuracy.write(several(), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes() != b""


def test_an_output_is_refused_before_any_work(tmp_path):
    with pytest.raises(InputError, match=r"unknown suffix '\.txt'"):
        accuracy.check_output(tmp_path / "a.txt")
    with pytest.raises(InputError, match="no folder"):
        accuracy.check_output(tmp_path / "none" / "a.md")


def test_the_page_has_figures_with_distinct_ids_and_no_style_attributes():
    page = accuracy.to_html(several()).decode()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 10
    assert "style=" not in page
    assert page.index('class="verdict"') < page.index("<table>") < page.index("<svg")


def test_the_page_says_how_it_was_made():
    whole = Page(accuracy.to_html(several())).text
    text = whole[whole.index("Accuracy on My suite: org/a") :]
    assert text.index("org/a: accuracy") < text.index("strict credit: a tie is wrong")
    assert "Here with strict credit: a tie is wrong, as the suite's published numbers" in text
    assert "Overall: Wilson's score interval; " in text
    assert "nothing stands in for them: no 0, no ½" in text
    assert "weighted mean of the sections" in text
    assert "Cohen's: agreement" in text
    assert SPEC.fingerprint in text
    assert "org/b: rewards as given" in text
    assert text.index("Note: read with care") < text.index("my-suite|org/c")
    assert "Cohen" not in Page(accuracy.to_html(run_of())).text


def test_the_figure_shows_each_estimate_and_each_baseline():
    (axes,) = plots.forest(run_of()).axes
    points = {
        (line.get_marker(), float(line.get_xdata()[0]))
        for line in axes.lines
        if len(line.get_xdata()) == 1
    }
    assert ("o", 100 * (70 / 96)) in points
    assert ("o", 100 * (10 / 32)) in points
    assert ("|", 100 * (9 / 16)) in points
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels[:3] == ["overall (96)", "▸ Chat (64)", "easy (32)"]


def test_more_reward_models_than_markers_are_not_drawn_alike():
    suite = suite_of()
    tables = tuple(table_of(suite, f"m{k}") for k in range(10))
    (axes,) = plots.forest(Accuracies(suite, tables, None, {})).axes
    assert axes.get_title() == "the first 8 of 10 reward models"
    looks = {
        (line.get_color(), line.get_marker(), line.get_markerfacecolor())
        for line in axes.lines
        if str(line.get_label()).startswith("m")
    }
    assert len(looks) == 8


# Exports


def test_exports_hold_one_reward_model():
    for kind in KINDS:
        with pytest.raises(InputError, match="holds one reward model, this run has 3") as error:
            exports(several(), kind, DATE)
        assert "org/a, org/b, org/c" in str(error.value)
    with pytest.raises(InputError, match="no export 'hup'"):
        exports(run_of(), "hup", DATE)


def test_rewardbench_outputs_have_the_prompts():
    lines = [json.loads(x) for x in exports(run_of(), "rewardbench-outputs", DATE).splitlines()]
    assert [line["prompt"] for line in lines] == ["p1", "p2", "p3"]
    assert [line["results"] for line in lines] == [1, 0, None]
    run = dataclasses.replace(run_of(), prompts={("easy", "1"): "p1"})
    with pytest.raises(InputError, match="prompts of 2 rows of 3 are not known"):
        exports(run, "rewardbench-outputs", DATE)


@pytest.mark.parametrize(
    ("spec", "kind", "template"),
    [(SPEC, "Seq. Classifier", "{{ messages }}"), (None, "unknown", "unknown")],
)
def test_rewardbench_scores_say_what_is_known_of_the_model(spec, kind, template):
    found = json.loads(exports(run_of(spec=spec), "rewardbench-scores", DATE))
    assert found["scores_chosen"] == [2.0, 1.0, None]
    assert (found["model"], found["model_type"]) == ("org/a", kind)
    assert found["chat_template"] == template


def test_the_hub_gets_the_suites_own_credit_with_its_interval():
    run = run_of(credit="half-credit")
    entries = parse_eval_result_entries(yaml.safe_load(exports(run, "hub", DATE)))
    found = {entry.task_id: entry for entry in entries}
    assert list(found) == ["overall", "Chat", "easy", "hard", "Safety", "refuse"]
    hard = found["hard"]
    assert hard.value == 11.5 / 32
    assert (hard.dataset_id, hard.dataset_revision, hard.date) == ("org/suite", "v1", DATE)
    assert "95 % CI [0.3281, 0.3750], n = 32" in hard.notes
    assert "half credit" in hard.notes
    assert "of all rows ties 3, errors 2, truncated 1" in hard.notes
    assert "my-suite|org/a" in hard.notes


def test_the_hub_keeps_other_data_sets_apart():
    run = run_of()
    other = Data("prior", "hf://org/prior", None, True, "", {}, ())
    *subsets, refuse = run.suite.subsets
    refuse = dataclasses.replace(refuse, data="prior")
    chat, safety = run.suite.sections
    suite = dataclasses.replace(
        run.suite,
        data=(*run.suite.data, other),
        subsets=(*subsets, refuse),
        sections=(chat, dataclasses.replace(safety, subsets=(refuse,))),
    )
    entries = parse_eval_result_entries(
        yaml.safe_load(exports(dataclasses.replace(run, suite=suite), "hub", DATE))
    )
    assert {e.task_id for e in entries if e.dataset_id == "org/prior"} == {"Safety", "refuse"}


def test_a_subset_named_as_its_section_keeps_an_id_of_its_own():
    run = run_of(("Chat", "Safety", "easy", "hard", "Safety"))
    entries = parse_eval_result_entries(yaml.safe_load(exports(run, "hub", DATE)))
    ids = [entry.task_id for entry in entries]
    assert ids == ["overall", "Chat", "easy", "hard", "Safety", "subset: Safety"]


def test_the_hub_needs_a_data_set_and_a_value():
    suite = suite_of(hub="")
    run = Accuracies(suite, (table_of(suite),), None, {})
    with pytest.raises(InputError, match="on no Hub"):
        exports(run, "hub", DATE)
    with pytest.raises(InputError, match="no accuracy has a value"):
        exports(undefined_run(), "hub", DATE)


def test_every_eval_ever_has_each_part_with_its_uncertainty():
    record = json.loads(
        exports(run_of(), "every-eval-ever", DATE, organization="us", relationship="first_party")
    )
    results = {r["evaluation_name"]: r for r in record["evaluation_results"]}
    assert list(results) == [
        "my-suite", "my-suite/Chat", "my-suite/easy", "my-suite/hard", "my-suite/Safety",
        "my-suite/refuse",
    ]  # fmt: skip
    hard = results["my-suite/hard"]["score_details"]
    assert hard["score"] == 10 / 32
    assert hard["uncertainty"]["num_samples"] == 32
    assert hard["uncertainty"]["confidence_interval"]["lower"] == 10 / 32 - 0.0625
    assert results["my-suite"]["metric_config"]["metric_id"] == "my-suite.overall"
    assert results["my-suite/hard"]["metric_config"]["metric_id"] == "accuracy"
    assert results["my-suite"]["source_data"]["hf_repo"] == "org/suite"
    assert record["source_metadata"]["source_organization_name"] == "us"
    assert record["source_metadata"]["evaluator_relationship"] == "first_party"
    assert record["model_info"]["additional_details"]["fingerprint"] == SPEC.fingerprint


def test_a_ties_score_has_its_own_bounds():
    run = run_of()
    subsets = tuple(dataclasses.replace(s, rule="ties") for s in run.suite.subsets)
    suite = dataclasses.replace(run.suite, subsets=subsets)
    record = json.loads(exports(dataclasses.replace(run, suite=suite), "every-eval-ever", DATE))
    by_name = {r["evaluation_name"]: r["metric_config"] for r in record["evaluation_results"]}
    hard = by_name["my-suite/hard"]
    assert (hard["min_score"], hard["max_score"]) == (-0.01, 1.01)
    assert hard["metric_id"] == "my-suite.hard"


@pytest.mark.parametrize("kind", KINDS)
def test_exports_give_the_same_bytes_again(kind):
    assert exports(run_of(), kind, DATE) == exports(run_of(), kind, DATE)
