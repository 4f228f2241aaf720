"""What a flow says about one of its two ends, and about the device it was seen on."""

from dataclasses import dataclass
from typing import Final, NamedTuple


class Workload(NamedTuple):
    """What a pod belongs to."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class EndpointMeta:
    """An end of a flow as it was when the packet passed. `labels` are texts in Hubble's form, sorted."""

    endpoint_id: int = 0
    identity: int = 0
    cluster: str = ""
    namespace: str = ""
    pod_name: str = ""
    labels: tuple[str, ...] = ()
    workloads: tuple[Workload, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """A network device; index 0: none."""

    index: int = 0
    name: str = ""


NOBODY: Final = EndpointMeta()
NO_LINK: Final = Link()
