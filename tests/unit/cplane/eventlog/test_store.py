"""What is acknowledged stays, across closing, cancelling and meddling; what an open log does beyond its contract."""

import asyncio
import os
import sqlite3
import threading
from contextlib import aclosing

import anyio
import pytest
from anyio import to_thread

from cplane.eventlog import stored
from cplane.eventlog.errors import BadEvent, LogClosed, LogLocked, StreamConflict
from cplane.eventlog.store import SqliteLog
from cplane.eventlog.verify import verify_file
from tests.support.clock import TickingClock
from tests.support.log import everything, fill, proposal, sql, written

pytestmark = pytest.mark.anyio


def opened(path):
    return SqliteLog.open(str(path), TickingClock())


def stopped(path):
    """Somebody else holds the file, so that the writer waits; to be ended by `go_on`, soon."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    return other


async def go_on(other):
    await anyio.wait_all_tasks_blocked()
    other.execute("ROLLBACK")
    other.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


async def test_a_log_that_is_opened_again_is_the_same(path):
    async with opened(path) as log:
        await fill(log, 5)
        head, digest, events = log.head, log.digest, await everything(log)
    async with opened(path) as log:
        assert (log.head, log.digest, await everything(log)) == (head, digest, events)
        with pytest.raises(StreamConflict):
            await log.append(proposal(0))
        await fill(log, 1)
        assert log.head == 6


async def test_a_log_has_one_writer(path):
    async with opened(path) as log:
        with pytest.raises(LogLocked, match=f"in use by process {os.getpid()}"):
            async with opened(path):
                raise AssertionError
        await fill(log, 1)
    async with opened(path) as log:
        assert log.head == 1


async def test_nothing_is_left_open_by_a_log_that_was_closed_or_could_not_be_opened(path):
    before = set(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    async with opened(path) as log:
        await fill(log, 1)
        await log.read()
    sql(path, "DROP TABLE alembic_version")
    with pytest.raises(Exception, match="alembic_version"):
        async with opened(path):
            raise AssertionError
    await to_thread.run_sync(lambda: None)
    assert len(os.listdir("/proc/self/fd")) <= len(before)
    assert threading.active_count() <= threads + 1  # the event loop's own worker
    assert {entry.name for entry in path.parent.iterdir()} == {"log", "log.lock"}


# Closing


async def test_what_was_taken_in_is_written_before_the_log_is_closed(path):
    answers = []

    async def client(number):
        answers.extend(await log.append(proposal(0, stream=f"s{number}")))

    async with anyio.create_task_group() as tasks, opened(path) as log:
        other = stopped(path)
        for number in range(40):
            tasks.start_soon(client, number)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(go_on, other)
    assert len(answers) == 40
    async with opened(path) as log:
        assert sorted(await everything(log), key=lambda one: one.position) == sorted(
            answers, key=lambda one: one.position
        )


async def test_a_closed_log_takes_and_gives_nothing(path):
    async with opened(path) as log:
        await fill(log, 3)
        batches = log.tail(1)
        assert [one.position for one in await anext(batches)] == [2, 3]
    for refused in (lambda: log.append(proposal(3)), log.read, lambda: anext(batches), lambda: anext(log.tail())):
        with pytest.raises(LogClosed, match="the event log is closed"):
            await refused()
    assert log.head == 3


async def test_those_who_wait_are_told_that_the_log_is_closed_or_answered_but_never_left(path, monkeypatch):
    monkeypatch.setattr(stored, "WAITING_MAX", 2)
    told, answered = [], []

    async def follow():
        async with aclosing(log.tail()) as batches:
            with pytest.raises(LogClosed):
                async for _ in batches:
                    pass
        told.append("tail")

    async def append(number):
        try:
            answered.append(await log.append(proposal(0, stream=f"s{number}")))
        except LogClosed:
            told.append(number)

    async with anyio.create_task_group() as tasks, opened(path) as log:
        other = stopped(path)
        tasks.start_soon(follow)
        for number in range(8):
            tasks.start_soon(append, number)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(go_on, other)
    assert "tail" in told
    assert (len(told), len(answered)) == (7, 2)
    assert verify_file(str(path)).events == 2


async def test_a_reader_that_had_begun_gets_its_answer_and_one_that_had_not_is_told(path):
    outcomes = []

    async def read():
        try:
            outcomes.append(len(await log.read()))
        except LogClosed:
            outcomes.append("closed")

    await written(path, 3)
    async with anyio.create_task_group() as tasks, opened(path) as log:
        for _ in range(20):
            tasks.start_soon(read)
        await anyio.lowlevel.checkpoint()
    assert len(outcomes) == 20
    assert set(outcomes) <= {3, "closed"}


async def test_a_log_whose_owner_is_cancelled_writes_what_it_took_in(path):
    async with anyio.create_task_group() as tasks:

        async def own():
            async with opened(path) as log, anyio.create_task_group() as clients:
                for number in range(10):
                    clients.start_soon(log.append, proposal(0, stream=f"s{number}"))
                await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()

        tasks.start_soon(own)
    assert verify_file(str(path)).fault == ""
    async with opened(path) as log:
        assert log.head <= 10


def test_a_cancellation_of_asyncios_own_does_not_close_the_file_under_the_writer(path):
    async def own(ready):
        async with opened(path) as log:
            other = stopped(path)
            appending = [asyncio.ensure_future(log.append(proposal(0, stream=f"s{n}"))) for n in range(4)]
            await asyncio.sleep(0)
            ready.set_result((log, other, appending))

    async def main():
        ready = asyncio.get_running_loop().create_future()
        owner = asyncio.ensure_future(own(ready))
        log, other, appending = await ready
        await asyncio.sleep(0)
        threading.Timer(0.02, lambda: (other.execute("ROLLBACK"), other.close())).start()
        owner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await owner
        assert not log._thread.is_alive()
        return [len(one) for one in await asyncio.gather(*appending)]

    assert asyncio.run(main()) == [1, 1, 1, 1]
    assert verify_file(str(path)).events == 4


# Many at once


async def test_so_many_wait_for_the_disk_and_a_further_one_waits_to_be_taken_in(path, monkeypatch):
    monkeypatch.setattr(stored, "WAITING_MAX", 3)
    async with opened(path) as log:
        other = stopped(path)
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(log.append, proposal(0, stream=f"s{number}"))
            await anyio.wait_all_tasks_blocked()
            assert log._writer.queue.qsize() <= 3
            assert log._waiting == 3
            await go_on(other)
        assert log.head == 50


async def test_those_who_are_cancelled_while_they_wait_give_their_room_back(path, monkeypatch):
    monkeypatch.setattr(stored, "WAITING_MAX", 2)
    async with opened(path) as log:
        for turn in range(3):
            other = stopped(path)
            async with anyio.create_task_group() as tasks:
                for number in range(6):
                    tasks.start_soon(log.append, proposal(0, stream=f"s{turn}.{number}"))
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            await go_on(other)
        with anyio.fail_after(5):
            await fill(log, 3, stream="last", batch=1)


# Meddling while it is open


async def test_an_event_that_goes_missing_while_the_log_is_open_is_found_by_readers(path):
    async with opened(path) as log:
        await fill(log, 5)
        sql(path, "DELETE FROM events WHERE position = 3")
        assert [one.position for one in await log.read(3)] == [4, 5]
        for after in (0, 2):
            with pytest.raises(BadEvent, match="position 3: the event is missing"):
                await log.read(after)
        assert [one.position for one in await log.read(0, 2)] == [1, 2]


async def test_events_that_go_missing_at_the_end_are_found_by_readers_and_tails(path):
    async with opened(path) as log:
        await fill(log, 5)
        sql(path, "DELETE FROM events WHERE position > 3")
        with pytest.raises(BadEvent, match="position 4: the event is missing"):
            await log.read()
        assert [one.position for one in await log.read(0, 3)] == [1, 2, 3]
        async with aclosing(log.tail(3)) as batches:
            with pytest.raises(BadEvent, match="position 4: the event is missing"):
                await anext(batches)
