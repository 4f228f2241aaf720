"""Every map and every layout: the one list that loader, command line and proofs walk."""

from typing import Final

from datapath.maps import conntrack, endpoints, ipcache, lb, metrics, policy, state
from datapath.maps.cstruct import Field, Layout
from datapath.maps.spec import MapKind, MapSpec

SCRATCH: Final = MapSpec(
    "cplane_scratch",
    10,
    MapKind.PERCPU_ARRAY,
    state.KEY,
    Layout("scratch", (Field("bytes", "bytes", 512),)),
    1,
)
EVENTS: Final = MapSpec("cplane_events", 9, MapKind.RINGBUF, None, None, 4 << 20)

SPECS: Final[tuple[MapSpec, ...]] = (
    ipcache.SPEC,
    policy.SPEC,
    endpoints.ADDRESS_SPEC,
    endpoints.DEVICE_SPEC,
    state.SPEC,
    conntrack.SPEC4,
    conntrack.SPEC6,
    metrics.SPEC,
    EVENTS,
    SCRATCH,
    *lb.SPECS,
)

LAYOUTS: Final[tuple[Layout, ...]] = tuple(
    dict.fromkeys(layout for spec in SPECS for layout in (spec.key, spec.value) if layout is not None)
)


def proofs(*more: Layout) -> str:
    """C text that compiles against bpf/lib/types.h exactly when every layout here, and in `more`, is the compiler's."""
    return "".join(layout.proof() for layout in (*LAYOUTS, *more))
