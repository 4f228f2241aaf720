"""A policy names prefixes: each of them has an identity, and those that nothing names have none."""

from collections.abc import Iterable

from cplane.deciders.prefixes import SettlePrefixes, by_services
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
    was, now = _behind(before), _behind(after)
    return _settled(
        one
        for one in touched | (was ^ now)
        if (one in before.policy.prefixes or one in was) != (one in after.policy.prefixes or one in now)
    )


def _service_changed(name: ServiceName, before: World, after: World) -> tuple[Command, ...]:
    """Only services without a selector have addresses that policies name by them."""
    if not after.policy.services or not any(name in world.service.unselective for world in (before, after)):
        return ()
    return _settled(one for one in _behind(before) ^ _behind(after) if one not in after.policy.prefixes)


def _behind(world: World) -> frozenset[Prefix]:
    return by_services(world.policy, world.service)


def _settled(changed: Iterable[Prefix]) -> tuple[Command, ...]:
    found = tuple(sorted(changed, key=lambda one: (one.version, one)))
    return (SettlePrefixes(prefixes=found),) if found else ()
