"""Progress on stderr: share, time left, rows/s and tokens/s; a line every 30 s off a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

QUIET_SECONDS = 30.0


class Progress:
    """Counts rows and tokens.

    Args:
        tokens: In all.
        shown: Whether to show anything.
    """

    def __init__(self, tokens: int, shown: bool) -> None:  # noqa: FBT001 - the second of two
        self._tokens, self._shown = tokens, shown
        self._rows, self._done, self._said = 0, 0, 0
        self._start = self._told = time.monotonic()
        live = shown and sys.stderr.isatty()
        self._bar = tqdm(total=tokens, unit="tok", unit_scale=True, leave=False) if live else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._shown and self._rows > self._said:
            self._tell()

    def advance(self, rows: int, tokens: int) -> None:
        """Note that rows were scored."""
        self._rows += rows
        self._done += tokens
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._rows / (now - self._start):.1f} rows/s")
            self._bar.update(tokens)
        elif self._shown and now - self._told >= QUIET_SECONDS:
            self._told = now
            self._tell()

    def _tell(self) -> None:
        self._said = self._rows
        seconds = max(time.monotonic() - self._start, 1e-9)
        left = (self._tokens - self._done) * seconds / max(self._done, 1)
        sys.stderr.write(
            f"scored {self._rows:,} rows in {seconds:.1f} s: {self._rows / seconds:.1f} rows/s, "
            f"{self._done / seconds:,.0f} tokens/s"
            + (f", {left:.0f} s left" if self._done < self._tokens else "")
            + "\n"
        )
