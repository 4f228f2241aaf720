"""What only few flows have: a tunnel around the packet, a socket, a trace id, a request, layers without ports."""

from dataclasses import dataclass
from typing import Final, NamedTuple

ACCESS: Final = 129
"""The type of what a proxy saw, among Cilium's monitor message types; no program of the kernel emits it."""


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


class Request(NamedTuple):
    """That a flow is of layer 7. `type` is flow.L7FlowType, `record` the field of flow.Layer7: `http`, `dns`, `kafka`.

    `base` are the upper bits of its payload's place, in their place; the lower ones stand in the row.
    """

    base: int
    type: int
    record: str


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
    request: Request | None = None


NO_DETAIL: Final = Detail()
