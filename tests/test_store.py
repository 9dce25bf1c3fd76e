"""A hit in the store is never wrong, whatever happens to the file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import sqlite3
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from evalkit.errors import EvalkitError, InputError, IntegrityError, MissingError
from evalkit.store import Store, StoredReward
from evalkit.store.schema import APPLICATION_ID
from tests.fake_reward_model import (
    BATCH,
    add,
    fake_spec,
    fill_disk,
    start,
    stored,
    without_write_access,
    write_rows,
)

A, B = fake_spec("a"), fake_spec("b")
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".evalkit" / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(path) as store:
        yield store


@contextlib.contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as any program could open it."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        yield connection
    finally:
        connection.close()


def known(store: Store, rows: list[StoredReward], spec=A) -> list[StoredReward]:
    return sorted(store.lookup(spec.fingerprint, [row.conversation for row in rows]).values())


# What is kept


def test_rewards_come_back_exactly_after_reopening(path):
    rows = [stored(n) for n in range(50)]
    extremes = [5e-324, 0.0, 2.0, 0.1 + 0.2, -1.7976931348623157e308]
    rows += [stored(100 + n, reward) for n, reward in enumerate(extremes)]
    with Store(path) as store:
        add(store, rows, A)
    with Store(path) as store:
        found = known(store, [*rows, stored(999)])
    assert repr(found) == repr(sorted(rows))


def test_a_reward_of_minus_zero_is_kept(store):
    add(store, [stored(1, -0.0)], A)
    assert (known(store, [stored(1)]), store.damaged) == ([stored(1, 0.0)], 0)


def test_reward_models_do_not_share_rewards(store):
    add(store, [stored(1, 0.25)], A)
    assert known(store, [stored(1)], B) == []
    add(store, [stored(1, 0.75)], B)
    assert [known(store, [stored(1)], spec)[0].reward for spec in (A, B)] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("first", "second", "conflicts"),
    [(0.5, 0.50005, 0), (0.5, 0.5002, 1), (1000.0, 1000.05, 0), (1000.0, 999.8, 1), (0.0, -1.0, 1)],
)
def test_first_write_wins_and_a_reward_beyond_tolerance_is_a_conflict(
    store, path, first, second, conflicts
):
    add(store, [stored(1, first)], A)
    add(store, [stored(1, second), stored(2)], A)
    assert known(store, [stored(1), stored(2)]) == sorted([stored(1, first), stored(2)])
    assert store.conflicts == conflicts
    with raw(path) as db:
        recorded = db.execute("SELECT kept, other FROM conflict").fetchall()
    assert recorded == [(first, second)] * conflicts


REFUSED = {
    "nan": stored(1, NAN),
    "inf": stored(1, INF),
    "-inf": stored(1, -INF),
    "text": stored(1)._replace(reward="high"),
    "none": stored(1)._replace(reward=None),
    "short key": stored(1)._replace(conversation="ab"),
    "short digest": stored(1)._replace(tokens_digest="ab"),
    "no tokens": stored(1)._replace(tokens=None),
}


@pytest.mark.parametrize("row", REFUSED.values(), ids=REFUSED)
def test_what_is_no_reward_is_refused_and_takes_its_batch_with_it(store, monkeypatch, row):
    monkeypatch.setattr("evalkit.store.live.checksum", lambda *_: b"8 bytes.")
    with pytest.raises(sqlite3.IntegrityError):
        add(store, [stored(2), row], A)
    assert store._connection.execute("SELECT count(*) FROM reward").fetchone() == (0,)


COLUMNS = dict(
    zip("mkrtcdnax", (1, b"k" * 32, 0.5, 3, 0, b"d" * 32, 1, b"", b"x" * 8), strict=True)
)
BAD_VALUES = [
    *[("r", value) for value in (NAN, INF, -INF, "text", None, b"blob")],
    *[("x", b"short"), ("x", None), ("k", b"k" * 31), ("k", None), ("d", b""), ("t", None)],
    *[("a", b"seven b"), ("a", None)],
]


@pytest.mark.parametrize(("column", "value"), BAD_VALUES)
def test_the_schema_itself_refuses_bad_values_which_insert_or_ignore_would_swallow(
    store, path, column, value
):
    add(store, [])
    values = [*{**COLUMNS, column: value}.values()]
    plain = "INTO reward VALUES (?,?,?,?,?,?,?,?,?)"
    upsert = f"INSERT {plain} ON CONFLICT(reward_model_id, conversation) DO NOTHING"
    with raw(path) as db:
        with pytest.raises(sqlite3.IntegrityError):
            db.execute(upsert, values)
        # the control: the careless statement says nothing
        if value != b"blob":  # whose length alone makes `abs` of it no error
            assert db.execute(f"INSERT OR IGNORE {plain}", values).rowcount == 0
        assert db.execute(upsert, [*COLUMNS.values()]).rowcount == 1


def test_each_reward_is_kept_with_how_it_was_scored(store, path):
    gpu, served = {"device": "cuda:0", "batch_tokens": 16384}, {"device": "http://gpu1:8000"}
    for number, (spec, how) in enumerate([(A, gpu), (B, served), (A, gpu), (A, served)]):
        store.add(spec.fingerprint, spec.manifest, [stored(number)], tolerance=1e-4, provenance=how)
    with raw(path) as db:
        found = db.execute(
            "SELECT lower(hex(conversation)), provenance FROM reward JOIN run ON run.id = run_id"
        ).fetchall()
        assert db.execute("SELECT count(*) FROM run").fetchone() == (2,)
    kept = {key: json.loads(how) for key, how in found}
    expected = {0: gpu, 1: served, 2: gpu, 3: served}
    assert kept == {stored(n).conversation: how for n, how in expected.items()}


def test_a_store_is_not_used_across_a_fork(store, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="fork"):
        add(store, [stored(1)])


# The file


def test_nothing_is_on_disk_before_there_is_a_reward_to_keep(path, weights):
    with Store(path) as store:
        store.file_digest(weights)
        assert known(store, [stored(1)]) == []
    assert not path.parent.exists()


def test_file_and_folder_are_private_whatever_the_umask(path):
    before = os.umask(0)
    try:
        with Store(path) as store:
            add(store, [stored(1)])
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent)]
    assert modes == [0o600, 0o700]


def test_the_file_is_in_rollback_mode_with_full_syncs(store, path):
    add(store, [stored(1)])
    db = store._connection
    modes = [db.execute(f"PRAGMA {p}").fetchone()[0] for p in ("journal_mode", "synchronous")]
    assert modes == [b"truncate", 2]
    assert not list(path.parent.glob("*-wal"))


def test_a_writer_waits_for_another_one(store, path):
    add(store, [])
    with raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, other.execute, ["COMMIT"])
        release.start()
        add(store, [stored(1)], A)
        release.join()
        assert not other.in_transaction
    assert known(store, [stored(1)]) == [stored(1)]


def test_a_commit_that_fails_leaves_no_transaction_open(path, monkeypatch):
    monkeypatch.setattr("evalkit.store.live.BUSY_SECONDS", 0.05)
    with Store(path) as store:
        add(store, [stored(1), stored(2)], A)
    with Store(path) as store, raw(path) as other:
        reader = other.execute("SELECT * FROM reward")
        reader.fetchone()  # one of two: it still holds its lock
        with pytest.raises(MissingError, match="database is locked"):
            add(store, [stored(3)], A)
        assert known(store, [stored(3)]) == []
        reader.close()
        add(store, [stored(4)], A)
        assert known(store, [stored(3), stored(4)]) == [stored(4)]


def test_a_store_that_another_process_creates_meanwhile_is_opened(path, monkeypatch):
    class Overtaken(sqlite3.Connection):
        def execute(self, statement, *values):
            if "sqlite_schema" in statement:
                monkeypatch.undo()
                Store(path).close()
            return super().execute(statement, *values)

    connect = sqlite3.connect
    monkeypatch.setattr("sqlite3.connect", lambda *a, **k: connect(*a, factory=Overtaken, **k))
    with Store(path) as store:
        add(store, [stored(1)], A)


def _database(path: Path, *statements: str) -> None:
    path.parent.mkdir(parents=True)
    with raw(path) as db:
        for statement in statements:
            db.execute(statement)


NEWER = [f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 4"]
FOREIGN = {
    "other program": ["CREATE TABLE notes(x)"],
    "other program with an id": ["PRAGMA application_id = 7", "CREATE TABLE notes(x)"],
    "newer": [*NEWER, "CREATE TABLE reward(x)"],
}
LATER_REFUSED = {
    "other program in WAL mode": ["PRAGMA journal_mode = WAL", "CREATE TABLE notes(x)"],
    "newer in WAL mode": ["PRAGMA journal_mode = WAL", *NEWER, "CREATE TABLE reward(x)"],
    "other program, no table yet": ["PRAGMA application_id = 7"],
}


@pytest.mark.parametrize(
    "statements",
    [
        *[pytest.param(statements, id=name) for name, statements in FOREIGN.items()],
        *[pytest.param(statements, id=name) for name, statements in LATER_REFUSED.items()],
    ],
)
def test_the_database_of_another_program_or_version_is_refused_and_untouched(path, statements):
    _database(path, *statements)
    before = path.read_bytes()
    with pytest.raises(InputError, match="no evalkit store of version 3") as refusal:
        Store(path)
    assert refusal.value.exit_code == 2
    assert path.read_bytes() == before


def test_a_newer_store_is_refused_by_its_version(path):
    _database(path, *FOREIGN["newer"])
    with pytest.raises(InputError, match="it is version 4"):
        Store(path)


VERSION_1 = """
CREATE TABLE reward(
  reward_model_id INTEGER NOT NULL REFERENCES reward_model(id),
  conversation BLOB NOT NULL CHECK(length(conversation) = 32),
  reward REAL NOT NULL CHECK(abs(reward) <= 1.7976931348623157e308) CHECK(typeof(reward) = 'real'),
  tokens INTEGER NOT NULL,
  cut INTEGER NOT NULL,
  tokens_digest BLOB NOT NULL CHECK(length(tokens_digest) = 32),
  run_id INTEGER NOT NULL REFERENCES run(id),
  chk BLOB NOT NULL CHECK(length(chk) = 8),
  PRIMARY KEY(reward_model_id, conversation)
) WITHOUT ROWID
"""


def test_a_store_of_version_1_is_upgraded_with_its_rewards(path):
    with Store(path) as store:
        add(store, [stored(n)._replace(attributes=()) for n in range(20)], A)
    with raw(path) as db:  # as the first version wrote it, whose checksums are today's
        rows = db.execute("SELECT * FROM reward").fetchall()
        db.execute("DROP TABLE reward")
        db.execute(VERSION_1.strip())
        for *values, _, chk in rows:
            db.execute("INSERT INTO reward VALUES (?,?,?,?,?,?,?,?)", (*values, chk))
        _with_digests_of_old(db)
        db.execute("PRAGMA user_version = 1")
    for _ in range(2):
        with Store(path) as store:
            keys = [stored(n).conversation for n in range(20)]
            found = store.lookup(A.fingerprint, keys)
            assert found == {k: stored(n)._replace(attributes=()) for n, k in enumerate(keys)}
            add(store, [stored(99)], A)
            assert store.damaged == store.conflicts == 0


def _with_digests_of_old(db: sqlite3.Connection) -> None:
    """As up to version 2: digests by the time of the content."""
    db.execute("ALTER TABLE file_digest RENAME COLUMN ctime_ns TO mtime_ns")


@pytest.mark.usefixtures("aged")
def test_a_store_of_version_2_is_upgraded_without_its_digests_of_files(path, weights):
    with Store(path) as store:
        add(store, [stored(1), stored(2)], A)
        first = store.file_digest(weights)
    with raw(path) as db:
        db.execute("UPDATE file_digest SET sha256 = ?", ("0" * 64,))  # of what was there before
        _with_digests_of_old(db)
        db.execute("PRAGMA user_version = 2")
    for _ in range(2):
        with Store(path) as store:
            assert known(store, [stored(1), stored(2)]) == sorted([stored(1), stored(2)])
            assert store.file_digest(weights) == first


def test_the_database_of_another_program_with_the_number_of_an_earlier_version_is_refused(path):
    _database(path, "PRAGMA application_id = 7", "PRAGMA user_version = 2", "CREATE TABLE notes(x)")
    with pytest.raises(InputError, match="no evalkit store of version 3"):
        Store(path)


@pytest.mark.parametrize("garbage", [b"not a database" * 400, b"\0" * 4096])
def test_a_garbage_file_is_refused_and_untouched(path, garbage):
    path.parent.mkdir()
    path.write_bytes(garbage)
    with pytest.raises(IntegrityError) as refusal:
        Store(path)
    assert (refusal.value.exit_code, path.read_bytes()) == (5, garbage)


def test_a_folder_in_the_place_of_the_file_is_refused(path):
    path.mkdir(parents=True)
    with pytest.raises(EvalkitError):
        Store(path)


# Without write access


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that other users can reach, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_read_only_store_serves_what_it_knows_and_keeps_the_rest_in_memory(shared_folder):
    path = shared_folder / "store" / "store.db"
    with Store(path) as store:
        add(store, [stored(0), stored(1)])
    before = path.read_bytes()
    path.chmod(0o444)
    path.parent.chmod(0o555)
    output, _ = start(without_write_access, path, stdout=subprocess.PIPE).communicate()
    path.parent.chmod(0o755)
    keys = sorted(stored(n).conversation for n in range(3))
    assert json.loads(output) == [False, sorted([stored(0).reward, stored(1).reward]), keys]
    assert path.read_bytes() == before


def test_a_store_that_cannot_be_created_lives_in_memory_and_says_so(shared_folder):
    shared_folder.chmod(0o555)
    path = shared_folder / "store" / "store.db"
    output, _ = start(without_write_access, path, stdout=subprocess.PIPE).communicate()
    assert json.loads(output) == [False, [], [stored(2).conversation]]


# Damage

DAMAGE = {
    "reward": "reward = reward + 1e-9",
    "tokens": "tokens = tokens + 1",
    "cut": "cut = 1",
    "digest": "tokens_digest = randomblob(32)",
    "chk": "chk = randomblob(8)",
    "owner": "reward_model_id = 2",
    "conversation": "conversation = x'{other}'",
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_row_is_a_miss_and_can_be_written_again(path, change):
    first, second, other = stored(1), stored(2), stored(3)
    with Store(path) as store:
        add(store, [first, second], A)
        add(store, [second], B)
    with raw(path) as db:
        change = change.format(other=other.conversation)
        assert db.execute(
            f"UPDATE reward SET {change} WHERE conversation = ? AND reward_model_id = 1",
            (bytes.fromhex(first.conversation),),
        ).rowcount
    rows = [first, second, other]
    with Store(path) as store:
        assert known(store, rows, A) == [second]
        assert known(store, rows, B) == [second]
        assert store.damaged == 1
        add(store, [first, other], A)
        assert (known(store, rows, A), store.damaged) == (sorted(rows), 1)


NOT_UTF8 = pytest.param("CAST(x'ff' AS TEXT)")


@pytest.mark.parametrize("value", ["'text'", NOT_UTF8, "x'00'", "NULL", "9e999", "7"])
def test_a_row_whose_damage_changed_a_type_is_a_miss(path, value):
    with Store(path) as store:
        add(store, [stored(1)], A)
    schema = ("reward REAL NOT NULL", "reward")
    for change in (schema, None, schema[::-1]):  # a schema that does not mind, as damage does not
        with raw(path) as db:
            if change is None:
                db.execute("PRAGMA ignore_check_constraints = ON")
                db.execute(f"UPDATE reward SET reward = {value}")
            else:
                db.execute("PRAGMA writable_schema = ON")
                sql = "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = 'reward'"
                db.execute(sql, [f"  {text} CHECK" for text in change])
    with Store(path) as store:
        assert (known(store, [stored(1)]), store.damaged) == ([], 1)
        add(store, [stored(1)], A)
        assert known(store, [stored(1)]) == [stored(1)]


@pytest.mark.parametrize("bytes_", ["x'010203'", "x'0102030405060708090a'"])
def test_attributes_that_are_no_row_of_numbers_are_a_miss(path, bytes_):
    with Store(path) as store:
        add(store, [stored(1)], A)
    with raw(path) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute(f"UPDATE reward SET attributes = {bytes_}")
    with Store(path) as store:
        assert (known(store, [stored(1)]), store.damaged) == ([], 1)
        add(store, [stored(1)], A)
        assert known(store, [stored(1)]) == [stored(1)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"_reward_model_1", b"_re\xffard_model_1"),
        pytest.param(b"sha256 TEXT", b"sha257 TEXT"),
        (b"CREATE TABLE run", b"CREATE TABLX run"),
    ],
)
def test_a_damaged_schema_is_an_integrity_error(path, tmp_path, old, new):
    with Store(path) as store:
        add(store, [stored(1)])
    path.write_bytes(path.read_bytes().replace(old, new))
    (tmp_path / "weights").touch()
    with pytest.raises(IntegrityError), Store(path) as store:
        store.file_digest(tmp_path / "weights")


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """Where a commit costs nothing, for studies that are not about durability."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


def _mutate(data: bytes, random: random.Random) -> bytes:
    """One accident: a flipped bit, overwritten bytes, a lost end, a lost or misplaced sector."""
    found = bytearray(data)
    at = random.randrange(len(found))
    match random.randrange(8):
        case 0:
            del found[at:]
        case 1:
            at -= at % 512
            found[at : at + 512] = bytes(512)
        case 2:
            source, target = (512 * random.randrange(len(found) // 512) for _ in range(2))
            found[target : target + 512] = data[source : source + 512]
        case 3 | 4:
            end = min(at + random.randint(1, 64), len(found))
            found[at:end] = random.randbytes(end - at)
        case _:
            for _ in range(random.choice((1, 16))):
                found[random.randrange(len(found))] ^= 1 << random.randrange(8)
    return bytes(found)


def _wrong_without_checksum(path: Path, truth: dict[str, StoredReward]) -> bool:
    """The control: whether a store that trusts its file would serve a wrong reward."""
    query = "SELECT reward FROM reward WHERE reward_model_id = 1 AND conversation = ?"
    with raw(path) as db:
        for key, row in truth.items():
            with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
                served = db.execute(query, (bytes.fromhex(key),)).fetchone()
                if served not in ((row.reward,), None):
                    return True
    return False


@pytest.mark.parametrize("trials", [300, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_mutation_of_the_file_yields_a_wrong_reward_or_an_unclean_error(memory_folder, trials):
    numbers = random.Random(trials)
    path, weights = memory_folder / "store.db", memory_folder / "weights"
    truth = {
        spec: {stored(n, n + x).conversation: stored(n, n + x) for n in range(100)}
        for spec, x in ((A, 0.25), (B, 0.75))
    }
    weights.touch()
    with Store(path) as store:
        for spec, rows in truth.items():
            add(store, [*rows.values()], spec)
    intact = path.read_bytes()
    refused = damaged = wrong_without_checksum = 0
    unclean = []
    for trial in range(trials):
        path.write_bytes(_mutate(intact, numbers))
        path.with_name("store.db-journal").unlink(missing_ok=True)
        wrong_without_checksum += _wrong_without_checksum(path, truth[A])
        try:
            with Store(path) as store:
                for spec, rows in truth.items():
                    found = store.lookup(spec.fingerprint, rows)
                    assert found.items() <= rows.items(), f"trial {trial}"
                    add(store, [row for key, row in rows.items() if key not in found], spec)
                    found = store.lookup(spec.fingerprint, rows)
                    assert found.items() <= rows.items(), f"trial {trial}, after repair"
                store.file_digest(weights)
                damaged += store.damaged
        except EvalkitError:
            refused += 1
        except (ArithmeticError, LookupError, TypeError, ValueError, sqlite3.Error) as error:
            unclean.append(f"trial {trial}: {error!r}")
    print(
        f"{trials} mutations: {refused} files refused, {damaged} damaged rows found; without the "
        f"checksum {wrong_without_checksum} would have served wrong rewards"
    )
    assert unclean == []
    assert wrong_without_checksum > trials / 60
    assert damaged > trials / 10


# Several processes


def _race(path: Path, spans: list[tuple[int, int]]) -> list[str]:
    """Let one process per span write its rows, all at once; what they complained about."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    children = [start(write_rows, path, *span, **pipes) for span in spans]
    for child in children:
        child.stdout.readline()
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    return [errors for child in children if (errors := child.communicate()[1])]


@pytest.mark.parametrize("each", [320, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("overlap", [False, True], ids=["disjoint", "overlapping"])
def test_eight_writers_lose_and_double_nothing(path, each, overlap):
    spans = [(0, each) if overlap else (n * each, (n + 1) * each) for n in range(8)]
    assert _race(path, spans) == []
    rows = [stored(n) for n in range(each if overlap else 8 * each)]
    with Store(path) as store:
        assert known(store, rows, fake_spec()) == sorted(rows)
    with raw(path) as db:
        assert db.execute("SELECT count(*) FROM reward").fetchone() == (len(rows),)
        assert db.execute("SELECT count(*) FROM conflict").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM reward_model").fetchone() == (1,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("trials", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_eight_processes_may_create_one_store_at_once(tmp_path, trials):
    for trial in range(trials):
        path = tmp_path / str(trial) / "store.db"
        assert _race(path, [(n, n + 1) for n in range(8)]) == []


@pytest.mark.parametrize("size", [70_000, 500_000])
def test_a_full_disk_loses_nothing_that_was_acknowledged(path, size):
    output, _ = start(fill_disk, path, size, stdout=subprocess.PIPE).communicate()
    acknowledged, exit_code, readable = json.loads(output)
    assert (exit_code, readable) == (MissingError.exit_code, 1)
    assert acknowledged > BATCH
    rows = [stored(n) for n in range(acknowledged + BATCH)]
    with Store(path) as store:
        assert known(store, rows, fake_spec()) == sorted(rows[:acknowledged])
        add(store, rows)
        assert known(store, rows, fake_spec()) == sorted(rows)


# Digests of files


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old weights")
    return path


@pytest.fixture
def aged(monkeypatch) -> None:
    """Files count as old from the start: no call sets back the time of an inode."""
    monkeypatch.setattr("evalkit.store.live.RACY_SECONDS", float("-inf"))


def _no_hashing(*_: object) -> None:
    raise AssertionError("the file was read again")


@pytest.mark.usefixtures("aged")
def test_the_digest_of_an_unchanged_file_is_remembered_across_runs(path, weights, monkeypatch):
    with Store(path) as store:
        first = store.file_digest(weights)
        add(store, [])
    monkeypatch.setattr("hashlib.file_digest", _no_hashing)
    with Store(path) as store:
        assert store.file_digest(weights) == first


@pytest.mark.usefixtures("aged")
def test_other_weights_in_the_same_file_are_read_even_under_the_same_time(store, weights):
    os.utime(weights, ns=(10**18, 10**18))  # as tar --mtime and reproducible builds set it
    first, before = store.file_digest(weights), weights.stat()
    while weights.stat().st_ctime_ns == before.st_ctime_ns:  # a file system's clock has ticks
        with weights.open("r+b") as file:
            file.write(b"new")
        os.utime(weights, ns=(10**18, 10**18))
    after = weights.stat()
    assert [after.st_mtime_ns, after.st_size, after.st_ino] == [
        before.st_mtime_ns, before.st_size, before.st_ino
    ]  # fmt: skip
    assert store.file_digest(weights) == hashlib.sha256(b"new weights").hexdigest() != first


class Stat(NamedTuple):
    """What a file system says of a file, where a test cannot bring it about."""

    st_ctime: float
    st_size: int = 11
    st_ino: int = 1

    @property
    def st_ctime_ns(self) -> int:
        return int(self.st_ctime * 10**9)

    def show(self, monkeypatch) -> None:
        monkeypatch.setattr(Path, "stat", lambda *_, **__: self)


@pytest.mark.parametrize("change", [{"st_ctime": 1e9 + 1}, {"st_size": 12}, {"st_ino": 2}])
def test_a_file_that_changed_its_time_its_size_or_its_inode_is_read_again(
    store, weights, monkeypatch, change
):
    same = Stat(1e9)
    same.show(monkeypatch)
    first = store.file_digest(weights)
    weights.write_bytes(b"new weights")
    assert store.file_digest(weights) == first
    same._replace(**change).show(monkeypatch)
    assert store.file_digest(weights) != first


def test_two_files_of_one_size_and_time_are_not_confused(store, weights, monkeypatch):
    other = weights.with_name("other.safetensors")
    other.write_bytes(b"new weights")
    Stat(1e9).show(monkeypatch)
    assert store.file_digest(weights) != store.file_digest(other)


@pytest.mark.parametrize("seconds", [0.0, 1.0, -3600.0], ids=["now", "1 s ago", "in the future"])
def test_a_file_too_young_to_tell_is_not_remembered(store, weights, monkeypatch, seconds):
    monkeypatch.setattr("time.time", lambda: 2e9)
    Stat(2e9 - seconds).show(monkeypatch)
    first = store.file_digest(weights)
    weights.write_bytes(b"new weights")
    assert store.file_digest(weights) != first


def test_a_file_that_was_young_when_reading_began_is_not_remembered(store, weights, monkeypatch):
    now, read = [2e9], hashlib.file_digest

    def slowly(*arguments):
        now[0] += 10.0
        return read(*arguments)

    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr("hashlib.file_digest", slowly)
    Stat(2e9).show(monkeypatch)
    first = store.file_digest(weights)
    weights.write_bytes(b"new weights")
    now[0] = 2e9
    assert store.file_digest(weights) != first
