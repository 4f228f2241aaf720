"""The flow ring's file: a header that says what it is, a page of numbers, and the columns, all in one mapping.

Rows are written first and the committed position last, both by plain stores into shared memory, so a process that
is killed between two of them leaves a file without a torn flow. The kernel writes the pages back whenever it likes;
after a crash of the machine their order is unknown, so such a file's rows are not believed (`RingFile.check`).

    0      header: magic, version, capacity, the ring's id, a row for each column, digest
    8192   numbers (`_Slot`), 8 bytes each, then the id of the boot that wrote last
    12288  columns, each from a page of its own
"""

import fcntl
import hashlib
import mmap
import os
import stat
import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cplane.errors import Unavailable
from cplane.hubble.ring import COLUMNS, Array

MAGIC: Final = b"cplflows"
VERSION: Final = 1
STEP: Final = 1 << 14  # rows whose disk space is taken at a time, until all of it is taken
ID_BYTES: Final = 16
_PAGE: Final = 4096
_HEADER_BYTES: Final = 2 * _PAGE
_COLUMNS_AT: Final = 3 * _PAGE
_DIGEST_BYTES: Final = 16
_CAPACITY_MAX: Final = 1 << 32  # more flows than any machine keeps
_FIXED: Final = struct.Struct(f"<8sIIQ{ID_BYTES}s")
_COLUMN: Final = struct.Struct("<32s8sQ")  # name, type, offset


class _Slot(IntEnum):
    """Where a number stands in the page of numbers."""

    WRITTEN = 0  # the committed position
    RESERVED = 1  # rows below it may have been begun; those that they replace are gone
    FLOOR = 2  # rows below it are none of this ring's
    TABLES = 3  # end of the table file when the newest row was committed
    KERNEL_LOST = 4  # the kernel's count of losses that are told already
    CLEAN = 5  # 1: closed, with everything on disk
    ABANDONED = 6  # 1: the positions go on, the rows are elsewhere
    BOOT = 8  # two numbers


class FileInUse(Unavailable):
    """Another process writes flows into the file."""

    code = "hubble.ring_in_use"

    def __init__(self, path: str) -> None:
        self.path = path

    def __str__(self) -> str:
        return f"hubble.ring_path: {self.path} is in use by another agent; give each agent a file of its own"


class NotOurs(Exception):  # a reason to start anew, not a failure
    """The file cannot be gone on with; the text says why.

    `foreign`: it is not known to be a ring at all, so it must not be deleted. `position`: where a new ring may begin
    so that no position is used twice.
    """

    def __init__(self, reason: str, *, foreign: bool = False, position: int = 0) -> None:
        super().__init__(reason)
        self.foreign, self.position = foreign, position


class _Place(NamedTuple):
    """Where a column lies."""

    kind: np.dtype[np.generic]
    offset: int


def _places(capacity: int) -> tuple[Mapping[str, _Place], int]:
    """The columns' places, and the size of the file."""
    places, at = {}, _COLUMNS_AT
    for name, kind in COLUMNS.items():
        places[name] = _Place(kind, at)
        at += -(-capacity * kind.itemsize // _PAGE) * _PAGE
    return places, at


def _header(capacity: int, ring_id: bytes) -> bytes:
    places, _ = _places(capacity)
    parts = [_FIXED.pack(MAGIC, VERSION, len(places), capacity, ring_id)]
    parts += [_COLUMN.pack(name.encode(), place.kind.str.encode(), place.offset) for name, place in places.items()]
    content = b"".join(parts)
    assert len(content) <= _HEADER_BYTES - _DIGEST_BYTES, f"{len(places)} columns do not fit into the header"
    content = content.ljust(_HEADER_BYTES - _DIGEST_BYTES, b"\0")
    return content + hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


class RingFile:
    """A mapped ring. Made by `open_file` and `create_file`, which lock it, and by `read_file`, only to be read."""

    def __init__(self, path: str, fd: int, capacity: int, ring_id: bytes, *, access: int = mmap.ACCESS_DEFAULT) -> None:
        self.path, self.capacity, self.ring_id = path, capacity, ring_id
        self._fd = fd
        self._places, size = _places(capacity)
        self._memory = mmap.mmap(fd, size, access=access)
        self.columns: dict[str, Array] = {
            name: np.frombuffer(self._memory, place.kind, capacity, place.offset)
            for name, place in self._places.items()
        }
        self._numbers: npt.NDArray[np.uint64] = np.frombuffer(self._memory, np.uint64, 16, _HEADER_BYTES)
        self._ends: npt.NDArray[np.int64] = self._numbers.view(np.int64)
        self._allocated = 0  # rows whose space is known to be there

    @property
    def written(self) -> int:
        """The committed position."""
        return int(self._numbers[_Slot.WRITTEN])

    @property
    def oldest(self) -> int:
        """The oldest position whose row was whole when the file was written last; `written` when none was."""
        written, reserved, floor = (int(n) for n in self._numbers[: _Slot.FLOOR + 1])
        return min(written, max(floor, reserved - self.capacity))

    @property
    def next_position(self) -> int:
        """No position from here on was ever used."""
        return int(max(self._numbers[_Slot.WRITTEN], self._numbers[_Slot.RESERVED]))

    @property
    def tables_end(self) -> int:
        """How far the table file must reach for every row's numbers to mean something."""
        return int(self._ends[_Slot.TABLES])

    @property
    def kernel_lost(self) -> int:
        """The kernel's count of lost records, as far as they are told."""
        return int(self._numbers[_Slot.KERNEL_LOST])

    @kernel_lost.setter
    def kernel_lost(self, total: int) -> None:
        self._numbers[_Slot.KERNEL_LOST] = total

    @property
    def is_closed(self) -> bool:
        """Whether whoever wrote into it has ended as it should."""
        return bool(self._numbers[_Slot.CLEAN])

    def check(self, boot: bytes) -> None:
        """The rows are whole. Raises NotOurs."""
        self.check_positions()
        same_boot = self._numbers[_Slot.BOOT : _Slot.BOOT + 2].tobytes() == boot
        if not same_boot and not self.is_closed:
            raise NotOurs("the machine went down before it was closed", position=self.next_position)

    def check_positions(self) -> None:
        """The file has rows, if it is as it was left. Raises NotOurs."""
        written, reserved, floor = (int(n) for n in self._numbers[: _Slot.FLOOR + 1])
        if not floor <= written <= reserved or reserved - written > 1 << 32 or written >> 62:
            raise NotOurs(f"its positions ({floor}, {written}, {reserved}) contradict each other")
        if self._numbers[_Slot.ABANDONED]:
            raise NotOurs("its disk was full, and its flows were kept in memory from then on", position=reserved)

    def begin(self, boot: bytes, position: int | None = None) -> None:
        """This process writes from now on; with `position`, into a ring that has no rows and begins there."""
        if position is not None:
            for slot in (_Slot.RESERVED, _Slot.WRITTEN, _Slot.FLOOR):
                self._numbers[slot] = position
        self._numbers[_Slot.BOOT : _Slot.BOOT + 2] = np.frombuffer(boot, np.uint64)
        self._numbers[_Slot.CLEAN] = 0
        # what a killed process had begun is gone, and must stay so when fewer rows are reserved than it had
        self._numbers[_Slot.FLOOR] = self.oldest
        self._numbers[_Slot.RESERVED] = self._numbers[_Slot.WRITTEN]

    def make_room(self, position: int) -> None:
        """The disk has room for all rows below `position`. Raises OSError.

        Without it a full disk would be a SIGBUS at the first store into a page that has no block.
        """
        wanted = min(position, self.capacity)
        if wanted <= self._allocated:
            return
        wanted = min(-(-wanted // STEP) * STEP, self.capacity)
        for kind, offset in self._places.values():
            at = offset + self._allocated * kind.itemsize
            os.posix_fallocate(self._fd, at, (wanted - self._allocated) * kind.itemsize)
        self._allocated = wanted

    def reserve(self, position: int, tables_end: int) -> None:
        """Rows below `position` are about to be written; what they name stands in the table file up to its end."""
        self._ends[_Slot.TABLES] = tables_end
        self._numbers[_Slot.RESERVED] = position

    def commit(self, position: int) -> None:
        """Rows below `position` are written."""
        self._numbers[_Slot.WRITTEN] = position

    def abandon(self) -> None:
        """The rows are believed by nobody any more; `reserve` and `commit` go on with the positions."""
        self._numbers[_Slot.ABANDONED] = 1

    def close(self) -> None:
        """Everything is on disk, and the file is anybody's. The columns may be read until they are forgotten."""
        try:
            self._memory.flush()
            self._numbers[_Slot.CLEAN] = 1
            self._memory.flush(0, _COLUMNS_AT)
        finally:
            self.release()

    def release(self) -> None:
        """The file is anybody's, as if the process were killed. Idempotent."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # the mapping has a descriptor of its own, with the same lock
            os.close(self._fd)
            self._fd = -1


def open_file(path: str, capacity: int) -> RingFile | None:
    """The ring in the file; None when there is no file. Raises NotOurs, FileInUse, OSError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "it is no regular file", path)
        _lock(fd, path)
        return RingFile(path, fd, capacity, _ring_id(fd, capacity))
    except BaseException:
        os.close(fd)
        raise


def read_file(path: str) -> RingFile:
    """The ring in the file, of any capacity, only to be read: it may be a copy, and its writer may go on meanwhile.

    Raises NotOurs, OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        capacity = _FIXED.unpack(os.pread(fd, _FIXED.size, 0).ljust(_FIXED.size, b"\0"))[3]
        if not 0 < capacity <= _CAPACITY_MAX or capacity & (capacity - 1):
            raise NotOurs("its header is damaged")
        return RingFile(path, fd, capacity, _ring_id(fd, capacity), access=mmap.ACCESS_READ)
    except BaseException:
        os.close(fd)
        raise


def create_file(path: str, capacity: int, ring_id: bytes) -> RingFile:
    """An empty ring in a new file, which takes up two pages until it is written to. Raises FileInUse, OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _lock(fd, path)
        _, size = _places(capacity)
        os.ftruncate(fd, size)
        os.posix_fallocate(fd, 0, _COLUMNS_AT)
        os.pwrite(fd, _header(capacity, ring_id), 0)
        return RingFile(path, fd, capacity, ring_id)
    except BaseException:
        os.close(fd)
        raise


def _lock(fd: int, path: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileInUse(path) from error


def _ring_id(fd: int, capacity: int) -> bytes:
    """The id of the ring in the file, whose header is exactly what we would write."""
    found = os.pread(fd, _COLUMNS_AT, 0)
    if not found.startswith(MAGIC):
        raise NotOurs("it is no flow ring" if found else "it is empty", foreign=bool(found))
    if len(found) < _COLUMNS_AT:
        raise NotOurs(f"it ends after {len(found)} bytes")
    content, digest = found[: _HEADER_BYTES - _DIGEST_BYTES], found[_HEADER_BYTES - _DIGEST_BYTES : _HEADER_BYTES]
    _, version, _, held, ring_id = _FIXED.unpack_from(found)
    if version != VERSION:
        raise NotOurs(f"it is of version {version}, and this agent writes version {VERSION}")
    if hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest() != digest:
        raise NotOurs("its header is damaged")
    numbers = np.frombuffer(found, np.uint64, 2, _HEADER_BYTES).tolist()
    position = max(numbers) if max(numbers) < 1 << 62 else 0
    if held != capacity:
        raise NotOurs(f"it is for {held} flows, and hubble.ring_records is {capacity}", position=position)
    if found[:_HEADER_BYTES] != _header(capacity, ring_id):
        raise NotOurs("its flows have other columns than this version's", position=position)
    _, size = _places(capacity)
    if os.fstat(fd).st_size != size:
        raise NotOurs(f"it has {os.fstat(fd).st_size} bytes instead of {size}", position=position)
    return bytes(ring_id)
