"""What the admin API needs from the agent, by shape."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from cplane.deciders.world import Command, World
from cplane.engine.engine import Refusal
from cplane.engine.ports import EventLog
from cplane.events.catalog import Event
from cplane.projections.policymap import PolicyMapProjection
from cplane.timetravel.history import History
from cplane.timetravel.seen import Sight

Table = Mapping[Any, Any]  # Any: each table has key and value types of its own


class Committed(Protocol):
    """A command took effect at `position`; no events: nothing had to change."""

    @property
    def position(self) -> int:
        """Head of the log after the command."""
        ...

    @property
    def events(self) -> tuple[Event, ...]:
        """What it led to."""
        ...


class Dumped(Protocol):
    """A table of the datapath that can be read."""

    def dump(self) -> Table:
        """What is there now. May block."""
        ...


class Engine(Protocol):
    """One writer over one log."""

    @property
    def world(self) -> World:
        """The committed state."""
        ...

    @property
    def log(self) -> EventLog:
        """The event log."""
        ...

    @property
    def head(self) -> int:
        """Last committed position."""
        ...

    @property
    def applied(self) -> int:
        """Position that the datapath has completely."""
        ...

    @property
    def in_sync(self) -> bool:
        """Whether the datapath has had every table since the last failure or start."""
        ...

    @property
    def failure(self) -> str:
        """Why the datapath could not be written the last time; empty when it could."""
        ...

    @property
    def targets(self) -> Mapping[str, Dumped]:
        """The tables of the datapath by name."""
        ...

    @property
    def policies(self) -> PolicyMapProjection:
        """What the policy table follows from, to be read."""
        ...

    def desired(self, table: str) -> Table:
        """What should be in a table."""
        ...

    async def submit(self, command: Command, *, actor: str, cause: str = "") -> Committed:
        """The command's events are durable when this returns. Raises CplaneError."""
        ...

    def refuse(self, refusal: Refusal) -> None:
        """Something was asked for that is refused before it is a command."""
        ...

    async def wait(self, position: int) -> None:
        """Returns when the datapath has everything up to `position`."""
        ...


class Clock(Protocol):
    """The clocks of the machine."""

    def now_ns(self) -> int:
        """UTC nanoseconds since the epoch."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds on a clock that never steps."""
        ...


@dataclass(frozen=True, slots=True)
class ServedDevice:
    """A device by which clients outside reach services, if it is `present`; `xdp`: before there are socket buffers.

    `detail` says why not, or why XDP leaves all packets to the programs behind it.
    """

    name: str
    present: bool = False
    xdp: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Monitor:
    """The records that the datapath reports packets with.

    `seen` are all that became flows, also those of earlier agents on the same flow ring; `lost` found no room in the
    kernel's ring since the maps were made.
    """

    enabled: bool = False
    seen: int = 0
    lost: int = 0


class Check(Protocol):
    """One feature of this machine."""

    @property
    def name(self) -> str:
        """What is looked at."""
        ...

    @property
    def ok(self) -> bool:
        """Whether it is there."""
        ...

    @property
    def detail(self) -> str:
        """What was found."""
        ...

    @property
    def needed_for(self) -> str:
        """What cplane needs it for."""
        ...

    @property
    def remedy(self) -> str:
        """How to get it; empty where it is there."""
        ...


@dataclass(frozen=True, slots=True)
class Verified:
    """How far the stored log is sound: `events` of it are, up to `digest`; `position` 0: all of it is."""

    events: int
    digest: str
    position: int = 0
    fault: str = ""
    start: int = 0  # the log begins behind it: its older past was dropped
    start_digest: str = ""


@dataclass(frozen=True, slots=True)
class ProxyState:
    """A proxy of layer 7: `pid` 0: it does not run; of its `redirects` some are `failing`; None: nobody knows."""

    kind: str
    pid: int
    connected: bool
    redirects: int
    failing: int
    connections: int | None = None


async def no_proxies() -> Sequence[ProxyState]:
    """What an agent without proxies tells of them."""
    return ()


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet to ask about; `protocol` is IP's number, the destination port of ICMP is its type."""

    source: str
    destination: str
    protocol: int
    source_port: int
    destination_port: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What would become of a packet: `reason` is the drop reason's number, 0 when it is forwarded."""

    forwarded: bool
    reason: int = 0
    reason_name: str = ""
    detail: str = ""


class Debugging(Protocol):
    """Whether programs tell each of their steps."""

    @property
    def is_on(self) -> bool:
        """Whether they do."""
        ...

    def switch(self, *, on: bool) -> None:
        """They do, or do not any more. It may take seconds, and blocks. Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """What the agent knows about itself and can be asked.

    `doctor` may block, it runs in a thread. `verify` reads the stored log; `probe` may raise Rejected; None:
    not with this log or datapath. `history` opens the log's past, for one thread at a time. `flow` is the flow with
    a uuid as a line of JSON; None: it is not there any more. `seen` folds the flows into a sight. Both may block.
    `debugging` is switched in a thread; None: there are no programs. `name_left_s`: seconds for which an endpoint may
    reach an address by a name; 0: only by connections that are open. `proxy_problems`: by proxy port, why requests
    there are not judged as they should be.
    """

    version: str
    datapath: str
    log_location: str
    clock: Clock
    doctor: Callable[[], Sequence[Check]]
    monitor: Callable[[], Monitor]
    history: Callable[[], AbstractContextManager[History]]
    verify: Callable[[], Awaitable[Verified]] | None = None
    probe: Callable[[Packet], Answer] | None = None
    flow: Callable[[str], bytes | None] | None = None
    seen: Callable[[Sight], None] | None = None
    debugging: Debugging | None = None
    served_devices: Callable[[], Sequence[ServedDevice]] = tuple
    name_left_s: Callable[[int, str, str], float] = lambda *_: 0.0
    proxy_problems: Callable[[], Mapping[int, str]] = dict
    proxies: Callable[[], Awaitable[Sequence[ProxyState]]] = no_proxies
