"""What a flow says about one of its two ends, and about the device it was seen on."""

from dataclasses import dataclass
from typing import Final, NamedTuple


class Workload(NamedTuple):
    """What a pod belongs to."""

    name: str
    kind: str


class Service(NamedTuple):
    """What is reached at an address and a port."""

    name: str
    namespace: str


@dataclass(frozen=True, slots=True)
class EndpointMeta:
    """An end of a flow as it was when the packet passed. `labels` are texts in Hubble's form, sorted.

    `names` are those by which the other end got to know the address, `service` is the one of its port.
    """

    endpoint_id: int = 0
    identity: int = 0
    cluster: str = ""
    namespace: str = ""
    pod_name: str = ""
    labels: tuple[str, ...] = ()
    workloads: tuple[Workload, ...] = ()
    names: tuple[str, ...] = ()
    service: Service | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A network device; index 0: none."""

    index: int = 0
    name: str = ""


NOBODY: Final = EndpointMeta()
NO_LINK: Final = Link()
