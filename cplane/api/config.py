"""Options that may change while the agent runs, over gRPC."""

from cplane.api.ports import Engine
from cplane.deciders.config import ChangeOptions, Options
from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.calls import caller


class ConfigService(pb.ConfigServiceBase):
    """Shows and changes options."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def get(self, message: pb.GetOptionsRequest) -> pb.GetOptionsResponse:
        """The options as they are."""
        world = self._engine.world
        return pb.GetOptionsResponse(position=world.position, options=options_to_pb(world.options))

    async def change(self, message: pb.ChangeOptionsRequest) -> pb.ChangeOptionsResponse:
        """The options that are given are these at the position. Raises BadOption."""
        command = ChangeOptions(policy_enforcement=message.policy_enforcement, policy_audit=message.policy_audit)
        committed = await self._engine.submit(command, actor=caller())
        return pb.ChangeOptionsResponse(position=committed.position, options=options_to_pb(self._engine.world.options))


def options_to_pb(options: Options) -> pb.Options:
    """The message that says these options."""
    return pb.Options(policy_enforcement=str(options.policy_enforcement), policy_audit=options.policy_audit)
