"""The observer service, wire-compatible with Hubble's."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import anyio.lowlevel
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError

from cplane.hubble.archive.folder import Archive
from cplane.hubble.archive.past import ArchivedPast
from cplane.hubble.calls import Clock, observer_handlers, request_of
from cplane.hubble.encode import Encoder, Encoders
from cplane.hubble.eventring import EventReading, Events, Wanted
from cplane.hubble.fieldmask import PATHS_MAX, parse_mask
from cplane.hubble.filters import BadFilter, compile_filters, rows_at_once
from cplane.hubble.origin import TYPE_URL
from cplane.hubble.peer import Peer, peer_name
from cplane.hubble.selection import CHUNK, Query, Reading
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb
from cplane.pb.relay import relay_pb2
from cplane.transport.pour import pour

if TYPE_CHECKING:
    from grpclib.server import Stream

T = TypeVar("T")

_NS: Final = 1_000_000_000
_RATE_S: Final = 60
_CHUNK_MIN: Final = 1 << 14  # rows that are filtered at a time, however many filters there are
_TIME_MAX: Final = (1 << 63) - 1
VERSION_KEY: Final = "hubble-server-version"


class Observer:
    """Answers from one store and two rings of events. `reached` is how others reach this node's observer, now."""

    def __init__(
        self,
        store: FlowStore,
        clock: Clock,
        *,
        version: str,
        agent_events: Events[flow_pb2.AgentEvent],
        debug_events: Events[flow_pb2.DebugEvent],
        reached: Callable[[], Peer | None],
        archive: Archive | None = None,
    ) -> None:
        self._store, self._clock, self._version = store, clock, version
        self._agent_events, self._debug_events, self._reached = agent_events, debug_events, reached
        self._archive = archive
        self._encoders = Encoders(store)
        self._started = clock.monotonic_ns()

    def __mapping__(self) -> dict[str, Handler]:
        """What grpclib serves."""
        return observer_handlers(
            {
                "GetFlows": self.get_flows,
                "GetAgentEvents": self.get_agent_events,
                "GetDebugEvents": self.get_debug_events,
                "GetNodes": self.get_nodes,
                "GetNamespaces": self.get_namespaces,
                "ServerStatus": self.server_status,
            }
        )

    async def get_flows(self, stream: "Stream[pb.GetFlowsRequest, pb.GetFlowsResponse]") -> None:
        """Flows, many messages in each write."""
        request = await request_of(stream)
        query = _query(request, self._store)
        mask = None
        if request.field_mask.paths:
            if len(request.field_mask.paths) > PATHS_MAX:
                _refuse(f"field_mask has more than {PATHS_MAX} paths")
            mask = parse_mask(request.field_mask.paths)
        origin = request.extensions.type_url == TYPE_URL
        encoder = self._encoders.get(mask, origin=origin)
        past = None
        if self._archive is not None:
            past = ArchivedPast(
                self._archive, query, encoder, lambda one: (_query(request, one), Encoder(one, mask, origin=origin))
            )
        await self._greet(stream)
        reading = Reading(self._store, query, encoder, past)
        while (data := await _next(reading)) is not None:
            await pour(stream, data)
            await anyio.lowlevel.checkpoint()  # a write that need not wait would starve the others

    async def get_agent_events(self, stream: "Stream[pb.GetAgentEventsRequest, pb.GetAgentEventsResponse]") -> None:
        """What the agent did."""
        request = await request_of(stream)
        wanted = _wanted(request)
        await self._greet(stream)
        reading = EventReading(self._agent_events, wanted)
        while (told := await reading.next()) is not None:
            response = pb.GetAgentEventsResponse(agent_event=told.message, node_name=self._store.node_name)
            response.time.FromNanoseconds(told.time_ns)
            await stream.send_message(response)

    async def get_debug_events(self, stream: "Stream[pb.GetDebugEventsRequest, pb.GetDebugEventsResponse]") -> None:
        """What the datapath said to those who debug it; nothing, unless its programs are built to."""
        request = await request_of(stream)
        wanted = _wanted(request)
        await self._greet(stream)
        reading = EventReading(self._debug_events, wanted)
        while (told := await reading.next()) is not None:
            response = pb.GetDebugEventsResponse(debug_event=told.message, node_name=self._store.node_name)
            response.time.FromNanoseconds(told.time_ns)
            await stream.send_message(response)

    async def get_nodes(self, stream: "Stream[pb.GetNodesRequest, pb.GetNodesResponse]") -> None:
        """This node alone: it is the only one whose state an agent knows."""
        await request_of(stream)
        await self._greet(stream)
        cluster, _, node = self._store.node_name.partition("/")
        me, status = self._reached(), self._status()
        answer = pb.Node(
            name=peer_name(cluster, node),
            version=self._version,
            address=me.address if me is not None else "",
            state=relay_pb2.NODE_CONNECTED,
            uptime_ns=status.uptime_ns,
            num_flows=status.num_flows,
            max_flows=status.max_flows,
            seen_flows=status.seen_flows,
        )
        answer.tls.enabled = me is not None and bool(me.tls_name)
        answer.tls.server_name = me.tls_name if me is not None else ""
        await stream.send_message(pb.GetNodesResponse(nodes=[answer]))

    async def get_namespaces(self, stream: "Stream[pb.GetNamespacesRequest, pb.GetNamespacesResponse]") -> None:
        """Namespaces seen within the last hour."""
        await request_of(stream)
        await self._greet(stream)
        response = pb.GetNamespacesResponse()
        for cluster, namespace in self._store.namespaces.recent(self._clock.now_ns()):
            response.namespaces.add(cluster=cluster, namespace=namespace)
        await stream.send_message(response)

    async def server_status(self, stream: "Stream[pb.ServerStatusRequest, pb.ServerStatusResponse]") -> None:
        """How much there is, and how fast it comes."""
        await request_of(stream)
        await self._greet(stream)
        status = self._status()
        status.version = self._version
        status.flows_rate = flows_rate(self._store, self._clock.now_ns(), status.uptime_ns)
        await stream.send_message(status)

    def _status(self) -> pb.ServerStatusResponse:
        """What is counted. The numbers of nodes stay unset: they are a relay's."""
        ring = self._store.ring
        return pb.ServerStatusResponse(
            num_flows=len(ring),
            max_flows=ring.capacity,
            seen_flows=ring.seen,
            uptime_ns=self._clock.monotonic_ns() - self._started,
        )

    async def _greet(self, stream: "Stream[Any, Any]") -> None:  # Any: every method's messages
        await stream.send_initial_metadata(metadata={VERSION_KEY: self._version})


def flows_rate(store: FlowStore, now_ns: int, uptime_ns: int) -> float:
    """Flows per second over the last minute; over less when we, or the oldest flow, are younger."""
    ring = store.ring
    since = now_ns - _RATE_S * _NS
    count, stop = 0, ring.written
    while stop > ring.oldest:
        start = max(ring.oldest, stop - CHUNK, (stop - 1) // ring.capacity * ring.capacity)
        recent = int(np.count_nonzero(ring.span(start, stop)["time_ns"] >= max(0, since)))
        count += recent
        if recent < stop - start:
            break
        stop = start
    else:
        if ring.oldest:  # the minute began with flows that are gone
            oldest_ns = int(ring.span(ring.oldest, ring.oldest + 1)["time_ns"][0])
            return count * _NS / max(now_ns - oldest_ns, 1)
    return count * _NS / max(min(uptime_ns, _RATE_S * _NS), _NS)


async def _next(reading: Reading) -> bytes | None:
    """More of an answer; a filter may prove to be too dear only when flows are judged."""
    try:
        return await reading.next()
    except BadFilter as error:
        _refuse(str(error))


def _query(request: pb.GetFlowsRequest, store: FlowStore) -> Query:
    if request.first and request.follow:
        _refuse("first cannot be specified with follow")
    try:
        predicate = compile_filters(request.whitelist, request.blacklist, store)
    except BadFilter as error:
        _refuse(str(error))
    filters = (*request.whitelist, *request.blacklist)
    return Query(
        number=request.number,
        first=request.first,
        follow=request.follow,
        since_ns=_instant(request.since) if request.HasField("since") else None,
        until_ns=_instant(request.until) if request.HasField("until") else None,
        predicate=predicate,
        chunk=min(rows_at_once(filters), max(_CHUNK_MIN, CHUNK // max(1, len(filters)))),
    )


def _wanted(request: "pb.GetAgentEventsRequest | pb.GetDebugEventsRequest") -> Wanted:
    if request.first and request.follow:
        _refuse("first cannot be specified with follow")
    return Wanted(
        number=request.number,
        first=request.first,
        follow=request.follow,
        since_ns=_instant(request.since) if request.HasField("since") else None,
        until_ns=_instant(request.until) if request.HasField("until") else None,
    )


def _instant(stamp: Timestamp) -> int:
    """Nanoseconds; times that no flow can have become the first or last possible one."""
    return min(max(stamp.seconds * _NS + stamp.nanos, 0), _TIME_MAX)


def _refuse(message: str) -> NoReturn:
    raise GRPCError(Status.INVALID_ARGUMENT, message)
