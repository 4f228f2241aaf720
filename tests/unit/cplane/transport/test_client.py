"""What a command line is told when there is no agent."""

import socket
from pathlib import Path

import pytest

from cplane.transport.client import Unreachable, connect

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """grpclib is written for asyncio."""
    return "asyncio"


async def _reason(address: str) -> str:
    with pytest.raises(Unreachable) as told:
        async with connect(address):
            pass
    return str(told.value)


async def test_a_socket_that_does_not_exist_is_named(tmp_path: Path):
    address = f"unix://{tmp_path}/no.sock"
    assert await _reason(address) == (
        f"cannot reach {address}: there is no such socket; is the agent running, and is its run directory another one?"
    )


async def test_a_socket_without_a_listener_is_told_apart(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
        assert "nobody listens there" in await _reason(str(tmp_path / "dead.sock"))


async def test_a_server_without_tls_is_told_apart():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.close()
        assert "nobody listens there" in await _reason(f"127.0.0.1:{port}")
