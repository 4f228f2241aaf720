"""Address pools: host-scope arithmetic on one prefix."""

from collections.abc import Container
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network


def router_address(prefix: Prefix) -> Address:
    """The gateway of the pods of a prefix: the first address after the network's own."""
    return prefix[1]


def reserved_addresses(prefix: Prefix) -> tuple[Address, ...]:
    """What no pod may have: the network's own (in IPv6 its subnet-router anycast), the router's, IPv4's broadcast."""
    always: tuple[Address, ...] = (prefix[0], router_address(prefix))
    return (*always, prefix[-1]) if prefix.version == 4 else always


def capacity(prefix: Prefix) -> int:
    """How many pods fit."""
    return max(0, prefix.num_addresses - len(set(reserved_addresses(prefix))))


def next_free(cidr: str, taken: Container[str], reserved: Container[str], last: str) -> str | None:
    """The next address of `cidr` after `last` (empty: from the start) that is neither taken nor reserved; None: full.

    It goes on from the last one and around, so an address that was just released rests as long as possible.
    `taken` must be finite: the search looks at one more address than there are taken and reserved ones.
    """
    prefix = ip_network(cidr)
    size = prefix.num_addresses
    start = int(ip_address(last)) - int(prefix[0]) if last else 0
    for step in range(1, size + 1):
        candidate = str(prefix[(start + step) % size])
        if candidate not in taken and candidate not in reserved:
            return candidate
    return None
