"""Many messages in one write.

grpclib writes message by message and frame by frame. A frame of most clients is 16 KiB, and a system call for each is
a fifth of what a fast stream costs. Here frames are made until the client's window is full or enough is together.
"""

from collections.abc import Iterator
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from h2.connection import ConnectionState, H2Connection
from h2.stream import StreamState

if TYPE_CHECKING:
    from grpclib.server import Stream

_HEADER: Final = Struct(">HBBBL")  # of a frame: length in 24 bits, type (DATA is 0), flags, stream
_SENDING: Final = (StreamState.OPEN, StreamState.HALF_CLOSED_REMOTE)
_WRITE_MAX: Final = 1 << 17  # bytes in one write


def _frames(h2: H2Connection, number: int, data: memoryview) -> Iterator[bytes | memoryview]:
    """What h2 has to send, and `data` in frames, for which there is room in the window.

    They are made here where they may be sent, and h2's accounts of the windows are kept for it: a frame of its making
    costs as much as a hundred flows. Where they may not, it is asked to make one, which it refuses.
    """
    stream, size = h2.streams[number], h2.max_outbound_frame_size
    if h2.state_machine.state is not ConnectionState.SERVER_OPEN or stream.state_machine.state not in _SENDING:
        h2.send_data(number, data[:size])
    yield h2.data_to_send()
    for start in range(0, len(data), size):
        part = data[start : start + size]
        yield _HEADER.pack(len(part) >> 8, len(part) & 0xFF, 0, 0, number)
        yield part
    h2.outbound_flow_control_window -= len(data)
    stream.outbound_flow_control_window -= len(data)


async def pour(stream: "Stream[Any, Any]", data: bytes) -> None:  # Any: nothing is encoded here
    """The messages in `data`, with their headers, are with the client's connection.

    Waits while the client's window is full or its connection takes no more, and not otherwise: who calls this in a loop
    lets others run in between. Raises h2's and grpclib's errors when the client has gone.
    """
    wire = stream._stream  # noqa: SLF001  # grpclib's stream below has the flow control
    connection, h2 = wire.connection, wire._h2_connection  # noqa: SLF001
    assert wire.id is not None, "a stream of a server has its number from the beginning"
    rest = memoryview(data)
    while rest:
        await connection.write_ready.wait()
        window = h2.local_flow_control_window(wire.id)
        if window <= 0:
            wire.window_updated.clear()
            await wire.window_updated.wait()
            continue
        part, rest = rest[: min(window, _WRITE_MAX)], rest[min(window, _WRITE_MAX) :]
        wire._transport.write(b"".join(_frames(h2, wire.id, part)))  # noqa: SLF001
        wire.data_sent += len(part)
        connection.data_sent += len(part)
        connection.data_send_process()
