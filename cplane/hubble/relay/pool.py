"""The peers' connections: one task for each, which dials, keeps, and dials again.

What one peer does delays no other. A task's pauses grow with its own failures only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from cplane.hubble.calls import Clock
from cplane.hubble.relay.dial import FAILURES, Dialer, told
from cplane.hubble.relay.directory import Peer
from cplane.hubble.signal import Signal
from cplane.pb.relay import relay_pb2
from cplane.telemetry.log import Log, line
from cplane.transport.backoff import Backoff
from cplane.transport.client import ClientChannel, Unreachable

_NS = 1_000_000_000


@dataclass(slots=True, eq=False)
class Link:
    """A peer and how it is reached now. `channel` is there while it is connected; `reason` says why it is not."""

    peer: Peer
    channel: ClientChannel | None = None
    reason: str = "it was not reached yet"
    doubts: Signal = field(default_factory=Signal)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def name(self) -> str:
        """The node's."""
        return self.peer.name

    @property
    def state(self) -> relay_pb2.NodeState:
        """As clients are told."""
        return relay_pb2.NODE_CONNECTED if self.channel is not None else relay_pb2.NODE_UNAVAILABLE


class Pool:
    """The links of all peers. `changed` rings when one has come, gone, been connected or been lost."""

    def __init__(self, dialer: Dialer, clock: Clock, chance: Callable[[], float], log: Log) -> None:
        self._dialer, self._clock, self._chance, self._log = dialer, clock, chance, log
        self._links: dict[str, Link] = {}
        self._group: TaskGroup | None = None
        self.changed = Signal()

    @property
    def links(self) -> Mapping[str, Link]:
        """All of them, by the peer's name."""
        return self._links

    @property
    def connected(self) -> dict[str, Link]:
        """Those that can be asked."""
        return {name: link for name, link in self._links.items() if link.channel is not None}

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Peers are dialled until this is cancelled."""
        async with anyio.create_task_group() as group:
            self._group = group
            task_status.started()
            await anyio.sleep_forever()

    def follow(self, peers: Mapping[str, Peer]) -> None:
        """These are the peers now: others are hung up on, and those whose address has changed are dialled anew."""
        assert self._group is not None, "the pool does not run"
        for name, link in [*self._links.items()]:
            if peers.get(name) != link.peer:
                del self._links[name]
                link.scope.cancel()
        for name, peer in peers.items():
            if name not in self._links:
                link = self._links[name] = Link(peer)
                self._group.start_soon(self._keep, link)
        self.changed.notify()

    async def _keep(self, link: Link) -> None:
        """The peer is dialled, watched and dialled again, until it is no peer any more."""
        backoff = Backoff(self._dialer.retry_s)
        with link.scope:
            while True:
                began_ns = self._clock.monotonic_ns()
                try:
                    await self._connected(link)
                except FAILURES as error:
                    self._lost(link, told(error))
                lasted_s = (self._clock.monotonic_ns() - began_ns) / _NS
                await anyio.sleep(backoff.after(lasted_s, self._chance()))

    async def _connected(self, link: Link) -> None:
        """One connection, from its beginning to its end. Raises one of FAILURES."""
        peer = link.peer
        if not peer.address:
            raise Unreachable(peer.name, "the peer service knows no address of it")
        async with self._dialer.dialed(peer.address, peer.server_name) as channel:
            await self._dialer.probe(channel)
            link.channel, link.reason = channel, ""
            self._log.info(line("peer connected", node=peer.name, address=peer.address))
            self.changed.notify()
            try:
                await self._dialer.watch(channel, link.doubts.wait)
            finally:
                link.channel = None

    def _lost(self, link: Link, reason: str) -> None:
        if link.reason != reason:  # a peer that stays away is one line, not one for each attempt
            self._log.warning(
                line("peer unavailable", node=link.name, address=link.peer.address, error=reason),
            )
        link.reason = reason
        self.changed.notify()
