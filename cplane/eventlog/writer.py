"""The one thread that writes: everything that waits goes into one transaction, and one sync answers all of it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final, Protocol, runtime_checkable

import anyio
from anyio.lowlevel import current_token
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cplane.errors import CplaneError
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import GENESIS, Draft, Row
from cplane.eventlog.errors import StorageFailed, StreamConflict
from cplane.eventlog.schema import INSERT, SELECT_LAST, SELECT_VERSIONS
from cplane.eventlog.sqlite import storage_reason
from cplane.events.envelope import Envelope, StreamId

BATCH_EVENTS: Final = 4096  # a transaction takes no further request when it has so many; the rest waits for the next

CallSoon = Callable[[Callable[[], object]], object]


@dataclass(slots=True, eq=False)
class Request:
    """Events that want to enter the log; `outcome` is set when `done` is."""

    drafts: tuple[Draft, ...]
    expected: dict[StreamId, int]
    recorded_at_ns: int
    done: anyio.Event
    outcome: Sequence[Envelope] | CplaneError | None = None


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


class Writer:
    """Owns the connection while `run` runs, in a thread of its own."""

    def __init__(
        self,
        connection: Connection,
        chain: Chain,
        path: str,
        *,
        soon: CallSoon,
        answer: Callable[[list[Request]], None],
    ) -> None:
        self.chain = chain
        self.queue: SimpleQueue[Request | None] = SimpleQueue()
        self._connection = connection
        self._path = path
        self._soon, self._answer = soon, answer
        self._in_doubt = False

    def run(self) -> None:
        """Writes what `queue` gives until it gives None; `answer` gets every request, in the loop's thread."""
        try:
            more = True
            while more:
                batch, more = self._take()
                try:
                    self._write(batch)
                finally:
                    self._soon(partial(self._answer, batch))
        finally:
            # Without a writer nobody may be left waiting: not after the end, and not after a bug.
            self._soon(partial(self._answer, self._left()))

    def _take(self) -> tuple[list[Request], bool]:
        """All requests that wait, up to the bound, and whether there will be more."""
        batch: list[Request] = []
        events = 0
        request = self.queue.get()
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

    def _left(self) -> list[Request]:
        left: list[Request] = []
        while True:
            try:
                request = self.queue.get_nowait()
            except Empty:
                return left
            if request is not None:
                left.append(request)

    def _write(self, batch: list[Request]) -> None:
        """Every request of `batch` has its outcome; what has envelopes is durable."""
        try:
            if self._in_doubt:
                self.chain = self._stored()
                self._in_doubt = False
            chain = self.chain.copy()
            rows, taken = _admit(batch, chain)
            if rows:
                with self._connection.begin():
                    self._connection.exec_driver_sql(INSERT, rows)
            self.chain = chain
        except DBAPIError as error:
            # A commit that failed is rolled back, but only the file can tell what is in it: ask before the next one.
            self._in_doubt = True
            failure = StorageFailed(self._path, storage_reason(error))
            for request in batch:
                request.outcome = failure
        else:
            for request, envelopes in taken:
                request.outcome = envelopes

    def _stored(self) -> Chain:
        with self._connection.begin():
            last = self._connection.exec_driver_sql(SELECT_LAST).one_or_none()
            versions = {row[0]: row[1] for row in self._connection.exec_driver_sql(SELECT_VERSIONS)}
        position, digest = last or (0, GENESIS)
        return Chain(position, digest, versions)


def _admit(batch: list[Request], chain: Chain) -> tuple[list[Row], list[tuple[Request, list[Envelope]]]]:
    """The rows of all requests that fit behind one another; the others have their conflict as outcome."""
    rows: list[Row] = []
    taken = []
    for request in batch:
        try:
            extended = chain.extend(request.drafts, request.expected, request.recorded_at_ns)
        except StreamConflict as conflict:
            request.outcome = conflict
        else:
            rows += [row for row, _ in extended]
            taken.append((request, [envelope for _, envelope in extended]))
    return rows, taken
