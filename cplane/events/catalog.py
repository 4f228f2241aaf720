"""The single registry of event types: wire name and version, written here and never derived from a class.

Of each event the version that is written now is in CATALOG. An event that must change gets a new class under the next
number, and its old entry moves to RETIRED, with the class as it was.
"""

from typing import Final

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
from cplane.events.upcasting import Retired

Event = (
    NodeJoined
    | NodeAddressesChanged
    | PoolAdded
    | AddressAllocated
    | AddressReleased
    | IdentityAllocated
    | IdentityReleased
    | EndpointCreated
    | EndpointRelabelled
    | EndpointConfigured
    | EndpointDeleted
    | PolicyUpserted
    | PolicyDeleted
    | OptionsChanged
    | ServiceUpserted
    | ServiceDeleted
    | BackendsChanged
    | BackendStateChanged
    | ServiceOptionsChanged
    | NameResolved
    | NameExpired
    | AddressesIdentified
    | AddressesForgotten
)

CATALOG: Final[dict[tuple[str, int], type[Event]]] = {
    ("node.joined", 1): NodeJoined,
    ("node.addresses_changed", 1): NodeAddressesChanged,
    ("ipam.pool_added", 1): PoolAdded,
    ("ipam.address_allocated", 1): AddressAllocated,
    ("ipam.address_released", 1): AddressReleased,
    ("identity.allocated", 1): IdentityAllocated,
    ("identity.released", 1): IdentityReleased,
    ("endpoint.created", 1): EndpointCreated,
    ("endpoint.relabelled", 1): EndpointRelabelled,
    ("endpoint.configured", 1): EndpointConfigured,
    ("endpoint.deleted", 1): EndpointDeleted,
    ("policy.upserted", 1): PolicyUpserted,
    ("policy.deleted", 1): PolicyDeleted,
    ("config.options_changed", 1): OptionsChanged,
    ("service.upserted", 1): ServiceUpserted,
    ("service.deleted", 1): ServiceDeleted,
    ("service.backends_changed", 1): BackendsChanged,
    ("service.backend_state_changed", 1): BackendStateChanged,
    ("service.options_changed", 1): ServiceOptionsChanged,
    ("fqdn.name_resolved", 1): NameResolved,
    ("fqdn.name_expired", 1): NameExpired,
    ("fqdn.addresses_identified", 1): AddressesIdentified,
    ("fqdn.addresses_forgotten", 1): AddressesForgotten,
}

RETIRED: Final[dict[tuple[str, int], Retired]] = {}
"""The versions of these events that were released and are written no more; none so far."""

WIRE_NAME: Final[dict[type[Event], tuple[str, int]]] = {cls: name for name, cls in CATALOG.items()}
