"""Facts about nodes."""

import msgspec


class NodeJoined(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A node takes part; `local` says that this log is its own.

    `ipv4_router` and `ipv6_router` are the gateway addresses of its pods, without a mask; empty: family off.
    """

    name: str
    cluster: str
    local: bool
    ipv4_pod_cidr: str = ""
    ipv6_pod_cidr: str = ""
    ipv4_router: str = ""
    ipv6_router: str = ""


class NodeAddressesChanged(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The node answers under these addresses now, sorted, its router addresses not included."""

    name: str
    addresses: tuple[str, ...]
