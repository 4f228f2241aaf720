"""An observer on a unix socket, and calls to it as any client makes them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod

from cplane.hubble.server import services
from cplane.hubble.store import FlowStore
from cplane.pb.observer import observer_pb2 as pb
from cplane.transport.client import connect
from tests.support.flows import START_NS
from tests.support.serving import served


class StillClock:
    """A clock that moves when told."""

    def __init__(self, now_ns: int = START_NS) -> None:
        self.now, self.monotonic = now_ns, 0

    def now_ns(self) -> int:
        return self.now

    def monotonic_ns(self) -> int:
        return self.monotonic

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)
        self.monotonic += int(seconds * 1e9)


@asynccontextmanager
async def observed(
    store: FlowStore,
    path: Path,
    clock: StillClock | None = None,
    *,
    version: str = "1.2.3",
    **others: Any,  # those of `services`
) -> AsyncIterator[Channel]:
    """A channel to an observer of `store`."""
    async with (
        served(*services(store, clock or StillClock(), version=version, **others), path=path) as address,
        connect(address) as channel,
    ):
        yield channel


def get_flows(channel: Channel) -> UnaryStreamMethod[pb.GetFlowsRequest, pb.GetFlowsResponse]:
    return UnaryStreamMethod(channel, "/observer.Observer/GetFlows", pb.GetFlowsRequest, pb.GetFlowsResponse)


async def unary(channel: Channel, name: str) -> Any:
    """The answer of a method to an empty request."""
    request, response = getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response")
    return await UnaryUnaryMethod(channel, f"/observer.Observer/{name}", request, response)(request())
