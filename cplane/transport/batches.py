"""The messages of a server's stream, as many at a time as have come.

grpclib gives one message for each turn of the loop, which costs more than the message itself where hundreds of
thousands come in a second. Here whole frames are taken from its buffer, and the messages are cut out of them.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from grpclib.client import Stream
from grpclib.const import Status
from grpclib.exceptions import GRPCError

BATCH_BYTES: Final = 1 << 18  # of frames taken at a time, and a frame more at most
MESSAGE_MAX: Final = 64 << 20  # bytes: a longer one is no message of ours
_HEADER: Final = 5  # bytes before a message: a compression flag, and the length


async def batches(stream: Stream[Any, Any]) -> AsyncIterator[list[bytes]]:  # Any: nothing is decoded here
    """Encoded messages in lists that are never empty, until the server ends the stream.

    The request has been sent; the server's status is read when the call is closed. Raises GRPCError for what is
    no series of messages, and what grpclib raises when the connection breaks.
    """
    rest = b""
    async for parts in chunks(stream):
        messages, rest = _cut(b"".join((rest, *parts)))
        if messages:
            yield messages
    if rest:
        raise GRPCError(Status.INTERNAL, "the stream ends in the middle of a message")


async def chunks(stream: Stream[Any, Any]) -> AsyncGenerator[list[bytes], None]:  # Any: as above
    """The bytes of the stream, headers of messages and all, in parts that end anywhere; all that have come at a time.

    As `batches` for the rest; what the parts hold is not looked at, and they are not put together, which who cuts them
    does in one go with what was left over.
    """
    if stream.initial_metadata is None:
        await stream.recv_initial_metadata()
    while parts := await _arrived(stream):
        yield parts


def widen(stream: Stream[Any, Any], more: int) -> None:  # Any: as above
    """The server may send so many bytes more before anybody has read them; the request has been sent."""
    wire = stream._stream  # noqa: SLF001  # grpclib has one window for all calls
    if more:
        wire._h2_connection.increment_flow_control_window(more, wire.id)  # noqa: SLF001
        wire.connection.flush()


async def _arrived(stream: Stream[Any, Any]) -> list[bytes]:
    """Everything that has come and was not taken yet, up to BATCH_BYTES; waits for the first byte. Empty: the end."""
    buffer = stream._stream.buffer  # noqa: SLF001  # grpclib reads message by message only
    arrived = buffer._unacked  # noqa: SLF001
    taken: list[bytes] = []
    size = acknowledged = 0
    with stream._wrapper:  # noqa: SLF001  # wakes us when the connection breaks
        while size < BATCH_BYTES:
            if arrived.empty() and (size or buffer._eof):  # noqa: SLF001
                break
            frame = arrived.get_nowait() if arrived.qsize() else await arrived.get()
            taken.append(frame.data)
            size += frame.data_size
            acknowledged += frame.ack_size
        buffer._ack_callback(acknowledged)  # noqa: SLF001  # the server may send that much more
    return taken if size else []


def _cut(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole messages at the beginning of `data`, and what is left."""
    messages = []
    at, size = 0, len(data)
    while size - at >= _HEADER:
        end = at + _HEADER + int.from_bytes(data[at + 1 : at + _HEADER], "big")
        if data[at]:
            raise GRPCError(Status.UNIMPLEMENTED, "the server sends compressed messages, and none were asked for")
        if end - at > MESSAGE_MAX:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, f"the server sends a message of {end - at - _HEADER} bytes")
        if end > size:
            break
        messages.append(data[at + _HEADER : end])
        at = end
    return messages, data[at:]
