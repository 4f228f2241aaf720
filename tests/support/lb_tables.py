"""Tables of services, as an agent would write them."""

from typing import Final, NamedTuple

from datapath.maps import lb
from datapath.maps.ipcache import FAMILY_V4, FAMILY_V6
from datapath.maps.lb import (
    BACKEND_LOCAL,
    CHUNK,
    BackendEntry,
    BackendKey,
    Flow,
    FlowKey,
    LbFlags,
    LbKind,
    MaglevChunk,
    MaglevKey,
    MemberKey,
    Netdev,
    NetdevFlags,
    NetdevKey,
    Present,
    RangeKey,
    ServiceEntry,
    ServiceKey,
    SlotKey,
)
from datapath.maps.spec import MapKind
from tests.support.kernel import Node
from tests.support.packets import TCP, packed

NO_FLAGS: Final = NetdevFlags(0)


class Backend(NamedTuple):
    """One of a service; `local`: an endpoint of this node."""

    id: int
    address: str
    port: int
    local: bool = False


class Services:
    """Those of one node, and what its programs remember of connections to them."""

    def __init__(self, net: Node) -> None:
        self.net, self.maps = net, net.maps

    def forget(self) -> None:
        """No services, nothing remembered."""
        for spec in lb.SPECS:
            if spec.kind is MapKind.ARRAY:
                continue
            table = self.maps[spec.name]
            table.delete_batch(list(table.dump()))

    def device(self, ifindex: int, ipv4: str, ipv6: str, mac: bytes, flags: NetdevFlags = NO_FLAGS) -> None:
        """The node's addresses of a device to the outside; an empty one: none."""
        entry = Netdev(packed(ipv4) if ipv4 else bytes(4), packed(ipv6) if ipv6 else bytes(16), mac, flags)
        self.maps[lb.NETDEVS.name].update(NetdevKey(ifindex).pack(), entry.pack())

    def service(
        self,
        number: int,
        address: str,
        port: int,
        backends: tuple[Backend, ...],
        *,
        protocol: int = TCP,
        flags: LbFlags = LbFlags.OUTSIDE,
        kind: LbKind = LbKind.LOAD_BALANCER,
        affinity_s: int = 0,
        ranges: tuple[str, ...] = (),
        table: bytes = b"",
    ) -> None:
        """A frontend and what it needs, in the agent's order; `backends` with local ones last."""
        for one in backends:
            self.maps[lb.BACKENDS.name].update(BackendKey(one.id).pack(), _entry(one, protocol).pack())
        for slot, one in enumerate(backends, 1):
            self.maps[lb.SLOTS.name].update(SlotKey(number, slot).pack(), _entry(one, protocol).pack())
            if affinity_s:
                self.maps[lb.MEMBERS.name].update(MemberKey(number, one.id).pack(), Present().pack())
        for text in ranges:
            base, bits = text.split("/")
            key = RangeKey(number, _family(base), _wide(base), int(bits))
            self.maps[lb.RANGES.name].update(key.pack(), Present().pack())
        size = 4 * CHUNK
        for chunk, at in enumerate(range(0, len(table), size)):
            row = MaglevChunk(table[at : at + size].ljust(size, b"\0"))
            self.maps[lb.MAGLEV.name].update(MaglevKey(number, chunk).pack(), row.pack())
        local = sum(one.local for one in backends)
        first = len(backends) - local + 1 if local else 0
        entry = ServiceEntry(affinity_s, number, len(backends), first, local, flags, kind)
        service = ServiceKey(_wide(address), port, protocol, _family(address))
        self.maps[lb.SERVICES.name].update(service.pack(), entry.pack())

    def forget_backend(self, number: int, service: int, slot: int) -> None:
        """The backend is gone, as the agent would take it away."""
        self.maps[lb.SLOTS.name].delete(SlotKey(service, slot).pack())
        self.maps[lb.BACKENDS.name].delete(BackendKey(number).pack())
        self.net.datapath.bump_epoch()

    def take_backend(self, number: int) -> None:
        """The backend is gone; slots that lead to it are written by who says which ones there are."""
        self.maps[lb.BACKENDS.name].delete(BackendKey(number).pack())
        self.net.datapath.bump_epoch()

    def forget_connections(self) -> None:
        """Connections and where clients were sent."""
        for spec in (lb.FLOWS, lb.AFFINITY, lb.FRAGMENTS):
            table = self.maps[spec.name]
            table.delete_batch(list(table.dump()))

    def flows(self) -> dict[FlowKey, Flow]:
        """All rows of translated connections."""
        return {FlowKey.unpack(k): Flow.unpack(v) for k, v in self.maps[lb.FLOWS.name].dump().items()}

    def set_flow(self, key: FlowKey, flow: Flow) -> None:
        """One of them."""
        self.maps[lb.FLOWS.name].update(key.pack(), flow.pack())


def _entry(one: Backend, protocol: int) -> BackendEntry:
    flags = BACKEND_LOCAL if one.local else 0
    return BackendEntry(_wide(one.address), one.port, protocol, _family(one.address), one.id, flags)


def _family(address: str) -> int:
    return FAMILY_V6 if ":" in address else FAMILY_V4


def _wide(address: str) -> bytes:
    return packed(address).ljust(16, b"\0")
