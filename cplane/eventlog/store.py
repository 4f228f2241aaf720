"""The event log in one SQLite file: one writer thread with group commit, readers beside it."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from anyio import to_thread
from sqlalchemy import Connection, Engine

from cplane.eventlog.archive import Archive
from cplane.eventlog.archiving import settle
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import decode_all
from cplane.eventlog.lock import held
from cplane.eventlog.ports import Clock
from cplane.eventlog.reader import fold_log
from cplane.eventlog.rows import Rows
from cplane.eventlog.schema import SELECT
from cplane.eventlog.sqlite import READERS, driver, open_reader, open_writer, translated
from cplane.eventlog.stored import StoredLog
from cplane.eventlog.verify import walk
from cplane.eventlog.writer import SqliteWriter
from cplane.events.envelope import Envelope
from cplane.timetravel.ledger import Ledger


@dataclass(frozen=True, slots=True)
class _File:
    connection: Connection
    reading: Engine
    chain: Chain


class SqliteLog(StoredLog):
    """A durable event log. Only `open` makes one."""

    def __init__(self, path: str, clock: Clock, file: _File) -> None:
        super().__init__(path, clock, partial(SqliteWriter, driver(file.connection), file.chain, path), readers=READERS)
        self._reading = file.reading

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str, clock: Clock) -> AsyncIterator["SqliteLog"]:
        """The log in the file at `path`, created if need be, migrated, and verified from the first event in it on.

        Raises LogLocked when it has a writer, NotALog, NewerSchema, BadEvent when it was changed, StorageFailed.
        At the end what was taken in is written first; later calls raise LogClosed.
        """
        stack = ExitStack()
        try:
            file = await to_thread.run_sync(_open, path, stack)
            log = cls(path, clock, file)
            log._thread.start()
            try:
                yield log
            finally:
                await log._close()
        finally:
            stack.close()

    def folded(self) -> Ledger:
        """As any stored log."""
        return fold_log(self.path)

    def _read(self, after: int, limit: int) -> list[Envelope]:
        if self._closed:
            self._refuse()
        with translated(self.path), self._reading.connect() as connection:
            rows = driver(connection).execute(SELECT, (after, limit)).fetchall()
            if rows and rows[0][0] == after + 1:
                return decode_all(rows, after)
            stored = Rows(driver(connection), self.path)
            after = max(after, stored.start)
            return decode_all(stored.between(after, min(after + limit, stored.head)), after)


def _open(path: str, stack: ExitStack) -> _File:
    """Everything that must be closed again is on `stack` when this returns, and nothing is open when it raises."""
    try:
        stack.enter_context(held(path))
        writing = open_writer(path)
        stack.callback(writing.dispose)
        reading = open_reader(path)
        stack.callback(reading.dispose)
        with translated(path):
            with writing.connect() as connection:
                settle(path, driver(connection))
            with reading.connect() as connection:
                # What was archived was verified then; the first event that was not must follow it.
                chain = Archive(path).chain()
                walk(connection, chain)
            return _File(stack.enter_context(writing.connect()), reading, chain)
    except BaseException:
        stack.close()
        raise
