"""A log that is gone with its process; otherwise it behaves like the stored one."""

from collections.abc import AsyncGenerator, Sequence

import anyio
import anyio.lowlevel

from cplane.eventlog.chain import READ_MAX, TAIL_BATCH, Chain
from cplane.eventlog.codec import draft
from cplane.eventlog.ports import Clock
from cplane.events.envelope import Envelope, Proposed


class MemoryLog:
    """An event log in a list. It grows with every event and is bounded by memory only: for tests and trials."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._chain = Chain()
        self._events: list[Envelope] = []
        self._grown = anyio.Event()

    @property
    def head(self) -> int:
        """Position of the last event; 0 when there is none."""
        return self._chain.position

    @property
    def digest(self) -> bytes:
        """Digest of the last event."""
        return self._chain.digest

    @property
    def entries(self) -> Sequence[Envelope]:
        """All events, to be read; the list grows at its end."""
        return self._events

    async def append(self, proposed: Proposed) -> Sequence[Envelope]:
        """The events are in the log, in consecutive positions. Raises StreamConflict, Unwritable."""
        await anyio.lowlevel.checkpoint()
        drafts = draft(proposed)
        _, envelopes = self._chain.extend(drafts, proposed.expected, self._clock.now_ns())
        self._events += envelopes
        grown, self._grown = self._grown, anyio.Event()
        grown.set()
        return envelopes

    async def read(self, after: int = 0, limit: int = 1000) -> Sequence[Envelope]:
        """Up to `limit` events, and never more than READ_MAX, with a position greater than `after`, in order."""
        await anyio.lowlevel.checkpoint()
        first = max(after, 0)
        return self._events[first : first + min(max(limit, 0), READ_MAX)]

    async def tail(self, after: int = 0) -> AsyncGenerator[Sequence[Envelope], None]:
        """Every event after `after`, in order and in batches, and then those to come, until it is closed."""
        after = max(after, 0)
        while True:
            grown = self._grown
            batch = await self.read(after, TAIL_BATCH)
            if batch:
                yield batch
                after = batch[-1].position
            else:
                await grown.wait()
