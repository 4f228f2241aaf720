"""The last user of an identity is gone: the number is released."""

from cplane.deciders.world import Command, ReleaseIdentity, World
from cplane.events.catalog import Event
from cplane.events.endpoint import EndpointDeleted, EndpointRelabelled


def react(event: Event, before: World, after: World) -> tuple[Command, ...]:
    """A release for the identity that an endpoint had, when no endpoint has it now."""
    if not isinstance(event, EndpointDeleted | EndpointRelabelled):
        return ()
    held = before.endpoints.get(event.endpoint)
    if held is None or after.endpoint.users.get(held.identity, 0):
        return ()
    return (ReleaseIdentity(number=held.identity),)
