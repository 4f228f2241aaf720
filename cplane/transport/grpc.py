"""gRPC servers in our task tree.

`serve` runs the same services on several addresses until it is cancelled, with health and reflection beside
them. Bad clients hurt only themselves: messages and connections are limited, a slow reader blocks its own
call, a client that goes ends its own call, and no handler runs in a task that grpclib cancels (see
`cplane.transport.calls`).
"""

import socket
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
from anyio.abc import TaskStatus
from grpclib.config import Configuration
from grpclib.const import Cardinality, Status
from grpclib.const import Handler as Method
from grpclib.events import RecvRequest, listen
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol
from grpclib.server import Handler, Server

from cplane.transport.actor import actor_of
from cplane.transport.address import BadAddress, TcpAddress, UnixAddress, parse_address
from cplane.transport.calls import AnyStream, Calls, Limits, Refusal, Refuse, caller, refuse_nothing
from cplane.transport.codec import RequestCodec
from cplane.transport.reflection import with_health_and_reflection
from cplane.transport.sockets import AddressInUse, CannotListen, inode_of, listen_tcp, listen_unix, remove_unix

if TYPE_CHECKING:
    from asyncio import BaseTransport, Transport

    from grpclib._typing import IServable
    from grpclib.health.check import CheckBase

__all__ = [
    "AddressInUse",
    "BadAddress",
    "CannotListen",
    "Limits",
    "Refusal",
    "TcpAddress",
    "UnixAddress",
    "actor_of",
    "caller",
    "parse_address",
    "serve",
]

# bytes that a client may send before anybody has read them, for each connection
_WINDOW: Final = 1 << 20
_NAME_MAX: Final = 200  # characters of a method's name in an error
_FRAME_MAX: Final = 16_384 + 9  # bytes of a frame that h2 takes by default, with its header
_CONFIGURATION: Final = Configuration(
    http2_connection_window_size=_WINDOW,
    http2_stream_window_size=_WINDOW,
    # finds clients whose machine has gone
    _keepalive_time=300.0,
    _keepalive_timeout=20.0,
)


async def serve(
    services: "Sequence[IServable]",
    addresses: Sequence[UnixAddress | TcpAddress],
    *,
    refuse: Refuse = refuse_nothing,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    ready: "Collection[CheckBase]" = (),
    task_status: TaskStatus[tuple[UnixAddress | TcpAddress, ...]] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """The services answer on every address until this is cancelled.

    Then every call has ended, and the names of the sockets are removed.

    `task_status` reports the addresses, with the port that was taken in place of a port 0. `refuse` says how
    an error of a handler is told to the client; what it returns None for is logged as a bug. The health service
    tells that we serve while all checks of `ready` pass. Raises AddressInUse or CannotListen, before anything is
    served.
    """
    handlers = with_health_and_reflection(services, ready)
    with ExitStack() as sockets:
        bound = [sockets.enter_context(_bound(address)) for address in addresses]
        async with anyio.create_task_group() as group, AsyncExitStack() as servers:
            calls = Calls(group, limits, refuse)
            for one in bound:
                await servers.enter_async_context(_serving(handlers, one, calls, limits))
            task_status.started(tuple(one.address for one in bound))
            await anyio.sleep_forever()


class _Bound(NamedTuple):
    """A listening socket and its address, with the port that it has."""

    listener: socket.socket
    address: UnixAddress | TcpAddress


@contextmanager
def _bound(address: UnixAddress | TcpAddress) -> Iterator[_Bound]:
    """The address is ours inside the block. Raises AddressInUse and CannotListen."""
    if isinstance(address, TcpAddress):
        with listen_tcp(address) as listener:
            yield _Bound(listener, TcpAddress(address.host, listener.getsockname()[1], address.tls))
        return
    listener = listen_unix(address)
    inode = inode_of(address)
    try:
        yield _Bound(listener, address)
    finally:
        remove_unix(listener, address, inode)


@asynccontextmanager
async def _serving(handlers: "list[IServable]", bound: _Bound, calls: Calls, limits: Limits) -> AsyncIterator[None]:
    """Clients are answered; at the end their calls have ended and their connections are closed."""
    server = _Server(handlers, limits.connections)
    listen(server, RecvRequest, calls.on_request)
    tls = bound.address.tls if isinstance(bound.address, TcpAddress) else None
    await server.start(sock=bound.listener, ssl=tls)
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await server.end()


class _Server(Server):
    """grpclib's server, which also knows its connections: it refuses too many and closes them at its end."""

    def __init__(self, handlers: "list[IServable]", connections_max: int) -> None:
        super().__init__(handlers, codec=RequestCodec(), config=_CONFIGURATION)
        self._mapping = _Methods(self._mapping)
        self._connections_max = connections_max
        self._live: set[_Protocol] = set()

    def _protocol_factory(self) -> H2Protocol:
        made = super()._protocol_factory()
        assert isinstance(made.handler, Handler)
        return _Protocol(made.handler, self, made)

    def admit(self, protocol: "_Protocol") -> bool:
        """Whether there is room for one more connection; it is counted then."""
        if len(self._live) >= self._connections_max:
            return False
        self._live.add(protocol)
        return True

    def forget(self, protocol: "_Protocol") -> None:
        """The connection is gone."""
        self._live.discard(protocol)

    async def end(self) -> None:
        """Every call has ended; then every client is told that no further one is answered here, and hung up on.

        [grpclib's `wait_closed`: from Python 3.12 on it waits until clients have hung up by themselves.]
        """
        self.close()
        for handler in tuple(self._handlers):
            await handler.wait_closed()
        for protocol in tuple(self._live):
            protocol.hang_up()


class _Methods(dict[str, Method]):
    """The methods of a server, and an answer to who asks for another one.

    grpclib's own has no content type, so Go's clients read "no gRPC server" where they look for UNIMPLEMENTED.
    """

    def get(self, name: str, _default: object = None) -> Method:
        """How the method is answered."""
        return super().get(name) or Method(partial(_unknown, name), Cardinality.UNARY_UNARY, bytes, bytes)


async def _unknown(name: str, _stream: AnyStream) -> None:
    raise GRPCError(Status.UNIMPLEMENTED, f"unknown method {name[:_NAME_MAX]}")


class _Protocol(H2Protocol):
    """One connection of a `_Server`."""

    def __init__(self, handler: Handler, server: _Server, like: H2Protocol) -> None:
        super().__init__(handler, like.config, like.h2_config)
        self._server = server

    def connection_made(self, transport: "BaseTransport") -> None:
        """A client has come; it is sent away when there are too many."""
        super().connection_made(transport)
        self._h2 = self.connection._connection  # noqa: SLF001
        if not self._server.admit(self):
            self.hang_up()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has gone."""
        self._server.forget(self)
        super().connection_lost(exc)
        # asyncio resumes no writer when a connection is over: one with the end of a call to write would wait for ever
        self.connection.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Serve what the client sent; one that announces an overlong frame is sent away.

        h2 refuses such a frame only once all of it has arrived, and that can be 16 MiB.
        """
        super().data_received(data)
        if len(self._h2.incoming_buffer._data) > _FRAME_MAX and not self.connection.is_closing():  # noqa: SLF001
            self.hang_up()

    def hang_up(self) -> None:
        """GOAWAY, and the end of the connection once it is sent."""
        if self.connection.is_closing():
            return
        transport: Transport = self.connection._transport  # noqa: SLF001  # grpclib has no graceful close
        self._h2.close_connection()
        self.connection.flush()
        transport.close()
