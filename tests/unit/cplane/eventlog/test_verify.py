"""A stored log whose past was changed is found out, at the first event that is not what was written."""

import sqlite3 as driver
from contextlib import closing

import anyio
import pytest

from cplane.eventlog import sqlite
from cplane.eventlog.errors import BadEvent, NewerSchema, NotALog, StorageFailed
from cplane.eventlog.store import SqliteLog
from cplane.eventlog.verify import Finding, verify, verify_file
from tests.support.clock import TickingClock
from tests.support.log import everything, fill, forge, proposal, sql, written

pytestmark = pytest.mark.anyio
COUNT = 6
CHANGES = {
    "data": "UPDATE events SET data = replace(data, '10.0.0.3', '10.0.0.9') WHERE position = 3",
    "digest": "UPDATE events SET digest = zeroblob(32) WHERE position = 3",
    "recorded_at": "UPDATE events SET recorded_at_ns = recorded_at_ns + 1 WHERE position = 3",
    "actor": "UPDATE events SET actor = 'uid:1000(mallory)' WHERE position = 3",
    "cause": "UPDATE events SET cause = '' WHERE position = 3",
    "stream": "UPDATE events SET stream = 'ipam' WHERE position = 3",
    "version": "UPDATE events SET version = 99 WHERE position = 3",
    "type": "UPDATE events SET type = 'node.joined' WHERE position = 3",
    "schema": "UPDATE events SET schema = 2 WHERE position = 3",
    "invalid text": "UPDATE events SET data = CAST(x'ff' AS TEXT) WHERE position = 3",
    "missing": "DELETE FROM events WHERE position = 3",
    "moved away": "UPDATE events SET position = 100 WHERE position = 3",
    "digest of another length": "UPDATE events SET digest = x'00' WHERE position = 3",
    "a text for a digest": "UPDATE events SET digest = CAST('x' AS BLOB) WHERE position = 3",
}


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def path(tmp_path):
    await written(tmp_path / "log", COUNT)
    return tmp_path / "log"


async def test_a_log_that_is_as_it_was_written_is_sound(path):
    events = await written(path, 0)
    assert verify(str(path)) == (COUNT, events[-1].digest)
    assert verify_file(str(path)) == Finding(COUNT, events[-1].digest.hex())


async def test_a_log_without_events_is_sound(tmp_path):
    await written(tmp_path / "log", 0)
    assert verify_file(str(tmp_path / "log")) == Finding(0, "00" * 32)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_changed_past_is_found_at_its_first_event(path, change):
    events = await written(path, 0)
    sql(path, change)
    found = verify_file(str(path))
    assert (found.events, found.digest, found.position) == (2, events[1].digest.hex(), 3)
    assert "digest does not fit" in found.fault or "the event is missing" in found.fault
    with pytest.raises(BadEvent, match="position 3"):
        verify(str(path))
    with pytest.raises(BadEvent, match=r"position 3.*restore a copy that `cplane log verify` finds sound"):
        async with SqliteLog.open(str(path), TickingClock()):
            raise AssertionError


async def test_swapping_two_events_is_found(path):
    sql(
        path,
        "UPDATE events SET position = -3 WHERE position = 3",
        "UPDATE events SET position = 3 WHERE position = 4",
        "UPDATE events SET position = 4 WHERE position = -3",
    )
    assert verify_file(str(path)).position == 3


async def test_an_event_before_the_first_is_found(path):
    columns = "stream, 50, type, schema, recorded_at_ns, actor, cause, data, digest"
    sql(path, f"INSERT INTO events SELECT 0, {columns} FROM events WHERE position = 1")
    assert verify_file(str(path)) == Finding(0, "00" * 32, 0, "out of order")


async def test_an_event_that_somebody_appended_is_found(path):
    columns = "stream, 7, type, schema, recorded_at_ns, actor, cause, data, digest"
    sql(path, f"INSERT INTO events SELECT 7, {columns} FROM events WHERE position = 6")
    assert verify_file(str(path)).position == 7


async def test_a_past_that_was_rewritten_to_its_end_shows_in_the_digest(path, tmp_path):
    events = await written(path, 0)
    other = tmp_path / "other"
    async with SqliteLog.open(str(other), TickingClock()) as log:
        for version in range(COUNT):
            await log.append(proposal(version, actor="somebody else"))
    found = verify_file(str(other))
    assert (found.fault, found.events) == ("", COUNT)
    assert found.digest != events[-1].digest.hex()


async def test_events_that_are_missing_at_the_end_leave_a_sound_log_that_is_shorter(path):
    events = await written(path, 0)
    sql(path, "DELETE FROM events WHERE position > 4")
    assert verify_file(str(path)) == Finding(4, events[3].digest.hex())
    async with SqliteLog.open(str(path), TickingClock()) as log:
        assert (log.head, log.digest) == (4, events[3].digest)


@pytest.mark.parametrize(
    ("kind", "schema", "data", "reason"),
    [
        ("node.moved", 1, "{}", "event type 'node.moved' version 1 is not known to this version of cplane"),
        ("node.joined", 7, "{}", "event type 'node.joined' version 7 is not known to this version of cplane"),
        ("endpoint.deleted", 1, '{"endpoint":"x"}', "the event cannot be read"),
    ],
)
async def test_an_event_that_is_sound_and_cannot_be_read_is_not_counted_as_sound(path, kind, schema, data, reason):
    events = await written(path, 0)
    forge(path, kind, schema, data)
    found = verify_file(str(path))
    assert (found.events, found.digest, found.position) == (COUNT, events[-1].digest.hex(), COUNT + 1)
    assert reason in found.fault
    async with SqliteLog.open(str(path), TickingClock()) as log:
        with pytest.raises(BadEvent, match=reason):
            await everything(log)


async def test_what_is_no_log_says_so(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "notes").write_text("some notes\n" * 500)
    sql(tmp_path / "other", "CREATE TABLE accounts (id INTEGER)")
    for name, reason in (
        ("none", "there is no such file"),
        ("empty", "it is empty"),
        ("notes", "file is not a database"),
        ("other", "it has no table 'alembic_version and events'"),
    ):
        path = tmp_path / name
        before = path.read_bytes() if path.exists() else None
        with pytest.raises(NotALog, match=reason):
            verify(str(path))
        found = verify_file(str(path))
        assert (found.events, found.position) == (0, 1)
        assert reason in found.fault
        assert (path.read_bytes() if path.exists() else None) == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"empty", "notes", "other"}


async def test_a_log_of_a_newer_version_says_so(path):
    sql(path, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(NewerSchema):
        verify(str(path))
    assert "has schema 9999" in verify_file(str(path)).fault


async def test_a_log_can_be_verified_while_it_is_written(path):
    async with SqliteLog.open(str(path), TickingClock()) as log, anyio.create_task_group() as tasks:
        tasks.start_soon(fill, log, 200)
        for _ in range(5):
            assert (await anyio.to_thread.run_sync(verify_file, str(path))).fault == ""
    assert verify_file(str(path)).events == COUNT + 200


async def test_a_log_that_was_not_closed_is_verified_with_its_write_ahead_log(path, tmp_path):
    async with SqliteLog.open(str(path), TickingClock()) as log:
        await fill(log, 3)
        for name in ("log", "log-wal"):
            (tmp_path / f"copy-{name}").write_bytes((tmp_path / name).read_bytes())
    assert verify_file(str(tmp_path / "copy-log")).events == COUNT + 3


def locked_out(path):
    """What a verification says when the file belongs to somebody else."""
    blocker = driver.connect(path, isolation_level=None)
    blocker.execute("PRAGMA locking_mode = EXCLUSIVE")
    blocker.execute("BEGIN EXCLUSIVE")
    return blocker


async def test_a_file_that_cannot_be_read_now_is_not_called_unsound(path, monkeypatch):
    monkeypatch.setattr(sqlite, "_BUSY_S", 0.05)
    with closing(locked_out(path)), pytest.raises(StorageFailed, match="database is locked"):
        verify_file(str(path))
    assert verify_file(str(path)).fault == ""
