"""What a command line is told when there is no agent, or none that takes it in."""

import socket
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from grpclib.exceptions import StreamTerminatedError

from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.client import Unreachable, connect
from cplane.transport.grpc import Limits
from tests.support.serving import Hooks, Status, served

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


async def test_a_connection_that_the_server_ends_before_the_call_is_told(tmp_path: Path):
    path = tmp_path / "s"
    async with served(Status(Hooks()), path=path), connect(str(path)) as channel:
        (await channel.__connect__()).connection.close()  # what grpclib does when it reads a goodbye
        with pytest.raises(Unreachable, match="it closed the connection: it has too many, or is shutting down"):
            await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())


async def test_large_frames_are_taken_before_the_server_has_agreed_to_them(tmp_path: Path):
    # Its agreement and a large frame can come together, and h2 heeds the one only after it has cut the other.
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        async with connect(str(tmp_path / "s")) as channel:
            h2 = (await channel.__connect__()).connection._connection
            assert h2.max_inbound_frame_size == h2.local_settings.max_frame_size * 8 == 1 << 17


async def _asked(path: Path, patience: int) -> None:
    """A call that begins so many turns of the event loop after the connection."""
    async with connect(str(path)) as channel:
        for _ in range(patience):
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(5):
            await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())


async def test_a_server_that_is_full_leads_to_an_error_of_the_connection_and_no_other(tmp_path: Path):
    path = tmp_path / "s"
    async with served(Status(Hooks()), path=path, limits=Limits(connections=0)):
        for patience in range(20):
            with pytest.raises((Unreachable, StreamTerminatedError)):
                await _asked(path, patience)


async def test_a_server_that_has_gone_since_is_unreachable(tmp_path: Path):
    path = tmp_path / "s"
    async with anyio.create_task_group() as tasks:

        async def serve(*, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
            with anyio.CancelScope() as scope:
                async with served(Status(Hooks()), path=path):
                    task_status.started(scope)
                    await anyio.sleep_forever()

        async def until_refused(status: pb.StatusServiceStub) -> None:
            while True:
                try:
                    await status.get(pb.GetStatusRequest())
                except StreamTerminatedError:
                    continue  # the goodbye came in the middle of the call

        server = await tasks.start(serve)
        async with connect(str(path)) as channel:
            status = pb.StatusServiceStub(channel)
            await status.get(pb.GetStatusRequest())
            server.cancel()
            with pytest.raises(Unreachable, match="there is no such socket"), anyio.fail_after(5):
                await until_refused(status)
