"""Nodes: where endpoints live."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Prefixes and addresses are text, empty where a family is off; `addresses` are the node's own, sorted."""

    name: str
    cluster: str
    ipv4_pod_cidr: str = ""
    ipv6_pod_cidr: str = ""
    ipv4_router: str = ""
    ipv6_router: str = ""
    addresses: tuple[str, ...] = ()

    @property
    def dual_stack(self) -> bool:
        """Whether its pods have addresses of both families."""
        return bool(self.ipv4_pod_cidr and self.ipv6_pod_cidr)

    @property
    def routers(self) -> tuple[str, ...]:
        """The gateway addresses of its pods, IPv4 first."""
        return tuple(a for a in (self.ipv4_router, self.ipv6_router) if a)
