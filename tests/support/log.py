"""Short ways to say what shall enter an event log, and to ask it what it holds."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

from cplane.eventlog.store import SqliteLog
from cplane.events.catalog import WIRE_NAME, Event
from cplane.events.envelope import NODE, Envelope, Proposed, StreamId
from cplane.events.node import NodeAddressesChanged
from tests.support.clock import TickingClock


def fact(number: int) -> NodeAddressesChanged:
    """Something to record, another one for each number."""
    return NodeAddressesChanged(name="n1", addresses=(f"10.0.{number >> 8}.{number & 255}",))


def proposal(
    at: int, *events: Event, stream: str = NODE, actor: str = "uid:0(root)", cause: str = "test", **others: int
) -> Proposed:
    """Events for one stream that is at version `at`; `others` are streams that must be at a version too."""
    expected = {StreamId(stream): at, **{StreamId(name): version for name, version in others.items()}}
    chosen = events or (fact(at + 1),)
    named = tuple((StreamId(stream), event) for event in chosen)
    return Proposed(events=named, expected=expected, actor=actor, cause=cause)


async def fill(log, count: int, *, stream: str = NODE, batch: int = 100) -> Sequence[Envelope]:
    """The log has so many further events in `stream`."""
    written: list[Envelope] = []
    version = await version_of(log, stream)
    for start in range(version, version + count, batch):
        numbers = range(start, min(start + batch, version + count))
        written += await log.append(proposal(start, *(fact(number + 1) for number in numbers), stream=stream))
    return written


async def version_of(log, stream: str) -> int:
    """How many events `stream` has."""
    return sum(one.stream == stream for one in await everything(log))


async def everything(log) -> list[Envelope]:
    """All events, read in steps."""
    found: list[Envelope] = []
    while batch := await log.read(after=len(found), limit=1000):
        found += batch
    return found


def digest(previous: bytes, numbers: Sequence[int], texts: Sequence[bytes]) -> bytes:
    """The digest of a row by D2 of the design, computed here once more from its columns."""
    canonical = b"".join(number.to_bytes(8, "big", signed=True) for number in numbers)
    canonical += b"".join(len(text).to_bytes(4, "big") + text for text in texts)
    return blake2b(previous + canonical, digest_size=32).digest()


def digests(events: Sequence[Envelope], data: Sequence[bytes]) -> list[bytes]:
    """The digests that the events of a log must have, from the first on."""
    previous, found = bytes(32), []
    for one, text in zip(events, data, strict=True):
        name, schema = WIRE_NAME[type(one.event)]
        numbers = (one.position, one.version, schema, one.recorded_at_ns)
        texts = (one.stream.encode(), name.encode(), one.actor.encode(), one.cause.encode(), text)
        previous = digest(previous, numbers, texts)
        found.append(previous)
    return found


def forge(path: Path, kind: str, schema: int, data: str) -> None:
    """The closed log has one more event, whose digest is right: what another version of cplane might have written."""
    ((head, previous),) = sql(path, "SELECT max(position), digest FROM events")
    ((version,),) = sql(path, f"SELECT coalesce(max(version), 0) FROM events WHERE stream = '{NODE}'")
    assert isinstance(head, int) and isinstance(previous, bytes) and isinstance(version, int)
    numbers = (head + 1, version + 1, schema, 1)
    made = digest(previous, numbers, (NODE.encode(), kind.encode(), b"", b"", data.encode()))
    with closing(sqlite3.connect(path)) as connection, connection:
        row = (head + 1, NODE, version + 1, kind, schema, 1, "", "", data, made)
        connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def sql(path: Path, *statements: str) -> list[tuple[object, ...]]:
    """What another program does to the file; the rows of the last statement."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


async def written(path: Path, count: int = 5) -> list[Envelope]:
    """A closed log with so many events in the file, which are these."""
    async with SqliteLog.open(str(path), TickingClock()) as log:
        await fill(log, count, batch=1)
        return await everything(log)
