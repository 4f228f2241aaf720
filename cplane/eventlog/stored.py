"""What every durable log does for its callers, whatever keeps its events: one writer thread, and readers beside it."""

import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, NoReturn

import anyio
from anyio import to_thread

from cplane.errors import CplaneError
from cplane.eventlog.chain import READ_MAX, TAIL_BATCH
from cplane.eventlog.codec import draft
from cplane.eventlog.errors import BadEvent, LogClosed
from cplane.eventlog.ports import Clock
from cplane.eventlog.writer import Loop, Request, Writer, call_soon
from cplane.events.envelope import Envelope, Proposed
from cplane.timetravel.ledger import Ledger

WAITING_MAX: Final = 4096  # appends that wait for the disk; a further one waits to be taken in


class StoredLog(ABC):
    """A durable event log; `path` is its name in messages."""

    def __init__(self, path: str, clock: Clock, writer: Callable[[Loop], Writer], *, readers: int) -> None:
        self.path = path
        self._clock = clock
        self._writer = writer(Loop(call_soon(), self._answer, self._end))
        self._thread = threading.Thread(target=self._writer.run, name="event log", daemon=True)
        self._waiting = 0
        self._readers = anyio.CapacityLimiter(readers)
        self._grown = anyio.Event()  # the next batch is written: for tails, and for those who wait for room
        # Appends that come between two batches are of one batch, so they wait for one event: with hundreds of clients
        # an event for each, or one that wakes all of them each time, would be the dearest part of an append.
        self._turn, self._taken = anyio.Event(), 0
        self._closed = False

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

        Raises StreamConflict, Unwritable, StorageFailed, LogClosed, and what `read` raises when the file was damaged:
        nothing was written. A caller that is cancelled while it waits does not know whether the events were written.
        When WAITING_MAX appends wait, it waits first.
        """
        drafts = draft(proposed)
        while self._waiting >= WAITING_MAX and not self._closed:
            await self._grown.wait()
        if self._closed:
            self._refuse()
        if self._taken != self._writer.taken:
            self._turn, self._taken = anyio.Event(), self._writer.taken
        request = Request(drafts, dict(proposed.expected), self._clock.now_ns(), self._turn)
        self._writer.queue.put(request)
        self._waiting += 1
        while not request.answered:
            await request.turn.wait()
            request.turn = self._turn
        outcome = request.outcome
        if isinstance(outcome, CplaneError):
            raise outcome
        if outcome is None:
            self._refuse()
        return outcome

    async def read(self, after: int = 0, limit: int = 1000) -> Sequence[Envelope]:
        """Up to `limit` events, and never more than READ_MAX, with a position greater than `after`, in order.

        Those that were dropped are not there any more. Raises BadEvent, NotALog, StorageFailed, LogClosed.
        """
        first, most = max(after, 0), min(max(limit, 0), READ_MAX)
        there = self.head
        events = await to_thread.run_sync(self._read, first, most, limiter=self._readers)
        last = events[-1].position if events else first
        if len(events) < most and last < there:
            raise BadEvent(last + 1, "the event is missing")
        return events

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
            batch = await self.read(after, TAIL_BATCH)
            if batch:
                yield batch
                after = batch[-1].position

    @abstractmethod
    def folded(self) -> Ledger:
        """What the log says, as long as nothing was appended since it was opened. It may block. Raises BadEvent."""

    @abstractmethod
    def _read(self, after: int, limit: int) -> list[Envelope]:
        """Up to `limit` events behind `after`, in a thread of the readers. Raises what `read` raises."""

    def _refuse(self) -> NoReturn:
        if self._writer.fault is None:
            raise LogClosed
        raise AssertionError(f"the writer of {self.path} has ended: {self._writer.fault!r}") from self._writer.fault

    def _answer(self, batch: list[Request]) -> None:
        self._waiting -= len(batch)
        for request in batch:
            request.answered = True
        woken = {request.turn for request in batch} | {self._grown}
        self._grown = anyio.Event()
        if self._turn in woken:  # whoever waits for it and is of another batch waits for this one
            self._turn = anyio.Event()
        for event in woken:
            event.set()

    def _end(self) -> None:
        """Without a writer nobody may be left waiting: not after the end, and not after a bug."""
        self._closed = True
        self._answer(self._writer.left())

    async def _close(self) -> None:
        self._closed = True
        self._writer.queue.put(None)
        try:
            with anyio.CancelScope(shield=True):
                # With a limiter of its own: the threads of the process may all wait for something that waits for us.
                await to_thread.run_sync(self._thread.join, limiter=anyio.CapacityLimiter(1))
        finally:
            self._thread.join()  # it has ended, unless a cancellation of asyncio's own went through the shield
