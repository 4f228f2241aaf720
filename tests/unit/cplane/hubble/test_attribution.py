"""Who decided stands in a flow: for verdicts, drops and audits, and only where policies have decided."""

from typing import Any

import numpy as np
import pytest

from cplane.hubble.attribution import Attribution, PolicyMeta
from cplane.hubble.flow import FlowBuilder
from cplane.hubble.parser import attribution
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from datapath.notify.records import RecordFlags, RecordType
from tests.support.flows import ALLOW_WEB, SEED, START_NS, World, records, store_of

FIELDS = ("egress_allowed_by", "egress_denied_by", "ingress_allowed_by", "ingress_denied_by")
EGRESS, AUDITED = RecordFlags.EGRESS, RecordFlags.AUDITED
VERDICT, DROP, TRACE = RecordType.POLICY_VERDICT, RecordType.DROP, RecordType.TRACE


def flow_of(**fields: Any) -> flow_pb2.Flow:
    store = store_of(records(fields))
    return FlowBuilder(store).flow(store.ring.span(0, 1), 0)


def named(flow: flow_pb2.Flow) -> dict[str, list[str]]:
    """The names of policies by the field they stand in."""
    return {name: [one.name for one in getattr(flow, name)] for name in FIELDS if getattr(flow, name)}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"verdict": 0, "cookie": 100, "flags": EGRESS}, {"egress_allowed_by": ["allow-web"]}),
        ({"verdict": 0, "cookie": 100}, {"ingress_allowed_by": ["allow-web"]}),
        ({"verdict": 10_001, "cookie": 100}, {"ingress_allowed_by": ["allow-web"]}),
        ({"verdict": -181, "cookie": 200}, {"ingress_denied_by": ["deny-db", "deny-db-too"]}),
        ({"verdict": -189, "cookie": 100, "flags": EGRESS}, {"egress_denied_by": ["allow-web"]}),
        ({"verdict": -180, "cookie": 100}, {"ingress_denied_by": ["allow-web"]}),
        ({"verdict": -133}, {"ingress_denied_by": ["default"]}),
        ({"verdict": -133, "flags": EGRESS}, {"egress_denied_by": ["default"]}),
        ({"verdict": -157}, {"ingress_denied_by": ["default"]}),
        ({"verdict": -181, "cookie": 200, "flags": AUDITED}, {"ingress_denied_by": ["deny-db", "deny-db-too"]}),
        ({"verdict": -133, "flags": AUDITED}, {"ingress_denied_by": ["trial"]}),
        ({"verdict": -133, "flags": AUDITED | EGRESS}, {"egress_denied_by": ["default"]}),
    ],
)
def test_a_verdict_names_who_decided_and_which_way(fields: dict[str, Any], expected: dict[str, list[str]]) -> None:
    assert named(flow_of(type=VERDICT, **fields)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"subtype": 181, "cookie": 200}, {"ingress_denied_by": ["deny-db", "deny-db-too"]}),
        ({"subtype": 133, "flags": EGRESS}, {"egress_denied_by": ["default"]}),
        ({"subtype": 189, "cookie": 100}, {"ingress_denied_by": ["allow-web"]}),
        ({"subtype": 132}, {}),
        ({"subtype": 155, "cookie": 100}, {}),
    ],
    ids=["deny", "default deny", "authentication", "a lie about the source", "no room after an allow"],
)
def test_a_drop_names_who_decided_where_policies_did(fields: dict[str, Any], expected: dict[str, list[str]]) -> None:
    assert named(flow_of(type=DROP, verdict=-fields["subtype"], **fields)) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"type": TRACE, "cookie": 100},
        {"type": VERDICT, "verdict": 0},
        {"type": VERDICT, "verdict": 0, "cookie": 4711},
        {"type": VERDICT, "verdict": -133, "dst_lxc": 99},
        {"type": VERDICT, "verdict": -133, "dst_lxc": 0},
    ],
    ids=["trace", "nothing enforced", "a cookie that nobody knows", "a stranger's endpoint", "no endpoint"],
)
def test_nobody_is_named_where_nobody_is_known(fields: dict[str, Any]) -> None:
    flow = flow_of(**fields)
    assert named(flow) == {}
    assert not flow.policy_log


def test_a_policy_is_named_with_its_labels_and_revision_and_what_it_wants_logged() -> None:
    flow = flow_of(type=VERDICT, verdict=0, cookie=100)
    assert list(flow.ingress_allowed_by) == [
        flow_pb2.Policy(
            name="allow-web",
            namespace="shop",
            labels=["k8s:io.cilium.k8s.policy.name=allow-web"],
            revision=7,
            kind="CiliumNetworkPolicy",
        )
    ]
    assert list(flow.policy_log) == ["ok"]


def test_an_audit_has_no_drop_reason_and_belongs_to_a_connection() -> None:
    flags = AUDITED | RecordFlags.REPLY_KNOWN
    flow = flow_of(type=VERDICT, verdict=-181, cookie=200, match_type=3, flags=flags)
    assert (flow.verdict, flow.drop_reason, flow.drop_reason_desc) == (flow_pb2.AUDIT, 0, 0)
    assert flow.policy_match_type == 3
    assert flow.HasField("is_reply")
    assert not flow.is_reply.value


def test_flows_keep_who_decided_when_they_passed() -> None:
    world = World()
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=64)
    parser = Parser(store, world)
    record = records({"type": VERDICT, "verdict": 0, "cookie": 100})
    parser.ingest(record, START_NS)
    world.cookies[100] = Attribution((PolicyMeta("NetworkPolicy", "shop", "later", (), 8),))
    parser.ingest(record, START_NS)
    world.changed()
    parser.ingest(record, START_NS)
    span = store.ring.span(0, 3)
    found = [named(FlowBuilder(store).flow(span, row))["ingress_allowed_by"] for row in range(3)]
    assert found == [["allow-web"], ["allow-web"], ["later"]]


def test_each_distinct_decision_is_looked_up_once_and_traces_never() -> None:
    world = World()
    rows = [{"type": VERDICT, "verdict": 0, "cookie": 100}, {"type": TRACE, "cookie": 100}] * 300
    rows += [{"type": VERDICT, "verdict": -133, "dst_lxc": 12 + n % 2} for n in range(300)]
    store = store_of(records(*rows), records(*rows), capacity=2048, world=world)
    assert world.asked_who == 3
    assert len(store.attributions) == 3, "nobody, allow-web and the default"
    numbers = store.ring.span(0, len(rows))["attribution"]
    assert np.count_nonzero(numbers) == 450, "endpoint 13 has no default deny"


def test_the_table_of_attributions_is_bounded_by_what_the_ring_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "_KNOWN_MAX", 100)
    world = World()
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=64)
    parser = Parser(store, world)
    for number in range(1, 6000, 60):
        cookies = range(number, number + 60)
        world.cookies = {one: Attribution((PolicyMeta("", "", f"p{one}", (), 1),)) for one in cookies}
        world.changed()
        parser.ingest(records(*({"type": VERDICT, "cookie": one, "verdict": 0} for one in cookies)), START_NS)
    assert len(store.attributions) < 5000
    assert store.attributions.generation
    span = store.ring.span(store.ring.written - 1, store.ring.written)
    assert named(FlowBuilder(store).flow(span, 0)) == {"ingress_allowed_by": [f"p{number + 59}"]}
    assert ALLOW_WEB not in store.attributions.values_from(0)
