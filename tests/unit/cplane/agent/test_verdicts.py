"""From a policy to the flow that names it: the engine, the memory datapath, the parser and the getters together."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import numpy as np
import pytest

from cplane.agent.datapaths import Datapath, open_datapath
from cplane.agent.observed import Observed
from cplane.api.ports import Packet
from cplane.config.model import AgentConfig
from cplane.deciders.config import ChangeOptions
from cplane.deciders.endpoint import ConfigureEndpoint
from cplane.deciders.policy import ApplyPolicies
from cplane.deciders.world import Command
from cplane.domain.policy.parse import AUDIT_ANNOTATION
from cplane.domain.service import ServiceOptions
from cplane.engine.engine import Engine, replay
from cplane.eventlog.memory import MemoryLog
from cplane.hubble.flow import FlowBuilder
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from cplane.projections.tables import REDIRECTS
from cplane.telemetry.clock import SystemClock
from tests.support.builders import Document, cnp, ports, selector
from tests.support.engine import DictTarget
from tests.support.flows import SEED
from tests.support.scenario import JOIN, pod

pytestmark = pytest.mark.anyio
ALLOWED, DENIED, AUDITED = flow_pb2.FORWARDED, flow_pb2.DROPPED, flow_pb2.AUDIT
WEB, API = 1, 2  # endpoints
FROM_DB = {"ingress": [{"fromEndpoints": [selector("app=db")]}]}
DENY_WEB = {"ingressDeny": [{"fromEndpoints": [selector("app=web")], "toPorts": ports("80/TCP")}]}
Said = tuple[int, int, list[str], list[str]]


class Node:
    """Pods `web` and `api`, and what flows say of a packet from one to the other."""

    def __init__(self, engine: Engine, datapath: Datapath) -> None:
        self.engine, self._datapath = engine, datapath
        self._store = FlowStore(cluster="default", node="n1", seed=SEED, capacity=64)
        self._parser = Parser(self._store, Observed(engine))

    async def submit(self, command: Command) -> None:
        await self.engine.submit(command, actor="test")
        await self.engine.wait(self.engine.head)

    async def apply(self, *documents: Document) -> None:
        await self.submit(ApplyPolicies(documents=tuple(json.dumps(one) for one in documents)))

    def told(self) -> list[Said]:
        """Verdict, drop reason, who allowed and who denied, of every flow about the ingress of `api`."""
        web, api = (self.engine.world.endpoints[number].ipv4 for number in (WEB, API))
        assert self._datapath.probe is not None
        self._datapath.probe(Packet(web, api, 6, 40_000, 80))
        before = self._store.ring.written
        self._parser.ingest(self._datapath.drain(1000), 0)
        span = self._store.ring.span(before, self._store.ring.written)
        flows = [FlowBuilder(self._store).flow(span, row) for row in range(len(span))]
        return [
            (flow.verdict, flow.drop_reason, names(flow.ingress_allowed_by), names(flow.ingress_denied_by))
            for flow in flows
            if flow.traffic_direction == flow_pb2.INGRESS and flow.event_type.type != 4
        ]


def names(policies: object) -> list[str]:
    assert np.iterable(policies)
    return [one.name for one in policies]


@asynccontextmanager
async def running() -> AsyncIterator[Node]:
    clock = SystemClock()
    log = MemoryLog(clock)
    datapath = open_datapath(AgentConfig(node_name="n1", datapath="memory"), ServiceOptions(), lambda _: "", clock)
    world, tables = await replay(log)
    targets = {**datapath.targets, REDIRECTS: DictTarget()}
    engine = Engine(log, targets, datapath.publish, started=world, tables=tables)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.run)
        tasks.start_soon(engine.drive)
        node = Node(engine, datapath)
        for command in (JOIN, pod("web", "k8s:app=web"), pod("api", "k8s:app=api", ifindex=11)):
            await node.submit(command)
        yield node
        tasks.cancel_scope.cancel()
    datapath.close()


def policy(name: str, *, audit: bool = False, **rule: object) -> Document:
    document = cnp(name, subject=selector("app=api"), **rule)
    return {**document, "metadata": {**document["metadata"], "annotations": {AUDIT_ANNOTATION: str(audit).lower()}}}


async def test_nothing_is_named_where_nothing_is_enforced():
    async with running() as node:
        assert node.told() == [(ALLOWED, 0, [], [])]


async def test_a_default_deny_names_who_asked_for_it_in_the_verdict_and_the_drop():
    async with running() as node:
        await node.apply(policy("only-db", **FROM_DB))
        assert node.told() == [(DENIED, 133, [], ["only-db"])] * 2
        await node.apply(policy("deny-web", **DENY_WEB))
        assert node.told() == [(DENIED, 181, [], ["deny-web"])] * 2


async def test_an_audited_policy_denies_in_words_only():
    async with running() as node:
        await node.apply(policy("only-db", audit=True, **FROM_DB))
        assert node.told() == [(AUDITED, 0, [], ["only-db"])]
        await node.apply(policy("all", ingress=[{"fromEntities": ["all"]}]))
        assert node.told() == [(ALLOWED, 0, ["all"], [])], "then the other would not deny it either"
        await node.apply(policy("deny-web", audit=True, **DENY_WEB))
        assert node.told() == [(AUDITED, 0, [], ["deny-web"])]
        await node.apply(policy("deny-web", **DENY_WEB))
        assert node.told() == [(DENIED, 181, [], ["deny-web"])] * 2


@pytest.mark.parametrize(
    ("on", "off"),
    [
        (ConfigureEndpoint(endpoint=API, audit=True), ConfigureEndpoint(endpoint=API, audit=False)),
        (ChangeOptions(policy_audit=True), ChangeOptions(policy_audit=False)),
    ],
    ids=["endpoint", "agent"],
)
async def test_audit_mode_turns_denials_into_words_until_it_ends(on: Command, off: Command):
    async with running() as node:
        await node.apply(policy("only-db", **FROM_DB), policy("deny-web", **DENY_WEB))
        await node.submit(on)
        assert node.told() == [(AUDITED, 0, [], ["deny-web"])]
        await node.apply(policy("deny-web", audit=True, **DENY_WEB))
        assert node.told() == [(AUDITED, 0, [], ["only-db"])]
        await node.submit(off)
        assert node.told() == [(DENIED, 133, [], ["only-db"])] * 2
