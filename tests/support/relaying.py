"""A relay in front of observers on sockets, all in this process; peers that do not behave, too."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from grpclib.client import Channel
from grpclib.const import Cardinality, Handler
from grpclib.health.check import ServiceStatus

from cplane.hubble.parser.threefour import Parser
from cplane.hubble.peer import Peer, Peers, PeerService
from cplane.hubble.relay.dial import Dialer, MakeTls
from cplane.hubble.relay.directory import Directory
from cplane.hubble.relay.flows import Patience
from cplane.hubble.relay.notices import Notices
from cplane.hubble.relay.notified import Notified
from cplane.hubble.relay.pool import Pool
from cplane.hubble.relay.server import Relay, tell_health
from cplane.hubble.server import services
from cplane.hubble.store import FlowStore
from cplane.pb.observer import observer_pb2 as pb
from cplane.telemetry.clock import SystemClock
from cplane.telemetry.log import logger
from cplane.transport.client import connect
from cplane.transport.grpc import TcpAddress, UnixAddress, serve
from tests.support.flows import SEED, START_NS, World, records
from tests.support.observing import get_flows
from tests.support.serving import served

NS = 1_000_000_000
PATIENCE = Patience(drain_s=0.3, silent_s=1.0)


def store_at(node: str, *times_ns: int, capacity: int = 1 << 12) -> FlowStore:
    """A node's flows, of these times after START_NS."""
    store = FlowStore(cluster="default", node=node, seed=SEED, capacity=capacity)
    add(store, *times_ns)
    return store


def add(store: FlowStore, *times_ns: int) -> None:
    """More flows, of these times after START_NS; followers see them."""
    if times_ns:
        Parser(store, World()).ingest(records(*({"time_ns": time} for time in times_ns)), START_NS)
    store.changed.notify()


Answer = Callable[[Any], Awaitable[None]]


class Scripted:
    """An observer that answers GetFlows as a test says, and everything else soundly."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[pb.GetFlowsRequest] = []
        self._answer = answer

    def __mapping__(self) -> dict[str, Handler]:
        return {
            "/observer.Observer/GetFlows": Handler(
                self.flows, Cardinality.UNARY_STREAM, pb.GetFlowsRequest, pb.GetFlowsResponse
            ),
            "/observer.Observer/ServerStatus": Handler(
                self.status, Cardinality.UNARY_UNARY, pb.ServerStatusRequest, pb.ServerStatusResponse
            ),
        }

    async def flows(self, stream: Any) -> None:
        self.requests.append(await stream.recv_message())
        await self._answer(stream)

    async def status(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(pb.ServerStatusResponse(num_flows=1, max_flows=2, seen_flows=3, uptime_ns=4))


@dataclass
class Site:
    """A relay, a client of it, and what may be changed under it."""

    folder: Path
    peers: Peers
    pool: Pool
    notified: Notified
    channel: Channel
    address: str
    stack: AsyncExitStack

    async def until(self, *, connected: int) -> None:
        """Returns when so many peers are connected."""
        with anyio.fail_after(20):
            while len(self.pool.connected) != connected:
                await self.pool.changed.wait()

    async def flows(self, **request: Any) -> list[pb.GetFlowsResponse]:
        """Everything that the relay answers."""
        with anyio.fail_after(20):
            return list(await get_flows(self.channel)(pb.GetFlowsRequest(**request)))

    @asynccontextmanager
    async def follow(self, **request: Any) -> AsyncIterator[Any]:
        """A stream of what the relay answers, which is cancelled at the end."""
        async with get_flows(self.channel).open() as stream:
            await stream.send_message(pb.GetFlowsRequest(follow=True, **request), end=True)
            yield stream
            await stream.cancel()


@asynccontextmanager
async def relaying(
    folder: Path,
    nodes: Mapping[str, FlowStore | Scripted | Peer],
    *,
    tls: MakeTls | None = None,
    patience: Patience = PATIENCE,
    connected: int | None = None,
) -> AsyncIterator[Site]:
    """A relay in front of these nodes, by name; it has connected to all of them, or to so many.

    Stores and scripts are served on unix sockets, a Peer is where it says.
    """
    clock = SystemClock()
    dialer = Dialer(tls, dial_s=1.5, retry_s=0.2)
    pool = Pool(dialer, clock, lambda: 0.5, logger("relay"))
    async with anyio.create_task_group() as tasks:
        async with AsyncExitStack() as stack:
            peers = Peers([await serve_node(stack, folder, name, node) for name, node in nodes.items()])
            service = await stack.enter_async_context(served(PeerService(peers), path=folder / "peer.sock"))
            notified = Notified(service, "", Directory(), pool, dialer, clock, logger("relay"))
            relay = Relay(pool, dialer, clock, Notices("relay"), patience, version="1.2.3")
            health = ServiceStatus()
            await tasks.start(pool.run)
            tasks.start_soon(notified.run, lambda: 0.5)
            tasks.start_soon(tell_health, health, notified, pool)
            socket = folder / "relay.sock"
            await tasks.start(partial(serve, [relay], [UnixAddress(str(socket))], ready=[health]))
            channel = await stack.enter_async_context(connect(f"unix://{socket}"))
            site = Site(folder, peers, pool, notified, channel, f"unix://{socket}", stack)
            with anyio.fail_after(20):
                while len(pool.links) < len(nodes):
                    await pool.changed.wait()
            await site.until(connected=len(nodes) if connected is None else connected)
            yield site
        tasks.cancel_scope.cancel()


async def serve_node(stack: AsyncExitStack, folder: Path, name: str, node: FlowStore | Scripted | Peer) -> Peer:
    """The node answers until the stack is left; how it is reached."""
    if isinstance(node, Peer):
        return node
    found = [node] if isinstance(node, Scripted) else services(node, SystemClock(), version="1.2.3")
    return Peer(name, await stack.enter_async_context(served(*found, path=folder / f"{name}.sock")))


@asynccontextmanager
async def served_tcp(*found: Any, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The services answer on loopback; gives the address."""
    async with anyio.create_task_group() as tasks:
        (address,) = await tasks.start(partial(serve, found, [TcpAddress("127.0.0.1", 0, tls)]))
        yield str(address)
        tasks.cancel_scope.cancel()
