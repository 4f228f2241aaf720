"""Connections to peers, and the proof that there is an observer at the other end.

A connection alone proves nothing: a peer that speaks another protocol takes it, and one that hangs keeps it. So one
counts as connected once it has answered, and is asked again from time to time.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import anyio
from grpclib.client import UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.exceptions import ProtocolError

from cplane.errors import CplaneError
from cplane.pb.observer import observer_pb2 as pb
from cplane.transport.client import ClientChannel, Unreachable, Windows, connect

T = TypeVar("T")

FAILURES: Final = (CplaneError, GRPCError, StreamTerminatedError, ProtocolError, OSError, TimeoutError)
"""How what is asked of a peer can fail; TLS failures are OSErrors."""

CALLS_MAX: Final = 64  # streams of flows at a time
_CALL_WINDOW: Final = 256 << 10
_CALL_WINDOW_MAX: Final = 1 << 20
_CALL_BYTES: Final = 8 << 20  # that all peers together may send for one client that does not read, if they are few
# of its own, so that calls whose clients do not read leave the others room
_WINDOWS: Final = Windows(connection_bytes=(CALLS_MAX + 8) * _CALL_WINDOW_MAX, call_bytes=_CALL_WINDOW)
_TICK_S: Final = 1.0
_ASKED_EVERY: Final = 15  # ticks

MakeTls = Callable[[], ssl.SSLContext]


def room_for(peers: int) -> int:
    """Bytes that each of so many peers may send, for a stream of flows, beyond what every call has room for.

    A peer that has filled its window stands still until the relay has come round to it.
    """
    return min(max(_CALL_BYTES // max(peers, 1), _CALL_WINDOW), _CALL_WINDOW_MAX) - _CALL_WINDOW


class Silent(Unreachable):
    """It is there, and does not answer."""

    code = "relay.silent"

    def __init__(self, address: str, seconds: float) -> None:
        super().__init__(address, f"no answer within {seconds:g} s")


@dataclass(frozen=True, slots=True)
class Dialer:
    """How servers are reached. `tls` makes a context from the files as they are then; None: plaintext."""

    tls: MakeTls | None = None
    dial_s: float = 5.0  # for a connection, and for each answer
    retry_s: float = 30.0  # the longest pause before the next attempt

    @asynccontextmanager
    async def dialed(self, address: str, server_name: str) -> AsyncIterator[ClientChannel]:
        """A connected channel. Raises CplaneError."""
        tls = self.tls() if self.tls is not None and not address.startswith(("unix:", "/")) else None
        async with AsyncExitStack() as stack:
            opening = connect(address, tls=tls, server_name=server_name if tls is not None else "", windows=_WINDOWS)
            channel = await self.within(address, lambda: stack.enter_async_context(opening))
            yield channel

    async def within(self, address: str, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` gives, in time. Raises Silent."""
        try:
            with anyio.fail_after(self.dial_s):
                return await ask()
        except TimeoutError:
            raise Silent(address, self.dial_s) from None

    async def status(self, channel: ClientChannel) -> pb.ServerStatusResponse:
        """What the observer says of itself. Raises one of FAILURES."""
        call: UnaryUnaryMethod[pb.ServerStatusRequest, pb.ServerStatusResponse] = UnaryUnaryMethod(
            channel, "/observer.Observer/ServerStatus", pb.ServerStatusRequest, pb.ServerStatusResponse
        )
        return await self.within(channel.address, lambda: call(pb.ServerStatusRequest()))

    async def namespaces(self, channel: ClientChannel) -> pb.GetNamespacesResponse:
        """The namespaces that the observer has seen; none when it cannot say. Raises one of FAILURES."""
        call: UnaryUnaryMethod[pb.GetNamespacesRequest, pb.GetNamespacesResponse] = UnaryUnaryMethod(
            channel, "/observer.Observer/GetNamespaces", pb.GetNamespacesRequest, pb.GetNamespacesResponse
        )
        try:
            return await self.within(channel.address, lambda: call(pb.GetNamespacesRequest()))
        except GRPCError as error:
            if error.status is not Status.UNIMPLEMENTED:
                raise
            return pb.GetNamespacesResponse()

    async def probe(self, channel: ClientChannel) -> None:
        """It answers, whatever it answers. Raises one of FAILURES."""
        try:
            await self.status(channel)
        except GRPCError as error:
            if error.status is not Status.UNIMPLEMENTED:
                raise

    async def watch(self, channel: ClientChannel, doubted: Callable[[], Awaitable[None]]) -> None:
        """Returns only by raising one of FAILURES, when the server has gone or does not answer any more.

        It is asked every 15 s, and whenever `doubted` returns.
        """
        ticks = 0
        while True:
            with anyio.move_on_after(_TICK_S) as pause:
                await doubted()
            if not channel.alive:
                raise Unreachable(channel.address, "the connection was lost")
            ticks += 1
            if not pause.cancelled_caught or ticks % _ASKED_EVERY == 0:
                await self.probe(channel)


def told(error: BaseException) -> str:
    """A failure in words; what a server said is not decorated."""
    match error:
        case GRPCError():
            return error.message or error.status.name
        case StreamTerminatedError() | ProtocolError():
            return f"the connection broke: {error}"
        case _:
            return str(error) or type(error).__name__
