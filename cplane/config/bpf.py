"""What can be told about the kernel's tables."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

ENTRIES_MIN: Final = 1024
ENTRIES_MAX: Final = 1 << 24
_RATIO_MAX: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class BpfConfig:
    """How large tables are. Those that are there already stay as large as they are."""

    map_dynamic_size_ratio: float = field(
        default=0.0025,
        metadata={
            "help": "how much of the machine's memory all tables share that connections fill, from 0 to 0.5; "
            "0: sizes that do not depend on it"
        },
    )
    ct_max: int = field(
        default=0,
        metadata={"help": "connections that are tracked, for each of IPv4 and IPv6; 0: by map_dynamic_size_ratio"},
    )
    lb_map_max: int = field(
        default=0,
        metadata={
            "help": "entries of each table of services; 0: 65,535 frontends, 524,288 backends, 1,048,576 of both"
        },
    )

    def faults(self) -> Iterator[tuple[str, str]]:
        """Everything that is wrong here: key, relative to this section, and what."""
        if not 0 <= self.map_dynamic_size_ratio <= _RATIO_MAX:
            yield "map_dynamic_size_ratio", f"{self.map_dynamic_size_ratio} is not from 0 to {_RATIO_MAX}"
        for key in ("ct_max", "lb_map_max"):
            value = getattr(self, key)
            if value and not ENTRIES_MIN <= value <= ENTRIES_MAX:
                yield key, f"{value} is neither 0 nor from {ENTRIES_MIN} to {ENTRIES_MAX}"
