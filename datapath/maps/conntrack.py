"""Conntrack: one entry per endpoint and connection, written by the kernel, read and swept by us."""

import struct
from enum import IntFlag
from typing import Final, NamedTuple

from datapath.maps.cstruct import Field, Layout
from datapath.maps.ipcache import FAMILY_V4, FAMILY_V6
from datapath.maps.spec import MapKind, MapSpec

FLAVOUR_PORTS: Final = 0  # ports tell the two sides apart
FLAVOUR_LOW_ASKS: Final = 1  # an ICMP query of the first side
FLAVOUR_HIGH_ASKS: Final = 2


def _key(c_name: str, address_bytes: int) -> Layout:
    return Layout(
        c_name,
        (
            Field("addr", "bytes", 2 * address_bytes),
            Field("port", "bytes", 4),
            Field("lxc_id", "u16"),
            Field("protocol", "u8"),
            Field("flavour", "u8"),
        ),
    )


KEY4: Final = _key("ct4_key", 4)
KEY6: Final = _key("ct6_key", 16)
VALUE: Final = Layout(
    "ct_entry",
    (
        Field("epoch", "u64"),
        Field("lifetime", "u32"),
        Field("peer_identity", "u32"),
        Field("cookie", "u32"),
        Field("reported_fwd", "u16"),
        Field("reported_rev", "u16"),
        Field("proxy_port", "u16", big_endian=True),
        Field("pad2", "u16"),
        Field("flags", "u8"),
        Field("seen_fwd", "u8"),
        Field("seen_rev", "u8"),
        Field("pad", "u8"),
    ),
)
SPEC4: Final = MapSpec("cplane_ct4", 6, MapKind.LRU_HASH, KEY4, VALUE, 524_288)
SPEC6: Final = MapSpec("cplane_ct6", 7, MapKind.LRU_HASH, KEY6, VALUE, 524_288)


class CtFlags(IntFlag):
    """State of a connection."""

    INITIATOR_LOW = 1  # the first side of the key opened it
    SEEN_NON_SYN = 2
    CLOSING_FWD = 4  # FIN from the initiator; RST sets both
    CLOSING_REV = 8
    AUDITED = 16  # its last judgement was a refusal that let it through, and a record has told so
    PROXIED = 32  # the initiator speaks with a proxy of this node
    FROM_PROXY = 64  # the initiator is one


class CtKey(NamedTuple):
    """A connection as the endpoint `lxc_id` sees it. Addresses are 4 or 16 bytes; the smaller side is first.

    An ICMP query has its identifier in the asker's port and its request type in the other.
    """

    lxc_id: int
    protocol: int
    low: bytes
    high: bytes
    low_port: int
    high_port: int
    flavour: int = FLAVOUR_PORTS

    @property
    def family(self) -> int:
        """As in the ipcache."""
        return FAMILY_V4 if len(self.low) == 4 else FAMILY_V6

    @classmethod
    def of(cls, lxc_id: int, protocol: int, source: tuple[bytes, int], destination: tuple[bytes, int]) -> "CtKey":
        """The key under which the kernel keeps a TCP, UDP or SCTP connection between two (address, port)."""
        low, high = sorted((source, destination), key=_order)
        return cls(lxc_id, protocol, low[0], high[0], low[1], high[1])

    def pack(self) -> bytes:
        """The map's key bytes."""
        ports = struct.pack(">HH", self.low_port, self.high_port)
        layout = KEY4 if len(self.low) == 4 else KEY6
        return layout.pack(self.low + self.high, ports, self.lxc_id, self.protocol, self.flavour)

    @classmethod
    def unpack(cls, data: bytes) -> "CtKey":
        """The inverse of `pack`, of either family."""
        layout = KEY4 if len(data) == KEY4.size else KEY6
        addresses, ports, lxc_id, protocol, flavour = layout.unpack(data)
        assert isinstance(addresses, bytes) and isinstance(ports, bytes)
        half = len(addresses) // 2
        low_port, high_port = struct.unpack(">HH", ports)
        return cls(int(lxc_id), int(protocol), addresses[:half], addresses[half:], low_port, high_port, int(flavour))


class CtEntry(NamedTuple):
    """State of a connection; times are seconds of CLOCK_MONOTONIC, and past `lifetime` the entry does not exist.

    `reported_fwd` and `reported_rev` are modulo 2^16. `proxy_port` counts where `flags` has PROXIED.
    """

    epoch: int
    lifetime: int
    peer_identity: int
    cookie: int
    reported_fwd: int
    reported_rev: int
    flags: CtFlags
    seen_fwd: int
    seen_rev: int
    proxy_port: int = 0

    def pack(self) -> bytes:
        """The map's value bytes."""
        *times, fwd, rev, flags, seen_fwd, seen_rev, proxy_port = self
        return VALUE.pack(*times, fwd & 0xFFFF, rev & 0xFFFF, proxy_port, 0, flags, seen_fwd, seen_rev, 0)

    @classmethod
    def unpack(cls, data: bytes) -> "CtEntry":
        """The inverse of `pack`."""
        epoch, lifetime, peer, cookie, fwd, rev, port, _, flags, seen_fwd, seen_rev, _ = map(int, VALUE.unpack(data))
        return cls(epoch, lifetime, peer, cookie, fwd, rev, CtFlags(flags), seen_fwd, seen_rev, port)


def _order(side: tuple[bytes, int]) -> tuple[int, int]:
    """The kernel's order: as numbers whose least significant byte comes first in memory."""
    address, port = side
    return int.from_bytes(address, "little"), int.from_bytes(port.to_bytes(2, "big"), "little")
