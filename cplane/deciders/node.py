"""The local node: it joins with its prefixes, and its addresses change."""

from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from cplane.deciders import ipam
from cplane.deciders.decider import NOTHING, Decision
from cplane.deciders.ipam import POOL_OF_FAMILY, IpamState
from cplane.domain.ipam import capacity, router_address
from cplane.domain.node import Node
from cplane.errors import Rejected
from cplane.events.envelope import NODE
from cplane.events.node import NodeAddressesChanged, NodeJoined


class BadPrefix(Rejected):
    """A pod prefix cannot be used."""

    code = "node.bad_prefix"

    def __init__(self, text: str, reason: str) -> None:
        self.text, self.reason = text, reason

    def __str__(self) -> str:
        return f"pod prefix {self.text!r}: {self.reason}"


class OtherNode(Rejected):
    """The log belongs to another node or cluster."""

    code = "node.other"

    def __init__(self, held: Node, name: str, cluster: str) -> None:
        self.held, self.name, self.cluster = held, name, cluster

    def __str__(self) -> str:
        return (
            f"this log belongs to node {self.held.name!r} of cluster {self.held.cluster!r}, not to {self.name!r} of "
            f"{self.cluster!r}: give the agent its own log, or start it under the old name"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinNode:
    """This node takes part; prefixes are text, empty where a family is off."""

    name: str
    cluster: str
    ipv4_pod_cidr: str
    ipv6_pod_cidr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNodeAddresses:
    """The node answers under these addresses now."""

    addresses: tuple[str, ...]


def decide_join(command: JoinNode, held: Node | None, pools: IpamState) -> Decision:
    """NodeJoined and its pools, where anything is new."""
    if held is not None and (held.name, held.cluster) != (command.name, command.cluster):
        raise OtherNode(held, command.name, command.cluster)
    event = NodeJoined(
        name=command.name,
        cluster=command.cluster,
        local=True,
        ipv4_pod_cidr=command.ipv4_pod_cidr,
        ipv6_pod_cidr=command.ipv6_pod_cidr,
        ipv4_router=_router(command.ipv4_pod_cidr, 4),
        ipv6_router=_router(command.ipv6_pod_cidr, 6),
    )
    added: Decision = NOTHING
    for family, cidr in ((4, command.ipv4_pod_cidr), (6, command.ipv6_pod_cidr)):
        if cidr:
            added += ipam.add_pool(pools, POOL_OF_FAMILY[family], cidr)
    same = held is not None and _joined(event, held) == held
    return added if same else ((NODE, event), *added)


def decide_addresses(command: SetNodeAddresses, held: Node | None) -> Decision:
    """NodeAddressesChanged, where they differ."""
    if held is None:
        raise Rejected("the node has not joined yet")
    addresses = tuple(sorted({str(ip_address(a)) for a in command.addresses} - set(held.routers)))
    if addresses == held.addresses:
        return NOTHING
    return ((NODE, NodeAddressesChanged(name=held.name, addresses=addresses)),)


def evolve(held: Node | None, event: NodeJoined | NodeAddressesChanged) -> Node | None:
    """The local node after one more fact."""
    if isinstance(event, NodeJoined):
        return _joined(event, held)
    return replace(held, addresses=event.addresses) if held is not None else None


def _joined(event: NodeJoined, held: Node | None) -> Node:
    return Node(
        name=event.name,
        cluster=event.cluster,
        ipv4_pod_cidr=event.ipv4_pod_cidr,
        ipv6_pod_cidr=event.ipv6_pod_cidr,
        ipv4_router=event.ipv4_router,
        ipv6_router=event.ipv6_router,
        addresses=held.addresses if held else (),
    )


def _router(text: str, family: int) -> str:
    if not text:
        return ""
    try:
        prefix = ip_network(text)
    except ValueError as error:
        raise BadPrefix(text, str(error)) from error
    if prefix.version != family:
        raise BadPrefix(text, f"it is not an IPv{family} prefix")
    if capacity(prefix) < 1:
        raise BadPrefix(text, "no pod would fit in it")
    return str(router_address(prefix))
