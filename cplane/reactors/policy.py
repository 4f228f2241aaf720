"""A policy names prefixes: each of them has an identity, and those that nothing names have none."""

from collections.abc import Collection
from ipaddress import ip_address

from cplane.deciders.fqdn import SettleAddresses, prefix_around
from cplane.deciders.prefixes import SettlePrefixes, by_services, names_addresses
from cplane.deciders.world import Command, World
from cplane.domain.ipam import Prefix
from cplane.domain.policy import PolicyRef
from cplane.domain.service import ServiceName
from cplane.events.catalog import Event
from cplane.events.policy import PolicyDeleted, PolicyUpserted
from cplane.events.service import BackendsChanged, ServiceDeleted, ServiceUpserted


def react(event: Event, before: World, after: World) -> tuple[Command, ...]:
    """A settlement for the prefixes that gained their first user or lost their last."""
    match event:
        case PolicyUpserted() | PolicyDeleted():
            return _policy_changed(PolicyRef(event.kind, event.namespace, event.name), before, after)
        case ServiceUpserted() | ServiceDeleted():
            return _service_changed(ServiceName(event.namespace, event.name), before, after)
        case BackendsChanged():
            return _service_changed(ServiceName(event.namespace, event.service), before, after)
        case _:
            return ()


def _policy_changed(ref: PolicyRef, before: World, after: World) -> tuple[Command, ...]:
    touched = {
        prefix for world in (before, after) if (held := world.policies.get(ref)) is not None for prefix in held.cidrs()
    }
    changed = {one for one in touched if (one in before.policy.prefixes) != (one in after.policy.prefixes)}
    if before.policy.services != after.policy.services:
        changed |= _behind(before) ^ _behind(after)
    return _settled(changed, after)


def _service_changed(name: ServiceName, before: World, after: World) -> tuple[Command, ...]:
    """Most services are named by nobody, and there may be ten thousand."""
    if not any(names_addresses(world.policy, world.service, name) for world in (before, after)):
        return ()
    return _settled(_behind(before) ^ _behind(after), after)


def _behind(world: World) -> frozenset[Prefix]:
    return by_services(world.policy, world.service)


def _settled(changed: Collection[Prefix], world: World) -> tuple[Command, ...]:
    found = tuple(sorted(changed, key=lambda one: (one.version, one)))
    if not found:
        return ()
    prefixes = SettlePrefixes(prefixes=found)
    inside = _inside(changed, world)
    return (prefixes, SettleAddresses(addresses=inside)) if inside else (prefixes,)


def _inside(changed: Collection[Prefix], world: World) -> tuple[str, ...]:
    """The addresses in these prefixes that have an identity for their names; its labels tell the prefix, too."""
    if not world.fqdn.numbers:
        return ()
    lengths = {(one.version, one.prefixlen) for one in changed}
    parsed = ((text, ip_address(text)) for text in world.fqdn.numbers)
    return tuple(
        sorted(
            text
            for text, one in parsed
            if any(prefix_around(one, length) in changed for version, length in lengths if version == one.version)
        )
    )
