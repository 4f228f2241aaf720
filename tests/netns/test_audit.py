"""Audit mode with real traffic: of a policy, of an endpoint, of the agent. What it tells is what enforcement does."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from cplane.domain.policy.parse import AUDIT_ANNOTATION
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2
from cplane.transport.client import connect
from tests.support.agent import Agent, running
from tests.support.builders import Document, cnp, ports, selector
from tests.support.observing import get_flows
from tests.support.pods import BRIEF_S, PORT, Pod, Pods, node, pods

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

NAME = f"cptaud{os.getpid():x}"
PATIENCE_S = 10.0
FAMILIES = (4, 6)
ALLOWED, AUDITED, DENIED = flow_pb2.FORWARDED, flow_pb2.AUDIT, flow_pb2.DROPPED


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent of its own in a node of its own."""
    folder: Path = tmp_path_factory.mktemp("audit")
    with node(NAME) as namespace, running(folder, NAME, node=namespace) as started:
        yield started


@pytest.fixture(scope="module")
def all_pods(agent: Agent) -> Iterator[Pods]:
    with pods(agent, NAME) as made:
        made.add("web", serve=False)
        made.add("api", named_ports={"http": f"{PORT}/TCP"})
        yield made


@pytest.fixture
def web(all_pods: Pods) -> Pod:
    return all_pods["web"]


@pytest.fixture
def api(agent: Agent, all_pods: Pods) -> Iterator[Pod]:
    """The pod that is spoken to; no policy and no option of the agent is left for the next test."""
    yield all_pods["api"]
    held = agent.ask("policy", "list")["policies"]
    if held:
        agent.cplane("policy", "delete", "-f", "-", given=json.dumps({"kind": "List", "items": held}))
    agent.cplane("config", "PolicyEnforcement=default", "PolicyAuditMode=Disabled", "--wait")


def closed(*, audit: bool = False, **rule: object) -> Document:
    """Nobody but `db` reaches `api`."""
    document = cnp("closed", namespace="demo", subject=selector("app=api"), **rule or {"ingress": [FROM_DB]})
    if audit:
        document["metadata"]["annotations"] = {AUDIT_ANNOTATION: "true"}
    return document


FROM_DB = {"fromEndpoints": [selector("app=db")]}


def apply(agent: Agent, document: Document) -> None:
    agent.cplane("policy", "apply", "-f", "-", "--wait", given=json.dumps(document))


def endpoint(agent: Agent, pod: Pod) -> str:
    return next(str(one["id"]) for one in agent.ask("endpoint", "list")["endpoints"] if one["pod"] == pod.name)


def reached(web: Pod, api: Pod, *, patient: bool) -> list[bool]:
    """Whether the pod is reached over each family, by a new connection."""
    more = {} if patient else {"timeout_s": BRIEF_S}
    return [web.reach(api.address(family), **more) for family in FAMILIES]


def flows(agent: Agent) -> list[flow_pb2.Flow]:
    """All flows that the agent has."""

    async def ask() -> list[flow_pb2.Flow]:
        async with (
            connect(f"unix://{agent.run_dir}/hubble.sock") as channel,
            get_flows(channel).open() as stream,
        ):
            await stream.send_message(observer_pb2.GetFlowsRequest(first=True), end=True)
            return [response.flow async for response in stream]

    return anyio.run(ask)


class Told:
    """What flows say of traffic to the pod since this was made."""

    def __init__(self, agent: Agent, api: Pod) -> None:
        self._agent, self._api = agent, api
        self._before = len(flows(agent))

    def verdicts(self) -> list[tuple[int, str, tuple[str, ...], int]]:
        """Verdict, family's address, who denied, and drop reason of every policy verdict about its ingress."""
        return [
            (
                int(flow.verdict),
                flow.IP.destination,
                tuple(one.name for one in flow.ingress_denied_by),
                flow.drop_reason,
            )
            for flow in flows(self._agent)[self._before :]
            if flow.event_type.type == 5
            and flow.traffic_direction == flow_pb2.INGRESS
            and flow.destination.pod_name == self._api.name
        ]

    def drops(self) -> set[tuple[str, tuple[str, ...]]]:
        """Address and who denied, of every drop."""
        return {
            (flow.IP.destination, tuple(one.name for one in flow.ingress_denied_by))
            for flow in flows(self._agent)[self._before :]
            if flow.event_type.type == 1 and flow.destination.pod_name == self._api.name
        }

    def both(self, verdict: int, by: str, reason: int = 0) -> bool:
        """Whether there is such a verdict for each family."""
        wanted = {(verdict, self._api.address(family), (by,) if by else (), reason) for family in FAMILIES}
        return wanted <= set(self.verdicts())


def eventually(holds: Callable[[], bool]) -> bool:
    """Flows are there some milliseconds after their packets, in another process."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def assert_audited(agent: Agent, web: Pod, api: Pod, by: str = "closed") -> None:
    """New connections pass, and are told of as what would be dropped."""
    told = Told(agent, api)
    assert reached(web, api, patient=True) == [True, True]
    assert eventually(lambda: told.both(AUDITED, by)), told.verdicts()
    assert {verdict for verdict, *_ in told.verdicts()} == {AUDITED}
    assert told.drops() == set()


def assert_enforced(agent: Agent, web: Pod, api: Pod, by: str = "closed") -> None:
    """New connections are dropped, by the same policy."""
    told = Told(agent, api)
    assert reached(web, api, patient=False) == [False, False]
    assert eventually(lambda: told.both(DENIED, by, 133)), told.verdicts()
    assert eventually(lambda: told.drops() >= {(api.address(family), (by,)) for family in FAMILIES})


def test_a_policy_that_is_audited_tells_what_it_drops_once_it_is_enforced(agent: Agent, web: Pod, api: Pod) -> None:
    before = web.connect(api.ipv4)
    assert before.goes_on()
    told = Told(agent, api)
    apply(agent, closed(audit=True))
    assert before.goes_on()
    assert eventually(lambda: (AUDITED, api.ipv4, ("closed",), 0) in told.verdicts()), "a live one would be cut"
    assert_audited(agent, web, api)
    during = web.connect(api.ipv6)
    assert during.goes_on()
    apply(agent, closed())
    assert not before.goes_on(BRIEF_S)
    assert not during.goes_on(BRIEF_S)
    assert_enforced(agent, web, api)
    apply(agent, closed(audit=True))
    assert_audited(agent, web, api)
    assert before.goes_on(), "it has caught up"


def test_beside_an_audited_policy_the_others_are_enforced(agent: Agent, web: Pod, api: Pod) -> None:
    apply(agent, closed(audit=True, ingressDeny=[{"fromEndpoints": [selector("app=web")]}]))
    apply(agent, cnp("tcp", namespace="demo", subject=selector("app=api"), ingress=[{"toPorts": ports("8080/TCP")}]))
    assert_audited(agent, web, api)
    assert not web.reach(api.ipv4, "udp", timeout_s=BRIEF_S)
    assert not web.reach(api.ipv6, "icmp", timeout_s=BRIEF_S)


def test_an_endpoint_in_audit_mode_is_cut_when_that_ends(agent: Agent, web: Pod, api: Pod) -> None:
    apply(agent, closed())
    assert_enforced(agent, web, api)
    number = endpoint(agent, api)
    agent.cplane("endpoint", "config", number, "PolicyAuditMode=Enabled", "--wait")
    assert_audited(agent, web, api)
    during = web.connect(api.ipv4)
    assert during.goes_on()
    (rule,) = agent.ask("policy", "status", "closed", "-n", "demo")["policies"][0]["rules"]
    assert (rule["endpoints"], rule["audited_endpoints"], rule["enforcement"]) == (1, 1, "enforced")
    agent.cplane("endpoint", "config", number, "PolicyAuditMode=Disabled", "--wait")
    assert not during.goes_on(BRIEF_S)
    assert_enforced(agent, web, api)


def test_the_agents_audit_mode_outlives_it_until_a_flag_or_a_command_ends_it(agent: Agent, web: Pod, api: Pod) -> None:
    apply(agent, closed())
    agent.cplane("config", "PolicyAuditMode=Enabled", "--wait")
    assert_audited(agent, web, api)
    during = web.connect(api.ipv4)
    agent.kill()
    assert during.goes_on()
    agent.start()
    assert_audited(agent, web, api)
    assert agent.stop() == 0
    options = agent.options
    try:
        agent.options = (*options, "--no-policy-audit-mode", "--policy-enforcement", "default")
        agent.start()
    finally:
        agent.options = options
    assert agent.ask("config")["options"] == {
        "PolicyEnforcement": "default",
        "PolicyAuditMode": "Disabled",
        "Debug": "Disabled",
    }
    assert not during.goes_on(BRIEF_S)
    assert_enforced(agent, web, api)
    last = json.loads(agent.cplane("log", "--last", "1", "-o", "json").stdout)
    assert (last["type"], last["actor"]) == ("config.options_changed", "agent")


def test_a_default_deny_that_nobody_asked_for_names_nobody(agent: Agent, web: Pod, api: Pod) -> None:
    agent.cplane("config", "PolicyEnforcement=always", "PolicyAuditMode=Enabled", "--wait")
    assert_audited(agent, web, api, by="")
    agent.cplane("config", "PolicyAuditMode=Disabled", "--wait")
    assert reached(web, api, patient=False) == [False, False]
    apply(agent, closed())
    agent.cplane("config", "PolicyEnforcement=never", "--wait")
    assert reached(web, api, patient=True) == [True, True]


def test_a_port_is_called_by_the_name_that_its_container_gave_it(agent: Agent, web: Pod, api: Pod) -> None:
    assert agent.ask("endpoint", "get", endpoint(agent, api))["named_ports"] == [f"http={PORT}/TCP"]
    apply(agent, closed(ingress=[{"toPorts": ports("http/TCP")}], log={"value": "by name"}))
    told = Told(agent, api)
    assert reached(web, api, patient=True) == [True, True]
    assert eventually(lambda: told.both(ALLOWED, ""))
    assert not web.reach(api.ipv4, "udp", timeout_s=BRIEF_S)
    allowed = [flow for flow in flows(agent) if flow.ingress_allowed_by]
    assert {(flow.ingress_allowed_by[0].name, tuple(flow.policy_log)) for flow in allowed} == {("closed", ("by name",))}
    apply(agent, closed(ingress=[{"toPorts": ports("https/TCP")}]))
    assert_enforced(agent, web, api)
