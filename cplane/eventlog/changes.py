"""Which events were about what, by whom and when: an index of the log, in the disposable file beside it.

Table `changes`, for users' own queries too: a row for each event, with its `position`, `recorded_at_ns` (UTC),
`actor`, `cause`, `type` (as in the log), `kind` (the first word of the object) and `object` (see `events/objects.py`).
It is behind the log by what nobody has asked about yet; `cplane audit` brings it up to date.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from cplane.eventlog.beside import open_beside, throw_away
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
_NAMES_MAX: Final = 200_000  # objects of one type that are known by how their events begin; further ones are read

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


# What of an event says what it is about. To read all of it, policies above all, would take most of the time.
_KEYS: Final[Mapping[str, tuple[type[msgspec.Struct], Callable[[Any], str]]]] = {  # Any: that type
    "policy": (_Policy, lambda one: policy_name(one.kind, one.namespace, one.name)),
    "endpoint": (_Endpoint, lambda one: f"endpoint {one.endpoint}"),
    "identity": (_Identity, lambda one: f"identity {one.number}"),
    "ipam": (_Pool, lambda one: f"pool {one.pool}"),
    "node": (_Node, lambda one: f"node {one.name}"),
}
_READ: Final = {name: (msgspec.json.Decoder(kind), word) for name, (kind, word) in _KEYS.items()}
# What follows the key in canonical JSON. In texts without escapes no quotation mark is inside, so none is mistaken.
_UNTIL: Final = {
    "policy": ("policy", b',"document":'),
    "endpoint": ("endpoint", b","),
    "identity": ("identity", b","),
    "ipam": ("pool", b'","'),
    "node": ("node", b'","'),
    "config": (OPTIONS, b"}"),
}
_Row = tuple[int, int, str, str, str, str, str]


class Changes:
    """The index of one log behind `start`, in the file of that name; where there can be none, in memory, and lost."""

    def __init__(self, place: str, start: int, digest_at: DigestAt, stored: Stored, told: Told) -> None:
        self._place, self._start = place, start
        self._digest_at, self._stored, self._told = digest_at, stored, told
        self._names = _Names()
        self._file = self._opened(open_beside(place))

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
                throw_away(self._place)
            self._file = self._opened(None)
            return self._find(wanted, head)

    def extend(self, head: int, most: int) -> bool:
        """Up to so many more events are in it; whether there are still more up to `head`. Raises BadEvent.

        It is for later questions: where it cannot be written to a file, or somebody else does that, nothing is done.
        """
        try:
            to = min(head, self._end() + most)
            self._extend(to)
        except sqlite3.Error:
            return False
        return to < head

    def _find(self, wanted: Wanted, head: int) -> list[int]:
        self._extend(head)
        conditions, values = _conditions(wanted, head)
        rows = self._file.execute(
            f"SELECT position FROM changes WHERE {' AND '.join(conditions)} ORDER BY position DESC LIMIT ?",  # noqa: S608
            (*values, -1 if wanted.last is None else wanted.last),
        )
        return [position for (position,) in rows][::-1]

    def _extend(self, head: int) -> None:
        end = began = self._end()
        if head - end > _MANY:  # a tree that is made of all its keys at once takes a third of the time
            for name in _INDEXES:
                self._file.execute(f"DROP INDEX IF EXISTS {name}")
        while end < head:
            end = self._take(self._stored(end, min(end + _BATCH, head)))
            self._told("indexing", end - began, head - began)
        for done, statement in enumerate(_INDEXES.values(), 1):
            self._file.execute(statement)
            if head - began > _MANY:
                self._told("sorting", done, len(_INDEXES))

    def _end(self) -> int:
        row = self._file.execute("SELECT position, digest FROM changes_end").fetchone()
        if row is None:
            return self._start
        if self._digest_at(row[0]) != row[1]:
            self._file.execute("DELETE FROM changes")
            self._file.execute("DELETE FROM changes_end")
            return self._start
        return max(int(row[0]), self._start)

    def _take(self, said: Iterable[Said]) -> int:
        """These, of which there are some, are in the index; the position of the last of them."""
        rows = self._names.rows(said)
        end = rows[-1][0]
        self._file.execute("BEGIN IMMEDIATE")
        try:
            # Whoever else makes the index at the same time may be further: what both have is the same.
            (there,) = self._file.execute("SELECT coalesce(max(position), 0) FROM changes_end").fetchone()
            if end > there:
                self._file.executemany("INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
                self._file.execute("DELETE FROM changes_end")
                self._file.execute("INSERT INTO changes_end VALUES (?, ?)", (end, self._digest_at(end)))
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


class _Kind(NamedTuple):
    """Events of one type and the first word of their objects, which have names by how data begin, up to `until`."""

    name: str
    word: str
    until: bytes
    objects: dict[bytes, str]


class _Names:
    """Makes the rows of the index. Data that begin alike are about the same object, and are read once."""

    def __init__(self) -> None:
        self._kinds: dict[bytes, _Kind] = {}
        self._actors: dict[bytes, str] = {}

    def rows(self, said: Iterable[Said]) -> list[_Row]:
        """A row for each. Raises BadEvent."""
        rows, kinds, actors = [], self._kinds, self._actors
        for position, kind, recorded_at_ns, actor, cause, data in said:  # a million times: spelled out
            known = kinds.get(kind) or self._kind(position, kind)
            beginning = data[: data.find(known.until)]  # without it all but the brace, which is the same beginning
            name = known.objects.get(beginning)
            if name is None:
                name = _object(position, kind, data)
                if b"\\" not in beginning and len(known.objects) < _NAMES_MAX:
                    known.objects[beginning] = name
            words = actors.get(actor)
            if words is None:
                words = actor.decode()
                if len(actors) < _NAMES_MAX:
                    actors[actor] = words
            rows.append((position, recorded_at_ns, words, cause.decode(), known.name, known.word, name))
        return rows

    def _kind(self, position: int, kind: bytes) -> _Kind:
        family = kind.partition(b".")[0].decode(errors="replace")
        if family not in _UNTIL:
            raise UnknownEvent(position, kind.decode(errors="backslashreplace"), 0)
        made = self._kinds[kind] = _Kind(kind.decode(), *_UNTIL[family], {})
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
