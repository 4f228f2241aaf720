"""An HTTP server that lives and dies with the task it runs in."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

from cplane.transport.address import TcpAddress
from cplane.transport.http import Answer, Get, health, serve
from cplane.transport.sockets import CannotListen

pytestmark = pytest.mark.anyio

LOOPBACK = TcpAddress("127.0.0.1", 0)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # uvicorn's


@asynccontextmanager
async def served(paths: Mapping[str, Get]) -> AsyncIterator[TcpAddress]:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            yield await group.start(partial(serve, paths, LOOPBACK))
            group.cancel_scope.cancel()


async def ask(address: TcpAddress, request: str) -> str:
    async with await anyio.connect_tcp(address.host, address.port) as stream:
        await stream.send(f"{request}\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = b""
        try:
            while True:
                answer += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):  # hung up on, at once where too much was sent
            return answer.decode()


async def echo(accept: str) -> Answer:
    return Answer(accept.encode(), "text/x-echo")


async def test_a_path_is_answered_and_told_what_the_client_accepts() -> None:
    async with served({"/echo": echo}) as address:
        answer = await ask(address, "GET /echo HTTP/1.1\r\naccept: a/b")
        assert answer.startswith("HTTP/1.1 200") and answer.endswith("\r\n\r\na/b")
        assert "content-type: text/x-echo" in answer
        assert "server:" not in answer
        assert (await ask(address, "GET /other HTTP/1.1")).startswith("HTTP/1.1 404")
        assert (await ask(address, "POST /echo HTTP/1.1")).startswith("HTTP/1.1 405")


async def test_health_is_503_with_the_reason_while_something_is_wrong() -> None:
    wrong = ""
    async with served({"/healthz": health(lambda: wrong)}) as address:
        assert "200" in (await ask(address, "GET /healthz HTTP/1.1")).splitlines()[0]
        wrong = "the kernel refuses"
        answer = await ask(address, "GET /healthz HTTP/1.1")
        assert "503" in answer.splitlines()[0] and answer.endswith("the kernel refuses\n")


async def test_garbage_hurts_nobody_else() -> None:
    async with served({"/echo": echo}) as address:
        assert (await ask(address, "\x00\x01 nonsense")).startswith("HTTP/1.1 400")
        assert "200" not in await ask(address, "GET /echo HTTP/1.1\r\nlong: " + "x" * 2_000_000)
        assert (await ask(address, "GET /echo HTTP/1.1")).startswith("HTTP/1.1 200")


async def test_the_port_is_free_when_it_ends_although_a_client_keeps_its_connection() -> None:
    async with served({"/echo": echo}) as address:
        stream = await anyio.connect_tcp(address.host, address.port)
        await stream.send(b"GET /echo HTTP/1.1\r\nhost: x\r\n\r\n")
        await stream.receive()
    with pytest.raises(OSError):
        await anyio.connect_tcp(address.host, address.port)
    await stream.aclose()


async def test_an_address_that_is_taken_is_refused_with_a_reason() -> None:
    async with served({"/echo": echo}) as address:
        with pytest.raises(CannotListen, match=r"cannot listen on 127.0.0.1:.*in use"):
            await serve({}, address)
