"""A verdict as text, JSON, Markdown and JUnit XML: four projections of one object."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree as ET

from evalkit.gate import SEVERITY, Judged, Verdict
from evalkit.report.layout import Block, Writers, aligned, escape, json_document
from evalkit.statistics.gates import State
from evalkit.text import count, printable

SCHEMA_VERSION = 1
WORDS: dict[State, str] = {"pass": "passed", "fail": "failed", "inconclusive": "inconclusive"}
MARKDOWN_BYTES = 900_000  # GitHub takes 1 MiB of step summary, and drops one that is larger
CELL = 300  # characters
ANNOTATIONS = 10  # GitHub shows no more of a step
ANNOTATED = 1_000  # characters
UNLAWFUL = re.compile("[\ufffe\uffff]")  # in XML; control characters are escaped before


def headline(verdict: Verdict) -> str:
    """The verdict on one line: `gate failed: of 3 rules 1 failed, 2 passed; exit code 3`.

    A level other than 95 % is said: `gate failed at 80 %: …`.
    """
    rules = len(verdict.judged)
    parts = [f"{verdict.number_of(s)} {WORDS[s]}" for s in ("fail", "inconclusive", "pass")]
    kept = [part for part in parts if not part.startswith("0 ")]
    level = "" if verdict.level == 0.95 else f" at {100 * verdict.level:.12g} %"
    return (
        f"gate {WORDS[verdict.state]}{level}: of {count(rules, 'rule')} {', '.join(kept)}; "
        f"exit code {verdict.exit_code}"
    )


def to_text(verdict: Verdict) -> str:
    """The headline and a line for each rule, for a terminal."""
    return "\n".join([headline(verdict), *aligned(rows(verdict))]) + "\n"


def rows(verdict: Verdict) -> list[list[str]]:
    """State, rule and reason of each rule, for a table."""
    return [[_word(j), printable(j.name), printable(j.reason)] for j in verdict.judged]


def gated(verdict: Verdict | None) -> list[Block]:
    """The verdict as a topic of a result that was judged; nothing where no gate was asked."""
    if verdict is None:
        return []
    return [Block(headline(verdict), [["state", "rule", "reason"], *rows(verdict)], [])]


def to_json(verdict: Verdict) -> bytes:
    """The document as indented JSON."""
    return json_document(document(verdict))


def document(verdict: Verdict) -> dict[str, Any]:
    """Everything the verdict holds; undefined numbers are null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "state": verdict.state,
        "exit_code": verdict.exit_code,
        "level": verdict.level,
        "inconclusive": verdict.inconclusive,
        "judged": [asdict(j) for j in verdict.judged],
    }


def github_annotations(verdict: Verdict) -> list[str]:
    """Lines by which GitHub Actions marks what did not pass, worst first, at most 10.

    What fails the command is an error, else a notice. All text is behind `::error` or `::notice`
    and escaped, so that no name can begin a command of its own.
    """
    worst_first = sorted(verdict.judged, key=lambda j: SEVERITY.index(j.state), reverse=True)
    unpassed = [j for j in worst_first if j.state != "pass"]
    shown = unpassed if len(unpassed) <= ANNOTATIONS else unpassed[: ANNOTATIONS - 1]
    kinds = ["error" if _fails(j, verdict) else "notice" for j in unpassed]
    lines = [
        _annotation(kind, f"{_word(j)} {j.name}: {j.reason}")
        for kind, j in zip(kinds, shown, strict=False)
    ]
    if more := unpassed[len(shown) :]:
        text = f"{count(len(more), 'more rule')} did not pass; {headline(verdict)}"
        lines.append(_annotation(kinds[len(shown)], text))  # worst first
    return lines


def _fails(j: Judged, verdict: Verdict) -> bool:
    """Whether a rule moves the exit code."""
    return j.state == "fail" or (j.state == "inconclusive" and verdict.inconclusive == "fail")


def _annotation(kind: str, text: str) -> str:
    shown = _encoded(printable(text)).decode()
    cut = shown if len(shown) <= ANNOTATED else f"{shown[:ANNOTATED]}…"
    return f"::{kind} title=evalkit gate::{cut.replace('%', '%25')}"


def to_markdown(verdict: Verdict, *, most: int = MARKDOWN_BYTES) -> bytes:
    """A table for a step summary or a comment, worst rules first.

    No text of the result stands at the beginning of a line, and none of it acts as markup.

    Args:
        verdict: What to lay out.
        most: Bytes; rules that do not fit are counted instead.
    """
    worst_first = sorted(verdict.judged, key=lambda j: SEVERITY.index(j.state), reverse=True)
    head = f"**{headline(verdict)}**\n\n| state | rule | reason |\n| --- | --- | --- |\n"
    room = most - len(head.encode()) - 100  # for the line that counts the rest
    rows: list[str] = []
    for j in worst_first:
        row = f"| {_word(j)} | {_cell(j.name)} | {_cell(j.reason)} |\n"
        room -= len(_encoded(row))
        if room < 0:
            break
        rows.append(row)
    more = len(worst_first) - len(rows)
    rest = f"\n… and {more:,} more in the JSON\n" if more else ""
    return _encoded(head + "".join(rows) + rest)


def to_junit(verdict: Verdict) -> bytes:
    """JUnit XML, a test case for each rule.

    What is inconclusive is a failure if the policy says so, else skipped.
    """
    failures = sum(_fails(j, verdict) for j in verdict.judged)
    skipped = len(verdict.judged) - failures - verdict.number_of("pass")
    counts = {"tests": len(verdict.judged), "failures": failures, "errors": 0, "skipped": skipped}
    totals = {name: str(number) for name, number in counts.items()}
    root = ET.Element("testsuites", totals)
    suite = ET.SubElement(root, "testsuite", {"name": "evalkit gate", **totals})
    for j in verdict.judged:
        about = {"classname": "evalkit.gate", "name": _xml(j.name)}
        case = ET.SubElement(suite, "testcase", about)
        if _fails(j, verdict):
            said = {"message": _xml(j.reason), "type": j.state}
            ET.SubElement(case, "failure", said).text = _xml(j.reason)
        elif j.state == "inconclusive":
            ET.SubElement(case, "skipped", {"message": _xml(j.reason)})
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    return _encoded(f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n')


def _word(j: Judged) -> str:
    return j.state.upper()


def _cell(text: str) -> str:
    shown = printable(text)
    return escape(shown if len(shown) <= CELL else f"{shown[:CELL]}…")


def _xml(text: str) -> str:
    return UNLAWFUL.sub("�", printable(text))


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # lone surrogates, which names may hold


WRITERS = Writers[Verdict]({".json": to_json, ".md": to_markdown, ".xml": to_junit})
check_output, write = WRITERS.check, WRITERS.write
