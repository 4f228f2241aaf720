"""What rows name by number, on disk: an append-only file beside the ring's, read once at a start.

A header, then frames: length, CRC-32, and a list of [table, number, value] in MessagePack. A frame is written
before any row that needs it is committed, and the ring's file says how far the frames must reach; a frame that a
killed process left unfinished lies behind that and is cut off. Places in the file are counted so that they never go
back: `base` in the header is the place at which the first frame of a rewritten file begins.
"""

import os
import struct
import zlib
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from cplane.hubble.ringfile import ID_BYTES, NotOurs

MAGIC: Final = b"cpltable"
VERSION: Final = 1
SUFFIX: Final = ".tables"  # after the name of the ring's file
_BYTES_MAX: Final = 1 << 30
_FRAME_ENTRIES: Final = 4096
_HEADER: Final = struct.Struct(f"<8sI{ID_BYTES}sqI")  # magic, version, the ring's id, base, CRC-32 of these
_CHECKED: Final = _HEADER.size - 4
_FRAME: Final = struct.Struct("<II")


class Entry(NamedTuple):
    """A number of a table has this value from here on."""

    table: str
    number: int
    value: msgspec.Raw


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Entry])


class TableFile:
    """An open table file. `end` is the place behind its last frame."""

    def __init__(self, path: str, fd: int, ring_id: bytes, base: int) -> None:
        self.path = path
        self._fd, self._ring_id, self._base = fd, ring_id, base
        self.end = base

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.end - self._base + _HEADER.size

    def append(self, entries: list[Entry]) -> None:
        """The entries are in the file. Raises OSError; what was written of them is then written over by the next."""
        if not entries:
            return
        data = _frames(entries)
        _write(self._fd, data, self.size)
        self.end += len(data)

    def rewrite(self, entries: Iterable[Entry]) -> None:
        """The file holds these entries alone, under the same places. Raises OSError, and then it is as it was."""
        data = _frames(list(entries))
        made = _create(self.path, self._ring_id, self.end - len(data), data)
        os.close(self._fd)
        self._fd, self._base = made, self.end - len(data)

    def close(self) -> None:
        """Everything is on disk."""
        try:
            os.fsync(self._fd)
        finally:
            self.release()

    def release(self) -> None:
        """Nothing is held. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_tables(path: str, ring_id: bytes, wanted_end: int) -> tuple[TableFile, list[Entry]]:
    """The file, and its entries in their order, up to its last whole frame. Raises NotOurs, OSError.

    NotOurs also when the frames do not reach `wanted_end`: a row may then name what is not there.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotOurs(f"{path} is missing") from None
    try:
        file, entries = _opened(path, fd, ring_id, wanted_end)
        os.ftruncate(fd, file.size)
    except BaseException:
        os.close(fd)
        raise
    return file, entries


def read_tables(path: str, ring_id: bytes, wanted_end: int) -> list[Entry]:
    """The entries of a file that may be a copy, and that somebody may write into. As `open_tables`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotOurs(f"{path} is missing") from None
    try:
        return _opened(path, fd, ring_id, wanted_end)[1]
    finally:
        os.close(fd)


def create_tables(path: str, ring_id: bytes) -> TableFile:
    """A file without entries, in the place of whatever was there. Raises OSError."""
    return TableFile(path, _create(path, ring_id, 0, b""), ring_id, 0)


def _opened(path: str, fd: int, ring_id: bytes, wanted_end: int) -> tuple[TableFile, list[Entry]]:
    file = TableFile(path, fd, ring_id, _base(fd, path, ring_id))
    entries = _read(fd, file, path)
    if file.end < wanted_end:
        raise NotOurs(f"{path} is damaged or ends {wanted_end - file.end} bytes too early")
    return file, entries


def _frames(entries: list[Entry]) -> bytes:
    frames = []
    for start in range(0, len(entries), _FRAME_ENTRIES):
        payload = _encoder.encode(entries[start : start + _FRAME_ENTRIES])
        frames += [_FRAME.pack(len(payload), zlib.crc32(payload)), payload]
    return b"".join(frames)


def _create(path: str, ring_id: bytes, base: int, frames: bytes) -> int:
    """A file that is complete before it has its name."""
    header = struct.pack(f"<8sI{ID_BYTES}sq", MAGIC, VERSION, ring_id, base)
    fresh = f"{path}.new"
    fd = os.open(fresh, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        _write(fd, header + struct.pack("<I", zlib.crc32(header)) + frames, 0)
        os.rename(fresh, path)
    except BaseException:
        os.close(fd)
        os.unlink(fresh)
        raise
    return fd


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


def _base(fd: int, path: str, ring_id: bytes) -> int:
    header = os.pread(fd, _HEADER.size, 0)
    if len(header) < _HEADER.size or not header.startswith(MAGIC):
        raise NotOurs(f"{path} is no table file")
    _, version, held, base, checksum = _HEADER.unpack(header)
    if version != VERSION:
        raise NotOurs(f"{path} is of version {version}, and this agent writes version {VERSION}")
    if zlib.crc32(header[:_CHECKED]) != checksum:
        raise NotOurs(f"the header of {path} is damaged")
    if held != ring_id:
        raise NotOurs(f"{path} belongs to another ring")
    return int(base)


def _read(fd: int, file: TableFile, path: str) -> list[Entry]:
    size = os.fstat(fd).st_size
    if size > _BYTES_MAX:
        raise NotOurs(f"{path} has {size} bytes; more than {_BYTES_MAX} are not read")
    data = memoryview(os.pread(fd, size, 0))
    entries: list[Entry] = []
    at = _HEADER.size
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if len(payload) < length or zlib.crc32(payload) != checksum:
            break
        try:
            entries += _decoder.decode(payload)
        except msgspec.DecodeError as error:
            raise NotOurs(f"{path} has a frame that cannot be read: {error}") from error
        at += _FRAME.size + length
        file.end += _FRAME.size + length
    return entries
