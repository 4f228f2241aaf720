"""Events that are no flows, the last ones of a kind, and what a request for them means.

They come a few in a second, so they are objects: what happened, and how to tell it once somebody asks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import anyio.lowlevel

from cplane.hubble.signal import Signal

M = TypeVar("M")

CAPACITY: Final = 4095  # as many as the original keeps by default
_BREATH: Final = 256  # events looked at before others run


@dataclass(frozen=True, slots=True)
class Held(Generic[M]):
    """One event: UTC nanoseconds, and what makes the message that tells it."""

    time_ns: int
    told: Callable[[], M]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A request. `number` 0: no limit; times are UTC nanoseconds. Not both `first` and `follow`."""

    number: int = 0
    first: bool = False
    follow: bool = False
    since_ns: int | None = None
    until_ns: int | None = None

    def selects(self, time_ns: int) -> bool:
        """Whether an event of that time is meant."""
        early = self.since_ns is not None and time_ns < self.since_ns
        return not early and not (self.until_ns is not None and time_ns > self.until_ns)


class EventRing(Generic[M]):
    """The last `capacity` events, under positions that never repeat. Who reads too slowly misses the oldest ones."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        assert capacity > 0, capacity
        self.capacity = capacity
        self.written = 0  # position of the next event
        self.changed = Signal()
        self._slots: list[Held[M] | None] = [None] * capacity

    @property
    def oldest(self) -> int:
        """Position of the oldest event that is still there; `written` when there is none."""
        return max(0, self.written - self.capacity)

    def add(self, time_ns: int, told: Callable[[], M]) -> None:
        """The event has happened; followers are woken."""
        self._slots[self.written % self.capacity] = Held(time_ns, told)
        self.written += 1
        self.changed.notify()

    def __getitem__(self, position: int) -> Held[M]:
        held = self._slots[position % self.capacity]
        assert held is not None and self.oldest <= position < self.written, (self.oldest, position, self.written)
        return held

    def start(self, wanted: Wanted) -> int:
        """The position of the first event to look at: `since` decides where it is given, as it does for flows."""
        if wanted.since_ns is not None or wanted.first:
            return self.oldest
        if not wanted.number:
            return self.written if wanted.follow else self.oldest
        missing = wanted.number
        for position in range(self.written - 1, self.oldest - 1, -1):
            missing -= wanted.selects(self[position].time_ns)
            if not missing:
                return position
        return self.oldest


class EventReading(Generic[M]):
    """One answer in the making: it holds a position and nothing else, and passes over what is gone meanwhile."""

    def __init__(self, ring: EventRing[M], wanted: Wanted) -> None:
        self._ring, self._wanted = ring, wanted
        self._position = ring.start(wanted)
        self._end = None if wanted.follow else ring.written
        self._left = wanted.number if wanted.number and not wanted.follow else None

    async def next(self) -> Held[M] | None:
        """The next event that is meant; None at the end.

        A follower waits for more, until there is an event later than `until`.
        """
        ring, wanted = self._ring, self._wanted
        while self._left != 0:
            self._position = max(self._position, ring.oldest)
            if self._position >= (ring.written if self._end is None else self._end):
                if self._end is not None:
                    return None
                await ring.changed.wait()
                continue
            held = ring[self._position]
            self._position += 1
            if wanted.selects(held.time_ns):
                self._left = None if self._left is None else self._left - 1
                return held
            if wanted.follow and wanted.until_ns is not None and held.time_ns > wanted.until_ns:
                return None
            if not self._position % _BREATH:
                await anyio.lowlevel.checkpoint()
        return None
