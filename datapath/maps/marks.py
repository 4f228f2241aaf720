"""Marks of packets and sockets by which programs and proxies know each other, as bpf/lib/mark.h has them."""

from typing import Final

MASK: Final = 0xF00
TO_PROXY: Final = 0x200
"""A packet that a proxy is to have; it is routed to the node itself."""
FROM_INGRESS_PROXY: Final = 0xA00
FROM_EGRESS_PROXY: Final = 0xB00
PORT_SHIFT: Final = 16


def from_proxy(direction: int) -> int:
    """Of what a proxy sends to a server, by the direction of the policy that redirected its client."""
    return FROM_EGRESS_PROXY if direction else FROM_INGRESS_PROXY


def of_listener(port: int) -> int:
    """Of who listens at a proxy port, and so of the connections that it accepts: without it they are not found."""
    return port << PORT_SHIFT
