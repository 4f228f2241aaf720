"""A policy names prefixes: each of them has an identity, and those that nothing names have none."""

from cplane.deciders.prefixes import SettlePrefixes
from cplane.deciders.world import Command, World
from cplane.domain.policy import PolicyRef
from cplane.events.catalog import Event
from cplane.events.policy import PolicyDeleted, PolicyUpserted


def react(event: Event, before: World, after: World) -> tuple[Command, ...]:
    """A settlement for the prefixes that gained their first user or lost their last."""
    if not isinstance(event, PolicyUpserted | PolicyDeleted):
        return ()
    ref = PolicyRef(event.kind, event.namespace, event.name)
    touched = {
        prefix for world in (before, after) if (held := world.policies.get(ref)) is not None for prefix in held.cidrs()
    }
    changed = [p for p in touched if (p in before.policy.prefixes) != (p in after.policy.prefixes)]
    if not changed:
        return ()
    return (SettlePrefixes(prefixes=tuple(sorted(changed, key=lambda p: (p.version, p)))),)
