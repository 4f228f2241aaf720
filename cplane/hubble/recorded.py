"""Flows that were recorded, wherever they are by now: in an agent's ring, or in segments of its archive.

What is asked here are questions about the past; observers have ways of their own, which follow a ring.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cplane.hubble.archive.segment import Chapter, Segment, Unreadable, read, ring_of
from cplane.hubble.cli.jsonpb import Writer
from cplane.hubble.flow import FlowBuilder
from cplane.hubble.ids import FlowIds
from cplane.hubble.ring import Span
from cplane.hubble.seen import Folding
from cplane.hubble.store import FlowStore
from cplane.timetravel.seen import Sight

Positions = tuple[int, int]
"""From one up to another, which is not among them."""


@dataclass(frozen=True, slots=True)
class _Ring:
    """What was read of a ring: from `oldest` on, which was seen at `first_ns`, but not what was overwritten then."""

    oldest: int
    first_ns: int
    overwritten: Sequence[Positions] = ()


_NO_RING = _Ring(1 << 63, 0)


class Recorded:
    """The flows of rings and of segments, each of them once. Its questions may block; they are for a thread.

    Segments are in the order of their positions. One that is gone or cannot be read has no flows.
    """

    def __init__(self, stores: Sequence[FlowStore], segments: Sequence[Segment] = ()) -> None:
        self._stores, self._segments = stores, segments

    def fold(self, sight: Sight) -> None:
        """What the flows say of policy is in the sight, and how many are known to be missing."""
        folding = Folding(sight)
        rings = {store.seed: _folded(store, folding) for store in self._stores}
        missing = sum(stop - start for ring in rings.values() for start, stop in ring.overwritten)
        for segment in self._segments:
            sight.keeps(segment.first_ns)
            if segment.last_ns < sight.since_ns or segment.first_ns > sight.until_ns:
                continue
            chapter = _read(segment)
            if chapter is None:
                missing += segment.stop - segment.start
                continue
            ring = rings.get(chapter.store.seed, _NO_RING)
            for start, stop in _common(segment, [(0, ring.oldest)]):
                folding.chapter(chapter, start, stop)
            for start, stop in _common(segment, ring.overwritten):
                folding.chapter(chapter, start, stop)
                missing -= stop - start
        folding.end()
        sight.loses(missing + sum(self._gaps(sight, list(rings.values()))))

    def line(self, uuid: str) -> bytes | None:
        """The flow with the uuid as a line of JSON, as observers print it; None: it is not there any more, if ever."""
        for store in self._stores:
            position = store.ids.position(uuid)
            if position is not None and store.ring.oldest <= position < store.ring.written:
                line = _line(store, store.ring.racing_span(position, position + 1))
                if position >= store.ring.oldest:  # else it was overwritten while it was read
                    return line
        for segment in reversed(self._segments):
            position = _position(segment, uuid)
            chapter = None if position is None else _read(segment)
            if position is not None and chapter is not None:
                return _line(chapter.store, chapter.span(position, position + 1))
        return None

    def _gaps(self, sight: Sight, rings: Sequence[_Ring]) -> Iterator[int]:
        """How many flows there are in neither of two segments that follow one another, nor in the ring behind the last.

        Of several rings it is not known which one follows.
        """
        ring = rings[0] if len(rings) == 1 else _NO_RING
        for one, other in pairwise(self._segments):
            if one.last_ns <= sight.until_ns and other.first_ns >= sight.since_ns:
                yield max(0, min(other.start, ring.oldest) - one.stop)
        if self._segments and ring is not _NO_RING:
            last = self._segments[-1]
            if last.last_ns <= sight.until_ns and ring.first_ns >= sight.since_ns:
                yield max(0, ring.oldest - last.stop)


def _folded(store: FlowStore, folding: Folding) -> _Ring:
    """The flows of a ring are in the folding. Rows may be overwritten meanwhile."""
    ring = store.ring
    oldest = ring.oldest
    first_ns = int(ring.racing_span(oldest, oldest + 1)["time_ns"][0]) if oldest < ring.written else 0
    return _Ring(oldest, first_ns, folding.ring(store, oldest))


def _common(segment: Segment, wanted: Iterable[Positions]) -> Iterator[Positions]:
    """Which of the positions are the segment's."""
    for start, stop in wanted:
        begin, end = max(start, segment.start), min(stop, segment.stop)
        if begin < end:
            yield begin, end


def _position(segment: Segment, uuid: str) -> int | None:
    """Where the flow is in the segment; None: it is not."""
    try:
        position = FlowIds(ring_of(segment)).position(uuid)
    except Unreadable:
        return None
    return position if position is not None and segment.start <= position < segment.stop else None


def _read(segment: Segment) -> Chapter | None:
    try:
        return read(segment)
    except Unreadable:  # it has expired meanwhile, or is damaged, which the archive's own reader tells
        return None


def _line(store: FlowStore, span: Span) -> bytes:
    flow = FlowBuilder(store).flow(span, 0)
    return f'{{"flow":{Writer().message(flow)}}}'.encode()
