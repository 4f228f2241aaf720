"""Suite history: how fast the past is read, on a log of a million events as a node makes them in weeks.

Pods come and go, policies and labels change, and each command is decided for real; the log is made once, in a minute or
two, and every question is asked of it.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import median
from typing import Final
from uuid import UUID

import postgres
import previewing
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from report import Result, WrongError, at_least, at_most, number, spread
from rig import Rig, disk_of

from cplane.eventlog import beside
from cplane.eventlog.archive import folder_of
from cplane.eventlog.archiving import archive_file
from cplane.eventlog.reader import open_history
from cplane.eventlog.verify import verify_file
from cplane.events.endpoint import EndpointCreated
from cplane.timetravel.bisect import bisect
from cplane.timetravel.traffic import Question, question_of
from cplane.timetravel.wanted import Wanted
from cplane.timetravel.why import why
from tests.support import churn

EVENTS: Final = 1_000_000
_ROUNDS: Final = 5
_POSITIONS: Final = 20
_NOW_NS: Final = 2_000_000_000_000_000_000  # behind all of it
_PEER: Final = "eventsourcing on SQLite, an aggregate replayed"
_PEER_EVENTS: Final = 20_000


def measure(rig: Rig) -> Iterator[Result]:
    """Everything of the suite. Raises WrongError."""
    log = million(rig)
    yield _replay(rig, log)
    yield _position(rig, log)
    yield _archived(rig, log)
    yield _why(rig, log)
    yield _bisect(rig, log)
    yield previewing.measure(rig)
    yield from postgres.measure(rig)


def million(rig: Rig) -> Path:
    """The log, made if it is not there yet."""
    path = rig.folder / "million.db"
    if not path.exists():
        rig.say(f"history: a log of {EVENTS:,} events on {disk_of(rig.folder)}; this takes a minute or two")
        world = churn.write(path, EVENTS)
        found = f"{len(world.endpoints)} endpoints, {len(world.policies)} policies"
        rig.say(f"history: {path.stat().st_size / 1e6:,.0f} MB; at its end {found}")
    return path


def _replay(rig: Rig, log: Path) -> Result:
    """Events per second from the file to the state they lead to, without snapshots, by turns with the peer."""
    theirs = _Peer(rig.folder / "peer.db")
    ours: list[float] = []
    peer: list[float] = []
    for _ in range(_ROUNDS):
        beside.throw_away(beside.place_of(str(log)))
        began = time.perf_counter()
        with open_history(str(log)) as history:
            position = history.ledger(history.head).position
        ours.append(position / (time.perf_counter() - began))
        peer.append(theirs.replay())
        if position < EVENTS:
            raise WrongError(f"the fold ended at {position} of {EVENTS}")
    rig.say(f"history: replay: {spread(ours, 'events/s')}; peer: {spread(peer, 'events/s')}")
    return Result(
        name="history.replay_events_per_s",
        value=median(ours),
        unit="1/s",
        peer=_PEER,
        peer_value=median(peer),
        aim=at_least(500_000),
    )


def _position(rig: Rig, log: Path) -> Result:
    """Milliseconds from opening the log to world and tables of a position that nobody asked for before."""
    chance = Random(20)
    took: dict[str, list[float]] = {"state": [], "world and tables": []}
    for _ in range(_POSITIONS):
        position = chance.randrange(1, EVENTS)
        began = time.perf_counter()
        with open_history(str(log)) as history:
            moment = history.moment(position)
            took["state"].append((time.perf_counter() - began) * 1000)
            rows, endpoints = len(moment.tables.table("lxc")), len(moment.world.endpoints)
        took["world and tables"].append((time.perf_counter() - began) * 1000)
        if rows != 2 * endpoints:
            raise WrongError(f"{endpoints} endpoints of two addresses have {rows} rows at position {position}")
    for what, times in took.items():
        rig.say(f"history: any position, {what}: {spread(times, 'ms')}, at most {number(max(times))} ms")
    return Result(name="history.position_ms", value=median(took["world and tables"]), unit="ms", aim=at_most(250))


def _why(rig: Rig, log: Path) -> Result:
    """Milliseconds from opening the log to why two pods may or may not talk, at positions all over it."""
    chance, took = Random(21), list[float]()
    while len(took) < _POSITIONS:
        position = chance.randrange(EVENTS // 100, EVENTS)
        asked = _two_pods(log, position, chance)
        began = time.perf_counter()
        with open_history(str(log)) as history:
            found = why(history, _NOW_NS, asked, at=str(position))
        took.append((time.perf_counter() - began) * 1000)
        if found.turned is None:
            raise WrongError(f"nothing made the verdict on {asked} what it is at position {position}")
    rig.say(f"history: why: {spread(took, 'ms')}, at most {number(max(took))} ms")
    return Result(name="history.why_ms", value=median(took), unit="ms", aim=at_most(100))


def _bisect(rig: Rig, log: Path) -> Result:
    """Seconds to find, in all of the log, the event that changed the verdict between two pods of its end."""
    chance, took = Random(22), list[float]()
    for _ in range(_ROUNDS):
        asked = _two_pods(log, EVENTS, chance)
        began = time.perf_counter()
        with open_history(str(log)) as history:
            found = bisect(history, _NOW_NS, asked, good="1", bad=str(EVENTS))
        took.append(time.perf_counter() - began)
        if found.turned is None:
            raise WrongError(f"the verdict on {asked} is the same at both ends of the log")
    rig.say(f"history: bisect: {spread(took, 's')}")
    return Result(name="history.bisect_s", value=median(took), unit="s", aim=at_most(3))


def _two_pods(log: Path, position: int, chance: Random) -> Question:
    """A question about two pods that are there at the position; what users of the log share is made by then."""
    with open_history(str(log)) as history:
        facts = history.ledger(position).facts()
        history.find(Wanted(kind="options", last=1))
    pods = sorted(f"{one.namespace}/{one.pod}" for one in facts if isinstance(one, EndpointCreated))
    source, destination = chance.sample(pods, 2)
    return question_of(source=source, destination=destination, port="1200/TCP")


def _archived(rig: Rig, log: Path) -> Result:
    """Bytes for each event after archiving, of all that is on the disk, on a copy; and how long that takes."""
    copy = rig.folder / "archived.db"
    shutil.copy(log, copy)
    plain = copy.stat().st_size / EVENTS
    began = time.perf_counter()
    moved = archive_file(str(copy), lambda _: 1).events
    took_s = time.perf_counter() - began
    segments = Path(folder_of(str(copy)))
    size = copy.stat().st_size + sum(one.stat().st_size for one in segments.iterdir())
    if verify_file(str(copy)) != verify_file(str(log)):
        raise WrongError("an archived log is not the log that it was")
    began = time.perf_counter()
    with open_history(str(copy)) as history:
        history.ledger(history.head)
    folded = EVENTS / (time.perf_counter() - began)
    rig.say(f"history: archived: {number(moved / took_s)} events/s; read back and folded: {number(folded)} events/s")
    shutil.rmtree(segments)
    beside.throw_away(beside.place_of(str(copy)))
    copy.unlink()
    return Result(
        name="history.bytes_per_event",
        value=size / EVENTS,
        unit="B",
        peer="the same log in its SQLite file alone",
        peer_value=plain,
        aim=at_most(200),
    )


class _Pod(Aggregate):
    """The peer's aggregate: what changes is one field, as with an endpoint that is relabelled."""

    @event("Created")
    def __init__(self, labels: str) -> None:
        self.labels = labels

    @event("Relabelled")
    def relabel(self, labels: str) -> None:
        """The labels are these."""
        self.labels = labels


class _Peer:
    """A stored aggregate of so many events, as the library keeps it."""

    def __init__(self, path: Path) -> None:
        self._app: Application[UUID] = Application(
            env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
        )
        pod = _Pod("app=web")
        for step in range(_PEER_EVENTS - 1):
            pod.relabel(f"app=web,version={step}")
        self._app.save(pod)
        self._id = pod.id

    def replay(self) -> float:
        """Events per second of the aggregate, read and folded."""
        began = time.perf_counter()
        pod: _Pod = self._app.repository.get(self._id)
        took_s = time.perf_counter() - began
        if pod.version != _PEER_EVENTS:
            raise WrongError(f"the peer's aggregate is at version {pod.version} of {_PEER_EVENTS}")
        return _PEER_EVENTS / took_s
