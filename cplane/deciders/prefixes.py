"""Identities of prefixes outside the cluster: there is one for each that a policy names, and for no other.

A policy names the addresses of a service without a selector by naming the service.
"""

from dataclasses import dataclass
from ipaddress import ip_network

from cplane.deciders import identity
from cplane.deciders.decider import NOTHING, Decision
from cplane.deciders.identity import IdentityState
from cplane.deciders.policy import PolicyState
from cplane.deciders.servicestate import ServiceState
from cplane.domain.identity import cidr_labels
from cplane.domain.ipam import Prefix
from cplane.domain.policy.directory import service_labels
from cplane.domain.service import ServiceName
from cplane.events.catalog import Event
from cplane.events.envelope import StreamId


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlePrefixes:
    """These prefixes may have gained their first user or lost their last."""

    prefixes: tuple[Prefix, ...]


def by_services(policies: PolicyState, services: ServiceState) -> frozenset[Prefix]:
    """The addresses that policies name by the services which they are behind."""
    if not policies.services:
        return frozenset()
    named = (name for name in services.unselective if names_addresses(policies, services, name))
    return frozenset(ip_network(one.address) for name in named for one in services.backends(name))


def names_addresses(policies: PolicyState, services: ServiceState, name: ServiceName) -> bool:
    """Whether a policy names the addresses behind this service by it."""
    if not policies.services or name not in services.unselective:
        return False
    labels = service_labels(services.services[name].labels)
    return any(ref.chooses(*name, labels) for ref in policies.services)


def decide_settle(
    command: SettlePrefixes,
    policies: PolicyState,
    services: ServiceState,
    identities: IdentityState,
    *,
    dual_stack: bool,
) -> Decision:
    """Identities allocated for prefixes that are named now, released for those that are not."""
    behind = by_services(policies, services)
    decided: list[tuple[StreamId, Event]] = []  # not a growing tuple: a policy may name ten thousand prefixes
    for prefix in command.prefixes:
        if prefix.prefixlen == 0:
            continue  # the world itself, whose identity is reserved
        labels = cidr_labels(prefix, dual_stack=dual_stack)
        held = identities.find(labels)
        if prefix in policies.prefixes or prefix in behind:
            _, events = identity.allocate(identities, labels, local=True)
        else:
            events = identity.release(identities, held, users=0) if held is not None else NOTHING
        for _, event in events:
            identities = identity.evolve(identities, event)  # type: ignore[arg-type]  # identity decides identity events
        decided.extend(events)
    return tuple(decided)
