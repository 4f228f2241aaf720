"""The reader against a file that looks like a ring: what a writer may leave at any instant."""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from datapath.kernel.ringbuf import ForeignRecord, Ring
from datapath.notify.records import RECORD

PAGE = mmap.PAGESIZE
SIZE = PAGE
STRIDE = 8 + RECORD.size
BUSY, DISCARD = 1 << 31, 1 << 30


class Writer:
    """The kernel's side, in a file: positions, and data that lies there twice."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(2 * PAGE + 2 * SIZE))
        self.file = path.open("r+b")
        self._memory = mmap.mmap(self.file.fileno(), 2 * PAGE + 2 * SIZE)
        self.position = 0

    def start_at(self, position: int) -> None:
        self.position = position
        struct.pack_into("<Q", self._memory, 0, position)

    def put(self, number: int, flags: int = 0, length: int = RECORD.size) -> None:
        row = struct.pack("<II", length | flags, 0) + struct.pack("<Q", number).ljust(RECORD.size, b"\0")
        for index, byte in enumerate(row):
            at = (self.position + index) % SIZE
            self._memory[2 * PAGE + at] = self._memory[2 * PAGE + SIZE + at] = byte
        self.position += STRIDE
        struct.pack_into("<Q", self._memory, PAGE, self.position)

    def submit(self, position: int) -> None:
        for copy in (0, SIZE):
            struct.pack_into("<I", self._memory, 2 * PAGE + copy + position % SIZE, RECORD.size)

    @property
    def consumed(self) -> int:
        return int(struct.unpack_from("<Q", self._memory)[0])

    def close(self) -> None:
        self._memory.close()
        self.file.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Writer, Ring]]:
    writer = Writer(tmp_path / "ring")
    ring = Ring(writer.file.fileno(), SIZE)
    yield writer, ring
    ring.close()
    writer.close()


def test_the_reader_stops_at_a_record_that_is_still_being_written(pair: tuple[Writer, Ring]) -> None:
    writer, ring = pair
    writer.put(1)
    writer.put(2, BUSY)
    writer.put(3)
    assert ring.drain(10)["time_ns"].tolist() == [1]
    assert ring.drain(10).size == 0
    writer.submit(STRIDE)
    assert ring.drain(10)["time_ns"].tolist() == [2, 3]
    assert writer.consumed == 3 * STRIDE


def test_discarded_records_are_passed_over(pair: tuple[Writer, Ring]) -> None:
    writer, ring = pair
    for number, flags in ((1, DISCARD), (2, 0), (3, DISCARD), (4, 0), (5, DISCARD)):
        writer.put(number, flags)
    assert ring.drain(10)["time_ns"].tolist() == [2, 4]
    assert (writer.consumed, ring.pending) == (5 * STRIDE, 0)


@pytest.mark.parametrize("start", [0, SIZE - STRIDE, SIZE - 64, 7 * SIZE - 8, (1 << 40) - 136])
def test_a_batch_may_lie_across_the_end(pair: tuple[Writer, Ring], start: int) -> None:
    writer, ring = pair
    writer.start_at(start)
    for number in range(20):
        writer.put(number)
    assert ring.drain(8)["time_ns"].tolist() == list(range(8))
    assert ring.drain(100)["time_ns"].tolist() == list(range(8, 20))


def test_a_record_of_another_size_is_not_ours(pair: tuple[Writer, Ring]) -> None:
    writer, ring = pair
    writer.put(1)
    writer.put(2, length=64)
    with pytest.raises(ForeignRecord, match="a record of 64 bytes at 136"):
        ring.drain(10)
    assert writer.consumed == 0
