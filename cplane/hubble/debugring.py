"""What datapaths say to those who debug them: the last records, as rows, and messages of those that somebody reads."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cplane.hubble.debugtext import Said, debug_message
from cplane.hubble.endpoint import NOBODY, EndpointMeta
from cplane.hubble.signal import Signal
from cplane.pb.flow import flow_pb2

CAPACITY: Final = 1 << 16  # a packet leaves some ten
NO_CPU: Final = -1
ROW: Final = np.dtype(
    [
        ("time_ns", "u8"),  # UTC
        ("hash", "u4"),  # of the packet
        ("arg1", "u4"),
        ("arg2", "u4"),
        ("arg3", "u4"),
        ("cpu", "i2"),  # NO_CPU: nobody knows
        ("source", "u2"),  # the local endpoint whose program speaks; 0: none
        ("type", "u1"),  # flow.DebugEventType
    ]
)
Rows = npt.NDArray[np.void]


class DebugRing:
    """The last `capacity` debug events, under positions that never repeat: 33 bytes for each.

    Endpoints are remembered as they were when they were last heard of. `link` names a device by its index.
    """

    def __init__(self, capacity: int = CAPACITY, link: Callable[[int], str] = str) -> None:
        assert capacity > 0, capacity
        self.capacity = capacity
        self.written = 0  # position of the next event
        self.changed = Signal()
        self._link = link
        self._rows: Rows = np.zeros(capacity, ROW)
        self._sources: dict[int, EndpointMeta] = {}  # at most one for each number that an endpoint may have

    @property
    def oldest(self) -> int:
        """Position of the oldest event that is still there; `written` when there is none."""
        return max(0, self.written - self.capacity)

    def add(self, rows: Rows, sources: Mapping[int, EndpointMeta]) -> None:
        """These (of `ROW`, in their order) were said, by these endpoints; followers are woken."""
        self._sources.update(sources)
        self.written += max(0, len(rows) - self.capacity)
        rows = rows[-self.capacity :]
        at = self.written % self.capacity
        head = min(len(rows), self.capacity - at)
        self._rows[at : at + head] = rows[:head]
        self._rows[: len(rows) - head] = rows[head:]
        self.written += len(rows)
        self.changed.notify()

    def time_ns(self, position: int) -> int:
        """When the event happened that is there."""
        return int(self._row(position)["time_ns"])

    def told(self, position: int) -> flow_pb2.DebugEvent:
        """The message that tells the event that is there."""
        row = self._row(position)
        kind, source, cpu = int(row["type"]), int(row["source"]), int(row["cpu"])
        args = {name: int(row[name]) for name in ("arg1", "arg2", "arg3")}
        told = flow_pb2.DebugEvent(type=kind)  # type: ignore[arg-type]  # enumerations are open
        told.message = debug_message(Said(kind, **args, link=self._link))
        for name, value in args.items():
            getattr(told, name).value = value
        told.hash.value = int(row["hash"])
        if cpu != NO_CPU:
            told.cpu.value = cpu
        if source:
            meta = self._sources.get(source, NOBODY)
            told.source.ID, told.source.identity, told.source.cluster_name = source, meta.identity, meta.cluster
            told.source.namespace, told.source.pod_name = meta.namespace, meta.pod_name
            told.source.labels.extend(meta.labels)
        return told

    def _row(self, position: int) -> Any:  # noqa: ANN401  # numpy's scalars
        assert self.oldest <= position < self.written, (self.oldest, position, self.written)
        return self._rows[position % self.capacity]
