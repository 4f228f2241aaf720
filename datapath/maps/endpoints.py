"""Local endpoints: by address (where to deliver) and by device (who sends and receives there)."""

from typing import Final, NamedTuple

from datapath.maps.cstruct import Field, Layout
from datapath.maps.spec import MapKind, MapSpec

FLAG_HOST: Final = 1  # the address is the node's own, not a pod's
FLAG_AUDIT: Final = 2  # what policies would drop of the endpoint's traffic passes

ADDRESS_KEY: Final = Layout(
    "endpoint_key",
    (Field("addr", "bytes", 16), Field("family", "u8"), Field("key", "u8"), Field("cluster_id", "u16")),
)
ADDRESS_VALUE: Final = Layout(
    "endpoint_info",
    (
        Field("ifindex", "u32"),
        Field("sec_id", "u32"),
        Field("policy_id", "u32"),
        Field("lxc_id", "u16"),
        Field("flags", "u16"),
        Field("mac", "bytes", 6),
        Field("node_mac", "bytes", 6),
    ),
)
ADDRESS_SPEC: Final = MapSpec("cplane_lxc", 3, MapKind.HASH, ADDRESS_KEY, ADDRESS_VALUE, 65_535)

DEVICE_KEY: Final = Layout("device_key", (Field("ifindex", "u32"),))
DEVICE_VALUE: Final = Layout(
    "device_info",
    (
        Field("sec_id", "u32"),
        Field("policy_id", "u32"),
        Field("lxc_id", "u16"),
        Field("flags", "u16"),
        Field("ipv4", "bytes", 4),
        Field("ipv6", "bytes", 16),
        Field("mac", "bytes", 6),
        Field("node_mac", "bytes", 6),
    ),
)
DEVICE_SPEC: Final = MapSpec("cplane_devices", 4, MapKind.HASH, DEVICE_KEY, DEVICE_VALUE, 65_535)


class EndpointKey(NamedTuple):
    """`addr` is 16 bytes, an IPv4 address in the first four; `family` as in the ipcache."""

    family: int
    addr: bytes

    def pack(self) -> bytes:
        """The map's key bytes."""
        return ADDRESS_KEY.pack(self.addr, self.family, 0, 0)

    @classmethod
    def unpack(cls, data: bytes) -> "EndpointKey":
        """The inverse of `pack`."""
        addr, family, _, _ = ADDRESS_KEY.unpack(data)
        assert isinstance(addr, bytes) and isinstance(family, int)
        return cls(family, addr)


class EndpointInfo(NamedTuple):
    """How to hand a packet to a local endpoint.

    MACs are six bytes; `node_mac` is that of the node's side of the pair.
    """

    ifindex: int
    identity: int
    policy_id: int
    lxc_id: int
    flags: int
    mac: bytes
    node_mac: bytes

    def pack(self) -> bytes:
        """The map's value bytes."""
        return ADDRESS_VALUE.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> "EndpointInfo":
        """The inverse of `pack`."""
        return cls(*ADDRESS_VALUE.unpack(data))  # type: ignore[arg-type]  # the layout fixes the types


class DeviceKey(NamedTuple):
    """The node's side of a pod's interface."""

    ifindex: int

    def pack(self) -> bytes:
        """The map's key bytes."""
        return DEVICE_KEY.pack(self.ifindex)

    @classmethod
    def unpack(cls, data: bytes) -> "DeviceKey":
        """The inverse of `pack`."""
        return cls(int(DEVICE_KEY.unpack(data)[0]))


class DeviceInfo(NamedTuple):
    """Who is behind a device: its identity, its policy and the only source addresses it may use."""

    identity: int
    policy_id: int
    lxc_id: int
    flags: int
    ipv4: bytes
    ipv6: bytes
    mac: bytes
    node_mac: bytes

    def pack(self) -> bytes:
        """The map's value bytes."""
        return DEVICE_VALUE.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> "DeviceInfo":
        """The inverse of `pack`."""
        return cls(*DEVICE_VALUE.unpack(data))  # type: ignore[arg-type]  # the layout fixes the types
