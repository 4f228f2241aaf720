"""The event log of one node in a PostgreSQL database, which has the logs of others too.

One writer thread with group commit, as with files; readers have connections of their own beside it.
"""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial

from anyio import to_thread

from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import decode_all
from cplane.eventlog.database import READERS, Connection, Place, Readers, open_writer, translated
from cplane.eventlog.ports import Clock
from cplane.eventlog.postgres_rows import LAST, between, select, stored_row
from cplane.eventlog.postgres_writer import PostgresWriter
from cplane.eventlog.stored import StoredLog
from cplane.events.envelope import Envelope


class PostgresLog(StoredLog):
    """A durable event log. Only `open` makes one."""

    def __init__(self, place: Place, clock: Clock, writing: Connection, reading: Readers, chain: Chain) -> None:
        super().__init__(place.shown, clock, partial(PostgresWriter, writing, chain, place), readers=READERS)
        self._place, self._reading = place, reading

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, clock: Clock, *, node: str = "") -> AsyncIterator["PostgresLog"]:
        """The log of a node in the database at `url`, migrated if need be, and verified from the first event on.

        A database that is down may come for half a minute. Raises LogLocked when the log has a writer, NotALog,
        NewerSchema, BadEvent when it was changed, StorageFailed. At the end what was taken in is written first; later
        calls raise LogClosed.
        """
        place, stack = Place.of(url, node), ExitStack()
        try:
            reading = Readers(place)
            stack.callback(reading.close)
            writing, chain = await to_thread.run_sync(_open, place, stack)
            log = cls(place, clock, writing, reading, chain)
            log._thread.start()
            try:
                yield log
            finally:
                await log._close()
        finally:
            stack.close()

    def _read(self, after: int, limit: int) -> list[Envelope]:
        if self._closed:
            self._refuse()
        rows = self._reading.ask(lambda connection: select(connection, self._place.node, after, limit))
        return decode_all(map(stored_row, rows), after)


def _open(place: Place, stack: ExitStack) -> tuple[Connection, Chain]:
    """The connection is the caller's to close, and on `stack` until then."""
    writing = open_writer(place)
    stack.callback(writing.close)
    chain = Chain()
    with translated(place.shown):
        for row in between(writing, place.node, 0, LAST):
            chain.check(row)
            chain.follow(row)
    return writing, chain
