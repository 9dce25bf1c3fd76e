"""A metric card as Markdown and JSON; computes nothing."""

from __future__ import annotations

from evalkit.card import Card
from evalkit.report.card.document import to_json
from evalkit.report.card.markdown import to_markdown
from evalkit.report.layout import Writers

__all__ = ["WRITERS", "check_output", "to_json", "to_markdown", "write"]

WRITERS = Writers[Card]({".md": to_markdown, ".json": to_json})
check_output, write = WRITERS.check, WRITERS.write
