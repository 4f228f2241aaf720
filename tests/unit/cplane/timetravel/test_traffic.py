"""What users type about traffic, and what flows say of it."""

import json
from typing import Any

import numpy as np
import pytest

from cplane.domain.policy.http import HttpRequest
from cplane.domain.ports import Protocol
from cplane.hubble.exporter.encode import LineEncoder
from cplane.timetravel.flows import pick_flow, read_flow
from cplane.timetravel.traffic import (
    Address,
    BadQuestion,
    IdentityNumber,
    NodeName,
    PodName,
    named,
    port_of,
    question_of,
)
from tests.support.flow_lines import flow, line
from tests.support.flows import records, store_of

ENDS = {
    "shop/web": PodName("shop", "web"),
    "10.0.0.7": Address("10.0.0.7"),
    "FD00::0:1": Address("fd00::1"),
    "node": NodeName(""),
    "node/n1": NodeName("n1"),
    "identity:7": IdentityNumber(7),
}
PORTS = {
    "80/TCP": (Protocol.TCP, 80),
    "53/udp": (Protocol.UDP, 53),
    "HTTP/TCP": (Protocol.TCP, "http"),
    "ICMP:8": (Protocol.ICMP, 8),
    "icmp": (Protocol.ICMP, 8),
    "ICMPv4:3": (Protocol.ICMP, 3),
    "ICMPv6:129": (Protocol.ICMPV6, 129),
}
BAD_PORTS = {
    "80": "write 80/TCP, or 80/UDP",
    "TCP": "has no port",
    "0/TCP": "is not 1 to 65535",
    "99999/TCP": "is not 1 to 65535",
    "80/TPC": "did you mean 'TCP'?",
    "8/ICMP": "has no ports: write ICMP:TYPE",
    "ICMP:256": "types are 0 to 255",
    "a b/TCP": "neither a number nor the name",
    "": "write 80/TCP",
    "1/2/3": "write 80/TCP",
}
BAD_ENDS = ("", "web", "svc:shop/web", "a/b/c", "/web", "shop/", "10.0.0.300", "identity:x", "identity:99999999999")


@pytest.mark.parametrize("text", ENDS)
def test_an_end_is_what_its_form_says(text: str) -> None:
    assert named("from", text) == ENDS[text]


@pytest.mark.parametrize("text", BAD_ENDS)
def test_what_names_no_end_is_refused_with_what_does(text: str) -> None:
    with pytest.raises(BadQuestion, match=r"^to: .*write "):
        named("to", text)


@pytest.mark.parametrize("text", PORTS)
def test_a_port_has_a_protocol_and_a_number_or_a_name(text: str) -> None:
    assert port_of(text) == PORTS[text]


@pytest.mark.parametrize("text", BAD_PORTS)
def test_what_is_no_port_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(BadQuestion) as refused:
        port_of(text)
    assert BAD_PORTS[text] in str(refused.value)


def test_a_request_is_a_method_a_path_and_headers() -> None:
    asked = question_of(source="a/b", destination="c/d", port="80/TCP", http="get /x?y", headers=["Host: h", "X-A:1"])
    assert asked.request == HttpRequest("GET", "/x?y", "h", {"host": "h", "x-a": "1"})
    assert asked.asked == "GET h/x?y"
    assert str(question_of(source="a/b", destination="c/d", port="53/UDP", dns="Example.COM")).endswith("example.com.")


def test_a_header_that_is_given_twice_is_one_value_as_for_the_proxy() -> None:
    headers = ["X-A: 1", "x-a:2"]
    request = question_of(source="a/b", destination="c/d", port="80/TCP", http="GET /", headers=headers).request
    assert isinstance(request, HttpRequest)
    assert request.headers == {"x-a": "1,2"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"http": "GET"}, "write a method and a path"),
        ({"http": "GET /", "dns": "x.org"}, "ask for each of them"),
        ({"headers": ["a:b"]}, "write http too"),
        ({"http": "GET /", "headers": ["nothing"]}, "write NAME:VALUE"),
    ],
)
def test_a_request_that_is_none_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(BadQuestion, match=said):
        question_of(source="a/b", destination="c/d", port="80/TCP", **more)


def test_a_flow_asks_for_the_ends_and_the_port_that_it_has() -> None:
    found = pick_flow([line()], "")
    asked = found.question()
    assert asked.ends == (PodName("shop", "client"), Address("10.0.0.2"))
    assert (asked.protocol, asked.port, found.position) == (Protocol.TCP, 80, 41)
    assert found.recorded_at_ns() == 1_767_225_600_123_456_000
    assert read_flow(json.dumps(flow()).encode()) == found


def test_of_a_reply_the_connection_is_asked_about() -> None:
    asked = pick_flow([line(is_reply=True)], "").question()
    assert asked.ends == (Address("10.0.0.2"), PodName("shop", "client"))
    assert asked.port == 4000
    assert pick_flow([line(is_reply=True, l4={"ICMPv4": {}})], "").question().port == 8


def test_of_many_flows_the_uuid_says_which() -> None:
    lines = [line(), b"", b'{"lost_events": {}}', line(uuid="U-2")]
    assert pick_flow(lines, "u-2").uuid == "U-2"
    for uuid, said in (("", "more than one"), ("u-3", "no flow u-3")):
        with pytest.raises(BadQuestion, match=said):
            pick_flow(lines, uuid)


@pytest.mark.parametrize(
    ("extensions", "position"),
    [
        ({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "cplane:position=9041"}, 9041),
        ({"@type": "type.googleapis.com/cplane.flow.v1.Origin", "position": "41"}, 41),
        ({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "of others, cplane:position=9"}, 0),
        ({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": f"cplane:position={'9' * 30}"}, 0),
        ({"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"of": ["others"]}}, 0),
        ({"@type": "type.googleapis.com/cplane.flow.v1.Origin"}, 0),
        (None, 0),
    ],
)
def test_a_flow_says_its_position_if_it_is_one_of_ours(extensions: object, position: int) -> None:
    assert pick_flow([line(extensions=extensions)], "").position == position


def test_the_lines_of_an_export_say_it() -> None:
    store = store_of(records({"position": 41}, {"position": 2**40}, {"position": 0}))
    text = LineEncoder(store).encode(store.ring.span(store.ring.oldest, store.ring.written), np.arange(3))
    assert [read_flow(line).position for line in text.splitlines()] == [41, 2**40, 0]  # type: ignore[union-attr]


def test_a_position_that_is_none_and_a_line_without_end_are_refused() -> None:
    for position in ("x", "-1", -1, "9" * 30):
        with pytest.raises(BadQuestion, match="no flow as hubble"):
            pick_flow([line(extensions={"position": position})], "")
    with pytest.raises(BadQuestion, match="longer than"):
        read_flow(b" " * (1 << 21))


@pytest.mark.parametrize("text", [b"nothing", b"[]", b'{"flow": 3}', b"\xff", b'{"uuid": 3}'])
def test_a_line_that_is_no_flow_is_refused(text: bytes) -> None:
    with pytest.raises(BadQuestion, match="no flow as hubble observe"):
        pick_flow([text], "")


def test_a_flow_without_ports_or_time_cannot_be_asked_about() -> None:
    with pytest.raises(BadQuestion, match="it is none of TCP, UDP"):
        pick_flow([line(l4={"IGMP": {}})], "").question()
    with pytest.raises(BadQuestion, match="its time"):
        pick_flow([line(time="noon")], "").recorded_at_ns()
