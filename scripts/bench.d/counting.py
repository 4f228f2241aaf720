"""A client that takes a stream of gRPC messages as fast as it comes and counts them: HTTP/2 by hand, nothing decoded.

A client that were built on a library would be slower than what it measures.
"""

import socket
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hpack import Decoder, Encoder
from report import WrongError

_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_WINDOW_MAX: Final = (1 << 31) - 1
_INITIAL_WINDOW: Final = 4  # of SETTINGS
_FRAME: Final = struct.Struct(">BHBBL")  # length in 24 bits, type, flags, stream
_PIECE: Final = 1 << 20
_REFILL: Final = 1 << 28  # bytes after which the windows are filled again


@dataclass
class Counted:
    """What came: messages of at least 64 bytes are flows, which notices are too, where there are few of them."""

    messages: int = 0
    size: int = 0
    took_s: float = 0.0
    samples: list[bytes] = field(default_factory=list)  # every 1,000th message


def count_stream(path: Path, method: str, request: bytes, *, timeout_s: float = 60.0) -> Counted:
    """Everything that a method of the server on a unix socket answers. Raises WrongError when the call fails."""
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(timeout_s)
        end.connect(str(path))
        settings = struct.pack(">HL", _INITIAL_WINDOW, _WINDOW_MAX)
        headers = [
            *((":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "bench")),
            *(("te", "trailers"), ("content-type", "application/grpc")),
        ]
        end.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">L", _WINDOW_MAX - 65_535))
            + _frame(_HEADERS, _END_HEADERS, 1, Encoder().encode(headers))
            + _frame(_DATA, _END_STREAM, 1, b"\0" + struct.pack(">L", len(request)) + request)
        )
        return _count(end)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _FRAME.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def _count(end: socket.socket) -> Counted:
    counted, began = Counted(), time.perf_counter()
    rest, content, taken = b"", bytearray(), 0
    decoder = Decoder()
    while True:
        piece = end.recv(_PIECE)
        if not piece:
            raise WrongError("the server hung up in the middle of a stream")
        rest = rest + piece if rest else piece
        at = 0
        while len(rest) - at >= _FRAME.size:
            high, low, kind, flags, _ = _FRAME.unpack_from(rest, at)
            start, stop = at + _FRAME.size, at + _FRAME.size + (high << 16 | low)
            if stop > len(rest):
                break
            if kind == _DATA:
                content += rest[start:stop]
                taken += stop - start
            elif kind == _HEADERS:
                found = {str(name): str(value) for name, value in decoder.decode(rest[start:stop])}
                if flags & _END_STREAM:
                    _messages(content, counted)
                    counted.took_s = time.perf_counter() - began
                    if found.get("grpc-status") != "0":
                        raise WrongError(f"the call failed: {found.get('grpc-message') or found}")
                    return counted
            elif kind == _GOAWAY:
                raise WrongError("the server says goodbye in the middle of a stream")
            elif kind in {_SETTINGS, _PING} and not flags & _ACK:
                end.sendall(_frame(kind, _ACK, 0, rest[start:stop] if kind == _PING else b""))
            at = stop
        rest = rest[at:]
        del content[: _messages(content, counted)]
        if taken > _REFILL:
            more = struct.pack(">L", taken)
            end.sendall(_frame(_WINDOW_UPDATE, 0, 0, more) + _frame(_WINDOW_UPDATE, 0, 1, more))
            taken = 0


def _messages(content: bytearray, counted: Counted) -> int:
    """Count the whole messages; bytes that they take."""
    at, size = 0, len(content)
    while size - at >= 5:
        length = int.from_bytes(content[at + 1 : at + 5], "big")
        if at + 5 + length > size:
            break
        if counted.messages % 1000 == 0:
            counted.samples.append(bytes(content[at + 5 : at + 5 + length]))
        counted.messages += 1
        at += 5 + length
    counted.size += at
    return at
