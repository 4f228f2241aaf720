"""Connects to a PostgreSQL database that has logs: where it is, whose log is meant, and which schema it has."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from cplane.errors import CplaneError
from cplane.eventlog.errors import DriverMissing, LogLocked, NewerSchema, NotALog, StorageFailed
from cplane.eventlog.schema import COLUMNS, REVISIONS
from cplane.eventlog.sqlite import migrations

try:
    import psycopg
    from psycopg.types.string import ByteaBinaryLoader
except ImportError as error:  # an extra, which whoever has files only does without
    raise DriverMissing(str(error)) from error

SCHEMES: Final = ("postgresql", "postgres")
READERS: Final = 4  # connections; a further reader waits for one
_CONNECT_S: Final = 5  # for one attempt
_START_S: Final = 30.0  # in which a database that is down may come
_PAUSE_S: Final = (0.05, 1.0)  # between two attempts: at first, and at most
_LOCK_S: Final = 10.0  # in which the session that a lost connection left ends
_CLOSED_S: Final = 1.0  # in which a session that its client has closed has ended
_MIGRATION_LOCK: Final = 0x63706C616E65  # of all agents of one database that start at once; no node's, which are hashes
_PASSES: Final = re.compile("starting up|shutting down|recovery mode|not yet accepting|too many (clients|connections)")

Connection: TypeAlias = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Place:
    """One node's log in one database; `shown` is the address without the password."""

    conninfo: str
    node: str
    shown: str

    @classmethod
    def of(cls, url: str, node: str = "") -> "Place":
        """The place that `postgresql://user@host/database?node=NAME` names; the node of the URL counts."""
        parts = urlsplit(url)
        given = parse_qsl(parts.query, keep_blank_values=True)
        named = next((value for key, value in given if key == "node"), node)
        query = urlencode([(key, value) for key, value in given if key != "node"], quote_via=quote, safe="/")
        rest = parts._replace(query=query)
        host = parts.netloc.rpartition("@")[2]
        user = f"{parts.netloc.rpartition('@')[0].partition(':')[0]}@" if "@" in parts.netloc else ""
        shown = [(key, value) for key, value in given if key not in {"node", "password"}]
        shown += [("node", named)] if named else []
        query = unquote(urlencode(shown, safe="/"))
        # urlunsplit leaves the two slashes out where nothing is between them and the path.
        address = f"{rest.scheme}://{user}{host}{rest.path}{f'?{query}' if query else ''}"
        bare = f"{rest.scheme}://{rest.netloc}{rest.path}{f'?{rest.query}' if rest.query else ''}"
        return cls(bare, named, address)


@contextmanager
def translated(shown: str) -> Iterator[None]:
    """Errors of the driver become StorageFailed."""
    try:
        yield
    except psycopg.Error as error:
        raise StorageFailed(shown, reason_of(error)) from error


def reason_of(error: psycopg.Error) -> str:
    """What the database said, on one line, and its code for the error where there is one."""
    text = " ".join((error.diag.message_primary or str(error)).split()).removeprefix("connection is bad: ")
    return f"{text} (SQLSTATE {error.sqlstate})" if error.sqlstate else text


def connect(place: Place, *, write: bool = False) -> Connection:
    """A connection outside transactions, for the caller to close; texts come as bytes. Raises psycopg.Error."""
    try:
        connection = psycopg.connect(
            place.conninfo,
            autocommit=True,
            connect_timeout=_CONNECT_S,
            application_name=f"cplane {'agent' if write else 'reader'} {place.node}",
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )
    except OSError as error:  # the driver opens files of its own: there may be too many
        raise psycopg.OperationalError(str(error)) from error
    try:
        connection.adapters.register_loader("text", ByteaBinaryLoader)
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise psycopg.NotSupportedError(f"the database has the encoding {encoding}, a log needs UTF8")
        # Without it the last commits before a crash may be lost; what is acknowledged must not be.
        connection.execute("SET synchronous_commit = on" if write else "SET default_transaction_read_only = on")
    except BaseException:
        connection.close()
        raise
    return connection


def is_passing(error: psycopg.Error) -> bool:
    """Whether the same attempt may succeed a little later: the server is away, starting or too busy."""
    if not isinstance(error, psycopg.OperationalError):
        return False
    text = str(error)
    return "FATAL" not in text or _PASSES.search(text) is not None


def pauses(within_s: float) -> Iterator[float]:
    """Seconds to wait before each further attempt, as long as there is time."""
    deadline, pause_s = time.monotonic() + within_s, _PAUSE_S[0]
    while (left := deadline - time.monotonic()) > 0:
        yield min(pause_s, left)
        pause_s = min(2 * pause_s, _PAUSE_S[1])


def reach(place: Place) -> Connection:
    """A connection that may write, to a server that may be starting meanwhile. Raises psycopg.Error."""
    waits = pauses(_START_S)
    while True:
        try:
            return connect(place, write=True)
        except psycopg.Error as error:
            pause_s = next(waits, None)
            if pause_s is None or not is_passing(error):
                raise
            time.sleep(pause_s)


def open_writer(place: Place) -> Connection:
    """The database is at the newest schema, and the log is this session's until the connection is closed.

    Raises LogLocked, NotALog, NewerSchema, StorageFailed.
    """
    with translated(place.shown):
        connection = reach(place)
        try:
            if recognise(connection, place) != REVISIONS[-1]:
                _upgrade(connection, place)
            take(connection, place, former=None)
        except BaseException:
            connection.close()
            raise
    return connection


def take(connection: Connection, place: Place, former: int | None) -> None:
    """The log is this session's. `former` is the server's process of a session of ours that was lost.

    The server may not have noticed yet that it was: it is ended then, because what it was about to commit must be
    known before anything else is written. A session that was closed properly lasts a moment longer, too, at the server.
    Raises LogLocked, psycopg.Error.
    """
    waits = pauses(_CLOSED_S if former is None else _LOCK_S)
    while True:
        (taken,) = _one(connection, "SELECT pg_try_advisory_lock(%s)", (_key(place.node),))
        if taken:
            return
        holder = _holder(connection, place.node)
        if former is not None and holder[0] not in {former, None}:
            raise LogLocked(place.shown, holder[1])
        pause_s = next(waits, None)
        if pause_s is None:
            raise LogLocked(place.shown, holder[1])
        if former is not None:
            with suppress(psycopg.errors.InsufficientPrivilege):  # then it ends by itself, when it notices
                connection.execute("SELECT pg_terminate_backend(%s)", (former,))
        time.sleep(pause_s)


def recognise(connection: Connection, place: Place) -> str:
    """The schema's revision; empty when there is nothing of ours. Raises NotALog, NewerSchema, psycopg.Error."""
    tables = {
        _text(name)
        for (name,) in connection.execute(
            "SELECT relname::text FROM pg_class WHERE relname IN ('events', 'alembic_version') "
            "AND relkind IN ('r', 'p', 'v') AND pg_table_is_visible(oid)",
            binary=True,
        )
    }
    if not tables:
        return ""
    missing = {"events", "alembic_version"} - tables
    if missing:
        raise NotALog(place.shown, f"it has no table {' and '.join(sorted(missing))!r}")
    revisions = [
        _text(one) for (one,) in connection.execute("SELECT version_num::text FROM alembic_version", binary=True)
    ]
    if len(revisions) != 1:
        raise NotALog(place.shown, f"it names {len(revisions)} schemas, not one")
    if revisions[0] not in REVISIONS:
        raise NewerSchema(place.shown, revisions[0], REVISIONS[-1])
    columns = {
        _text(name)
        for (name,) in connection.execute(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = 'events'::regclass AND attnum > 0 "
            "AND NOT attisdropped",
            binary=True,
        )
    }
    if revisions[0] == REVISIONS[-1] and columns != {*COLUMNS, "node"}:
        raise NotALog(place.shown, f"its table 'events' has the columns {', '.join(sorted(columns))}")
    return revisions[0]


class Readers:
    """Connections that only read, one for each who asks at a time; those that broke are made anew."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """None is open."""
        with self._lock:
            self._closed = True
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    def ask(self, question: Callable[[Connection], list[tuple[object, ...]]]) -> list[tuple[object, ...]]:
        """What the database answers; it is asked again where the connection had broken. Raises StorageFailed."""
        with translated(self._place.shown):
            connection = self._taken()
            if connection is not None:
                try:
                    return question(connection)
                except psycopg.OperationalError:
                    if not connection.broken:
                        raise
                finally:
                    self._give(connection)
            connection = connect(self._place)
            try:
                return question(connection)
            finally:
                self._give(connection)

    def _taken(self) -> Connection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give(self, connection: Connection) -> None:
        with self._lock:
            if connection.broken or self._closed:
                connection.close()
            else:
                self._idle.append(connection)


def _upgrade(connection: Connection, place: Place) -> None:
    # As with files: it takes a third of a second to import, and is not needed most of the time.
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    connection.execute("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
    try:
        if recognise(connection, place) == REVISIONS[-1]:
            return  # somebody else was faster
        engine = create_engine(
            "postgresql+psycopg://", creator=lambda: psycopg.connect(place.conninfo), poolclass=NullPool
        )
        config = Config()
        config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
        with _alchemy(place), engine.begin() as migrated:
            config.attributes["connection"] = migrated
            command.upgrade(config, REVISIONS[-1])
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", (_MIGRATION_LOCK,))


@contextmanager
def _alchemy(place: Place) -> Iterator[None]:
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        origin = error.orig
        reason = reason_of(origin) if isinstance(origin, psycopg.Error) else str(error)
        raise StorageFailed(place.shown, f"its tables cannot be made: {reason}") from error
    except CplaneError:
        raise


def _holder(connection: Connection, node: str) -> tuple[int | None, str]:
    """The server's process that has the log, and who that is in words; None: it has just gone."""
    key = _key(node) & 0xFFFFFFFFFFFFFFFF
    row = connection.execute(
        "SELECT l.pid, coalesce(a.usename::text, ''), coalesce(host(a.client_addr), 'a local socket') "
        "FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) "
        "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
        "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "AND l.classid = %s::bigint::oid AND l.objid = %s::bigint::oid",
        (key >> 32, key & 0xFFFFFFFF),
        binary=True,
    ).fetchone()
    if row is None:
        return None, ""
    pid, user, client = row
    assert isinstance(pid, int)
    return pid, f"{pid} of the database (user {_text(user)}, from {_text(client)})"


def _key(node: str) -> int:
    """The number of the node's lock."""
    return int.from_bytes(blake2b(f"cplane log {node}".encode(), digest_size=8).digest(), "big", signed=True)


def _one(connection: Connection, statement: str, values: tuple[object, ...] = ()) -> tuple[object, ...]:
    row = connection.execute(statement.encode(), values).fetchone()
    assert row is not None, f"no answer to {statement}"
    return row


def _text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
