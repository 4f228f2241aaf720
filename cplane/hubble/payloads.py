"""What flows of layer 7 say of their requests: a ring of bytes beside the flow ring, in which rows name a place.

Requests are nearly all different, so they do not stand in the tables of what rows share. A payload is a part of an
encoded `flow.Flow`. Places count bytes and never go back; what lies farther back than the ring is long is gone, and
the flow then says only of what kind its request was. Each payload has a checksum, so that one that was overwritten
while it was read, or lies in a damaged file, is gone as well.

In a file: a page with magic, version, capacity and the flow ring's id, a page with the end and the first place that
there was, and the bytes.
"""

import mmap
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Final, Protocol

from cplane.hubble.ringfile import ID_BYTES, NotOurs
from cplane.telemetry.log import line, logger

log = logger("hubble")

SUFFIX: Final = ".payloads"  # after the name of the ring's file
CAPACITY: Final = 64 << 20  # bytes: some 200,000 requests with a dozen headers each
STEP: Final = 1 << 20  # bytes whose disk space is taken at a time, until all of it is taken
BASE_BITS: Final = 32  # of a place stand in a row, what is above them in its detail
MAGIC: Final = b"cplpayld"
VERSION: Final = 1
_PAGE: Final = 4096
_DATA_AT: Final = 2 * _PAGE
_HEADER: Final = struct.Struct(f"<8sIQ{ID_BYTES}s")
_FRAME: Final = struct.Struct("<II")  # length, CRC-32
_PLACES: Final = struct.Struct("<QQ")
_SEED: Final = 1  # of checksums, so that bytes that were never written are no payload


class Payloads(Protocol):
    """Where payloads are; `PayloadRing` and `HeldPayloads` fit."""

    def at(self, place: int) -> bytes | None:
        """The payload at the place; None: it is gone."""
        ...

    def append(self, payloads: Sequence[bytes]) -> list[int]:
        """They are in it; the place of each."""
        ...


class HeldPayloads:
    """Payloads that were read from elsewhere, by place."""

    def __init__(self, held: Mapping[int, bytes]) -> None:
        self._held = held

    def at(self, place: int) -> bytes | None:
        """The payload at the place; None: it is not there."""
        return self._held.get(place)

    def append(self, payloads: Sequence[bytes]) -> list[int]:
        """Never: they are of the past."""
        raise NotImplementedError("these are only read")


class PayloadRing:
    """The last `capacity` bytes of payloads. In memory, which is taken when it is first written, or in a file."""

    def __init__(self, capacity: int = CAPACITY, *, start: int = 0, file: "PayloadFile | None" = None) -> None:
        self.capacity = capacity
        self._file = file
        self._memory: mmap.mmap | None = None if file is None else file.memory
        self._at = 0 if file is None else _DATA_AT  # where the first byte lies
        self.end = start if file is None else file.end  # the place of the next payload
        self._floor = start if file is None else file.floor
        self._begun = self.end  # bytes before it may be written already

    @property
    def oldest(self) -> int:
        """No payload before this place is there; it grows while one is read."""
        return max(self._floor, self._begun - self.capacity)

    def append(self, payloads: Sequence[bytes]) -> list[int]:
        """The payloads are in it; the place of each. None is longer than a quarter of the ring."""
        frames = [_FRAME.pack(len(one), zlib.crc32(one, _SEED)) + one for one in payloads]
        sizes = list(map(len, frames))
        if self.end % self.capacity + sum(sizes) <= self.capacity:
            places = [self.end + before for before in accumulate(sizes[:-1], initial=0)]
            self._write(self.end, b"".join(frames))
        else:
            places = list(map(self._append, frames))
        if self._file is not None:
            self._file.commit(self.end)
        return places[: len(frames)]

    def _append(self, frame: bytes) -> int:
        assert 4 * len(frame) <= self.capacity, f"a payload of {len(frame)} bytes"
        left = self.capacity - self.end % self.capacity
        place = self.end if len(frame) <= left else self.end + left  # none goes round the end
        self._write(place, frame)
        return place

    def _write(self, place: int, frames: bytes) -> None:
        stop = place + len(frames)
        self._make_room(stop)
        memory, at = self._ours(), self._at + place % self.capacity
        self._begun = stop
        memory[at : at + len(frames)] = frames
        self.end = stop

    def at(self, place: int) -> bytes | None:
        """The payload at the place; None: it is gone. From any thread."""
        memory = self._memory
        if memory is None or not self.oldest <= place < self.end:
            return None
        offset = place % self.capacity
        at = self._at + offset
        length, checksum = _FRAME.unpack(memory[at : at + _FRAME.size].ljust(_FRAME.size, b"\0"))
        if length > self.capacity - offset - _FRAME.size:
            return None
        payload = memory[at + _FRAME.size : at + _FRAME.size + length]
        return payload if place >= self.oldest and zlib.crc32(payload, _SEED) == checksum else None

    def close(self) -> None:
        """Everything is on disk, and nothing is held but what was read. Raises OSError."""
        if self._file is not None:
            self._file.close()

    def release(self) -> None:
        """No file is held, as if the process were killed. Idempotent."""
        if self._file is not None:
            self._file.release()

    def _ours(self) -> mmap.mmap:
        if self._memory is None:
            self._memory = mmap.mmap(-1, self.capacity)
        return self._memory

    def _make_room(self, stop: int) -> None:
        if self._file is None:
            return
        try:
            self._file.make_room(stop)
        except OSError as error:
            self._leave(error)

    def _leave(self, error: OSError) -> None:
        """The bytes are in memory from now on; in the file there is nothing that a later row names."""
        assert self._file is not None, "left twice"
        detail = "those of later flows do not survive a restart; make room, then restart the agent"
        log.error(line("requests are in memory only", path=self._file.path, error=str(error), detail=detail))
        memory = mmap.mmap(-1, self.capacity)
        memory[:] = self._file.read()
        self._memory, self._at = memory, 0
        self._file.release()
        self._file = None


class PayloadFile:
    """An open file of payloads. The flow ring's lock is its lock, too."""

    def __init__(self, path: str, fd: int, capacity: int, *, access: int = mmap.ACCESS_DEFAULT) -> None:
        self.path, self.capacity = path, capacity
        self._fd = fd
        self._allocated = 0  # bytes whose space is known to be there
        self.memory = mmap.mmap(fd, _DATA_AT + capacity, access=access)

    @property
    def end(self) -> int:
        """The place behind the last payload."""
        return int(_PLACES.unpack_from(self.memory, _PAGE)[0])

    @property
    def floor(self) -> int:
        """The place at which the ring began."""
        return int(_PLACES.unpack_from(self.memory, _PAGE)[1])

    def begin(self, place: int) -> None:
        """The ring is empty, and begins there."""
        _PLACES.pack_into(self.memory, _PAGE, place, place)

    def commit(self, end: int) -> None:
        """The bytes before that place are written."""
        _PLACES.pack_into(self.memory, _PAGE, end, self.floor)

    def read(self) -> bytes:
        """All of its bytes. Not by the mapping: to look at a page without a block would take one, or end us."""
        return os.pread(self._fd, self.capacity, _DATA_AT)

    def make_room(self, stop: int) -> None:
        """The disk has room for all bytes before that place. Raises OSError.

        Without it a full disk would be a SIGBUS at the first store into a page that has no block.
        """
        wanted = min(-(-stop // STEP) * STEP, self.capacity)
        if wanted > self._allocated:
            os.posix_fallocate(self._fd, _DATA_AT + self._allocated, wanted - self._allocated)
            self._allocated = wanted

    def close(self) -> None:
        """Everything is on disk. Raises OSError."""
        try:
            self.memory.flush()
        finally:
            self.release()

    def release(self) -> None:
        """The file is nobody's. Its bytes may be read until they are forgotten. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_payloads(path: str, ring_id: bytes, *, start: int, capacity: int = CAPACITY) -> PayloadRing:
    """The ring in the file, or a new one in its place, which begins at the place `start`. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return create_payloads(path, ring_id, start=start, capacity=capacity)
    try:
        if _capacity(fd, path, ring_id) != capacity:
            raise NotOurs(f"{path} is of another size")
        return PayloadRing(capacity, file=PayloadFile(path, fd, capacity))
    except NotOurs as reason:
        os.close(fd)
        log.warning(line("requests of earlier flows are gone", path=path, error=str(reason)))
        return create_payloads(path, ring_id, start=start, capacity=capacity)
    except BaseException:
        os.close(fd)
        raise


def read_payloads(path: str, ring_id: bytes) -> PayloadRing:
    """The ring in a file that may be a copy, only to be read; an empty one where there is none. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return PayloadRing()
    try:
        capacity = _capacity(fd, path, ring_id)
        file = PayloadFile(path, fd, capacity, access=mmap.ACCESS_READ)
    except NotOurs:
        os.close(fd)
        return PayloadRing()
    except BaseException:
        os.close(fd)
        raise
    file.release()  # the mapping stays
    return PayloadRing(capacity, file=file)


def create_payloads(path: str, ring_id: bytes, *, start: int = 0, capacity: int = CAPACITY) -> PayloadRing:
    """An empty ring in a new file, in the place of whatever was there. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.ftruncate(fd, _DATA_AT + capacity)
        os.posix_fallocate(fd, 0, _DATA_AT)
        file = PayloadFile(path, fd, capacity)
        file.begin(start)
        os.pwrite(fd, _HEADER.pack(MAGIC, VERSION, capacity, ring_id), 0)  # the last: then the file is complete
        return PayloadRing(capacity, file=file)
    except BaseException:
        os.close(fd)
        raise


def _capacity(fd: int, path: str, ring_id: bytes) -> int:
    """Raises NotOurs."""
    magic, version, capacity, held = _HEADER.unpack(os.pread(fd, _HEADER.size, 0).ljust(_HEADER.size, b"\0"))
    if magic != MAGIC or version != VERSION or held != ring_id:
        raise NotOurs(f"{path} is not of this ring, or of another version")
    if capacity % STEP or not 0 < capacity <= 1 << BASE_BITS or os.fstat(fd).st_size != _DATA_AT + capacity:
        raise NotOurs(f"{path} is damaged")
    return int(capacity)
