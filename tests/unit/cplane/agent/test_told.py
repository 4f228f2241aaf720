"""What Hubble is told of commands follows from what they changed."""

import json
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from cplane.agent.told import AgentEvents, reached
from cplane.deciders.endpoint import DeleteEndpoint, RelabelEndpoint
from cplane.deciders.node import SetNodeAddresses
from cplane.deciders.policy import ApplyPolicies, DeletePolicies
from cplane.deciders.world import Command, facts
from cplane.domain.node import Node
from cplane.domain.policy import PolicyRef
from cplane.engine.engine import Turn
from cplane.hubble.eventring import EventRing
from cplane.hubble.peer import Peer
from cplane.pb.flow import flow_pb2
from cplane.projections.tables import Tables
from tests.support.builders import cnp, selector
from tests.support.clock import TickingClock
from tests.support.deltas import in_one
from tests.support.engine import ListEngine
from tests.support.scenario import pod

WEB = pod("web", "k8s:app=web", ifindex=10)
POLICY = cnp("allow", subject=selector("app=web"), ingress=[{"fromCIDR": ["192.0.2.0/24"]}], labels=[{"key": "team"}])
NODE = Node(name="n1", cluster="default", addresses=("127.0.0.1", "192.0.2.7", "2001:db8::7", "fe80::1"))


class Told:
    """An engine, and the events that Hubble is told of it."""

    def __init__(self, *history: Command) -> None:
        self.engine = ListEngine(*history)
        self.ring: EventRing[flow_pb2.AgentEvent] = EventRing(64)
        self.events = AgentEvents(self.ring, TickingClock(), patience_s=0.005)

    def execute(self, command: Command) -> None:
        before, tables = self.engine.world, Tables(facts(self.engine.world))
        done = self.engine.execute(command, actor="test")
        deltas: dict[str, list[Any]] = {}
        for event in done.events:
            for name, delta in tables.apply(event).items():
                deltas.setdefault(name, []).append(delta)
        composed = {name: in_one(some) for name, some in deltas.items()}
        self.events.turn(Turn(before, self.engine.world, done.events, composed))

    def seen(self) -> list[flow_pb2.AgentEvent]:
        return [self.ring.told(position) for position in range(self.ring.oldest, self.ring.written)]

    def kinds(self) -> list[str]:
        return [flow_pb2.AgentEventType.Name(one.type) for one in self.seen()]

    async def follow(self, patience_s: float = 5) -> None:
        """Until there is nothing to wait for."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.events.follow, self.engine)
            with anyio.fail_after(patience_s):
                while self.events._pending:
                    await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()


def test_a_pod_is_created_and_its_addresses_are_in_the_ipcache() -> None:
    told = Told(SetNodeAddresses(addresses=("192.0.2.7",)))
    told.execute(WEB)
    assert told.kinds() == ["ENDPOINT_CREATED", "IPCACHE_UPSERTED", "IPCACHE_UPSERTED"]
    created, v4, v6 = told.seen()
    update = created.endpoint_update
    assert (update.id, update.namespace, update.pod_name) == (1, "shop", "web")
    assert "k8s:app=web" in update.labels
    assert v4.ipcache_update.cidr.endswith("/32")
    assert v6.ipcache_update.cidr.endswith("/128")
    assert (v4.ipcache_update.namespace, v4.ipcache_update.pod_name) == ("shop", "web")
    assert v4.ipcache_update.host_ip == "192.0.2.7"
    assert v4.ipcache_update.identity == told.engine.world.endpoints[1].identity
    assert not v4.ipcache_update.HasField("old_identity")


def test_a_pod_with_other_labels_has_another_identity_in_place_of_the_old_one() -> None:
    told = Told(WEB)
    old = told.engine.world.endpoints[1].identity
    told.execute(RelabelEndpoint(endpoint=1, labels=("k8s:app=other", "k8s:io.kubernetes.pod.namespace=shop")))
    assert told.kinds() == ["IPCACHE_UPSERTED"] * 2
    row = told.seen()[0].ipcache_update
    assert (row.old_identity.value, row.identity) == (old, told.engine.world.endpoints[1].identity)


def test_a_pod_that_goes_takes_its_addresses_along() -> None:
    told = Told(WEB)
    held = told.engine.world.endpoints[1]
    told.execute(DeleteEndpoint(container_id=held.container_id, container_interface=held.container_interface))
    assert told.kinds() == ["ENDPOINT_DELETED", "IPCACHE_DELETED", "IPCACHE_DELETED"]
    gone, row, _ = told.seen()
    assert (gone.endpoint_update.id, gone.endpoint_update.pod_name) == (1, "web")
    assert (row.ipcache_update.identity, row.ipcache_update.pod_name) == (held.identity, "web")


def test_policies_are_told_with_their_labels_their_revision_and_how_many_rules_they_have() -> None:
    told = Told(WEB)
    told.execute(ApplyPolicies(documents=(json.dumps(POLICY),)))
    told.execute(DeletePolicies(refs=(PolicyRef("CiliumNetworkPolicy", "shop", "allow"),)))
    updates = [one for one in told.seen() if one.HasField("policy_update")]
    assert [one.type for one in updates] == [flow_pb2.POLICY_UPDATED, flow_pb2.POLICY_DELETED]
    assert [(one.policy_update.revision, one.policy_update.rule_count) for one in updates] == [(1, 1), (2, 1)]
    assert {"k8s:io.cilium.k8s.policy.name=allow", "unspec:team"} <= set(updates[0].policy_update.labels)
    prefixes = [one.ipcache_update.cidr for one in told.seen() if one.HasField("ipcache_update")]
    assert prefixes == ["192.0.2.0/24"] * 2


@pytest.mark.anyio
async def test_endpoints_are_regenerated_when_the_datapath_has_what_was_decided() -> None:
    told = Told(WEB, pod("client", "k8s:app=client", ifindex=11))
    told.events.started(told.engine.world)
    await told.follow()
    assert told.kinds() == ["AGENT_STARTED", *["ENDPOINT_REGENERATE_SUCCESS"] * 2]
    assert told.seen()[0].agent_start.HasField("time")
    told.engine.lag = True
    told.execute(ApplyPolicies(documents=(json.dumps(POLICY),)))
    assert told.kinds()[-1] == "IPCACHE_UPSERTED", "it is not enforced yet"
    told.engine.catch_up()
    await told.follow()
    regenerated = [one.endpoint_regenerate for one in told.seen() if one.HasField("endpoint_regenerate")]
    assert [one.id for one in regenerated] == [1, 2, 1], "the policy is about one of them"
    assert "k8s:app=web" in regenerated[-1].labels


@pytest.mark.anyio
async def test_a_datapath_that_cannot_be_written_is_told_once_and_its_recovery_too() -> None:
    told = Told(WEB)
    told.engine.lag, told.engine.applied, told.engine.failure = True, 0, "no space"
    told.events.started(told.engine.world)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(told.events.follow, told.engine)
        with anyio.fail_after(10):
            while told.ring.written < 2:
                await anyio.lowlevel.checkpoint()
            await anyio.sleep(0.05)  # it looks again ten times
            assert told.kinds() == ["AGENT_STARTED", "ENDPOINT_REGENERATE_FAILURE"]
            assert told.seen()[1].endpoint_regenerate.error == "no space"
            told.engine.failure = ""
            told.engine.catch_up()
            while told.ring.written < 3:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert told.kinds()[2] == "ENDPOINT_REGENERATE_SUCCESS"


@pytest.mark.parametrize(
    ("tcp", "tls", "expected"),
    [
        (None, False, Peer("n1")),
        (("", 4244), False, Peer("n1", "192.0.2.7:4244")),
        (("", 4244), True, Peer("n1", "192.0.2.7:4244", "n1.default.hubble-grpc.cilium.io")),
        (("2001:db8::7", 4244), False, Peer("n1", "[2001:db8::7]:4244")),
        (("node.example", 4244), False, Peer("n1", "node.example:4244")),
        (("0.0.0.0", 4244), False, Peer("n1", "192.0.2.7:4244")),
        (("::", 4244), False, Peer("n1", "[2001:db8::7]:4244")),
    ],
)
def test_a_node_is_reached_where_its_observer_listens(tcp: tuple[str, int] | None, tls: bool, expected: Peer) -> None:
    assert reached(NODE, tcp, tls=tls) == [expected]


def test_a_node_that_nobody_reaches_has_no_address_and_one_that_has_not_joined_is_none() -> None:
    assert reached(replace(NODE, addresses=("127.0.0.1",)), ("", 1), tls=False) == [Peer("n1")]
    assert reached(replace(NODE, addresses=("2001:db8::7",)), ("", 1), tls=False) == [Peer("n1", "[2001:db8::7]:1")]
    assert reached(replace(NODE, addresses=("2001:db8::7",)), ("::", 1), tls=False) == [Peer("n1", "[2001:db8::7]:1")]
    assert reached(None, ("", 1), tls=False) == []
