"""Opens the file of a log: whose it is, which schema it has, and how SQLite must treat it."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

import cplane
from cplane.errors import CplaneError
from cplane.eventlog.errors import NewerSchema, NotALog, StorageFailed
from cplane.eventlog.schema import COLUMNS, REVISIONS

READERS: Final = 4  # connections; a further reader waits for one
_BUSY_S: Final = 5.0  # somebody else, such as the sqlite3 shell, may hold the file for a moment
_WAL_BYTES: Final = 64 << 20  # a longer write-ahead log is cut to this after a checkpoint
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Errors of the driver become NotALog when the file is damaged and StorageFailed otherwise."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        raise failure(path, error) from error


def failure(path: str, error: DBAPIError | sqlite3.Error) -> CplaneError:
    """What the error of the driver is to callers."""
    reason = storage_reason(error)
    return NotALog(path, reason) if is_damage(error) else StorageFailed(path, reason)


def is_damage(error: DBAPIError | sqlite3.Error) -> bool:
    """Whether the error says that the bytes in the file make no sense."""
    code: int = getattr(_origin(error), "sqlite_errorcode", 0)
    return code & 0xFF in _DAMAGE  # the low byte is the primary code: sqlite.org/rescode.html


def storage_reason(error: DBAPIError | sqlite3.Error) -> str:
    """What SQLite said, without the statement: its texts are few, so its name for the error too."""
    origin = _origin(error)
    name: str = getattr(origin, "sqlite_errorname", "")
    return f"{origin} ({name})" if name else str(origin)


def _origin(error: DBAPIError | sqlite3.Error) -> BaseException:
    return error.orig or error if isinstance(error, DBAPIError) else error


def open_writer(path: str) -> Engine:
    """The file at `path`, created if need be and at the newest schema. The caller holds the lock and disposes of it.

    Raises NotALog, NewerSchema (the file is as it was), StorageFailed.
    """
    _create(path)
    # An absolute path is only ever a file; `:memory:` would be none.
    name = os.path.abspath(path)
    engine = _engine(lambda: sqlite3.connect(name, timeout=_BUSY_S, check_same_thread=False), size=1)
    event.listen(engine, "connect", _prepare_writer)
    # The driver begins nothing by itself (isolation_level None), so that DDL is in the transaction too.
    event.listen(engine, "begin", _begin_immediate)
    try:
        with translated(path):
            with engine.connect() as connection:
                revision = recognise(connection, path)
            if revision != REVISIONS[-1]:
                _upgrade(engine)
            with engine.connect() as connection:
                _write_ahead(connection, path)
    except BaseException:
        engine.dispose()
        raise
    return engine


def open_reader(path: str, *, size: int = READERS) -> Engine:
    """Up to `size` connections that only read; texts come as bytes. The caller disposes of it.

    SQLite reads a log that was not closed, or has a writer, with the help of files beside it. Where there are none and
    none can be made, such as on a read-only medium, the file is all there is, and nobody changes it.
    """
    name = os.path.abspath(path)
    alone = not os.access(os.path.dirname(name), os.W_OK) and not os.path.exists(f"{name}-wal")
    uri = f"file:{quote(name)}?mode=ro{'&immutable=1' if alone else ''}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, check_same_thread=False)
        connection.text_factory = bytes
        return connection

    engine = _engine(connect, size)
    event.listen(engine, "connect", _prepare)
    return engine


def driver(connection: Connection) -> sqlite3.Connection:
    """The driver's connection under SQLAlchemy's, which costs a tenth of a millisecond for each statement."""
    raw: object = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


def recognise(connection: Connection, path: str) -> str:
    """The schema's revision; empty when nothing is in the file. Raises NotALog, NewerSchema."""
    tables = {
        _text(row[0]) for row in connection.exec_driver_sql("SELECT name FROM sqlite_schema WHERE type = 'table'")
    }
    if not tables:
        return ""
    missing = {"events", "alembic_version"} - tables
    if missing:
        raise NotALog(path, f"it has no table {' and '.join(sorted(missing))!r}")
    revisions = [_text(row[0]) for row in connection.exec_driver_sql("SELECT version_num FROM alembic_version")]
    if len(revisions) != 1 or not revisions[0]:
        raise NotALog(path, f"it names {len(list(filter(None, revisions)))} schemas, not one")
    if revisions[0] not in REVISIONS:
        raise NewerSchema(path, revisions[0], REVISIONS[-1])
    columns = tuple(_text(row[1]) for row in connection.exec_driver_sql("PRAGMA table_info(events)"))
    if revisions[0] == REVISIONS[-1] and columns != COLUMNS:
        raise NotALog(path, f"its table 'events' has the columns {', '.join(columns)}")
    return revisions[0]


def migrations() -> Path:
    """The folder of the migrations: in the installed package, or else in the repository."""
    packaged = resources.files(cplane) / "_migrations"
    if packaged.is_dir():
        return Path(str(packaged))
    return Path(str(resources.files(cplane))).parent / "migrations"


def _engine(connect: Callable[[], sqlite3.Connection], size: int) -> Engine:
    return create_engine("sqlite://", creator=connect, poolclass=QueuePool, pool_size=size, max_overflow=0)


def _create(path: str) -> None:
    """The file can be written, readable by its owner only if it is new; a power loss leaves its entry in the folder."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        folder = os.open(os.path.dirname(os.path.realpath(path)), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageFailed(path, f"cannot open it to write: {error.strerror}") from error


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None


def _prepare_writer(connection: sqlite3.Connection, record: object) -> None:
    _prepare(connection, record)
    # NORMAL may lose the last commits when the power goes; what is acknowledged must not be lost.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _write_ahead(connection: Connection, path: str) -> None:
    """Readers do not wait for the writer, and a commit is one sync. Outside a transaction, where alone it works."""
    (mode,) = driver(connection).execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StorageFailed(path, f"this filesystem cannot hold a write-ahead log (journal mode {mode})")


def _upgrade(engine: Engine) -> None:
    # Alembic takes a third of a second to import, and a file at the newest schema does not need it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, REVISIONS[-1])


def _text(value: object) -> str:
    """A text; what is none, as in a row that was overwritten, is empty."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value if isinstance(value, str) else ""
