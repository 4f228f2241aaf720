"""Options of the agent and of its endpoints, over a unix socket."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from cplane.errors import Unavailable
from cplane.events.config import OptionsChanged
from cplane.events.endpoint import EndpointConfigured
from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.client import ClientChannel
from tests.support.admin import administered
from tests.support.engine import ListEngine
from tests.support.scenario import pod

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """grpclib is written for asyncio."""
    return "asyncio"


@pytest.fixture
def engine() -> ListEngine:
    return ListEngine(pod("web", "k8s:app=web", ifindex=10))


@pytest.fixture
async def channel(engine: ListEngine, tmp_path: Path) -> AsyncIterator[ClientChannel]:
    async with administered(engine, tmp_path / "cpt.sock") as channel:
        yield channel


async def test_options_that_are_given_change_and_the_others_stay(channel: ClientChannel, engine: ListEngine):
    stub = pb.ConfigServiceStub(channel)
    before = await stub.get(pb.GetOptionsRequest())
    assert before.options == pb.Options(policy_enforcement="default", policy_audit=False)
    changed = await stub.change(pb.ChangeOptionsRequest(policy_enforcement="always"))
    assert changed.options == pb.Options(policy_enforcement="always", policy_audit=False)
    again = await stub.change(pb.ChangeOptionsRequest(policy_audit=True))
    assert again.options == pb.Options(policy_enforcement="always", policy_audit=True)
    assert before.position < changed.position < again.position == engine.head
    off = await stub.change(pb.ChangeOptionsRequest(policy_audit=False))
    assert off.options == pb.Options(policy_enforcement="always", policy_audit=False)
    assert engine.log.entries[-1].event == OptionsChanged(policy_enforcement="always", policy_audit=False)
    assert engine.log.entries[-1].actor.startswith("uid:")


async def test_what_changes_nothing_is_no_event(channel: ClientChannel, engine: ListEngine):
    before = engine.head
    for request in (pb.ChangeOptionsRequest(), pb.ChangeOptionsRequest(policy_audit=False)):
        assert (await pb.ConfigServiceStub(channel).change(request)).position == before
    answer = await pb.EndpointServiceStub(channel).configure(pb.ConfigureEndpointRequest(id=1, policy_audit=False))
    assert answer.position == engine.head == before


class Programs:
    """Programs that may fail to be exchanged."""

    def __init__(self) -> None:
        self.is_on, self.switched, self.failure = False, 0, ""

    def switch(self, *, on: bool) -> None:
        if self.failure:
            raise Unavailable(self.failure)
        self.is_on = on
        self.switched += 1


async def test_programs_are_switched_to_debug_and_back_without_an_event(tmp_path: Path, engine: ListEngine):
    programs, before = Programs(), engine.head
    async with administered(engine, tmp_path / "cpt.sock", debugging=programs) as channel:
        stub = pb.ConfigServiceStub(channel)
        assert (await stub.get(pb.GetOptionsRequest())).debug is False
        changed = await stub.change(pb.ChangeOptionsRequest(debug=True))
        assert (changed.debug, programs.is_on, changed.position) == (True, True, before)
        await stub.change(pb.ChangeOptionsRequest(debug=True))
        assert programs.switched == 1, "they were so already"
        assert (await stub.change(pb.ChangeOptionsRequest())).debug is True
        programs.failure = "they do not compile"
        with pytest.raises(GRPCError, match="they do not compile"):
            await stub.change(pb.ChangeOptionsRequest(debug=False, policy_audit=True))
        answer = await stub.get(pb.GetOptionsRequest())
        assert (answer.debug, answer.options.policy_audit, answer.position) == (True, False, before)


async def test_where_there_are_no_programs_there_is_nothing_to_debug(channel: ClientChannel):
    stub = pb.ConfigServiceStub(channel)
    assert (await stub.get(pb.GetOptionsRequest())).debug is None
    with pytest.raises(GRPCError, match="no programs that could tell their steps"):
        await stub.change(pb.ChangeOptionsRequest(debug=True))


async def test_a_value_that_is_none_is_refused(channel: ClientChannel):
    with pytest.raises(GRPCError) as told:
        await pb.ConfigServiceStub(channel).change(pb.ChangeOptionsRequest(policy_enforcement="sometimes"))
    assert told.value.status is Status.INVALID_ARGUMENT
    assert told.value.message == "PolicyEnforcement: 'sometimes' is none of default, always, never"


async def test_an_endpoint_is_audited_by_its_own_option_or_by_the_agents(channel: ClientChannel, engine: ListEngine):
    stub = pb.EndpointServiceStub(channel)
    shown = await stub.configure(pb.ConfigureEndpointRequest(id=1))
    assert (shown.endpoint.policy_audit, shown.agent_policy_audit) == (False, False)
    answer = await stub.configure(pb.ConfigureEndpointRequest(id=1, policy_audit=True))
    assert answer.endpoint.policy_audit
    assert answer.position == engine.head > shown.position
    assert engine.log.entries[-1].event == EndpointConfigured(endpoint=1, audit=True)
    assert (await stub.get(pb.GetEndpointRequest(id=1))).endpoint.policy_audit
    await pb.ConfigServiceStub(channel).change(pb.ChangeOptionsRequest(policy_audit=True))
    assert (await stub.configure(pb.ConfigureEndpointRequest(id=1))).agent_policy_audit
    for request in (pb.ConfigureEndpointRequest(id=9), pb.ConfigureEndpointRequest(id=9, policy_audit=True)):
        with pytest.raises(GRPCError, match="there is no endpoint 9"):
            await stub.configure(request)
