"""A check of a reward model as text, Markdown and JSON; computes nothing."""

from __future__ import annotations

from dataclasses import asdict

from evalkit.check import Checked, Finding
from evalkit.report.layout import Writers, escape, json_document, markdown_table
from evalkit.text import count, printable

SCHEMA_VERSION = 1


def headline(c: Checked) -> str:
    """One sentence: how much was found, and by how many checks."""
    found = count(len(c.findings), "finding") if c.findings else "no findings"
    if not c.conversations:
        refused = not any(f.here for f in c.findings)
        return (
            f"{c.name}: {found}; {'it is refused, and ' if refused else ''}nothing could be scored"
        )
    done = len(c.findings) + len(c.clean)
    return (
        f"{c.name}: {found} ({count(done, 'check')} on {count(c.conversations, 'conversation')}, "
        f"{count(len(c.inapplicable), 'check')} not applicable)"
    )


def to_text(c: Checked) -> str:
    """The findings, each with its code, number, what and fix; then what was not checked."""
    lines = [printable(headline(c))]
    for f in c.findings:
        lines += ["", f"{f.code}  {_number(f)}  {_whose(f)}"]
        lines += [f"  {printable(line.strip())}" for line in f.what.splitlines()]
        lines.append(f"  fix: {printable(f.fix)}")
    notes = _notes(c)
    return "\n".join([*lines, *([""] if notes else []), *map(printable, notes)]) + "\n"


def to_markdown(c: Checked) -> bytes:
    """The same as Markdown; text is escaped."""
    lines = [escape(printable(headline(c))), ""]
    if c.findings:
        rows = [[f.code, _number(f), _whose(f), _one_line(f.what), f.fix] for f in c.findings]
        head = ["code", "number", "whose rewards", "what", "fix"]
        lines += [*markdown_table([head, *(list(map(printable, row)) for row in rows)]), ""]
    lines += [f"- {escape(printable(note))}" for note in _notes(c)]
    return ("\n".join(lines).rstrip("\n") + "\n").encode()


def to_json(c: Checked) -> bytes:
    """Everything a program needs, as indented JSON, the same bytes on every run."""
    document = {"schema_version": SCHEMA_VERSION, **asdict(c), "exit_code": c.exit_code}
    return json_document(document)


def _number(f: Finding) -> str:
    return "not measurable" if f.number is None else f"{f.number:.4g} {f.unit}"


def _whose(f: Finding) -> str:
    return "evalkit's own rewards" if f.here else "others' rewards; evalkit is not affected"


def _notes(c: Checked) -> list[str]:
    skipped = [f"not applicable: {code}: {why}" for code, why in c.inapplicable.items()]
    lost = [f"{count(n, 'conversation')} without a reward: {why}" for why, n in c.unscored.items()]
    return [*skipped, *lost]


def _one_line(text: str) -> str:
    return " ".join(text.split())


WRITERS = Writers[Checked](
    {".json": to_json, ".md": to_markdown, ".txt": lambda c: to_text(c).encode()}
)
check_output, write = WRITERS.check, WRITERS.write
