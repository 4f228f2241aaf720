"""The agent's side of the channel: rows go to the proxy of their kind, what proxies saw and learned comes back.

What waits to be sent is which ports have changed, not how often: a proxy that does not read is told the latest when
it does. At most LEARNING answers of DNS are worked on at once, and reading waits for them.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

import anyio
from anyio.abc import SocketListener, SocketStream, TaskGroup, TaskStatus

from cplane.domain.access import Access
from cplane.domain.policy.redirection import Redirection
from cplane.errors import CplaneError, leaves
from cplane.proxy.channel import (
    KINDS,
    PROTOCOL,
    Ack,
    BrokenFrames,
    Failed,
    Forget,
    Frames,
    FrameTooLong,
    Hello,
    Learned,
    Remove,
    Seen,
    Version,
    Written,
    decode_records,
    frame,
    row,
    to_agent,
)
from cplane.telemetry.log import line, logger
from cplane.transport.address import UnixAddress
from cplane.transport.sockets import Door, inode_of, listen_unix, remove_unix

PATIENCE_S: Final = 1.0
"""How long `apply` waits for a proxy."""
HELLO_S: Final = 5.0
CONNECTIONS: Final = 16
LEARNING: Final = 256
_READ: Final = 1 << 18
_CHUNK: Final = 1 << 18

log = logger("proxy")


class ProxyServer:
    """Where our proxies connect. `backend(kind)` is what the reconciler writes to, also while nobody is connected.

    `seen` gets what a proxy saw, oldest first, and how many records there was no room for; it may not wait.
    `learned` returns when the datapath has what a DNS answer says.
    """

    def __init__(
        self,
        address: UnixAddress,
        seen: Callable[[list[Access], int], None],
        learned: Callable[[Learned], Awaitable[None]] | None = None,
    ) -> None:
        self._address, self._seen, self._learned = address, seen, learned
        self._backends = {kind: ChannelBackend(kind) for kind in KINDS}
        self.broken = 0
        """Connections that were closed because what came over them made no sense."""

    def backend(self, kind: str, supervise: Callable[[], Awaitable[None]] = anyio.sleep_forever) -> "ChannelBackend":
        """The back end for the proxy of this kind; its `run` is `supervise`."""
        found = self._backends[kind]
        found.supervise = supervise
        return found

    def forget(self, endpoint_ip: str) -> None:
        """The DNS proxy tells again what it learns of the endpoint."""
        self._backends["dns"].forget(endpoint_ip)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Proxies are served until this is cancelled; they can connect when it has started.

        Raises AddressInUse and CannotListen.
        """
        raw = listen_unix(self._address)
        inode = inode_of(self._address)
        try:
            async with await SocketListener.from_socket(raw) as listener:
                limiter, door = anyio.CapacityLimiter(CONNECTIONS), Door(listener, self._not_accepted)
                task_status.started()
                async with anyio.create_task_group() as tasks:
                    while True:
                        tasks.start_soon(self._serve, await door.accept(), limiter)
        finally:
            remove_unix(raw, self._address, inode)

    def _not_accepted(self, error: str) -> None:
        log.error(line("proxy channel", path=self._address.path, error=error, detail="tried again and again"))

    async def _serve(self, stream: SocketStream, limiter: anyio.CapacityLimiter) -> None:
        async with stream:
            try:
                limiter.acquire_nowait()
            except anyio.WouldBlock:
                return
            try:
                await self._talk(stream)
            except* BrokenFrames as errors:
                self.broken += 1
                log.warning(line("proxy channel broken", error=", ".join(map(str, leaves(errors)))))
            except* (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
                pass  # a proxy that ends or is restarted; its back end says so by `problems`
            finally:
                limiter.release()

    async def _talk(self, stream: SocketStream) -> None:
        reader = _Reader(stream)
        hello = None
        with anyio.move_on_after(HELLO_S):
            hello = await reader.receive()
        if not isinstance(hello, Hello) or hello.kind not in self._backends:
            raise BrokenFrames("it does not say who it is")
        if hello.version != PROTOCOL:
            raise BrokenFrames(f"it speaks version {hello.version}, not {PROTOCOL}: restart it")
        log.info(line("proxy connected", kind=hello.kind, pid=hello.pid))
        backend = self._backends[hello.kind]
        link: _Link | None = None
        try:
            async with anyio.create_task_group() as tasks:
                link = backend.connected(tasks.cancel_scope)
                tasks.start_soon(backend.write, stream, link)
                await self._listen(reader, backend, link, tasks)
        finally:
            backend.disconnected(link)

    async def _listen(self, reader: "_Reader", backend: "ChannelBackend", link: "_Link", tasks: TaskGroup) -> None:
        learning = anyio.Semaphore(LEARNING)
        while True:
            match await reader.receive():
                case Ack(version):
                    backend.acked(link, version)
                case Failed(port, error):
                    backend.failed(link, port, error)
                case Seen() as told:
                    self._seen(decode_records(backend.kind, told.records), told.lost)
                case Learned() as told if self._learned is not None:
                    await learning.acquire()
                    tasks.start_soon(self._learn, told, link, learning)
                case _:
                    raise BrokenFrames("a message that it may not send")

    async def _learn(self, told: Learned, link: "_Link", learning: anyio.Semaphore) -> None:
        assert self._learned is not None
        try:
            await self._learned(told)
            link.tell_written(told.id)
        except CplaneError as error:  # the answer is not released
            log.warning(line("answer not learned", detail=told.name, code=error.code, error=str(error)))
        finally:
            learning.release()


class ChannelBackend:
    """What one kind of proxy has to enforce, and how far it is. Fits the agent's `Backend`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.supervise: Callable[[], Awaitable[None]] = anyio.sleep_forever
        self._rows: dict[int, bytes] = {}  # frames, by port
        self._since: dict[int, int] = {}  # the version that changed a port last
        self._refused: dict[int, str] = {}
        self._failed: dict[int, str] = {}
        self._version = self._acked = 0
        self._link: _Link | None = None
        self._absent = False  # nobody was connected for the whole of an `apply`
        self._news = anyio.Event()

    @property
    def is_connected(self) -> bool:
        """Whether the proxy is there."""
        return self._link is not None

    async def connections(self) -> int | None:
        """They are not told."""
        return None

    def forget(self, endpoint_ip: str) -> None:
        """What was learned of the endpoint is not known any more; a proxy that connects later tells all again."""
        if self._link is not None:
            self._link.tell_forgotten(endpoint_ip)

    async def run(self) -> None:
        """The process is supervised until this is cancelled."""
        await self.supervise()

    async def apply(self, put: Mapping[int, Redirection], gone: Collection[int]) -> None:
        """The proxy enforces it, or PATIENCE_S is over; one that was away for that long before is not waited for."""
        self._version += 1
        for port in gone:
            for table in (self._rows, self._since, self._refused, self._failed):
                table.pop(port, None)
        for port, redirection in put.items():
            self._since[port] = self._version
            self._refused.pop(port, None)
            try:
                self._rows[port] = frame(row(self.kind, port, redirection))
            except FrameTooLong as error:  # the port refuses everything
                self._refused[port] = str(error)
                self._rows.pop(port, None)
        if self._link is not None:
            self._link.tell({*put, *gone})
        await self._wait(self._version)

    def problems(self) -> Mapping[int, str]:
        """By proxy port: why it is not in force."""
        if self._link is None:
            return dict.fromkeys(self._since, f"the {self.kind} proxy is not running")
        late = {port: "the proxy has not confirmed it" for port, at in self._since.items() if at > self._acked}
        return {**late, **self._failed, **self._refused}

    async def _wait(self, version: int) -> None:
        if self._link is None and self._absent:
            return
        with anyio.move_on_after(PATIENCE_S):
            while self._acked < version:
                await self._news.wait()
        self._absent = self._link is None

    def connected(self, scope: anyio.CancelScope) -> "_Link":
        """A proxy of this kind is there, and is told all; one that was there before is not listened to any more."""
        if self._link is not None:
            self._link.scope.cancel()
        self._link = link = _Link(scope, set(self._rows))
        self._absent, self._acked = False, 0
        self._failed.clear()
        self._tell()
        return link

    def disconnected(self, link: "_Link | None") -> None:
        """The connection has ended."""
        if self._link is link:
            self._link, self._acked = None, 0
            self._tell()

    def acked(self, link: "_Link", version: int) -> None:
        """Raises BrokenFrames for a version that was never told."""
        if version > link.told:
            raise BrokenFrames(f"it confirms version {version}, which it was never told")
        if self._link is link:
            self._acked = max(self._acked, version)
            self._tell()

    def failed(self, link: "_Link", port: int, error: str) -> None:
        """The proxy cannot serve a port, or can again."""
        if self._link is not link or port not in self._since:
            return
        if error:
            self._failed[port] = error[:1000]
        else:
            self._failed.pop(port, None)

    async def write(self, stream: SocketStream, link: "_Link") -> None:
        """What has changed is told, as fast as the proxy reads; the first time also when there is nothing."""
        while True:
            frames = [self._rows.get(port) or frame(Remove(port)) for port in sorted(link.dirty)]
            frames += [frame(Forget(one)) for one in link.forgotten]
            frames += [frame(Written(one)) for one in link.written]
            if self._version > link.told:
                link.told = self._version
                frames.append(frame(Version(link.told)))
            link.dirty.clear()
            link.written.clear()
            link.forgotten.clear()
            await _send(stream, frames)
            if not (link.dirty or link.written or link.forgotten or self._version > link.told):
                link.more = anyio.Event()
                await link.more.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()


class _Link:
    """One connection, and what it has not been told yet."""

    def __init__(self, scope: anyio.CancelScope, dirty: set[int]) -> None:
        self.scope, self.dirty = scope, dirty
        self.forgotten: set[str] = set()  # as many as there are endpoints
        self.written: list[int] = []  # as many as are learned between two writes: reading stops at LEARNING
        self.told = -1
        self.more = anyio.Event()

    def tell(self, ports: Collection[int]) -> None:
        """These ports have changed."""
        self.dirty.update(ports)
        self.more.set()

    def tell_forgotten(self, endpoint_ip: str) -> None:
        """What was learned of an endpoint is not known any more."""
        self.forgotten.add(endpoint_ip)
        self.more.set()

    def tell_written(self, number: int) -> None:
        """An answer may be released."""
        self.written.append(number)
        self.more.set()


class _Reader:
    """Messages of a proxy."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream, self._frames = stream, Frames()
        self._whole: list[bytes] = []  # of one read, newest first

    async def receive(self) -> object:
        """The next message. Raises BrokenFrames, and what the stream raises."""
        while not self._whole:
            data = await self._stream.receive(_READ)
            self._whole = [*self._frames.feed(data)][::-1]
        return to_agent(self._whole.pop())


async def _send(stream: SocketStream, frames: list[bytes]) -> None:
    chunk = bytearray()
    for one in frames:
        chunk += one
        if len(chunk) >= _CHUNK:
            await stream.send(bytes(chunk))
            chunk.clear()
    if chunk:
        await stream.send(bytes(chunk))
