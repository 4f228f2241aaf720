"""What an event is about, by the one name that each object has in every question and answer about the past.

`policy KIND/NAMESPACE/NAME` (without the namespace where there is none), `endpoint ID`, `identity N`, `pool NAME`,
`node NAME`, `options`, `service NAMESPACE/NAME`, `backend N`, `service-options`, `name NAME`.
"""

from typing import Final, assert_never

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

KINDS: Final = (
    "policy",
    "endpoint",
    "identity",
    "pool",
    "node",
    "options",
    "service",
    "backend",
    "service-options",
    "name",
)
"""The first word of every name."""

OPTIONS: Final = "options"
SERVICE_OPTIONS: Final = "service-options"


def object_of(event: Event) -> str:
    """The name of what the event is about; an address is a matter of its pool."""
    match event:
        case PolicyUpserted() | PolicyDeleted():
            return policy_name(event.kind, event.namespace, event.name)
        case EndpointCreated() | EndpointRelabelled() | EndpointConfigured() | EndpointDeleted():
            return f"endpoint {event.endpoint}"
        case IdentityAllocated() | IdentityReleased():
            return f"identity {event.number}"
        case PoolAdded() | AddressAllocated() | AddressReleased():
            return f"pool {event.pool}"
        case NodeJoined() | NodeAddressesChanged():
            return f"node {event.name}"
        case OptionsChanged():
            return OPTIONS
        case ServiceUpserted() | ServiceDeleted() | BackendsChanged() | BackendStateChanged() | ServiceOptionsChanged():
            return _of_service(event)
        case NameResolved() | NameExpired():
            return f"name {event.name}"
        case AddressesIdentified() | AddressesForgotten():
            return f"identity {event.identity}"
        case _:
            assert_never(event)


def _of_service(
    event: ServiceUpserted | ServiceDeleted | BackendsChanged | BackendStateChanged | ServiceOptionsChanged,
) -> str:
    match event:
        case BackendsChanged():
            return service_name(event.namespace, event.service)
        case BackendStateChanged():
            return f"backend {event.backend}"
        case ServiceOptionsChanged():
            return SERVICE_OPTIONS
        case _:
            return service_name(event.namespace, event.name)


def service_name(namespace: str, name: str) -> str:
    """The name of a service."""
    return f"service {namespace}/{name}"


def policy_name(kind: str, namespace: str, name: str) -> str:
    """The name of a policy, or of a group of prefixes."""
    return f"policy {kind}/{namespace}/{name}" if namespace else f"policy {kind}/{name}"
