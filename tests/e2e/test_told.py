"""What an agent tells Hubble of itself: events, how it is reached, and its health."""

from typing import Any

import pytest
from grpclib.client import UnaryStreamMethod
from grpclib.health.v1.health_grpc import HealthStub
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpclib.reflection.v1.reflection_grpc import ServerReflectionStub
from grpclib.reflection.v1.reflection_pb2 import ServerReflectionRequest

from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2
from cplane.pb.peer import peer_pb2
from cplane.transport.client import ClientChannel
from tests.support import asking
from tests.support.agent import Agent
from tests.support.observing import unary
from tests.support.site import policy

pytestmark = pytest.mark.slow

POLICY = policy("told", "nobody", "ingress: [{fromCIDR: [192.0.2.0/24]}]")


def agent_events(agent: Agent) -> list[Any]:  # Any: protobuf's own classes
    async def told(channel: ClientChannel) -> list[Any]:
        request, response = observer_pb2.GetAgentEventsRequest, observer_pb2.GetAgentEventsResponse
        answer = await UnaryStreamMethod(channel, "/observer.Observer/GetAgentEvents", request, response)(request())
        return [one.agent_event for one in answer]

    return asking.ask(agent, told, socket="hubble.sock")


def test_an_agent_tells_that_it_started_and_what_its_policies_became(laptop: Agent) -> None:
    asking.apply(laptop, POLICY)
    asking.ask(laptop, asking.lift_all)
    told = agent_events(laptop)
    assert told[0].type == flow_pb2.AGENT_STARTED
    updates = [
        one for one in told if one.HasField("policy_update") and any("told" in x for x in one.policy_update.labels)
    ]
    assert [one.type for one in updates] == [flow_pb2.POLICY_UPDATED, flow_pb2.POLICY_DELETED]
    rows = [one for one in told if one.ipcache_update.cidr == "192.0.2.0/24"]
    assert [one.type for one in rows] == [flow_pb2.IPCACHE_UPSERTED, flow_pb2.IPCACHE_DELETED]


def test_an_agent_names_itself_to_relays_and_lists_itself(laptop: Agent) -> None:
    async def first_peer(channel: ClientChannel) -> Any:  # Any: as above
        request, response = peer_pb2.NotifyRequest, peer_pb2.ChangeNotification
        async with UnaryStreamMethod(channel, "/peer.Peer/Notify", request, response).open() as stream:
            await stream.send_message(request(), end=True)
            told = await stream.recv_message()
            await stream.cancel()
        return told, (await unary(channel, "GetNodes")).nodes

    peer, nodes = asking.ask(laptop, first_peer, socket="hubble.sock")
    assert (peer.name, peer.type, peer.address) == ("node", peer_pb2.PEER_ADDED, "")
    assert [(one.name, one.state) for one in nodes] == [("node", 1)]


def test_an_agent_answers_for_its_health_and_describes_its_services(laptop: Agent) -> None:
    async def described(channel: ClientChannel) -> Any:  # Any: as above
        health = await HealthStub(channel).Check(HealthCheckRequest(service="peer.Peer"))
        (answer,) = await ServerReflectionStub(channel).ServerReflectionInfo(
            [ServerReflectionRequest(list_services="")]
        )
        return health.status, {one.name for one in answer.list_services_response.service}

    status, services = asking.ask(laptop, described, socket="hubble.sock")
    assert status == HealthCheckResponse.SERVING
    assert services >= {"observer.Observer", "peer.Peer", "grpc.health.v1.Health"}
