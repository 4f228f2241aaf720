"""A client that takes a stream of gRPC messages as fast as it comes and counts them: HTTP/2 by hand, nothing decoded.

A client that were built on a library would be slower than what it measures, and one in Python takes from the processor
what the server needs: so the program beside this module counts.
"""

import atexit
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from hpack import Decoder, Encoder
from report import WrongError
from traffic import compiler

_SOURCE: Final = Path(__file__).with_name("counting.c")
_DATA, _HEADERS, _SETTINGS, _WINDOW_UPDATE = 0, 1, 4, 8
_END_STREAM, _END_HEADERS = 0x1, 0x4
_WINDOW_MAX: Final = (1 << 31) - 1
_INITIAL_WINDOW: Final = 4  # of SETTINGS
_FRAME: Final = struct.Struct(">BHBBL")  # length in 24 bits, type, flags, stream
_TOLD: Final = struct.Struct("=QQd")
_PART: Final = struct.Struct("=II")
_SAMPLE: Final = 1


@dataclass
class Counted:
    """What came: messages of at least 64 bytes are flows, which notices are too, where there are few of them."""

    messages: int = 0
    size: int = 0
    took_s: float = 0.0
    samples: list[bytes] = field(default_factory=list)  # every 1,000th message


def count_stream(path: Path, method: str, request: bytes, *, timeout_s: int = 60) -> Counted:
    """Everything that a method of the server on a unix socket answers. Raises WrongError when the call fails."""
    settings = struct.pack(">HL", _INITIAL_WINDOW, _WINDOW_MAX)
    headers = [
        *((":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "bench")),
        *(("te", "trailers"), ("content-type", "application/grpc")),
    ]
    said = (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(_SETTINGS, 0, 0, settings)
        + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">L", _WINDOW_MAX - 65_535))
        + _frame(_HEADERS, _END_HEADERS, 1, Encoder().encode(headers))
        + _frame(_DATA, _END_STREAM, 1, b"\0" + struct.pack(">L", len(request)) + request)
    )
    done = subprocess.run([_program(), path, str(timeout_s)], input=said, capture_output=True, check=False)
    if done.returncode:
        raise WrongError(f"the call failed: {done.stderr.decode().strip()}")
    return _counted(done.stdout)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _FRAME.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


@cache
def _program() -> Path:
    """Compiled, as long as this process runs. Raises WrongError."""
    folder = Path(tempfile.mkdtemp(prefix="cpb-counting-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = folder / "counting"
    command = [compiler(), "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(made), str(_SOURCE)]
    subprocess.run(command, check=True, timeout=60)
    return made


def _counted(told: bytes) -> Counted:
    messages, size, took_s = _TOLD.unpack_from(told)
    counted, decoder, trailers, at = Counted(messages, size, took_s), Decoder(), {}, _TOLD.size
    while at < len(told):
        kind, length = _PART.unpack_from(told, at)
        at += _PART.size + length
        content = told[at - length : at]
        if kind == _SAMPLE:
            counted.samples.append(content)
        else:
            trailers = {str(name): str(value) for name, value in decoder.decode(content)}
    if trailers.get("grpc-status") != "0":
        raise WrongError(f"the call failed: {trailers.get('grpc-message') or trailers}")
    return counted
