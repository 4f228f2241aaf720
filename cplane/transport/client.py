"""Channels to our servers, for command lines."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from grpclib.client import Channel, Stream
from grpclib.config import Configuration
from grpclib.events import RecvTrailingMetadata, listen
from grpclib.protocol import H2Protocol
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame

from cplane.errors import Unavailable
from cplane.transport.address import TcpAddress, parse_address
from cplane.transport.arriving import Arriving
from cplane.transport.codec import Codec

REFUSAL_KEY: Final = "cplane-error-bin"
_WINDOW: Final = 16 << 20
_FRAME_MAX: Final = 1 << 17  # bytes


class Unreachable(Unavailable):
    """Nobody answers at an address, or we may not ask."""

    code = "transport.unreachable"

    def __init__(self, address: str, reason: str) -> None:
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"cannot reach {self.address}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Windows:
    """What a server may send before anybody has read it, on a connection and for each call on it."""

    connection_bytes: int = _WINDOW
    call_bytes: int = _WINDOW


class ClientChannel(Channel):
    """A channel that keeps what the last refused call said about its errors; empty: nothing."""

    refusal: bytes = b""
    address: str = ""  # how errors name the server
    _over: bool = False  # grpclib would connect again for a call that comes after the end

    async def __connect__(self) -> H2Protocol:
        """The open connection, made anew where it was lost. Raises Unreachable."""
        try:
            protocol = await super().__connect__()
        except OSError as error:  # ssl's errors are OSErrors too
            raise Unreachable(self.address, _reason(error)) from error
        if self._over:
            super().close()
            raise Unreachable(self.address, "the connection to it was given up")
        if protocol.connection.is_closing():  # grpclib looks only at what has closed, and fails without words
            raise Unreachable(self.address, "it closed the connection: it has too many, or is shutting down")
        return protocol

    @property
    def alive(self) -> bool:
        """Whether the connection is there, as far as is known: a machine that has gone does not say so."""
        return self._protocol is not None and self._connected and not self._protocol.connection.is_closing()

    def close(self) -> None:
        """The connection is closed, and calls that come later fail."""
        self._over = True
        super().close()

    def _protocol_factory(self) -> H2Protocol:
        made = super()._protocol_factory()
        return _Protocol(made.handler, made.config, made.h2_config)

    def request(self, *args: Any, **kwargs: Any) -> Stream[Any, Any]:  # noqa: ANN401  # passed through to grpclib
        """A call that leaves its task fit for anyio's scopes."""
        stream = super().request(*args, **kwargs)
        stream.__class__ = _Call  # grpclib constructs its own class, without a hook
        return stream


class _Protocol(H2Protocol):
    """One connection.

    Frames may be larger than the 16 KiB that h2 takes by default, because each costs as much as a hundred flows in it.
    Servers that keep to 16 KiB, as Go's do, are free to.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The server is told what we take.

        It is taken from now on: h2 would begin with the bytes that come after those in which the server agrees, and a
        large frame can be among these.
        """
        super().connection_made(transport)
        h2 = self.connection._connection  # noqa: SLF001
        h2.update_settings({SettingCodes.MAX_FRAME_SIZE: _FRAME_MAX})
        h2.max_inbound_frame_size = _FRAME_MAX
        self.connection.flush()
        self._arriving = Arriving(self, super().data_received)

    def data_received(self, data: bytes) -> None:
        """Content goes to its call, everything else to h2."""
        self._arriving.feed(data)


def _told(frame: DataFrame) -> str:
    """The content of a frame in words."""
    return f"{len(frame.data)} bytes"


# h2 describes every frame to a log that nobody reads, and its own way to do so writes all of the content in hexadecimal
DataFrame._body_repr = _told  # type: ignore[assignment, method-assign]  # noqa: SLF001


class _Call(Stream[Any, Any]):  # Any: the messages are the stub's business
    """A client's call.

    grpclib wakes the calling task with `task.cancel()` when a deadline passes or the server ends the call,
    and swallows the cancellation. It never takes back the count of cancellations that asyncio keeps, so an
    anyio scope around the call would later mistake that one for a cancellation from outside.
    """

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        wrapper = self._wrapper
        cancel = wrapper.cancel

        def cancel_once(error: Exception) -> None:
            if wrapper.cancelled is None:  # a server that says goodbye and hangs up ends the call twice
                cancel(error)

        wrapper.cancel = cancel_once  # type: ignore[method-assign]  # of this one call
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        try:
            await super().__aexit__(exc_type, exc_val, exc_tb)
        finally:
            task = asyncio.current_task()
            if self._wrapper.cancelled and self._wrapper.cancel_failed is False and task is not None:
                task.uncancel()


@asynccontextmanager
async def connect(
    address: str,
    *,
    tls: ssl.SSLContext | None = None,
    server_name: str = "",
    windows: Windows = Windows(),
) -> AsyncIterator[ClientChannel]:
    """A connected channel to `unix:///path`, `host:port` or `tls://host:port`, closed at the end.

    `server_name` is what the server's certificate must be for, if not for the host. Raises BadAddress, and
    Unreachable when there is no server. A server's refusal is grpclib's GRPCError.
    """
    parsed = parse_address(address, tls)
    configuration = Configuration(
        http2_connection_window_size=windows.connection_bytes,
        http2_stream_window_size=windows.call_bytes,
        ssl_target_name_override=server_name or None,
    )
    if isinstance(parsed, TcpAddress):
        channel = ClientChannel(parsed.host, parsed.port, ssl=parsed.tls, codec=Codec(), config=configuration)
    else:
        channel = ClientChannel(path=parsed.path, codec=Codec(), config=configuration)

    async def keep_refusal(event: RecvTrailingMetadata) -> None:  # grpclib awaits it
        value = event.metadata.get(REFUSAL_KEY, b"")
        channel.refusal = value if isinstance(value, bytes) else b""

    listen(channel, RecvTrailingMetadata, keep_refusal)
    channel.address = str(parsed)
    try:
        await channel.__connect__()
        yield channel
    finally:
        channel.close()


def _reason(error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return "there is no such socket; is the agent running, and is its run directory another one?"
        case ConnectionRefusedError():
            return "nobody listens there; is the agent running?"
        case PermissionError():
            return "permission denied; ask as root or as a member of the socket's group"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS failed: {error.reason or error}"
        case _:
            return error.strerror or str(error)
