"""Every kind of flow in every format, to the letter."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from cplane.hubble.cli.printer import CompactPrinter, DictPrinter, JsonPrinter, Printer, Style, TablePrinter
from cplane.hubble.cli.terminal import Colours, escape, wants_colours
from cplane.hubble.cli.times import LAYOUTS, TimeText
from cplane.hubble.cli.words import Words
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb

TIME = "2024-07-24T10:02:11.123Z"
SYN = {
    "time": TIME,
    "verdict": "FORWARDED",
    "IP": {"source": "10.0.0.1", "destination": "10.0.0.2", "ipVersion": "IPv4"},
    "l4": {"TCP": {"source_port": 43512, "destination_port": 80, "flags": {"SYN": True}}},
    "source": {"identity": 24119, "namespace": "shop", "pod_name": "web-7f9"},
    "destination": {"identity": 31001, "namespace": "shop", "pod_name": "api-55c"},
    "Type": "L3_L4",
    "node_name": "default/k8s1",
    "event_type": {"type": 4},
    "is_reply": False,
    "Summary": "TCP Flags: SYN",
}


def flow(without: tuple[str, ...] = (), **changes: Any) -> pb.GetFlowsResponse:
    """SYN with other fields."""
    fields = {name: value for name, value in {**SYN, **changes}.items() if name not in without}
    return pb.GetFlowsResponse(flow=ParseDict(fields, flow_pb2.Flow()), node_name="default/k8s1")


def response(**fields: Any) -> pb.GetFlowsResponse:
    return ParseDict({"time": TIME, "node_name": "relay", **fields}, pb.GetFlowsResponse())


def shown(
    kind: Callable[[Style], Printer],
    *responses: pb.GetFlowsResponse,
    colours: bool = False,
    names: bool = True,
    policies: bool = False,
    layout: str = "StampMilli",
    **style: bool,
) -> tuple[str, str]:
    """What is written for these: flows, and what goes to standard error."""
    out: list[str] = []
    err: list[str] = []
    printer = kind(
        Style(
            out=out.append,
            err=lambda line: err.append(f"{line}\n"),
            words=Words(Colours(wanted=colours), names=names, policies=policies),
            time=TimeText(LAYOUTS[layout]),
            **style,
        )
    )
    for one in responses:
        printer.show([one.SerializeToString()])
    printer.close()
    return "".join(out), "".join(err)


def line(one: pb.GetFlowsResponse, **style: Any) -> str:
    """The line of one flow, without its time."""
    text, _ = shown(CompactPrinter, one, **style)
    assert text.endswith("\n")
    return text.removesuffix("\n").removeprefix("Jul 24 10:02:11.123: ")


FORTH = "shop/web-7f9:43512 (ID:24119) -> shop/api-55c:80 (ID:31001)"
BACK = "shop/api-55c:80 (ID:31001) <- shop/web-7f9:43512 (ID:24119)"
EITHER = "shop/web-7f9:43512 (ID:24119) <> shop/api-55c:80 (ID:31001)"
PORTLESS = "shop/web-7f9 (ID:24119) -> shop/api-55c (ID:31001)"
UNKNOWN = ("is_reply",)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (flow(), f"{FORTH} to-endpoint FORWARDED (TCP Flags: SYN)"),
        (flow(is_reply=True), f"{BACK} to-endpoint FORWARDED (TCP Flags: SYN)"),
        (flow(UNKNOWN), f"{EITHER} to-endpoint FORWARDED (TCP Flags: SYN)"),
        (flow(event_type={"type": 4, "sub_type": 10}), f"{FORTH} from-network FORWARDED (TCP Flags: SYN)"),
        (flow(event_type={"type": 4, "sub_type": 123}), f"{FORTH} 123 FORWARDED (TCP Flags: SYN)"),
        (
            flow(UNKNOWN, event_type={"type": 1, "sub_type": 133}, verdict="DROPPED"),
            f"{EITHER} Policy denied DROPPED (TCP Flags: SYN)",
        ),
        (
            flow(UNKNOWN, event_type={"type": 1, "sub_type": 250}, verdict="DROPPED"),
            f"{EITHER} 250 DROPPED (TCP Flags: SYN)",
        ),
        (
            flow(UNKNOWN, event_type={"type": 5}, verdict="DROPPED", traffic_direction="INGRESS"),
            f"{EITHER} policy-verdict:none INGRESS DENIED (TCP Flags: SYN)",
        ),
        (
            flow(event_type={"type": 5}, policy_match_type=1, traffic_direction="EGRESS"),
            f"{FORTH} policy-verdict:L3-Only EGRESS ALLOWED (TCP Flags: SYN)",
        ),
        (
            flow(event_type={"type": 5}, policy_match_type=6, verdict="REDIRECTED"),
            f"{FORTH} policy-verdict:Proto-Only TRAFFIC_DIRECTION_UNKNOWN ALLOWED (TCP Flags: SYN)",
        ),
        (
            flow(event_type={"type": 5}, policy_match_type=9, verdict="AUDIT", traffic_direction="EGRESS"),
            f"{FORTH} policy-verdict:unknown EGRESS AUDITED (TCP Flags: SYN)",
        ),
        (
            flow(event_type={"type": 5}, policy_match_type=4, verdict="ERROR", traffic_direction="EGRESS"),
            f"{FORTH} policy-verdict:all EGRESS DENIED (TCP Flags: SYN)",
        ),
        (
            flow(l4={"ICMPv4": {"type": 8}}, Summary="ICMPv4 EchoRequest"),
            f"{PORTLESS} to-endpoint FORWARDED (ICMPv4 EchoRequest)",
        ),
        (
            flow(
                l4={"ICMPv6": {"type": 128}},
                IP={"source": "fd00::1", "destination": "fd00::2", "ipVersion": "IPv6"},
                source={"identity": 1},
                destination={"identity": 10},
                Summary="ICMPv6 EchoRequest",
            ),
            "fd00::1 (host) -> fd00::2 (world-ipv6) to-endpoint FORWARDED (ICMPv6 EchoRequest)",
        ),
        (
            flow(
                l4={"UDP": {"source_port": 5353, "destination_port": 53}},
                IP={"source": "fd00::1", "destination": "fd00::2", "ipVersion": "IPv6"},
                source={"identity": 2},
                destination={"identity": 6},
                Summary="UDP",
            ),
            "[fd00::1]:5353 (world) -> [fd00::2]:53 (remote-node) to-endpoint FORWARDED (UDP)",
        ),
        (
            flow(l4={"SCTP": {"source_port": 0, "destination_port": 5060}}, Summary="SCTP"),
            "shop/web-7f9 (ID:24119) -> shop/api-55c:5060 (ID:31001) to-endpoint FORWARDED (SCTP)",
        ),
        (
            flow(("source", "destination", "l4"), source_service={"name": "x", "namespace": "a"}, Summary=""),
            "a/x (unknown) -> 10.0.0.2 (unknown) to-endpoint FORWARDED ()",
        ),
        (
            flow(("source",), source_names=["one.example", "two.example"], source_service={"name": "x"}),
            "x:43512 (unknown) -> shop/api-55c:80 (ID:31001) to-endpoint FORWARDED (TCP Flags: SYN)",
        ),
        (
            flow(("source",), source_names=["one.example", "two.example"], Summary="UDP"),
            "one.example,two.example:43512 (unknown) -> shop/api-55c:80 (ID:31001) to-endpoint FORWARDED (UDP)",
        ),
        (
            flow(("IP", "l4"), ethernet={"source": "02:00:00:00:00:0b", "destination": "02:00:00:00:00:0c"}),
            "02:00:00:00:00:0b (ID:24119) -> 02:00:00:00:00:0c (ID:31001) to-endpoint FORWARDED (TCP Flags: SYN)",
        ),
        (flow(("IP", "l4")), " (ID:24119) ->  (ID:31001) to-endpoint FORWARDED (TCP Flags: SYN)"),
        (
            flow(l7={"type": "REQUEST", "http": {}}, verdict="DROPPED", Summary="HTTP/1.1 POST http://api/admin"),
            f"{FORTH} http-request DROPPED (HTTP/1.1 POST http://api/admin)",
        ),
        (
            flow(l7={"type": "RESPONSE", "dns": {"observation_source": "proxy"}}, Summary="DNS Answer"),
            f"{FORTH} dns-response proxy FORWARDED (DNS Answer)",
        ),
        (flow(l7={"type": "SAMPLE", "kafka": {}}), f"{FORTH} kafka-sample FORWARDED (TCP Flags: SYN)"),
        (flow(l7={}), f"{FORTH} l7-unknown_l7_type FORWARDED (TCP Flags: SYN)"),
        (
            flow(event_type={"type": 7}, sock_xlate_point=2, verdict="TRANSLATED"),
            f"{FORTH} post-xlate-fwd TRANSLATED (TCP Flags: SYN)",
        ),
        (
            flow(event_type={"type": 7}, verdict="TRACED"),
            f"{FORTH} SOCK_XLATE_POINT_UNKNOWN TRACED (TCP Flags: SYN)",
        ),
        (
            flow(event_type={"type": 3}, debug_capture_point="DBG_CAPTURE_FROM_LB"),
            f"{FORTH} DBG_CAPTURE_FROM_LB FORWARDED (TCP Flags: SYN)",
        ),
        (flow(("event_type", "verdict")), f"{FORTH} UNKNOWN VERDICT_UNKNOWN (TCP Flags: SYN)"),
        (flow(verdict=77), f"{FORTH} to-endpoint 77 (TCP Flags: SYN)"),
        (
            flow(ip_trace_id={"trace_id": "1234"}, auth_type="SPIRE"),
            f"{FORTH} to-endpoint FORWARDED (IP Trace ID: 1234; TCP Flags: SYN; Auth: SPIRE)",
        ),
    ],
)
def test_a_line_says_who_whom_what_and_why(one: pb.GetFlowsResponse, expected: str):
    assert line(one) == expected


def test_times_stand_in_front_in_any_layout_and_n_a_where_there_is_none():
    assert shown(CompactPrinter, flow(), layout="RFC3339Nano")[0].startswith("2024-07-24T10:02:11.123Z: shop/")
    assert shown(CompactPrinter, flow(("time",)))[0].startswith("N/A: shop/")
    late = flow()
    late.flow.time.seconds = 1 << 62
    assert shown(CompactPrinter, late)[0].startswith("N/A: shop/")


def test_numeric_shows_addresses_and_keeps_identities():
    expected = "10.0.0.1:43512 (ID:24119) -> 10.0.0.2:80 (ID:31001) to-endpoint FORWARDED (TCP Flags: SYN)"
    assert line(flow(), names=False) == expected


def test_the_node_stands_behind_the_time():
    assert shown(CompactPrinter, flow(), node_name=True)[0].startswith("Jul 24 10:02:11.123 [default/k8s1]: shop/")


POLICIES = [
    {"name": "one", "namespace": "shop", "kind": "CiliumNetworkPolicy"},
    {"name": "", "kind": "CiliumNetworkPolicy"},
    {"name": "unkind"},
    {"name": "two", "kind": "CiliumClusterwideNetworkPolicy"},
]
NAMED = "one (CiliumNetworkPolicy), two (CiliumClusterwideNetworkPolicy)"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"verdict": "FORWARDED", "traffic_direction": "INGRESS", "ingress_allowed_by": POLICIES},
            f"ALLOWED BY {NAMED}",
        ),
        ({"verdict": "FORWARDED", "traffic_direction": "EGRESS", "egress_allowed_by": POLICIES}, f"ALLOWED BY {NAMED}"),
        ({"verdict": "DROPPED", "traffic_direction": "EGRESS", "egress_denied_by": POLICIES}, f"DENIED BY {NAMED}"),
        ({"verdict": "AUDIT", "traffic_direction": "INGRESS", "ingress_denied_by": POLICIES}, f"AUDITED BY {NAMED}"),
        ({"verdict": "DROPPED", "traffic_direction": "INGRESS", "egress_denied_by": POLICIES}, "DENIED"),
    ],
)
def test_policies_are_named_where_they_are_asked_for(changes: dict[str, Any], expected: str):
    one = flow(event_type={"type": 5}, **changes)
    assert f" {expected} (TCP" in line(one, policies=True)
    assert " BY " not in line(one)
    assert " BY " not in line(flow(verdict="DROPPED", egress_denied_by=POLICIES), policies=True)


def test_colours_paint_hosts_ports_identities_and_verdicts():
    host = "\x1b[36mshop/web-7f9:\x1b[33m43512\x1b[0m\x1b[0m \x1b[35m(ID:24119)\x1b[0m"
    text = line(flow(verdict="DROPPED", auth_type="TEST_ALWAYS_FAIL"), colours=True)
    assert text.startswith(f"{host} -> ")
    assert text.endswith(" to-endpoint \x1b[31mDROPPED\x1b[0m (TCP Flags: SYN; Auth: \x1b[31mTEST_ALWAYS_FAIL\x1b[0m)")
    for verdict, colour in (("FORWARDED", 32), ("REDIRECTED", 32), ("ERROR", 31), ("AUDIT", 33), ("TRACED", 33)):
        assert f"\x1b[{colour}m{verdict}\x1b[0m" in line(flow(verdict=verdict), colours=True)


def test_control_characters_in_names_are_spelled_and_can_not_paint():
    evil = "a\x1b[31m\r\n\t\x9b2J\u202eb"
    told = "a^[[31m\\r\\n\\t\\x9b2J\\u202eb"
    one = flow(
        source={"identity": 1, "namespace": evil, "pod_name": evil},
        Summary=evil,
        node_name=evil,
        l7={"type": "REQUEST", "dns": {"observation_source": evil}},
    )
    for colours in (False, True):
        text, _ = shown(CompactPrinter, one, colours=colours, node_name=True)
        assert text.count(told) == 5
        assert text.count("\n") == 1
        assert ("\x1b[31m" in text.replace("\x1b[31mDROPPED", "")) is False
    for kind in (DictPrinter, TablePrinter):
        text, _ = shown(kind, one, node_name=True)
        assert text.count(told) == 5
        assert "\x1b" not in text
        assert "\t" not in text
    assert all(c.isprintable() for c in shown(JsonPrinter, one)[0].removesuffix("\n"))


def test_a_block_has_a_key_on_each_line_and_a_line_between_blocks():
    one = "  TIMESTAMP: Jul 24 10:02:11.123\n"
    rest = (
        "     SOURCE: shop/web-7f9:43512\n"
        "DESTINATION: shop/api-55c:80\n"
        "       TYPE: to-endpoint\n"
        "    VERDICT: FORWARDED\n"
        "    SUMMARY: TCP Flags: SYN\n"
    )
    assert shown(DictPrinter, flow(), flow(is_reply=True))[0] == f"{one}{rest}------------\n{one}{rest}"
    assert shown(DictPrinter, flow(), node_name=True)[0] == f"{one}       NODE: default/k8s1\n{rest}"


def test_a_table_is_as_wide_as_its_cells_and_is_not_there_without_rows():
    drop = flow(UNKNOWN, event_type={"type": 1, "sub_type": 133}, verdict="DROPPED")
    assert shown(TablePrinter, flow(), drop)[0] == (
        "TIMESTAMP             SOURCE               DESTINATION       TYPE            VERDICT     SUMMARY\n"
        "Jul 24 10:02:11.123   shop/web-7f9:43512   shop/api-55c:80   to-endpoint     FORWARDED   TCP Flags: SYN\n"
        "Jul 24 10:02:11.123   shop/web-7f9:43512   shop/api-55c:80   Policy denied   DROPPED     TCP Flags: SYN\n"
    )
    assert shown(TablePrinter, flow(), node_name=True)[0].splitlines() == [
        "TIMESTAMP             NODE           SOURCE               DESTINATION       TYPE          VERDICT     SUMMARY",
        (
            "Jul 24 10:02:11.123   default/k8s1   shop/web-7f9:43512   shop/api-55c:80   to-endpoint   FORWARDED   "
            "TCP Flags: SYN"
        ),
    ]
    assert shown(TablePrinter) == ("", "")


def test_json_is_a_line_for_each_response():
    one = flow(uuid="01234567-89ab-4def-ab9a-4f1e7b6ad5c5")
    one.time.CopyFrom(one.flow.time)
    assert shown(JsonPrinter, one)[0] == (
        '{"flow":{"time":"2024-07-24T10:02:11.123Z","verdict":"FORWARDED","IP":{"source":"10.0.0.1",'
        '"destination":"10.0.0.2","ipVersion":"IPv4"},"l4":{"TCP":{"source_port":43512,"destination_port":80,'
        '"flags":{"SYN":true}}},"source":{"identity":24119,"namespace":"shop","pod_name":"web-7f9"},'
        '"destination":{"identity":31001,"namespace":"shop","pod_name":"api-55c"},"Type":"L3_L4",'
        '"node_name":"default/k8s1","event_type":{"type":4},"is_reply":false,'
        '"uuid":"01234567-89ab-4def-ab9a-4f1e7b6ad5c5","Summary":"TCP Flags: SYN"},"node_name":"default/k8s1",'
        '"time":"2024-07-24T10:02:11.123Z"}\n'
    )
    bare, _ = shown(lambda style: JsonPrinter(style, bare=True), one)
    assert bare.startswith('{"time":"2024-07-24T10:02:11.123Z","verdict":"FORWARDED"')


LOST = response(lost_events={"source": "HUBBLE_RING_BUFFER", "num_events_lost": "1", "cpu": 5})
SPAN = {"first": "2024-07-24T10:02:10.5Z", "last": TIME}
LOST_SPAN = response(lost_events={"source": "PERF_EVENT_RING_BUFFER", "num_events_lost": "7", **SPAN})
WHEN = "(first: Jul 24 10:02:10.500, last: Jul 24 10:02:11.123)"


def test_lost_events_are_told_in_every_format():
    assert shown(CompactPrinter, LOST)[0] == "EVENTS LOST: HUBBLE_RING_BUFFER CPU(5) 1\n"
    assert shown(CompactPrinter, LOST_SPAN)[0] == f"EVENTS LOST: PERF_EVENT_RING_BUFFER CPU(0) 7 {WHEN}\n"
    assert shown(DictPrinter, LOST, flow())[0].startswith(
        "  TIMESTAMP: Jul 24 10:02:11.123\n"
        "     SOURCE: HUBBLE_RING_BUFFER\n"
        "       TYPE: EVENTS LOST\n"
        "    VERDICT: -\n"
        "    SUMMARY: CPU(5) - 1\n"
        "------------\n"
        "  TIMESTAMP: "
    )
    assert shown(TablePrinter, LOST_SPAN, node_name=True)[0].splitlines() == [
        "TIMESTAMP             NODE    SOURCE                   DESTINATION   TYPE          VERDICT   SUMMARY",
        "Jul 24 10:02:11.123   relay   PERF_EVENT_RING_BUFFER   -             EVENTS LOST   -         CPU(0) - 7 "
        + WHEN,
    ]
    assert shown(JsonPrinter, LOST)[0] == (
        '{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"1","cpu":5},"node_name":"relay",'
        '"time":"2024-07-24T10:02:11.123Z"}\n'
    )


def node(state: str, *names: str, message: str = "") -> pb.GetFlowsResponse:
    return response(node_status={"state_change": state, "node_names": names, "message": message})


@pytest.mark.parametrize(
    ("one", "expected", "always"),
    [
        (node("NODE_CONNECTED", "a", "b"), "Receiving flows from 2 nodes: a, b", False),
        (node("NODE_GONE", "a"), "1 nodes removed from cluster: a", False),
        (node("NODE_UNAVAILABLE", "a"), "1 nodes are unavailable: a", True),
        (node("NODE_ERROR", "a", message='b"ad\n'), 'Error "b\\"ad\\n" on 1 nodes: a', True),
        (node("UNKNOWN_NODE_STATE", message="x"), 'unknown node status event: UNKNOWN_NODE_STATE "x"', False),
    ],
)
def test_news_of_nodes_go_to_standard_error(one: pb.GetFlowsResponse, expected: str, always: bool):
    told = f"Jul 24 10:02:11.123 [relay]: {expected}\n"
    for kind in (CompactPrinter, TablePrinter):
        assert shown(kind, one, debug=True) == ("", told)
        assert shown(kind, one) == ("", told if always else "")


def test_news_of_nodes_are_blocks_and_json_where_flows_are():
    news = node("NODE_UNAVAILABLE", "a", "b")
    block = "  TIMESTAMP: Jul 24 10:02:11.123\n      STATE: NODE_UNAVAILABLE\n      NODES: a, b\n    MESSAGE: N/A\n"
    assert shown(DictPrinter, news, news) == ("", f"{block}------------\n{block}")
    assert shown(JsonPrinter, news)[1] == (
        '{"node_status":{"state_change":"NODE_UNAVAILABLE","node_names":["a","b"]},"node_name":"relay",'
        '"time":"2024-07-24T10:02:11.123Z"}\n'
    )


def test_many_nodes_are_counted():
    many = [f"a-rather-long-name-{number}" for number in range(5)]
    _, told = shown(CompactPrinter, node("NODE_UNAVAILABLE", *many))
    assert told.endswith(": 5 nodes are unavailable: a-rather-long-name-0, a-rather-long-name-1 (and 3 more)\n")
    assert "x" * 99 in shown(CompactPrinter, node("NODE_UNAVAILABLE", "x" * 99))[1]


def test_a_response_that_holds_nothing_is_passed_over():
    for kind in (CompactPrinter, DictPrinter, TablePrinter, JsonPrinter):
        assert shown(kind, pb.GetFlowsResponse(node_name="x")) == ("", "")


@pytest.mark.parametrize(
    ("when", "environment", "expected"),
    [("always", {"NO_COLOR": "1"}, True), ("never", {}, False), ("auto", {}, False)],
)
def test_colours_are_for_terminals_unless_asked_for(when: str, environment: dict[str, str], expected: bool):
    assert wants_colours(when, environment) is expected


def test_what_can_be_printed_stays_as_it_is():
    assert escape("shop/wéb-7f9:80 (→)") == "shop/wéb-7f9:80 (→)"
    assert escape("\udcff") == "\\udcff"
