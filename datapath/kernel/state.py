"""The state map, mapped into this process: a write is one store, a read one load."""

import mmap
from typing import Final

import numpy as np
import numpy.typing as npt

from datapath.kernel.maps import KernelMap
from datapath.maps.state import MonitorFlags, StateSlot

_BYTES: Final = mmap.PAGESIZE


class State:
    """The numbers of the node that programs read (datapath.maps.state)."""

    def __init__(self, state_map: KernelMap) -> None:
        self._memory = mmap.mmap(state_map.fd, _BYTES, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._numbers: npt.NDArray[np.uint64] = np.frombuffer(self._memory, np.uint64, state_map.spec.max_entries)

    def __getitem__(self, slot: StateSlot) -> int:
        return int(self._numbers[slot])

    def publish(self, position: int) -> None:
        """All tables of `position` are in the kernel: connections are judged again, records carry the position.

        The epoch comes first: a record must never carry a position whose tables did not judge its packet.
        """
        self.bump_epoch()
        self.set_position(position)

    def bump_epoch(self) -> None:
        """Every connection is judged again at its next packet."""
        self._numbers[StateSlot.EPOCH] += np.uint64(1)

    def set_position(self, position: int) -> None:
        """Records carry this log position from now on."""
        self._numbers[StateSlot.POSITION] = position

    def set_monitor(self, flags: MonitorFlags) -> None:
        """Programs emit these kinds of records from now on."""
        self._numbers[StateSlot.MONITOR] = int(flags)

    def set_netns(self, cookie: int) -> None:
        """The network namespace with this cookie is the node's own."""
        self._numbers[StateSlot.NETNS] = cookie

    def set_proxy(self, ifindex: int) -> None:
        """Packets that a proxy is to have come in again by this interface; 0: they cannot."""
        self._numbers[StateSlot.PROXY] = ifindex

    @property
    def lost(self) -> int:
        """Records that found the ring buffer full since the map was created."""
        return self[StateSlot.LOST]

    def close(self) -> None:
        """The mapping is gone."""
        del self._numbers
        self._memory.close()
