"""The endpoint tables: where to deliver to an address, and who is behind a device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from cplane.events.catalog import Event
from cplane.events.endpoint import EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.projections.addresses import mac_bytes, packed
from cplane.projections.delta import Delta, plan
from datapath.maps.endpoints import DeviceInfo, DeviceKey, EndpointInfo, EndpointKey

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Facts:
    endpoint: int
    ifindex: int
    identity: int
    ipv4: str
    ipv6: str
    mac: bytes
    host_mac: bytes


class EndpointProjection(Generic[K, V]):
    """Rows that follow from one endpoint each; `rows` says which."""

    def __init__(self, rows: Callable[[_Facts], dict[K, V]]) -> None:
        self._rows = rows
        self._facts: dict[int, _Facts] = {}
        self._table: dict[K, V] = {}

    def table(self) -> Mapping[K, V]:
        """All rows."""
        return self._table

    def apply(self, event: Event) -> Delta[K, V]:
        """What the event changes."""
        if not isinstance(event, EndpointCreated | EndpointRelabelled | EndpointDeleted):
            return Delta.nothing()
        held = self._facts.get(event.endpoint)
        now = _evolve(held, event)
        if now is None:
            self._facts.pop(event.endpoint, None)
        else:
            self._facts[event.endpoint] = now
        delta = plan(self._rows(now) if now else {}, self._rows(held) if held else {})
        self._table.update(delta.upserts)
        for key in delta.deletes:
            del self._table[key]
        return delta


def address_projection() -> EndpointProjection[EndpointKey, EndpointInfo]:
    """Rows of `cplane_lxc`: one for each address of each endpoint."""
    return EndpointProjection(_address_rows)


def device_projection() -> EndpointProjection[DeviceKey, DeviceInfo]:
    """Rows of `cplane_devices`: one for each endpoint. The policy of an endpoint is that of its identity."""
    return EndpointProjection(_device_rows)


def _address_rows(f: _Facts) -> dict[EndpointKey, EndpointInfo]:
    info = EndpointInfo(f.ifindex, f.identity, f.identity, f.endpoint, 0, f.mac, f.host_mac)
    return {EndpointKey(*packed(address)): info for address in (f.ipv4, f.ipv6) if address}


def _device_rows(f: _Facts) -> dict[DeviceKey, DeviceInfo]:
    ipv4 = packed(f.ipv4)[1][:4] if f.ipv4 else bytes(4)
    ipv6 = packed(f.ipv6)[1] if f.ipv6 else bytes(16)
    return {DeviceKey(f.ifindex): DeviceInfo(f.identity, f.identity, f.endpoint, 0, ipv4, ipv6, f.mac, f.host_mac)}


def _evolve(held: _Facts | None, event: EndpointCreated | EndpointRelabelled | EndpointDeleted) -> _Facts | None:
    if isinstance(event, EndpointCreated):
        mac, host_mac = mac_bytes(event.mac), mac_bytes(event.host_mac)
        return _Facts(event.endpoint, event.host_ifindex, event.identity, event.ipv4, event.ipv6, mac, host_mac)
    if isinstance(event, EndpointRelabelled) and held is not None:
        return replace(held, identity=event.identity)
    return None
