"""Layer 7, losses, pods that go, and the task that counts."""

from dataclasses import replace

import anyio
import pytest

from cplane.config.metrics import parse_metrics
from cplane.domain.access import Address
from cplane.domain.verdict import Verdict
from cplane.hubble.metrics.collector import LINGER_NS, FlowMetrics, count
from cplane.hubble.metrics.contexts import Pod
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.ring import LossSource, Span
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from tests.support.accesses import GET, PRODUCE, QUERY, access, take
from tests.support.flows import START_NS, World, records, store_of

L7 = 129
DNS_QUERY = flow_pb2.Flow(
    verdict=flow_pb2.FORWARDED,
    traffic_direction=flow_pb2.EGRESS,
    l7=flow_pb2.Layer7(type=flow_pb2.REQUEST, dns=flow_pb2.DNS(query="a.example.", qtypes=["A"])),
)
DNS_ANSWER = flow_pb2.Flow(
    verdict=flow_pb2.FORWARDED,
    l7=flow_pb2.Layer7(
        type=flow_pb2.RESPONSE,
        dns=flow_pb2.DNS(query="a.example.", qtypes=["A"], ips=["192.0.2.1", "192.0.2.2"], rrtypes=["CNAME", "A"]),
    ),
)
HTTP = flow_pb2.Flow(
    verdict=flow_pb2.FORWARDED,
    traffic_direction=flow_pb2.INGRESS,
    l7=flow_pb2.Layer7(
        type=flow_pb2.REQUEST, http=flow_pb2.HTTP(method="GET", protocol="HTTP/1.1", url="http://a/", code=200)
    ),
)
KAFKA = flow_pb2.Flow(
    verdict=flow_pb2.DROPPED,
    traffic_direction=flow_pb2.EGRESS,
    l7=flow_pb2.Layer7(
        type=flow_pb2.REQUEST,
        latency_ns=20_000_000,
        kafka=flow_pb2.Kafka(topic="orders", api_key="produce", error_code=29),
    ),
)


def of_layer_7(count: int) -> FlowStore:
    """A store with so many rows of layer 7, whose content is elsewhere."""
    store = store_of(records(*({} for _ in range(count))))
    store.ring.span(0, count)["type"][:] = L7
    return store


def counted(*flows: flow_pb2.Flow, metrics: list[str]) -> dict[tuple[str, ...], float]:
    store = of_layer_7(len(flows))

    def request(_span: Span, row: int) -> flow_pb2.Flow:
        return flows[row]

    made = FlowMetrics(store, parse_metrics(metrics), request=request)
    made.add(store.ring.span(0, len(flows)))
    return shown(made)


def shown(metrics: FlowMetrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in metrics.families()
        for sample in family.samples
        if not sample.name.startswith("cplane_metrics_") and not sample.name.endswith("_created")
    }


def test_an_answer_that_was_refused_is_told_with_its_addresses() -> None:
    refused = flow_pb2.Flow()
    refused.CopyFrom(DNS_ANSWER)
    refused.verdict = flow_pb2.DROPPED
    assert counted(refused, metrics=["dns"]) == {("hubble_dns_queries_total", "2", "A", "Policy denied"): 1}


def test_dns_is_counted_by_query_and_answer() -> None:
    found = counted(DNS_QUERY, DNS_ANSWER, metrics=["dns:query"])
    assert found == {
        ("hubble_dns_queries_total", "0", "A", "a.example.", ""): 1,
        ("hubble_dns_responses_total", "2", "A", "a.example.", "No Error"): 1,
        ("hubble_dns_response_types_total", "A", "a.example.", "CNAME"): 1,
        ("hubble_dns_response_types_total", "A", "a.example.", "A"): 1,
    }


def test_queries_for_ipv6_alone_can_be_left_out() -> None:
    other = flow_pb2.Flow()
    other.CopyFrom(DNS_QUERY)
    other.l7.dns.qtypes[:] = ["AAAA"]
    assert len(counted(other, metrics=["dns"])) == 1
    assert not counted(other, metrics=["dns:ignoreAAAA"])


def test_http_is_counted_by_request_and_timed_by_response() -> None:
    response = flow_pb2.Flow()
    response.CopyFrom(HTTP)
    response.l7.type, response.l7.latency_ns = flow_pb2.RESPONSE, 30_000_000
    found = counted(HTTP, response, metrics=["http"])
    assert found["hubble_http_requests_total", "GET", "HTTP/1.1", "server"] == 1
    assert found["hubble_http_responses_total", "GET", "HTTP/1.1", "server", "200"] == 1
    assert found["hubble_http_request_duration_seconds_bucket", "0.025", "GET", "server"] == 0
    assert found["hubble_http_request_duration_seconds_bucket", "0.05", "GET", "server"] == 1
    second = counted(HTTP, response, metrics=["httpV2:sourceContext=pod-name"])
    assert second["hubble_http_requests_total", "GET", "HTTP/1.1", "server", "api-55c", "200"] == 1


def test_kafka_is_counted_and_timed() -> None:
    found = counted(KAFKA, metrics=["kafka"])
    assert found["hubble_kafka_requests_total", "produce", "29", "client", "orders"] == 1
    assert found["hubble_kafka_request_duration_seconds_count", "produce", "client", "orders"] == 1


def test_layer_7_is_a_flow_and_a_verdict_as_well() -> None:
    found = counted(HTTP, KAFKA, DNS_ANSWER, metrics=["flow", "policy", "drop"])
    assert found["hubble_flows_processed_total", "HTTP", "HTTP", "L7", "FORWARDED"] == 1
    assert found["hubble_flows_processed_total", "Kafka", "Kafka", "L7", "DROPPED"] == 1
    assert found["hubble_drop_total", "Kafka", "DROP_REASON_UNKNOWN"] == 1
    assert found["hubble_policy_verdicts_total", "forwarded", "ingress", "l7/http"] == 1
    assert found["hubble_policy_verdicts_total", "dropped", "egress", "l7/kafka"] == 1
    assert found["hubble_policy_verdicts_total", "forwarded", "unknown", "l7/dns"] == 1


def test_requests_in_a_ring_are_counted() -> None:
    world = World()
    store = store_of(records({})[:0])
    answer = access(GET._replace(code=403), answered=True, verdict=Verdict.DROPPED)
    outside = access(GET, destination=Address("192.0.2.7", 80))
    asked = access(QUERY, destination=Address("192.0.2.8", 53))
    take(store, access(), answer, outside, asked, access(PRODUCE), world=world)
    wanted = ["http:sourceContext=pod-name", "dns", "kafka", "flow", "flows-to-world:port", "drop", "policy"]
    metrics = FlowMetrics(store, parse_metrics(wanted))
    metrics.add(store.ring.span(0, store.ring.written))
    found = shown(metrics)
    assert found["hubble_http_requests_total", "GET", "HTTP/1.1", "client", "web-7f9"] == 2
    assert found["hubble_http_responses_total", "GET", "HTTP/1.1", "client", "api-55c", "403"] == 1
    assert found["hubble_dns_queries_total", "0", "A", ""] == 1
    assert found["hubble_kafka_requests_total", "produce", "0", "client", "topic1"] == 1
    assert found["hubble_flows_processed_total", "HTTP", "HTTP", "L7", "FORWARDED"] == 2
    assert found["hubble_flows_to_world_total", "80", "HTTP", "FORWARDED"] == 1
    assert found["hubble_flows_to_world_total", "53", "DNS", "FORWARDED"] == 1
    assert found["hubble_drop_total", "HTTP", "DROP_REASON_UNKNOWN"] == 1
    assert found["hubble_policy_verdicts_total", "dropped", "egress", "l7/http"] == 1


def test_names_that_dns_gave_are_a_context() -> None:
    store = store_of(records({}))
    metas = store.ring.span(0, 1)["dst_meta"]
    named = replace(store.endpoints[int(metas[0])], names=("a.example", "b.example"))
    metas[0] = store.endpoints.number(named)
    metrics = FlowMetrics(store, parse_metrics(["tcp:destinationContext=dns"]))
    metrics.add(store.ring.span(0, 1))
    assert ("hubble_tcp_flags_total", "a.example,b.example", "IPv4", "SYN") in shown(metrics)


def test_lost_flows_are_counted_by_who_lost_them() -> None:
    store = store_of(records({}))
    metrics = FlowMetrics(store, ())
    store.ring.add_loss(LossSource.KERNEL_RING, 7, START_NS, START_NS)
    metrics.lose(store.ring.losses(1))
    assert shown(metrics) == {("hubble_lost_events_total", "perf_event_ring_buffer"): 7}


def test_the_series_of_a_pod_go_a_minute_after_it() -> None:
    store = store_of(records({}, {"src": "10.244.0.13", "src_lxc": 13, "src_identity": 777}))
    metrics = FlowMetrics(store, parse_metrics(["tcp:sourceContext=pod", "flow"]))
    metrics.add(store.ring.span(0, 2))
    web, db = Pod("shop", "web-7f9"), Pod("data", "db-0")
    assert metrics.sweep({web, db}, 0) == 0
    assert metrics.sweep({web}, 1) == 0
    assert metrics.sweep({web}, LINGER_NS) == 0
    assert metrics.sweep({web}, LINGER_NS + 1) == 1
    assert ("hubble_tcp_flags_total", "IPv4", "SYN", "data/db-0") not in shown(metrics)
    metrics.add(store.ring.span(0, 2))
    assert shown(metrics)["hubble_tcp_flags_total", "IPv4", "SYN", "data/db-0"] == 1, "counted anew"
    assert shown(metrics)["hubble_tcp_flags_total", "IPv4", "SYN", "shop/web-7f9"] == 2
    assert shown(metrics)["hubble_flows_processed_total", "TCP", "to-endpoint", "Trace", "FORWARDED"] == 4


def test_a_pod_that_comes_back_in_time_keeps_its_series() -> None:
    store = store_of(records({}))
    metrics = FlowMetrics(store, parse_metrics(["tcp:labelsContext=source_pod"]))
    metrics.add(store.ring.span(0, 1))
    web = Pod("shop", "web-7f9")
    assert metrics.sweep((), 0) == 0
    assert metrics.sweep({web}, LINGER_NS) == 0
    assert metrics.sweep((), LINGER_NS + 1) == 0
    assert metrics.sweep((), 2 * LINGER_NS + 1) == 1


@pytest.mark.anyio
async def test_flows_are_counted_as_they_come_and_none_that_came_before() -> None:
    store = store_of(records({}, {}))
    metrics = FlowMetrics(store, parse_metrics(["flow"]))
    key = ("hubble_flows_processed_total", "TCP", "to-endpoint", "Trace", "FORWARDED")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: count(store, metrics, pods=frozenset[Pod], monotonic_ns=lambda: 0))
            await anyio.wait_all_tasks_blocked()
            Parser(store, World()).ingest(records({}, {}, {}), START_NS)
            store.changed.notify()
            while shown(metrics).get(key) != 3:  # noqa: ASYNC110
                await anyio.sleep(0.01)  # the task wakes by the clock
            group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_losses_are_counted_that_come_while_there_is_no_flow() -> None:
    store = store_of(records({}))
    metrics = FlowMetrics(store, parse_metrics(["flow"]))
    key = ("hubble_lost_events_total", "perf_event_ring_buffer")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: count(store, metrics, pods=frozenset[Pod], monotonic_ns=lambda: 0))
            for total in (3, 6):
                await anyio.wait_all_tasks_blocked()
                store.ring.add_loss(LossSource.KERNEL_RING, 3, START_NS, START_NS)
                store.changed.notify()
                while shown(metrics).get(key) != total:  # noqa: ASYNC110
                    await anyio.sleep(0.01)  # the task wakes by the clock
            group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_what_was_overwritten_before_it_was_counted_is_lost() -> None:
    store = store_of(capacity=4)
    metrics = FlowMetrics(store, parse_metrics(["flow"]))
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: count(store, metrics, pods=frozenset[Pod], monotonic_ns=lambda: 0))
            await anyio.wait_all_tasks_blocked()
            Parser(store, World()).ingest(records(*({} for _ in range(10))), START_NS)
            store.changed.notify()
            while ("hubble_lost_events_total", "hubble_ring_buffer") not in shown(metrics):  # noqa: ASYNC110
                await anyio.sleep(0.01)  # the task wakes by the clock
            group.cancel_scope.cancel()
    assert shown(metrics)["hubble_lost_events_total", "hubble_ring_buffer"] == 6
