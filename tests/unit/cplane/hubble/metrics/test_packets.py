"""What flows count in, grouped by columns, is what a plain reading of each flow would count in."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings

from cplane.config.metrics import CONTEXTS, parse_metrics
from cplane.hubble.flow import FlowBuilder
from cplane.hubble.metrics.collector import FlowMetrics
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from datapath.notify.records import RecordFlags, RecordType
from tests.support.effort import examples
from tests.support.flows import WEB, World, record_batches, records, store_of

OUT = RecordFlags.EGRESS | RecordFlags.REPLY_KNOWN
WORLD = {"dst": "192.0.2.7", "dst_lxc": 0, "dst_identity": 2}
Series = dict[tuple[str, ...], float]


def counted(store: FlowStore, *texts: str, limit: int = 1000) -> Series:
    """Samples by name and label values (in the order of the labels' names), without those about metrics."""
    metrics = FlowMetrics(store, parse_metrics(texts), limit=limit)
    metrics.add(store.ring.span(store.ring.oldest, store.ring.written))
    return series(metrics)


def series(metrics: FlowMetrics) -> Series:
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in metrics.families()
        for sample in family.samples
        if not sample.name.startswith("cplane_metrics_")
    }


def test_drops_have_a_reason_and_a_protocol() -> None:
    drop = {"type": RecordType.DROP, "subtype": 133}
    store = store_of(records(drop, drop, {**drop, "protocol": 17}, {**drop, "protocol": 99}, {}))
    assert counted(store, "drop") == {
        ("hubble_drop_total", "TCP", "POLICY_DENIED"): 2,
        ("hubble_drop_total", "UDP", "POLICY_DENIED"): 1,
        ("hubble_drop_total", "Unknown L4", "POLICY_DENIED"): 1,
    }


def test_flows_have_a_type_and_a_verdict() -> None:
    store = store_of(
        records(
            {"subtype": 3},
            {"subtype": 0},
            {"type": RecordType.POLICY_VERDICT, "verdict": -133},
            {"type": RecordType.POLICY_VERDICT, "flags": RecordFlags.AUDITED, "verdict": -133},
            {"type": RecordType.DROP, "subtype": 133, "protocol": 1},
        )
    )
    assert counted(store, "flow") == {
        ("hubble_flows_processed_total", "TCP", "to-stack", "Trace", "FORWARDED"): 1,
        ("hubble_flows_processed_total", "TCP", "to-endpoint", "Trace", "FORWARDED"): 1,
        ("hubble_flows_processed_total", "TCP", "", "PolicyVerdict", "DROPPED"): 1,
        ("hubble_flows_processed_total", "TCP", "", "PolicyVerdict", "AUDIT"): 1,
        ("hubble_flows_processed_total", "ICMPv4", "", "Drop", "DROPPED"): 1,
    }


def test_a_type_that_has_no_name_is_told_by_its_number() -> None:
    store = store_of(records({}))
    store.ring.span(0, 1)["type"][:] = RecordType.SOCKET
    assert counted(store, "flow") == {("hubble_flows_processed_total", "Unknown flow", "7", "Unknown", "FORWARDED"): 1}


def test_what_a_policy_refuses_counts_as_a_drop_for_its_verdict_and_for_its_drop() -> None:
    refused = [{"type": RecordType.POLICY_VERDICT, "verdict": -133}, {"type": RecordType.DROP, "subtype": 133}]
    audited = {"type": RecordType.POLICY_VERDICT, "flags": RecordFlags.AUDITED, "verdict": -133}
    assert counted(store_of(records(*refused, audited)), "drop") == {("hubble_drop_total", "TCP", "POLICY_DENIED"): 2}


def test_policies_verdicts_have_a_direction_a_match_and_an_action() -> None:
    verdict = {"type": RecordType.POLICY_VERDICT, "match_type": 2}
    store = store_of(
        records(
            verdict,
            {**verdict, "verdict": -133, "flags": OUT},
            {**verdict, "verdict": 10001},
            {"match_type": 2},
            {**verdict, "src": "10.244.0.1", "src_lxc": 0, "src_identity": 1},  # of the host, which may
        )
    )
    assert counted(store, "policy") == {
        ("hubble_policy_verdicts_total", "forwarded", "ingress", "l3-l4"): 1,
        ("hubble_policy_verdicts_total", "dropped", "egress", "l3-l4"): 1,
        ("hubble_policy_verdicts_total", "redirected", "ingress", "l3-l4"): 1,
    }


def test_flags_that_begin_and_end_connections_are_counted() -> None:
    v6 = {"src": "fd00::11", "dst": "fd00::12"}
    flags = [2, 18, 17, 4, 16, 24]
    refused = {"type": RecordType.DROP, "subtype": 133}
    store = store_of(records(*({"tcp_flags": f} for f in flags), v6, {"protocol": 17}, refused))
    assert counted(store, "tcp") == {
        ("hubble_tcp_flags_total", "IPv4", "SYN"): 1,
        ("hubble_tcp_flags_total", "IPv4", "SYN-ACK"): 1,
        ("hubble_tcp_flags_total", "IPv4", "FIN"): 1,
        ("hubble_tcp_flags_total", "IPv4", "RST"): 1,
        ("hubble_tcp_flags_total", "IPv6", "SYN"): 1,
    }


def test_icmp_messages_have_names() -> None:
    ping = {"protocol": 1, "icmp_type": 8}
    store = store_of(
        records(ping, ping, {"protocol": 1, "icmp_type": 3, "icmp_code": 3}, {**ping, "type": 1, "subtype": 133})
    )
    assert counted(store, "icmp") == {
        ("hubble_icmp_total", "IPv4", "EchoRequest"): 3,
        ("hubble_icmp_total", "IPv4", "DestinationUnreachable(Port)"): 1,
    }


def test_ports_are_those_of_servers() -> None:
    reply = {"flags": RecordFlags.REPLY_KNOWN | RecordFlags.REPLY, "dport": 43512}
    unknown = {"flags": 0, "dport": 50000}
    redirected = {"type": RecordType.POLICY_VERDICT, "verdict": 10001}
    others = [{"protocol": 17, "dport": 53}, {"protocol": 132, "dport": 9}, {"protocol": 1}, {"protocol": 58}]
    store = store_of(records({}, {}, redirected, *others, reply, unknown, {"protocol": 99}))
    assert counted(store, "port-distribution") == {
        ("hubble_port_distribution_total", "80", "TCP"): 3,
        ("hubble_port_distribution_total", "53", "UDP"): 1,
        ("hubble_port_distribution_total", "9", "SCTP"): 1,
        ("hubble_port_distribution_total", "0", "ICMPv4"): 1,
        ("hubble_port_distribution_total", "0", "ICMPv6"): 1,
    }


def test_flows_to_the_world_are_those_that_this_side_began_or_was_refused() -> None:
    reply = {**WORLD, "flags": OUT | RecordFlags.REPLY}
    denied = {**WORLD, "type": RecordType.DROP, "subtype": 133, "flags": OUT}
    invalid = {**denied, "subtype": 134}
    unknown = {**WORLD, "flags": RecordFlags.EGRESS, "tcp_flags": 16}
    store = store_of(
        records({**WORLD, "flags": OUT}, {**WORLD, "flags": OUT, "tcp_flags": 16}, reply, unknown, denied, invalid, {})
    )
    assert counted(store, "flows-to-world") == {
        ("hubble_flows_to_world_total", "TCP", "FORWARDED"): 3,
        ("hubble_flows_to_world_total", "TCP", "DROPPED"): 1,
    }
    assert counted(store, "flows-to-world:any-drop;port;syn-only") == {
        ("hubble_flows_to_world_total", "80", "TCP", "FORWARDED"): 1,
        ("hubble_flows_to_world_total", "80", "TCP", "DROPPED"): 2,
    }


def test_contexts_name_the_ends_and_the_next_is_asked_where_one_knows_nothing() -> None:
    store = store_of(records({"flags": OUT}, {**WORLD, "flags": OUT}))
    assert counted(
        store, "drop:sourceContext=pod", "tcp:sourceContext=pod;destinationContext=pod|reserved-identity"
    ) == {
        ("hubble_tcp_flags_total", "shop/api-55c", "IPv4", "SYN", "shop/web-7f9"): 1,
        ("hubble_tcp_flags_total", "reserved:world", "IPv4", "SYN", "shop/web-7f9"): 1,
    }


@pytest.mark.parametrize(
    ("context", "value"),
    [
        ("identity", "k8s:app=web,k8s:io.cilium.k8s.policy.cluster=default,k8s:io.kubernetes.pod.namespace=shop"),
        ("namespace", "shop"),
        ("pod", "shop/web-7f9"),
        ("pod-name", "web-7f9"),
        ("dns", ""),
        ("ip", "10.244.0.11"),
        ("reserved-identity", ""),
        ("workload", "shop/web"),
        ("workload-name", "web"),
        ("app", "web"),
    ],
)
def test_each_context_says_one_thing(context: str, value: str) -> None:
    assert counted(store_of(records({})), f"tcp:sourceContext={context}") == {
        ("hubble_tcp_flags_total", "IPv4", "SYN", value): 1
    }


@pytest.mark.parametrize(
    ("labels", "application"),
    [
        (("k8s:app=web", "k8s:k8s-app=old", "k8s:app.kubernetes.io/name=new"), "new"),
        (("k8s:app.kubernetes.io/name", "k8s:k8s-app=", "k8s:app=web"), "web"),
        (("k8s:app", "container:app=no"), ""),
    ],
)
def test_an_application_is_the_first_label_that_says_one(labels: tuple[str, ...], application: str) -> None:
    world = World()
    world.labels[WEB] = labels
    assert counted(store_of(records({}), world=world), "tcp:labelsContext=source_app") == {
        ("hubble_tcp_flags_total", "IPv4", "SYN", application): 1
    }


def test_a_context_of_a_direction_goes_before_the_general_one() -> None:
    store = store_of(records({"flags": OUT}, {}))
    found = counted(store, "tcp:sourceContext=namespace;sourceEgressContext=pod-name;labelsContext=traffic_direction")
    assert found == {
        ("hubble_tcp_flags_total", "IPv4", "SYN", "web-7f9", "egress"): 1,
        ("hubble_tcp_flags_total", "IPv4", "SYN", "shop", "ingress"): 1,
    }


def test_labels_can_be_chosen_one_by_one() -> None:
    labels = "source_ip,source_pod,source_namespace,source_workload,source_workload_kind,source_app,destination_pod"
    (found,) = counted(store_of(records({})), f"tcp:labelsContext={labels}")
    assert found == (
        "hubble_tcp_flags_total",
        "api-55c",
        "IPv4",
        "SYN",
        "web",
        "10.244.0.11",
        "shop",
        "web-7f9",
        "web",
        "Deployment",
    )


def plain(flow: flow_pb2.Flow, found: Counter[tuple[str, ...]]) -> None:
    """The rules of upstream, flow by flow, of the metrics that have no options."""
    ends = (flow.destination.pod_name, flow.source.pod_name)
    protocol = flow.l4.WhichOneof("protocol") or "Unknown L4"
    if flow.verdict == flow_pb2.DROPPED:
        reason = flow_pb2.DropReason.Name(flow.drop_reason_desc) if flow.drop_reason_desc != 255 else "255"
        found["hubble_drop_total", ends[0], protocol, reason, ends[1]] += 1
    passed = flow.verdict in {flow_pb2.FORWARDED, flow_pb2.REDIRECTED}
    if passed and flow.l4.HasField("TCP"):
        flags, family = flow.l4.TCP.flags, flow_pb2.IPVersion.Name(flow.IP.ipVersion)
        for flag in ("FIN", "SYN", "RST"):
            if getattr(flags, flag):
                name = "SYN-ACK" if flag == "SYN" and flags.ACK else flag
                found["hubble_tcp_flags_total", ends[0], family, name, ends[1]] += 1
    server = flow.HasField("is_reply") and not flow.is_reply.value
    if passed and server and protocol in {"TCP", "UDP", "SCTP", "ICMPv4", "ICMPv6"}:
        port = getattr(getattr(flow.l4, protocol), "destination_port", 0)
        found["hubble_port_distribution_total", ends[0], str(port), protocol, ends[1]] += 1


@settings(max_examples=examples(60), deadline=None)
@given(batch=record_batches(max_size=30))
def test_groups_count_what_each_flow_for_itself_would(batch: np.ndarray) -> None:
    store = store_of(batch)
    span = store.ring.span(0, store.ring.written)
    expected: Counter[tuple[str, ...]] = Counter()
    for row in range(len(span)):
        plain(FlowBuilder(store).flow(span, row), expected)
    contexts = ":sourceContext=pod-name;destinationContext=pod-name"
    assert counted(store, *(name + contexts for name in ("drop", "tcp", "port-distribution"))) == dict(expected)


@settings(max_examples=examples(20), deadline=None)
@given(batch=record_batches(max_size=30))
def test_it_does_not_matter_how_flows_are_cut_into_batches(batch: np.ndarray) -> None:
    store = store_of(batch)
    texts = [f"{name}:sourceContext={'|'.join(CONTEXTS)}" for name in ("drop", "flow", "icmp", "policy", "tcp")]
    metrics = FlowMetrics(store, parse_metrics([*texts, "flows-to-world:port"]))
    for row in range(store.ring.written):
        metrics.add(store.ring.span(row, row + 1))
    assert series(metrics) == counted(store, *texts, "flows-to-world:port")


def test_a_hundred_thousand_ports_are_not_a_hundred_thousand_series() -> None:
    store = store_of(records(*({"dport": port} for port in range(1, 400))))
    found = counted(store, "port-distribution", limit=10)
    assert len(found) == 11
    assert found["hubble_port_distribution_total", "__overflow__", "__overflow__"] == 389
