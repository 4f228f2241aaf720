"""A log as something that can be asked: what was so at a position, and which position a user means."""

from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Final, Protocol

from cplane.deciders.world import World
from cplane.errors import NotFound
from cplane.events.envelope import Envelope, Stored
from cplane.projections.tables import Tables
from cplane.timetravel.ledger import Ledger
from cplane.timetravel.refused import Refused
from cplane.timetravel.wanted import Listing, Wanted
from cplane.timetravel.when import HEAD, end_of_ms, instant, position_or_ns

_LISTED: Final = 20_000  # events of a log that is short enough to be read once, and asked from memory


class Reader(Protocol):
    """A log to read, as it was when the reader was made. It may block, and has one caller at a time."""

    @property
    def head(self) -> int:
        """Position of the last event; 0 when there is none."""
        ...

    @property
    def start(self) -> int:
        """The position that the log begins behind: 0, unless its older past was dropped, and a snapshot is its end."""
        ...

    def entries(self, after: int, to: int) -> Iterator[Envelope]:
        """The events behind `after` up to and with `to`, in order."""
        ...

    def stored(self, after: int, to: int) -> Iterator[Stored]:
        """The same events as they stand there."""
        ...

    def mark(self, position: int) -> tuple[bytes, int]:
        """Digest and time of the event at that position, also when it is `start`, and was dropped."""
        ...

    def about(self, names: Collection[str], after: int, to: int) -> Iterator[Envelope]:
        """Those of the same events that are about the objects of these names (`events.objects`), in order."""
        ...

    def fold(self, ledger: Ledger, to: int) -> None:
        """The ledger, which is before it, is at that position."""
        ...

    def position_at(self, instant_ns: int) -> int:
        """The last position that was recorded at or before it (UTC, nanoseconds); 0: it is before the log."""
        ...

    def first_at(self, instant_ns: int) -> int:
        """The first position that was recorded at or after it; one behind the head: there is none."""
        ...

    def find(self, wanted: Wanted) -> list[int]:
        """The positions of the events that are wanted, in order."""
        ...

    def refusals(self) -> Iterator[Refused]:
        """The last commands that were refused, oldest first."""
        ...

    def snapshot(self, position: int) -> Ledger | None:
        """The newest one at or before the position, for the caller to keep; there always is one of `start`."""
        ...


class NoSuchMoment(NotFound):
    """The log says nothing of the position or time that was asked for."""

    code = "history.no_such_moment"


class History:
    """All moments of one log, from `start` (0: before the first event) to `head`."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.start, self.head = reader.start, reader.head
        self._listing: Listing | None = None

    def ledger(self, position: int) -> Ledger:
        """What was so behind the event at that position, for the caller to keep. Raises NoSuchMoment."""
        self._check(position)
        ledger = self._reader.snapshot(position) or Ledger()
        self._reader.fold(ledger, position)
        assert ledger.position == position, f"the fold ends at {ledger.position}, not at {position}"
        return ledger

    def advance(self, ledger: Ledger, to: int) -> Ledger:
        """The same ledger, which was at or before that position, at it. Raises NoSuchMoment."""
        self._check(to)
        self._reader.fold(ledger, to)
        return ledger

    def newest(self, position: int) -> int:
        """Where the newest snapshot at or before the position is; `start` where there is none."""
        ledger = self._reader.snapshot(position)
        return self.start if ledger is None else ledger.position

    def moment(self, position: int) -> "Moment":
        """That position. Raises NoSuchMoment."""
        ledger = self.ledger(position)
        return Moment(ledger, self.recorded_at_ns(position))

    def recorded_at_ns(self, position: int) -> int:
        """When the event at that position was recorded; 0 where there is none. Raises NoSuchMoment."""
        self._check(position)
        return self._reader.mark(position)[1] if position else 0

    def digest(self, position: int) -> bytes:
        """The digest of the log at that position, which is behind the first event's. Raises NoSuchMoment."""
        self._check(position)
        assert position, "before the first event a log has no digest"
        return self._reader.mark(position)[0]

    def entries(self, after: int, to: int) -> Iterator[Envelope]:
        """The events behind `after` up to and with `to`, in order. Raises NoSuchMoment."""
        self._check(after)
        self._check(to)
        return self._reader.entries(after, to)

    def stored(self, after: int, to: int) -> Iterator[Stored]:
        """The same events as they stand in the log. Raises NoSuchMoment."""
        self._check(after)
        self._check(to)
        return self._reader.stored(after, to)

    def about(self, names: Collection[str], after: int, to: int) -> Iterator[Envelope]:
        """Those of the same events that are about the objects of these names, in order. Raises NoSuchMoment."""
        self._check(after)
        self._check(to)
        return self._reader.about(names, after, to)

    def entry(self, position: int) -> Envelope:
        """The event at that position. Raises NoSuchMoment."""
        self._check(position)
        return next(iter(self._reader.entries(position - 1, position)))

    def position_at(self, instant_ns: int) -> int:
        """The last position that was recorded at or before it (UTC, nanoseconds); 0: it is before the log."""
        return self._reader.position_at(instant_ns)

    def older_than(self, instant_ns: int) -> int:
        """The last position up to which all events were recorded before it; `start`: the first was not.

        Where the clock was set back, what stands before is as young as it says.
        """
        last = max(self.start, self._reader.position_at(instant_ns - 1))
        young = (one.position for one in self._reader.stored(self.start, last) if one.recorded_at_ns >= instant_ns)
        return next(young, last + 1) - 1

    @property
    def is_long(self) -> bool:
        """Whether the reader is asked which events are wanted, instead of reading all of them once."""
        return self.head - self.start > _LISTED

    def find(self, wanted: Wanted) -> list[int]:
        """The positions of the events that are wanted, in order."""
        if self.is_long:
            return self._reader.find(wanted)
        if self._listing is None:
            self._listing = Listing(self._reader.entries(self.start, self.head))
        return self._listing.find(wanted)

    def refusals(self) -> Iterator[Refused]:
        """The last commands that were refused, oldest first."""
        return self._reader.refusals()

    def position_of(self, text: str, now_ns: int) -> int:
        """The position that a user means; of a time, the last one that was recorded at or before it.

        A position, `head`, an RFC 3339 time, `14:03[:05]` (today, UTC), or how long ago: `2h`, `-90s`, `1d12h ago`.
        Raises NoSuchMoment, which says what there is, and BadMoment where it cannot be read.
        """
        position, instant_ns = position_or_ns(text, now_ns)
        if position is not None:
            if position == HEAD:
                return self.head
            self._check(position)
            return position
        if instant_ns > now_ns:
            raise NoSuchMoment(f"{text} is {instant(instant_ns)}, which is still to come: {self._extent()}")
        position = self._reader.position_at(end_of_ms(instant_ns))
        if position < max(self.start, 1):
            raise NoSuchMoment(f"{text} is {instant(instant_ns)}, before the log: {self._extent()}")
        return position

    def before(self, text: str, now_ns: int) -> int:
        """The position behind which all events are that a user means by "since"; of a time before the log, its start.

        Of a time, the first that was recorded then or later counts: where the clock was set back, nothing that was
        recorded later is missed for what stands behind it. Raises NoSuchMoment, BadMoment.
        """
        position, instant_ns = position_or_ns(text, now_ns)
        if position is not None or instant_ns > now_ns:
            return max(self.start, self.position_of(text, now_ns) - 1)
        if self.is_long:
            return max(self.start, self._reader.first_at(instant_ns) - 1)
        late = (one.position for one in self._reader.entries(self.start, self.head) if one.recorded_at_ns >= instant_ns)
        return max(self.start, next(late, self.head + 1) - 1)

    def _check(self, position: int) -> None:
        if position > self.head:
            raise NoSuchMoment(f"position {position} is not there yet: {self._extent()}")
        if position < self.start:
            reason = "is before the log" if not self.start else "was dropped from the log"
            raise NoSuchMoment(f"position {position} {reason}: {self._extent()}")

    def _extent(self) -> str:
        if not self.head:
            return "the log has no events yet"
        first = next(iter(self._reader.entries(self.start, min(self.start + 1, self.head))), None)
        since = f" (recorded {instant(first.recorded_at_ns)})" if first is not None else ""
        last = instant(self.recorded_at_ns(self.head)) if self.head > self.start else ""
        until = f" (recorded {last})" if last else ""
        return f"the log goes from position {self.start + 1}{since} to {self.head}{until}"


class Moment:
    """One position, and what was so there. World and tables are made when they are asked for first."""

    def __init__(self, ledger: Ledger, recorded_at_ns: int) -> None:
        self.ledger = ledger
        self.position, self.recorded_at_ns = ledger.position, recorded_at_ns

    @cached_property
    def world(self) -> World:
        """All that deciders knew."""
        return self.ledger.world()

    @cached_property
    def tables(self) -> Tables:
        """What the tables of the datapath should have contained."""
        return Tables(self.ledger.facts())
