"""Services: frontends and what leads to their backends; and what programs remember of connections to them.

A frontend is found by one lookup and a backend by a second one. Slots have the backend itself, so neither has to be
looked up by its number on the way; its number is for what outlives a change of slots.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from datapath.maps.cstruct import Field, Layout
from datapath.maps.spec import MapFlags, MapKind, MapSpec

CHUNK: Final = 64  # entries of a Maglev table that are one row
ID_MAX: Final = 65_535
PEER_SENT: Final = 1
PEER_CONNECTED: Final = 2
PEERS_MAX: Final = 65_536  # sockets that have a place of their own
RANGE_STATIC_BITS: Final = 32  # service_id, pad and family always match exactly
BACKEND_LOCAL: Final = 1
BENEATH: Final = 0x80  # added to the family of a frontend that one which redirects has taken the place of


class LbKind(IntEnum):
    """What sort of frontend it is."""

    CLUSTER_IP = 0
    NODE_PORT = 1
    EXTERNAL_IP = 2
    LOAD_BALANCER = 3
    HOST_PORT = 4
    LOCAL_REDIRECT = 5


class LbFlags(IntFlag):
    """How a frontend is served."""

    EXTERNAL_LOCAL = 1  # who comes from outside reaches this node's backends only
    INTERNAL_LOCAL = 2  # who is in the cluster does
    MAGLEV = 4  # connections from outside by the Maglev table, otherwise at random
    DSR = 8  # backends answer clients themselves
    SOURCE_RANGES = 16  # only clients of the ranges; with SOURCE_DENY only others
    SOURCE_DENY = 32
    DROP = 64  # without backends packets are dropped, not refused
    OUTSIDE = 128  # who comes from outside is served, too
    SKIP_BACKENDS = 256  # its own backends are not redirected


class NetdevFlags(IntFlag):
    """Of a device to the outside."""

    REDIRECT = 1  # takes frames from XDP programs of other devices
    MUTE = 2  # and not even what its own one sends back by it


class FlowFlags(IntFlag):
    """Of a connection that is translated packet by packet."""

    REVERSE = 1
    SNAT = 2
    DSR = 4
    CLOSING_FWD = 8
    CLOSING_REV = 16
    SEEN_NON_SYN = 32
    OWN = 64


def _address(*more: Field) -> tuple[Field, ...]:
    return (Field("addr", "bytes", 16), Field("port", "u16", big_endian=True), *more)


SERVICE_KEY: Final = Layout("lb_service_key", _address(Field("protocol", "u8"), Field("family", "u8")))
SERVICE_VALUE: Final = Layout(
    "lb_service",
    (
        Field("affinity_s", "u32"),
        Field("id", "u16"),
        Field("slots", "u16"),
        Field("local_first", "u16"),
        Field("local_count", "u16"),
        Field("flags", "u16"),
        Field("kind", "u8"),
        Field("pad", "u8"),
    ),
)
SLOT_KEY: Final = Layout("lb_slot_key", (Field("service_id", "u32"), Field("slot", "u32")))
BACKEND_KEY: Final = Layout("lb_backend_key", (Field("id", "u32"),))
BACKEND_VALUE: Final = Layout(
    "lb_backend",
    _address(Field("protocol", "u8"), Field("family", "u8"), Field("id", "u32"), Field("flags", "u32")),
)
MAGLEV_KEY: Final = Layout("lb_maglev_key", (Field("service_id", "u32"), Field("chunk", "u32")))
MAGLEV_VALUE: Final = Layout("lb_maglev", (Field("backend_id", "bytes", 4 * CHUNK),))
AFFINITY_KEY: Final = Layout(
    "lb_affinity_key",
    (Field("client", "bytes", 16), Field("service_id", "u16"), Field("netns_cookie", "u8"), Field("pad", "u8")),
)
AFFINITY_VALUE: Final = Layout("lb_affinity", (Field("backend_id", "u32"), Field("used", "u32")))
MEMBER_KEY: Final = Layout("lb_member_key", (Field("service_id", "u32"), Field("backend_id", "u32")))
MEMBER_VALUE: Final = Layout("lb_member", (Field("present", "u32"),))
SKIP_KEY: Final = Layout("lb_skip_key", (Field("netns_cookie", "u64"), Field("service_id", "u32"), Field("pad", "u32")))
SKIP_VALUE: Final = Layout("lb_skip", (Field("present", "u32"),))
RANGE_KEY: Final = Layout(
    "lb_range_key",
    (
        Field("prefixlen", "u32"),
        Field("service_id", "u16"),
        Field("pad", "u8"),
        Field("family", "u8"),
        Field("addr", "bytes", 16),
    ),
)
RANGE_VALUE: Final = Layout("lb_range", (Field("present", "u32"),))
PEER_KEY: Final = Layout("lb_peer_key", (Field("slot", "u32"),))
PEER_VALUE: Final = Layout(
    "lb_peer",
    (
        Field("cookie", "u64"),
        Field("backend", "bytes", 16),
        Field("addr", "bytes", 16),
        Field("netns_cookie", "u64"),
        Field("backend_port", "u16", big_endian=True),
        Field("port", "u16", big_endian=True),
        Field("backend_id", "u32"),
        Field("service_id", "u16"),
        Field("protocol", "u8"),
        Field("state", "u8"),
        Field("more", "u8"),
        Field("shared", "u8"),
        Field("family", "u8"),
        Field("pad", "u8"),
    ),
)
SOCK_KEY: Final = Layout(
    "lb_sock_key", (Field("cookie", "u64"), *_address(Field("family", "u16"), Field("protocol", "u32")))
)
SOCK_VALUE: Final = Layout(
    "lb_sock", _address(Field("service_id", "u16"), Field("backend_id", "u32"), Field("state", "u32"))
)
_TUPLE: Final = (
    Field("saddr", "bytes", 16),
    Field("daddr", "bytes", 16),
    Field("sport", "u16", big_endian=True),
    Field("dport", "u16", big_endian=True),
)
FLOW_KEY: Final = Layout("lb_flow_key", (*_TUPLE, Field("protocol", "u8"), Field("family", "u8"), Field("kind", "u16")))
FLOW_VALUE: Final = Layout(
    "lb_flow",
    (
        *_TUPLE,
        Field("lifetime", "u32"),
        Field("epoch", "u32"),
        Field("backend_id", "u32"),
        Field("service_id", "u16"),
        Field("flags", "u8"),
        Field("pad", "u8"),
        Field("tick", "u32"),
        Field("route", "bytes", 20),
    ),
)
FRAGMENT_KEY: Final = Layout(
    "lb_fragment_key",
    (
        Field("saddr", "bytes", 16),
        Field("daddr", "bytes", 16),
        Field("id", "u32"),
        Field("protocol", "u8"),
        Field("family", "u8"),
        Field("pad", "u16"),
    ),
)
FRAGMENT_VALUE: Final = Layout(
    "lb_fragment", (Field("sport", "u16", big_endian=True), Field("dport", "u16", big_endian=True))
)

NETDEV_KEY: Final = Layout("lb_netdev_key", (Field("ifindex", "u32"),))
NETDEV_VALUE: Final = Layout(
    "lb_netdev",
    (Field("ipv4", "bytes", 4), Field("ipv6", "bytes", 16), Field("mac", "bytes", 6), Field("flags", "u16")),
)

_GROWS: Final = MapFlags.NO_PREALLOC
SERVICES: Final = MapSpec("cplane_lb_svc", 11, MapKind.HASH, SERVICE_KEY, SERVICE_VALUE, ID_MAX, _GROWS)
SLOTS: Final = MapSpec("cplane_lb_slot", 12, MapKind.HASH, SLOT_KEY, BACKEND_VALUE, 1_048_576, _GROWS)
BACKENDS: Final = MapSpec("cplane_lb_back", 13, MapKind.HASH, BACKEND_KEY, BACKEND_VALUE, 524_288, _GROWS)
MAGLEV: Final = MapSpec("cplane_lb_magl", 14, MapKind.HASH, MAGLEV_KEY, MAGLEV_VALUE, 2_097_152, _GROWS)
AFFINITY: Final = MapSpec("cplane_lb_aff", 15, MapKind.LRU_HASH, AFFINITY_KEY, AFFINITY_VALUE, 65_536)
MEMBERS: Final = MapSpec("cplane_lb_memb", 16, MapKind.HASH, MEMBER_KEY, MEMBER_VALUE, 524_288, _GROWS)
RANGES: Final = MapSpec("cplane_lb_rng", 17, MapKind.LPM_TRIE, RANGE_KEY, RANGE_VALUE, 65_536, _GROWS)
SOCKS: Final = MapSpec("cplane_lb_sock", 18, MapKind.LRU_HASH, SOCK_KEY, SOCK_VALUE, 131_072)
PEERS: Final = MapSpec("cplane_lb_peer", 19, MapKind.ARRAY, PEER_KEY, PEER_VALUE, PEERS_MAX, MapFlags.MMAPABLE)
SKIPS: Final = MapSpec("cplane_lb_skip", 20, MapKind.HASH, SKIP_KEY, SKIP_VALUE, 65_536, _GROWS)
FLOWS: Final = MapSpec("cplane_lb_flow", 21, MapKind.LRU_HASH, FLOW_KEY, FLOW_VALUE, 131_072)
FRAGMENTS: Final = MapSpec("cplane_lb_frag", 22, MapKind.LRU_HASH, FRAGMENT_KEY, FRAGMENT_VALUE, 8_192)
NETDEVS: Final = MapSpec("cplane_lb_dev", 23, MapKind.HASH, NETDEV_KEY, NETDEV_VALUE, 256, _GROWS)

SPECS: Final = (
    *(SERVICES, SLOTS, BACKENDS, MAGLEV, AFFINITY, MEMBERS, RANGES),
    *(SOCKS, PEERS, SKIPS, FLOWS, FRAGMENTS, NETDEVS),
)


class ServiceKey(NamedTuple):
    """A frontend. `addr` is 16 bytes, an IPv4 address in the first four; all zeroes: any address of the node."""

    addr: bytes
    port: int
    protocol: int
    family: int

    def pack(self) -> bytes:
        """The map's key bytes."""
        return SERVICE_KEY.pack(*self)

    @classmethod
    def pack_all(cls, rows: Sequence["ServiceKey"]) -> bytes:
        """The bytes of many, joined."""
        return SERVICE_KEY.pack_all(rows)

    @classmethod
    def unpack(cls, data: bytes) -> "ServiceKey":
        """The inverse of `pack`."""
        return cls(*SERVICE_KEY.unpack(data))  # type: ignore[arg-type]  # the layout fixes the types


class ServiceEntry(NamedTuple):
    """How a frontend is served: new connections go to slots 1..`slots`, those of this node's backends side by side."""

    affinity_s: int
    id: int
    slots: int
    local_first: int
    local_count: int
    flags: LbFlags
    kind: LbKind

    def pack(self) -> bytes:
        """The map's value bytes."""
        return SERVICE_VALUE.pack(*self, 0)

    @classmethod
    def unpack(cls, data: bytes) -> "ServiceEntry":
        """The inverse of `pack`."""
        affinity, number, count, first, local, flags, kind, _ = (int(v) for v in SERVICE_VALUE.unpack(data))
        return cls(affinity, number, count, first, local, LbFlags(flags), LbKind(kind))


class SlotKey(NamedTuple):
    """A slot of a frontend, from 1."""

    service_id: int
    slot: int

    def pack(self) -> bytes:
        """The map's key bytes."""
        return SLOT_KEY.pack(*self)

    @classmethod
    def pack_all(cls, rows: Sequence["SlotKey"]) -> bytes:
        """The bytes of many, joined."""
        return SLOT_KEY.pack_all(rows)

    @classmethod
    def unpack(cls, data: bytes) -> "SlotKey":
        """The inverse of `pack`."""
        return cls(*SLOT_KEY.unpack(data))  # type: ignore[arg-type]  # the layout fixes the types


class BackendKey(NamedTuple):
    """The number of a backend."""

    id: int

    def pack(self) -> bytes:
        """The map's key bytes."""
        return BACKEND_KEY.pack(*self)

    @classmethod
    def pack_all(cls, rows: Sequence["BackendKey"]) -> bytes:
        """The bytes of many, joined."""
        return BACKEND_KEY.pack_all(rows)

    @classmethod
    def unpack(cls, data: bytes) -> "BackendKey":
        """The inverse of `pack`."""
        return cls(*BACKEND_KEY.unpack(data))  # type: ignore[arg-type]  # the layout fixes the types


class BackendEntry(NamedTuple):
    """Where connections of a backend go."""

    addr: bytes
    port: int
    protocol: int
    family: int
    id: int
    flags: int = 0

    def pack(self) -> bytes:
        """The map's value bytes."""
        return BACKEND_VALUE.pack(*self)

    @classmethod
    def pack_all(cls, rows: Sequence["BackendEntry"]) -> bytes:
        """The bytes of many, joined."""
        return BACKEND_VALUE.pack_all(rows)

    @classmethod
    def unpack(cls, data: bytes) -> "BackendEntry":
        """The inverse of `pack`."""
        return cls(*BACKEND_VALUE.unpack(data))  # type: ignore[arg-type]  # the layout fixes the types


class MaglevKey(NamedTuple):
    """A piece of a frontend's Maglev table, from 0."""

    service_id: int
    chunk: int

    def pack(self) -> bytes:
        """The map's key bytes."""
        return MAGLEV_KEY.pack(*self)

    @classmethod
    def pack_all(cls, rows: Sequence["MaglevKey"]) -> bytes:
        """The bytes of many, joined."""
        return MAGLEV_KEY.pack_all(rows)

    @classmethod
    def unpack(cls, data: bytes) -> "MaglevKey":
        """The inverse of `pack`."""
        return cls(*MAGLEV_KEY.unpack(data))  # type: ignore[arg-type]  # the layout fixes the types


class MaglevChunk(NamedTuple):
    """Numbers of backends as CHUNK little-endian u32; those past the table's end are 0."""

    backend_ids: bytes

    def pack(self) -> bytes:
        """The map's value bytes."""
        return self.backend_ids

    @classmethod
    def unpack(cls, data: bytes) -> "MaglevChunk":
        """The inverse of `pack`."""
        return cls(data)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The same as integers."""
        return struct.unpack(f"<{CHUNK}I", self.backend_ids)


class MemberKey(NamedTuple):
    """A backend that clients of a frontend may stay with."""

    service_id: int
    backend_id: int

    def pack(self) -> bytes:
        """The map's key bytes."""
        return MEMBER_KEY.pack(*self)

    @classmethod
    def pack_all(cls, rows: Sequence["MemberKey"]) -> bytes:
        """The bytes of many, joined."""
        return MEMBER_KEY.pack_all(rows)

    @classmethod
    def unpack(cls, data: bytes) -> "MemberKey":
        """The inverse of `pack`."""
        return cls(*MEMBER_KEY.unpack(data))  # type: ignore[arg-type]  # the layout fixes the types


class SkipKey(NamedTuple):
    """A network namespace, by its cookie, whose sockets a frontend does not redirect."""

    netns_cookie: int
    service_id: int

    def pack(self) -> bytes:
        """The map's key bytes."""
        return SKIP_KEY.pack(*self, 0)

    @classmethod
    def unpack(cls, data: bytes) -> "SkipKey":
        """The inverse of `pack`."""
        cookie, service_id, _ = SKIP_KEY.unpack(data)
        return cls(int(cookie), int(service_id))


class RangeKey(NamedTuple):
    """Clients of a frontend; `addr` as in ServiceKey, bits past `prefix_bits` zero."""

    service_id: int
    family: int
    addr: bytes
    prefix_bits: int

    def pack(self) -> bytes:
        """The map's key bytes."""
        return RANGE_KEY.pack(RANGE_STATIC_BITS + self.prefix_bits, self.service_id, 0, self.family, self.addr)

    @classmethod
    def unpack(cls, data: bytes) -> "RangeKey":
        """The inverse of `pack`."""
        prefixlen, service_id, _, family, addr = RANGE_KEY.unpack(data)
        assert isinstance(prefixlen, int) and isinstance(addr, bytes)
        return cls(int(service_id), int(family), addr, prefixlen - RANGE_STATIC_BITS)


class Present(NamedTuple):
    """That a key is there is all there is to say of it."""

    present: int = 1

    def pack(self) -> bytes:
        """The map's value bytes."""
        return MEMBER_VALUE.pack(self.present)

    @classmethod
    def unpack(cls, data: bytes) -> "Present":
        """The inverse of `pack`."""
        return cls(*MEMBER_VALUE.unpack(data))  # type: ignore[arg-type]  # the layout fixes the types


class FlowKey(NamedTuple):
    """A packet of a connection that is translated packet by packet; addresses as in ServiceKey."""

    saddr: bytes
    daddr: bytes
    sport: int
    dport: int
    protocol: int
    family: int
    kind: int = 0  # FLOW_KEY_*

    def pack(self) -> bytes:
        """The map's key bytes."""
        return FLOW_KEY.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> "FlowKey":
        """The inverse of `pack`."""
        return cls(*FLOW_KEY.unpack(data))  # type: ignore[arg-type]  # the layout fixes the types


class Flow(NamedTuple):
    """What the packet becomes. `lifetime` is in seconds of CLOCK_MONOTONIC."""

    saddr: bytes
    daddr: bytes
    sport: int
    dport: int
    lifetime: int
    epoch: int
    backend_id: int
    service_id: int
    flags: FlowFlags

    def pack(self) -> bytes:
        """The map's value bytes, without a route: programs look for it themselves."""
        return FLOW_VALUE.pack(*self, 0, 0, bytes(20))

    @classmethod
    def unpack(cls, data: bytes) -> "Flow":
        """The inverse of `pack`."""
        *rest, flags, _, _, _ = FLOW_VALUE.unpack(data)
        return cls(*rest, FlowFlags(int(flags)))  # type: ignore[arg-type, call-arg]  # the layout fixes the types


class NetdevKey(NamedTuple):
    """A device to the outside."""

    ifindex: int

    def pack(self) -> bytes:
        """The map's key bytes."""
        return NETDEV_KEY.pack(self.ifindex)

    @classmethod
    def unpack(cls, data: bytes) -> "NetdevKey":
        """The inverse of `pack`."""
        return cls(int(NETDEV_KEY.unpack(data)[0]))


class Netdev(NamedTuple):
    """The node's addresses there, 4 and 16 bytes, and its MAC: what backends of other nodes see; zeroes: none."""

    ipv4: bytes
    ipv6: bytes
    mac: bytes
    flags: NetdevFlags = NetdevFlags(0)

    def pack(self) -> bytes:
        """The map's value bytes."""
        return NETDEV_VALUE.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> "Netdev":
        """The inverse of `pack`."""
        *rest, flags = NETDEV_VALUE.unpack(data)
        return cls(*rest, NetdevFlags(int(flags)))  # type: ignore[arg-type, call-arg]  # the layout fixes the types
