"""Records of sockets as flows: what a connect() asked for, and what it got."""

from typing import Any

import numpy as np
import pytest

from cplane.hubble.endpoint import Service
from cplane.hubble.filters import compile_filters
from cplane.hubble.flow import FlowBuilder
from cplane.hubble.parser.getters import NetnsOwner
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from datapath.notify.records import RecordFlags, RecordType, SocketPoint
from tests.support.flows import API, DB, SEED, START_NS, WEB, World, records, rows_matching, store_of

VIP, BACKEND = "10.96.0.1", "10.244.0.12"


def socket(**fields: Any) -> dict[str, Any]:
    """A connect() of web to a service with api as its backend."""
    return {
        "type": RecordType.SOCKET,
        "subtype": SocketPoint.POST_FWD,
        "flags": RecordFlags.EGRESS,
        "src": VIP,
        "dst": BACKEND,
        "sport": 80,
        "dport": 8080,
        "socket_cookie": 2**40 + 7,
        "cgroup_id": 99,
        "netns_cookie": 5011,
        **dict.fromkeys(("tcp_flags", "src_identity", "dst_identity", "src_lxc", "dst_lxc", "ifindex"), 0),
        **dict.fromkeys(("smac", "dmac"), bytes(6)),
        **fields,
    }


def flows_of(store: FlowStore) -> list[flow_pb2.Flow]:
    span = store.ring.span(0, store.ring.written)
    return [FlowBuilder(store).flow(span, row) for row in range(len(span))]


def test_a_connect_is_two_flows_of_its_socket() -> None:
    world = World()
    world.services[VIP] = {(6, 80): Service("api", "shop")}
    before, after = flows_of(store_of(records(socket(position=42)), world=world))
    for flow in (before, after):
        assert (flow.Type, flow.event_type.type) == (flow_pb2.SOCK, RecordType.SOCKET)
        assert (flow.socket_cookie, flow.cgroup_id) == (2**40 + 7, 99)
        assert (flow.source.pod_name, flow.source.identity, flow.IP.source) == ("web-7f9", WEB, "10.244.0.11")
        assert (flow.l4.TCP.source_port, flow.Summary) == (0, "TCP")
        assert flow.traffic_direction == flow_pb2.TRAFFIC_DIRECTION_UNKNOWN
        assert not flow.HasField("is_reply")
        assert not flow.HasField("ethernet")
    assert (before.verdict, before.sock_xlate_point) == (flow_pb2.TRACED, SocketPoint.PRE_FWD)
    assert (before.IP.destination, before.l4.TCP.destination_port) == (VIP, 80)
    assert (before.destination_service.namespace, before.destination_service.name) == ("shop", "api")
    assert (after.verdict, after.sock_xlate_point) == (flow_pb2.TRANSLATED, SocketPoint.POST_FWD)
    assert (after.IP.destination, after.l4.TCP.destination_port) == (BACKEND, 8080)
    assert (after.destination.pod_name, after.destination.ID) == ("api-55c", 12)


def test_datagrams_and_ipv6() -> None:
    batch = records(socket(src="fd00:96::1", dst="fd00::12", protocol=17, sport=53, dport=5353))
    before, after = flows_of(store_of(batch))
    assert (before.IP.source, before.IP.destination, before.IP.ipVersion) == ("fd00::11", "fd00:96::1", flow_pb2.IPv6)
    assert (before.l4.UDP.destination_port, after.l4.UDP.destination_port) == (53, 5353)
    assert after.IP.destination == "fd00::12"


def test_a_backend_elsewhere_has_the_identity_of_its_address() -> None:
    _, after = flows_of(store_of(records(socket(dst="10.244.0.13"))))
    assert (after.destination.identity, after.destination.ID) == (DB, 13)
    _, unknown = flows_of(store_of(records(socket(dst="192.0.2.1"))))
    assert (unknown.destination.identity, unknown.destination.ID) == (0, 0)


def test_the_nodes_own_sockets_are_the_hosts() -> None:
    before, after = flows_of(store_of(records(socket(netns_cookie=1))))
    assert {one.IP.source for one in (before, after)} == {"10.244.0.1"}
    assert list(after.source.labels) == ["reserved:host"]


def test_records_around_a_socket_stay_what_and_where_they_are() -> None:
    batch = records({"sport": 1}, socket(), {"sport": 2}, socket(netns_cookie=5012, socket_cookie=9), {"sport": 3})
    flows = flows_of(store_of(batch))
    assert [flow.Type for flow in flows] == [1, 3, 3, 1, 3, 3, 1]
    assert [flow.l4.TCP.source_port for flow in flows] == [1, 0, 0, 2, 0, 0, 3]
    assert [flow.socket_cookie for flow in flows] == [0, 2**40 + 7, 2**40 + 7, 0, 9, 9, 0]
    assert [flow.source.identity for flow in flows[4:6]] == [API, API]
    assert [flow.time.ToNanoseconds() - START_NS for flow in flows] == [m * 1_000_000 for m in (0, 1, 1, 2, 3, 3, 4)]


def test_sockets_of_strangers_are_skipped_and_counted() -> None:
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=64)
    parser = Parser(store, World())
    assert parser.ingest(records(socket(netns_cookie=77), {}, socket(netns_cookie=0)), START_NS) == 1
    assert (parser.skipped, parser.malformed, store.ring.written) == (2, 0, 1)
    assert parser.ingest(records(socket(netns_cookie=77)), START_NS) == 0
    assert parser.ingest(records(socket()), START_NS) == 2


def test_a_call_has_no_tcp_flags_whatever_its_record_holds() -> None:
    store = store_of(records(socket(tcp_flags=25), {"tcp_flags": 25}))
    predicate = compile_filters([flow_pb2.FlowFilter(tcp_flags=[flow_pb2.TCPFlags(ACK=True, PSH=True)])], [], store)
    assert predicate is not None
    assert rows_matching(predicate(store.ring.span(0, 3)).tolist()) == [2]


def test_owners_and_places_are_asked_for_again_when_they_change() -> None:
    world = World()
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=64)
    parser = Parser(store, world)
    parser.ingest(records(socket(), socket(), socket()), START_NS)
    asked = world.asked
    parser.ingest(records(socket()), START_NS)
    assert world.asked == asked, "what is known is not asked for again"
    world.netns[5011] = NetnsOwner(13, DB)
    world.changed()
    parser.ingest(records(socket()), START_NS)
    assert flows_of(store)[-1].source.pod_name == "db-0"
    assert flows_of(store)[-1].IP.source == "0.0.0.0"  # it has none of this family


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (flow_pb2.FlowFilter(event_type=[flow_pb2.EventTypeFilter(type=7)]), [1, 2, 3, 4]),
        (flow_pb2.FlowFilter(event_type=[flow_pb2.EventTypeFilter(type=7, match_sub_type=True, sub_type=1)]), [1, 3]),
        (flow_pb2.FlowFilter(verdict=[flow_pb2.TRANSLATED]), [2, 4]),
        (flow_pb2.FlowFilter(destination_port=["8080"], source_pod=["shop/web-7f9"]), [2]),
        (flow_pb2.FlowFilter(source_port=["80"]), []),
        (
            flow_pb2.FlowFilter(
                experimental=flow_pb2.FlowFilter.Experimental(cel_expression=["_flow.socket_cookie == 4242u"])
            ),
            [3, 4],
        ),
    ],
)
def test_filters_find_them(asked: flow_pb2.FlowFilter, found: list[int]) -> None:
    store = store_of(records({}, socket(), socket(socket_cookie=4242, dst="10.244.0.13", dport=81, netns_cookie=5012)))
    predicate = compile_filters([asked], [], store)
    assert predicate is not None
    span = store.ring.span(0, store.ring.written)
    assert rows_matching(np.asarray(predicate(span)).tolist()) == found
