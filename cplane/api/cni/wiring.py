"""How an endpoint is connected, told from what the log says about it."""

from cplane.domain.endpoint import Endpoint
from cplane.domain.node import Node
from datapath.netlink.attachment import Attachment, Link, Wiring


def gateways(node: Node | None, ipv4: str, ipv6: str) -> tuple[str, ...]:
    """The gateway for each address that is not empty, IPv4 first."""
    assert node is not None, "an endpoint exists, so the node has joined"
    pairs = ((ipv4, node.ipv4_router), (ipv6, node.ipv6_router))
    return tuple(router for address, router in pairs if address)


def wiring_of(endpoint: Endpoint, node: Node | None, *, network: str, mtu: int) -> Wiring:
    """The endpoint's link and addresses; the log does not hold network and MTU, so they are given."""
    return Wiring(
        attachment=Attachment(network, endpoint.container_id, endpoint.container_interface),
        netns=endpoint.netns,
        link=Link(
            host_interface=endpoint.host_interface,
            ifindex=endpoint.host_ifindex,
            mac=endpoint.mac,
            host_mac=endpoint.host_mac,
            mtu=mtu,
        ),
        addresses=endpoint.addresses,
        gateways=gateways(node, endpoint.ipv4, endpoint.ipv6),
    )
