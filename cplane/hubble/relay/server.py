"""The observer service of a relay, wire-compatible with Hubble's."""

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.health.check import ServiceStatus

from cplane.hubble.calls import Clock, observer_handlers, request_of
from cplane.hubble.relay import answers
from cplane.hubble.relay.answers import Said
from cplane.hubble.relay.dial import CALLS_MAX, FAILURES, Dialer
from cplane.hubble.relay.flows import FlowsCall, Patience
from cplane.hubble.relay.notices import Notices
from cplane.hubble.relay.notified import Notified
from cplane.hubble.relay.pool import Link, Pool
from cplane.pb.observer import observer_pb2 as pb
from cplane.pb.relay import relay_pb2
from cplane.transport.client import ClientChannel
from cplane.transport.pour import pour

if TYPE_CHECKING:
    from grpclib.server import Stream

T = TypeVar("T")
A = TypeVar("A")

VERSION_KEY: Final = "hubble-relay-version"
_ASKED_MAX: Final = 64  # peers that are asked at a time
_HEALTH_S: Final = 5.0


class Relay:
    """Answers for all peers of a pool. Agent and debug events are unimplemented, as upstream has it."""

    def __init__(
        self, pool: Pool, dialer: Dialer, clock: Clock, notices: Notices, patience: Patience, *, version: str
    ) -> None:
        self._pool, self._dialer, self._clock = pool, dialer, clock
        self._notices, self._patience, self._version = notices, patience, version
        self._calls = 0

    def __mapping__(self) -> dict[str, Handler]:
        """What grpclib serves."""
        return observer_handlers(
            {
                "GetFlows": self.get_flows,
                "GetAgentEvents": self._unimplemented,
                "GetDebugEvents": self._unimplemented,
                "GetNodes": self.get_nodes,
                "GetNamespaces": self.get_namespaces,
                "ServerStatus": self.server_status,
            }
        )

    async def get_flows(self, stream: "Stream[pb.GetFlowsRequest, pb.GetFlowsResponse]") -> None:
        """Flows of all peers, by time."""
        request = await request_of(stream)
        if request.first and request.follow:
            raise GRPCError(Status.INVALID_ARGUMENT, "first cannot be specified with follow")
        if self._calls >= CALLS_MAX:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, f"{CALLS_MAX} clients watch flows already: retry later")
        self._calls += 1
        try:
            await self._greet(stream)
            send = partial(pour, stream)
            await FlowsCall(request, self._pool, self._clock, self._notices, self._patience, send).run()
        finally:
            self._calls -= 1

    async def get_nodes(self, stream: "Stream[pb.GetNodesRequest, pb.GetNodesResponse]") -> None:
        """Every peer, connected or not."""
        await request_of(stream)
        said = await self._said()
        await self._greet(stream)
        await stream.send_message(answers.nodes(said, tls=self._dialer.tls is not None))

    async def get_namespaces(self, stream: "Stream[pb.GetNamespacesRequest, pb.GetNamespacesResponse]") -> None:
        """Namespaces that any peer has seen within the last hour."""
        await request_of(stream)
        found = await self._ask(self._dialer.namespaces)
        await self._greet(stream)
        await stream.send_message(answers.namespaces(one for _, one in found if one is not None))

    async def server_status(self, stream: "Stream[pb.ServerStatusRequest, pb.ServerStatusResponse]") -> None:
        """How much there is in all of them."""
        await request_of(stream)
        said = await self._said()
        await self._greet(stream)
        await stream.send_message(answers.server_status(said, self._version))

    async def _said(self) -> list[Said]:
        """Every peer, and what it says of itself."""
        found = await self._ask(self._dialer.status)
        asked = {
            link.name: Said(link.peer, relay_pb2.NODE_ERROR if status is None else relay_pb2.NODE_CONNECTED, status)
            for link, status in found
        }
        return [asked.get(name) or Said(link.peer, link.state) for name, link in self._pool.links.items()]

    async def _ask(self, question: Callable[[ClientChannel], Awaitable[A]]) -> Iterable[tuple[Link, A | None]]:
        """What every connected peer answers; None: it fails, and is doubted from then on."""
        found: list[tuple[Link, A | None]] = []
        limit = anyio.CapacityLimiter(_ASKED_MAX)

        async def ask(link: Link) -> None:
            answer = None
            async with limit:
                channel = link.channel
                if channel is None:
                    return
                try:
                    answer = await question(channel)
                except FAILURES:
                    link.doubts.notify()
            found.append((link, answer))

        async with anyio.create_task_group() as tasks:
            for link in self._pool.connected.values():
                tasks.start_soon(ask, link)
        return found

    async def _unimplemented(self, stream: "Stream[Any, Any]") -> None:  # Any: whatever is asked
        await request_of(stream)
        raise GRPCError(Status.UNIMPLEMENTED, "not implemented by a relay: ask the node's agent")

    async def _greet(self, stream: "Stream[Any, Any]") -> None:  # Any: every method's messages
        await stream.send_initial_metadata(metadata={VERSION_KEY: self._version})


async def tell_health(status: ServiceStatus, notified: Notified, pool: Pool) -> None:
    """`status` says whether the peer service answers and some peer does, until this is cancelled."""
    while True:
        status.set(notified.heard and bool(pool.connected))
        with anyio.move_on_after(_HEALTH_S):
            await pool.changed.wait()
