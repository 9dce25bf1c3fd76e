"""Packs: immutable, checksummed exports of rewards that travel with a reference.

A pack is the folder `rewards/<first 16 digits of the fingerprint>/` with `rewards.parquet`, sorted
by conversation, and `manifest.json`, which holds the file's SHA-256 and a content digest over the
rows, so that a re-export by another Parquet writer compares equal.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from evalkit.data import digest
from evalkit.errors import InputError, IntegrityError
from evalkit.files import write_atomic
from evalkit.store.rows import StoredReward, checksum

SCHEMA = "evalkit.pack/1"
FILE = "rewards.parquet"


class Pack:
    """One pack on disk, read when it is first asked.

    Args:
        folder: Where `manifest.json` is.

    Raises:
        IntegrityError: The manifest is unreadable or of another schema.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
            self.fingerprint = bytes.fromhex(self.manifest["fingerprint"]).hex()
            schema = self.manifest["schema"]
            self.name = str(dict(self.manifest["reward_model"]).get("name", self.fingerprint[:16]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(f"its manifest.json is unreadable: {error}") from None
        if schema != SCHEMA:
            raise self._damaged(f"it is written in {schema!r}, this evalkit reads {SCHEMA!r}")

    def lookup(self, keys: Iterable[str]) -> dict[str, StoredReward]:
        """The rewards of those of `keys` that the pack holds.

        Raises:
            IntegrityError: The file does not match its digest, or a row its checksum.
        """
        return {key: self._rows[key] for key in keys if key in self._rows}

    def verify(self) -> int:
        """Check every digest of the pack; returns how many rows it holds.

        Raises:
            IntegrityError: Naming what does not match.
        """
        rows = sorted(self._rows.values())
        if len(rows) != self.manifest.get("rows"):
            raise self._damaged(f"it holds {len(rows)} rows, not {self.manifest.get('rows')}")
        if content_digest(rows) != self.manifest.get("content"):
            raise self._damaged("its rows do not match its content digest")
        return len(rows)

    @cached_property
    def _rows(self) -> dict[str, StoredReward]:
        import pyarrow.parquet as pq

        try:
            data = (self.folder / FILE).read_bytes()
        except OSError as error:
            raise self._damaged(f"{FILE} is unreadable: {error.strerror}") from None
        if hashlib.sha256(data).hexdigest() != self.manifest.get("sha256"):
            raise self._damaged(f"{FILE} does not match its digest")
        found = {}
        try:
            with pq.ParquetFile(io.BytesIO(data)) as file:
                # a thread that reads from a Python object may outlive it: apache/arrow#50482
                lines = file.read(use_threads=False).to_pylist()
            rows = [(line.pop("checksum"), _row(line)) for line in lines]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise self._damaged(f"{FILE} is unreadable: {error}") from None
        for chk, row in rows:
            if checksum(self.fingerprint, row).hex() != chk:
                raise self._damaged(f"row {row.conversation[:12]} does not match its checksum")
            found[row.conversation] = row
        return found

    def _damaged(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"the reward pack is damaged: {what}",
            where=str(self.folder),
            fix="delete this folder: its rewards will be scored again",
        )


def find_packs(reference: Path) -> Iterator[Pack]:
    """The packs of a reference folder, in the order of their names."""
    for manifest in sorted((reference / "rewards").glob("*/manifest.json")):
        yield Pack(manifest.parent)


def write_pack(
    reference: Path,
    fingerprint: str,
    reward_model: Mapping[str, object],
    rows: Iterable[StoredReward],
) -> Path:
    """Export rewards into a reference folder; returns the pack's folder.

    Args:
        reference: The reference folder.
        fingerprint: Of the reward model.
        reward_model: Its name and what the fingerprint is over, for people.
        rows: The rewards.

    Raises:
        InputError: The folder cannot be written to.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = sorted(rows)
    table = pa.Table.from_pylist(
        [{**row._asdict(), "checksum": checksum(fingerprint, row).hex()} for row in ordered],
    )
    if ordered and not any(row.attributes for row in ordered):
        table = table.drop_columns("attributes")
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    data = buffer.getvalue()
    folder = reference / "rewards" / fingerprint[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror}", fix=f"make {reference} a writable folder"
        ) from None
    manifest = {
        "schema": SCHEMA,
        "fingerprint": fingerprint,
        "reward_model": reward_model,
        "rows": len(ordered),
        "sha256": hashlib.sha256(data).hexdigest(),
        "content": content_digest(ordered),
    }
    write_atomic(folder / FILE, data)
    text = json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    write_atomic(folder / "manifest.json", text.encode())
    return folder


def content_digest(rows: Sequence[StoredReward]) -> str:
    """SHA-256 over the rows, sorted by conversation, whatever file format holds them."""
    return digest("pack", [[*row[:-1], *([list(row[-1])] if row[-1] else [])] for row in rows])


def _row(line: Mapping[str, Any]) -> StoredReward:
    return StoredReward(**{**line, "attributes": tuple(line.get("attributes") or ())})
