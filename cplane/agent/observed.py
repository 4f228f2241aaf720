"""What the flow parser asks: who is behind an address or a number, by the state of this moment."""

import socket
from functools import lru_cache

from cplane.domain.endpoint import Endpoint
from cplane.domain.identity import RESERVED_BY_NUMBER, NumericIdentity
from cplane.engine.engine import Engine
from cplane.hubble.parser.getters import EndpointInfo
from cplane.projections.tables import LXC
from datapath.maps.endpoints import EndpointKey
from datapath.maps.ipcache import FAMILY_V4, FAMILY_V6

_RESERVED_LABELS = {number: reserved.labels.texts() for number, reserved in RESERVED_BY_NUMBER.items()}


class Observed:
    """Hubble's getters over the engine's world."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def revision(self) -> int:
        """Grows with every event."""
        return self._engine.head

    def identity_labels(self, number: int) -> tuple[str, ...]:
        """Labels of an identity as `source:key=value`; empty for an unknown one."""
        reserved = _RESERVED_LABELS.get(NumericIdentity(number))
        if reserved is not None:
            return reserved
        held = self._engine.world.identities.get(number)
        return held.texts() if held is not None else ()

    def endpoint_by_id(self, endpoint_id: int) -> EndpointInfo | None:
        """The local endpoint of that id."""
        held = self._engine.world.endpoints.get(endpoint_id)
        return None if held is None else self._info(held)

    def endpoint_by_address(self, family: int, address: bytes) -> EndpointInfo | None:
        """The pod behind an address; `family` is 4 or 6, `address` has 4 or 16 bytes."""
        key = EndpointKey(FAMILY_V4 if family == 4 else FAMILY_V6, address.ljust(16, b"\0"))
        row = self._engine.desired(LXC).get(key)
        return None if row is None else self.endpoint_by_id(row.lxc_id)

    def interface_name(self, index: int) -> str:
        """Name of the device; empty for an unknown one."""
        return _name_of(index, self._engine.head)

    def host_interface(self, index: int) -> str:
        """What the log calls the device of that number; empty if it knows none."""
        return next((e.host_interface for e in self._engine.world.endpoints.values() if e.host_ifindex == index), "")

    def _info(self, endpoint: Endpoint) -> EndpointInfo:
        return EndpointInfo(
            endpoint_id=endpoint.id,
            namespace=endpoint.namespace,
            pod_name=endpoint.pod,
            cluster=self._engine.world.cluster,
        )


@lru_cache(maxsize=4096)
def _name_of(index: int, _revision: int) -> str:
    """Interfaces of pods come and go with events, so a name is asked for once per position."""
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""
