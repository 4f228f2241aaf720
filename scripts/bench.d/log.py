"""Suite log: durable appends per second, beside the plain driver that commits each insert by itself.

Both write to one disk, by turns, with a write-ahead log and synchronous=FULL: what they acknowledge is on the disk.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import anyio
from report import Result, WrongError, at_least, spread
from rig import Rig, disk_of

from cplane.engine.ports import EventLog
from cplane.eventlog.store import SqliteLog
from cplane.events.envelope import Proposed, StreamId
from cplane.events.policy import PolicyUpserted
from cplane.telemetry.clock import SystemClock

_ROUNDS: Final = 5
_ROUND_S: Final = 1.0
WRITERS: Final = (1, 256)
_AIMS: Final = {256: at_least(40_000)}
_PEER: Final = "sqlite3, a commit for each insert"
DOCUMENT: Final = (
    '{"kind":"CiliumNetworkPolicy","spec":{' + '"endpointSelector":{"matchLabels":{"app":"web"}}' * 6 + "}}"
)


def measure(rig: Rig) -> Iterator[Result]:
    """Everything of the suite. Raises WrongError."""
    rig.say(f"log: on {disk_of(rig.folder)}")
    ours: dict[int, list[float]] = {writers: [] for writers in WRITERS}
    theirs: list[float] = []
    for _ in range(_ROUNDS):
        theirs.append(_plain(rig.folder / "plain.db"))
        for writers in WRITERS:
            ours[writers].append(
                anyio.run(appends, partial(SqliteLog.open, str(rig.folder / "log.db"), SystemClock()), writers)
            )
    rig.say(f"log: plain inserts: {spread(theirs, '1/s')}")
    for writers, rates in ours.items():
        rig.say(f"log: appends, {writers} at a time: {spread(rates, '1/s')}")
    plain = median(theirs)
    for writers, rates in ours.items():
        name, aim = f"log.appends_per_s_{writers}", _AIMS.get(writers)
        yield Result(name=name, value=median(rates), unit="1/s", peer=_PEER, peer_value=plain, aim=aim)


async def appends(opened: Callable[[], AbstractAsyncContextManager[EventLog]], writers: int) -> float:
    """Events per second of so many tasks, each of which appends one, waits until it is durable, and goes on."""
    async with opened() as log:
        before, began = log.head, time.monotonic()
        counts = [0] * writers

        async def write(index: int) -> None:
            stream = StreamId(f"bench-{before}-{index}")
            while time.monotonic() - began < _ROUND_S:
                event = PolicyUpserted(kind="CiliumNetworkPolicy", namespace="demo", name="web", document=DOCUMENT)
                expected = {stream: counts[index]}
                await log.append(Proposed(events=((stream, event),), expected=expected, actor="bench"))
                counts[index] += 1

        async with anyio.create_task_group() as tasks:
            for index in range(writers):
                tasks.start_soon(write, index)
        took_s = time.monotonic() - began
        if log.head - before != sum(counts):
            raise WrongError(f"{sum(counts)} appends were acknowledged, {log.head - before} events are in the log")
    return sum(counts) / took_s


def _plain(path: Path) -> float:
    """Inserts per second of rows as large as ours, each in a transaction of its own."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(
            "CREATE TABLE IF NOT EXISTS events (position INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INTEGER, "
            "type TEXT, recorded_at_ns INTEGER, actor TEXT, data TEXT, digest BLOB, UNIQUE (stream, version))"
        )
        stream, count, began = f"bench-{time.monotonic_ns()}", 0, time.monotonic()
        while time.monotonic() - began < _ROUND_S:
            row = (stream, count, "policy.upserted", time.time_ns(), "bench", DOCUMENT, bytes(32))
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO events VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row)
            database.execute("COMMIT")
            count += 1
        return count / (time.monotonic() - began)
