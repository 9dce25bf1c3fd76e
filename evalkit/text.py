"""Text for people: counts, lists, hints, and nothing in it that acts on a terminal."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence

SHOWN = 20
CLIPPED = 60
EXAMPLE = 200
# what a CI log is obeyed for: `::error::…` at the start of a line, `##[…` and `##vso[…` anywhere
COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#(?:vso)?\[)", re.MULTILINE | re.IGNORECASE)
# C0, C1 and what reorders or hides text
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def printable(text: str, *, keep: str = "") -> str:
    r"""Text that is shown and does not act: control characters as `\uXXXX`.

    So is the first sign of what a CI runner would take for a command.

    Args:
        text: Any text.
        keep: Control characters to leave as they are, such as a line break.
    """
    shown = UNPRINTABLE.sub(lambda m: m[0] if m[0] in keep else f"\\u{ord(m[0]):04x}", text)
    return COMMAND.sub(lambda m: f"{m[1] or ''}\\u{ord(m[0][-1]):04x}", shown)


def count(n: int, noun: str) -> str:
    """A count with its noun: `1 prompt`, `2 prompts`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listing(items: Sequence[str], *, separator: str = ", ", shown: int = SHOWN) -> str:
    """The first items joined by `separator`, and how many more there are."""
    head = separator.join(items[:shown]) or "none"
    more = len(items) - shown
    return head if more <= 0 else f"{head}{separator}… and {more:,} more"


def by_kind(reasons: Iterable[tuple[str, str]]) -> list[str]:
    """Reasons grouped by what stands before their colon: how many of each, and the first of them.

    Args:
        reasons: A name for whatever has the reason, and the reason.
    """
    kinds: dict[str, list[str]] = {}
    for name, why in reasons:
        kinds.setdefault(why.partition(":")[0], []).append(printable(f"{name}: {why}"))
    return [
        f"{len(found):,} × {printable(kind)}, such as {found[0][:EXAMPLE]}"
        f"{'…' if len(found[0]) > EXAMPLE else ''}"
        for kind, found in kinds.items()
    ]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean: NAME?` for a close known name, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean: {close[0]}?" if close else ""


def first_line(error: BaseException) -> str:
    """What an error of another library says, without its further lines; its name if nothing."""
    said = (line.strip() for line in str(error).splitlines())
    return next(filter(None, said), type(error).__name__)


def clip(value: object) -> str:
    """A value as JSON, short enough for an error line."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (ValueError, RecursionError):
        text = repr(type(value))
    return text if len(text) <= CLIPPED else f"{text[:CLIPPED]}…"
