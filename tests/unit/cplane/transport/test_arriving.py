"""Content of answers arrives whole and is accounted for, wherever its pieces end; what h2 refuses is refused."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import pytest
from grpclib.config import Configuration
from grpclib.protocol import H2Protocol, Stream
from h2.config import H2Configuration
from h2.connection import H2Connection

from cplane.transport.client import ClientChannel
from cplane.transport.codec import Codec

pytestmark = pytest.mark.anyio

WINDOW = 1 << 20
_WINDOWS = Configuration(http2_connection_window_size=WINDOW, http2_stream_window_size=WINDOW)
HEADERS = [(":status", "200"), ("content-type", "application/grpc")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Wire(asyncio.Transport):
    """What is written is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


class Two:
    """A client's connection with one call, and an h2 server at its other end."""

    def __init__(self) -> None:
        self.wire = Wire()
        channel = ClientChannel(path="x", codec=Codec(), config=_WINDOWS)
        self.client: H2Protocol = channel._protocol_factory()
        self.client.connection_made(self.wire)
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.server.initiate_connection()
        self._channel = channel

    async def call(self) -> Stream:
        stream = self.client.connection.create_stream()
        request = [(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "x")]
        await stream.send_request(request, _processor=self.client.processor)
        self.hear()
        return stream

    def hear(self) -> None:
        """The server has what the client wrote."""
        said, self.wire.sent = self.wire.sent, b""
        self.server.receive_data(said)

    def say(self, size: int = 0) -> None:
        """The client gets what the server has to send, in pieces of that size."""
        data = self.server.data_to_send()
        for start in range(0, len(data), size or len(data)):
            self.client.data_received(data[start : start + (size or len(data))])

    @property
    def windows(self) -> list[int]:
        """What the server may send, on the connection and in each call."""
        h2 = self.client.connection._connection
        return [
            h2._inbound_flow_control_window_manager.current_window_size,
            *(one._inbound_window_manager.current_window_size for one in h2.streams.values()),
        ]


def taken(stream: Stream) -> tuple[bytes, int]:
    """What has come for a call, and how much of it is to be acknowledged."""
    waiting = stream.buffer._unacked
    found = [waiting.get_nowait() for _ in range(waiting.qsize())]
    assert all(one.data_size == len(one.data) for one in found)
    return b"".join(one.data for one in found), sum(one.ack_size for one in found)


@pytest.mark.parametrize("size", [1, 2, 9, 10, 4096, 16_393, 0])
async def test_content_arrives_whole_wherever_its_pieces_end(size: int) -> None:
    two = Two()
    first, second = await two.call(), await two.call()
    for number in (1, 3):
        two.server.send_headers(number, HEADERS)
    contents: dict[int, bytes] = {1: b"", 3: b""}
    padded = 0
    for round_, length in enumerate([1, 300, 16_384, 0, 9, 5000, 10]):
        for number in (1, 3):
            content = bytes([round_ + 1]) * length
            pad = 20 if round_ == 5 else None
            two.server.send_data(number, content, pad_length=pad)
            contents[number] += content
            padded += 0 if pad is None else pad + 1
        two.server.ping(b"12345678")
    two.server.send_headers(1, [("grpc-status", "0")], end_stream=True)
    two.server.send_data(3, b"the end", end_stream=True)
    contents[3] += b"the end"
    two.say(size)
    total = sum(map(len, contents.values())) + padded
    assert two.windows == [WINDOW - total, *(WINDOW - len(contents[one]) - padded // 2 for one in (1, 3))]
    for stream, number in ((first, 1), (second, 3)):
        content, acknowledged = taken(stream)
        assert content == contents[number]
        assert acknowledged == len(content) + padded // 2
        assert stream.buffer._eof
        assert stream.data_received == len(content)
    assert first.trailers is not None
    two.hear()  # the pings were answered, and the server has nothing to complain about


async def test_content_of_a_call_that_ended_in_the_middle_of_a_frame_is_accounted_for() -> None:
    two = Two()
    stream = await two.call()
    two.server.send_headers(1, HEADERS)
    two.say()
    for _ in range(WINDOW // 16_384 - 1):
        two.server.send_data(1, bytes(16_384))
    data = two.server.data_to_send()
    two.client.data_received(data[:-5000])
    await stream.reset()
    del two.client.processor.streams[1]  # as its handler does
    two.client.connection.ack(1, sum(one.ack_size for one in [*_drained(stream)]))
    two.client.data_received(data[-5000:])
    two.hear()
    assert two.server.outbound_flow_control_window > WINDOW // 2  # it may go on with others


def _drained(stream: Stream) -> Any:
    waiting = stream.buffer._unacked
    while not waiting.empty():
        yield waiting.get_nowait()


def _frame(size: int, number: int, *, flags: int = 0) -> bytes:
    return struct.pack(">HBBBL", size >> 8, size & 0xFF, 0, flags, number) + bytes(size)


def _too_much(two: Two) -> None:
    for _ in range(WINDOW // 16_384):
        two.client.data_received(_frame(16_384, 1))
    two.client.data_received(_frame(1, 1))


def _before_the_answer(two: Two) -> None:
    two.client.data_received(_frame(10, 1))


def _within_headers(two: Two) -> None:
    two.client.data_received(struct.pack(">HBBBL", 0, 1, 1, 0, 1) + b"\x88" + _frame(10, 1))


def _of_nobody(two: Two) -> None:
    two.client.data_received(_frame(10, 7))


def _too_long(two: Two) -> None:
    two.client.data_received(_frame(1 << 18, 1))


@pytest.mark.parametrize(
    ("answered", "misdeed"),
    [
        (True, _too_much),
        (False, _before_the_answer),
        (False, _within_headers),
        (True, _of_nobody),
        (True, _too_long),
    ],
)
async def test_what_may_not_come_ends_the_connection(answered: bool, misdeed: Callable[[Two], None]) -> None:
    two = Two()
    await two.call()
    if answered:
        two.server.send_headers(1, HEADERS)
    two.say()
    misdeed(two)
    assert two.wire.closed
    two.client.data_received(_frame(10, 1))  # what comes then is nobody's
