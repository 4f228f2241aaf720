"""Logs to be asked about their past: a file or a database that is only read and may be in use, or a list in memory."""

import os
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice, starmap
from typing import Final

from cplane.eventlog.about import About
from cplane.eventlog.changes import Changes
from cplane.eventlog.codec import decode_all, decode_fact
from cplane.eventlog.errors import NotALog
from cplane.eventlog.gist import Gist
from cplane.eventlog.refusals import read_refusals
from cplane.eventlog.rows import Rows
from cplane.eventlog.schema import SELECT_FACTS, SELECT_OF_TYPES
from cplane.eventlog.snapshots import EVERY, Snapshots
from cplane.eventlog.sqlite import driver, open_reader, recognise, translated
from cplane.events.envelope import Envelope, StreamId
from cplane.events.objects import object_of
from cplane.timetravel.history import History
from cplane.timetravel.ledger import Ledger
from cplane.timetravel.refused import Refused
from cplane.timetravel.wanted import Wanted

POSTGRESQL: Final = ("postgresql://", "postgres://")
_ROWS: Final = 1024  # that are fetched at once
_FOLDED: Final = 256  # the same, of those that are only folded: more of them do not fit into a cache of the processor


@contextmanager
def open_history(location: str) -> Iterator[History]:
    """The history of a log: the path of a file, or the URL of a PostgreSQL database, with `?node=` for several nodes.

    Raises NotALog, NewerSchema, StorageFailed; what it is asked may raise BadEvent too.
    """
    if location.startswith(POSTGRESQL):
        from cplane.eventlog.postgres_reader import open_database  # its driver costs all others 20 ms and 9 MB

        with open_database(location) as history:
            yield history
        return
    with _open_file(location) as history:
        yield history


@contextmanager
def _open_file(path: str) -> Iterator[History]:
    with reading(path) as reader:
        yield History(reader)


@contextmanager
def reading(path: str, *, snapshots: bool = True) -> "Iterator[SqliteReader]":
    """A reader of the log in the file; without `snapshots` it uses none. Raises NotALog, NewerSchema, StorageFailed."""
    if not os.path.isfile(path):
        raise NotALog(path, "there is no such file")
    engine = open_reader(path, size=1)
    try:
        with translated(path), engine.connect() as connection:
            if not recognise(connection, path):
                raise NotALog(path, "it is empty")
            reader = SqliteReader(driver(connection), path, snapshots=snapshots)
            try:
                yield reader
            finally:
                reader.close()
    finally:
        engine.dispose()


def fold_log(path: str) -> Ledger:
    """What the log in the file says at its end.

    All that is in the file is read: what is enforced follows from the log, not from a snapshot that may be wrong. Only
    of what is in the archive the newest snapshot is believed, where there is one. Raises as `open_history`, BadEvent.
    """
    with reading(path) as reader:
        archived = reader.archived
        ledger = (reader.snapshot(archived) if archived else None) or Ledger()
        reader.fold(ledger, reader.head)
        return ledger


def remember(path: str) -> bool:
    """One more snapshot of the log in the file is there, where one is due; False: none is, or it cannot be.

    Raises NotALog, NewerSchema, StorageFailed, BadEvent.
    """
    with _open_file(path) as history:
        due = history.head // EVERY * EVERY
        held = history.newest(due)
        if held == due:
            return False
        history.ledger(min(held + EVERY, due))
        return history.newest(due) > held


class SqliteReader:
    """A log in a file. Its head is where it was when this was made."""

    def __init__(self, connection: sqlite3.Connection, path: str, *, snapshots: bool = True) -> None:
        self._connection = connection
        self.path = path
        self._rows = Rows(connection, path)
        self.start, self.head = self._rows.start, self._rows.head
        self._changes: Changes | None = None
        # A log that is short is folded faster than a file is made.
        self._snapshots = Snapshots(path, self.digest_at) if snapshots and self.head >= EVERY else None

    @property
    def archived(self) -> int:
        """Position of the last event that has left the file; 0: all are in it."""
        return self._rows.archive.end

    def close(self) -> None:
        """It is asked nothing any more."""
        if self._snapshots is not None:
            self._snapshots.close()
        if self._changes is not None:
            self._changes.close()

    def entries(self, after: int, to: int) -> Iterator[Envelope]:
        """The events behind `after` up to and with `to`, in order. Raises BadEvent."""
        rows = self._rows.between(after, to)
        while batch := list(islice(rows, _ROWS)):
            yield from decode_all(batch, after)
            after += len(batch)

    def mark(self, position: int) -> tuple[bytes, int]:
        """Digest and time of the event at that position, also when it is `start`, and was dropped. Raises BadEvent."""
        beginning = self._rows.archive.beginning
        if beginning is not None and position == beginning.position:
            return beginning.digest, beginning.recorded_at_ns
        one = next(self.entries(position - 1, position))
        return one.digest, one.recorded_at_ns

    def about(self, names: Collection[str], after: int, to: int) -> Iterator[Envelope]:
        """Those of the same events that are about the objects of these names, in order. Raises BadEvent."""
        wanted = About(names)
        marks = ", ".join("?" * len(wanted.types))
        cursor = self._connection.execute(SELECT_OF_TYPES.format(marks), (after, to, *wanted.types))
        first, _ = next(cursor)
        types = {name.encode() for name in wanted.types}
        older = ((row[0], row[8]) for row in self._rows.between(after, min(to, first - 1)) if row[3] in types)
        for position, data in chain(older, cursor):
            if data in wanted:
                yield from (one for one in self.entries(position - 1, position) if object_of(one.event) in names)

    def fold(self, ledger: Ledger, to: int) -> None:
        """The ledger is at that position, and those on the way are remembered. Raises BadEvent."""
        while ledger.position < to:
            stop = min(to, (ledger.position // EVERY + 1) * EVERY)
            self._absorb(ledger, stop)
            if self._snapshots is not None and stop % EVERY == 0 and not self._snapshots.has(stop):
                self._snapshots.put(ledger)

    def find(self, wanted: Wanted) -> list[int]:
        """The positions of the events that are wanted, in order. Raises BadEvent."""
        if self.head < EVERY:  # read faster than a file is made
            after = max(wanted.after, self.start)
            return wanted.selects(self.entries(after, self.head if wanted.to is None else min(self.head, wanted.to)))
        if self._changes is None:
            self._changes = Changes(
                self.path, self.digest_at, lambda after, to: self._rows.between(max(after, self.start), to)
            )
        return [position for position in self._changes.find(wanted, self.head) if position > self.start]

    def refusals(self) -> Iterator[Refused]:
        """The last commands that were refused, oldest first."""
        return read_refusals(self.path)

    def position_at(self, instant_ns: int) -> int:
        """The last position that was recorded at or before it; 0: it is before the log."""
        return self._rows.position_at(instant_ns)

    def snapshot(self, position: int) -> Ledger | None:
        """The newest that is at or before it and fits the log; None: there is none."""
        newest = None if self._snapshots is None else self._snapshots.newest(position)
        beginning = self._rows.archive.beginning
        return (
            beginning.ledger() if beginning is not None and (newest is None or newest.position < self.start) else newest
        )

    def _absorb(self, ledger: Ledger, to: int) -> None:
        gist, streams = Gist(ledger.position), Counter[bytes]()
        while gist.position < to:
            last = min(gist.position + _FOLDED, to)
            rows = self._connection.execute(SELECT_FACTS, (gist.position, last)).fetchall()
            if len(rows) == last - gist.position:
                found, types, datas = zip(*rows, strict=True)
                streams.update(found)
                gist.add(types, datas)
            else:  # some are in the archive, or of another schema
                self._add_each(gist, streams, last)
        counts = {StreamId(stream.decode()): count for stream, count in streams.items()}
        ledger.absorb(starmap(decode_fact, gist.rows()), to, counts)

    def _add_each(self, gist: Gist, streams: Counter[bytes], to: int) -> None:
        for row in self._rows.between(gist.position, to):
            streams[row[1]] += 1
            if row[4] == 1:
                gist.add((row[3],), (row[8],))
            else:
                gist.keep(row[3], row[4], row[8])

    def digest_at(self, position: int) -> bytes | None:
        """The digest of the event at that position; None: there is none."""
        return self._rows.digest_at(position)


class MemoryReader:
    """A log in a list of all its events, which may grow meanwhile."""

    def __init__(self, entries: Sequence[Envelope], refusals: Sequence[Refused] = ()) -> None:
        self._entries, self._refusals = entries, refusals
        self.start, self.head = 0, len(entries)

    def entries(self, after: int, to: int) -> Iterator[Envelope]:
        """The events behind `after` up to and with `to`, in order."""
        return iter(self._entries[after:to])

    def mark(self, position: int) -> tuple[bytes, int]:
        """Digest and time of the event at that position."""
        one = self._entries[position - 1]
        return one.digest, one.recorded_at_ns

    def about(self, names: Collection[str], after: int, to: int) -> Iterator[Envelope]:
        """Those of the same events that are about the objects of these names, in order."""
        return (one for one in self._entries[after:to] if object_of(one.event) in names)

    def fold(self, ledger: Ledger, to: int) -> None:
        """The ledger is at that position."""
        ledger.fold((one.stream, one.event) for one in self._entries[ledger.position : to])

    def find(self, wanted: Wanted) -> list[int]:
        """The positions of the events that are wanted, in order."""
        return wanted.selects(self._entries[wanted.after : self.head])

    def refusals(self) -> Iterator[Refused]:
        """The last commands that were refused, oldest first."""
        return iter(self._refusals)

    def position_at(self, instant_ns: int) -> int:
        """The last position that was recorded at or before it; 0: it is before the log."""
        found = (one.position for one in reversed(self._entries[: self.head]) if one.recorded_at_ns <= instant_ns)
        return next(found, 0)

    def snapshot(self, position: int) -> Ledger | None:
        """None: a list is folded from its beginning."""
        del position
        return None
