"""The observer service, wire-compatible with Hubble's."""

from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeVar

import anyio.lowlevel
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from cplane.hubble.encode import Encoders
from cplane.hubble.fieldmask import PATHS_MAX, parse_mask
from cplane.hubble.filters import BadFilter, compile_filters
from cplane.hubble.flow import TYPE_URL
from cplane.hubble.selection import CHUNK, Query, Reading
from cplane.hubble.store import FlowStore
from cplane.pb.observer import observer_pb2 as pb

if TYPE_CHECKING:
    from grpclib.server import Stream

T = TypeVar("T")

_NS: Final = 1_000_000_000
_RATE_S: Final = 60
_TIME_MAX: Final = (1 << 63) - 1
VERSION_KEY: Final = "hubble-server-version"


class Clock(Protocol):
    """Where time comes from; `cplane.telemetry.clock.SystemClock` fits."""

    def now_ns(self) -> int:
        """UTC nanoseconds."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds for durations."""
        ...


class Observer:
    """Answers from one store. What an agent does not have is unimplemented: nodes, agent and debug events."""

    def __init__(self, store: FlowStore, clock: Clock, *, version: str) -> None:
        self._store, self._clock, self._version = store, clock, version
        self._encoders = Encoders(store)
        self._started = clock.monotonic_ns()

    def __mapping__(self) -> dict[str, Handler]:
        """What grpclib serves."""
        unary, stream = Cardinality.UNARY_UNARY, Cardinality.UNARY_STREAM
        methods = (
            ("GetFlows", self.get_flows, stream),
            ("GetAgentEvents", _unimplemented, stream),
            ("GetDebugEvents", _unimplemented, stream),
            ("GetNodes", _unimplemented, unary),
            ("GetNamespaces", self.get_namespaces, unary),
            ("ServerStatus", self.server_status, unary),
        )
        return {
            f"/observer.Observer/{name}": Handler(
                method, kind, getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response")
            )
            for name, method, kind in methods
        }

    async def get_flows(self, stream: "Stream[pb.GetFlowsRequest, pb.GetFlowsResponse]") -> None:
        """Flows, many messages in each write."""
        request = await _request(stream)
        query = _query(request, self._store)
        mask = None
        if request.field_mask.paths:
            if len(request.field_mask.paths) > PATHS_MAX:
                _refuse(f"field_mask has more than {PATHS_MAX} paths")
            mask = parse_mask(request.field_mask.paths)
        encoder = self._encoders.get(mask, origin=request.extensions.type_url == TYPE_URL)
        await self._greet(stream)
        reading = Reading(self._store, query, encoder)
        while (data := await reading.next()) is not None:
            # grpclib can only write one message at a time; its stream below has the flow control
            await stream._stream.send_data(data)  # noqa: SLF001
            await anyio.lowlevel.checkpoint()  # a write that need not wait would starve the others

    async def get_namespaces(self, stream: "Stream[pb.GetNamespacesRequest, pb.GetNamespacesResponse]") -> None:
        """Namespaces seen within the last hour."""
        await _request(stream)
        await self._greet(stream)
        response = pb.GetNamespacesResponse()
        for cluster, namespace in self._store.namespaces.recent(self._clock.now_ns()):
            response.namespaces.add(cluster=cluster, namespace=namespace)
        await stream.send_message(response)

    async def server_status(self, stream: "Stream[pb.ServerStatusRequest, pb.ServerStatusResponse]") -> None:
        """How much there is, and how fast it comes."""
        await _request(stream)
        await self._greet(stream)
        ring = self._store.ring
        uptime = self._clock.monotonic_ns() - self._started
        await stream.send_message(
            pb.ServerStatusResponse(
                num_flows=len(ring),
                max_flows=ring.capacity,
                seen_flows=ring.written,
                uptime_ns=uptime,
                version=self._version,
                flows_rate=flows_rate(self._store, self._clock.now_ns(), uptime),
            )
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


async def _unimplemented(stream: "Stream[Any, Any]") -> None:  # Any: whatever is asked
    """Said here, because grpclib's own words for an absent method lack a header that clients insist on."""
    await _request(stream)
    raise GRPCError(Status.UNIMPLEMENTED, "not implemented by an agent")


async def _request(stream: "Stream[T, Any]") -> T:  # Any: the answer does not matter here
    request = await stream.recv_message()
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, "the request has no message")
    return request


def _query(request: pb.GetFlowsRequest, store: FlowStore) -> Query:
    if request.first and request.follow:
        _refuse("first cannot be specified with follow")
    try:
        predicate = compile_filters(request.whitelist, request.blacklist, store)
    except BadFilter as error:
        _refuse(str(error))
    return Query(
        number=request.number,
        first=request.first,
        follow=request.follow,
        since_ns=_instant(request.since) if request.HasField("since") else None,
        until_ns=_instant(request.until) if request.HasField("until") else None,
        predicate=predicate,
    )


def _instant(stamp: Timestamp) -> int:
    """Nanoseconds; times that no flow can have become the first or last possible one."""
    return min(max(stamp.seconds * _NS + stamp.nanos, 0), _TIME_MAX)


def _refuse(message: str) -> NoReturn:
    raise GRPCError(Status.INVALID_ARGUMENT, message)
