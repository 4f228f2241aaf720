"""Kernel records as flows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from cplane.hubble.flow import FlowBuilder
from cplane.hubble.parser import distinct
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.store import FlowStore
from cplane.pb.cplane.flow.v1 import extension_pb2
from cplane.pb.flow import flow_pb2
from datapath.notify.records import DTYPE, RecordFlags, RecordType
from tests.support.effort import examples
from tests.support.flows import API, SEED, START_NS, WEB, World, record_batches, records, store_of


def flow_of(**fields: Any) -> flow_pb2.Flow:
    store = store_of(records(fields))
    return FlowBuilder(store).flow(store.ring.span(0, 1), 0)


def test_a_trace_of_a_syn_has_everything_that_is_known() -> None:
    flow = flow_of(time_ns=123_000_000, position=42)
    assert flow.time.ToNanoseconds() == START_NS + 123_000_000
    assert (flow.verdict, flow.Type, flow.node_name) == (flow_pb2.FORWARDED, flow_pb2.L3_L4, "default/node1")
    assert (flow.ethernet.source, flow.ethernet.destination) == ("02:00:00:00:00:0b", "02:00:00:00:00:0c")
    assert (flow.IP.source, flow.IP.destination, flow.IP.ipVersion) == ("10.244.0.11", "10.244.0.12", flow_pb2.IPv4)
    assert flow_pb2.TCP(source_port=43512, destination_port=80, flags=flow_pb2.TCPFlags(SYN=True)) == flow.l4.TCP
    assert flow.source == flow_pb2.Endpoint(
        ID=11,
        identity=WEB,
        cluster_name="default",
        namespace="shop",
        labels=["k8s:app=web", "k8s:io.cilium.k8s.policy.cluster=default", "k8s:io.kubernetes.pod.namespace=shop"],
        pod_name="web-7f9",
        workloads=[flow_pb2.Workload(name="web", kind="Deployment")],
    )
    assert (flow.destination.ID, flow.destination.identity, flow.destination.pod_name) == (12, API, "api-55c")
    assert (flow.event_type.type, flow.event_type.sub_type) == (4, 0)
    assert flow.trace_observation_point == flow_pb2.TO_ENDPOINT
    assert flow.trace_reason == flow_pb2.NEW
    assert flow.traffic_direction == flow_pb2.INGRESS
    assert flow.HasField("is_reply")
    assert not flow.is_reply.value
    assert (flow.interface.index, flow.interface.name) == (7, "lxc7")
    assert flow.Summary == "TCP Flags: SYN"
    assert flow.uuid
    assert extension_pb2.Origin.FromString(flow.extensions.value).position == 42
    assert not flow.HasField("file")


def test_a_drop_says_why_and_where() -> None:
    flow = flow_of(type=RecordType.DROP, subtype=133, verdict=-133, file=2, line=731)
    assert (flow.verdict, flow.drop_reason, flow.drop_reason_desc) == (flow_pb2.DROPPED, 133, flow_pb2.POLICY_DENIED)
    assert (flow.event_type.type, flow.event_type.sub_type) == (1, 133)
    assert (flow.file.name, flow.file.line) == ("bpf_lxc.c", 731)
    assert not flow.HasField("is_reply"), "a dropped packet belongs to no connection"
    assert flow.trace_observation_point == flow_pb2.UNKNOWN_POINT
    assert flow.trace_reason == flow_pb2.TRACE_REASON_UNKNOWN


@pytest.mark.parametrize(
    ("verdict", "flags", "expected", "reason", "reply_known"),
    [
        (0, RecordFlags.REPLY_KNOWN, flow_pb2.FORWARDED, 0, True),
        (-133, RecordFlags.REPLY_KNOWN, flow_pb2.DROPPED, 133, False),
        (10001, RecordFlags.REPLY_KNOWN, flow_pb2.REDIRECTED, 0, True),
        (0, RecordFlags.AUDITED, flow_pb2.AUDIT, 0, False),
        (-133, RecordFlags.AUDITED | RecordFlags.REPLY_KNOWN, flow_pb2.AUDIT, 0, True),
    ],
)
def test_a_policy_verdict_tells_what_was_decided(
    verdict: int, flags: int, expected: int, reason: int, reply_known: bool
) -> None:
    flow = flow_of(type=RecordType.POLICY_VERDICT, verdict=verdict, flags=flags | RecordFlags.EGRESS, match_type=2)
    assert (flow.verdict, flow.drop_reason, flow.policy_match_type) == (expected, reason, 2)
    assert (flow.event_type.type, flow.event_type.sub_type) == (5, 0)
    assert flow.traffic_direction == flow_pb2.EGRESS
    assert flow.HasField("is_reply") == reply_known
    assert flow.proxy_port == (10001 if verdict > 0 else 0)


@pytest.mark.parametrize(
    ("flags", "direction"),
    [
        (0, flow_pb2.INGRESS),
        (RecordFlags.EGRESS, flow_pb2.EGRESS),
        (RecordFlags.REPLY, flow_pb2.EGRESS),
        (RecordFlags.EGRESS | RecordFlags.REPLY, flow_pb2.INGRESS),
    ],
)
def test_a_trace_has_the_direction_of_its_connection(flags: int, direction: int) -> None:
    flow = flow_of(flags=flags | RecordFlags.REPLY_KNOWN, trace_reason=2 if flags & RecordFlags.REPLY else 0)
    assert flow.traffic_direction == direction
    assert flow.is_reply.value == bool(flags & RecordFlags.REPLY)
    assert flow.IP.source == "10.244.0.11", "source and destination stay those of the packet"


def test_whether_an_unjudged_packet_is_a_reply_is_not_known() -> None:
    assert not flow_of(flags=0, trace_reason=5).HasField("is_reply")


@pytest.mark.parametrize(
    ("fields", "kind", "summary"),
    [
        ({"protocol": 17}, "UDP", "UDP"),
        ({"protocol": 132}, "SCTP", "SCTP"),
        ({"protocol": 6, "tcp_flags": 0x12}, "TCP", "TCP Flags: SYN, ACK"),
        ({"protocol": 6, "tcp_flags": 0x11}, "TCP", "TCP Flags: ACK, FIN"),
        ({"protocol": 6, "tcp_flags": 0x14}, "TCP", "TCP Flags: ACK, RST"),
        ({"protocol": 6, "tcp_flags": 0x18}, "TCP", "TCP Flags: ACK, PSH"),
        ({"protocol": 1, "icmp_type": 8}, "ICMPv4", "ICMPv4 EchoRequest"),
        ({"protocol": 1, "icmp_type": 3, "icmp_code": 3}, "ICMPv4", "ICMPv4 DestinationUnreachable(Port)"),
        ({"protocol": 58, "icmp_type": 135}, "ICMPv6", "ICMPv6 NeighborSolicitation"),
        ({"protocol": 58, "icmp_type": 250, "icmp_code": 3}, "ICMPv6", "ICMPv6 250(3)"),
        ({"protocol": 112}, None, ""),
    ],
)
def test_each_transport_has_its_fields_and_its_summary(fields: dict[str, Any], kind: str | None, summary: str) -> None:
    flow = flow_of(**fields)
    assert flow.l4.WhichOneof("protocol") == kind
    assert flow.Summary == summary


def test_a_packet_that_is_no_ip_has_only_its_ethernet_addresses() -> None:
    flow = flow_of(src="", dst="", protocol=0, src_lxc=0, dst_lxc=0, type=RecordType.DROP, subtype=166)
    assert not flow.HasField("IP")
    assert not flow.HasField("l4")
    assert flow.HasField("ethernet")


def test_an_address_names_the_pod_when_the_kernel_does_not() -> None:
    flow = flow_of(src="fd00::11", dst="fd00::12", src_lxc=0, dst_lxc=0)
    assert (flow.source.pod_name, flow.destination.pod_name) == ("web-7f9", "api-55c")
    assert flow.IP.ipVersion == flow_pb2.IPv6


def test_a_forged_address_does_not_name_another_pod() -> None:
    flow = flow_of(type=RecordType.DROP, subtype=132, src="10.244.0.13", src_lxc=11)
    assert flow.source.pod_name == "web-7f9"


def test_an_endpoint_that_is_gone_keeps_its_id_labels_and_namespace() -> None:
    world = World(pods={})
    store = store_of(records({}), world=world)
    source = FlowBuilder(store).flow(store.ring.span(0, 1), 0).source
    assert (source.ID, source.namespace, source.pod_name) == (11, "shop", "")
    assert "k8s:app=web" in source.labels


def test_labels_without_a_value_end_without_an_equals_sign() -> None:
    flow = flow_of(src="192.0.2.1", src_lxc=0, src_identity=2)
    assert list(flow.source.labels) == ["reserved:world"]


def test_flows_keep_what_was_true_when_they_passed() -> None:
    world = World()
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=64)
    parser = Parser(store, world)
    parser.ingest(records({}), START_NS)
    world.labels[WEB] = ("k8s:app=renamed",)
    parser.ingest(records({}), START_NS)
    world.changed()
    parser.ingest(records({}), START_NS)
    span = store.ring.span(0, 3)
    labels = [FlowBuilder(store).flow(span, row).source.labels[0] for row in range(3)]
    assert labels == ["k8s:app=web", "k8s:app=web", "k8s:app=renamed"]


def test_each_distinct_end_is_looked_up_once() -> None:
    world = World()
    store = store_of(records(*({} for _ in range(500))), records(*({} for _ in range(500))), world=world)
    assert len(store.ring) == 1000
    assert world.asked == 2


def test_records_of_an_unknown_type_are_left_out_and_counted() -> None:
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=64)
    parser = Parser(store, World())
    rng = np.random.default_rng(1)
    garbage = rng.integers(0, 256, 64 * DTYPE.itemsize, dtype=np.uint8).view(DTYPE)
    taken = parser.ingest(garbage, START_NS)
    assert taken + parser.malformed == 64
    span = store.ring.span(0, store.ring.written)
    for row in range(len(span)):
        FlowBuilder(store).flow(span, row).SerializeToString()


def test_tables_are_bounded_by_what_the_ring_holds() -> None:
    world = World()
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=64)
    parser = Parser(store, world)
    for round_ in range(200):
        for number in range(64):
            world.labels[10_000 + number] = (f"k8s:round={round_}",)
        world.changed()
        parser.ingest(records(*({"src_identity": 10_000 + number} for number in range(64))), START_NS)
    assert len(store.endpoints) < 5000
    span = store.ring.span(store.ring.written - 64, store.ring.written)
    assert FlowBuilder(store).flow(span, 5).source.labels[0] == "k8s:round=199"


@settings(max_examples=examples(25), deadline=None)
@given(batch=record_batches())
def test_ends_are_told_apart_also_when_their_numbers_collide(batch: np.ndarray) -> None:
    plain = store_of(batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distinct, "_MIX", (np.uint64(0),) * 4)
        colliding = store_of(batch)
    for store in (plain, colliding):
        span = store.ring.span(0, store.ring.written)
        found = [FlowBuilder(store).flow(span, row) for row in range(len(span))]
        whole = plain.ring.span(0, plain.ring.written)
        assert found == [FlowBuilder(plain).flow(whole, row) for row in range(len(whole))]


def test_namespaces_are_those_of_the_last_hour() -> None:
    store = store_of(records({}, {"src_lxc": 13, "src_identity": 777, "time_ns": 0}))
    hour = 3600 * 10**9
    assert store.namespaces.recent(START_NS + hour) == [("default", "data"), ("default", "shop")]
    assert store.namespaces.recent(START_NS + hour + 1) == []
