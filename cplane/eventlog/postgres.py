"""The event log of one node in a PostgreSQL database, which has the logs of others too.

One writer thread with group commit, as with files; readers have connections of their own beside it.
"""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial

from anyio import to_thread

from cplane.eventlog.codec import decode_all
from cplane.eventlog.database import READERS, Connection, Place, Readers, open_writer, translated
from cplane.eventlog.ports import Clock
from cplane.eventlog.postgres_rows import LAST, between, digest_at, select, stored_row
from cplane.eventlog.postgres_writer import PostgresWriter
from cplane.eventlog.stored import StoredLog
from cplane.eventlog.verified import Verified, verified
from cplane.events.envelope import Envelope
from cplane.timetravel.ledger import Ledger


class PostgresLog(StoredLog):
    """A durable event log. Only `open` makes one."""

    def __init__(self, place: Place, clock: Clock, writing: Connection, reading: Readers, found: Verified) -> None:
        super().__init__(place.shown, clock, partial(PostgresWriter, writing, found.chain, place), readers=READERS)
        self._place, self._reading = place, reading
        self._ledger = found.ledger

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, clock: Clock, *, node: str = "", folder: str = "") -> AsyncIterator["PostgresLog"]:
        """The log of a node in the database at `url`, migrated if need be, and verified.

        With a `folder` that says how far it was verified before (`verified`), from there on, and otherwise from the
        first event on.

        A database that is down may come for half a minute. Raises LogLocked when the log has a writer, NotALog,
        NewerSchema, BadEvent when it was changed, StorageFailed. At the end what was taken in is written first; later
        calls raise LogClosed.
        """
        place, stack = Place.of(url, node), ExitStack()
        try:
            reading = Readers(place)
            stack.callback(reading.close)
            writing, found = await to_thread.run_sync(_open, place, folder, stack)
            log = cls(place, clock, writing, reading, found)
            log._thread.start()
            try:
                yield log
            finally:
                await log._close()
        finally:
            stack.close()

    def folded(self) -> Ledger:
        """As any stored log."""
        return self._ledger

    def _read(self, after: int, limit: int) -> list[Envelope]:
        if self._closed:
            self._refuse()
        rows = self._reading.ask(lambda connection: select(connection, self._place.node, after, limit))
        return decode_all(map(stored_row, rows), after)


def _open(place: Place, folder: str, stack: ExitStack) -> tuple[Connection, Verified]:
    """The connection is the caller's to close, and on `stack` until then."""
    writing = open_writer(place)
    stack.callback(writing.close)
    with translated(place.shown):
        return writing, verified(
            folder,
            lambda position: digest_at(writing, place.node, position),
            lambda after: between(writing, place.node, after, LAST),
        )
