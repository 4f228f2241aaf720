"""What sockets believe to speak with, read out of the mapped table that programs write."""

import mmap
from typing import Final

import numpy as np
import numpy.typing as npt

from datapath.kernel.maps import KernelMap
from datapath.maps import lb

DTYPE: Final = np.dtype(
    [
        ("cookie", "<u8"),
        ("backend", "V16"),
        ("addr", "V16"),
        ("netns_cookie", "<u8"),
        ("backend_port", ">u2"),
        ("port", ">u2"),
        ("backend_id", "<u4"),
        ("service_id", "<u2"),
        ("protocol", "u1"),
        ("state", "u1"),
        ("more", "u1"),
        ("shared", "u1"),
        ("family", "u1"),
        ("pad", "u1"),
    ]
)
assert DTYPE.itemsize == lb.PEER_VALUE.size


class Peers:
    """The table of sockets that were sent to backends."""

    def __init__(self, peers: KernelMap) -> None:
        self._memory = mmap.mmap(peers.fd, lb.PEERS_MAX * DTYPE.itemsize, mmap.MAP_SHARED, mmap.PROT_READ)
        self._rows = np.frombuffer(self._memory, DTYPE)

    def of_protocol(self, protocol: int) -> npt.NDArray[np.void]:
        """Rows (DTYPE) of sockets that are there, and were sent somewhere by this protocol. One may be gone already."""
        rows = self._rows
        there = (rows["cookie"] != 0) & (rows["state"] != 0) & (rows["protocol"] == protocol)
        found: npt.NDArray[np.void] = rows[there]
        return found

    def settled(self, rows: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
        """Those that are what they were, so that nobody was writing them while they were read."""
        now: npt.NDArray[np.void] = self._rows[rows["cookie"] % np.uint64(lb.PEERS_MAX)]
        same: npt.NDArray[np.void] = rows[rows == now]
        return same

    def cookies(self) -> list[int]:
        """Of all sockets that are there."""
        found: list[int] = self._rows["cookie"][self._rows["cookie"] != 0].tolist()
        return found

    @property
    def is_shared(self) -> bool:
        """Whether any socket has lost its place, and is in the table of rows instead."""
        return bool(self._rows["shared"].any())

    def close(self) -> None:
        """The mapping is gone."""
        del self._rows
        self._memory.close()
