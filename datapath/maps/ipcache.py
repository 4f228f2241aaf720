"""ipcache: prefix → identity behind it. Layout as Cilium's `cilium_ipcache_v2`."""

from typing import Final, NamedTuple

from datapath.maps.cstruct import Field, Layout
from datapath.maps.spec import MapFlags, MapKind, MapSpec

FAMILY_V4: Final = 1
FAMILY_V6: Final = 2
_STATIC_BITS: Final = 32  # cluster_id, pad and family always match exactly

KEY: Final = Layout(
    "ipcache_key",
    (
        Field("prefixlen", "u32"),
        Field("cluster_id", "u16"),
        Field("pad", "u8"),
        Field("family", "u8"),
        Field("addr", "bytes", 16),
    ),
)
VALUE: Final = Layout(
    "remote_endpoint_info",
    (
        Field("sec_identity", "u32"),
        Field("tunnel_endpoint", "bytes", 16),
        Field("pad", "u16"),
        Field("key", "u8"),
        Field("flags", "u8"),
    ),
)
SPEC: Final = MapSpec("cplane_ipcache", 1, MapKind.LPM_TRIE, KEY, VALUE, 512_000, MapFlags.NO_PREALLOC)


class IpcacheKey(NamedTuple):
    """`addr` is 16 bytes, an IPv4 address in the first four, bits past `prefix_bits` zero."""

    family: int
    addr: bytes
    prefix_bits: int

    def pack(self) -> bytes:
        """The map's key bytes."""
        return KEY.pack(_STATIC_BITS + self.prefix_bits, 0, 0, self.family, self.addr)

    @classmethod
    def unpack(cls, data: bytes) -> "IpcacheKey":
        """The inverse of `pack`."""
        prefixlen, _, _, family, addr = KEY.unpack(data)
        assert isinstance(prefixlen, int) and isinstance(family, int) and isinstance(addr, bytes)
        return cls(family, addr, prefixlen - _STATIC_BITS)


class IpcacheInfo(NamedTuple):
    """What is known of the addresses of a prefix; the tunnel endpoint is zero without an overlay."""

    identity: int
    flags: int = 0
    tunnel_endpoint: bytes = bytes(16)
    encrypt_key: int = 0

    def pack(self) -> bytes:
        """The map's value bytes."""
        return VALUE.pack(self.identity, self.tunnel_endpoint, 0, self.encrypt_key, self.flags)

    @classmethod
    def unpack(cls, data: bytes) -> "IpcacheInfo":
        """The inverse of `pack`."""
        identity, tunnel, _, key, flags = VALUE.unpack(data)
        assert (
            isinstance(identity, int) and isinstance(flags, int) and isinstance(key, int) and isinstance(tunnel, bytes)
        )
        return cls(identity, flags, tunnel, key)
