"""JSON without surprises: standard JSON only, each value exactly what was written.

The standard library's parser keeps the last of two equal keys, reads NaN and 1e999, and lets half
a surrogate pair through; pandas and pyarrow retype "00123" and "2024-01-01". Here all of these
are faults. Raw control characters inside strings (NUL among them) are let through unchanged.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_DIGITS = 19
SURROGATE = re.compile("[\ud800-\udfff]")
ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class ProblemError(ValueError):
    """A value that strict JSON refuses.

    Attributes:
        field: Where in the value, if that is known.
        end: The place after the value, if reading can go on from there.
        place: Where the text stops being JSON, if it does.
    """

    def __init__(self, what: str, field: str = "") -> None:
        super().__init__(what)
        self.field = field
        self.end: int | None = None
        self.place: int | None = None


class Decoder:
    """Decodes one value at a time and remembers what a lenient parser would have let through."""

    def __init__(self) -> None:
        self._problems: list[ProblemError] = []
        self._json = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_constant=self._constant,
            parse_float=self._float,
            parse_int=self._int,
            strict=False,
        )

    def decode(self, text: str, start: int = 0) -> tuple[Any, int]:
        """The value at `start` and the place after it.

        Raises:
            ProblemError: It is no JSON, or JSON with one of the faults above.
        """
        self._problems.clear()
        try:
            value, end = self._json.raw_decode(text, start)
            if ESCAPED_SURROGATE.search(text, start, end):
                self._surrogates(value, "")
        except json.JSONDecodeError as error:
            column = error.pos - text.rfind("\n", 0, error.pos)
            problem = ProblemError(f"is not JSON: {error.msg} (column {column})")
            problem.place = error.pos
            raise problem from None
        except RecursionError:
            raise ProblemError("is nested too deeply") from None
        if self._problems:
            problem = self._problems[0]
            problem.end = end
            raise problem
        return value, end

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated = next(key for key in keys if keys.count(key) > 1)
            self._problems.append(ProblemError("is given twice", repeated))
        return found

    def _constant(self, text: str) -> None:
        self._problems.append(ProblemError(f"holds {text}, which is no JSON number"))

    def _float(self, text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            self._problems.append(ProblemError(f"holds {text[:30]}, which no double can hold"))
        return value

    def _int(self, text: str) -> int:
        if len(text.lstrip("-")) > MAX_DIGITS or not -(2**63) <= int(text) < 2**63:
            self._problems.append(ProblemError(f"holds {text[:30]}, an integer beyond 64 bits"))
            return 0
        return int(text)

    def _surrogates(self, value: object, path: str) -> None:
        if isinstance(value, str) and SURROGATE.search(value):
            self._problems.append(ProblemError("holds half a surrogate pair", path))
        elif isinstance(value, dict):
            for key, item in value.items():
                self._surrogates(key, path)
                self._surrogates(item, f"{path}.{key}" if path else key)
        elif isinstance(value, list):
            for i, item in enumerate(value):
                self._surrogates(item, f"{path}[{i}]")
