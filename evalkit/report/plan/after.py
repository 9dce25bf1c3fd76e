"""What would settle an undecided gate, as text, Markdown and JSON."""

from __future__ import annotations

from dataclasses import asdict

from evalkit.plan import Settlement
from evalkit.report.layout import Writers, escape, json_document, markdown_signature
from evalkit.report.plan.tables import explained, headline
from evalkit.text import printable

SCHEMA_VERSION = 1


def to_text(found: Settlement) -> str:
    """The headline, then each undecided rule with why and what would settle it."""
    lines = [headline(found)]
    for u in found.undecided:
        lines += ["", u.judged.name, *(f"  {line}" for line in explained(u))]
    lines += ["", f"signature: {found.signature}"]
    return "".join(f"{printable(line)}\n" for line in lines)


def to_markdown(found: Settlement) -> bytes:
    """The same as Markdown; text is escaped."""
    lines = [f"**{escape(headline(found))}**", ""]
    for u in found.undecided:
        lines += [f"- {escape(printable(u.judged.name))}"]
        lines += [f"  - {escape(printable(line))}" for line in explained(u)]
    return ("\n".join([*lines, "", markdown_signature(found.signature)]) + "\n").encode(
        errors="backslashreplace"
    )


def to_json(found: Settlement) -> bytes:
    """Everything the settlement holds; rates are fractions, undefined values null."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "rules": found.rules,
        "failed": found.failed,
        "level": found.level,
        "undecided": [
            {
                "rule": u.judged.name,
                "cause": u.cause,
                "feasible": u.feasible,
                "distance": u.distance,
                "half_width": u.half_width,
                "prompts": u.judged.n_needed,
                "instead": [x._asdict() for x in u.instead],
                "floor": u.floor,
                "absent": u.absent or None,
                "judged": asdict(u.judged),
            }
            for u in found.undecided
        ],
        "signature": str(found.signature),
    }
    return json_document(document)


WRITERS = Writers[Settlement]({".json": to_json, ".md": to_markdown})
check_output, write = WRITERS.check, WRITERS.write
