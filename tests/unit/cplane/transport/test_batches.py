"""Messages of a stream, however the network cut it into pieces."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from grpclib.client import UnaryStreamMethod
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from cplane.pb.observer import observer_pb2 as pb
from cplane.transport import batches as module
from cplane.transport.batches import batches, widen
from cplane.transport.client import Windows, connect
from tests.support.serving import served

pytestmark = pytest.mark.anyio
NAME = "/observer.Observer/GetFlows"


@pytest.fixture
def anyio_backend() -> str:
    """grpclib is written for asyncio."""
    return "asyncio"


class Raw:
    """Sends pieces of a stream as they are, and then ends it, with an error if it was given one."""

    def __init__(self, *pieces: bytes, error: GRPCError | None = None) -> None:
        self.pieces, self.error = pieces, error

    def __mapping__(self) -> dict[str, Handler]:
        handler = Handler(self.answer, Cardinality.UNARY_STREAM, pb.GetFlowsRequest, pb.GetFlowsResponse)
        return {NAME: handler}

    async def answer(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_initial_metadata()
        for piece in self.pieces:
            await stream._stream.send_data(piece)
        if self.error is not None:
            raise self.error


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


async def received(
    path: Path, *pieces: bytes, error: GRPCError | None = None
) -> tuple[list[list[bytes]], GRPCError | None]:
    """The batches that arrive of these pieces, and how the call failed."""
    found: list[list[bytes]] = []
    async with served(Raw(*pieces, error=error), path=path) as address, connect(address) as channel:
        method = UnaryStreamMethod(channel, NAME, pb.GetFlowsRequest, pb.GetFlowsResponse)
        try:
            async with method.open() as stream:
                await stream.send_message(pb.GetFlowsRequest(), end=True)
                async for batch in batches(stream):
                    found += [batch]
        except GRPCError as failed:
            return found, failed
    return found, None


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


MESSAGES = [b"", b"a", b"bc" * 20_000, b"", bytes(300), b"d"]
SERIES = b"".join(map(framed, MESSAGES))


@pytest.mark.parametrize("size", [1, 4, 5, 6, 7, 1000, 16_384, len(SERIES)])
async def test_messages_are_whole_wherever_the_stream_was_cut(tmp_path: Path, size: int):
    series = SERIES if size > 7 else b"".join(map(framed, (b"", b"abcdef", b"x", b"")))
    expected = MESSAGES if size > 7 else [b"", b"abcdef", b"x", b""]
    found, failed = await received(tmp_path / "s", *cut(series, size))
    assert [message for batch in found for message in batch] == expected
    assert all(found)
    assert failed is None


async def test_what_has_come_is_taken_at_once_but_not_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BATCH_BYTES", 40_000)
    found, failed = await received(tmp_path / "s", b"".join(framed(bytes(995)) for _ in range(300)))
    assert sum(map(len, found)) == 300
    assert max(map(len, found)) <= 40 + 132  # what we allow a server to put into one frame
    assert max(map(len, found)) > 1
    assert failed is None


class Measured(Raw):
    """Also notes what it may send before anybody reads, once it is more than `least`."""

    def __init__(self, least: int) -> None:
        super().__init__(SERIES)
        self.least, self.window = least, 0

    async def answer(self, stream: Any) -> None:
        wire = stream._stream
        with anyio.fail_after(10):
            while (window := wire._h2_connection.local_flow_control_window(wire.id)) <= self.least:
                wire.window_updated.clear()
                await wire.window_updated.wait()
        self.window = window
        await super().answer(stream)


async def test_a_call_may_get_more_room_than_others(tmp_path: Path):
    server, windows = Measured(100_000), Windows(connection_bytes=1 << 20, call_bytes=100_000)
    async with served(server, path=tmp_path / "s") as address, connect(address, windows=windows) as channel:
        method = UnaryStreamMethod(channel, NAME, pb.GetFlowsRequest, pb.GetFlowsResponse)
        async with method.open() as stream:
            await stream.send_message(pb.GetFlowsRequest(), end=True)
            widen(stream, 0)
            widen(stream, 50_000)
            assert [message async for batch in batches(stream) for message in batch] == MESSAGES
    assert server.window == 150_000


async def test_a_stream_without_messages_ends(tmp_path: Path):
    assert await received(tmp_path / "s") == ([], None)
    assert await received(tmp_path / "t", b"") == ([], None)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ((b"\1\0\0\0\1x",), "the server sends compressed messages, and none were asked for"),
        ((b"\0\xff\0\0\0",), "the server sends a message of 4278190080 bytes"),
        ((framed(b"a"), b"\0\0"), "the stream ends in the middle of a message"),
        ((framed(b"abc")[:-1],), "the stream ends in the middle of a message"),
    ],
)
async def test_what_is_no_series_of_messages_is_refused(tmp_path: Path, pieces: tuple[bytes, ...], message: str):
    _, failed = await received(tmp_path / "s", *pieces)
    assert failed is not None
    assert failed.message == message


async def test_the_servers_own_end_is_told(tmp_path: Path):
    found, failed = await received(tmp_path / "s", framed(b"a"), error=GRPCError(Status.OUT_OF_RANGE, "enough"))
    assert found == [[b"a"]]
    assert failed is not None
    assert (failed.status, failed.message) == (Status.OUT_OF_RANGE, "enough")
