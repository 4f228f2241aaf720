"""An HTTP server with certificates, which are read again when they change."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from ssl import SSLContext, SSLError

import anyio
import pytest
from anyio.streams.tls import TLSAttribute

from cplane.transport.address import TcpAddress
from cplane.transport.http import health, serve
from cplane.transport.tls import HTTP1, BadCertificate, ReloadingContext
from tests.support.certificates import Certificates

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # uvicorn's


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    made = Certificates(tmp_path)
    for name in ("one", "two", "three"):
        made.make(name)
    made.serve_as("one")
    return made


@asynccontextmanager
async def served(files: Certificates, *authorities: str) -> AsyncIterator[int]:
    tls = ReloadingContext.of(files.cert, files.key, *authorities, protocol=HTTP1, failed=files.failures.append)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            bound = await group.start(partial(serve, {"/healthz": health(str)}, TcpAddress("127.0.0.1", 0, tls)))
            yield bound.port
            group.cancel_scope.cancel()


async def ask(port: int, tls: SSLContext) -> tuple[str, str | None]:
    """The answer's first line, and the protocol that was agreed on."""
    tls.set_alpn_protocols(["h2", "http/1.1"])
    connecting = anyio.connect_tcp("127.0.0.1", port, tls=True, ssl_context=tls, tls_standard_compatible=False)
    async with await connecting as stream:
        await stream.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = await stream.receive()
        return answer.decode().splitlines()[0], stream.extra(TLSAttribute.alpn_protocol)


async def test_it_answers_over_tls_and_over_nothing_else(files: Certificates) -> None:
    async with served(files) as port:
        assert await ask(port, files.trusting("one")) == ("HTTP/1.1 200 OK", "http/1.1")
        with pytest.raises(SSLError):
            await ask(port, files.trusting("two"))
        async with await anyio.connect_tcp("127.0.0.1", port) as plain:
            await plain.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = b""
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    answer += await plain.receive()
            assert b"HTTP" not in answer


async def test_new_connections_meet_the_certificate_that_is_there_then(files: Certificates) -> None:
    async with served(files) as port:
        files.serve_as("two")
        await ask(port, files.trusting("two"))
        with pytest.raises(SSLError):
            await ask(port, files.trusting("one"))
        files.put(files.cert, files.key)
        await ask(port, files.trusting("two"))
        assert [error.path for error in files.failures] == [files.cert]


async def test_clients_show_a_certificate_of_one_of_the_authorities(files: Certificates) -> None:
    async with served(files, files.of("one", "crt"), files.of("two", "crt")) as port:
        for name in ("one", "two"):
            assert (await ask(port, files.trusting("one", own=name)))[0] == "HTTP/1.1 200 OK"
        for own in ("", "three"):
            with pytest.raises((SSLError, anyio.BrokenResourceError, anyio.EndOfStream)):
                await ask(port, files.trusting("one", own=own))
        assert (await ask(port, files.trusting("one", own="one")))[0] == "HTTP/1.1 200 OK"


def test_files_that_cannot_be_used_are_named_at_the_start(files: Certificates) -> None:
    Path(files.key).unlink()
    with pytest.raises(BadCertificate, match="No such file"):
        ReloadingContext.of(files.cert, files.key, protocol=HTTP1, failed=files.failures.append)
