"""Logs to be asked about their past: a file or a database that is only read and may be in use, or a list in memory."""

import os
import sqlite3
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Final

from cplane.eventlog import snapshots
from cplane.eventlog.beside import own_folder, place_of
from cplane.eventlog.changes import Said, Told
from cplane.eventlog.codec import StoredRow, stored_again
from cplane.eventlog.errors import NotALog
from cplane.eventlog.reading import Fact, StoredReader, quietly
from cplane.eventlog.refusals import read_refusals
from cplane.eventlog.rows import Rows
from cplane.eventlog.schema import SELECT_FACTS, SELECT_OF_TYPES, SELECT_OF_VERSION, SELECT_SAID, SELECT_STREAMS
from cplane.eventlog.sqlite import driver, open_reader, recognise, translated
from cplane.eventlog.verified import verify_more
from cplane.events.envelope import Envelope, Stored
from cplane.events.objects import object_of
from cplane.timetravel.history import History
from cplane.timetravel.ledger import Ledger
from cplane.timetravel.refused import Refused
from cplane.timetravel.wanted import Wanted

POSTGRESQL: Final = ("postgresql://", "postgres://")
_INDEXED: Final = 5000  # events; a tenth of a second, in which others wait for the interpreter


@contextmanager
def open_history(location: str, *, node: str = "", folder: str = "", told: Told = quietly) -> Iterator[History]:
    """The history of a log; as `open_reading`. What it is asked may raise BadEvent too."""
    with open_reading(location, node=node, folder=folder, told=told) as reader:
        yield History(reader)


@contextmanager
def open_reading(
    location: str, *, node: str = "", folder: str = "", keeping: bool = True, told: Told = quietly
) -> Iterator[StoredReader]:
    """A reader of a log: the path of a file, or the URL of a PostgreSQL database, with `?node=` for several nodes.

    Of a database, `node` is whose log is meant where the URL does not say it, and `folder` where its disposable file
    is, by default the user's own. `told` hears how far a long log is. Raises NotALog, NewerSchema, StorageFailed.
    """
    if location.startswith(POSTGRESQL):
        from cplane.eventlog.postgres_reader import open_database  # its driver costs all others 20 ms and 9 MB

        kept = folder or own_folder()
        with open_database(location, node=node, folder=kept, keeping=keeping, told=told) as reader:
            yield reader
        return
    with reading(location, keeping=keeping, told=told) as file_reader:
        yield file_reader


@contextmanager
def reading(path: str, *, keeping: bool = True, told: Told = quietly) -> "Iterator[SqliteReader]":
    """A reader of the log in the file. Raises NotALog, NewerSchema, StorageFailed."""
    if not os.path.isfile(path):
        raise NotALog(path, "there is no such file")
    engine = open_reader(path, size=1)
    try:
        with translated(path), engine.connect() as connection:
            if not recognise(connection, path):
                raise NotALog(path, "it is empty")
            reader = SqliteReader(driver(connection), path, keeping=keeping, told=told)
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


def remember(location: str, *, node: str = "", folder: str = "") -> bool:
    """One more snapshot of the log is there, where one is due, and some more events are in the index of changes.

    Of one in a database, what a start goes on from is further too (`verified`). False: nothing is due, or it cannot be
    kept. As `open_reading`; raises BadEvent too.
    """
    with open_reading(location, node=node, folder=folder) as reader:
        history = History(reader)
        due = history.head // snapshots.EVERY * snapshots.EVERY
        held = history.newest(due)
        if held < due:
            history.ledger(min(held + snapshots.EVERY, due))
        more = history.is_long and reader.index(_INDEXED)
        if location.startswith(POSTGRESQL) and folder:
            more |= verify_more(folder, reader.head, reader.digest_at, lambda after: reader.rows(after, reader.head))
        return more or history.newest(due) > held


class SqliteReader(StoredReader):
    """A log in a file."""

    def __init__(
        self, connection: sqlite3.Connection, path: str, *, keeping: bool = True, told: Told = quietly
    ) -> None:
        self._connection = connection
        self.file = path
        self._rows = Rows(connection, path)
        super().__init__(place_of(path), start=self._rows.start, head=self._rows.head, keeping=keeping, told=told)

    @property
    def archived(self) -> int:
        """Position of the last event that has left the file; 0: all are in it."""
        return self._rows.archive.end

    def digest_at(self, position: int) -> bytes | None:
        """The digest of the event at that position; None: there is none."""
        return self._rows.digest_at(position)

    def rows(self, after: int, to: int) -> Iterator[StoredRow]:
        """The rows behind `after` up to and with `to`, in order. Raises BadEvent."""
        return self._rows.between(after, to)

    def mark(self, position: int) -> tuple[bytes, int]:
        """Digest and time of the event at that position, also when it is `start`, and was dropped. Raises BadEvent."""
        beginning = self._rows.archive.beginning
        if beginning is not None and position == beginning.position:
            return beginning.digest, beginning.recorded_at_ns
        return super().mark(position)

    def refusals(self) -> Iterator[Refused]:
        """The last commands that were refused, oldest first."""
        return read_refusals(self.file)

    def position_at(self, instant_ns: int) -> int:
        """The last position that was recorded at or before it; 0: it is before the log."""
        return self._rows.position_at(instant_ns)

    def snapshot(self, position: int) -> Ledger | None:
        """The newest that is at or before it and fits the log; None: there is none."""
        newest = super().snapshot(position)
        beginning = self._rows.archive.beginning
        return (
            beginning.ledger() if beginning is not None and (newest is None or newest.position < self.start) else newest
        )

    def _facts(self, after: int, to: int) -> Sequence[Fact]:
        return self._connection.execute(SELECT_FACTS, (after, to)).fetchall()

    @contextmanager
    def _unmoved(self) -> Iterator[None]:
        self._connection.execute("BEGIN")  # what an agent archives meanwhile is in the file until the end
        try:
            yield
        finally:
            self._connection.execute("COMMIT")

    def _versions(self, after: int, to: int) -> Mapping[str, int]:
        """By search: versions of a stream grow with positions. To read each row's would be a sixth of a fold.

        What is not in the file is older than what is, and `after` and `to` are in it.
        """
        found = {}
        for stream, last in self._connection.execute(SELECT_STREAMS).fetchall():
            name = stream.decode()
            found[name] = bisect_right(range(1, last + 1), to, key=partial(self._place, name))
        return {name: version for name, version in found.items() if version}

    def _place(self, stream: str, version: int) -> int:
        """The position of an event; 0: it is not in the file any more."""
        row = self._connection.execute(SELECT_OF_VERSION, (stream, version)).fetchone()
        return 0 if row is None else int(row[0])

    def _said(self, after: int, to: int) -> Sequence[Said]:
        return self._connection.execute(SELECT_SAID, (after, to)).fetchall()

    def _of_types(self, types: Sequence[str], after: int, to: int) -> Iterator[tuple[int, bytes]]:
        marks = ", ".join("?" * len(types))
        cursor = self._connection.execute(SELECT_OF_TYPES.format(marks), (after, to, *types))
        first, _ = next(cursor)
        wanted = {name.encode() for name in types}
        older = self._rows.between(after, min(to, first - 1))
        return chain(((row[0], row[8]) for row in older if row[3] in wanted), cursor)


class MemoryReader:
    """A log in a list of all its events, which may grow meanwhile."""

    def __init__(self, entries: Sequence[Envelope], refusals: Sequence[Refused] = ()) -> None:
        self._entries, self._refusals = entries, refusals
        self.start, self.head = 0, len(entries)

    def entries(self, after: int, to: int) -> Iterator[Envelope]:
        """The events behind `after` up to and with `to`, in order."""
        return iter(self._entries[after:to])

    def stored(self, after: int, to: int) -> Iterator[Stored]:
        """The same events as they would be stored."""
        return map(stored_again, self._entries[after:to])

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

    def first_at(self, instant_ns: int) -> int:
        """The first position that was recorded at or after it; one behind the head: there is none."""
        found = (one.position for one in self._entries[: self.head] if one.recorded_at_ns >= instant_ns)
        return next(found, self.head + 1)

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
