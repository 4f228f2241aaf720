"""Questions to a running agent over its sockets, without a process for each of them."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import anyio

from cplane.hubble.origin import TYPE_URL
from cplane.pb.cplane.admin import v1 as pb
from cplane.pb.observer import observer_pb2 as observer
from cplane.projections import services
from cplane.transport.client import ClientChannel, connect
from tests.support.agent import Agent
from tests.support.observing import get_flows

T = TypeVar("T")

TABLES: Final = ("policy", "ipcache", "lxc", "devices", *services.TABLES)
PATIENT_S: Final = 10.0


def ask(agent: Agent, question: Callable[[ClientChannel], Awaitable[T]], *, socket: str = "admin.sock") -> T:
    """What the question returns over a channel to the agent."""

    async def main() -> T:
        with anyio.fail_after(60):
            async with connect(f"unix://{agent.run_dir}/{socket}") as channel:
                return await question(channel)

    return anyio.run(main)


def until(condition: Callable[[], object], what: str, patience_s: float = PATIENT_S) -> None:
    """Returns when the condition holds; for what another process does, which nothing but asking tells."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience_s:g} s: {what}"
        time.sleep(0.01)


def status(agent: Agent) -> pb.GetStatusResponse:
    """How the agent is."""
    return ask(agent, lambda channel: pb.StatusServiceStub(channel).get(pb.GetStatusRequest()))


def endpoints(agent: Agent) -> list[str]:
    """The containers that have an endpoint."""

    async def listed(channel: ClientChannel) -> list[str]:
        answer = await pb.EndpointServiceStub(channel).list(pb.ListEndpointsRequest())
        return [one.container_id for one in answer.endpoints]

    return ask(agent, listed)


async def unequal_rows(channel: ClientChannel) -> list[str]:
    """The rows of all tables that are wanted and not there, or there and not wanted."""
    found = []
    for table in TABLES:
        async for batch in pb.MapServiceStub(channel).dump(pb.DumpMapRequest(table=table)):
            found += [f"{table}: {row}" for row in batch.rows if row.difference != pb.Difference.NONE]
    return found


def apply(agent: Agent, text: str) -> int:
    """The policies of the text are in force. Returns the position."""

    async def applied(channel: ClientChannel) -> int:
        answer = await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=text.encode()))
        await pb.StatusServiceStub(channel).wait(pb.WaitRequest(position=answer.position))
        return answer.position

    return ask(agent, applied)


async def lift_all(channel: ClientChannel) -> None:
    """There is no policy, and the datapath has that."""
    policies = pb.PolicyServiceStub(channel)
    refs = [one.ref for one in (await policies.list(pb.ListPoliciesRequest())).policies if one.ref]
    if refs:
        answer = await policies.delete(pb.DeletePolicyRequest(refs=refs))
        await pb.StatusServiceStub(channel).wait(pb.WaitRequest(position=answer.position))


def flows(agent: Agent, number: int = 1000) -> list[Any]:  # Any: protobuf's own classes
    """The newest flows, oldest first, with the log position of each in `extensions`."""

    async def observe(channel: ClientChannel) -> list[Any]:
        request = observer.GetFlowsRequest(number=number)
        request.extensions.type_url = TYPE_URL
        return [answer.flow for answer in await get_flows(channel)(request) if answer.HasField("flow")]

    return ask(agent, observe, socket="hubble.sock")
