"""What the observer services of an agent and of a relay have in common."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from cplane.pb.observer import observer_pb2 as pb

if TYPE_CHECKING:
    from grpclib.server import Stream

T = TypeVar("T")
Method = Callable[[Any], Awaitable[None]]  # Any: the stream of its own messages

_STREAMS: Final = frozenset({"GetFlows", "GetAgentEvents", "GetDebugEvents"})


class Clock(Protocol):
    """Where time comes from; `cplane.telemetry.clock.SystemClock` fits."""

    def now_ns(self) -> int:
        """UTC nanoseconds."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds for durations."""
        ...


def observer_handlers(methods: Mapping[str, Method]) -> dict[str, Handler]:
    """What grpclib serves, for methods of `observer.Observer` by their names there."""
    return {
        f"/observer.Observer/{name}": Handler(
            method,
            Cardinality.UNARY_STREAM if name in _STREAMS else Cardinality.UNARY_UNARY,
            getattr(pb, f"{name}Request"),
            getattr(pb, f"{name}Response"),
        )
        for name, method in methods.items()
    }


async def request_of(stream: "Stream[T, Any]") -> T:  # Any: the answer does not matter here
    """The one message of a call. Raises GRPCError where it has none."""
    request = await stream.recv_message()
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, "the request has no message")
    return request
