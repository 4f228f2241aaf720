"""The disposable file of a log: what was worked out from the log once, and need not be again.

Of a log in a file it is beside that, `LOG.history`; of one in a database it is in a folder of whoever asks, under a
name that is the log's own. It may be deleted at any time. What is not a file of this version, or cannot be read, is
thrown away and made anew. Where it cannot be made, because the folder is somebody else's or the disk is full,
everything works without it, slower.
"""

import os
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final

from cplane.eventlog.sqlite import is_damage

SUFFIX: Final = ".history"
SCHEMA: Final = 1  # of all that is in the file, and of what it was worked out by
_BUSY_S: Final = 1.0  # another process, such as the agent, may write at the moment
_JOURNALS: Final = ("", "-wal", "-shm", "-journal")

TABLES: Final = (
    """
    CREATE TABLE snapshots (
        position INTEGER PRIMARY KEY,
        log_digest BLOB NOT NULL,
        data BLOB NOT NULL,
        digest BLOB NOT NULL
    ) STRICT
    """,
)
"""What is in a new file."""


def place_of(log: str) -> str:
    """Where the file of a log is: beside the log itself, whatever links lead there."""
    return os.path.realpath(log) + SUFFIX


def kept_place(folder: str, node: str, first: bytes) -> str:
    """Where the file of a log is that is not in a file itself: of a node's log whose first event has that digest.

    The folder is made, if it can be.
    """
    with suppress(OSError):
        os.makedirs(folder, 0o700, exist_ok=True)
    name = blake2b(node.encode() + b"\0" + first, digest_size=16).hexdigest()
    return os.path.join(folder, name + SUFFIX)


def own_folder() -> str:
    """The folder for files of logs in databases, of the user who asks; empty: the user has none."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # the specification of XDG says to leave others aside
        cache = os.path.expanduser("~/.cache")
    return os.path.join(cache, "cplane", "history") if os.path.isabs(cache) else ""


def open_beside(name: str) -> sqlite3.Connection | None:
    """The file of that name, made if need be, for the caller to close; None: there is none, and cannot be."""
    if not name:
        return None
    for _ in range(2):  # what is thrown away at the first time is made at the second
        try:
            os.close(os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        except OSError:
            return None
        connection = sqlite3.connect(name, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, uri=True)
        try:
            if _prepared(connection):
                return connection
        except sqlite3.Error as error:
            if not is_damage(error):
                connection.close()
                return None
        connection.close()
        throw_away(name)
    return None


def throw_away(name: str) -> None:
    """The file of that name is gone; who has it open keeps what is there no more, until it is closed."""
    for suffix in _JOURNALS:
        with suppress(OSError):
            Path(name + suffix).unlink()


def _prepared(connection: sqlite3.Connection) -> bool:
    """Whether the file is of this version; one without anything in it is now."""
    # A power loss may take what was written last, or all of it: it is made again.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN IMMEDIATE")  # two that come at once do not make it twice
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if not version and not tables:
            _make(connection, TABLES)
            version = SCHEMA
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.rollback()
    return bool(version == SCHEMA)


def _make(connection: sqlite3.Connection, tables: Iterable[str]) -> None:
    for statement in tables:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA}")
