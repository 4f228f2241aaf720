"""All rows of a stored log, whether they are still in its file or in the archive beside it."""

import sqlite3
from collections.abc import Iterator
from typing import Final

from cplane.eventlog.archive import Archive
from cplane.eventlog.codec import StoredRow
from cplane.eventlog.errors import BadEvent
from cplane.eventlog.schema import SELECT_AT, SELECT_DIGEST, SELECT_HEAD, SELECT_RANGE

_FETCH: Final = 1024  # rows at once


class Rows:
    """The rows of one log, over a connection that gives texts as bytes.

    An event is moved into the archive before it leaves the file. So what is not in the file any more is in the archive
    if one looks there afterwards, and that is the order here.
    """

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self.archive = Archive(path)
        (self.head,) = connection.execute(SELECT_HEAD).fetchone()
        if self.archive.end > self.head:
            raise BadEvent(self.archive.end, f"{self.archive.folder} has it and the log ends at {self.head}")

    @property
    def start(self) -> int:
        """The position that the log begins behind; 0 when nothing was dropped."""
        return self.archive.start

    def between(self, after: int, to: int) -> Iterator[StoredRow]:
        """Those behind `after` up to and with `to`, in order. Raises BadEvent, StorageFailed."""
        while after < to:
            came = after
            for row in self._stored(after, to):
                if row[0] != after + 1:
                    break
                yield row
                after += 1
            if after < to:
                self._look_for(after + 1)
                for row in self.archive.rows(after, to):
                    if row[0] != after + 1:
                        break
                    yield row
                    after += 1
            if after == came:
                raise BadEvent(after + 1, self._missing(after + 1))

    def digest_at(self, position: int) -> bytes | None:
        """The digest of the event at that position; None: there is none. Raises BadEvent, StorageFailed."""
        row = self._connection.execute(SELECT_DIGEST, (position,)).fetchone()
        if row is not None:
            return bytes(row[0])
        self._look_for(position)
        return self.archive.digest_at(position)

    def position_at(self, instant_ns: int) -> int:
        """The last position that was recorded at or before it (UTC, nanoseconds); 0: it is before the log.

        A clock that was set back makes a later position older than one before it. The last one counts: what was known
        at that time by the clock of the recorder is known from there on.
        """
        row = self._connection.execute(SELECT_AT, (instant_ns, self.head)).fetchone()
        if row is not None:
            return int(row[0])
        self.archive.look()
        return self.archive.position_at(instant_ns)

    def _look_for(self, position: int) -> None:
        """The archive has the event, if it is anywhere outside the file."""
        if not self.archive.start < position <= self.archive.end:
            self.archive.look()

    def _stored(self, after: int, to: int) -> Iterator[StoredRow]:
        cursor = self._connection.execute(SELECT_RANGE, (after, to))
        cursor.arraysize = _FETCH
        while rows := cursor.fetchmany():
            yield from rows

    def _missing(self, position: int) -> str:
        if position <= self.start:
            return f"the event was dropped: the log begins at position {self.start + 1}"
        return "the event is missing"
