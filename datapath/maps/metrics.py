"""Metrics map: packets and bytes per outcome and direction, one counter per CPU."""

from enum import IntEnum
from typing import Final, NamedTuple

from datapath.maps.cstruct import Field, Layout
from datapath.maps.spec import MapKind, MapSpec

REASON_FORWARDED: Final = 0
DROP_REASONS: Final = range(130, 256)
SLOTS: Final = 1024  # 256 reasons, 4 directions

KEY: Final = Layout("metrics_key", (Field("index", "u32"),))
VALUE: Final = Layout("metrics_value", (Field("packets", "u64"), Field("bytes", "u64")))
SPEC: Final = MapSpec("cplane_metrics", 8, MapKind.PERCPU_ARRAY, KEY, VALUE, SLOTS)


class MetricsDirection(IntEnum):
    """Seen from the endpoint; Cilium's numbers."""

    INGRESS = 1
    EGRESS = 2


class MetricsKey(NamedTuple):
    """`reason` is a drop reason, or REASON_FORWARDED."""

    reason: int
    direction: MetricsDirection

    def pack(self) -> bytes:
        """The map's key bytes."""
        return KEY.pack(self.reason << 2 | self.direction)

    @classmethod
    def unpack(cls, data: bytes) -> "MetricsKey":
        """The inverse of `pack`. Raises ValueError for a slot that no program writes."""
        index = int(KEY.unpack(data)[0])
        return cls(index >> 2, MetricsDirection(index & 3))


class MetricsValue(NamedTuple):
    """Sums over all CPUs since the map was created."""

    packets: int
    byte_count: int

    @classmethod
    def total(cls, per_cpu: bytes) -> "MetricsValue":
        """The sum of the values of all CPUs, which lie one after the other."""
        parts = [VALUE.unpack(per_cpu[at : at + VALUE.size]) for at in range(0, len(per_cpu), VALUE.size)]
        return cls(sum(int(p[0]) for p in parts), sum(int(p[1]) for p in parts))
