"""A command and all that must follow from it, decided as one."""

from typing import Final

from cplane.deciders.decider import Decision
from cplane.deciders.world import Command, World, decide, evolve, evolve_services
from cplane.events.catalog import Event
from cplane.events.envelope import StreamId
from cplane.events.service import ServiceEvent
from cplane.reactors import fqdn, identity, policy

REACTORS: Final = (identity.react, policy.react, fqdn.react)
GENERATIONS_MAX: Final = 16  # reactions to reactions; how many there are in each follows from the size of the command


def settle(command: Command, world: World) -> tuple[Decision, World]:
    """The events of the command and of every reaction to them, and the world after all of them.

    Raises what deciders raise; then nothing of it has happened.
    """
    commands: list[Command] = [command]
    decided: list[tuple[StreamId, Event]] = []
    for _ in range(GENERATIONS_MAX):
        following: list[Command] = []
        for one in commands:
            decision = decide(one, world)
            if _leads_to_nothing(decision, world):
                decided += decision
                world = evolve_services(world, decision)
                continue
            for stream, event in decision:
                before, world = world, evolve(world, stream, event)
                decided.append((stream, event))
                for react in REACTORS:
                    following.extend(react(event, before, world))
        if not following:
            return tuple(decided), world
        commands = following
    kinds = sorted({type(one).__name__ for one in commands})
    raise AssertionError(f"{type(command).__name__} leads to more than {GENERATIONS_MAX} generations, now {kinds}")


def _leads_to_nothing(decision: Decision, world: World) -> bool:
    """Whether no reactor has anything to say about these events: services, while no policy names one."""
    return not world.policy.services and all(isinstance(event, ServiceEvent) for _, event in decision)
