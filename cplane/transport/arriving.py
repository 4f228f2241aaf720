"""Content that comes to a client, past h2.

h2 makes several objects of each frame and copies its content three times, which costs more than to forward it. So
frames that need nothing of h2 but its accounts are taken here: those of content, without flags, of a call that is open,
within its windows. Everything else goes to h2, which also judges what is not as it should be. Content is handed on as
it comes, before the frame that it is in is whole.
"""

import time
from collections.abc import Callable
from struct import Struct
from typing import Final

from grpclib.protocol import H2Protocol
from h2.connection import ConnectionState
from h2.stream import StreamState

_HEADER: Final = Struct(">HBBBL")  # of a frame: length in 24 bits, type (DATA is 0), flags, stream
_NUMBER: Final = 0x7FFF_FFFF  # of a stream; the highest bit means nothing
_RECEIVING: Final = (StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL)


class Arriving:
    """What comes on one connection, in pieces that end anywhere. `rest` takes what is for h2."""

    def __init__(self, protocol: H2Protocol, rest: Callable[[bytes], None]) -> None:
        self._protocol, self._rest = protocol, rest
        self._h2 = protocol.connection._connection  # noqa: SLF001  # grpclib has no other way to it
        self._head = b""  # the beginning of a frame, shorter than its header
        self._call = 0  # whose content the frame has; 0: it is h2's
        self._left = 0  # bytes of the frame that have not come yet

    def feed(self, data: bytes) -> None:
        """More has come."""
        data, self._head = self._head + data if self._head else data, b""
        view, size = memoryview(data), len(data)
        at = told = 0  # what lies before `told` is where it belongs
        while at < size:
            if not self._left:
                if size - at < _HEADER.size:
                    self._head = data[at:]
                    break
                high, low, kind, flags, number = _HEADER.unpack_from(data, at)
                self._call, self._left = 0, _HEADER.size + (high << 8 | low)
                if not kind and not flags:
                    if not self._to_h2(view[told:at]):  # it may be about this call
                        return
                    told = at
                    if self._takes(number & _NUMBER, high << 8 | low):
                        self._call, self._left = number & _NUMBER, high << 8 | low
                        at = told = at + _HEADER.size
                        continue
            stop = min(at + self._left, size)
            self._left -= stop - at
            if self._call:
                self._content(view[at:stop])
                told = stop
            at = stop
        self._to_h2(view[told:at])

    def _to_h2(self, frames: memoryview) -> bool:
        """h2 has these; False: the connection is over by now."""
        if frames:
            self._rest(bytes(frames))
        return not self._protocol.connection.is_closing()

    def _takes(self, number: int, size: int) -> bool:
        """Whether a frame of that size is content that may come in that call; it is in h2's accounts then."""
        h2, call = self._h2, self._h2.streams.get(number)
        if call is None or not size or size > h2.max_inbound_frame_size or h2.incoming_buffer._headers_buffer:  # noqa: SLF001
            return False
        machine, windows = call.state_machine, (h2._inbound_flow_control_window_manager, call._inbound_window_manager)  # noqa: SLF001
        if (
            h2.state_machine.state is not ConnectionState.CLIENT_OPEN
            or machine.state not in _RECEIVING
            or not machine.headers_received
            or call._expected_content_length is not None  # noqa: SLF001
            or size > min(one.current_window_size for one in windows)
        ):
            return False
        for one in windows:
            one.window_consumed(size)
        return True

    def _content(self, part: memoryview) -> None:
        """The part is with its call. If that is over, the server may at once send as much to others."""
        connection, size = self._protocol.connection, len(part)
        stream = self._protocol.processor.streams.get(self._call)
        if stream is None:
            connection.ack(self._call, size)
        else:
            stream.buffer.add(part, size)  # type: ignore[arg-type]  # it only joins what it is given
            stream.data_received += size
        connection.data_received += size
        connection.last_data_received = time.monotonic()
