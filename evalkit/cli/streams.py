"""Standard output and error of a command that goes on when nobody hears it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, TextIO

from evalkit.errors import InputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def heard(stream: TextIO | None) -> TextIO | None:
    """The stream, silent once its reader has gone (`evalkit … | head`): files and exit code stand.

    Raises, on a write:
        InputError: It cannot be written, as on a full disk.
    """
    if stream is None:  # closed before we began
        return None
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), "wb", closefd=False)),
        stream.encoding,
        stream.errors,
        line_buffering=bool(stream.line_buffering),
    )


class _Output(io.FileIO):
    lost = False

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return memoryview(data).nbytes if self.lost else super().write(data)
        except BrokenPipeError:
            self.lost = True
            return memoryview(data).nbytes
        except OSError as error:
            self.lost = True
            raise InputError(
                f"the output cannot be written: {error.strerror}",
                fix="free disk space, or send it elsewhere",
            ) from None
