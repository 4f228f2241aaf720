"""What every stored log does for whoever asks about its past, whatever keeps its events.

What was worked out once, snapshots and the index of changes, is in a disposable file (`beside`), where there is one.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice, starmap
from typing import ClassVar, Final

from cplane.eventlog import snapshots
from cplane.eventlog.about import About
from cplane.eventlog.changes import Changes, Said, Told
from cplane.eventlog.codec import StoredRow, decode_all, decode_fact, stored_of
from cplane.eventlog.errors import BadEvent
from cplane.eventlog.gist import Gist
from cplane.eventlog.snapshots import Snapshots
from cplane.events.envelope import Envelope, Stored
from cplane.events.objects import object_of
from cplane.timetravel.ledger import Ledger
from cplane.timetravel.refused import Refused
from cplane.timetravel.wanted import Wanted

Fact = tuple[bytes, bytes]
"""Type and data of a row."""

_ROWS: Final = 1024  # that are decoded at once


def quietly(what: str, done: int, total: int) -> None:
    """Nobody looks."""


class StoredReader(ABC):
    """A log that is stored, to be asked about its past. Its head is where it was when this was made.

    `place` is the name of its disposable file; empty: it has none. Without `keeping` no snapshot is used or made.
    """

    file: str = ""
    """The file that has the log, or what of it is not archived; empty: it is in none."""

    folded_at_once: ClassVar[int] = 256
    """Rows that are fetched together to be folded: more of them do not fit into a cache of the processor."""

    def __init__(self, place: str, *, start: int, head: int, keeping: bool = True, told: Told = quietly) -> None:
        self.place, self.start, self.head = place, start, head
        self._told = told
        self._changes: Changes | None = None
        # A log that is short is folded faster than a file is made.
        is_kept = keeping and place and head >= snapshots.EVERY
        self._snapshots = Snapshots(place, self.digest_at) if is_kept else None

    def close(self) -> None:
        """It is asked nothing any more."""
        if self._snapshots is not None:
            self._snapshots.close()
        if self._changes is not None:
            self._changes.close()

    @abstractmethod
    def digest_at(self, position: int) -> bytes | None:
        """The digest of the event at that position; None: there is none."""

    @abstractmethod
    def rows(self, after: int, to: int) -> Iterator[StoredRow]:
        """The rows behind `after` up to and with `to`, in order; whoever reads them finds gaps. Raises BadEvent."""

    @abstractmethod
    def refusals(self) -> Iterator[Refused]:
        """The last commands that were refused, oldest first."""

    @abstractmethod
    def position_at(self, instant_ns: int) -> int:
        """The last position that was recorded at or before it (UTC, nanoseconds); 0: it is before the log."""

    @abstractmethod
    def _facts(self, after: int, to: int) -> Sequence[Fact]:
        """Of the same rows those that are at hand and of schema 1, in order."""

    @abstractmethod
    def _versions(self, after: int, to: int) -> Mapping[str, int]:
        """The versions of the streams at the position `to`, as far as their events are at hand.

        None that has events among the same rows is missing.
        """

    @abstractmethod
    def _of_types(self, types: Sequence[str], after: int, to: int) -> Iterator[tuple[int, bytes]]:
        """Position and data of those of the same rows that have one of these types, in order."""

    def entries(self, after: int, to: int) -> Iterator[Envelope]:
        """The events behind `after` up to and with `to`, in order. Raises BadEvent."""
        rows = self.rows(after, to)
        while batch := list(islice(rows, _ROWS)):
            yield from decode_all(batch, after)
            after += len(batch)
        if after < to:
            raise BadEvent(after + 1, "the event is missing")

    def stored(self, after: int, to: int) -> Iterator[Stored]:
        """The same events as they stand there. Raises BadEvent."""
        for row in self.rows(after, to):
            if row[0] != after + 1:
                break
            yield stored_of(row)
            after = row[0]
        if after < to:
            raise BadEvent(after + 1, "the event is missing")

    def mark(self, position: int) -> tuple[bytes, int]:
        """Digest and time of the event at that position. Raises BadEvent."""
        one = next(self.entries(position - 1, position))
        return one.digest, one.recorded_at_ns

    def about(self, names: Collection[str], after: int, to: int) -> Iterator[Envelope]:
        """Those of the same events that are about the objects of these names, in order. Raises BadEvent."""
        wanted = About(names)
        for position, data in self._of_types(wanted.types, after, to):
            if data in wanted:
                yield from (one for one in self.entries(position - 1, position) if object_of(one.event) in names)

    def fold(self, ledger: Ledger, to: int) -> None:
        """The ledger is at that position, and those on the way are remembered. Raises BadEvent."""
        began = ledger.position
        while ledger.position < to:
            stop = min(to, (ledger.position // snapshots.EVERY + 1) * snapshots.EVERY)
            self._absorb(ledger, stop)
            if self._snapshots is not None and stop % snapshots.EVERY == 0 and not self._snapshots.has(stop):
                self._snapshots.put(ledger)
            self._told("folding", stop - began, to - began)

    def first_at(self, instant_ns: int) -> int:
        """The first position that was recorded at or after it; one behind the head: there is none. Raises BadEvent."""
        return self._index().first_at(instant_ns, self.start, self.head)

    def find(self, wanted: Wanted) -> list[int]:
        """The positions of the events that are wanted, in order. Raises BadEvent."""
        return [position for position in self._index().find(wanted, self.head) if position > self.start]

    def index(self, most: int) -> bool:
        """The index of changes has up to so many more events; whether there are still more. Raises BadEvent."""
        return self._index().extend(self.head, most)

    def snapshot(self, position: int) -> Ledger | None:
        """The newest that is at or before it and fits the log; None: there is none."""
        return None if self._snapshots is None else self._snapshots.newest(position)

    @abstractmethod
    def _said(self, after: int, to: int) -> Sequence[Said]:
        """What is said of the same rows, as far as they are at hand, in order."""

    def _all_said(self, after: int, to: int) -> Iterator[Said]:
        while after < to:
            last = min(after + _ROWS, to)
            found = self._said(after, last)
            if len(found) == last - after:
                yield from found
            else:
                for row in self.rows(after, last):
                    if row[0] != after + 1:
                        raise BadEvent(after + 1, "the event is missing")
                    yield row[0], row[3], row[5], row[6], row[7], row[8]
                    after = row[0]
                if after != last:
                    raise BadEvent(after + 1, "the event is missing")
            after = last

    def _index(self) -> Changes:
        if self._changes is None:
            self._changes = Changes(self.place, self.file, self.start, self.digest_at, self._all_said, self._told)
        return self._changes

    def _absorb(self, ledger: Ledger, to: int) -> None:
        gist, versions, after = Gist(ledger.position), dict[str, int](), -1
        with self._unmoved():
            while gist.position < to:
                last = min(gist.position + self.folded_at_once, to)
                facts = self._facts(gist.position, last)
                if len(facts) == last - gist.position:
                    after = gist.position if after < 0 else after
                    gist.add(*zip(*facts, strict=True))
                else:  # some are elsewhere, of another schema, or missing
                    self._add_each(gist, versions, last)
            if after >= 0:
                versions.update(self._versions(after, to))
        ledger.absorb(starmap(decode_fact, gist.rows()), to, versions)

    def _unmoved(self) -> AbstractContextManager[object]:
        """What is at hand stays so inside."""
        return nullcontext()

    def _add_each(self, gist: Gist, versions: dict[str, int], to: int) -> None:
        for row in self.rows(gist.position, to):
            if row[0] != gist.position + 1:
                break
            versions[row[1].decode()] = row[2]
            if row[4] == 1:
                gist.add((row[3],), (row[8],))
            else:
                gist.keep(row[3], row[4], row[8])
        if gist.position != to:
            raise BadEvent(gist.position + 1, "the event is missing")
