"""Standard output and error of a command that goes on when nobody hears it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, TextIO

from evalkit.errors import InputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def heard(stream: TextIO | None, *, needed: bool) -> TextIO | None:
    """The stream, silent once its reader has gone (`evalkit … | head`): files and exit code stand.

    Args:
        stream: None if it was closed before we began.
        needed: Whether results go there: what else cannot be written then, as on a full disk, is
            an InputError. Nobody can be told of a log that takes nothing.
    """
    if stream is None:
        return None
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), needed=needed)),
        stream.encoding,
        stream.errors,
        line_buffering=bool(stream.line_buffering),
    )


class _Output(io.FileIO):
    def __init__(self, descriptor: int, *, needed: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.needed, self.lost = needed, False

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return memoryview(data).nbytes if self.lost else super().write(data)
        except OSError as error:
            self.lost = True
            if not self.needed or isinstance(error, BrokenPipeError):
                return memoryview(data).nbytes
            raise InputError(
                f"the output cannot be written: {error.strerror}",
                fix="free disk space, or send it elsewhere",
            ) from None
