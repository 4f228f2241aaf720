"""The event log in one SQLite file: one writer thread with group commit, readers beside it."""

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio
from anyio import to_thread
from sqlalchemy import Connection, Engine

from cplane.errors import CplaneError
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import decode_all, draft
from cplane.eventlog.errors import LogClosed
from cplane.eventlog.lock import held
from cplane.eventlog.ports import Clock
from cplane.eventlog.schema import SELECT
from cplane.eventlog.sqlite import READERS, open_reader, open_writer, translated
from cplane.eventlog.verify import walk
from cplane.eventlog.writer import Request, Writer, call_soon
from cplane.events.envelope import Envelope, Proposed

WAITING_MAX: Final = 4096  # appends that wait for the disk; a further one waits to be taken in
READ_MAX: Final = 10_000  # events in one answer
_TAIL_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class _File:
    writing: Engine
    connection: Connection
    reading: Engine
    chain: Chain


class SqliteLog:
    """A durable event log. Only `open` makes one."""

    def __init__(self, path: str, clock: Clock, file: _File) -> None:
        self.path = path
        self._clock = clock
        self._reading = file.reading
        self._writer = Writer(file.connection, file.chain, path, soon=call_soon(), answer=self._answer)
        self._thread = threading.Thread(target=self._writer.run, name="event log", daemon=True)
        self._room = anyio.Semaphore(WAITING_MAX, fast_acquire=True)
        self._readers = anyio.CapacityLimiter(READERS)
        self._grown = anyio.Event()
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str, clock: Clock) -> AsyncIterator["SqliteLog"]:
        """The log in the file at `path`, created if need be, migrated, and verified from the first event on.

        Raises LogLocked when it has a writer, NotALog, NewerSchema, BadEvent when it was changed, StorageFailed.
        At the end what was taken in is written first; later calls raise LogClosed.
        """
        stack = ExitStack()
        try:
            file = await to_thread.run_sync(_open, path, stack)
            log = cls(path, clock, file)
            log._thread.start()
            try:
                yield log
            finally:
                await log._close()
        finally:
            stack.close()

    @property
    def head(self) -> int:
        """Position of the last durable event; 0 when there is none."""
        return self._writer.chain.position

    @property
    def digest(self) -> bytes:
        """Digest of the last durable event."""
        return self._writer.chain.digest

    async def append(self, proposed: Proposed) -> Sequence[Envelope]:
        """The events are durable when this returns, in consecutive positions.

        Raises StreamConflict, Unwritable, StorageFailed, LogClosed: nothing was written. A caller that is cancelled
        while it waits does not know whether the events were written. When WAITING_MAX appends wait, it waits first.
        """
        drafts = draft(proposed)
        await self._room.acquire()
        if self._closed:
            self._room.release()
            raise LogClosed
        request = Request(drafts, dict(proposed.expected), self._clock.now_ns(), anyio.Event())
        self._writer.queue.put(request)
        await request.done.wait()
        if isinstance(request.outcome, CplaneError):
            raise request.outcome
        if request.outcome is None:
            raise LogClosed
        return request.outcome

    async def read(self, after: int = 0, limit: int = 1000) -> Sequence[Envelope]:
        """Up to `limit` events, and never more than READ_MAX, with a position greater than `after`, in order.

        Raises BadEvent, StorageFailed, LogClosed.
        """
        if self._closed:
            raise LogClosed
        first, most = max(after, 0), min(max(limit, 0), READ_MAX)
        return await to_thread.run_sync(self._read, first, most, limiter=self._readers)

    async def tail(self, after: int = 0) -> AsyncGenerator[Sequence[Envelope], None]:
        """Every event after `after`, in order and in batches, and then those to come, until it is closed.

        It reads the file and holds one batch only, so a slow reader costs nobody anything. Raises as `read` does.
        """
        after = max(after, 0)
        while True:
            grown = self._grown
            if after >= self.head and not self._closed:
                await grown.wait()
                continue
            batch = await self.read(after, _TAIL_BATCH)
            if batch:
                yield batch
                after = batch[-1].position

    def _read(self, after: int, limit: int) -> list[Envelope]:
        with translated(self.path), self._reading.connect() as connection:
            rows = connection.exec_driver_sql(SELECT, (after, limit)).fetchall()
        return decode_all((tuple(row) for row in rows), after)

    def _answer(self, batch: list[Request]) -> None:
        for request in batch:
            self._room.release()
            request.done.set()
        self._wake_tails()

    def _wake_tails(self) -> None:
        grown, self._grown = self._grown, anyio.Event()
        grown.set()

    async def _close(self) -> None:
        self._closed = True
        self._writer.queue.put(None)
        with anyio.CancelScope(shield=True):
            # With a limiter of its own: the threads of the process may all wait for something that waits for us.
            await to_thread.run_sync(self._thread.join, limiter=anyio.CapacityLimiter(1))
        self._wake_tails()


def _open(path: str, stack: ExitStack) -> _File:
    """Everything that must be closed again is on `stack` when this returns, and nothing is open when it raises."""
    try:
        stack.enter_context(held(path))
        writing = open_writer(path)
        stack.callback(writing.dispose)
        reading = open_reader(path)
        stack.callback(reading.dispose)
        with translated(path):
            chain = Chain()
            with reading.connect() as connection:
                walk(connection, chain)
            return _File(writing, stack.enter_context(writing.connect()), reading, chain)
    except BaseException:
        stack.close()
        raise
