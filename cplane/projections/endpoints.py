"""The endpoint tables: where to deliver to an address, and who is behind a device."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from cplane.events.catalog import Event
from cplane.events.config import OptionsChanged
from cplane.events.endpoint import EndpointConfigured, EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.projections.addresses import mac_bytes, packed
from cplane.projections.delta import Delta, plan
from datapath.maps.endpoints import FLAG_AUDIT, DeviceInfo, DeviceKey, EndpointInfo, EndpointKey

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Facts:
    endpoint: int
    ifindex: int
    identity: int
    policy: int
    audit: bool
    ipv4: str
    ipv6: str
    mac: bytes
    host_mac: bytes


class EndpointProjection(Generic[K, V]):
    """Rows that follow from one endpoint each; `rows` says which, given the flags of the endpoint."""

    def __init__(self, rows: Callable[[_Facts, int], dict[K, V]]) -> None:
        self._rows = rows
        self._facts: dict[int, _Facts] = {}
        self._table: dict[K, V] = {}
        self._audit = False

    def table(self) -> Mapping[K, V]:
        """All rows."""
        return self._table

    def apply(self, event: Event) -> Delta[K, V]:
        """What the event changes."""
        match event:
            case OptionsChanged():
                before = self._rows_of(self._facts.values())
                self._audit = event.policy_audit
                return self._write(self._rows_of(self._facts.values()), before)
            case EndpointCreated() | EndpointRelabelled() | EndpointConfigured() | EndpointDeleted():
                held = self._facts.get(event.endpoint)
                now = _evolve(held, event)
                if now is None:
                    self._facts.pop(event.endpoint, None)
                else:
                    self._facts[event.endpoint] = now
                return self._write(self._rows_of([now] if now else []), self._rows_of([held] if held else []))
            case _:
                return Delta.nothing()

    def _rows_of(self, found: Iterable[_Facts]) -> dict[K, V]:
        rows: dict[K, V] = {}
        for one in found:
            rows.update(self._rows(one, FLAG_AUDIT if one.audit or self._audit else 0))
        return rows

    def _write(self, now: dict[K, V], before: dict[K, V]) -> Delta[K, V]:
        delta = plan(now, before)
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


def _address_rows(f: _Facts, flags: int) -> dict[EndpointKey, EndpointInfo]:
    info = EndpointInfo(f.ifindex, f.identity, f.policy, f.endpoint, flags, f.mac, f.host_mac)
    return {EndpointKey(*packed(address)): info for address in (f.ipv4, f.ipv6) if address}


def _device_rows(f: _Facts, flags: int) -> dict[DeviceKey, DeviceInfo]:
    ipv4 = packed(f.ipv4)[1][:4] if f.ipv4 else bytes(4)
    ipv6 = packed(f.ipv6)[1] if f.ipv6 else bytes(16)
    info = DeviceInfo(f.identity, f.policy, f.endpoint, flags, ipv4, ipv6, f.mac, f.host_mac)
    return {DeviceKey(f.ifindex): info}


def _evolve(
    held: _Facts | None, event: EndpointCreated | EndpointRelabelled | EndpointConfigured | EndpointDeleted
) -> _Facts | None:
    match event:
        case EndpointCreated():
            return _Facts(
                endpoint=event.endpoint,
                ifindex=event.host_ifindex,
                identity=event.identity,
                policy=event.policy or event.identity,
                audit=event.audit,
                ipv4=event.ipv4,
                ipv6=event.ipv6,
                mac=mac_bytes(event.mac),
                host_mac=mac_bytes(event.host_mac),
            )
        case EndpointRelabelled() if held is not None:
            return replace(held, identity=event.identity, policy=event.policy or event.identity)
        case EndpointConfigured() if held is not None:
            return replace(held, audit=event.audit)
        case _:
            return None
