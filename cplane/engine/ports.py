"""What the engine needs from others, by shape: a log, a clock, targets."""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from cplane.errors import Unavailable
from cplane.events.envelope import Envelope, Proposed

K = TypeVar("K")
V = TypeVar("V")


class NoRoom(Unavailable):
    """A table of the datapath is full: rows that are to come have no room before others have gone."""

    code = "datapath.no_room"


class EventLog(Protocol):
    """A gap-free, ordered, durable list of events."""

    @property
    def head(self) -> int:
        """Position of the last durable event; 0 when there is none."""
        ...

    async def append(self, proposed: Proposed) -> Sequence[Envelope]:
        """The events are durable when this returns, in consecutive positions.

        Raises Conflict when a stream is not at its expected version, Unavailable when storage fails: nothing was
        written, unless it says that this is not known; `head` moves when it is known that the events are there.
        """
        ...

    async def read(self, after: int = 0, limit: int = 1000) -> Sequence[Envelope]:
        """Up to `limit` events with a position greater than `after`, in order."""
        ...

    def tail(self, after: int = 0) -> AsyncGenerator[Sequence[Envelope], None]:
        """Every event after `after`, in order and in batches, and then those to come, for ever."""
        ...


class Clock(Protocol):
    """The only source of time."""

    def now_ns(self) -> int:
        """UTC nanoseconds since the epoch."""
        ...


class Target(Protocol[K, V]):
    """One table of the datapath, driven by one thread at a time.

    Every method may block, though not for long with few rows. All raise Unavailable on failure; it is NoRoom where the
    table is full.
    """

    def dump(self) -> Mapping[K, V]:
        """What is there now."""
        ...

    def upsert(self, entries: Mapping[K, V]) -> None:
        """Every entry is there when this returns. Idempotent. Written in the order of `entries`."""
        ...

    def delete(self, keys: Collection[K]) -> None:
        """None of the keys is there when this returns. Idempotent. Deleted in the order of `keys`."""
        ...


@runtime_checkable
class Comparing(Protocol[K, V]):
    """A target that finds what differs without making a row of everything that does not."""

    def compare(self, desired: Mapping[K, V]) -> tuple[Mapping[K, V], Mapping[K, V]]:
        """The rows that are there and should not be so, and those that should be there and are not.

        A key whose row should be another one stands in both. Raises Unavailable.
        """
        ...
