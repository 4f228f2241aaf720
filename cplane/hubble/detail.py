"""What only few flows have: a tunnel around the packet, a socket, a trace id, layers that have no ports."""

from dataclasses import dataclass
from typing import Final, NamedTuple


class Tunnel(NamedTuple):
    """The packet around the packet. `protocol` is flow.Tunnel.Protocol, `ip_version` flow.IPVersion."""

    protocol: int
    vni: int
    ip_version: int
    source: str
    destination: str
    sport: int
    dport: int


class Vrrp(NamedTuple):
    """Of an advertisement (RFC 5798, 5.1)."""

    type: int
    router: int
    priority: int


class Igmp(NamedTuple):
    """Of a message (RFC 2236, 2)."""

    type: int
    group: str


@dataclass(frozen=True, slots=True)
class Detail:
    """Beyond what every flow has. Numbers are 0 and texts empty where there is nothing to say.

    `source_xlated` is the source address that the packet had in place of the flow's one. `socket_base` are the upper
    32 bits of a socket's cookie, in their place; the lower ones stand in the row.
    """

    tunnel: Tunnel | None = None
    vrrp: Vrrp | None = None
    igmp: Igmp | None = None
    source_xlated: str = ""
    encrypted: bool = False
    nonce_sum: bool = False  # the ninth TCP flag
    auth_type: int = 0
    trace_id: int = 0
    socket_base: int = 0
    cgroup_id: int = 0


NO_DETAIL: Final = Detail()
