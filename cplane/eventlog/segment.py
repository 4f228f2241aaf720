"""A stretch of the log in a file of its own that never changes: blocks of rows, and an index at its end.

    magic ‖ blocks ‖ index ‖ length of the index (u32, big-endian) ‖ blake2b-256 of the index ‖ magic

A block is up to BLOCK rows, column by column, as msgpack in a zstd frame; the index is an `Index` as msgpack. Every
byte of the file is in a digest or is the magic, so the file says what it is, and is checked, without the log.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from typing import BinaryIO, Final, TypeVar

import msgspec
import zstandard

from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import DIGEST_BYTES, StoredRow
from cplane.eventlog.errors import BadEvent, StorageFailed

T = TypeVar("T")

MAGIC: Final = b"cplaneS1"  # with the version of the format
BLOCK: Final = 1000  # rows; whoever wants one of them reads so many
_LEVEL: Final = 9
_TAIL: Final = 4 + DIGEST_BYTES + len(MAGIC)
_BLOCK_BYTES_MAX: Final = 1 << 30  # that a damaged frame may claim


class Block(msgspec.Struct, frozen=True, array_like=True):
    """Up to which position it goes, where it is, the earliest time in it, and the digest of its bytes in the file."""

    last: int
    offset: int
    length: int
    earliest_ns: int
    digest: bytes


class Index(msgspec.Struct, frozen=True):
    """What is in a segment: the rows behind `after` up to `last`, with the digest of the log at both ends.

    `versions` are those of all streams of the log at its end, so that a log goes on from here without reading it.
    """

    after: int
    before: bytes
    last: int
    digest: bytes
    versions: dict[str, int]
    blocks: tuple[Block, ...]


_Columns = tuple[
    list[int],
    list[bytes],
    list[int],
    list[bytes],
    list[int],
    list[int],
    list[bytes],
    list[bytes],
    list[bytes],
    list[bytes],
]
_ENCODER: Final = msgspec.msgpack.Encoder()
_COLUMNS: Final = msgspec.msgpack.Decoder(_Columns, strict=True)
_INDEX: Final = msgspec.msgpack.Decoder(Index, strict=True)


def write(file: BinaryIO, rows: Iterable[StoredRow], chain: Chain) -> None:
    """The file has the rows, which come next in `chain`; that is behind them now. Raises BadEvent, OSError."""
    source, after, before = iter(rows), chain.position, chain.digest
    offset = file.write(MAGIC)
    blocks: list[Block] = []
    while taken := list(islice(source, BLOCK)):
        for row in taken:
            chain.check(row)
            chain.follow(row)
        packed = zstandard.ZstdCompressor(level=_LEVEL).compress(_ENCODER.encode([*zip(*taken, strict=True)]))
        blocks.append(Block(chain.position, offset, len(packed), min(row[5] for row in taken), _digest(packed)))
        offset += file.write(packed)
    assert blocks, "a segment has rows"
    index = _ENCODER.encode(Index(after, before, chain.position, chain.digest, chain.versions, tuple(blocks)))
    file.write(index + len(index).to_bytes(4, "big") + _digest(index) + MAGIC)


class Segment:
    """A segment to be read. `after` and `last` are what its name says; a block that was read is kept for the next."""

    def __init__(self, path: str, after: int, last: int) -> None:
        self.path, self.after, self.last = path, after, last
        self._index: Index | None = None
        self._block: tuple[int, list[StoredRow]] = (-1, [])

    @property
    def index(self) -> Index:
        """What is in it. Raises BadEvent, StorageFailed."""
        if self._index is None:
            found = self._read(self._load)
            if (found.after, found.last) != (self.after, self.last) or not _whole(found):
                raise self.damaged(self.after + 1, f"it has the positions {found.after + 1} to {found.last}")
            self._index = found
        return self._index

    def rows(self, after: int, to: int) -> Iterator[StoredRow]:
        """Its rows behind `after` up to and with `to`, in order. Raises BadEvent, StorageFailed."""
        after, to = max(after, self.after), min(to, self.last)
        number = bisect_left(self.index.blocks, after + 1, key=lambda block: block.last)
        while after < to:
            held, first = self._rows_of(number), self._before(number)
            yield from held[after - first : to - first]
            after = self.index.blocks[number].last
            number += 1

    def position_at(self, instant_ns: int) -> int:
        """Its last position that was recorded at or before it; 0: it has none. Raises BadEvent, StorageFailed."""
        for number in reversed(range(len(self.index.blocks))):
            if self.index.blocks[number].earliest_ns <= instant_ns:
                return max(row[0] for row in self._rows_of(number) if row[5] <= instant_ns)
        return 0

    def check(self, chain: Chain) -> Iterator[StoredRow]:
        """Each row, which comes behind the end of `chain`; that follows it. Raises BadEvent, StorageFailed."""
        if (self.index.after, self.index.before) != (chain.position, chain.digest):
            raise self.damaged(chain.position + 1, "it does not follow what is before it")
        for row in self.rows(self.after, self.last):
            chain.check(row)
            yield row
            chain.follow(row)
        if (self.index.digest, self.index.versions) != (chain.digest, chain.versions):
            raise self.damaged(chain.position, "its index does not say what its events say")

    def damaged(self, position: int, reason: str) -> BadEvent:
        """What is wrong with it, and which event that is."""
        return BadEvent(position, f"the segment {self.path} is damaged: {reason}")

    def _before(self, number: int) -> int:
        return self.index.blocks[number - 1].last if number else self.after

    def _rows_of(self, number: int) -> list[StoredRow]:
        if self._block[0] != number:
            block = self.index.blocks[number]
            first = self._before(number)
            packed = self._read(lambda file: _at(file, block.offset, block.length))
            if _digest(packed) != block.digest:
                raise self.damaged(first + 1, f"what is from position {first + 1} to {block.last} was changed")
            self._block = (number, self._unpacked(packed, first, block.last))
        return self._block[1]

    def _unpacked(self, packed: bytes, after: int, to: int) -> list[StoredRow]:
        try:
            unpacked = zstandard.ZstdDecompressor().decompress(packed, max_output_size=_BLOCK_BYTES_MAX)
            rows = list(zip(*_COLUMNS.decode(unpacked), strict=True))
        except (zstandard.ZstdError, msgspec.MsgspecError, ValueError) as error:
            raise self.damaged(after + 1, f"it cannot be read ({error})") from error
        if [row[0] for row in rows] != list(range(after + 1, to + 1)):
            raise self.damaged(after + 1, f"it has other events than those from {after + 1} to {to}")
        return rows

    def _load(self, file: BinaryIO) -> Index:
        size = os.fstat(file.fileno()).st_size
        tail = _at(file, max(0, size - _TAIL), _TAIL)
        length = int.from_bytes(tail[:4], "big")
        packed = _at(file, max(0, size - _TAIL - length), length)
        if size < _TAIL + length or tail[4:] != _digest(packed) + MAGIC or _at(file, 0, len(MAGIC)) != MAGIC:
            raise self.damaged(self.after + 1, "its beginning or its index was changed, or it was cut")
        try:
            return _INDEX.decode(packed)
        except msgspec.MsgspecError as error:
            raise self.damaged(self.after + 1, f"its index cannot be read ({error})") from error

    def _read(self, read: Callable[[BinaryIO], T]) -> T:
        try:
            with open(self.path, "rb") as file:
                return read(file)
        except FileNotFoundError as error:
            raise BadEvent(self.after + 1, f"the segment {self.path} is missing") from error
        except OSError as error:
            raise StorageFailed(self.path, f"cannot read it: {error.strerror}") from error


def _whole(index: Index) -> bool:
    """Whether the blocks go on where the last one ended, to the end."""
    place, position = len(MAGIC), index.after
    for block in index.blocks:
        if block.offset != place or block.last <= position:
            return False
        place, position = place + block.length, block.last
    return position == index.last


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    return os.pread(file.fileno(), length, offset)


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=DIGEST_BYTES).digest()
