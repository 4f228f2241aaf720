"""Events that are no flows, the last ones of a kind, and what a request for them means.

What an agent does comes a few times in a second, so `EventRing` has objects: what happened, and how to tell it once
somebody asks. What datapaths say to those who debug them comes by the thousand (`cplane.hubble.debugring`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import anyio.lowlevel

from cplane.hubble.signal import Signal

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)

CAPACITY: Final = 4095  # as many as the original keeps by default
_BREATH: Final = 256  # events looked at before others run


@dataclass(frozen=True, slots=True)
class _Held(Generic[M]):
    """One event: UTC nanoseconds, and what makes the message that tells it."""

    time_ns: int
    told: Callable[[], M]


class Told(NamedTuple, Generic[M]):
    """One event for a reader: UTC nanoseconds, and its message."""

    time_ns: int
    message: M


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


class Events(Protocol[M_co]):
    """The last events of a kind, under positions that never repeat; `EventRing` fits."""

    changed: Signal

    @property
    def written(self) -> int:
        """Position of the next event."""
        ...

    @property
    def oldest(self) -> int:
        """Position of the oldest event that is still there; `written` when there is none."""
        ...

    def time_ns(self, position: int) -> int:
        """When the event happened that is there."""
        ...

    def told(self, position: int) -> M_co:
        """The message that tells the event that is there."""
        ...


class EventRing(Generic[M]):
    """The last `capacity` events, under positions that never repeat. Who reads too slowly misses the oldest ones."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        assert capacity > 0, capacity
        self.capacity = capacity
        self.written = 0  # position of the next event
        self.changed = Signal()
        self._slots: list[_Held[M] | None] = [None] * capacity

    @property
    def oldest(self) -> int:
        """Position of the oldest event that is still there; `written` when there is none."""
        return max(0, self.written - self.capacity)

    def add(self, time_ns: int, told: Callable[[], M]) -> None:
        """The event has happened; followers are woken."""
        self._slots[self.written % self.capacity] = _Held(time_ns, told)
        self.written += 1
        self.changed.notify()

    def time_ns(self, position: int) -> int:
        """When the event happened that is there."""
        return self._held(position).time_ns

    def told(self, position: int) -> M:
        """The message that tells the event that is there."""
        return self._held(position).told()

    def _held(self, position: int) -> _Held[M]:
        held = self._slots[position % self.capacity]
        assert held is not None and self.oldest <= position < self.written, (self.oldest, position, self.written)
        return held


def first_of(ring: Events[object], wanted: Wanted) -> int:
    """The position of the first event to look at: `since` decides where it is given, as it does for flows."""
    if wanted.since_ns is not None or wanted.first:
        return ring.oldest
    if not wanted.number:
        return ring.written if wanted.follow else ring.oldest
    missing = wanted.number
    for position in range(ring.written - 1, ring.oldest - 1, -1):
        missing -= wanted.selects(ring.time_ns(position))
        if not missing:
            return position
    return ring.oldest


class EventReading(Generic[M]):
    """One answer in the making: it holds a position and nothing else, and passes over what is gone meanwhile."""

    def __init__(self, ring: Events[M], wanted: Wanted) -> None:
        self._ring, self._wanted = ring, wanted
        self._position = first_of(ring, wanted)
        self._end = None if wanted.follow else ring.written
        self._left = wanted.number if wanted.number and not wanted.follow else None

    async def next(self) -> Told[M] | None:
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
            position, time_ns = self._position, ring.time_ns(self._position)
            self._position += 1
            if wanted.selects(time_ns):
                self._left = None if self._left is None else self._left - 1
                return Told(time_ns, ring.told(position))
            if wanted.follow and wanted.until_ns is not None and time_ns > wanted.until_ns:
                return None
            if not self._position % _BREATH:
                await anyio.lowlevel.checkpoint()
        return None
