"""Which flows a GetFlows request means: where to begin, what to give, when to stop.

Scans go chunk by chunk and let others run in between, so a query over a million flows delays nobody for long.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import anyio.lowlevel
import numpy as np
import numpy.typing as npt

from cplane.hubble.encode import BATCH, Encoder
from cplane.hubble.filters import Mask, Predicate
from cplane.hubble.ring import FlowRing, Loss, LossSource, Span
from cplane.hubble.store import FlowStore

CHUNK: Final = 1 << 17  # rows that are filtered at a time, which takes about a millisecond


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A request. `number` 0: no limit; `predicate` None: every flow; times are UTC nanoseconds."""

    number: int = 0
    first: bool = False
    follow: bool = False
    since_ns: int | None = None
    until_ns: int | None = None
    predicate: Predicate | None = None
    chunk: int = CHUNK  # rows that are judged before others run

    @property
    def limit(self) -> int | None:
        """How many flows end the answer; None: no number does. A follower is never done."""
        return self.number if self.number and not self.follow else None

    @property
    def needs_scan(self) -> bool:
        """Whether rows must be looked at to know if they are meant."""
        return self.predicate is not None or self.since_ns is not None or self.until_ns is not None

    def selects(self, span: Span) -> Mask:
        """Rows that are meant."""
        found = np.ones(len(span), np.bool_) if self.predicate is None else self.predicate(span)
        if self.since_ns is not None:
            found = found & (span["time_ns"] >= self.since_ns)
        if self.until_ns is not None:
            found = found & (span["time_ns"] <= self.until_ns)
        return found


class Page(NamedTuple):
    """Some flows of the past: `rows` of `span`, after which a reader goes on at `stop`."""

    span: Span
    rows: npt.NDArray[np.intp]
    stop: int
    encoder: Encoder
    missing: int  # flows before it that are nowhere
    losses: tuple[Loss, ...]  # just before the span


class Past(Protocol):
    """Flows of one query that are older than the ring; `cplane.hubble.archive.past.ArchivedPast` fits."""

    async def start(self, before: int, missing: int) -> int:
        """Where an answer begins that wants `missing` more flows than there are from `before` on; `before` if nowhere.

        How many are missing matters only for an answer that wants the last flows.
        """
        ...

    async def page(self, position: int, before: int) -> Page | None:
        """What comes first from `position` on; None when there is nothing before `before`."""
        ...


class Start(NamedTuple):
    """Where an answer begins, and how many flows that are older still it wants; 0: none."""

    position: int
    missing: int


async def find_start(ring: FlowRing, query: Query) -> Start:
    """The first flow of the ring to look at.

    `since` alone decides where it is given; else the last `number` flows that are selected. Flows that are
    later than `until` do not count, so `number` flows are found where as many exist.
    """
    end = ring.written
    if query.since_ns is None:
        if query.follow and not query.number:
            return Start(end, 0)
        if query.first or not query.number:
            return Start(ring.oldest, 1)
        if not query.needs_scan:
            return Start(max(ring.oldest, end - query.number), max(0, query.number - len(ring)))
    missing = max(query.number, 1)
    stop = begin = end
    while stop > ring.oldest:
        start = max(ring.oldest, stop - query.chunk, (stop - 1) // ring.capacity * ring.capacity)
        span = ring.span(start, stop)
        if query.since_ns is not None:
            rows = np.flatnonzero(span["time_ns"] >= query.since_ns)
            if not len(rows):
                return Start(begin, 0)
            begin = start + int(rows[0])  # what was lost before it is none of the answer's
        else:
            rows = np.flatnonzero(query.selects(span))
            if len(rows) >= missing:
                return Start(start + int(rows[-missing]), 0)
            missing -= len(rows)
        stop = start
        await anyio.lowlevel.checkpoint()
    return Start(ring.oldest if query.since_ns is None else begin, missing)


class Reading:
    """One answer in the making: framed messages, batch by batch.

    It holds one batch at a time: what is overwritten before it is read is read from the `past`, or becomes a message
    about lost flows.
    """

    def __init__(self, store: FlowStore, query: Query, encoder: Encoder, past: Past | None = None) -> None:
        self._store, self._ring, self._query, self._encoder = store, store.ring, query, encoder
        self._past = past
        self._page: Page | None = None  # whose rows are given; None: the ring's
        self._end = None if query.follow else store.ring.written
        self._position = -1  # of the next flow to look at; -1: not known yet
        self._span = Span({}, 0, 0, 0)
        self._rows: npt.NDArray[np.intp] = np.zeros(0, np.intp)  # of the span, selected and not given yet
        self._left = query.limit
        self._seen_ns = 0  # time of the newest flow that was given
        self._told = (-1, 0)  # a position, and how many losses there were told
        self._over = False

    async def next(self) -> bytes | None:
        """The next framed messages, up to BATCH of them; None at the end. A follower waits for more."""
        if self._position < 0:
            self._position = await self._start()
        while True:
            data = self._part() if len(self._rows) else None
            if data:
                return data
            if self._over or self._left == 0:
                return None
            if self._position < self._ring.oldest:
                data = await self._turn()
                if data:
                    return data
                if data is not None:
                    continue
            data = self._losses()
            if data:
                return data
            stop = self._chunk_end()
            if self._position < stop:
                self._open(stop)
                if not len(self._rows):
                    await anyio.lowlevel.checkpoint()
            elif self._end is None:
                await self._store.changed.wait()
            else:
                return None

    async def _start(self) -> int:
        position, missing = await find_start(self._ring, self._query)
        return await self._past.start(position, missing) if missing and self._past is not None else position

    def _chunk_end(self) -> int:
        stop = min(self._ring.contiguous(self._position), self._position + self._query.chunk)
        following = self._ring.next_loss(self._position)
        if following is not None:
            stop = min(stop, following)
        return stop if self._end is None else min(stop, self._end)

    def _open(self, stop: int) -> None:
        """The rows of the chunk from the position to `stop` are to be given."""
        span = self._ring.span(self._position, stop)
        rows = np.flatnonzero(self._query.selects(span)) if self._query.needs_scan else np.arange(len(span))
        self._page = None
        self._show(span, rows, stop)

    def _show(self, span: Span, rows: npt.NDArray[np.intp], stop: int) -> None:
        until = self._query.until_ns
        if self._query.follow and until is not None and len(span):
            self._over = bool((span["time_ns"] > until).any())
        self._span, self._rows = span, rows if self._left is None else rows[: self._left]
        self._position = stop

    async def _turn(self) -> bytes | None:
        """The next page of the past is to be given, after its losses, which are returned; None without a page."""
        if self._past is None:
            return None
        before = self._ring.oldest if self._end is None else min(self._ring.oldest, self._end)
        page = await self._past.page(self._position, before)
        if page is None:
            return None
        found = []
        if page.missing:
            upto = int(page.span["time_ns"][0]) if len(page.span) else self._seen_ns
            found.append(Loss(page.span.start, LossSource.FLOW_RING, page.missing, self._seen_ns or upto, upto))
        if len(page.span):
            found.extend(self._news(page.span.start, page.losses))
        self._page = page
        self._show(page.span, page.rows, page.stop)
        return b"".join(self._encoder.loss(loss) for loss in found)

    def _part(self) -> bytes | None:
        """The next rows of the chunk; None, and back to where it stopped, when they were overwritten meanwhile."""
        part = self._rows[:BATCH]
        first = self._span.start + int(part[0])
        if self._page is None and first < self._ring.oldest:
            self._position, self._over = first, False
            self._rows = self._rows[:0]
            return None
        self._rows = self._rows[BATCH:]
        if self._left is not None:
            self._left -= len(part)
        self._seen_ns = int(self._span["time_ns"][part[-1]])
        return (self._encoder if self._page is None else self._page.encoder).encode(self._span, part)

    def _losses(self) -> bytes:
        """What is missing just before the position; the position moves over what was overwritten."""
        found = []
        oldest = self._ring.oldest if self._end is None else min(self._ring.oldest, self._end)
        if self._position < oldest:
            count = oldest - self._position
            self._ring.overwritten_unread += count
            present = self._ring.oldest
            upto = int(self._ring.span(present, present + 1)["time_ns"][0])
            found.append(Loss(oldest, LossSource.FLOW_RING, count, self._seen_ns or upto, upto))
            self._position = oldest
        found.extend(self._news(self._position, self._ring.losses(self._position)))
        return b"".join(self._encoder.loss(loss) for loss in found)

    def _news(self, position: int, losses: tuple[Loss, ...]) -> tuple[Loss, ...]:
        """Of the losses at the position those to be told that are not yet: more may come while there is no flow."""
        before, count = self._told
        self._told = (position, len(losses))
        new, until = losses[count:] if before == position else losses, self._query.until_ns
        return new if until is None else tuple(one for one in new if one.first_ns <= until)
