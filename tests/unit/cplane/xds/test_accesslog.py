"""Envoy's access log as records of access."""

import pytest
from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf import duration_pb2, timestamp_pb2, wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st

from cplane.domain.access import Access, Address, Http, Phase
from cplane.domain.policy.redirection import RedirectRule
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.redaction import REDACTED
from cplane.domain.verdict import Direction, Verdict
from cplane.xds.accesslog import Reader, _pair, direction_of
from cplane.xds.listeners import TAG, TAG_SERVER
from cplane.xds.names import Told, allowing, denying, read_name
from cplane.xds.records import Records

REF = PolicyRef("CiliumNetworkPolicy", "shop", "api")
ALLOWED = allowing(10_000, [RedirectRule(REF, "spec.ingress[0]", None)])
REFUSED = denying(10_000)
CLIENT, SERVER = Address("10.0.0.1", 40_000), Address("fd00::2", 80)
Entry = accesslog_pb2.HTTPAccessLogEntry


def address(of: Address) -> address_pb2.Address:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=of.ip, port_value=of.port))


def common(name: str, kind: int, **fields: object) -> accesslog_pb2.AccessLogCommon:
    return accesslog_pb2.AccessLogCommon(
        route_name=name,
        access_log_type=kind,
        downstream_direct_remote_address=address(CLIENT),
        downstream_remote_address=address(Address("192.0.2.9", 1)),
        downstream_local_address=address(SERVER),
        start_time=timestamp_pb2.Timestamp(seconds=5, nanos=7),
        duration=duration_pb2.Duration(nanos=1_000_000),
        **fields,
    )


def read(*entries: Entry) -> list[Access]:
    message = als_pb2.StreamAccessLogsMessage(http_logs={"log_entry": entries})
    return Reader().accesses(Records.FromString(message.SerializeToString()), Direction.INGRESS)


def entry(name: str, kind: int, **request: object) -> Entry:
    asked = {"request_method": base_pb2.PUT, "scheme": "http", "authority": "shop", "path": "/a?b=c", **request}
    answered = accesslog_pb2.HTTPResponseProperties(
        response_code=wrappers_pb2.UInt32Value(value=201), response_headers={"set-cookie": "s", "server": "x"}
    )
    return Entry(common_properties=common(name, kind), protocol_version=Entry.HTTP2, request=asked, response=answered)


START, END = accesslog_pb2.DownstreamStart, accesslog_pb2.DownstreamEnd


def test_headers_that_are_known_are_told_as_before_and_do_not_grow_without_end():
    reader = Reader()
    for number in range(10_000):
        headers = {"x-token": f"{number // 2}", "cookie": "secret"}
        message = als_pb2.StreamAccessLogsMessage(
            http_logs={"log_entry": [entry(ALLOWED, START, request_headers=headers)]}
        )
        (one,) = reader.accesses(Records.FromString(message.SerializeToString()), Direction.INGRESS)
        assert dict(one.payload.headers) == {"X-Token": f"{number // 2}", "Cookie": REDACTED}
    assert len(reader._sets) <= 4096
    assert len(reader._known) <= 16_384


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("user-agent", "User-Agent"),
        ("x-b3-traceid", "X-B3-Traceid"),
        ("te", "Te"),
        ("x--y-", "X--Y-"),
        ("X-MIXED", "X-Mixed"),
    ],
)
def test_a_header_is_called_as_hubble_calls_it(sent, told):
    """Filters compare names as they are, so one that was written for Cilium's flows finds the same here."""
    (one,) = read(entry(ALLOWED, START, request_headers={sent: "1"}))
    assert one.payload.headers == ((told, "1"),)


def test_a_request_is_told_with_its_verdict_and_policy():
    (one,) = read(entry(ALLOWED, START, request_headers={"cookie": "s", "x-token": "1"}))
    assert sorted(one.payload.headers) == [("Cookie", REDACTED), ("X-Token", "1")]
    assert one._replace(payload=one.payload._replace(headers=())) == Access(
        time_ns=5_000_000_007,
        phase=Phase.REQUEST,
        direction=Direction.INGRESS,
        verdict=Verdict.FORWARDED,
        protocol=6,
        source=CLIENT,
        destination=SERVER,
        payload=Http("PUT", "http://shop/a?b=c", "HTTP/2"),
        proxy_port=10_000,
        rules=(REF,),
    )


def test_an_answer_comes_from_the_server_and_later():
    (one,) = read(entry(ALLOWED, END))
    assert (one.phase, one.source, one.destination) == (Phase.RESPONSE, SERVER, CLIENT)
    assert (one.payload.code, one.latency_ns, one.time_ns) == (201, 1_000_000, 5_001_000_007)
    assert dict(one.payload.headers) == {"Set-Cookie": REDACTED, "Server": "x"}


@pytest.mark.parametrize("name", [REFUSED, "", "something else", "x allow a/b/c/d"])
def test_what_no_rule_let_pass_was_dropped_and_its_answer_was_not(name):
    asked, answered = read(entry(name, START), entry(name, END))
    assert (asked.verdict, answered.verdict) == (Verdict.DROPPED, Verdict.FORWARDED)
    assert asked.rules == answered.rules == ()


def test_a_method_without_a_number_is_told_by_name():
    (one,) = read(entry(ALLOWED, START, request_method=0, request_headers={":method": "PURGE", "a": "b"}))
    assert (one.payload.method, one.payload.headers) == ("PURGE", (("A", "b"),))


@pytest.mark.parametrize(
    ("name", "details", "verdict", "rules"),
    [
        (ALLOWED, "", Verdict.FORWARDED, (REF,)),
        (ALLOWED, "rbac_access_denied_matched_policy[none]", Verdict.DROPPED, ()),
        (REFUSED, "", Verdict.DROPPED, ()),
    ],
)
@pytest.mark.parametrize(("server", "url"), [("a.shop", "tls://a.shop"), ("-", "tcp://")])
def test_a_connection_is_told_by_its_server_name(name, details, verdict, rules, server, url):
    tags = {TAG: name, TAG_SERVER: server}
    properties = common("", accesslog_pb2.TcpConnectionEnd, custom_tags=tags, connection_termination_details=details)
    entry = accesslog_pb2.TCPAccessLogEntry(common_properties=properties)
    message = als_pb2.StreamAccessLogsMessage(tcp_logs={"log_entry": [entry]})
    (one,) = Reader().accesses(Records.FromString(message.SerializeToString()), Direction.EGRESS)
    assert (one.verdict, one.rules, one.payload.url, one.proxy_port) == (verdict, rules, url, 10_000)


def test_a_log_is_named_by_direction():
    assert [direction_of(one.name.lower()) for one in Direction] == list(Direction)


# ---- names


def test_a_name_says_all_of_itself():
    refs = [PolicyRef("A", "", "b c/d%"), PolicyRef("A", "ns", "é"), PolicyRef("A", "ns", "é")]
    name = allowing(12_345, [RedirectRule(ref, f"spec[{at}] x", None) for at, ref in enumerate(refs)])
    assert read_name(name) == Told(12_345, True, tuple(refs[:2]), ("spec[0] x", "spec[1] x", "spec[2] x"))
    assert read_name(denying(1)) == Told(1)


def test_a_name_does_not_grow_without_bounds():
    rules = [RedirectRule(PolicyRef("A", "ns", str(number)), "spec", None) for number in range(100)]
    assert len(read_name(allowing(1, rules)).rules) == 16


@given(st.text(), st.text())
def test_an_entry_of_a_map_is_read_as_protobuf_writes_it(name, value):
    message = accesslog_pb2.HTTPRequestProperties(request_headers={name: value})
    data = message.SerializeToString()
    assert _pair(_entry_of(data)) == (name, value)


def _entry_of(data: bytes) -> bytes:
    lean = Records().http_logs.log_entry.add().request
    lean.MergeFromString(data)
    return lean.request_headers[0]
