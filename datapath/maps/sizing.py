"""How many entries maps have room for: by the machine's memory, or as somebody says.

Source of ratio, least and most: Cilium's bpf-map-dynamic-size-ratio.
"""

from collections.abc import Mapping
from typing import Final

from datapath.maps import conntrack, lb
from datapath.maps.spec import MapSpec

RATIO: Final = 0.0025  # of the memory, for all maps that traffic fills
ENTRIES_MAX: Final = 1 << 24
_ROW_BYTES: Final = 64  # what the kernel needs around a key and its value
_LEAST: Final[Mapping[str, int]] = {
    conntrack.SPEC4.name: 1 << 17,
    conntrack.SPEC6.name: 1 << 17,
    lb.SOCKS.name: 1 << 16,
    lb.AFFINITY.name: 1 << 16,
    lb.FLOWS.name: 1 << 16,
}
_TRAFFIC: Final = (conntrack.SPEC4, conntrack.SPEC6, lb.SOCKS, lb.AFFINITY, lb.FLOWS)
_SERVICES: Final = (lb.SERVICES, lb.SLOTS, lb.BACKENDS, lb.MEMBERS, lb.SKIPS, lb.RANGES)
FLEXIBLE: Final = frozenset(spec.name for spec in (*_TRAFFIC, *_SERVICES))
"""Maps whose size may differ from the catalogue's."""


def sizes(memory_bytes: int, *, ratio: float = RATIO, conntrack_max: int = 0, services_max: int = 0) -> dict[str, int]:
    """Entries by map, for those that are not as in the catalogue.

    `ratio` of the memory is shared by the maps that traffic fills, in the catalogue's proportions; 0: they are as it
    says. `conntrack_max` are the entries of conntrack, for each family; `services_max` those of each map of services
    that the agent fills; 0: neither is said.
    """
    found: dict[str, int] = {}
    if ratio:
        whole = sum(spec.max_entries * _row_bytes(spec) for spec in _TRAFFIC)
        share = memory_bytes * ratio / whole
        for spec in _TRAFFIC:
            found[spec.name] = min(max(int(spec.max_entries * share), _LEAST[spec.name]), ENTRIES_MAX)
    if conntrack_max:
        found |= dict.fromkeys((conntrack.SPEC4.name, conntrack.SPEC6.name), conntrack_max)
    if services_max:
        found |= {spec.name: services_max for spec in _SERVICES}
        found[lb.SERVICES.name] = min(services_max, lb.ID_MAX)  # its numbers have 16 bits
    return found


def _row_bytes(spec: MapSpec) -> int:
    return spec.key_size + spec.value_size + _ROW_BYTES
