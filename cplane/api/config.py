"""Options that may change while the agent runs, over gRPC."""

from typing import Final

import anyio
from anyio import to_thread

from cplane.api.errors import NotHere
from cplane.api.ports import Agent, Engine
from cplane.deciders.config import ChangeOptions, Options
from cplane.pb.cplane.admin import v1 as pb
from cplane.telemetry.log import line, logger
from cplane.transport.calls import caller

NO_PROGRAMS: Final = "Debug: the datapath of this agent has no programs that could tell their steps"

log = logger("config")


class ConfigService(pb.ConfigServiceBase):
    """Shows and changes options."""

    def __init__(self, engine: Engine, agent: Agent) -> None:
        self._engine, self._debugging = engine, agent.debugging
        self._switching = anyio.Lock()

    async def get(self, message: pb.GetOptionsRequest) -> pb.GetOptionsResponse:
        """The options as they are."""
        world = self._engine.world
        return pb.GetOptionsResponse(position=world.position, options=options_to_pb(world.options), debug=self._debug())

    async def change(self, message: pb.ChangeOptionsRequest) -> pb.ChangeOptionsResponse:
        """The options that are given are these at the position. Raises BadOption, NotHere, and Unavailable.

        Debug is first, because it may fail; all others are one event.
        """
        if message.debug is not None:
            await self._switch(on=message.debug)
        command = ChangeOptions(policy_enforcement=message.policy_enforcement, policy_audit=message.policy_audit)
        committed = await self._engine.submit(command, actor=caller())
        return pb.ChangeOptionsResponse(
            position=committed.position, options=options_to_pb(self._engine.world.options), debug=self._debug()
        )

    async def _switch(self, *, on: bool) -> None:
        debugging = self._debugging
        if debugging is None:
            raise NotHere(NO_PROGRAMS)
        async with self._switching:
            if debugging.is_on == on:
                return
            await to_thread.run_sync(lambda: debugging.switch(on=on))
        log.info(line("config", kind="debug", actor=caller(), detail="on" if on else "off"))

    def _debug(self) -> bool | None:
        return self._debugging.is_on if self._debugging is not None else None


def options_to_pb(options: Options) -> pb.Options:
    """The message that says these options."""
    return pb.Options(policy_enforcement=str(options.policy_enforcement), policy_audit=options.policy_audit)
