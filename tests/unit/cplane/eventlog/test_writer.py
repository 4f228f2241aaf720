"""The one thread that writes: batches, storage that refuses, somebody else who writes, and its own death."""

import signal
import sqlite3
import subprocess
import sys

import anyio
import pytest

from cplane.eventlog import writer
from cplane.eventlog.chain import Chain
from cplane.eventlog.errors import BadEvent, StorageFailed, StreamConflict
from cplane.eventlog.store import SqliteLog
from cplane.eventlog.verify import verify_file
from tests.support.clock import TickingClock
from tests.support.log import everything, fact, fill, proposal, sql, written

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


@pytest.fixture
async def log(anyio_backend, path):
    async with SqliteLog.open(str(path), TickingClock()) as opened:
        yield opened


class Seen:
    """The statements that the writer executes from now on."""

    def __init__(self, log) -> None:
        self.statements: list[str] = []
        log._writer._connection.set_trace_callback(self.statements.append)

    def count(self, start: str) -> int:
        return sum(one.startswith(start) for one in self.statements)


class Stopped:
    """Somebody else holds the file meanwhile, so that what is appended waits and becomes one batch."""

    def __init__(self, path) -> None:
        self.path = path

    async def __aenter__(self):
        self.other = sqlite3.connect(self.path, isolation_level=None)
        self.other.execute("BEGIN IMMEDIATE")

    async def __aexit__(self, *_):
        await anyio.wait_all_tasks_blocked()
        self.other.execute("ROLLBACK")
        self.other.close()


def limit_pages(log, more: int) -> None:
    """The file may grow by so many pages of 4 KiB, as if the disk were full then."""
    connection = log._writer._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + more}")


async def append(log, outcomes, stream, at, *events):
    """One of many: what became of it is in `outcomes`."""
    try:
        outcomes[stream] = await log.append(proposal(at, *events, stream=stream))
    except (StreamConflict, StorageFailed, BadEvent) as refused:
        outcomes[stream] = refused


# Batches


async def test_what_waits_together_is_written_together_with_one_sync(log, path):
    seen, outcomes = Seen(log), {}
    async with anyio.create_task_group() as tasks, Stopped(path):
        tasks.start_soon(append, log, outcomes, "first", 0)
        await anyio.wait_all_tasks_blocked()
        for number in range(30):
            tasks.start_soon(append, log, outcomes, f"s{number}", 0)
    assert len(await everything(log)) == len(outcomes) == 31
    assert seen.count("COMMIT") in {1, 2}  # the first may have been taken alone


async def test_a_batch_has_a_greatest_size_and_an_append_is_never_split(log, path, monkeypatch):
    monkeypatch.setattr(writer, "BATCH_EVENTS", 10)
    seen, outcomes = Seen(log), {}
    async with anyio.create_task_group() as tasks, Stopped(path):
        for number in range(9):
            tasks.start_soon(append, log, outcomes, f"s{number}", 0, *(fact(n) for n in range(7)))
            await anyio.wait_all_tasks_blocked()
    assert len(await everything(log)) == 63
    assert seen.count("COMMIT") == 5  # one alone, and then two and two

    for answer in outcomes.values():
        assert [one.position for one in answer] == list(range(answer[0].position, answer[0].position + 7))


async def test_a_conflict_in_a_batch_leaves_the_others_as_they_are(log, path):
    await fill(log, 1, stream="s3")
    outcomes = {}
    async with anyio.create_task_group() as tasks, Stopped(path):
        for number in range(6):
            tasks.start_soon(append, log, outcomes, f"s{number}", 0)
    refused = {stream for stream, outcome in outcomes.items() if isinstance(outcome, StreamConflict)}
    assert refused == {"s3"}
    assert {one.stream for one in await everything(log)} == {f"s{number}" for number in range(6)}


async def test_two_of_a_batch_that_decided_on_one_version_are_told_apart(log, path):
    outcomes = []

    async def race():
        try:
            outcomes.append(await log.append(proposal(0)))
        except StreamConflict as refused:
            outcomes.append(refused)

    async with anyio.create_task_group() as tasks, Stopped(path):
        for _ in range(5):
            tasks.start_soon(race)
    assert sum(isinstance(one, StreamConflict) for one in outcomes) == 4
    assert log.head == 1


# Storage that refuses


async def test_a_full_disk_refuses_the_whole_batch_with_its_name_and_reason_and_the_log_goes_on(log, path):
    before = list(await fill(log, 5))
    limit_pages(log, 0)
    outcomes = {}
    async with anyio.create_task_group() as tasks, Stopped(path):
        for number in range(4):
            tasks.start_soon(append, log, outcomes, f"s{number}", 0, *(fact(n) for n in range(50)))
    advice = "nothing was written, check space, permissions and the disk"
    told = f"event log {path}: database or disk is full (SQLITE_FULL); {advice}"
    assert [str(refused) for refused in outcomes.values()] == [told] * 4
    assert (log.head, await everything(log)) == (5, before)
    assert verify_file(str(path)).events == 5
    limit_pages(log, 1000)
    assert [one.position for one in await fill(log, 200)] == list(range(6, 206))
    assert verify_file(str(path)).events == 205


async def test_a_conflict_with_what_was_then_not_written_is_no_conflict(log, path):
    await fill(log, 1)
    limit_pages(log, 0)
    outcomes = {}

    async def race(number):
        try:
            await log.append(proposal(1, *(fact(n) for n in range(200))))
        except (StorageFailed, StreamConflict) as refused:
            outcomes[number] = refused

    async with anyio.create_task_group() as tasks, Stopped(path):
        for number in range(3):
            tasks.start_soon(race, number)
    assert [type(one) for one in outcomes.values()] == [StorageFailed] * 3
    assert log.head == 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 3])
def test_an_append_whose_sync_failed_does_not_come_back_after_a_crash(path, count):
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.failing_sync", str(path), str(count)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    acknowledged, refused = done.stdout.splitlines()
    assert acknowledged == f"acknowledged {count}"
    assert refused.startswith(f"refused event log {path}: disk I/O error (SQLITE_IOERR")
    assert verify_file(str(path)).events == count
    anyio.run(written, path, 1)
    assert verify_file(str(path)).events == count + 1


# Somebody else who writes


async def test_a_row_of_somebody_else_stops_all_writing_and_is_not_built_upon(log, path):
    await fill(log, 2)
    columns = "3, stream, 3, type, schema, recorded_at_ns, actor, cause, data, digest"
    sql(path, f"INSERT INTO events SELECT {columns} FROM events WHERE position = 2")
    for _ in range(3):
        with pytest.raises(BadEvent, match="position 2: somebody else writes: the file ends at position 3 now"):
            await log.append(proposal(2))
    assert log.head == 2
    assert verify_file(str(path)).position == 3


async def test_a_last_event_that_goes_missing_stops_all_writing_when_it_is_seen(log, path):
    await fill(log, 3)
    sql(path, "DELETE FROM events WHERE position = 3")
    log._writer._in_doubt = True  # as after any refusal of the storage
    with pytest.raises(BadEvent, match="position 3: somebody else writes: the file ends at position 2 now"):
        await log.append(proposal(3))


# Its own death


class BrokenClock(TickingClock):
    """A clock whose time, when it is broken, is no number that can be stored."""

    broken = False

    def now_ns(self):
        return 1 << 70 if self.broken else super().now_ns()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_writer_that_dies_of_a_bug_leaves_nobody_waiting_and_loses_nothing(path):
    clock, outcomes = BrokenClock(), []

    async def client(log, number):
        try:
            await log.append(proposal(0, stream=f"s{number}"))
        except AssertionError as bug:
            outcomes.append(bug)

    async with SqliteLog.open(str(path), clock) as log:
        await fill(log, 3)
        clock.broken = True
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks, Stopped(path):
                for number in range(10):
                    tasks.start_soon(client, log, number)
            assert len(outcomes) == 10
            for later in (lambda: log.append(proposal(3)), log.read, lambda: anext(log.tail())):
                with pytest.raises(AssertionError, match=f"the writer of {path} has ended: error"):
                    await later()
    assert all("has ended" in str(bug) and bug.__cause__ is not None for bug in outcomes)
    assert verify_file(str(path)).events == 3


class Faulty(writer.Writer):
    """A writer with a bug."""

    def _prepare(self) -> None:
        raise ZeroDivisionError

    def _commit(self, rows: list, after: Chain) -> None:
        raise NotImplementedError


def test_a_bug_is_known_before_anybody_is_woken() -> None:
    told: list[BaseException | None] = []
    loop = writer.Loop(lambda call: call(), lambda _: told.append(faulty.fault), lambda: None)
    faulty = Faulty(Chain(), loop)
    faulty.queue.put(writer.Request((), {}, 0, anyio.Event()))
    with pytest.raises(ZeroDivisionError):
        faulty.run()
    assert [type(one) for one in told] == [ZeroDivisionError]


async def test_nothing_is_acknowledged_in_a_file_that_was_removed(log, path, tmp_path):
    await fill(log, 2)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    with pytest.raises(StorageFailed, match="it was removed, or another file is in its place"):
        await fill(log, 1)
    path.touch()
    with pytest.raises(StorageFailed, match="it was removed, or another file is in its place"):
        await fill(log, 1)
    elsewhere.rename(path)
    await log.append(proposal(2))
    assert log.head == 3
