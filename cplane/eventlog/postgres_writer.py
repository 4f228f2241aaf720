"""The one thread that writes a node's log into PostgreSQL: each batch is one statement, which is one transaction.

The statement inserts only if the log ends where the writer thinks it does, so another writer, or a database that was
restored from a backup, is found before anything is written. When the connection is lost before the answer came, the
database knows whether the batch is in, and is asked as soon as it can be.
"""

import select
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from queue import Empty
from typing import Final

import psycopg

from cplane.errors import CplaneError
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import GENESIS, Row
from cplane.eventlog.database import Connection, Place, connect, pauses, reason_of, take
from cplane.eventlog.errors import BadEvent, OutcomeUnknown, StorageFailed
from cplane.eventlog.writer import Loop, Request, Writer

_ASK_S: Final = 5.0  # in which the database may come back before who waits is told that the outcome is not known
_SETTLE_S: Final = 1.0  # between two attempts to find out, when nobody asks
_TRIES: Final = 3  # of a batch that each time takes the connection with it and is not in
_CHUNK_BYTES: Final = 16 << 20  # of one statement; a message to the server may have a gigabyte

SELECT_LAST: Final = b"SELECT position, digest FROM events WHERE node = %s ORDER BY position DESC LIMIT 1"
# Arrays of texts are sent binary (%b): to quote 256 documents for a textual one takes the driver 100 ms.
_INSERT: Final = b"""
INSERT INTO events (position, stream, version, type, schema, recorded_at_ns, actor, cause, data, digest, node)
SELECT %s + place, stream, version, type, schema, recorded_at_ns, actor, cause, data, digest, %s
FROM unnest(
    %b::text[], %s::bigint[], %b::text[], %s::int[], %s::bigint[], %b::text[], %b::text[], %b::text[], %b::bytea[]
) WITH ORDINALITY AS given (stream, version, type, schema, recorded_at_ns, actor, cause, data, digest, place)
WHERE coalesce((SELECT digest FROM events WHERE node = %s ORDER BY position DESC LIMIT 1), %b) = %b
"""


def stored_text(text: str) -> str:
    """The text as the database can keep it: texts there have no U+0000."""
    if "\\" in text or "\0" in text:
        return text.replace("\\", "\\\\").replace("\0", "\\0")
    return text


class PostgresWriter(Writer):
    """Writes into one database, in which the log is its session's. It closes the connection it has when it ends."""

    def __init__(self, connection: Connection, chain: Chain, place: Place, loop: Loop) -> None:
        super().__init__(chain, loop)
        self._connection = connection
        self._place = place
        self._former = connection.info.backend_pid
        self._doubt: Chain | None = None  # where the log ends if the batch is in whose answer was lost

    def run(self) -> None:
        """As any writer."""
        try:
            super().run()
        finally:
            self._connection.close()

    def _next(self) -> Request | None:
        while self._doubt is not None:
            try:
                return self.queue.get(timeout=_SETTLE_S)
            except Empty:
                with suppress(CplaneError):
                    self._find_out()
        return self.queue.get()

    def _prepare(self) -> None:
        if self._doubt is not None:
            if self._find_out():
                raise StorageFailed(self._place.shown, "it has just come back and the log has gone on: ask again")
        elif not self._is_alive():
            self._reconnect()

    def _commit(self, rows: list[Row], after: Chain) -> None:
        waits = pauses(_ASK_S)
        for left in reversed(range(_TRIES)):
            try:
                self._insert(rows)
            except psycopg.Error as error:
                is_lost = self._connection.broken
                if is_lost:
                    self._doubt = after
                    if self._is_in_after_all(waits, reason_of(error)):
                        return
                if not left or not is_lost:
                    raise StorageFailed(self._place.shown, reason_of(error)) from error
            else:
                return

    def _is_in_after_all(self, waits: Iterator[float], reason: str) -> bool:
        """What `_find_out` says, as soon as the database is there again. Raises OutcomeUnknown, BadEvent."""
        while True:
            try:
                return self._find_out()
            except StorageFailed as gone:
                pause_s = next(waits, None)
                if pause_s is None:
                    raise OutcomeUnknown(self._place.shown, reason) from gone
                time.sleep(pause_s)

    def _insert(self, rows: list[Row]) -> None:
        chunks = list(_chunks(rows))
        if len(chunks) == 1:
            self._insert_chunk(chunks[0], self.chain.digest)
            return
        with self._connection.transaction():
            previous = self.chain.digest
            for chunk in chunks:
                self._insert_chunk(chunk, previous)
                previous = chunk[-1][9]

    def _insert_chunk(self, rows: list[Row], previous: bytes) -> None:
        positions, streams, versions, types, schemas, times, actors, causes, datas, digests = zip(*rows, strict=True)
        done = self._connection.execute(
            _INSERT,
            (
                positions[0] - 1,
                self._place.node,
                [stored_text(one) for one in streams],
                _numbers(versions),
                list(types),
                _numbers(schemas),
                _numbers(times),
                [stored_text(one) for one in actors],
                [stored_text(one) for one in causes],
                list(datas),
                list(digests),
                self._place.node,
                GENESIS,
                previous,
            ),
        )
        if done.rowcount != len(rows):
            raise BadEvent(self.chain.position, "somebody else writes, or the database was restored: it ends elsewhere")

    def _find_out(self) -> bool:
        """Whether the batch in doubt is in the log, which ends with it then. Raises StorageFailed, BadEvent."""
        self._reconnect()
        assert self._doubt is not None
        is_in = self._ends_at(self._doubt)
        if not is_in and not self._ends_at(self.chain):
            raise BadEvent(self.chain.position, "somebody else writes, or the database was restored: it ends elsewhere")
        if is_in:
            self.chain = self._doubt
            answered: list[Request] = []
            self._loop.soon(partial(self._loop.answer, answered))  # whoever follows the log finds more of it
        self._doubt = None
        return is_in

    def _ends_at(self, chain: Chain) -> bool:
        try:
            row = self._connection.execute(SELECT_LAST, (self._place.node,), binary=True).fetchone()
        except psycopg.Error as error:
            raise StorageFailed(self._place.shown, reason_of(error)) from error
        return (row or (0, GENESIS)) == (chain.position, chain.digest)

    def _is_alive(self) -> bool:
        """Whether nothing says that the connection is lost; a server that has ended it has said so."""
        if self._connection.closed:
            return False
        poll = select.poll()
        poll.register(self._connection.fileno(), select.POLLIN | select.POLLHUP)
        if not poll.poll(0):
            return True
        with suppress(psycopg.Error):
            self._connection.execute(b"SELECT 1")
        return not self._connection.broken

    def _reconnect(self) -> None:
        """The log is this session's again, and nothing of the one before is under way. Raises StorageFailed."""
        self._connection.close()
        try:
            connection = connect(self._place, write=True)
            try:
                take(connection, self._place, self._former)
            except BaseException:
                connection.close()
                raise
        except psycopg.Error as error:
            raise StorageFailed(self._place.shown, reason_of(error)) from error
        self._connection, self._former = connection, connection.info.backend_pid


def _numbers(values: tuple[int, ...]) -> str:
    """An array's text: the driver's own for numbers takes four times as long."""
    return f"{{{','.join(map(str, values))}}}"


def _chunks(rows: list[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    size = 0
    for row in rows:
        length = len(row[1]) + len(row[6]) + len(row[7]) + len(row[8])
        if chunk and size + length > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += length
    yield chunk
