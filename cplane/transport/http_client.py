"""GET over HTTP/1.1, one connection for each request: for servers that answer slowly, or for as long as one listens.

A server may be as bad as it likes: headers and what is kept of an answer are bounded, and each wait has an end.
Proxies of the environment are not asked, and redirections are not followed: whoever is asked has to answer.
"""

import os
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import anyio
import h11
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSStream

from cplane.errors import Unavailable
from cplane.transport.address import host_port

_HEADERS_MAX: Final = 65_536  # bytes
_CHUNK: Final = 65_536  # bytes
_ANSWER_S: Final = 10.0  # for a connection, and again for the head of the answer
_ALIVE: Final = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}  # seconds, and times


class NoAnswer(Unavailable):
    """A server cannot be reached, or what it says is no answer."""

    code = "transport.no_answer"

    def __init__(self, address: str, reason: str) -> None:
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address}: {self.reason}"


@dataclass(frozen=True, slots=True)
class HttpServer:
    """Where a server is; `name` is what its certificate has to be for, and `path` stands before all targets."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    name: str = ""
    path: str = ""

    def __str__(self) -> str:
        return f"{'https' if self.tls is not None else 'http'}://{host_port(self.host, self.port)}{self.path}"


class Response:
    """An answer whose body is read as it comes. Reading raises NoAnswer."""

    def __init__(self, wire: "_Wire", status: int, idle_s: float) -> None:
        self._wire, self._idle_s = wire, idle_s
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self.status = status

    async def body(self, bytes_max: int) -> bytes:
        """All of it. One that is longer is no answer."""
        held = bytearray()
        while piece := await self._piece():
            held += piece
            if len(held) > bytes_max:
                raise NoAnswer(self._wire.address, f"an answer of more than {bytes_max} bytes")
        return bytes(held)

    async def line(self, bytes_max: int) -> bytes | None:
        """The next line, without its end; None: there is no other. A longer one is no answer."""
        while not self._lines:
            if not (piece := await self._piece()):
                return None
            *whole, self._rest = (self._rest + piece).split(b"\n")
            self._lines += whole
            if any(len(one) > bytes_max for one in (*whole, self._rest)):
                raise NoAnswer(self._wire.address, f"a line of more than {bytes_max} bytes")
        return self._lines.popleft()

    async def _piece(self) -> bytes:
        """Some bytes; none: the end."""
        while True:
            match await self._wire.event(self._idle_s):
                case h11.Data() as event:
                    if event.data:
                        return bytes(event.data)
                case h11.EndOfMessage():
                    return b""
                case other:
                    raise AssertionError(other)  # h11 has nothing else in a body


class _Wire:
    """A connection with what HTTP/1.1 makes of its bytes."""

    def __init__(self, address: str, stream: ByteStream) -> None:
        self.address, self._stream = address, stream
        self._ended = False
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEADERS_MAX)

    async def send(self, event: h11.Request | h11.EndOfMessage) -> None:
        data = self._http.send(event)
        if data:
            await self._stream.send(data)

    async def event(self, timeout_s: float) -> object:
        """What comes next, within that time. Raises NoAnswer."""
        with _translated(self.address), anyio.fail_after(timeout_s):
            while (event := self._next()) is h11.NEED_DATA:
                try:
                    self._http.receive_data(await self._stream.receive(_CHUNK))
                except anyio.EndOfStream:
                    self._ended = True
                    self._http.receive_data(b"")
            return event

    def _next(self) -> object:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            reason = "the connection ends before the answer does" if self._ended else f"its answer is no HTTP: {error}"
            raise NoAnswer(self.address, reason) from error


@asynccontextmanager
async def get(
    server: HttpServer, target: str, headers: Mapping[str, str], *, idle_s: float = _ANSWER_S
) -> AsyncIterator[Response]:
    """An answer to GET, whatever its status. `idle_s`: the longest pause in its body. Raises NoAnswer."""
    address = str(server)
    with _translated(address), anyio.fail_after(_ANSWER_S):
        stream = await _connected(server)
    try:
        wire = _Wire(address, stream)
        with _translated(address), anyio.fail_after(_ANSWER_S):
            fields = [("host", host_port(server.host, server.port)), ("connection", "close"), *headers.items()]
            await wire.send(h11.Request(method="GET", target=server.path + target, headers=fields))
            await wire.send(h11.EndOfMessage())
        yield Response(wire, await _status(wire), idle_s)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(stream)


async def _status(wire: _Wire) -> int:
    while True:
        match await wire.event(_ANSWER_S):
            case h11.InformationalResponse():
                continue
            case h11.Response() as response:
                return response.status_code
            case other:
                raise AssertionError(other)  # h11 has answers before anything else


async def _connected(server: HttpServer) -> ByteStream:
    stream = await anyio.connect_tcp(server.host, server.port)
    try:
        raw = stream.extra(SocketAttribute.raw_socket)  # noqa: S610  # not Django's
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _ALIVE.items():
            raw.setsockopt(socket.IPPROTO_TCP, option, value)
        if server.tls is None:
            return stream
        # Lengths say where an answer ends, so nobody has to say goodbye.
        return await TLSStream.wrap(
            stream, hostname=server.name or server.host, ssl_context=server.tls, standard_compatible=False
        )
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """What a bad server or network makes of a connection is a NoAnswer."""
    try:
        yield
    except TimeoutError as error:
        raise NoAnswer(address, "no answer in time") from error
    except ssl.SSLCertVerificationError as error:
        raise NoAnswer(address, f"its certificate is not to be trusted: {error.verify_message}") from error
    except OSError as error:
        raise NoAnswer(address, _reason(error)) from error
    except ValueError as error:  # TLS has no such names
        raise NoAnswer(address, f"its name cannot be used: {error}") from error
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream) as error:
        raise NoAnswer(address, "the connection was lost") from error


def _reason(error: BaseException) -> str:
    """In the words of the operating system where it has some: those of event loops differ, and repeat the address."""
    causes: Sequence[BaseException] = (
        error.exceptions if isinstance(error, ExceptionGroup) else (error.__cause__,) if error.__cause__ else ()
    )
    if causes:
        return ", ".join(dict.fromkeys(map(_reason, causes)))
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)
