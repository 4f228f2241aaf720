"""An engine without a datapath or a disk: it decides and folds for real, and keeps everything in lists and dicts."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel

from cplane.api.ports import Agent, Answer, Monitor, Packet, Verified
from cplane.deciders.node import JoinNode
from cplane.deciders.world import Command, World, evolve, facts
from cplane.engine.engine import Refusal
from cplane.errors import Rejected, Unavailable
from cplane.eventlog.reader import MemoryReader
from cplane.events.catalog import Event
from cplane.events.envelope import Envelope
from cplane.projections.policymap import PolicyMapProjection
from cplane.projections.tables import Tables
from cplane.reactors.reaction import settle
from cplane.timetravel.history import History
from tests.support.clock import TickingClock

JOIN = JoinNode(name="n1", cluster="default", ipv4_pod_cidr="10.244.0.0/24", ipv6_pod_cidr="fd00:10:244::/64")
TABLES = ("policy", "ipcache", "lxc", "devices")


@dataclass(frozen=True)
class Done:
    """What the engine's `Committed` is."""

    position: int
    events: tuple[Event, ...]


class ListLog:
    """A log in a list."""

    def __init__(self) -> None:
        self.entries: list[Envelope] = []
        self.grown = anyio.Event()

    @property
    def head(self) -> int:
        return len(self.entries)

    async def read(self, after: int = 0, limit: int = 1000) -> Sequence[Envelope]:
        return self.entries[after : after + limit]

    async def append(self, proposed: object) -> Sequence[Envelope]:
        raise NotImplementedError

    async def tail(self, after: int = 0) -> AsyncGenerator[Sequence[Envelope], None]:
        while True:
            grown = self.grown
            if batch := self.entries[after:]:
                yield batch
                after += len(batch)
            else:
                await grown.wait()

    def add(self, entry: Envelope) -> None:
        self.entries.append(entry)
        self.grown.set()
        self.grown = anyio.Event()


class DictTarget:
    """A table in a dict."""

    def __init__(self) -> None:
        self.rows: dict[Any, Any] = {}

    def dump(self) -> Mapping[Any, Any]:
        return dict(self.rows)


class ListEngine:
    """Decides, folds and projects as the engine does; `lag` keeps the datapath behind, `broken` fails commands."""

    def __init__(self, *history: Command) -> None:
        self.world = World()
        self.refused: list[Refusal] = []
        self.log = ListLog()
        self.targets = {name: DictTarget() for name in TABLES}
        self.applied = 0
        self.lag = False
        self.broken = ""
        self.failure = ""
        self.caught_up = anyio.Event()
        self._clock = TickingClock()
        for command in (JOIN, *history):
            self.execute(command, actor="agent")

    @property
    def head(self) -> int:
        return self.world.position

    @property
    def in_sync(self) -> bool:
        return not self.failure

    def desired(self, table: str) -> Mapping[Any, Any]:
        return Tables(facts(self.world)).table(table)

    @property
    def policies(self) -> PolicyMapProjection:
        return Tables(facts(self.world)).policies

    def execute(self, command: Command, *, actor: str, cause: str = "") -> Done:
        decided, after = settle(command, self.world)
        folded = self.world
        for stream, event in decided:
            folded = evolve(folded, stream, event)
            entry = Envelope(
                position=folded.position,
                stream=stream,
                version=folded.versions[stream],
                recorded_at_ns=self._clock.now_ns(),
                actor=actor,
                cause=cause,
                event=event,
                digest=folded.position.to_bytes(32, "big"),
            )
            self.log.add(entry)
        self.world = after
        if not self.lag:
            self.catch_up()
        return Done(self.head, tuple(event for _, event in decided))

    def catch_up(self) -> None:
        for name, target in self.targets.items():
            target.rows = dict(self.desired(name))
        self.applied = self.head
        self.caught_up.set()
        self.caught_up = anyio.Event()

    def refuse(self, refusal: Refusal) -> None:
        self.refused.append(refusal)

    async def submit(self, command: Command, *, actor: str, cause: str = "") -> Done:
        await anyio.lowlevel.checkpoint()
        if self.broken:
            raise Unavailable(self.broken)
        return self.execute(command, actor=actor, cause=cause)

    async def wait(self, position: int) -> None:
        while self.applied < position:
            await self.caught_up.wait()


@dataclass(frozen=True)
class Finding:
    """What a probe of the machine finds."""

    name: str
    ok: bool
    detail: str
    needed_for: str
    remedy: str


class SteppingClock:
    """A clock that moves by one second each time it is asked."""

    def __init__(self) -> None:
        self.now = 0

    def monotonic_ns(self) -> int:
        self.now += 1_000_000_000
        return self.now

    def now_ns(self) -> int:
        return self.now


def agent(**changes: Any) -> Agent:
    """An agent that answers every question."""

    async def verify() -> Verified:
        return Verified(events=3, digest="ab" * 32, position=4, fault="the digest does not fit")

    def probe(packet: Packet) -> Answer:
        if packet.protocol == 255:
            raise Rejected("no such protocol here")
        if packet.destination_port == 80:
            return Answer(forwarded=True, detail="allowed by default/web")
        return Answer(forwarded=False, reason=133, reason_name="POLICY_DENIED", detail="no rule allows it")

    fields: dict[str, Any] = {
        "version": "0.0.1",
        "datapath": "memory",
        "log_location": "memory",
        "clock": SteppingClock(),
        "doctor": lambda: (
            Finding("bpffs", True, "/sys/fs/bpf", "restarts", ""),
            Finding("btf", False, "no /sys/kernel/btf/vmlinux", "diagnostics", "another kernel"),
        ),
        "monitor": lambda: Monitor(enabled=True, seen=10, lost=2),
        "history": lambda: nullcontext(History(MemoryReader(()))),
        "verify": verify,
        "probe": probe,
    }
    return Agent(**{**fields, **changes})
