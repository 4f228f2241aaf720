"""Whether a stored log is what was written: nothing changed, nothing missing, every event readable.

Events missing at the end leave a shorter log that is sound in itself: compare head and digest with what was noted
elsewhere.
"""

import os
import re
import sqlite3
from dataclasses import dataclass

from sqlalchemy import Connection

from cplane.errors import Corrupt
from cplane.eventlog.archive import Archive
from cplane.eventlog.beginning import Beginning
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import decode
from cplane.eventlog.errors import BadEvent, NotALog
from cplane.eventlog.reader import POSTGRESQL, open_reading
from cplane.eventlog.reading import StoredReader
from cplane.eventlog.rows import Rows
from cplane.eventlog.schema import SELECT_ALL, SELECT_RANGE, SELECT_STREAMS
from cplane.eventlog.snapshots import Snapshots
from cplane.eventlog.sqlite import driver, is_damage, open_reader, recognise, storage_reason, translated
from cplane.timetravel.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Finding:
    """How far a log is sound: up to the position `events`, which has the digest `digest` (hexadecimal).

    `fault` says what is wrong at `position`; it is empty, and `position` 0, when everything is sound. What is before
    and at the position `start` was dropped, and the log had `start_digest` there.
    """

    events: int
    digest: str
    position: int = 0
    fault: str = ""
    start: int = 0
    start_digest: str = ""


def verify(path: str) -> tuple[int, bytes]:
    """Head and digest of the log in the file, which is only read and may have a writer.

    Raises BadEvent, which names the first bad position, NotALog, NewerSchema, StorageFailed.
    """
    chain = Chain()
    _verify(path, chain)
    return chain.position, chain.digest


def verify_file(path: str) -> Finding:
    """How far the log in the file, or in the database, is sound; it is only read and may have a writer.

    Raises StorageFailed, and NotALog where a database has no log that could be meant.
    """
    if path.startswith(POSTGRESQL):
        from cplane.eventlog.postgres_reader import verify_database  # as in `reader`

        chain, position, reason = verify_database(path)
        return Finding(chain.position, chain.digest.hex(), position, reason)
    chain = Chain()
    try:
        beginning = _verify(path, chain)
    except Corrupt as fault:
        position, reason = (fault.position, fault.reason) if isinstance(fault, BadEvent) else (1, str(fault))
        return Finding(chain.position, chain.digest.hex(), position, reason)
    if beginning is None:
        return Finding(chain.position, chain.digest.hex())
    return Finding(chain.position, chain.digest.hex(), start=beginning.position, start_digest=beginning.digest.hex())


def with_node(url: str, node: str) -> str:
    """The address of a node's log in a database, which may name the node itself."""
    return url if re.search(r"[?&]node=", url) else f"{url}{'&' if '?' in url else '?'}node={node}"


@dataclass(frozen=True, slots=True)
class SnapshotsFinding:
    """How many snapshots were beside the log, and at which positions one did not say what the log says."""

    there: int
    wrong: tuple[int, ...] = ()


def verify_snapshots(location: str) -> SnapshotsFinding:
    """Whether each snapshot of the log is what a fold from the first event on gives.

    Those that are not are thrown away. Raises what `verify` raises.
    """
    with open_reading(location, keeping=False) as reader:
        snapshots = Snapshots(reader.place, reader.digest_at)
        try:
            return _compare(reader, snapshots)
        finally:
            snapshots.close()


def _compare(reader: StoredReader, snapshots: Snapshots) -> SnapshotsFinding:
    ledger, there, wrong = reader.snapshot(reader.start) or Ledger(), 0, []
    for position, snapshot in snapshots.all():
        if position < reader.start:
            continue  # of what was dropped: nobody asks for it
        there += 1
        if position <= reader.head:
            reader.fold(ledger, position)
        if snapshot is None or position > reader.head or snapshot.dump() != ledger.dump():
            wrong.append(position)
            snapshots.drop(position)
    return SnapshotsFinding(there, tuple(wrong))


def walk(connection: Connection, chain: Chain, *, events: bool = False) -> None:
    """`chain` is behind the last row; it comes from where the archive ends. With `events`, each could be read too.

    Raises BadEvent; `chain` is then behind the last good row.
    """
    first = chain.position
    try:
        for row in driver(connection).execute(SELECT_ALL):
            if 0 < row[0] <= first:
                continue  # it is in the archive too (`archiving.settle`)
            chain.check(row)
            if events:
                decode(row)
            chain.follow(row)
        _compare_index(driver(connection), chain, damaged=not events)
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        raise BadEvent(chain.position + 1, f"the file is damaged: {storage_reason(error)}") from error


def _compare_index(connection: sqlite3.Connection, chain: Chain, *, damaged: bool) -> None:
    """The index of streams knows of no event behind the end. It may be `damaged`: all can be read without it.

    Where a page of the table was lost, the rows that are left may be a chain that begins with the first event. An
    agent would go on from its end, and enforce what was so then.
    """
    try:
        streams = connection.execute(SELECT_STREAMS).fetchall()
    except sqlite3.Error as error:
        if damaged and is_damage(error):
            return
        raise
    for stream, last in streams:
        name = stream.decode(errors="backslashreplace")
        if last > chain.versions.get(name, 0):
            reason = f"the event is missing: the index of the file has stream {name!r} up to version {last}"
            raise BadEvent(chain.position + 1, reason)


def _verify(path: str, chain: Chain) -> Beginning | None:
    """`chain` is behind the last row; what the log begins with when its older past was dropped."""
    if not os.path.isfile(path):
        raise NotALog(path, "there is no such file")
    engine = open_reader(path, size=1)
    try:
        with translated(path), engine.connect() as connection:
            if not recognise(connection, path):
                raise NotALog(path, "it is empty")
            found = Rows(driver(connection), path).archive
            first = found.first_chain()
            chain.position, chain.digest, chain.versions = first.position, first.digest, first.versions
            found.check(chain, decode)
            _compare_copies(driver(connection), found)
            driver(connection).execute("BEGIN")  # rows and index are those of one moment, though somebody writes
            walk(connection, chain, events=True)
            driver(connection).execute("ROLLBACK")
            return found.beginning
    finally:
        engine.dispose()


def _compare_copies(connection: sqlite3.Connection, found: Archive) -> None:
    """What is in the file and in the archive is the same in both."""
    for row in connection.execute(SELECT_RANGE, (0, found.end)):
        if next(found.rows(row[0] - 1, row[0]), None) != row:
            raise BadEvent(row[0], f"it is in the file and in {found.folder}, and differs")
