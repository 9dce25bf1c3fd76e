"""The live store: one SQLite file on a local disk, in rollback mode, one commit per scored batch.

Rollback (TRUNCATE, synchronous FULL) and not WAL: WAL needs shared memory and a writable folder
even for readers, and before SQLite 3.51.3 its reset race can lose commits. `BEGIN IMMEDIATE`
because a read that turns into a write fails at once whatever the timeout, and `ON CONFLICT DO
NOTHING` because `INSERT OR IGNORE` would also swallow what the CHECKs refuse.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from evalkit.data import canonical_json
from evalkit.errors import IntegrityError, MissingError
from evalkit.store import schema
from evalkit.store.packs import Pack
from evalkit.store.rows import StoredReward, checksum, packed, unpacked

BUSY_SECONDS = 60.0
# what passes by itself or by making room: busy, locked, full, read-only, cannot open, I/O
PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
}
RACY_SECONDS = 2.0  # a file younger than this may still change within one time stamp


class Store:
    """Rewards by (reward-model fingerprint, conversation key); first write wins.

    The file is made when there is a reward to keep, so that a refused command leaves nothing. If
    it cannot be written, known rewards are served and new ones last for this process.

    Args:
        path: The SQLite file.

    Attributes:
        damaged: Rows whose checksum failed: treated as unknown, so that they are scored again.
        conflicts: Rewards that differed from the one already stored.
        writable: Whether new rewards are kept.

    Raises:
        InputError: The file is not a store of this version.
        IntegrityError: The file is a damaged database.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self.conflicts = 0
        self._pid = os.getpid()
        self._runs: dict[str, int] = {}  # provenance -> row
        self._readers: list[sqlite3.Connection] = []
        self.writable = _writable(path)
        self._unmade = self.writable and not path.exists()
        with self._explained():
            self._connection = self._connect()

    def close(self) -> None:
        """Close the file."""
        for connection in (self._connection, *self._readers):
            connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def lookup(
        self, fingerprint: str, keys: Iterable[str], packs: Sequence[Pack] = ()
    ) -> dict[str, StoredReward]:
        """Known rewards: from the store, then from packs.

        Args:
            fingerprint: Of the reward model.
            keys: Conversation keys.
            packs: Packs of this reward model, in order.

        Returns:
            Key -> reward, for the keys that are known and undamaged.
        """
        wanted = set(keys)
        found: dict[str, StoredReward] = {}
        with self._explained():
            for connection in (self._connection, *self._readers):
                found.update(self._select(connection, fingerprint, wanted - found.keys()))
        for pack in packs:
            missing = wanted - found.keys()
            if missing and pack.fingerprint == fingerprint:
                found.update(pack.lookup(missing))
        return found

    def add(
        self,
        fingerprint: str,
        manifest: Mapping[str, object],
        rows: Sequence[StoredReward],
        *,
        tolerance: float,
        provenance: Mapping[str, object],
    ) -> None:
        """Store a batch in one commit; it is durable when this returns.

        Args:
            fingerprint: Of the reward model.
            manifest: What the fingerprint is over.
            rows: The batch; a reward already known stays as it is.
            tolerance: Relative difference (of max(1, |reward|)) beyond which a repeated reward
                is recorded as a conflict.
            provenance: How this run scores.
        """
        self._make()
        with self._explained(), self._transaction() as db:
            db.execute(
                "INSERT INTO reward_model(fingerprint, manifest) VALUES (?, ?) "
                "ON CONFLICT(fingerprint) DO NOTHING",
                (bytes.fromhex(fingerprint), canonical_json(manifest)),
            )
            (model_id,) = db.execute(
                "SELECT id FROM reward_model WHERE fingerprint = ?", (bytes.fromhex(fingerprint),)
            ).fetchone()
            how = canonical_json(provenance)
            run_id = self._runs.get(how) or self._run(db, how)
            for row in rows:
                if not self._insert(db, model_id, run_id, fingerprint, row):
                    self._compare(db, model_id, run_id, row, tolerance)
            # only now: a rolled-back run row must not be referred to
        self._runs[how] = run_id

    def file_digest(self, path: Path) -> str:
        """SHA-256 of a file, remembered by path, size, time and inode.

        The time is that of the last change of the inode: tools keep or set that of the content. A
        memory is only kept of files that had not changed for two seconds when they were hashed.
        """
        stat = path.stat()
        identity = (str(path.resolve()), stat.st_size, stat.st_ctime_ns, stat.st_ino)
        with self._explained():
            known = self._connection.execute(
                "SELECT sha256 FROM file_digest "
                "WHERE path = ? AND size = ? AND ctime_ns = ? AND inode = ?",
                identity,
            ).fetchone()
        if known:
            return bytes(known[0]).decode("ascii")
        age = time.time() - stat.st_ctime
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if age > RACY_SECONDS:
            with self._explained(), self._transaction() as db:
                db.execute("REPLACE INTO file_digest VALUES (?, ?, ?, ?, ?)", (*identity, found))
        return found

    def _make(self) -> None:
        """Make the file, and move there what is remembered so far: digests of files."""
        if not self._unmade:
            return
        self._unmade = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError:
            self.writable = False
            return
        self._connection.text_factory = str  # what is in memory is undamaged
        digests = self._connection.execute("SELECT * FROM file_digest").fetchall()
        self._connection.close()
        with self._explained():
            self._connection = self._open(str(self.path))
            with self._transaction() as db:
                db.executemany("REPLACE INTO file_digest VALUES (?, ?, ?, ?, ?)", digests)

    def _connect(self) -> sqlite3.Connection:
        """The connection that is written to; what can only be read goes to `_readers`."""
        if self.writable and not self._unmade:
            return self._open(str(self.path))
        if self.path.exists():
            self._readers.append(self._open(f"{self.path.resolve().as_uri()}?mode=ro", uri=True))
        return self._open(":memory:")

    def _open(self, target: str, *, uri: bool = False) -> sqlite3.Connection:
        db = sqlite3.connect(target, timeout=BUSY_SECONDS, isolation_level=None, uri=uri)
        db.text_factory = bytes  # damage can make text undecodable
        try:
            if not uri:
                schema.prepare(db)
            schema.check(db, self.path)
            if not uri:
                db.execute("PRAGMA journal_mode = TRUNCATE")
            db.execute("PRAGMA synchronous = FULL")
        except BaseException:
            db.close()
            raise
        return db

    def _select(
        self, connection: sqlite3.Connection, fingerprint: str, keys: Iterable[str]
    ) -> Iterator[tuple[str, StoredReward]]:
        model = connection.execute(
            "SELECT id FROM reward_model WHERE fingerprint = ?", (bytes.fromhex(fingerprint),)
        ).fetchone()
        for key in keys if model else ():
            line = connection.execute(
                "SELECT reward, tokens, cut, tokens_digest, attributes, chk FROM reward "
                "WHERE reward_model_id = ? AND conversation = ?",
                (*model, bytes.fromhex(key)),
            ).fetchone()
            if line is None:
                continue
            row = _decode(key, line[:-1])
            if row is not None and checksum(fingerprint, row) == line[-1]:
                yield key, row
            else:
                self.damaged += 1
                self._forget(connection, model[0], key)

    def _forget(self, connection: sqlite3.Connection, model_id: int, key: str) -> None:
        """Make room for the reward that will be computed again."""
        if connection is self._connection:
            with self._transaction() as db:
                db.execute(
                    "DELETE FROM reward WHERE reward_model_id = ? AND conversation = ?",
                    (model_id, bytes.fromhex(key)),
                )

    @staticmethod
    def _run(db: sqlite3.Connection, provenance: str) -> int:
        cursor = db.execute(
            "INSERT INTO run(started, provenance) VALUES (?, ?)",
            (datetime.now(UTC).isoformat(timespec="seconds"), provenance),
        )
        return int(cursor.lastrowid or 0)

    @staticmethod
    def _insert(
        db: sqlite3.Connection, model_id: int, run_id: int, fingerprint: str, row: StoredReward
    ) -> bool:
        cursor = db.execute(
            "INSERT INTO reward VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT(reward_model_id, conversation) DO NOTHING",
            (
                model_id,
                bytes.fromhex(row.conversation),
                row.reward,
                row.tokens,
                row.cut,
                bytes.fromhex(row.tokens_digest),
                run_id,
                packed(row.attributes),
                checksum(fingerprint, row),
            ),
        )
        return cursor.rowcount == 1

    def _compare(
        self,
        db: sqlite3.Connection,
        model_id: int,
        run_id: int,
        row: StoredReward,
        tolerance: float,
    ) -> None:
        key = bytes.fromhex(row.conversation)
        (kept,) = db.execute(
            "SELECT reward FROM reward WHERE reward_model_id = ? AND conversation = ?",
            (model_id, key),
        ).fetchone()
        if abs(kept - row.reward) > tolerance * max(1.0, abs(kept)):
            self.conflicts += 1
            db.execute(
                "INSERT INTO conflict VALUES (?, ?, ?, ?, ?)",
                (model_id, key, kept, row.reward, run_id),
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if os.getpid() != self._pid:
            raise RuntimeError("a store must not be used across a fork")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            # after a full disk SQLite has rolled back already
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite says into what a user can do."""
        try:
            yield
        except sqlite3.IntegrityError:  # a value the schema refuses: a bug, not damage
            raise
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in PASSING:
                raise MissingError(
                    f"the reward store cannot be written or read: {error}",
                    where=str(self.path),
                    fix="free disk space or stop other programs using it, then run the same "
                    "command again: finished batches are kept",
                ) from None
            raise IntegrityError(
                f"the reward store is damaged: {error}",
                where=str(self.path),
                fix="move it away: rewards in packs are served, the others are scored again",
            ) from None


def _writable(path: Path) -> bool:
    """Whether the file can be written, or made."""
    there = [path, path.parent] if path.exists() else []
    made = next(folder for folder in path.resolve().parents if folder.is_dir())
    return all(os.access(place, os.W_OK) for place in there or [made])


def _decode(key: str, values: Sequence[object]) -> StoredReward | None:
    """The row, or None where damage changed a type or cut the attributes."""
    reward, tokens, cut, tokens_digest, attributes = values
    if (
        isinstance(reward, float)
        and isinstance(tokens, int)
        and isinstance(cut, int)
        and isinstance(tokens_digest, bytes)
        and isinstance(attributes, bytes)
        and len(attributes) % 8 == 0
    ):
        return StoredReward(key, reward, tokens, cut, tokens_digest.hex(), unpacked(attributes))
    return None
