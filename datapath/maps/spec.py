"""What a BPF map is, before there is one."""

from dataclasses import dataclass
from enum import IntEnum, IntFlag

from datapath.maps.cstruct import Layout


class MapKind(IntEnum):
    """`enum bpf_map_type`, the kinds that we use."""

    HASH = 1
    ARRAY = 2
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    RINGBUF = 27


class MapFlags(IntFlag):
    """`map_flags` of BPF_MAP_CREATE."""

    NONE = 0
    NO_PREALLOC = 1
    MMAPABLE = 1 << 10


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One map: `name` (≤ 15 bytes, also its pin), layouts, `max_entries` (bytes for a ring buffer), number in C.

    `slot` is what `bpf/lib/maps.h` calls the map; the loader puts the real descriptor there.
    """

    name: str
    slot: int
    kind: MapKind
    key: Layout | None
    value: Layout | None
    max_entries: int
    flags: MapFlags = MapFlags.NONE

    @property
    def key_size(self) -> int:
        """Bytes; 0 for a ring buffer."""
        return self.key.size if self.key else 0

    @property
    def value_size(self) -> int:
        """Bytes of one value; 0 for a ring buffer."""
        return self.value.size if self.value else 0
