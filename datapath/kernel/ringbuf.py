"""The ring buffer's reader: whole batches out of mapped memory, no object per record."""

import mmap
from typing import Final

import numpy as np
import numpy.typing as npt

from datapath.errors import Corrupt
from datapath.notify.records import DTYPE, RECORD

_BUSY: Final = 1 << 31  # BPF_RINGBUF_BUSY_BIT: reserved, not yet submitted
_DISCARD: Final = 1 << 30
_HEADER: Final = 8  # BPF_RINGBUF_HDR_SZ
_STRIDE: Final = _HEADER + RECORD.size  # a multiple of 8, as the kernel rounds
_PAGE: Final = mmap.PAGESIZE


class ForeignRecord(Corrupt):
    """The ring holds a record that is not of ours."""

    code = "ringbuf.foreign_record"

    def __init__(self, position: int, length: int) -> None:
        self.position, self.length = position, length

    def __str__(self) -> str:
        return (
            f"the ring buffer has a record of {self.length} bytes at {self.position}, ours have {RECORD.size}; "
            "another program writes to our map: stop it, remove our folder of the bpffs, and start again"
        )


class Ring:
    """The one reader of a ring buffer of `size` bytes. Not for several threads at once."""

    def __init__(self, fd: int, size: int) -> None:
        self._size = size
        # The first page is ours to write (how far we have read), the second the kernel's (how far it has written);
        # the data follows twice, so that what wraps around lies in one piece.
        self._ours = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._theirs = mmap.mmap(fd, _PAGE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        self._consumed: npt.NDArray[np.uint64] = np.frombuffer(self._ours, np.uint64, 1)
        self._produced: npt.NDArray[np.uint64] = np.frombuffer(self._theirs, np.uint64, 1)
        self._data: npt.NDArray[np.uint8] = np.frombuffer(self._theirs, np.uint8, 2 * size, offset=_PAGE)

    @property
    def pending(self) -> int:
        """Bytes between the reader and the writer."""
        return int(self._produced[0]) - int(self._consumed[0])

    def drain(self, max_records: int) -> npt.NDArray[np.void]:
        """Up to `max_records` of the oldest records, as DTYPE, copied and released to the kernel.

        Ends early at a record that is still being written; discarded ones are passed over. Raises ForeignRecord.
        """
        position = int(self._consumed[0])
        count = min((int(self._produced[0]) - position) // _STRIDE, max_records)
        if count <= 0:
            return np.empty(0, DTYPE)
        start = position % self._size
        rows = self._data[start : start + count * _STRIDE].reshape(count, _STRIDE)
        lengths = rows[:, :4].copy().view(np.uint32)[:, 0]
        busy = np.flatnonzero(lengths & _BUSY)
        if busy.size:
            count = int(busy[0])
            rows, lengths = rows[:count], lengths[:count]
        self._check(lengths, position)
        kept = rows if not (lengths & _DISCARD).any() else rows[(lengths & _DISCARD) == 0]
        records = np.ascontiguousarray(kept[:, _HEADER:]).view(DTYPE).reshape(-1)
        self._consumed[0] = position + count * _STRIDE  # after the copy: the kernel may overwrite from now on
        return records

    def close(self) -> None:
        """The mappings are gone; records that were drained stay."""
        del self._consumed, self._produced, self._data
        self._ours.close()
        self._theirs.close()

    @staticmethod
    def _check(lengths: npt.NDArray[np.uint32], position: int) -> None:
        wrong = np.flatnonzero((lengths & ~np.uint32(_DISCARD)) != RECORD.size)
        if wrong.size:
            index = int(wrong[0])
            raise ForeignRecord(position + index * _STRIDE, int(lengths[index]) & ~(_BUSY | _DISCARD))
