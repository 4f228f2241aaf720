"""A server of test services on a unix socket, and raw HTTP/2 clients that do not behave."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import h2.config
import h2.connection

from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.calls import Refuse, refuse_nothing
from cplane.transport.grpc import Limits, TcpAddress, UnixAddress, caller, serve

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "test"),
    ("te", "trailers"),
    ("content-type", "application/grpc+proto"),
]


@dataclass
class Hooks:
    """What a test looks at: who called, and what began and ended in handlers."""

    callers: list[str] = field(default_factory=list)
    began: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)
    cleaned: list[str] = field(default_factory=list)
    answer: Callable[[pb.WaitRequest], Awaitable[pb.WaitResponse]] | None = None


class Status(pb.StatusServiceBase):
    """`get` answers, `wait` waits for ever or does what the test says."""

    def __init__(self, hooks: Hooks) -> None:
        self.hooks = hooks

    async def get(self, message: pb.GetStatusRequest) -> pb.GetStatusResponse:
        self.hooks.callers.append(caller())
        return pb.GetStatusResponse(version="1")

    async def wait(self, message: pb.WaitRequest) -> pb.WaitResponse:
        if self.hooks.answer is not None:
            return await self.hooks.answer(message)
        self.hooks.began.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):  # grpclib's own cancellation would break through this
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
                self.hooks.cleaned.append("wait")
            self.hooks.ended.set()
        raise AssertionError("unreachable")


class Policies(pb.PolicyServiceBase):
    """`apply` answers with the size of what it got, once the gate is open."""

    def __init__(self) -> None:
        self.began, self.gate = anyio.Event(), anyio.Event()
        self.gate.set()

    async def apply(self, message: pb.ApplyPolicyRequest) -> pb.ApplyPolicyResponse:
        self.began.set()
        await self.gate.wait()
        return pb.ApplyPolicyResponse(position=len(message.documents))


class Flood(pb.LogServiceBase):
    """`tail` sends big batches for ever, and counts them."""

    def __init__(self) -> None:
        self.sent = 0

    async def tail(self, message: pb.TailLogRequest) -> AsyncIterator[pb.TailLogResponse]:
        while True:
            self.sent += 1
            yield pb.TailLogResponse(entries=[pb.LogEntry(data="x" * 65_536)])


@asynccontextmanager
async def served(
    *services: Any,  # the shape is grpclib's
    path: Path,
    limits: Limits | None = None,
    refuse: Refuse = refuse_nothing,
) -> AsyncIterator[str]:
    """The services answer on a unix socket at `path` inside the block; gives its address."""
    async with anyio.create_task_group() as group:

        async def start(*, task_status: anyio.abc.TaskStatus[tuple[UnixAddress | TcpAddress, ...]]) -> None:
            await serve(
                services,
                [UnixAddress(str(path))],
                refuse=refuse,
                limits=limits or Limits(),
                task_status=task_status,
            )

        await group.start(start)
        yield f"unix://{path}"
        group.cancel_scope.cancel()


class RawClient:
    """An HTTP/2 client that does exactly what it is told, without a library's good manners."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def open(self, route: str, **headers: str) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(
            stream, [(":path", route), *HEADERS, *((k.replace("_", "-"), v) for k, v in headers.items())]
        )
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(stream, data, end_stream=end)
        self.flush()

    async def until(self, kind: type, stream: int) -> Any:  # h2 has no common shape of events
        """The next event of that kind on the stream."""
        while True:
            await anyio.wait_readable(self.socket)
            data = self.socket.recv(65_536)
            assert data, "the server closed the connection"
            for event in self.h2.receive_data(data):
                if isinstance(event, kind) and getattr(event, "stream_id", stream) == stream:
                    return event

    async def closed(self) -> None:
        """Returns when the server has hung up."""
        while True:
            await anyio.wait_readable(self.socket)
            try:
                if not self.socket.recv(65_536):
                    return
            except ConnectionResetError:
                return

    def close(self) -> None:
        self.socket.close()


def status_of(headers: list[tuple[str, str]]) -> tuple[int, str]:
    """gRPC status and message in headers or trailers."""
    found = dict(headers)
    return int(found["grpc-status"]), found.get("grpc-message", "")
