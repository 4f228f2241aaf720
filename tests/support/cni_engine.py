"""An engine that decides and remembers but keeps no log and drives no kernel, for tests of what submits to it."""

from dataclasses import dataclass

import anyio

from cplane.deciders.node import JoinNode
from cplane.deciders.world import Command, World
from cplane.domain.endpoint import Endpoint
from cplane.errors import CplaneError
from cplane.events.catalog import Event
from cplane.reactors.reaction import settle

JOIN = JoinNode(name="n1", cluster="default", ipv4_pod_cidr="10.9.0.0/24", ipv6_pod_cidr="fd09::/64")


@dataclass(frozen=True)
class Committed:
    """As the engine's."""

    position: int
    events: tuple[Event, ...]


class DecidingEngine:
    """Real decisions; a datapath that is as fast as `caught_up` says; refusals and failures on demand."""

    def __init__(self, *commands: Command) -> None:
        self.world = World()
        self.in_sync = True
        self.failure = ""
        self.caught_up = True
        self.released = anyio.Event()
        self.refuse: CplaneError | None = None
        self.submitted: list[tuple[Command, str, str]] = []
        for command in commands or (JOIN,):
            self.world = settle(command, self.world)[1]

    @property
    def endpoints(self) -> list[Endpoint]:
        """Every endpoint there is."""
        return list(self.world.endpoints.values())

    async def submit(self, command: Command, *, actor: str, cause: str = "") -> Committed:
        """Decided at once."""
        await anyio.lowlevel.checkpoint()
        if self.refuse is not None:
            raise self.refuse
        self.submitted.append((command, actor, cause))
        decided, self.world = settle(command, self.world)
        return Committed(self.world.position, tuple(event for _, event in decided))

    async def wait(self, position: int) -> None:
        """At once, or when the datapath is `released`."""
        await anyio.lowlevel.checkpoint()
        if not self.caught_up:
            await self.released.wait()
