"""The one thread that writes: everything that waits goes into one transaction, and one sync answers all of it."""

import asyncio
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final, Protocol, runtime_checkable

import anyio
import msgspec
from anyio.lowlevel import current_token

from cplane.errors import CplaneError
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import GENESIS, Draft, Row
from cplane.eventlog.errors import BadEvent, StorageFailed, StreamConflict
from cplane.eventlog.schema import INSERT, OVERWRITE, SELECT_LAST
from cplane.eventlog.sqlite import failure
from cplane.events.envelope import Envelope, StreamId

BATCH_EVENTS: Final = 4096  # a transaction takes no further request when it has so many; the rest waits for the next

CallSoon = Callable[[Callable[[], object]], object]


class Request(msgspec.Struct, eq=False):
    """Events that want to enter the log.

    `outcome` is the writer's and holds when `answered`, which is the loop's, is true; None: nobody was left to write.
    `turn` wakes whoever waits for it, and others that came at the same time.
    """

    drafts: tuple[Draft, ...]
    expected: dict[StreamId, int]
    recorded_at_ns: int
    turn: anyio.Event
    outcome: Sequence[Envelope] | CplaneError | None = None
    answered: bool = False


@runtime_checkable
class _TrioToken(Protocol):
    def run_sync_soon(self, sync_fn: Callable[[], object], /) -> object: ...


def call_soon() -> CallSoon:
    """What makes the running event loop call a function, from any thread and without waiting for it.

    anyio's own `from_thread.run_sync` waits for the result, and the disk would stand still meanwhile.
    """
    native = current_token().native_token
    if isinstance(native, asyncio.AbstractEventLoop):
        return native.call_soon_threadsafe
    assert isinstance(native, _TrioToken), f"unknown event loop {native!r}"
    return native.run_sync_soon


@dataclass(frozen=True, slots=True)
class Loop:
    """How a writer calls the event loop: `answer` with requests that have their outcome, and `ended` as the last."""

    soon: CallSoon
    answer: Callable[[list[Request]], None]
    ended: Callable[[], None]


class Writer(ABC):
    """Writes while `run` runs, in a thread of its own. `chain` is the end of what is durable."""

    def __init__(self, chain: Chain, loop: Loop) -> None:
        self.chain = chain
        self.queue: SimpleQueue[Request | None] = SimpleQueue()
        self.taken = 0  # batches
        self.fault: BaseException | None = None
        self._loop = loop

    @abstractmethod
    def _prepare(self) -> None:
        """What is durable ends at `chain`, whatever failed before. Raises CplaneError."""

    @abstractmethod
    def _commit(self, rows: list[Row], after: Chain) -> None:
        """The rows, which lead from `chain` to `after`, are durable. Raises CplaneError: none of them is."""

    def _next(self) -> Request | None:
        """The request that has waited longest; waits for one."""
        return self.queue.get()

    def run(self) -> None:
        """Writes what `queue` gives until it gives None, or until a bug, which is `fault` then.

        `answer` gets every request that was taken, and `ended` is called last, both in the loop's thread.
        """
        try:
            more = True
            while more:
                batch, more = self._take()
                self.taken += 1
                try:
                    self._write(batch)
                except BaseException as fault:
                    self.fault = fault  # before those are woken who would take it for a log that was closed
                    raise
                finally:
                    self._loop.soon(partial(self._loop.answer, batch))
        except BaseException as fault:
            self.fault = fault
            raise
        finally:
            self._loop.soon(self._loop.ended)

    def left(self) -> list[Request]:
        """What nobody will write. In the loop's thread and after the end only."""
        found: list[Request] = []
        while True:
            try:
                request = self.queue.get_nowait()
            except Empty:
                return found
            if request is not None:
                found.append(request)

    def _take(self) -> tuple[list[Request], bool]:
        """All requests that wait, up to the bound, and whether there will be more."""
        batch: list[Request] = []
        events = 0
        request = self._next()
        while request is not None:
            batch.append(request)
            events += len(request.drafts)
            if events >= BATCH_EVENTS:
                return batch, True
            try:
                request = self.queue.get_nowait()
            except Empty:
                return batch, True
        return batch, False

    def _write(self, batch: list[Request]) -> None:
        """Every request of `batch` has its outcome; what has envelopes is durable, the rest will never be."""
        try:
            self._prepare()
            chain = self.chain.copy()
            rows, taken = _admit(batch, chain)
            if rows:
                self._commit(rows, chain)
        except CplaneError as refusal:
            for request in batch:
                request.outcome = refusal
        else:
            self.chain = chain
            for request, envelopes in taken:
                request.outcome = envelopes


class SqliteWriter(Writer):
    """Writes into a file, whose lock and connection are its own."""

    def __init__(self, connection: sqlite3.Connection, chain: Chain, path: str, loop: Loop) -> None:
        super().__init__(chain, loop)
        self._connection = connection
        self._path = path
        self._file = _file_at(path)
        self._in_doubt = False

    def _prepare(self) -> None:
        if _file_at(self._path) != self._file:
            # SQLite goes on with a file that nobody will find again, and what is acknowledged must not be lost.
            reason = "it was removed, or another file is in its place: put it back, or start the agent again"
            raise StorageFailed(self._path, reason)
        if self._in_doubt:
            try:
                self._settle()
            except sqlite3.Error as error:
                raise failure(self._path, error) from error

    def _commit(self, rows: list[Row], after: Chain) -> None:
        del after
        try:
            self._write_rows(rows)
        except sqlite3.Error as error:
            raise failure(self._path, error) from error

    def _write_rows(self, rows: list[Row]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._in_doubt = True
        try:
            self._connection.executemany(INSERT, rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):  # which leaves it in doubt, and so for the next batch to settle
                self._connection.rollback()
                self._settle()
            raise
        self._in_doubt = False

    def _settle(self) -> None:
        """What a failed commit left in the file can never be read again, and the file ends where we think it does.

        When the sync of a commit fails, SQLite forgets the commit, but its frames stay behind the end of the
        write-ahead log, and whoever recovers that log after a crash takes them for a commit. Another commit in their
        place, even one that is not synced either, is what such a recovery finds instead.
        """
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            last = self._connection.execute(SELECT_LAST).fetchone() or (0, GENESIS)
            if last != (self.chain.position, self.chain.digest):
                raise BadEvent(self.chain.position, f"somebody else writes: the file ends at position {last[0]} now")
            self._connection.execute(OVERWRITE)
            self._connection.execute("COMMIT")
        finally:
            self._connection.rollback()
        self._in_doubt = False


def _file_at(path: str) -> tuple[int, int]:
    """Which file that is. Raises StorageFailed."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    except OSError as error:
        raise StorageFailed(path, f"cannot look at it: {error.strerror}") from error
    return found.st_dev, found.st_ino


def _admit(batch: list[Request], chain: Chain) -> tuple[list[Row], list[tuple[Request, list[Envelope]]]]:
    """The rows of all requests that fit behind one another; the others have their conflict as outcome."""
    rows: list[Row] = []
    taken = []
    for request in batch:
        try:
            added, envelopes = chain.extend(request.drafts, request.expected, request.recorded_at_ns)
        except StreamConflict as conflict:
            request.outcome = conflict
        else:
            rows += added
            taken.append((request, envelopes))
    return rows, taken
