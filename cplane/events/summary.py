"""One line for people about each event."""

from typing import Final, assert_never

from cplane.domain.service import shown
from cplane.events.catalog import Event
from cplane.events.config import OptionsChanged
from cplane.events.endpoint import EndpointConfigured, EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.fqdn import AddressesForgotten, AddressesIdentified, NameExpired, NameResolved
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.ipam import AddressAllocated, AddressReleased, PoolAdded
from cplane.events.node import NodeAddressesChanged, NodeJoined
from cplane.events.policy import PolicyDeleted, PolicyUpserted
from cplane.events.service import (
    BackendsChanged,
    BackendStateChanged,
    ServiceDeleted,
    ServiceOptionsChanged,
    ServiceUpserted,
)

_SHOWN_MAX: Final = 8  # places that a line names
_REASONS: Final = {"ttl": "it expired", "limit": "it has too many addresses", "forgotten": "it was to be forgotten"}


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
        case ServiceUpserted() | ServiceDeleted() | BackendsChanged() | BackendStateChanged():
            return _service(event)
        case ServiceOptionsChanged():
            maglev = f" with {event.maglev_size} entries" if event.algorithm == "maglev" else ""
            return f"backends are chosen by {event.algorithm}{maglev}, connections forwarded by {event.forwarding}"
        case NameResolved() | NameExpired() | AddressesIdentified() | AddressesForgotten():
            return _name(event)
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


def _service(event: ServiceUpserted | ServiceDeleted | BackendsChanged | BackendStateChanged) -> str:
    match event:
        case ServiceUpserted():
            places = " ".join(shown(one.address, one.port, one.protocol) for one in event.frontends[:_SHOWN_MAX])
            return f"service {event.namespace}/{event.name} is {places or 'no address'}{_more(len(event.frontends))}"
        case ServiceDeleted():
            return f"service {event.namespace}/{event.name} is gone"
        case BackendsChanged():
            places = " ".join(shown(one.address, one.port, one.protocol) for one in event.backends[:_SHOWN_MAX])
            whose = f"service {event.namespace}/{event.service}"
            return f"{whose} has {places or 'no backends'}{_more(len(event.backends))} from {event.source}"
        case BackendStateChanged():
            return f"backend {shown(event.address, event.port, event.protocol)} is {event.state}"


def _name(event: NameResolved | NameExpired | AddressesIdentified | AddressesForgotten) -> str:
    ips = event.ips if isinstance(event, NameResolved | NameExpired) else event.addresses
    places = f"{' '.join(ips[:_SHOWN_MAX])}{_more(len(ips))}"
    match event:
        case NameResolved():
            who = f"endpoint {event.endpoint} by {event.server}"
            return f"name {event.name} is {places} for {event.ttl} s, told to {who}"
        case NameExpired():
            why = _REASONS.get(event.reason, event.reason)
            return f"name {event.name} is {places} no more for endpoint {event.endpoint}: {why}"
        case AddressesIdentified():
            return f"identity {event.identity} is that of {places}, by their names"
        case AddressesForgotten():
            return f"identity {event.identity} is that of {places} no more"


def _more(count: int) -> str:
    return f" and {count - _SHOWN_MAX} more" if count > _SHOWN_MAX else ""
