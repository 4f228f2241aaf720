"""The flow ring: the last 2^n flows as columns, under positions that never repeat.

A row is a flow in the encoding that filters compare: small numbers, addresses as two u64. What many rows share
(endpoints, devices, attributions) stands in tables beside the ring (`cplane.hubble.interned`).
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # Any: columns have different types

COLUMNS: Final[Mapping[str, np.dtype[Any]]] = {  # Any: as above
    name: np.dtype(kind)
    for name, kind in {
        "time_ns": "u8",  # UTC
        "origin": "u8",  # log position that was enforced
        "src_hi": "u8",  # address, big-endian; IPv4 in the upper half of `hi`
        "src_lo": "u8",
        "dst_hi": "u8",
        "dst_lo": "u8",
        "src_identity": "u4",
        "dst_identity": "u4",
        "src_meta": "u4",  # number in the table of endpoints
        "dst_meta": "u4",
        "link": "u4",  # number in the table of devices
        "attribution": "u4",  # number in the table of attributions
        "detail": "u4",  # number in the table of details
        # of the policy entry that decided; of a socket's call, the lower half of the socket's own; of a request, that
        # of its payload's place
        "cookie": "u4",
        "sport": "u2",
        "dport": "u2",
        "proxy_port": "u2",
        "line": "u2",  # of a drop
        "macs": "V12",  # source, destination
        "type": "u1",  # Cilium's monitor message types
        "subtype": "u1",
        "verdict": "u1",  # flow.Verdict
        "reason": "u1",  # flow.DropReason
        "direction": "u1",  # flow.TrafficDirection
        "reply": "u1",  # Reply
        "ip_version": "u1",  # flow.IPVersion
        "match_type": "u1",
        "trace_reason": "u1",  # flow.TraceReason
        "protocol": "u1",
        "tcp_flags": "u1",
        "icmp_type": "u1",
        "icmp_code": "u1",
        "file": "u1",
    }.items()
}
MARKS_MAX: Final = 256  # losses kept apart; the two oldest become one beyond that


class Reply(IntEnum):
    """Whether a packet is a reply."""

    NO = 0
    YES = 1
    UNKNOWN = 2


class LossSource(IntEnum):
    """Who lost flows, as `flow.LostEventSource` numbers it."""

    UNKNOWN = 0  # nobody was there to lose them
    KERNEL_RING = 1
    QUEUE = 2
    FLOW_RING = 3


@dataclass(frozen=True, slots=True)
class Loss:
    """`count` flows are missing just before the flow at `position`; 0: nobody knows how many."""

    position: int
    source: LossSource
    count: int
    first_ns: int
    last_ns: int


class Span:
    """The rows of positions `start` to `stop` (exclusive): views into columns, in which they begin at row `at`.

    A span of the ring is valid until its rows are overwritten.
    """

    __slots__ = ("_columns", "_from", "_to", "start", "stop")

    def __init__(self, columns: Mapping[str, Array], start: int, stop: int, at: int) -> None:
        self._columns = columns
        self.start, self.stop = start, stop
        self._from, self._to = at, at + stop - start

    def __getitem__(self, name: str) -> Array:
        return self._columns[name][self._from : self._to]

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def positions(self) -> npt.NDArray[np.uint64]:
        """Of each row."""
        return np.arange(self.start, self.stop, dtype=np.uint64)

    def only(self, rows: npt.NDArray[np.intp]) -> "Span":
        """These rows, copied column by column as they are asked for."""
        return _Some(self, rows)


class _Some(Span):
    """Some rows of a span."""

    __slots__ = ("_rows", "_whole")

    def __init__(self, whole: Span, rows: npt.NDArray[np.intp]) -> None:
        super().__init__({}, 0, len(rows), 0)
        self._whole, self._rows = whole, rows

    def __getitem__(self, name: str) -> Array:
        return self._whole[name][self._rows]

    @property
    def positions(self) -> npt.NDArray[np.uint64]:
        """Of each row."""
        return self._whole.positions[self._rows]


class Place(Protocol):
    """Where rows outlive the process; `cplane.hubble.ringfile.RingFile` fits."""

    @property
    def columns(self) -> Mapping[str, Array]:
        """An array of the ring's capacity for each column."""
        ...

    @property
    def written(self) -> int:
        """Position of the next flow."""
        ...

    @property
    def oldest(self) -> int:
        """Position of the oldest row that is whole."""
        ...

    def commit(self, position: int) -> None:
        """Rows below `position` are written."""
        ...


class FlowRing:
    """The last `capacity` flows (a power of two), in memory that is taken when it is first written, or in a `place`."""

    def __init__(self, capacity: int = 1 << 18, place: Place | None = None, *, start: int = 0) -> None:
        if capacity < 1 or capacity & (capacity - 1):
            raise ValueError(f"hubble.ring_records: {capacity} is not a power of two")
        self.capacity = capacity
        self.written = start if place is None else place.written  # position of the next flow
        self._began = self.written
        self.overwritten_unread = 0  # flows that a reader was told it will never see
        self.told: Callable[[Loss], None] = lambda _: None  # who else wants to know of losses
        self._floor = start if place is None else place.oldest
        self._place = place
        self._columns = _in_memory(capacity) if place is None else dict(place.columns)
        self._losses: deque[Loss] = deque()

    @property
    def oldest(self) -> int:
        """Position of the oldest flow that is still there; `written` when there is none."""
        return max(self._floor, self.written - self.capacity)

    @property
    def seen(self) -> int:
        """Flows that came since it was opened; a place may have had others before."""
        return self.written - self._began

    def __len__(self) -> int:
        return self.written - self.oldest

    def append(self, batch: Mapping[str, Array]) -> None:
        """The rows of `batch` (an array of one length for each column) follow the newest one."""
        count = len(batch["time_ns"])
        skipped = max(0, count - self.capacity)
        at = (self.written + skipped) & (self.capacity - 1)
        head = min(count - skipped, self.capacity - at)
        for name, column in self._columns.items():
            rows = batch[name]
            column[at : at + head] = rows[skipped : skipped + head]
            if skipped + head < count:
                column[: count - skipped - head] = rows[skipped + head :]
        self.written += count
        if self._place is not None:
            self._place.commit(self.written)

    def leave(self) -> None:
        """The rows are in memory from now on; the place is told of positions still."""
        present = self._spread(self.oldest, self.written)
        kept, self._columns = self._columns, _in_memory(self.capacity)
        for name, column in self._columns.items():
            for part in present:
                column[part] = kept[name][part]

    def _spread(self, start: int, stop: int) -> list[slice]:
        """Where the rows from `start` to `stop` lie: in one or two parts."""
        parts = []
        while start < stop:
            end = min(stop, self.contiguous(start))
            at = start & (self.capacity - 1)
            parts.append(slice(at, at + end - start))
            start = end
        return parts

    def contiguous(self, position: int) -> int:
        """The end of the longest span that may start at `position`: where the ring wraps, or `written`."""
        return min(self.written, (position // self.capacity + 1) * self.capacity)

    def span(self, start: int, stop: int) -> Span:
        """Rows from `start` to `stop`, all of them present, `stop` at most `contiguous(start)`."""
        assert self.oldest <= start <= stop <= self.contiguous(start), (self.oldest, start, stop, self.written)
        return Span(self._columns, start, stop, start & (self.capacity - 1))

    def racing_span(self, start: int, stop: int) -> Span:
        """The same for another thread than that which appends: what was read holds if `oldest` is not behind `start`.

        It may be asked for rows that are overwritten already, and never for those that were not written yet.
        """
        return Span(self._columns, start, stop, start & (self.capacity - 1))

    def live(self, name: str) -> list[Array]:
        """Every present row's value in a column, in one or two parts."""
        return [self._columns[name][part] for part in self._spread(self.oldest, self.written)]

    def add_loss(self, source: LossSource, count: int, first_ns: int, last_ns: int) -> None:
        """`count` flows are missing between the newest flow and the next one."""
        loss = Loss(self.written, source, count, first_ns, last_ns)
        self._add_loss(loss)
        self.told(loss)

    def restore_losses(self, losses: Iterable[Loss]) -> None:
        """Losses of flows that are in the ring already, in their order."""
        for loss in losses:
            self._add_loss(loss)

    def all_losses(self, start: int = 0, stop: int | None = None) -> tuple[Loss, ...]:
        """Losses before flows from `start` to `stop` (exclusive; None: to the end), in order; from any thread."""
        return tuple(
            loss for loss in tuple(self._losses) if start <= loss.position and (stop is None or loss.position < stop)
        )

    def _add_loss(self, loss: Loss) -> None:
        self._forget_losses()
        self._losses.append(loss)

    def losses(self, position: int) -> tuple[Loss, ...]:
        """Losses just before the flow at `position`."""
        return tuple(loss for loss in self._losses if loss.position == position)

    def next_loss(self, position: int) -> int | None:
        """The smallest position after `position` that has losses."""
        return next((loss.position for loss in self._losses if loss.position > position), None)

    def _forget_losses(self) -> None:
        losses = self._losses
        while losses and losses[0].position < self.oldest:
            losses.popleft()
        if len(losses) >= MARKS_MAX:
            first, second = losses.popleft(), losses.popleft()
            losses.appendleft(replace(second, count=first.count + second.count, first_ns=first.first_ns))


def _in_memory(capacity: int) -> dict[str, Array]:
    return {name: np.zeros(capacity, kind) for name, kind in COLUMNS.items()}
