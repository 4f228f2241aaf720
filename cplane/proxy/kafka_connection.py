"""A connection through the Kafka proxy: two transports of asyncio, and a session between them.

A side is read only while the other takes what comes: a client that does not read its answers, or a broker that does
not read requests, stops the reading. What is held meanwhile is one frame, and of an answer that passes as it comes
nothing.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cplane.domain.access import Access, Address
from cplane.proxy.kafka_scan import Buffer, Garbage
from cplane.proxy.kafka_session import PIPELINED_MAX, Ends, Port, Session
from cplane.proxy.kafka_wire import PREFIX

FRAME_MAX: Final = 16 << 20
_ROOM: Final = 1 << 16
_KEPT: Final = 1 << 20  # bytes of room that a connection keeps for its next frame
_HEAD: Final = PREFIX + 4
_CONNECT_S: Final = 10.0
_SHRINK_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may take; times in seconds."""

    frame_bytes: int = FRAME_MAX
    held_bytes: int = 256 << 20  # of all connections together, in frames that are not whole
    first_s: float = 30.0  # until the first request is whole
    frame_s: float = 60.0  # from the first byte of a frame to its last
    idle_s: float = 900.0  # without a byte either way
    closing_s: float = 5.0  # until what was written is read


class Held:
    """Bytes that all connections hold, in frames that are not whole."""

    total = 0


class Inbox:
    """Room for bytes as they come, in one piece. It grows with what has come, not with what a frame says it has."""

    def __init__(self) -> None:
        self._data = bytearray(_ROOM)
        self._start = self._end = 0
        self._counted = 0

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def bytes_held(self) -> int:
        """Memory that is taken."""
        return len(self._data)

    def room(self) -> memoryview:
        """Where the next bytes go."""
        if self._start == self._end:
            self._start = self._end = 0
        if self._end == len(self._data):
            held = self._end - self._start
            size = len(self._data) if held <= len(self._data) // 2 else 2 * len(self._data)
            self._replace(size)
        return memoryview(self._data)[self._end :]

    def came(self, count: int) -> None:
        """So many bytes have been put there."""
        self._end += count

    def view(self, count: int) -> memoryview:
        """The first bytes, read-only; good until `room` is asked for again."""
        return memoryview(self._data)[self._start : self._start + count].toreadonly()

    def drop(self, count: int) -> None:
        """The first bytes are done with."""
        self._start += count

    def shrink(self) -> None:
        """No more room is kept than usual, if nothing is held."""
        if self._start == self._end and len(self._data) > _ROOM:
            self._start = self._end = 0
            self._replace(_ROOM)

    def done(self) -> None:
        """A large frame has been dealt with."""
        if self._start == self._end and len(self._data) > _KEPT:
            self.shrink()

    def free(self) -> None:
        """Nothing is held any more."""
        Held.total -= self._counted
        self._counted = 0
        self._data, self._start, self._end = bytearray(), 0, 0

    def _replace(self, size: int) -> None:
        data = bytearray(size)
        held = self._end - self._start
        data[:held] = memoryview(self._data)[self._start : self._end]
        self._data, self._start, self._end = data, 0, held
        extra = max(size - _ROOM, 0)
        Held.total += extra - self._counted
        self._counted = extra


class ConnectionPort(Port, Protocol):
    """What a connection needs of its port."""

    connections: "set[Connection]"


class Connection:
    """A client's connection, and ours to the broker."""

    def __init__(
        self,
        port: ConnectionPort,
        opened: "Callable[[Connection], socket.socket]",
        closed: "Callable[[Connection, str], None]",
        tell: Callable[[Access], None],
        limits: Limits,
        *,
        clamp: bool,
    ) -> None:
        self.port, self._opened, self._closed = port, opened, closed
        self._tell, self._limits, self._clamp = tell, limits, clamp
        self.ends = Ends(Address("", 0), Address("", 0))
        self.client, self.broker = ClientSide(self), BrokerSide(self)
        self.session: Session
        self._dialling: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._reason = ""
        self._over = False
        self.has_asked = False  # whether a request has been whole
        self.active_s = self.since_s = self._loop.time()

    # ---- from the two sides ----

    def accepted(self) -> None:
        """A client is there, under the address that it has and the one that it meant."""
        transport = self.client.transport
        assert transport is not None
        peer, meant = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if peer and meant:  # else it has gone already
            self.ends = Ends(Address(*peer[:2]), Address(*meant[:2]))
        self.session = Session(self.port, self.ends, self._tell, clamp=self._clamp)
        self.flow()
        try:
            way = self._opened(self)
        except OSError as error:
            self.abort(f"no way to the broker: {error.strerror or error}")
            return
        self._dialling = self._loop.create_task(self._dial(way))
        self._dialling.add_done_callback(lambda _: self._check_over())

    async def _dial(self, way: socket.socket) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._loop.sock_connect(way, tuple(self.ends.broker))
            if not self._reason:
                way.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                way.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                await self._loop.create_connection(lambda: self.broker, sock=way)
                return
        except (OSError, TimeoutError) as error:
            self.abort(f"the broker cannot be reached: {error}")
        except asyncio.CancelledError:
            pass  # the client has gone meanwhile
        way.close()

    def requests(self) -> None:
        """Whole requests are dealt with, as many as there is room for on the other side."""
        inbox = self.client.inbox
        try:
            while not self._reason and self.broker.ready and self._may_ask() and (frame := self._frame(inbox)):
                self.has_asked = True
                step = self.session.request(frame)
                if step.to_broker:
                    self.broker.write(step.to_broker)
                if step.to_client:
                    self.client.write(step.to_client)
                if step.closed:
                    self.close(step.closed)
                del frame, step
                inbox.done()
        except Garbage as error:
            self.session.garbage()
            self.close(f"garbage: {error}")
        self.flow()

    def _frame(self, inbox: Inbox) -> Buffer | None:
        """The next request, out of the inbox; None: it is not whole. Raises Garbage for one that is too long."""
        if len(inbox) < PREFIX:
            return None
        length = int.from_bytes(inbox.view(PREFIX), signed=True)
        if not _HEAD <= length <= self._limits.frame_bytes:
            raise Garbage(f"a request of {length} bytes")
        if len(inbox) < PREFIX + length:
            if Held.total > self._limits.held_bytes and inbox.bytes_held > _KEPT:
                raise Garbage("requests that are not whole take too much memory")
            return None
        frame = inbox.view(PREFIX + length)
        inbox.drop(PREFIX + length)
        self.since_s = self._loop.time()
        return frame

    def _may_ask(self) -> bool:
        return not (self.broker.is_full or self.client.is_full) and self.session.waiting < PIPELINED_MAX

    def answers(self) -> None:
        """Answers are passed on, or rewritten when they are whole."""
        inbox, side = self.broker.inbox, self.broker
        try:
            while not self._reason:
                if side.passing:
                    count = min(side.passing, len(inbox))
                    if not count:
                        break
                    self.client.write(inbox.view(count))
                    inbox.drop(count)
                    side.passing -= count
                    if not side.passing and (due := self.session.passed()):
                        self.client.write(due)
                    continue
                if len(inbox) < _HEAD:
                    break
                head = inbox.view(_HEAD)
                length = int.from_bytes(head[:PREFIX], signed=True)
                if length < PREFIX:
                    raise Garbage(f"an answer of {length} bytes")
                if not side.whole:
                    side.whole = self.session.answer_head(length, int.from_bytes(head[PREFIX:], signed=True))
                    if not side.whole:
                        side.passing = PREFIX + length
                        continue
                if len(inbox) < PREFIX + length:
                    break
                self.client.write(self.session.answer(inbox.view(PREFIX + length)))
                inbox.drop(PREFIX + length)
                side.whole = False
                inbox.done()
        except Garbage as error:
            self.session.garbage()
            self.close(f"garbage from the broker: {error}")
        if self.client.inbox and not self._reason:
            self.requests()  # there is room again
        else:
            self.flow()

    def flow(self) -> None:
        """Each side is read if the other takes what comes."""
        self.client.read(self.broker.ready and self._may_ask())
        self.broker.read(not self.client.is_full)
        if self.client.has_ended and self.broker.ready and self._may_ask() and not self.session.waiting:
            self.close("the client closed it")

    def ended(self, side: "Side", error: Exception | None) -> None:
        """A transport is gone; the other follows, when it has written what it has."""
        who = "client" if side is self.client else "broker"
        self.close(f"the {who} closed it" if error is None else f"the {who} closed it: {error}")
        self._check_over()

    def _check_over(self) -> None:
        """Once nothing of it is left, others are told."""
        done = self._dialling is None or self._dialling.done()
        if done and not self._over and self.client.transport is None and self.broker.transport is None:
            self._over = True
            self.client.inbox.free()
            self.broker.inbox.free()
            self._closed(self, self._reason)

    # ---- the end ----

    def close(self, reason: str) -> None:
        """What was written is still sent, nothing more is read."""
        if self._reason:
            return
        self._reason, self.active_s = reason, self._loop.time()
        if self._dialling is not None:
            self._dialling.cancel()
        for side in (self.client, self.broker):
            if side.transport is not None:
                side.transport.close()

    def abort(self, reason: str) -> None:
        """It ends at once."""
        self.close(reason)
        for side in (self.client, self.broker):
            if side.transport is not None:
                side.transport.abort()

    def sweep(self, now_s: float) -> None:
        """It is ended if it takes too long over something; else memory that it does not need now is given back."""
        limits, idle = self._limits, now_s - self.active_s
        if self._reason:
            if idle > limits.closing_s:
                self.abort(self._reason)
            return
        waits = len(self.client.inbox) > 0 and self.broker.ready and self._may_ask()
        frame_s = now_s - self.since_s
        if (not self.has_asked and frame_s > limits.first_s) or (waits and frame_s > limits.frame_s):
            self.abort("a request that does not end")
        elif idle > limits.idle_s:
            self.abort("nothing was said for long")
        elif idle > _SHRINK_S:
            self.client.inbox.shrink()
            self.broker.inbox.shrink()


class Side(asyncio.BufferedProtocol):
    """One of the two transports."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.transport: asyncio.Transport | None = None
        self.inbox = Inbox()
        self.is_full = self.has_ended = False
        self._reads = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio."""
        self.transport = None
        self.connection.ended(self, exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Asyncio."""
        return self.inbox.room()

    def pause_writing(self) -> None:
        """Asyncio."""
        self.is_full = True

    def write(self, data: Buffer) -> None:
        """It will be sent."""
        if self.transport is not None:
            self.transport.write(data)

    def read(self, wanted: bool) -> None:  # noqa: FBT001  # what is switched is the name
        """Whether what comes is read."""
        if self.transport is None or self.has_ended or wanted is self._reads or self.transport.is_closing():
            return
        self._reads = wanted
        if wanted:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()


class ClientSide(Side):
    """The client's transport."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio."""
        super().connection_made(transport)
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.connection.accepted()

    def buffer_updated(self, nbytes: int) -> None:
        """Asyncio."""
        now_s = self.connection.active_s = asyncio.get_running_loop().time()
        if not self.inbox and self.connection.has_asked:
            self.connection.since_s = now_s
        self.inbox.came(nbytes)
        self.connection.requests()

    def resume_writing(self) -> None:
        """Asyncio."""
        self.is_full = False
        self.connection.requests()

    def eof_received(self) -> bool:
        """asyncio: true keeps it open for the answers."""
        self.has_ended = True
        self.connection.flow()
        return True


class BrokerSide(Side):
    """The broker's transport. `passing` bytes go on as they come; `whole`: the answer is held until it is whole."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.passing = 0
        self.whole = False

    @property
    def ready(self) -> bool:
        """Whether requests can be sent."""
        return self.transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio."""
        super().connection_made(transport)
        self.connection.requests()

    def buffer_updated(self, nbytes: int) -> None:
        """Asyncio."""
        self.connection.active_s = asyncio.get_running_loop().time()
        self.inbox.came(nbytes)
        self.connection.answers()

    def resume_writing(self) -> None:
        """Asyncio."""
        self.is_full = False
        self.connection.requests()
