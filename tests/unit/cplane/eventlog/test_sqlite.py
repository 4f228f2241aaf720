"""Which files are ours, what becomes of those that are not, and how SQLite is told to treat them."""

import os
import re
import sqlite3
from pathlib import Path

import pytest

from cplane.errors import CplaneError
from cplane.eventlog import sqlite
from cplane.eventlog.errors import NewerSchema, NotALog, StorageFailed
from cplane.eventlog.schema import REVISIONS
from cplane.eventlog.sqlite import driver, failure, open_reader, open_writer
from cplane.eventlog.store import SqliteLog
from cplane.eventlog.verify import verify_file
from tests.support.clock import TickingClock
from tests.support.filesystems import run_read_only
from tests.support.log import everything, fill, proposal, sql, written

pytestmark = pytest.mark.anyio
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a folder is mounted read-only")
OPEN = """
import sys, anyio
from cplane.errors import CplaneError
from cplane.eventlog.store import SqliteLog
from cplane.eventlog.verify import verify_file
from cplane.eventlog.verify import verify
from tests.support.clock import TickingClock

async def main(path):
    async with SqliteLog.open(path, TickingClock()):
        print("opened")

try:
    anyio.run(main, sys.argv[1])
except CplaneError as error:
    print(type(error).__name__, error)
try:
    print(verify(sys.argv[1])[0])
except CplaneError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def anyio_backend():
    """Files do not depend on who waits for them; the contract runs on both."""
    return "asyncio"


async def refusal(path: Path) -> CplaneError:
    """Why the file cannot be opened."""
    with pytest.raises(CplaneError) as refused:
        async with SqliteLog.open(str(path), TickingClock()):
            raise AssertionError
    return refused.value


# New files


async def test_a_file_that_is_not_there_or_empty_becomes_a_log_for_its_owner_alone(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    for name in ("new", "empty"):
        async with SqliteLog.open(str(tmp_path / name), TickingClock()) as log:
            assert log.head == 0
            await fill(log, 1)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["a b", "50%", "what?", "x#y", "ü.db", "a'b", ":memory:", "file:x", "-log"])
async def test_any_name_is_just_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    async with SqliteLog.open(name, TickingClock()) as log:
        await fill(log, 1)
    async with SqliteLog.open(str(tmp_path / name), TickingClock()) as log:
        assert log.head == 1
    assert {entry.name.removesuffix(".lock") for entry in tmp_path.iterdir()} == {name}


def test_a_commit_is_one_sync_and_is_on_the_disk(tmp_path):
    engine = open_writer(str(tmp_path / "log"))
    with engine.connect() as connection:
        asked = {
            name: driver(connection).execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "journal_size_limit")
        }
    engine.dispose()
    assert asked == {"journal_mode": "wal", "synchronous": 2, "journal_size_limit": 64 << 20}


def test_readers_cannot_write(tmp_path):
    open_writer(str(tmp_path / "log")).dispose()
    engine = open_reader(str(tmp_path / "log"))
    with engine.connect() as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        driver(connection).execute("DELETE FROM events")
    engine.dispose()


# Files of others


async def test_another_programs_database_is_refused_and_left_as_it_was(tmp_path):
    path = tmp_path / "other.db"
    sql(path, "CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT)", "INSERT INTO accounts VALUES (1, 'a')")
    before = path.read_bytes()
    error = await refusal(path)
    assert isinstance(error, NotALog)
    assert str(error) == (
        f"{path} is not an event log of cplane: it has no table 'alembic_version and events'; "
        "nothing was changed, check the path"
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"just a text\n" * 1000, b"SQLite format 3\0" + b"\xff" * 5000, b"xy"])
async def test_what_is_no_database_is_refused_and_left_as_it_was(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    assert isinstance(await refusal(path), NotALog)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("meddle", "reason"),
    [
        ("DROP TABLE alembic_version", "it has no table 'alembic_version'"),
        ("DELETE FROM alembic_version", "it names 0 schemas, not one"),
        ("INSERT INTO alembic_version VALUES ('0000')", "it names 2 schemas, not one"),
        ("ALTER TABLE events RENAME COLUMN actor TO who", "its table 'events' has the columns position, stream, .*who"),
        ("ALTER TABLE events DROP COLUMN cause", "its table 'events' has the columns"),
        ("DROP TABLE events", "it has no table 'events'"),
    ],
)
async def test_a_log_with_another_shape_is_refused(tmp_path, meddle, reason):
    path = tmp_path / "log"
    await written(path)
    sql(path, meddle)
    error = await refusal(path)
    assert isinstance(error, NotALog)
    assert re.search(reason, str(error))


async def test_a_name_of_the_schema_that_was_overwritten_is_none(tmp_path):
    path = tmp_path / "log"
    await written(path)
    ((page,),) = sql(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'alembic_version'")
    whole = bytearray(path.read_bytes())
    whole[page * 4096 - 64 : page * 4096] = bytes(64)  # where the only row of its table is
    path.write_bytes(whole)
    error = await refusal(path)
    assert isinstance(error, NotALog)
    assert "it names 0 schemas, not one" in str(error)


async def test_a_file_of_a_newer_version_is_refused_and_left_as_it_was(tmp_path):
    path = tmp_path / "log"
    await written(path)
    sql(path, "UPDATE alembic_version SET version_num = '9999'", "CREATE TABLE more (a)")
    before = path.read_bytes()
    error = await refusal(path)
    assert isinstance(error, NewerSchema)
    assert str(error) == (
        f"{path} has schema 9999, this version knows {REVISIONS[-1]}: it was written by a newer cplane; "
        "nothing was changed, run that version"
    )
    assert path.read_bytes() == before


# Damage


def ruin(path: Path, name: str) -> bytes:
    """The page where a table or index begins is full of nonsense; what the file holds then."""
    page = 1
    if name:
        ((page,),) = sql(path, f"SELECT rootpage FROM sqlite_schema WHERE name = '{name}'")
    whole = bytearray(path.read_bytes())
    whole[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
    path.write_bytes(whole)
    return bytes(whole)


@pytest.mark.parametrize("name", ["", "alembic_version", "events"])
async def test_a_page_that_makes_no_sense_is_found_when_the_log_is_opened(tmp_path, name):
    path = tmp_path / "log"
    await written(path, 40)
    ruined = ruin(path, name)
    error = await refusal(path)
    assert error.code in {"log.not_a_log", "log.bad_event"}
    assert re.search(r"malformed|not a database|damaged", str(error))
    assert path.read_bytes() == ruined


async def test_an_index_that_makes_no_sense_lets_everything_be_read_and_nothing_be_written(tmp_path):
    path = tmp_path / "log"
    before = await written(path, 40)
    ruin(path, "sqlite_autoindex_events_1")
    async with SqliteLog.open(str(path), TickingClock()) as log:
        for _ in range(2):
            with pytest.raises(NotALog, match=r"malformed \(SQLITE_CORRUPT"):
                await log.append(proposal(40))
        assert await everything(log) == before


async def test_events_that_a_lost_page_hides_are_missed_when_the_log_is_opened_and_verified(tmp_path):
    path = tmp_path / "log"
    await written(path, 200)
    whole = bytearray(path.read_bytes())
    ((root,),) = sql(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'events'")
    page = whole[(root - 1) * 4096 : root * 4096]
    assert page[0] == 5, "the events fit on one page"
    cell = int.from_bytes(page[12:14])
    leaf = int.from_bytes(page[cell : cell + 4])  # the table is its first rows now, and they are a chain
    whole[(root - 1) * 4096 : root * 4096] = whole[(leaf - 1) * 4096 : leaf * 4096]
    path.write_bytes(whole)
    error = await refusal(path)
    assert re.search(r"position \d+: the event is missing: the index of the file has stream", str(error))
    found = verify_file(str(path))
    assert 0 < found.events < 200
    assert found.position == found.events + 1
    assert "the event is missing" in found.fault


async def test_a_file_that_was_cut_off_is_found_when_the_log_is_opened(tmp_path):
    path = tmp_path / "log"
    await written(path, 200)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert re.search(r"malformed|damaged", str(await refusal(path)))


# Places where nothing can be written


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none/log", "cannot open .*none/log.lock: No such file or directory"),
        ("folder", "cannot open it to write: Is a directory"),
        ("notes.txt/log", "cannot open .*log.lock: Not a directory"),
    ],
)
async def test_a_place_where_no_file_can_be_says_which_and_why(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("")
    error = await refusal(tmp_path / name)
    assert isinstance(error, StorageFailed)
    assert re.search(reason, str(error))


@pytest.mark.root
@NEEDS_ROOT
@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False], ids=["with its lock file", "without"])
async def test_a_log_in_a_folder_that_is_read_only_is_refused_and_can_be_verified(tmp_path, kept):
    folder = tmp_path / "folder"
    folder.mkdir()
    await written(folder / "log", 7)
    if not kept:
        (folder / "log.lock").unlink()
    done = run_read_only(folder, OPEN, str(folder / "log"))
    refused, verified = done.stdout.splitlines()
    assert refused == (
        f"StorageFailed event log {folder}/log: cannot open {folder}/log.lock: Read-only file system; "
        "nothing was written, check space, permissions and the disk"
    )
    assert verified == "7", done


@pytest.mark.root
@NEEDS_ROOT
@pytest.mark.slow
async def test_a_log_whose_file_alone_is_read_only_is_refused_and_can_be_verified(tmp_path):
    await written(tmp_path / "log", 7)
    done = run_read_only(tmp_path / "log", OPEN, str(tmp_path / "log"))
    refused, verified = done.stdout.splitlines()
    assert re.search(f"StorageFailed event log {tmp_path}/log: cannot open it to write: Read-only", refused), done
    assert verified == "7", done


# Whose fault it is


async def test_a_file_that_somebody_else_holds_is_waited_for_and_then_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "_BUSY_S", 0.05)
    path = tmp_path / "log"
    await written(path)
    other = sqlite3.connect(path, isolation_level=None)
    async with SqliteLog.open(str(path), TickingClock()) as log:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageFailed, match=r"database is locked \(SQLITE_BUSY"):
            await fill(log, 1)
        other.execute("ROLLBACK")
        other.close()
        await fill(log, 1)
        assert log.head == 6


@pytest.mark.parametrize(
    ("code", "name", "family"),
    [
        (sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT", NotALog),
        (sqlite3.SQLITE_CORRUPT | 2 << 8, "SQLITE_CORRUPT_SEQUENCE", NotALog),
        (sqlite3.SQLITE_NOTADB, "SQLITE_NOTADB", NotALog),
        (sqlite3.SQLITE_FULL, "SQLITE_FULL", StorageFailed),
        (sqlite3.SQLITE_IOERR | 4 << 8, "SQLITE_IOERR_FSYNC", StorageFailed),
    ],
)
def test_damage_and_trouble_are_told_apart(code, name, family):
    error = sqlite3.OperationalError("something")
    error.sqlite_errorcode, error.sqlite_errorname = code, name
    told = failure("/x/log", error)
    assert type(told) is family
    assert f"something ({name})" in str(told)
