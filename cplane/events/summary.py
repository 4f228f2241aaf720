"""One line for people about each event."""

from typing import assert_never

from cplane.events.catalog import Event
from cplane.events.config import OptionsChanged
from cplane.events.endpoint import EndpointConfigured, EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.ipam import AddressAllocated, AddressReleased, PoolAdded
from cplane.events.node import NodeAddressesChanged, NodeJoined
from cplane.events.policy import PolicyDeleted, PolicyUpserted


def summary(event: Event) -> str:
    """What has happened, without line breaks."""
    match event:
        case NodeJoined() | NodeAddressesChanged():
            return _node(event)
        case PoolAdded() | AddressAllocated() | AddressReleased():
            return _ipam(event)
        case IdentityAllocated():
            return f"identity {event.number} is {' '.join(event.labels)}"
        case IdentityReleased():
            return f"identity {event.number} is free"
        case EndpointCreated() | EndpointRelabelled() | EndpointConfigured() | EndpointDeleted():
            return _endpoint(event)
        case PolicyUpserted() | PolicyDeleted():
            verb = "applied" if isinstance(event, PolicyUpserted) else "deleted"
            name = f"{event.namespace}/{event.name}" if event.namespace else event.name
            return f"{event.kind} {name} {verb}"
        case OptionsChanged():
            audit = "on" if event.policy_audit else "off"
            return f"policy enforcement is {event.policy_enforcement}, policy audit mode {audit}"
        case _:
            assert_never(event)


def _node(event: NodeJoined | NodeAddressesChanged) -> str:
    if isinstance(event, NodeAddressesChanged):
        return f"node {event.name} answers under {' '.join(event.addresses) or 'no address'}"
    pods = " ".join(cidr for cidr in (event.ipv4_pod_cidr, event.ipv6_pod_cidr) if cidr)
    return f"node {event.name} of cluster {event.cluster} joined, pods {pods}"


def _ipam(event: PoolAdded | AddressAllocated | AddressReleased) -> str:
    match event:
        case PoolAdded():
            return f"pool {event.pool} is {event.cidr}"
        case AddressAllocated():
            return f"{event.address} of pool {event.pool} is taken by {event.owner}"
        case AddressReleased():
            return f"{event.address} of pool {event.pool} is free"


def _endpoint(event: EndpointCreated | EndpointRelabelled | EndpointConfigured | EndpointDeleted) -> str:
    match event:
        case EndpointCreated():
            pod = f"{event.namespace}/{event.pod}" if event.pod else f"container {event.container_id[:12]}"
            addresses = " ".join(address for address in (event.ipv4, event.ipv6) if address)
            return f"endpoint {event.endpoint} is {pod} with {addresses}, identity {event.identity}"
        case EndpointRelabelled():
            return f"endpoint {event.endpoint} is {' '.join(event.labels)}, identity {event.identity}"
        case EndpointConfigured():
            return f"endpoint {event.endpoint} has policy audit mode {'on' if event.audit else 'off'}"
        case EndpointDeleted():
            return f"endpoint {event.endpoint} is gone"
