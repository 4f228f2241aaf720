"""Which events were about what, by whom and when: an index of the log, in the disposable file beside it.

Table `changes`, for users' own queries too: a row for each event, with its `position`, `recorded_at_ns` (UTC),
`actor`, `cause`, `type` (as in the log), `kind` (the first word of the object) and `object` (see `events/objects.py`).
It is behind the log by what nobody has asked about yet; `cplane audit` brings it up to date.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import msgspec

from cplane.eventlog.beside import open_beside, throw_away
from cplane.eventlog.codec import StoredRow
from cplane.eventlog.errors import BadEvent, UnknownEvent
from cplane.eventlog.sqlite import is_damage
from cplane.events.objects import OPTIONS, policy_name
from cplane.timetravel.wanted import Wanted

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
_INDEXES: Final = {
    name: f"CREATE INDEX IF NOT EXISTS {name} ON changes ({column}, position)"
    for name, column in (("changes_of_object", "object"), ("changes_by_actor", "actor"), ("changes_of_kind", "kind"))
}
_MANY: Final = 100_000  # events that are not in the index yet
_BATCH: Final = 10_000  # events that are indexed in one transaction

DigestAt = Callable[[int], bytes | None]
"""The digest of the log at a position; None where it has none."""

Stored = Callable[[int, int], Iterator[StoredRow]]
"""The rows of the events behind a position, up to and with another."""


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


# What of an event says what it is about. To read all of it, policies above all, would take most of the time.
_KEYS: Final[Mapping[str, tuple[type[msgspec.Struct], Callable[[Any], str]]]] = {  # Any: that type
    "policy": (_Policy, lambda one: policy_name(one.kind, one.namespace, one.name)),
    "endpoint": (_Endpoint, lambda one: f"endpoint {one.endpoint}"),
    "identity": (_Identity, lambda one: f"identity {one.number}"),
    "ipam": (_Pool, lambda one: f"pool {one.pool}"),
    "node": (_Node, lambda one: f"node {one.name}"),
}
_READ: Final = {name: (msgspec.json.Decoder(kind), word) for name, (kind, word) in _KEYS.items()}


class Changes:
    """The index of one log. Where there can be no file it is made in memory, and lost again."""

    def __init__(self, log: str, digest_at: DigestAt, stored: Stored) -> None:
        self._log, self._digest_at, self._stored = log, digest_at, stored
        self._file = self._opened(open_beside(log))

    def close(self) -> None:
        """Nothing can be asked any more."""
        self._file.close()

    def find(self, wanted: Wanted, head: int) -> list[int]:
        """The positions up to `head` that are wanted, the last ones of them if there are more than it takes, in order.

        Raises BadEvent.
        """
        try:
            return self._find(wanted, head)
        except sqlite3.Error as error:
            # It can be made anew at any time, so also now: in memory, where no disk is full.
            self._file.close()
            if is_damage(error):
                throw_away(self._log)
            self._file = self._opened(None)
            return self._find(wanted, head)

    def _find(self, wanted: Wanted, head: int) -> list[int]:
        self._extend(head)
        conditions, values = _conditions(wanted, head)
        rows = self._file.execute(
            f"SELECT position FROM changes WHERE {' AND '.join(conditions)} ORDER BY position DESC LIMIT ?",  # noqa: S608
            (*values, -1 if wanted.last is None else wanted.last),
        )
        return [position for (position,) in rows][::-1]

    def _extend(self, head: int) -> None:
        end = self._end()
        if head - end > _MANY:  # a tree that is made of all its keys at once takes a third of the time
            for name in _INDEXES:
                self._file.execute(f"DROP INDEX IF EXISTS {name}")
        while end < head:
            end = self._take(islice(self._stored(end, head), _BATCH), end)
        for statement in _INDEXES.values():
            self._file.execute(statement)

    def _end(self) -> int:
        row = self._file.execute("SELECT position, digest FROM changes_end").fetchone()
        if row is None:
            return 0
        if self._digest_at(row[0]) != row[1]:
            self._file.execute("DELETE FROM changes")
            self._file.execute("DELETE FROM changes_end")
            return 0
        return int(row[0])

    def _take(self, stored: Iterable[StoredRow], end: int) -> int:
        """These are in the index; the position of the last of them."""
        rows, digest = [], b""
        for position, _, _, kind, _, recorded_at_ns, actor, cause, data, last in stored:
            name = _object(position, kind, data)
            words = actor.decode(), cause.decode(), kind.decode()
            rows.append((position, recorded_at_ns, *words, name.partition(" ")[0], name))
            end, digest = position, last
        self._file.execute("BEGIN IMMEDIATE")
        try:
            self._file.executemany("INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._file.execute("DELETE FROM changes_end")
            self._file.execute("INSERT INTO changes_end VALUES (?, ?)", (end, digest))
            self._file.execute("COMMIT")
        finally:
            if self._file.in_transaction:
                self._file.rollback()
        return end

    def _opened(self, file: sqlite3.Connection | None) -> sqlite3.Connection:
        if file is not None:
            try:
                _prepare(file)
            except sqlite3.Error:
                file.close()
            else:
                return file
        made = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        _prepare(made)
        return made


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


def _object(position: int, kind: bytes, data: bytes) -> str:
    """What `object_of` says of the event. Raises BadEvent."""
    family = kind.partition(b".")[0].decode(errors="replace")
    if family == "config":
        return OPTIONS
    try:
        decoder, word = _READ[family]
        return word(decoder.decode(data))
    except KeyError:
        raise UnknownEvent(position, kind.decode(errors="backslashreplace"), 0) from None
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadEvent(position, f"the event cannot be read: {error}") from error
