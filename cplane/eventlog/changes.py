"""Which events were about what, by whom and when: an index of the log, in the disposable file beside it.

Table `changes`, for users' own queries too: a row for each event, with its `position`, `recorded_at_ns` (UTC),
`actor`, `cause`, `type` (as in the log), `kind` (the first word of the object) and `object` (see `events/objects.py`).
It is behind the log by what nobody has asked about yet; `cplane audit` brings it up to date.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from cplane.eventlog.beside import open_beside, throw_away
from cplane.eventlog.errors import BadEvent, UnknownEvent
from cplane.eventlog.sqlite import is_damage
from cplane.events.objects import OPTIONS, SERVICE_OPTIONS, policy_name, service_name
from cplane.timetravel.wanted import Wanted

Answer = TypeVar("Answer")

TABLES: Final = (
    """
    CREATE TABLE IF NOT EXISTS changes (
        position INTEGER PRIMARY KEY,
        recorded_at_ns INTEGER NOT NULL,
        actor TEXT NOT NULL,
        cause TEXT NOT NULL,
        type TEXT NOT NULL,
        kind TEXT NOT NULL,
        object TEXT NOT NULL
    ) STRICT
    """,
    # The digest of the log where the index ends: one that does not fit is an index of another log.
    "CREATE TABLE IF NOT EXISTS changes_end (position INTEGER NOT NULL, digest BLOB NOT NULL) STRICT",
)
# By what it is asked, and the name of the index of that column; what narrows a question most comes first.
_SORTED: Final = {"object": "changes_of_object", "actor": "changes_by_actor", "kind": "changes_of_kind"}
_MANY: Final = 100_000  # events that are not in the index yet
_BATCH: Final = 10_000  # events that are indexed in one transaction

DigestAt = Callable[[int], bytes | None]
"""The digest of the log at a position; None where it has none."""

Said = tuple[int, bytes, int, bytes, bytes, bytes]
"""Position, type, time, actor, cause and data of a row."""

Stored = Callable[[int, int], Iterable[Said]]
"""What is said of the events behind a position, up to and with another."""

Told = Callable[[str, int, int], None]
"""Is told what is being made of a long log, how many events are done, and of how many."""


class _Policy(msgspec.Struct, gc=False):
    kind: str
    namespace: str
    name: str


class _Endpoint(msgspec.Struct, gc=False):
    endpoint: int


class _Identity(msgspec.Struct, gc=False):
    number: int


class _Pool(msgspec.Struct, gc=False):
    pool: str


class _Node(msgspec.Struct, gc=False):
    name: str


class _Service(msgspec.Struct, gc=False):
    namespace: str
    name: str


class _Backends(msgspec.Struct, gc=False):
    namespace: str
    service: str


class _Backend(msgspec.Struct, gc=False):
    backend: int


class _Address(msgspec.Struct, gc=False):
    identity: int


class _Nothing(msgspec.Struct, gc=False):
    pass


# What of an event says what it is about. To read all of it, policies above all, would take most of the time.
# It is found by the type of the event, or by the family of types that it is of.
_KEYS: Final[Mapping[str, tuple[type[msgspec.Struct], Callable[[Any], str]]]] = {  # Any: that type
    "policy": (_Policy, lambda one: policy_name(one.kind, one.namespace, one.name)),
    "endpoint": (_Endpoint, lambda one: f"endpoint {one.endpoint}"),
    "identity": (_Identity, lambda one: f"identity {one.number}"),
    "ipam": (_Pool, lambda one: f"pool {one.pool}"),
    "node": (_Node, lambda one: f"node {one.name}"),
    "config": (_Nothing, lambda _: OPTIONS),
    "service.upserted": (_Service, lambda one: service_name(one.namespace, one.name)),
    "service.deleted": (_Service, lambda one: service_name(one.namespace, one.name)),
    "service.backends_changed": (_Backends, lambda one: service_name(one.namespace, one.service)),
    "service.backend_state_changed": (_Backend, lambda one: f"backend {one.backend}"),
    "service.options_changed": (_Nothing, lambda _: SERVICE_OPTIONS),
    "fqdn.name_resolved": (_Node, lambda one: f"name {one.name}"),
    "fqdn.name_expired": (_Node, lambda one: f"name {one.name}"),
    "fqdn.addresses_identified": (_Address, lambda one: f"identity {one.identity}"),
    "fqdn.addresses_forgotten": (_Address, lambda one: f"identity {one.identity}"),
}
_READ: Final = {name: (msgspec.json.Decoder(kind), word) for name, (kind, word) in _KEYS.items()}
_INSERT: Final = "INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?, ?, ?, ?)"
# What `_row` makes, for the events that are in a file of SQLite. NULL is not let in, of a family that is not known, or
# where a text may have a U+0000, which ends it here.
_COPY: Final = """
INSERT OR REPLACE INTO changes
SELECT position, recorded_at_ns, actor, cause, type, iif(instr(object, ' '), substr(object, 1, instr(object, ' ') - 1),
    object), object
FROM (
    SELECT position, recorded_at_ns, actor, cause, type, CASE
        WHEN instr(data, '\\u0000') THEN NULL
        ELSE CASE substr(type, 1, instr(type, '.') - 1)
        WHEN 'policy' THEN 'policy ' || (data ->> 'kind') || '/'
            || iif(data ->> 'namespace' = '', '', (data ->> 'namespace') || '/') || (data ->> 'name')
        WHEN 'endpoint' THEN 'endpoint ' || (data ->> 'endpoint')
        WHEN 'identity' THEN 'identity ' || (data ->> 'number')
        WHEN 'ipam' THEN 'pool ' || (data ->> 'pool')
        WHEN 'node' THEN 'node ' || (data ->> 'name')
        WHEN 'config' THEN 'options'
        WHEN 'service' THEN CASE type
            WHEN 'service.upserted' THEN 'service ' || (data ->> 'namespace') || '/' || (data ->> 'name')
            WHEN 'service.deleted' THEN 'service ' || (data ->> 'namespace') || '/' || (data ->> 'name')
            WHEN 'service.backends_changed' THEN 'service ' || (data ->> 'namespace') || '/' || (data ->> 'service')
            WHEN 'service.backend_state_changed' THEN 'backend ' || (data ->> 'backend')
            WHEN 'service.options_changed' THEN 'service-options'
        END
        WHEN 'fqdn' THEN CASE type
            WHEN 'fqdn.name_resolved' THEN 'name ' || (data ->> 'name')
            WHEN 'fqdn.name_expired' THEN 'name ' || (data ->> 'name')
            WHEN 'fqdn.addresses_identified' THEN 'identity ' || (data ->> 'identity')
            WHEN 'fqdn.addresses_forgotten' THEN 'identity ' || (data ->> 'identity')
        END
    END END AS object
    FROM log.events WHERE position > ? AND position <= ? ORDER BY position
)
"""


class Changes:
    """The index of one log behind `start`, in the file of that name; where there can be none, in memory, and lost.

    `log` is the file that has the log, or has what of it is not archived; empty: it is in none.
    """

    def __init__(self, place: str, log: str, start: int, digest_at: DigestAt, stored: Stored, told: Told) -> None:
        self._place, self._log, self._start = place, log, start
        self._digest_at, self._stored, self._told = digest_at, stored, told
        self._file = self._opened(open_beside(place))

    def close(self) -> None:
        """Nothing can be asked any more."""
        self._file.close()

    def find(self, wanted: Wanted, head: int) -> list[int]:
        """The positions up to `head` that are wanted, the last ones of them if there are more than it takes, in order.

        Raises BadEvent.
        """
        return self._asked(lambda: self._find(wanted, head))

    def first_at(self, instant_ns: int, after: int, head: int) -> int:
        """The first position behind `after` that was recorded then or later; one behind `head`: there is none up to it.

        Raises BadEvent.
        """
        return self._asked(lambda: self._first_at(instant_ns, after, head))

    def _asked(self, question: Callable[[], Answer]) -> Answer:
        try:
            return question()
        except sqlite3.Error as error:
            # It can be made anew at any time, so also now: in memory, where no disk is full.
            self._file.close()
            if is_damage(error):
                throw_away(self._place)
            self._file = self._opened(None)
            return question()

    def extend(self, head: int, most: int) -> bool:
        """Up to so many more events are in it; whether there are still more up to `head`. Raises BadEvent.

        It is for later questions: where it cannot be written to a file, or somebody else does that, nothing is done.
        """
        try:
            to = min(head, self._end() + most)
            self._extend(to)
            if to == head:
                for column in _SORTED:
                    self._sort(column)
        except sqlite3.Error:
            return False
        return to < head

    def _find(self, wanted: Wanted, head: int) -> list[int]:
        self._extend(head)
        conditions, values = _conditions(wanted, head)
        column = next((column for column in _SORTED if getattr(wanted, column)), None)
        if column is not None:
            self._sort(column)
        rows = self._file.execute(
            f"SELECT position FROM changes WHERE {' AND '.join(conditions)} ORDER BY position DESC LIMIT ?",  # noqa: S608
            (*values, -1 if wanted.last is None else wanted.last),
        )
        return [position for (position,) in rows][::-1]

    def _first_at(self, instant_ns: int, after: int, head: int) -> int:
        self._extend(head)
        found = self._file.execute(
            "SELECT position FROM changes WHERE recorded_at_ns >= ? AND position > ? AND position <= ? "
            "ORDER BY position LIMIT 1",
            (instant_ns, after, head),
        ).fetchone()
        return head + 1 if found is None else int(found[0])

    def _sort(self, column: str) -> None:
        """Who asks by the column need not look at all rows."""
        self._file.execute(f"CREATE INDEX IF NOT EXISTS {_SORTED[column]} ON changes ({column}, position)")

    def _extend(self, head: int) -> None:
        end = began = self._end()
        if head - end > _MANY:  # a tree that is made of all its keys at once takes a third of the time
            for name in _SORTED.values():
                self._file.execute(f"DROP INDEX IF EXISTS {name}")
        while end < head:
            to = min(end + _BATCH, head)
            self._take(end, to)
            end = to
            self._told("indexing", end - began, head - began)

    def _end(self) -> int:
        row = self._file.execute("SELECT position, digest FROM changes_end").fetchone()
        if row is None:
            return self._start
        if self._digest_at(row[0]) != row[1]:
            self._file.execute("DELETE FROM changes")
            self._file.execute("DELETE FROM changes_end")
            return self._start
        return max(int(row[0]), self._start)

    def _take(self, after: int, to: int) -> None:
        """The events behind the one position up to the other are in the index."""
        self._file.execute("BEGIN IMMEDIATE")
        try:
            # Whoever else makes the index at the same time may be further: what both have is the same.
            (there,) = self._file.execute("SELECT coalesce(max(position), 0) FROM changes_end").fetchone()
            if to > there:
                if not self._copy(after, to):
                    self._file.executemany(_INSERT, map(_row, self._stored(after, to)))
                self._file.execute("DELETE FROM changes_end")
                self._file.execute("INSERT INTO changes_end VALUES (?, ?)", (to, self._digest_at(to)))
            self._file.execute("COMMIT")
        finally:
            if self._file.in_transaction:
                self._file.rollback()

    def _copy(self, after: int, to: int) -> bool:
        """The database itself makes the rows, in a third of the time; whether it can.

        It cannot where events are in the archive or in no file, and not where something is wrong with one, which
        whoever reads it will name.
        """
        try:
            return self._file.execute(_COPY, (after, to)).rowcount == to - after
        except sqlite3.Error as error:
            if isinstance(error, sqlite3.OperationalError | sqlite3.IntegrityError) and not is_damage(error):
                return False
            raise

    def _opened(self, file: sqlite3.Connection | None) -> sqlite3.Connection:
        if file is not None:
            try:
                _prepare(file)
            except sqlite3.Error:
                file.close()
            else:
                self._attach(file)
                return file
        made = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, uri=True)
        _prepare(made)
        self._attach(made)
        return made

    def _attach(self, file: sqlite3.Connection) -> None:
        """The log's file is at hand, if there is one that can be read so."""
        with suppress(sqlite3.Error):
            file.execute("ATTACH ? AS log", (f"file:{quote(os.path.abspath(self._log))}?mode=ro" if self._log else "",))


def _prepare(file: sqlite3.Connection) -> None:
    for statement in TABLES:
        file.execute(statement)


def _conditions(wanted: Wanted, head: int) -> tuple[list[str], list[str | int]]:
    conditions = ["position > ?", "position <= ?"]
    found: list[str | int] = [wanted.after, head if wanted.to is None else min(head, wanted.to)]
    for column, value in (("object", wanted.object), ("actor", wanted.actor), ("kind", wanted.kind)):
        if value:
            conditions.append(f"{column} = ?")
            found.append(value)
    return conditions, found


def _row(one: Said) -> tuple[int, int, str, str, str, str, str]:
    """The row of an event. Raises BadEvent."""
    position, kind, recorded_at_ns, actor, cause, data = one
    name = _object(position, kind, data)
    return position, recorded_at_ns, actor.decode(), cause.decode(), kind.decode(), name.partition(" ")[0], name


def _object(position: int, kind: bytes, data: bytes) -> str:
    """What `object_of` says of the event. Raises BadEvent."""
    name = kind.decode(errors="backslashreplace")
    found = _READ.get(name) or _READ.get(name.partition(".")[0])
    if found is None:
        raise UnknownEvent(position, name, 0)
    decoder, word = found
    try:
        return word(decoder.decode(data))
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadEvent(position, f"the event cannot be read: {error}") from error
