"""A command and all that must follow from it, decided as one."""

from collections import deque
from typing import Final

from cplane.deciders.decider import Decision
from cplane.deciders.world import Command, World, decide, evolve
from cplane.reactors import identity, policy

REACTORS: Final = (identity.react, policy.react)
FOLLOW_UPS_MAX: Final = 10_000  # a bound on one command's consequences; reaching it is a bug


def settle(command: Command, world: World) -> tuple[Decision, World]:
    """The events of the command and of every reaction to them, and the world after all of them.

    Raises what deciders raise; then nothing of it has happened.
    """
    queue: deque[Command] = deque((command,))
    decided: Decision = ()
    for _ in range(FOLLOW_UPS_MAX):
        if not queue:
            return decided, world
        for stream, event in decide(queue.popleft(), world):
            before, world = world, evolve(world, stream, event)
            decided += ((stream, event),)
            for react in REACTORS:
                queue.extend(react(event, before, world))
    raise AssertionError(f"{command!r} leads to more than {FOLLOW_UPS_MAX} follow-up commands")
