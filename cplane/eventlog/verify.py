"""Whether a stored log is what was written: nothing changed, nothing missing, every event readable.

Events missing at the end leave a shorter log that is sound in itself: compare head and digest with what was noted
elsewhere.
"""

import os
import sqlite3
from dataclasses import dataclass

from sqlalchemy import Connection

from cplane.errors import Corrupt
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import decode
from cplane.eventlog.errors import BadEvent, NotALog
from cplane.eventlog.schema import SELECT_ALL
from cplane.eventlog.sqlite import driver, is_damage, open_reader, recognise, storage_reason, translated


@dataclass(frozen=True, slots=True)
class Finding:
    """How far a log is sound: `events` of it are, up to `digest` (hexadecimal).

    `fault` says what is wrong at `position`; it is empty, and `position` 0, when everything is sound.
    """

    events: int
    digest: str
    position: int = 0
    fault: str = ""


def verify(path: str) -> tuple[int, bytes]:
    """Head and digest of the log in the file, which is only read and may have a writer.

    Raises BadEvent, which names the first bad position, NotALog, NewerSchema, StorageFailed.
    """
    chain = Chain()
    _verify(path, chain)
    return chain.position, chain.digest


def verify_file(path: str) -> Finding:
    """How far the log in the file is sound. The file is only read and may have a writer. Raises StorageFailed."""
    chain = Chain()
    try:
        _verify(path, chain)
    except Corrupt as fault:
        position, reason = (fault.position, fault.reason) if isinstance(fault, BadEvent) else (1, str(fault))
        return Finding(chain.position, chain.digest.hex(), position, reason)
    return Finding(chain.position, chain.digest.hex())


def walk(connection: Connection, chain: Chain, *, events: bool = False) -> None:
    """`chain` is behind the last row. With `events`, each of them could be read too.

    Raises BadEvent; `chain` is then behind the last good row.
    """
    try:
        for row in driver(connection).execute(SELECT_ALL):
            chain.check(row)
            if events:
                decode(row)
            chain.follow(row)
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        raise BadEvent(chain.position + 1, f"the file is damaged: {storage_reason(error)}") from error


def _verify(path: str, chain: Chain) -> None:
    if not os.path.isfile(path):
        raise NotALog(path, "there is no such file")
    engine = open_reader(path, size=1)
    try:
        with translated(path), engine.connect() as connection:
            if not recognise(connection, path):
                raise NotALog(path, "it is empty")
            walk(connection, chain, events=True)
    finally:
        engine.dispose()
