"""How fast a log in PostgreSQL is: a server of our own, on a unix socket, with its defaults for safety.

What it acknowledges is on the disk, as it is for the plain driver beside it.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

import anyio
import log
import psycopg
from report import Result, WrongError, number, spread
from rig import Rig

from cplane.eventlog.postgres import PostgresLog
from cplane.eventlog.reader import open_history
from cplane.events.endpoint import EndpointCreated
from cplane.telemetry.clock import SystemClock
from cplane.timetravel.traffic import Question, question_of
from cplane.timetravel.wanted import Wanted
from cplane.timetravel.why import why
from tests.support import churn
from tests.support.postgres import Server, programs, server

EVENTS: Final = 200_000
_ROUNDS: Final = 5
_POSITIONS: Final = 10
_ROUND_S: Final = 1.0
_NOW_NS: Final = 2_000_000_000_000_000_000  # behind all of it
_NODE: Final = "n1"
_PEER: Final = "psycopg, a commit for each insert"


def measure(rig: Rig) -> Iterator[Result]:
    """Everything that is measured of it; nothing where no server is installed. Raises WrongError."""
    if programs() is None:
        rig.say("history: no PostgreSQL is installed, so nothing is measured of logs in it")
        return
    with server() as serving:
        with serving.database() as name:
            yield from _appends(rig, serving, name)
        with serving.database() as name:
            rows = churn.recorded(Random(3), EVENTS // 4, pods=80)[0][:EVENTS]
            churn.stored_in(serving.url(name), _NODE, rows)
            yield from _asked(rig, serving.url(name, node=_NODE), rig.folder / "kept", len(rows))


def _appends(rig: Rig, serving: Server, name: str) -> Iterator[Result]:
    ours: dict[int, list[float]] = {writers: [] for writers in log.WRITERS}
    theirs: list[float] = []
    for _ in range(_ROUNDS):
        theirs.append(_plain(serving.url(name)))
        for writers in log.WRITERS:
            opened = partial(PostgresLog.open, serving.url(name), SystemClock(), node=_NODE)
            ours[writers].append(anyio.run(log.appends, opened, writers))
    rig.say(f"history: PostgreSQL, plain inserts: {spread(theirs, '1/s')}")
    for writers, rates in ours.items():
        rig.say(f"history: PostgreSQL, appends, {writers} at a time: {spread(rates, '1/s')}")
        yield Result(
            name=f"history.pg_appends_per_s_{writers}",
            value=median(rates),
            unit="1/s",
            peer=_PEER,
            peer_value=median(theirs),
        )


def _plain(url: str) -> float:
    """Inserts per second of rows as large as ours, each in a transaction of its own."""
    with closing(psycopg.connect(url, autocommit=True)) as database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS plain (position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
            "stream text NOT NULL, version bigint, type text, recorded_at_ns bigint, actor text, data text, "
            "digest bytea, UNIQUE (stream, version))"
        )
        stream, count, began = f"bench-{time.monotonic_ns()}", 0, time.monotonic()
        insert = (
            "INSERT INTO plain (stream, version, type, recorded_at_ns, actor, data, digest) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s)"
        )
        while time.monotonic() - began < _ROUND_S:
            row = (stream, count, "policy.upserted", time.time_ns(), "bench", log.DOCUMENT, bytes(32))
            database.execute(insert, row)
            count += 1
        return count / (time.monotonic() - began)


def _asked(rig: Rig, url: str, kept: Path, events: int) -> Iterator[Result]:
    """A log that is folded without snapshots, asked with them, and opened by an agent that knows it."""
    rates: list[float] = []
    for round_ in range(_ROUNDS):
        began = time.perf_counter()
        with open_history(url, folder=str(kept / str(round_))) as history:
            position = history.ledger(history.head).position
        rates.append(position / (time.perf_counter() - began))
        if position != events:
            raise WrongError(f"the fold ended at {position} of {events}")
    rig.say(f"history: PostgreSQL, replay: {spread(rates, 'events/s')}")
    yield Result(name="history.pg_replay_events_per_s", value=median(rates), unit="1/s")

    folder, took = str(kept / "0"), list[float]()
    chance = Random(21)
    with open_history(url, folder=folder) as history:
        history.find(Wanted(kind="options", last=1))
    for _ in range(_POSITIONS):
        asked, position = _two_pods(url, folder, chance, events)
        began = time.perf_counter()
        with open_history(url, folder=folder) as history:
            why(history, _NOW_NS, asked, at=str(position))
        took.append((time.perf_counter() - began) * 1000)
    rig.say(f"history: PostgreSQL, why: {spread(took, 'ms')}, at most {number(max(took))} ms")
    yield Result(name="history.pg_why_ms", value=median(took), unit="ms")

    starts = [anyio.run(_start, url, folder, events) for _ in range(_ROUNDS)]
    rig.say(f"history: PostgreSQL, opened first: {number(starts[0])} ms, then {spread(starts[1:], 'ms')}")
    yield Result(
        name="history.pg_open_ms",
        value=median(starts[1:]),
        unit="ms",
        peer="the same log read and verified from its first event on",
        peer_value=starts[0],
    )


async def _start(url: str, folder: str, events: int) -> float:
    """Milliseconds until an agent's log is open, and what it says is known."""
    began = time.perf_counter()
    async with PostgresLog.open(url, SystemClock(), node=_NODE, folder=folder) as opened:
        position = opened.folded().position
        took_ms = (time.perf_counter() - began) * 1000
    if position != events:
        raise WrongError(f"the log was opened at {position} of {events}")
    return took_ms


def _two_pods(url: str, folder: str, chance: Random, events: int) -> tuple[Question, int]:
    """A question about two pods that are there at a position, which comes with it."""
    position = chance.randrange(events // 100, events)
    with open_history(url, folder=folder) as history:
        facts = history.ledger(position).facts()
    pods = sorted(f"{one.namespace}/{one.pod}" for one in facts if isinstance(one, EndpointCreated))
    source, destination = chance.sample(pods, 2)
    return question_of(source=source, destination=destination, port="1200/TCP"), position
