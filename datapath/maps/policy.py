"""Policy map: (policy, peer identity, direction, protocol, port prefix) → what to do.

One LPM trie serves all endpoints; `policy_id` names a resolved policy, and the endpoint maps say which one
an endpoint obeys. So endpoints of one identity share their entries, a new endpoint needs no map of its own,
and switching an endpoint to another policy is one atomic write.
"""

import struct
from typing import Final, NamedTuple

from datapath.maps.cstruct import Field, Layout
from datapath.maps.spec import MapFlags, MapKind, MapSpec

STATIC_BITS: Final = 72  # policy_id, sec_label and direction always match exactly
FULL_L4_BITS: Final = 24  # protocol (8) and port (16)
ENTRIES_PER_POLICY: Final = 16_384

FLAG_DENY: Final = 1  # bits of policy_entry.flags; bits 3..7 hold the L4 prefix length
FLAG_AUDITED: Final = 2
FLAG_AUTH_SAID: Final = 4
AUDIT_PLANE: Final = 1 << 31  # added to a policy's number: what else would be enforced, were it not only audited

KEY: Final = Layout(
    "policy_key",
    (
        Field("prefixlen", "u32"),
        Field("policy_id", "u32"),
        Field("sec_label", "u32"),
        Field("direction", "u8"),
        Field("protocol", "u8"),
        Field("dport", "u16", big_endian=True),
    ),
)
VALUE: Final = Layout(
    "policy_entry",
    (
        Field("proxy_port", "u16", big_endian=True),
        Field("flags", "u8"),
        Field("auth_type", "u8"),
        Field("precedence", "u32"),
        Field("cookie", "u32"),
    ),
)
_PACK: Final = struct.Struct("<IIIBBBB").pack  # as KEY packs; there can be a quarter of a million at once
assert _PACK(96, 1, 2, 1, 6, 0x1F, 0x90) == KEY.pack(96, 1, 2, 1, 6, 0x1F90), "both packers know one layout"

SPEC: Final = MapSpec("cplane_policy", 2, MapKind.LPM_TRIE, KEY, VALUE, 2_000_000, MapFlags.NO_PREALLOC)


class PolicyKey(NamedTuple):
    """`direction` 0 ingress, 1 egress; `identity` 0 any.

    The first `l4_bits` of protocol and port are matched: 0, 8, or 8 + 1..16.
    """

    policy_id: int
    identity: int
    direction: int
    protocol: int
    port: int
    l4_bits: int

    def pack(self) -> bytes:
        """The map's key bytes."""
        policy_id, identity, direction, protocol, port, l4_bits = self
        return _PACK(STATIC_BITS + l4_bits, policy_id, identity, direction, protocol, port >> 8, port & 0xFF)

    @classmethod
    def unpack(cls, data: bytes) -> "PolicyKey":
        """The inverse of `pack`."""
        prefixlen, policy_id, identity, direction, protocol, port = (int(v) for v in KEY.unpack(data))
        return cls(policy_id, identity, direction, protocol, port, prefixlen - STATIC_BITS)


class PolicyEntry(NamedTuple):
    """`precedence` higher wins; `cookie` names the rules that made the entry; `l4_bits` repeats the key's.

    `audited`: what it allows is looked up in the policy's audit plane too. `auth_said`: `auth_type` is what its own
    terms say, so that of a packet's other entry does not matter.
    """

    deny: bool
    precedence: int
    l4_bits: int
    cookie: int = 0
    proxy_port: int = 0
    auth_type: int = 0
    audited: bool = False
    auth_said: bool = False

    def pack(self) -> bytes:
        """The map's value bytes."""
        flags = (FLAG_DENY if self.deny else 0) | (FLAG_AUDITED if self.audited else 0)
        flags |= (FLAG_AUTH_SAID if self.auth_said else 0) | self.l4_bits << 3
        return VALUE.pack(self.proxy_port, flags, self.auth_type, self.precedence, self.cookie)

    @classmethod
    def unpack(cls, data: bytes) -> "PolicyEntry":
        """The inverse of `pack`."""
        proxy_port, flags, auth_type, precedence, cookie = (int(v) for v in VALUE.unpack(data))
        deny, audited, said = (bool(flags & flag) for flag in (FLAG_DENY, FLAG_AUDITED, FLAG_AUTH_SAID))
        return cls(deny, precedence, flags >> 3, cookie, proxy_port, auth_type, audited, said)
