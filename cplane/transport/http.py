"""HTTP servers in our task tree, for what speaks nothing better: metrics and health. With TLS where an address has it.

`serve` runs until it is cancelled. Bad clients hurt only themselves: connections and headers are limited, requests
have no bodies that anybody reads, and whoever has asked and idles is hung up on.
"""

import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import anyio
import uvicorn
from anyio.abc import TaskStatus
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cplane.transport.address import TcpAddress
from cplane.transport.sockets import listen_tcp

_CONNECTIONS_MAX: Final = 64
_HEADERS_MAX: Final = 16_384  # bytes
_IDLE_S: Final = 120  # longer than scrapers pause
_GRACE_S: Final = 5  # for answers in the making, at the end


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client gets."""

    content: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Get = Callable[[str], Awaitable[Answer]]
"""Answers GET of one path; it is given the formats that the client accepts (a header)."""


def health(wrong: Callable[[], str]) -> Get:
    """`ok`, or 503 with what is wrong with the process while `wrong` says so."""

    async def get(_accept: str) -> Answer:
        reason = wrong()
        return Answer(f"{reason}\n".encode(), status=503) if reason else Answer(b"ok\n")

    return get


def application(paths: Mapping[str, Get]) -> Starlette:
    """Answers GET and HEAD of these paths."""
    return Starlette(routes=[Route(path, partial(_answer, get)) for path, get in paths.items()])


async def _answer(get: Get, request: Request) -> Response:
    answer = await get(request.headers.get("accept", ""))
    return Response(answer.content, answer.status, {"content-type": answer.content_type, **answer.headers})


async def serve(
    paths: Mapping[str, Get],
    address: TcpAddress,
    *,
    task_status: TaskStatus[TcpAddress] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """The paths are answered on the address until this is cancelled; answers in the making are finished then.

    `task_status` reports the address, with the port that was taken in place of a port 0. Raises CannotListen.
    """
    with listen_tcp(address) as listener:
        config = uvicorn.Config(
            application(paths),
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=_CONNECTIONS_MAX,
            timeout_keep_alive=_IDLE_S,
            timeout_graceful_shutdown=_GRACE_S,
            h11_max_incomplete_event_size=_HEADERS_MAX,
        )
        config.load()
        config.ssl = address.tls
        server = _Server(config)
        async with anyio.create_task_group() as group:
            group.start_soon(server.run_shielded, [listener])
            await server.serving.wait()
            task_status.started(TcpAddress(address.host, listener.getsockname()[1], address.tls))
            try:
                await anyio.sleep_forever()
            finally:
                server.stopping.set()


class _Server(uvicorn.Server):
    """uvicorn's server, told by events when to stop: signals are not its business, and nothing is polled."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serving, self.stopping = anyio.Event(), anyio.Event()

    async def run_shielded(self, sockets: list[socket.socket]) -> None:
        """Serves until `stopping`, also while the task around it is cancelled."""
        with anyio.CancelScope(shield=True):
            await self.serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving.set()

    async def main_loop(self) -> None:
        await self.stopping.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
