"""A datapath without a kernel: the same maps, the same lookups, packets that are asked about instead of sent.

It judges single packets and tracks no connections: every packet is the first of one.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datapath.maps import endpoints, ipcache, lb, policy
from datapath.maps.endpoints import DeviceInfo, DeviceKey, EndpointInfo, EndpointKey
from datapath.maps.ipcache import FAMILY_V4, FAMILY_V6, IpcacheInfo, IpcacheKey
from datapath.maps.memory import MemoryMap
from datapath.maps.metrics import MetricsDirection, MetricsKey, MetricsValue
from datapath.maps.policy import PolicyEntry, PolicyKey
from datapath.notify.records import DTYPE, RECORD, RecordFlags, RecordType, TracePoint, TraceReason
from datapath.targets.map import MapTarget

RECORDS_MAX: Final = 16_384  # that nobody has drained; a further one is counted as lost

INGRESS: Final = 0
EGRESS: Final = 1
WORLD: Final = 2
HOST: Final = 1
_ICMP: Final = frozenset({1, 58})
_TCP: Final = 6
_SYN: Final = 0x02
_ADDRESS_BITS: Final = 128


class Judgement(NamedTuple):
    """What a policy says: `reason` is the drop reason, 0 when it allows; `match_type` and `cookie` as in records.

    `audited`: it allows, and its audit plane must be asked too.
    """

    reason: int
    match_type: int
    cookie: int
    audited: bool = False


PolicyLookup = Callable[[Callable[[PolicyKey], PolicyEntry | None], int, int, int, int, int], Judgement]
"""(how to read an entry, policy id, peer's identity, direction, protocol, port) → the policy's word."""


class Packet(NamedTuple):
    """The first packet of a connection. For ICMP `dport` is the message type. Addresses are of one family."""

    source: str
    destination: str
    protocol: int
    sport: int
    dport: int


class Outcome(NamedTuple):
    """`reason` is the drop reason, 0 when the packet is let through; `egress` tells whose policy dropped it."""

    reason: int
    egress: bool


class _Party(NamedTuple):
    """One end of a packet; `policy_id` and `lxc_id` are 0 where it is not a local endpoint."""

    identity: int
    policy_id: int
    lxc_id: int
    flags: int = 0


class AttachedPrograms:
    """Which devices would have our programs."""

    def __init__(self) -> None:
        self._devices: dict[DeviceKey, None] = {}

    def dump(self) -> dict[DeviceKey, None]:
        """The devices."""
        return dict(self._devices)

    def upsert(self, entries: Mapping[DeviceKey, None]) -> None:
        """Every device has them."""
        self._devices.update(entries)

    def delete(self, keys: Collection[DeviceKey]) -> None:
        """None of the devices has them."""
        for key in keys:
            self._devices.pop(key, None)


class MemoryDatapath:
    """Maps by the names of their tables, and what the programs would do with them."""

    def __init__(self, look_up: PolicyLookup, clock_ns: Callable[[], int]) -> None:
        self._look_up, self._clock_ns = look_up, clock_ns
        self._policy = MemoryMap(policy.SPEC)
        self._ipcache = MemoryMap(ipcache.SPEC)
        self._lxc = MemoryMap(endpoints.ADDRESS_SPEC)
        self._devices = MemoryMap(endpoints.DEVICE_SPEC)
        self._records: deque[bytes] = deque()
        self._traffic: Counter[MetricsKey] = Counter()
        self.position = 0
        self.lost = 0
        self.policy = MapTarget(self._policy, PolicyKey, PolicyEntry)
        self.ipcache = MapTarget(self._ipcache, IpcacheKey, IpcacheInfo)
        self.lxc = MapTarget(self._lxc, EndpointKey, EndpointInfo)
        self.devices = MapTarget(self._devices, DeviceKey, DeviceInfo)
        self.programs = AttachedPrograms()
        self.services = {spec.name: MemoryMap(spec) for spec in lb.SPECS}

    def publish(self, position: int) -> None:
        """All tables of the log position `position` are written."""
        self.position = position

    def drain(self, max_records: int) -> npt.NDArray[np.void]:
        """Up to `max_records` of the oldest records, as DTYPE."""
        count = min(max_records, len(self._records))
        return np.frombuffer(b"".join(self._records.popleft() for _ in range(count)), DTYPE)

    def judge(self, packet: Packet) -> Outcome:
        """What the programs would do with the packet; records about it wait to be drained."""
        source, target = self._party(packet.source), self._party(packet.destination)
        if source.policy_id:
            reason = self._side(packet, source, target, egress=True)
            if reason:
                self._traffic[MetricsKey(reason, MetricsDirection.EGRESS)] += 1
                return Outcome(reason, egress=True)
        if target.policy_id:
            reason = self._side(packet, source, target, egress=False)
            self._traffic[MetricsKey(reason, MetricsDirection.INGRESS)] += 1
            if reason:
                return Outcome(reason, egress=False)
            self._trace(packet, source, target, TracePoint.TO_ENDPOINT)
        elif source.policy_id:
            point = TracePoint.TO_HOST if target.identity == HOST else TracePoint.TO_STACK
            self._trace(packet, source, target, point)
        return Outcome(0, egress=False)

    def traffic(self) -> dict[MetricsKey, MetricsValue]:
        """What became of the packets so far, counted as the kernel does; they have no size."""
        return {key: MetricsValue(packets, 0) for key, packets in self._traffic.items()}

    def _party(self, address: str) -> _Party:
        family, addr = _bytes_of(address)
        row = self._lxc.lookup(EndpointKey(family, addr).pack())
        if row is not None:
            info = EndpointInfo.unpack(row)
            return _Party(info.identity, info.policy_id, info.lxc_id, info.flags)
        bits = 32 if family == FAMILY_V4 else _ADDRESS_BITS
        row = self._ipcache.lookup(IpcacheKey(family, addr, bits).pack())
        return _Party(IpcacheInfo.unpack(row).identity if row is not None else WORLD, 0, 0)

    def _side(self, packet: Packet, source: _Party, target: _Party, *, egress: bool) -> int:
        own, peer = (source, target) if egress else (target, source)
        direction = EGRESS if egress else INGRESS
        flags = RecordFlags.EGRESS if egress else RecordFlags(0)
        word = self._look_up(self._entry, own.policy_id, peer.identity, direction, packet.protocol, packet.dport)
        audited = bool(own.flags & endpoints.FLAG_AUDIT)
        if not word.reason and word.audited:
            plane = own.policy_id | policy.AUDIT_PLANE
            other = self._look_up(self._entry, plane, peer.identity, direction, packet.protocol, packet.dport)
            word, audited = (other, True) if other.reason else (word, audited)
        if word.reason and audited:
            verdict, audit = RecordType.POLICY_VERDICT, flags | RecordFlags.AUDITED
            self._emit(packet, source, target, verdict, audit, word=word)
            return 0
        self._emit(packet, source, target, RecordType.POLICY_VERDICT, flags, word=word)
        if word.reason:
            self._emit(packet, source, target, RecordType.DROP, flags, subtype=word.reason, word=word)
        return word.reason

    def _entry(self, key: PolicyKey) -> PolicyEntry | None:
        row = self._policy.lookup_exact(key.pack())
        return None if row is None else PolicyEntry.unpack(row)

    def _trace(self, packet: Packet, source: _Party, target: _Party, point: TracePoint) -> None:
        flags = RecordFlags(0) if point is TracePoint.TO_ENDPOINT else RecordFlags.EGRESS
        self._emit(packet, source, target, RecordType.TRACE, flags, subtype=point)

    def _emit(
        self,
        packet: Packet,
        source: _Party,
        target: _Party,
        kind: RecordType,
        flags: RecordFlags,
        *,
        subtype: int = 0,
        word: Judgement | None = None,
    ) -> None:
        if len(self._records) >= RECORDS_MAX:
            self.lost += 1
            return
        family, saddr = _bytes_of(packet.source)
        flags |= RecordFlags.REPLY_KNOWN | (RecordFlags.IPV6 if family == FAMILY_V6 else RecordFlags(0))
        icmp = packet.protocol in _ICMP
        fields = {
            "time_ns": self._clock_ns(),
            "position": self.position,
            "type": kind,
            "subtype": subtype,
            "flags": flags,
            "match_type": word.match_type if word else 0,
            "trace_reason": TraceReason.NEW if kind is RecordType.TRACE else TraceReason.UNKNOWN,
            "protocol": packet.protocol,
            "tcp_flags": _SYN if packet.protocol == _TCP else 0,
            "saddr": saddr,
            "daddr": _bytes_of(packet.destination)[1],
            "sport": 0 if icmp else packet.sport,
            "dport": 0 if icmp else packet.dport,
            "src_identity": source.identity,
            "dst_identity": target.identity,
            "src_lxc": source.lxc_id,
            "dst_lxc": target.lxc_id,
            "verdict": -word.reason if word and kind is RecordType.POLICY_VERDICT else 0,
            "cookie": word.cookie if word else 0,
            "icmp_type": packet.dport if icmp else 0,
        }
        values = (fields.get(f.name, bytes(f.count) if f.kind == "bytes" else 0) for f in RECORD.fields)
        self._records.append(RECORD.pack(*values))


def _bytes_of(address: str) -> tuple[int, bytes]:
    parsed = ip_address(address)
    return (FAMILY_V4 if parsed.version == 4 else FAMILY_V6), parsed.packed.ljust(16, b"\0")
