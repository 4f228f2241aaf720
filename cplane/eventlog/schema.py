"""The one table of the log, and the statements on it.

`position` is gap-free and equals commit order; `UNIQUE(stream, version)` is optimistic concurrency. Texts are UTF-8;
`data` is the event's JSON; `digest` chains the rows (see `codec`).
"""

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table, Text, UniqueConstraint

METADATA: Final = MetaData()

# STRICT tables of SQLite know INTEGER only, which has 64 bits there.
_BIGINT = BigInteger().with_variant(Integer, "sqlite")

EVENTS: Final = Table(
    "events",
    METADATA,
    Column("position", _BIGINT, primary_key=True, autoincrement=False),
    Column("stream", Text, nullable=False),
    Column("version", _BIGINT, nullable=False),
    Column("type", Text, nullable=False),
    Column("schema", Integer, nullable=False),
    Column("recorded_at_ns", _BIGINT, nullable=False),
    Column("actor", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    UniqueConstraint("stream", "version", name="uq_events_stream_version"),
    sqlite_strict=True,
)

COLUMNS: Final = tuple(column.name for column in EVENTS.columns)
_NAMES = ", ".join(COLUMNS)

# Only names from the table above are put into these texts; values are always bound.
INSERT: Final = f"INSERT INTO events ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
SELECT: Final = f"SELECT {_NAMES} FROM events WHERE position > ? ORDER BY position LIMIT ?"  # noqa: S608
SELECT_ALL: Final = f"SELECT {_NAMES} FROM events ORDER BY position"  # noqa: S608
SELECT_RANGE: Final = f"SELECT {_NAMES} FROM events WHERE position > ? AND position <= ? ORDER BY position"  # noqa: S608
SELECT_FACTS: Final = (
    "SELECT type, data FROM events WHERE position > ? AND position <= ? AND schema = 1 ORDER BY position"
)
SELECT_SAID: Final = (
    "SELECT position, type, recorded_at_ns, actor, cause, data FROM events WHERE position > ? AND position <= ? "
    "ORDER BY position"
)
# The first row says where the file begins: in one statement, so that nobody moves that meanwhile.
SELECT_OF_TYPES: Final = (
    "SELECT coalesce(min(position), 0), NULL FROM events UNION ALL SELECT * FROM (SELECT position, data FROM events "
    "WHERE position > ? AND position <= ? AND type IN ({}) ORDER BY position)"
)
# Each stream is found by one step in the index, however many events it has.
SELECT_STREAMS: Final = """
WITH RECURSIVE streams (stream) AS (
    SELECT min(stream) FROM events
    UNION ALL
    SELECT (SELECT min(stream) FROM events WHERE stream > streams.stream) FROM streams WHERE stream IS NOT NULL
)
SELECT stream, (SELECT max(version) FROM events WHERE events.stream = streams.stream) FROM streams
WHERE stream IS NOT NULL
"""
SELECT_OF_VERSION: Final = "SELECT position FROM events WHERE stream = ? AND version = ?"
SELECT_FIRST: Final = "SELECT min(position) FROM events"
SELECT_HEAD: Final = "SELECT coalesce(max(position), 0) FROM events"
SELECT_AT: Final = (
    "SELECT position FROM events WHERE recorded_at_ns <= ? AND position <= ? ORDER BY position DESC LIMIT 1"
)
SELECT_DIGEST: Final = "SELECT digest FROM events WHERE position = ?"
SELECT_LAST: Final = "SELECT position, digest FROM events ORDER BY position DESC LIMIT 1"
DELETE_UNTIL: Final = "DELETE FROM events WHERE position <= ?"
OVERWRITE: Final = "PRAGMA user_version = 0"  # changes nothing, and is written like a change

# Every revision in migrations/versions, oldest first; a file at the last one starts without loading Alembic.
REVISIONS: Final = ("0001", "0002", "0003", "0004")
