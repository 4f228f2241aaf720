"""Records of proxies as flows: who, what, by whose word, and what is left of requests that are farther back."""

import numpy as np
import pytest
from hypothesis import given, settings

from cplane.domain.access import Access, Address, Dns, Http, Kafka, Phase
from cplane.domain.redaction import REDACTED, Redaction
from cplane.domain.verdict import Direction, Verdict
from cplane.hubble.endpoint import Service
from cplane.hubble.flow import FlowBuilder
from cplane.hubble.parser.payload import HEADERS_MAX, TEXT_MAX, Encoder
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.payloads import PayloadRing
from cplane.hubble.ring import LossSource
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from tests.support.accesses import GET, L7_POLICY, PRODUCE, QUERY, access, accesses, stored, take
from tests.support.effort import examples
from tests.support.flows import API, DB, START_NS, WEB, World, records, store_of


def flows_of(store: FlowStore) -> list[flow_pb2.Flow]:
    span = store.ring.span(store.ring.oldest, store.ring.written)
    return [FlowBuilder(store).flow(span, row) for row in range(len(span))]


def flow_of(record: Access) -> flow_pb2.Flow:
    (flow,) = flows_of(stored([record]))
    return flow


def test_a_request() -> None:
    flow = flow_of(access())
    assert (flow.Type, flow.event_type.type, flow.event_type.sub_type) == (flow_pb2.L7, 129, 0)
    assert (flow.verdict, flow.traffic_direction) == (flow_pb2.FORWARDED, flow_pb2.EGRESS)
    assert (flow.is_reply.value, flow.HasField("is_reply"), flow.reply) == (False, True, False)
    assert flow.time.ToNanoseconds() == START_NS
    assert (flow.node_name, len(flow.uuid)) == ("default/node1", 36)
    assert (flow.IP.source, flow.IP.destination, flow.IP.ipVersion) == ("10.244.0.11", "10.244.0.12", flow_pb2.IPv4)
    assert flow.l4 == flow_pb2.Layer4(TCP=flow_pb2.TCP(source_port=43512, destination_port=80))
    assert (flow.source.ID, flow.source.identity, flow.source.pod_name) == (11, WEB, "web-7f9")
    assert (flow.destination.ID, flow.destination.identity, flow.destination.pod_name) == (12, API, "api-55c")
    assert flow.proxy_port == 10_001
    assert [(one.name, one.kind, one.revision) for one in flow.egress_allowed_by] == [
        (L7_POLICY.name, L7_POLICY.kind, 7)
    ]
    assert flow.l7.type == flow_pb2.REQUEST
    assert flow.l7.http == flow_pb2.HTTP(
        method="GET",
        url="http://api.shop/public/1?q=1",
        protocol="HTTP/1.1",
        headers=[
            flow_pb2.HTTPHeader(key="Accept", value="*/*"),
            flow_pb2.HTTPHeader(key="Accept", value="text/plain"),
            flow_pb2.HTTPHeader(key="X-Token", value="42"),
        ],
    )
    assert flow.Summary == "HTTP/1.1 GET http://api.shop/public/1?q=1"
    assert flow.extensions.value


def test_an_answer_comes_from_the_server() -> None:
    flow = flow_of(access(GET._replace(code=200), answered=True))
    assert (flow.source.pod_name, flow.destination.pod_name) == ("api-55c", "web-7f9")
    assert (flow.l4.TCP.source_port, flow.l4.TCP.destination_port) == (80, 43512)
    assert flow.is_reply.value
    assert flow.traffic_direction == flow_pb2.EGRESS
    assert (flow.l7.type, flow.l7.latency_ns, flow.l7.http.code) == (flow_pb2.RESPONSE, 4_200_000, 200)
    assert flow.Summary == "HTTP/1.1 200 4ms (GET http://api.shop/public/1?q=1)"


def test_what_was_refused_is_denied_by_the_rules_that_were_asked() -> None:
    flow = flow_of(access(verdict=Verdict.DROPPED, direction=Direction.INGRESS))
    assert (flow.verdict, flow.drop_reason, flow.traffic_direction) == (flow_pb2.DROPPED, 0, flow_pb2.INGRESS)
    assert [one.name for one in flow.ingress_denied_by] == [L7_POLICY.name]
    assert not flow.ingress_allowed_by


@pytest.mark.parametrize(
    ("payload", "answered", "summary"),
    [
        (QUERY, False, "DNS Query api.example.org. A"),
        (
            QUERY._replace(ips=("203.0.113.7", "203.0.113.8"), ttl=30, rrtypes=("A",)),
            True,
            'DNS Answer "203.0.113.7,203.0.113.8" TTL: 30 (Proxy api.example.org. A)',
        ),
        (
            Dns("a.org.", ("A", "AAAA"), 0, ("203.0.113.7",), 9, ("b.org.", "c.org."), ("CNAME", "A")),
            True,
            'DNS Answer "203.0.113.7" CNAMEs: "b.org.,c.org." TTL: 9 (Proxy a.org. A,AAAA)',
        ),
        (QUERY._replace(rcode=3), True, "DNS Answer RCode: Non-Existent Domain TTL: 0 (Proxy api.example.org. A)"),
        (QUERY, True, "DNS Answer  TTL: 0 (Proxy api.example.org. A)"),
        (PRODUCE, False, "Kafka request produce correlation id 7 topic 'topic1'"),
        (
            PRODUCE._replace(error_code=29),
            True,
            "Kafka response produce correlation id 7 topic 'topic1' return code 29",
        ),
        (Kafka("metadata", 12, 1), False, "Kafka request metadata correlation id 1 topic ''"),
    ],
)
def test_summaries(payload: Dns | Kafka, answered: bool, summary: str) -> None:
    assert flow_of(access(payload, answered=answered)).Summary == summary


def test_dns_and_kafka() -> None:
    answer = flow_of(access(QUERY._replace(ips=("203.0.113.7",), ttl=30, rcode=0, rrtypes=("A",)), answered=True))
    assert answer.l7.dns == flow_pb2.DNS(
        query="api.example.org.", ips=["203.0.113.7"], ttl=30, observation_source="proxy", qtypes=["A"], rrtypes=["A"]
    )
    assert (answer.l4.UDP.source_port, answer.source.identity) == (53, DB)
    asked = flow_of(access(QUERY._replace(ips=("203.0.113.7",), ttl=30)))
    assert asked.l7.dns == flow_pb2.DNS(query="api.example.org.", observation_source="proxy", qtypes=["A"])
    produced = flow_of(access(PRODUCE._replace(error_code=29), answered=True))
    assert produced.l7.kafka == flow_pb2.Kafka(
        error_code=29, api_version=9, api_key="produce", correlation_id=7, topic="topic1"
    )
    assert not flow_of(access(PRODUCE._replace(error_code=29))).l7.kafka.error_code


def test_ends_have_names_and_services() -> None:
    world = World()
    world.names["192.0.2.7"] = {11: ("api.example.org",)}
    world.services["10.244.0.12"] = {(6, 80): Service("api", "shop")}
    store = store_of(records({}))
    take(store, access(destination=Address("192.0.2.7", 443)), access(), world=world)
    _, outside, within = flows_of(store)
    assert list(outside.destination_names) == ["api.example.org"]
    assert (outside.destination.identity, list(outside.destination.labels)) == (2, ["reserved:world"])
    assert (within.destination_service.name, within.destination_service.namespace) == ("api", "shop")


def test_a_trace_is_named() -> None:
    trace = "ab" * 16
    flow = flow_of(access(GET._replace(headers=(("Traceparent", f"00-{trace}-{'cd' * 8}-01"),))))
    assert flow.trace_context.parent.trace_id == trace
    assert not flow_of(access(GET._replace(headers=(("traceparent", "x"),)))).HasField("trace_context")


def test_headers_that_are_remembered_do_not_grow_without_end() -> None:
    encoder = Encoder()
    for number in range(20_000):
        encoder.encoded(access(GET._replace(headers=(("x-request-id", str(number)), ("x", "y" * 300)))))
    assert len(encoder._known) <= 16_384
    assert len(encoder._sets) <= 4096
    assert not any(value for _, value in encoder._known if len(value) > 256)


@settings(max_examples=examples(100), deadline=None)
@given(seen=accesses())
def test_what_is_put_together_by_hand_is_what_the_library_makes(seen: list[Access]) -> None:
    encoder = Encoder()
    for record in [*seen, *seen]:  # the second time its headers are known
        flow = flow_pb2.Flow.FromString(encoder.encoded(record))
        assert flow.l7.type == record.phase
        assert flow.l7.latency_ns == max(record.latency_ns, 0)
        assert flow == flow_pb2.Flow(l7=_layer(record), Summary=flow.Summary, trace_context=_context(flow))
        assert bool(flow.Summary) == (record.phase in {Phase.REQUEST, Phase.RESPONSE})


def _layer(record: Access) -> flow_pb2.Layer7:
    layer = flow_pb2.Layer7(type=int(record.phase), latency_ns=max(record.latency_ns, 0))
    payload, answered = record.payload, record.is_reply

    def text(given: str) -> str:
        return given.encode(errors="replace").decode()

    def texts(given: tuple[str, ...]) -> list[str]:
        return list(map(text, given))

    def signed(number: int) -> int:
        return int(np.array([number % (1 << 32)], np.uint32).view(np.int32)[0])

    match payload:
        case Http():
            layer.http.SetInParent()
            layer.http.method, layer.http.url, layer.http.protocol = map(text, payload[:3])
            layer.http.code = payload.code if answered else 0
            for key, value in sorted(payload.headers, key=lambda one: one[0]):
                layer.http.headers.add(key=text(key), value=text(value))
        case Dns():
            layer.dns.query, layer.dns.observation_source = text(payload.query), "proxy"
            layer.dns.qtypes.extend(payload.qtypes)
            if answered:
                layer.dns.ttl, layer.dns.rcode = payload.ttl % (1 << 32), payload.rcode
                layer.dns.ips.extend(texts(payload.ips))
                layer.dns.cnames.extend(texts(payload.cnames))
                layer.dns.rrtypes.extend(texts(payload.rrtypes))
        case Kafka():
            layer.kafka.SetInParent()
            layer.kafka.api_key, layer.kafka.topic = text(payload.api_key), text(payload.topic)
            layer.kafka.api_version = signed(payload.api_version)
            layer.kafka.correlation_id = signed(payload.correlation_id)
            layer.kafka.error_code = signed(payload.error_code) if answered else 0
    return layer


def _context(flow: flow_pb2.Flow) -> flow_pb2.TraceContext | None:
    return flow.trace_context if flow.HasField("trace_context") else None


def test_what_is_to_be_left_out_is_in_no_flow() -> None:
    store = stored([])
    take(
        store, access(GET._replace(url="http://u:p@api/x?secret")), redaction=Redaction(True, query=True, userinfo=True)
    )
    (flow,) = flows_of(store)
    assert (flow.l7.http.url, flow.Summary) == (f"http://u:{REDACTED}@api/x", f"HTTP/1.1 GET http://u:{REDACTED}@api/x")
    assert {one.value for one in flow.l7.http.headers} == {REDACTED}


def test_texts_and_headers_have_a_largest_length() -> None:
    flow = flow_of(access(Http("G" * 10_000, "u" * 1_000_000, "p", headers=((("k" * 9000, "v" * 100_000),) * 1000))))
    assert (len(flow.l7.http.method), len(flow.l7.http.url)) == (TEXT_MAX, TEXT_MAX)
    assert len(flow.l7.http.headers) <= HEADERS_MAX
    assert flow.ByteSize() < 100_000
    many = flow_of(access(GET._replace(headers=tuple((f"k{n:04}", "v") for n in range(1000)))))
    assert [one.key for one in many.l7.http.headers] == [f"k{n:04}" for n in range(HEADERS_MAX)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": Address("nonsense", 1)},
        {"destination": Address("", 0)},
        {"source": Address("10.0.0.1", 65_536)},
        {"destination": Address("10.0.0.1", -1)},
        {"proxy_port": 1 << 20},
        {"protocol": 256},
    ],
)
def test_records_without_ends_are_left_out_and_counted(wrong: dict[str, object]) -> None:
    store = store_of(records({}))
    parser = take(store, access(**wrong), access())
    assert (parser.malformed, store.ring.written) == (1, 2)


def test_what_no_proxy_had_room_for_is_told() -> None:
    store = store_of(records({}))
    take(store, access(), lost=17)
    (loss,) = store.ring.losses(1)
    assert (loss.source, loss.count) == (LossSource.QUEUE, 17)


def test_numbers_that_were_freed_are_found_again_by_every_parser() -> None:
    world = World()
    store = store_of(records({}), capacity=16, world=world)
    packets, requests = Parser(store, world), take(store, access(), world=world)
    for batch in range(60):  # more ends than a table has room for
        packets.ingest(
            records(*({"dst_lxc": 0, "dst_identity": 10_000 + 100 * batch + n} for n in range(100))), START_NS
        )
        requests.accesses([access()])
    packets.ingest(records({}), START_NS)
    requests.accesses([access()])
    assert store.endpoints.generation > 0
    for flow in flows_of(store)[-2:]:
        assert (flow.source.pod_name, flow.destination.pod_name) == ("web-7f9", "api-55c")


def test_a_request_that_is_farther_back_than_there_is_room_for_has_its_kind_left() -> None:
    store = stored([])
    store.payloads = PayloadRing(4096)
    take(store, *(access(GET._replace(url=f"http://api/{number}")) for number in range(100)), access(QUERY))
    first, *_, last, query = flows_of(store)
    assert first.l7 == flow_pb2.Layer7(type=flow_pb2.REQUEST, http=flow_pb2.HTTP())
    assert (first.Summary, first.source.pod_name) == ("", "web-7f9")
    assert last.l7.http.url == "http://api/99"
    assert query.l7.dns.query == QUERY.query
