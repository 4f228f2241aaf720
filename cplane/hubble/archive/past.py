"""One answer's way through the archive: the same selection over segments as over the ring."""

from collections.abc import Callable
from typing import NamedTuple

import anyio.lowlevel
import numpy as np
import numpy.typing as npt

from cplane.hubble.archive.folder import Archive
from cplane.hubble.archive.segment import Chapter, Segment
from cplane.hubble.encode import Encoder
from cplane.hubble.ring import Span
from cplane.hubble.selection import Page, Query
from cplane.hubble.store import FlowStore


class _Opened(NamedTuple):
    """A segment in memory, and the query and the encoder for its own tables."""

    chapter: Chapter
    query: Query
    encoder: Encoder


class ArchivedPast:
    """The archive for one query. `view` makes the query and the encoder for a store: numbers mean what its tables say.

    It holds one segment at a time.
    """

    def __init__(
        self,
        archive: Archive,
        query: Query,
        encoder: Encoder,
        view: Callable[[FlowStore], tuple[Query, Encoder]],
    ) -> None:
        self._archive, self._query, self._encoder, self._view = archive, query, encoder, view
        self._opened: _Opened | None = None

    async def start(self, before: int, missing: int) -> int:
        """Where an answer begins that wants `missing` more flows than there are from `before` on."""
        query, position = self._query, before
        for segment in reversed(self._archive.segments):
            if segment.start >= before:
                continue
            if query.since_ns is not None and segment.last_ns < query.since_ns:
                break
            stop = min(segment.stop, before)
            if query.since_ns is None and not query.first and query.number:
                found = await self._last(segment, stop, missing)
                if len(found) >= missing:
                    return segment.start + int(found[-missing])
                missing -= len(found)
            position = segment.start
        return position

    async def page(self, position: int, before: int) -> Page | None:
        """What comes first from `position` on; None when there is nothing before `before`."""
        missing, begun = 0, position
        while (segment := self._next(position, before)) is not None:
            start, selected = max(segment.start, position), self._may_select(segment)
            opened = await self._open(segment) if selected else None
            if selected and opened is None:
                continue  # it is gone, and its flows are missing before the next one
            missing += start - position
            if opened is not None:
                return self._rows(opened, start, before, missing)
            position = min(segment.stop, before)
        if position == begun:
            return None
        return Page(Span({}, position, position, 0), np.zeros(0, np.intp), position, self._encoder, missing, ())

    def _rows(self, opened: _Opened, start: int, before: int, missing: int) -> Page:
        chapter, query, encoder = opened
        stop = min(chapter.segment.stop, before, start + query.chunk)
        following = chapter.next_loss(start)
        if following is not None:
            stop = min(stop, following)
        span = chapter.span(start, stop)
        rows = np.flatnonzero(query.selects(span)) if query.needs_scan else np.arange(len(span))
        return Page(span, rows, stop, encoder, missing, chapter.losses(start))

    def _next(self, position: int, before: int) -> Segment | None:
        """The segment that has the flow at `position`, or the first one after it."""
        if position >= before:
            return None
        found = next((one for one in self._archive.segments if one.stop > position), None)
        return found if found is not None and found.start < before else None

    def _may_select(self, segment: Segment) -> bool:
        """Whether the query's times and the segment's meet. What is later ends a follower, so it must see it."""
        since, until = self._query.since_ns, self._query.until_ns
        early = since is not None and segment.last_ns < since
        late = until is not None and segment.first_ns > until and not self._query.follow
        return not early and not late

    async def _open(self, segment: Segment) -> _Opened | None:
        if self._opened is None or self._opened.chapter.segment != segment:
            self._opened = None  # two would be twice the memory
            chapter = await self._archive.chapter(segment)
            if chapter is None:
                return None
            self._opened = _Opened(chapter, *self._view(chapter.store))
        await anyio.lowlevel.checkpoint()
        return self._opened

    async def _last(self, segment: Segment, stop: int, missing: int) -> npt.NDArray[np.intp]:
        """Rows before `stop` that are selected, the last `missing` of them at least, if there are so many."""
        if not self._query.needs_scan:
            return np.arange(stop - segment.start)
        opened = await self._open(segment) if self._may_select(segment) else None
        found: list[npt.NDArray[np.intp]] = []
        while opened is not None and stop > segment.start and sum(map(len, found)) < missing:
            start = max(segment.start, stop - opened.query.chunk)
            found.insert(
                0, np.flatnonzero(opened.query.selects(opened.chapter.span(start, stop))) + start - segment.start
            )
            stop = start
            await anyio.lowlevel.checkpoint()
        return np.concatenate(found) if found else np.zeros(0, np.intp)
