r"""Where records come from: JSON Lines, a JSON array, a completion-set folder, a data set.

Files are read as bytes and split at `\n` only: `str.splitlines` would also split inside strings,
at U+2028 and U+0085.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from evalkit.errors import Fault, InputError
from evalkit.formats import datasets
from evalkit.formats.fields import Record
from evalkit.strict_json import Decoder, ProblemError
from evalkit.text import clip, did_you_mean

Bytes = IO[bytes] | gzip.GzipFile

BOM = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
SPACE = " \t\r\n"
MAX_LINE = 16 * 2**20  # bytes; a completion of millions of tokens is a mistake
MAX_ARRAY = 2**30  # bytes; a JSON array is held in memory as a whole
BOMB_BYTES, BOMB_RATIO = 256 * 2**20, 100  # text packs 3 to 10 times


def records(source: str, faults: list[Fault]) -> Iterator[Record]:
    """Every record of `source` that is a JSON object; the others become faults.

    Raises:
        InputError: `source` does not exist or is not readable.
    """
    if datasets.is_hub(source):
        yield from datasets.records(source)
        return
    path = Path(source)
    if path.is_dir():
        inside = path / "completions.jsonl"
        if not inside.exists():
            yield from datasets.records(source)
            return
        path = inside
    if path.suffix == ".parquet" and path.is_file():
        yield from datasets.records(source)
        return
    if path.suffix == ".csv" and path.is_file():
        yield from _table(path, faults)
        return
    with _open(path) as file:
        head = file.read(3)
        file.seek(0)
        if head == BOM:
            file.read(3)
        start = file.tell()
        is_array = _first_byte(file) == b"["
        file.seek(start)
        yield from _array(path, file, faults) if is_array else _lines(path, file, faults)


def document(source: str, faults: list[Fault]) -> Record | None:
    """The JSON object that a file is as a whole, if its first line opens it and no more.

    Returns:
        None if the file holds anything else, or if the object is faulty.

    Raises:
        InputError: `source` does not exist or is not readable.
    """
    path = Path(source)
    if datasets.is_hub(source) or path.is_dir() or path.suffix in {".parquet", ".csv"}:
        return None
    with _open(path) as file:
        head = file.readline(MAX_LINE).removeprefix(BOM)
        if head.strip() != b"{":
            return None
        text = _whole(path, file, head, faults)
    if text is None:
        return None
    try:
        value, end = Decoder().decode(text, text.index("{"))
        if rest := text[end:].strip(SPACE):
            problem = ProblemError(f"has text after the object: {clip(rest)}")
            problem.place = text.index(rest, end)
            raise problem
    except ProblemError as problem:
        line = text.count("\n", 0, problem.place or 0) + 1
        faults.append(_fault(f"{path}:{line}", problem))
        return None
    return Record(f"{path}:1", value)


def _table(path: Path, faults: list[Fault]) -> Iterator[Record]:
    """The rows of a CSV file with a header; every value is text, an empty one is none."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) < len(header) or "" in header:
                faults.append(Fault(f"{path}:1", "", "the header has an empty or repeated name"))
                return
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if len(row) == len(header):
                    values = zip(header, row, strict=True)
                    yield Record(where, {k: v if v else None for k, v in values})
                elif row:
                    what = f"has {len(row)} values under {len(header)} names"
                    faults.append(Fault(where, "", what))
        except (csv.Error, UnicodeDecodeError) as error:
            faults.append(Fault(f"{path}:{reader.line_num}", "", f"is no CSV: {error}"))


def _open(path: Path) -> Bytes:
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path()
        hint = did_you_mean(path.name, [p.name for p in folder.iterdir()])
        raise InputError(f"no such file: {path}", fix=f"check the path. {hint}".strip())
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", fix="check its mode") from None
    if file.read(2) == GZIP:
        file.close()
        _check_gzip(path)
        return gzip.open(path, "rb")
    file.seek(0)
    return file


def _check_gzip(path: Path) -> None:
    """Unpack once without keeping anything: damage and bombs are refused before any record."""
    unpacked, packed = 0, path.stat().st_size
    try:
        with gzip.open(path, "rb") as file:
            while block := file.read(2**20):
                unpacked += len(block)
                if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * packed:
                    raise InputError(
                        f"{path} unpacks to more than {BOMB_RATIO} times its size",
                        fix="unpack it yourself if that is right",
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged gzip: {error}", fix="fetch or pack it again") from None


def _first_byte(file: Bytes) -> bytes:
    while (byte := file.read(1)).isspace():
        pass
    return byte


def _lines(path: Path, file: Bytes, faults: list[Fault]) -> Iterator[Record]:
    decoder = Decoder()
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        where = f"{path}:{number}"
        if len(line) > MAX_LINE:
            faults.append(Fault(where, "", f"the line is longer than {MAX_LINE // 2**20} MB"))
            return
        if line.isspace():
            continue
        if number == 1 and line.strip() == b"{":
            what = "is not JSON by itself: write one whole object a line, or a JSON array"
            faults.append(Fault(where, "", what))
            return
        try:
            text = line.decode("utf-8")
            value, end = decoder.decode(text, len(text) - len(text.lstrip(SPACE)))
            if rest := text[end:].strip(SPACE):
                raise ProblemError(f"has text after the JSON value: {clip(rest)}")
        except (UnicodeDecodeError, ProblemError) as error:
            faults.append(_fault(where, error))
            continue
        yield from _object(where, value, faults)


def _array(path: Path, file: Bytes, faults: list[Fault]) -> Iterator[Record]:
    text = _whole(path, file, b"", faults)
    if text is not None:
        yield from _Array(path, text, faults).records()


def _whole(path: Path, file: Bytes, head: bytes, faults: list[Fault]) -> str | None:
    """The text of a file, of which `head` has been read; None (and a fault) if it is none."""
    data = head + file.read(MAX_ARRAY + 1)
    if len(data) > MAX_ARRAY:
        faults.append(Fault(f"{path}:1", "", "the JSON is larger than 1 GB; use JSON Lines"))
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        faults.append(_fault(f"{path}:{line}", error))
        return None


class _Array:
    """The elements of a JSON array, one by one, each with its line."""

    def __init__(self, path: Path, text: str, faults: list[Fault]) -> None:
        self._path, self._text, self._faults = path, text, faults
        self._decoder = Decoder()
        self._line, self._counted = 1, 0

    def records(self) -> Iterator[Record]:
        text = self._text
        place = self._skip(self._skip(0) + 1)
        while text[place : place + 1] != "]":
            where = self._where(place)
            value, end = self._element(where, place)
            if end is None:
                return
            if value is not None:
                yield from _object(where, value, self._faults)
            place = self._skip(end)
            if text[place : place + 1] == ",":
                place = self._skip(place + 1)
                if text[place : place + 1] == "]":
                    self._fault(place, "a comma before the array's end")
                    return
            elif text[place : place + 1] != "]":
                self._fault(place, "neither a comma nor the array's end here: is it cut off?")
                return
        if self._skip(place + 1) != len(text):
            self._fault(self._skip(place + 1), "there is text after the array")

    def _element(self, where: str, place: int) -> tuple[object, int | None]:
        """A value and where it ends; no value if it is faulty, no end if reading cannot go on."""
        try:
            return self._decoder.decode(self._text, place)
        except ProblemError as problem:
            self._faults.append(_fault(where, problem))
            return None, problem.end

    def _skip(self, place: int) -> int:
        while self._text[place : place + 1] and self._text[place] in SPACE:
            place += 1
        return place

    def _where(self, place: int) -> str:
        self._line += self._text.count("\n", self._counted, place)
        self._counted = place
        return f"{self._path}:{self._line}"

    def _fault(self, place: int, what: str) -> None:
        self._faults.append(Fault(self._where(place), "", what))


def _object(where: str, value: object, faults: list[Fault]) -> Iterator[Record]:
    if isinstance(value, dict):
        yield Record(where, value)
    else:
        faults.append(Fault(where, "", f"must be a JSON object, got {clip(value)}"))


def _fault(where: str, error: UnicodeDecodeError | ProblemError) -> Fault:
    if isinstance(error, UnicodeDecodeError):
        return Fault(where, "", f"is not UTF-8 (byte {error.start})")
    return Fault(where, error.field, str(error))
