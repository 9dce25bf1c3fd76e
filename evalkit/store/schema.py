"""The tables of a store: made, brought to today's layout, and recognised."""

from __future__ import annotations

import contextlib
import sqlite3
from importlib.resources import files
from pathlib import Path

from evalkit.errors import InputError

APPLICATION_ID = 0x65766B31  # "evk1"
VERSION = 3
EARLIER = (1, 2)
EMPTY = (0, 0, 0)


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables of an empty database, or bring those of an earlier version to today's.

    Whatever else it is stays untouched.

    Args:
        db: Open for writing, in autocommit mode.
    """
    _, application_id, version = _state(db)
    if application_id == 0 or (version == 0 and application_id == APPLICATION_ID):
        _create(db)  # looks again under a lock: another process may be at it
    elif application_id == APPLICATION_ID and version in EARLIER:
        _upgrade(db)


def check(db: sqlite3.Connection, path: Path) -> None:
    """Refuse what is no store of this version.

    Args:
        db: Any connection to it.
        path: What errors call it.

    Raises:
        InputError: The database of another program or version.
        sqlite3.DatabaseError: Its tables are damaged.
    """
    _, application_id, version = _state(db)
    if (application_id, version) != (APPLICATION_ID, VERSION):
        raise InputError(
            f"{path} is no evalkit store of version {VERSION}"
            + (f" (it is version {version})" if application_id == APPLICATION_ID else ""),
            fix="open it once where it can be written: that brings it to today's version"
            if application_id == APPLICATION_ID and version in EARLIER
            else "move it away, or use the evalkit that wrote it",
        )
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as pristine:
        pristine.text_factory = bytes
        _create(pristine)
        if _schema(db) != _schema(pristine):
            raise sqlite3.DatabaseError("its tables are not those evalkit makes")


def _state(db: sqlite3.Connection) -> tuple[int, int, int]:
    """How many tables, application id and version, in one look: another process may create them."""
    row = db.execute(
        "SELECT (SELECT count(*) FROM sqlite_schema), "
        "(SELECT application_id FROM pragma_application_id), "
        "(SELECT user_version FROM pragma_user_version)"
    ).fetchone()
    return (int(row[0]), int(row[1]), int(row[2]))


def _create(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    if _state(db) == EMPTY:
        for statement in _statements():
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("COMMIT")


def _upgrade(db: sqlite3.Connection) -> None:
    """From version 1, whose rewards had no attributes, or 2; no reward is lost.

    Digests of files are: both knew a file by the time of its content, which tools set.
    """
    db.execute("BEGIN IMMEDIATE")
    version = _state(db)[2]
    if version == 1:
        db.execute("ALTER TABLE reward RENAME TO reward_1")
        db.execute(_statement("reward"))
        db.execute(
            "INSERT INTO reward SELECT reward_model_id, conversation, reward, tokens, cut, "
            "tokens_digest, run_id, x'', chk FROM reward_1"
        )
        db.execute("DROP TABLE reward_1")
    if version in EARLIER:
        db.execute("DROP TABLE file_digest")
        db.execute(_statement("file_digest"))
        db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("COMMIT")


def _statements() -> list[str]:
    return files("evalkit.store").joinpath("schema.sql").read_text("utf-8").split(";\n")


def _statement(table: str) -> str:
    return next(s for s in _statements() if f"CREATE TABLE {table}(" in s)


def _schema(db: sqlite3.Connection) -> list[tuple[bytes, bytes]]:
    return db.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
