"""Rows of a node's log in a database, as every other part of the log knows them."""

from collections.abc import Iterator
from typing import Final, TypeAlias, cast

from cplane.eventlog.changes import Said
from cplane.eventlog.codec import StoredRow
from cplane.eventlog.database import Connection
from cplane.eventlog.errors import BadEvent
from cplane.eventlog.schema import COLUMNS

LAST: Final = (1 << 63) - 1
"""No position is behind it."""

_FETCH: Final = 4096  # rows of one answer
_NAMES: Final = ", ".join(COLUMNS)
# Only names of columns are put into these texts; values are always bound.
_SELECT: Final = (
    f"SELECT {_NAMES} FROM events WHERE node = %s AND position > %s ORDER BY position LIMIT %s"  # noqa: S608
).encode()
_RANGE: Final = b" FROM events WHERE node = %s AND position > %s AND position <= %s"
SELECT_VERSIONS: Final = b"SELECT stream, max(version)" + _RANGE + b" GROUP BY stream"
SELECT_FACTS: Final = b"SELECT type, data" + _RANGE + b" AND schema = 1 ORDER BY position"
SELECT_SAID: Final = b"SELECT position, type, recorded_at_ns, actor, cause, data" + _RANGE + b" ORDER BY position"
SELECT_OF_TYPES: Final = b"SELECT position, data" + _RANGE + b" AND type = ANY(%s) ORDER BY position"
SELECT_HEAD: Final = b"SELECT coalesce(max(position), 0) FROM events WHERE node = %s"
SELECT_DIGEST: Final = b"SELECT digest FROM events WHERE node = %s AND position = %s"
SELECT_AT: Final = (
    b"SELECT position FROM events WHERE node = %s AND recorded_at_ns <= %s AND position <= %s "
    b"ORDER BY position DESC LIMIT 1"
)
# Each node is found by one step in the index, however many events it has.
SELECT_NODES: Final = b"""
WITH RECURSIVE nodes AS (
    (SELECT node FROM events ORDER BY node LIMIT 1)
    UNION ALL
    SELECT (SELECT node FROM events WHERE node > nodes.node ORDER BY node LIMIT 1) FROM nodes WHERE node IS NOT NULL
)
SELECT node FROM nodes WHERE node IS NOT NULL
"""

_Row: TypeAlias = tuple[object, ...]


def select(connection: Connection, node: str, after: int, limit: int) -> list[_Row]:
    """Up to `limit` rows with a position behind `after`, in order. Raises psycopg.Error."""
    return connection.execute(_SELECT, (node, after, limit), binary=True).fetchall()


def digest_at(connection: Connection, node: str, position: int) -> bytes | None:
    """The digest of the event at that position; None: there is none. Raises psycopg.Error."""
    row = connection.execute(SELECT_DIGEST, (node, position), binary=True).fetchone()
    if row is None:
        return None
    assert isinstance(row[0], bytes), f"position {position}: a digest came as {row[0]!r}"
    return row[0]


def between(connection: Connection, node: str, after: int, to: int) -> Iterator[StoredRow]:
    """The rows behind `after` up to and with `to`, in order; whoever reads them finds gaps. Raises psycopg.Error."""
    while after < to:
        rows = select(connection, node, after, min(_FETCH, to - after))
        if not rows:
            return
        for found in rows:
            row = stored_row(found)
            if row[0] > to:
                return
            yield row
        after = row[0]


def stored_row(row: _Row) -> StoredRow:
    """The row as it was before its texts were made fit for the database."""
    # The columns of the table have these types: `database.recognise` and the migrations see to that.
    found = cast("StoredRow", row)
    if b"\\" in found[1] or b"\\" in found[6] or b"\\" in found[7]:
        texts = (original(found[0], found[index]) for index in (1, 6, 7))
        stream, actor, cause = texts
        return found[0], stream, *found[2:6], actor, cause, *found[8:]
    return found


def said_row(row: Said) -> Said:
    """The same of what is said of a row."""
    position, kind, recorded_at_ns, actor, cause, data = row
    return position, kind, recorded_at_ns, original(position, actor), original(position, cause), data


def original(position: int, text: object) -> bytes:
    """A text as it was before it was made fit; of the event at that position, or one behind it. Raises BadEvent."""
    assert isinstance(text, bytes), f"position {position}: a text came as {text!r}"
    parts = text.split(b"\\\\")
    if any(part.replace(b"\\0", b"").find(b"\\") >= 0 for part in parts):
        raise BadEvent(position, "a text has a \\ that stands for nothing: it was changed")
    return b"\\".join(part.replace(b"\\0", b"\0") for part in parts)
