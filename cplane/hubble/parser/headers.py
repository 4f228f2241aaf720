"""Headers of the samples of Cilium's perf ring, in every version that they have.

Layouts: pkg/monitor/datapath_{drop,trace,policy,sock_trace,debug}.go of Cilium 1.19. Numbers are in the machine's
order. A header says which version it is, and an older one is the beginning of a newer one.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cplane.hubble.parser.packets import Bools, Bytes, Ints, Samples
from datapath.notify.records import RecordType

_COMMON: Final = [("type", "u1"), ("subtype", "u1"), ("source", "u2"), ("hash", "u4"), ("length", "u4")]
_VERSIONED: Final = [*_COMMON, ("captured", "u2"), ("version", "u1"), ("extension", "u1")]
DROP: Final = np.dtype(
    [
        *_VERSIONED,
        *[("src_label", "u4"), ("dst_label", "u4"), ("dst_id", "u4"), ("line", "u2"), ("file", "u1"), ("error", "i1")],
        *[("ifindex", "u4"), ("flags", "u1"), ("pad", "V3"), ("trace_id", "u8")],
    ]
)
TRACE: Final = np.dtype(
    [
        *_VERSIONED,
        *[("src_label", "u4"), ("dst_label", "u4"), ("dst_id", "u2"), ("reason", "u1"), ("flags", "u1")],
        *[("ifindex", "u4"), ("original", "u1", 16), ("trace_id", "u8")],
    ]
)
JUDGED: Final = np.dtype(
    [
        *_VERSIONED,
        *[("remote", "u4"), ("verdict", "i4"), ("dport", "u2"), ("proto", "u1"), ("flags", "u1")],
        *[("auth", "u1"), ("pad", "V3"), ("cookie", "u4"), ("pad2", "V4")],
    ]
)
CAPTURED: Final = np.dtype([*_COMMON, ("original", "u4"), ("arg1", "u4"), ("arg2", "u4")])
SOCKET: Final = np.dtype(
    [
        *[
            ("type", "u1"),
            ("subtype", "u1"),
            ("address", "u1", 16),
            ("dport", "u2"),
            ("cookie", "u8"),
            ("cgroup", "u8"),
        ],
        *[("l4", "u1"), ("flags", "u1")],
    ]
)
DEBUG: Final = np.dtype([*_COMMON[:4], ("arg1", "u4"), ("arg2", "u4"), ("arg3", "u4")])
# bytes of each version's header, which is the beginning of the newest one's
_SIZES: Final[Mapping[RecordType, tuple[int, ...]]] = {
    RecordType.DROP: (36, 36, 40, 48),
    RecordType.TRACE: (32, 48, 56),
}
LAYOUTS: Final[Mapping[RecordType, np.dtype[Any]]] = {  # Any: structured types
    RecordType.DROP: DROP,
    RecordType.TRACE: TRACE,
    RecordType.POLICY_VERDICT: JUDGED,
    RecordType.CAPTURE: CAPTURED,
    RecordType.SOCKET: SOCKET,
    RecordType.DEBUG: DEBUG,
}


class Headers:
    """The headers of samples, of so many bytes each (see `header_sizes`)."""

    def __init__(self, samples: Samples, sizes: Ints) -> None:
        longest = max(layout.itemsize for layout in LAYOUTS.values())
        self._octets: Bytes = samples.take(np.zeros(len(samples), np.int64), longest)
        self._octets[np.arange(longest) >= sizes[:, None]] = 0  # what an older version has not is packet there
        self.kind, self.subtype = self._octets[:, 0].astype(np.int64), self._octets[:, 1].astype(np.int64)

    def of(self, layout: np.dtype[Any], rows: npt.NDArray[np.intp]) -> npt.NDArray[np.void]:  # Any: structured types
        """The headers of those rows, which have that layout."""
        return np.ascontiguousarray(self._octets[rows][:, : layout.itemsize]).view(layout)[:, 0]

    def gather(self, name: str, where: Bools) -> Ints:
        """A field of those headers that have it; 0 elsewhere."""
        found = np.zeros(len(self.kind), np.int64)
        for kind, layout in LAYOUTS.items():
            rows = np.flatnonzero(where & (self.kind == kind))
            if len(rows) and name in (layout.names or ()):
                found[rows] = self.of(layout, rows)[name].astype(np.int64)
        return found


def header_sizes(samples: Samples) -> Ints:
    """Bytes of each header; 0 where the sample cannot be read."""
    start = np.zeros(len(samples), np.int64)
    kind, version, extension = samples.number(start, 1), samples.number(start + 14, 1), samples.number(start + 15, 1)
    sizes = np.zeros(len(samples), np.int64)
    for number, layout in LAYOUTS.items():
        if number in _SIZES:
            known = np.array([*_SIZES[number], 0])
            size = known[np.minimum(version, len(known) - 1)] * (extension == 0)
        else:
            size = np.full(len(samples), layout.itemsize)
        sizes = np.where(kind == number, size, sizes)
    return np.where(samples.has(start, 1) & (sizes <= samples.lengths), sizes, 0)
