"""What became of policies, asked over a unix socket."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpclib.exceptions import GRPCError

from cplane.api.policy_status import proxy_problems
from cplane.deciders.config import ChangeOptions
from cplane.deciders.endpoint import ConfigureEndpoint
from cplane.domain.policy import CIDR_GROUP, KNP
from cplane.domain.policy.mapstate import Origin
from cplane.domain.policy.parse import AUDIT_ANNOTATION
from cplane.pb.cplane.admin import v1 as pb
from cplane.projections.policymap import PolicyMapProjection
from cplane.transport.client import ClientChannel
from tests.support.admin import administered
from tests.support.builders import DUAL_STACK, Document, allocated, cnp, pod_labels, ports, selector, upserted
from tests.support.engine import ListEngine
from tests.support.scenario import endpoint_created, pod

pytestmark = pytest.mark.anyio
ENFORCED, AUDITED, NOT_ENFORCED = pb.Enforcement.ENFORCED, pb.Enforcement.AUDITED, pb.Enforcement.NOT_ENFORCED
WEB = {"subject": selector("app=web")}
CLIENT = [selector("app=client")]


@pytest.fixture
def anyio_backend() -> str:
    """grpclib is written for asyncio."""
    return "asyncio"


@pytest.fixture
def engine() -> ListEngine:
    return ListEngine(
        pod("web", "k8s:app=web", ifindex=10),
        pod("web-2", "k8s:app=web", ifindex=11),
        pod("client", "k8s:app=client", ifindex=12),
    )


@pytest.fixture
async def channel(engine: ListEngine, tmp_path: Path) -> AsyncIterator[ClientChannel]:
    async with administered(engine, tmp_path / "cpt.sock") as channel:
        yield channel


async def applied(channel: ClientChannel, *documents: Document) -> None:
    text = json.dumps({"kind": "List", "items": documents})
    await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=text.encode()))


async def statuses(channel: ClientChannel, **request: object) -> list[pb.PolicyStatus]:
    stub = pb.PolicyServiceStub(channel)
    return [one async for batch in stub.status(pb.PolicyStatusRequest(**request)) for one in batch.policies]


def audited(document: Document) -> Document:
    return {**document, "metadata": {**document["metadata"], "annotations": {AUDIT_ANNOTATION: "true"}}}


async def test_a_rule_says_whom_it_is_about_and_each_part_whom_and_how_much_it_is(channel: ClientChannel):
    rule = {
        "ingress": [
            {"fromEndpoints": CLIENT, "toPorts": ports("80/TCP", "8000-8003/TCP")},
            {"toPorts": ports("1/TCP")},
        ],
        "egressDeny": [{"toEntities": ["all"]}],
    }
    await applied(channel, cnp("p", **WEB, **rule))
    (one,) = await statuses(channel)
    (rule_status,) = one.rules
    assert (rule_status.path, rule_status.endpoints, rule_status.default_deny) == ("spec", 2, ["ingress", "egress"])
    assert (rule_status.enforcement, rule_status.reasons) == (ENFORCED, [])
    told = [(t.path, t.direction, t.deny, t.peers, t.anyone, t.entries, t.enforcement) for t in rule_status.terms]
    assert told == [
        ("spec.ingress[0]", "ingress", False, 1, False, 2, ENFORCED),
        ("spec.ingress[1]", "ingress", False, 0, True, 1, ENFORCED),
        ("spec.egressDeny[0]", "egress", True, 0, True, 1, ENFORCED),
    ]


async def test_what_is_not_enforced_as_written_says_why_where_it_stands(channel: ClientChannel):
    rules = [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"l7proto": "memcache"}}]
    ingress = [
        {"fromEndpoints": CLIENT, "toPorts": rules},
        {"fromEndpoints": CLIENT, "authentication": {"mode": "required"}},
        {"fromEndpoints": CLIENT, "toPorts": ports("81/TCP")},
    ]
    await applied(channel, cnp("p", **WEB, ingress=ingress))
    ((rule,),) = [one.rules for one in await statuses(channel)]
    assert rule.enforcement is ENFORCED, "its default deny is"
    assert [(term.path, term.enforcement, bool(term.reasons)) for term in rule.terms] == [
        ("spec.ingress[0].toPorts[0]", NOT_ENFORCED, True),
        ("spec.ingress[1]", NOT_ENFORCED, True),
        ("spec.ingress[2]", ENFORCED, False),
    ]
    assert "no proxy" in rule.terms[0].reasons[0]
    assert "no mutual authentication" in rule.terms[1].reasons[0]


async def test_an_audited_policy_says_so_and_its_entries_lie_in_the_audit_plane(channel: ClientChannel):
    await applied(channel, audited(cnp("p", **WEB, ingress=[{"fromEndpoints": CLIENT}])))
    (one,) = await statuses(channel)
    (rule,) = one.rules
    assert one.audit
    assert (rule.enforcement, rule.reasons) == (AUDITED, [f"the annotation {AUDIT_ANNOTATION} is true"])
    assert (rule.terms[0].enforcement, rule.terms[0].entries) == (AUDITED, 1)
    listed = (await pb.PolicyServiceStub(channel).list(pb.ListPoliciesRequest())).policies
    assert [policy.audit for policy in listed] == [True]


async def test_options_of_the_agent_and_of_endpoints_show(channel: ClientChannel, engine: ListEngine):
    await applied(channel, cnp("p", **WEB, ingress=[{}]))
    engine.execute(ConfigureEndpoint(endpoint=1, audit=True), actor="test")
    ((rule,),) = [one.rules for one in await statuses(channel)]
    assert (rule.endpoints, rule.audited_endpoints, rule.enforcement) == (2, 1, ENFORCED)
    engine.execute(ChangeOptions(policy_audit=True), actor="test")
    ((rule,),) = [one.rules for one in await statuses(channel)]
    assert (rule.enforcement, rule.reasons) == (AUDITED, ["PolicyAuditMode of the agent is Enabled"])
    engine.execute(ChangeOptions(policy_enforcement="never"), actor="test")
    ((rule,),) = [one.rules for one in await statuses(channel)]
    assert (rule.enforcement, rule.reasons) == (NOT_ENFORCED, ["PolicyEnforcement is never: rules bind nobody"])
    assert (rule.endpoints, rule.terms[0].entries) == (2, 0)


async def test_every_kind_has_a_status_and_a_group_its_prefixes(channel: ClientChannel):
    group = {
        "apiVersion": "cilium.io/v2",
        "kind": CIDR_GROUP,
        "metadata": {"name": "partners"},
        "spec": {"externalCIDRs": ["192.0.2.0/24", "198.51.100.0/24"]},
    }
    knp = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": KNP,
        "metadata": {"name": "closed", "namespace": "shop"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    await applied(
        channel, group, knp, cnp("p", **WEB, egress=[{"toCIDRSet": [{"cidrGroupRef": "partners"}]}], namespace="shop")
    )
    found = {one.ref.kind: one for one in await statuses(channel) if one.ref}
    assert [*found] == [CIDR_GROUP, "CiliumNetworkPolicy", KNP]
    assert (found[CIDR_GROUP].prefixes, found[CIDR_GROUP].rules) == (2, [])
    assert found["CiliumNetworkPolicy"].rules[0].terms[0].peers == 2
    assert (found[KNP].rules[0].default_deny, found[KNP].rules[0].terms) == (["ingress"], [])
    listed = (await pb.PolicyServiceStub(channel).list(pb.ListPoliciesRequest())).policies
    assert [(one.rules, one.prefixes) for one in listed] == [(0, 2), (1, 0), (1, 0)]
    shop = await statuses(channel, namespace="shop")
    assert [one.ref.kind for one in shop if one.ref] == ["CiliumNetworkPolicy", KNP]
    only = await statuses(channel, ref=pb.PolicyRef(kind=CIDR_GROUP, name="partners"))
    assert [one.prefixes for one in only] == [2]
    with pytest.raises(GRPCError, match="no such policy: NetworkPolicy shop/p; there is CiliumNetworkPolicy shop/p"):
        await statuses(channel, ref=pb.PolicyRef(kind=KNP, namespace="shop", name="p"))
    deleting = pb.DeletePolicyRequest(
        refs=[
            pb.PolicyRef(kind=CIDR_GROUP, name="partners"),
            pb.PolicyRef(kind=KNP, namespace="shop", name="closed"),
        ]
    )
    assert len((await pb.PolicyServiceStub(channel).delete(deleting)).deleted) == 2


async def test_many_policies_come_in_batches_each_with_its_position(channel: ClientChannel, engine: ListEngine):
    stub = pb.PolicyServiceStub(channel)
    (empty,) = [batch async for batch in stub.status(pb.PolicyStatusRequest())]
    assert (empty.policies, empty.position, empty.revision) == ([], engine.head, 0)
    await applied(channel, *(cnp(f"p{number:02}", **WEB, ingress=[{}]) for number in range(23)))
    batches = [batch async for batch in stub.status(pb.PolicyStatusRequest())]
    assert [len(batch.policies) for batch in batches] == [10, 10, 3]
    assert {(batch.position, batch.applied, batch.revision) for batch in batches} == {(engine.head, engine.head, 23)}
    assert batches[0].options == pb.Options(policy_enforcement="default", policy_audit=False)


async def test_what_a_proxy_could_not_do_stands_where_its_rule_is():
    projection = PolicyMapProjection()
    rules = [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}}]
    for event in (
        DUAL_STACK,
        allocated(300, pod_labels("app=api")),
        endpoint_created(endpoint=1, ipv4="10.0.0.1", ipv6="", identity=300, labels=pod_labels("app=api").texts()),
        upserted(cnp("a", ingress=[{"toPorts": rules}])),
    ):
        projection.apply(event)
    key = min(projection.redirections())  # one for anyone, one for the host, which may ask anything
    told = proxy_problems(projection, {key.proxy_port: "it is not running", 1: "of nobody"})
    assert told == {
        Origin("CiliumNetworkPolicy shop/a", "spec.ingress[0].toPorts[0]"): (
            f"it is not running (proxy port {key.proxy_port})",
        )
    }
