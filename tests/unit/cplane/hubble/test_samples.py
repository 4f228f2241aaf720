"""Samples of Cilium's perf ring become the flows that Cilium makes of them."""

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.hubble.encode import Encoder
from cplane.hubble.filters import compile_filters
from cplane.hubble.parser.headers import CAPTURED, DEBUG, DROP, JUDGED, SOCKET, TRACE
from cplane.hubble.parser.samples import SAMPLE_MAX
from cplane.pb.flow import flow_pb2
from tests.support.effort import examples
from tests.support.flows import API, WEB, World, responses, rows_matching
from tests.support.packets import (
    ICMP,
    ICMP6,
    SCTP,
    TCP,
    UDP,
    ethernet,
    extensions,
    frame,
    icmp,
    ipv4,
    ipv6,
    packed,
    sctp,
    tcp,
    udp,
)
from tests.support.samples import Read, captured, debug, drop, geneve, judged, trace, translated, vxlan

SYN = frame("10.244.0.11", "10.244.0.12", TCP, tcp(43512, 80))
OUTER = ("192.0.2.1", "192.0.2.2", UDP)


def test_a_trace_of_a_syn_has_everything_that_is_known() -> None:
    flow = Read(
        trace(SYN, subtype=5, source=11, src_label=WEB, dst_label=API, reason=0, ifindex=7, version=1),
    ).flow
    assert (flow.verdict, flow.Type, flow.event_type.type, flow.event_type.sub_type) == (1, 1, 4, 5)
    assert (flow.IP.source, flow.IP.destination, flow.IP.ipVersion) == ("10.244.0.11", "10.244.0.12", 1)
    assert (flow.l4.TCP.source_port, flow.l4.TCP.destination_port) == (43512, 80)
    assert flow.l4.TCP.flags == flow_pb2.TCPFlags(SYN=True)
    assert (flow.source.ID, flow.source.pod_name, flow.source.identity) == (11, "web-7f9", WEB)
    assert (flow.destination.ID, flow.destination.pod_name, flow.destination.identity) == (12, "api-55c", API)
    assert (flow.ethernet.source, flow.ethernet.destination) == ("02:00:00:00:00:11", "02:00:00:00:00:01")
    assert (flow.interface.index, flow.interface.name) == (7, "lxc7")
    assert flow.trace_observation_point == flow_pb2.FROM_ENDPOINT
    assert (flow.trace_reason, flow.is_reply.value, flow.HasField("is_reply")) == (flow_pb2.NEW, False, True)
    assert flow.traffic_direction == flow_pb2.EGRESS
    assert flow.Summary == "TCP Flags: SYN"
    assert flow.uuid


@pytest.mark.parametrize(
    ("fields", "direction", "reply"),
    [
        ({"source": 11, "reason": 0}, flow_pb2.EGRESS, False),
        ({"source": 12, "reason": 0}, flow_pb2.INGRESS, False),
        ({"source": 11, "reason": 2}, flow_pb2.INGRESS, True),
        ({"source": 12, "reason": 2}, flow_pb2.EGRESS, True),
        ({"source": 11, "reason": 0x82}, flow_pb2.INGRESS, True),
        ({"source": 11, "reason": 5}, flow_pb2.TRAFFIC_DIRECTION_UNKNOWN, None),
        ({"source": 0, "reason": 0}, flow_pb2.TRAFFIC_DIRECTION_UNKNOWN, False),
    ],
)
def test_a_trace_has_the_direction_of_its_connection(fields: dict[str, Any], direction: int, reply: Any) -> None:
    flow = Read(trace(SYN, **fields)).flow
    assert flow.traffic_direction == direction
    assert (flow.is_reply.value if flow.HasField("is_reply") else None) == reply


@pytest.mark.parametrize("reason", range(10))
def test_reasons_of_traces_are_numbered_as_flows_number_them(reason: int) -> None:
    expected = {5: 0, 6: 6, 7: 7, 8: 8, 9: 0}.get(reason, reason + 1)
    assert Read(trace(SYN, reason=reason)).flow.trace_reason == expected


def test_a_drop_says_why_and_where() -> None:
    fields = {"subtype": 133, "source": 11, "src_label": WEB, "file": 2, "line": 1234, "ifindex": 7}
    for version in range(4):
        flow = Read(drop(SYN, version=version, **fields)).flow
        assert (flow.verdict, flow.drop_reason, flow.drop_reason_desc) == (flow_pb2.DROPPED, 133, 133)
        assert (flow.file.name, flow.file.line) == ("bpf_lxc.c", 1234)
        assert flow.traffic_direction == flow_pb2.EGRESS
        assert not flow.HasField("is_reply")
        assert flow.l4.TCP.destination_port == 80
    assert Read(drop(SYN, subtype=133, source=12)).flow.traffic_direction == flow_pb2.INGRESS
    assert Read(drop(SYN, subtype=133)).flow.traffic_direction == flow_pb2.TRAFFIC_DIRECTION_UNKNOWN


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"flags": 0x01}, flow_pb2.FORWARDED),
        ({"flags": 0x01, "verdict": 10001}, flow_pb2.REDIRECTED),
        ({"flags": 0x41}, flow_pb2.AUDIT),
        ({"flags": 0x01, "verdict": -133}, flow_pb2.DROPPED),
    ],
)
def test_a_policy_verdict_tells_what_was_decided(fields: dict[str, Any], verdict: int) -> None:
    flow = Read(judged(SYN, source=12, remote=WEB, auth=1, cookie=100, **fields)).flow
    assert flow.verdict == verdict
    assert flow.drop_reason == (133 if verdict == flow_pb2.DROPPED else 0)
    assert (flow.source.identity, flow.traffic_direction) == (WEB, flow_pb2.INGRESS)
    assert flow.auth_type == flow_pb2.SPIRE
    assert flow.HasField("is_reply") == (verdict != flow_pb2.DROPPED)
    if verdict == flow_pb2.FORWARDED:
        assert [one.name for one in flow.ingress_allowed_by] == ["allow-web"]


def test_a_policy_verdict_on_the_way_out_knows_the_identity_of_the_other_end() -> None:
    flow = Read(judged(SYN, source=11, remote=API, flags=0x02 | 3 << 3)).flow
    assert (flow.destination.identity, flow.traffic_direction, flow.policy_match_type) == (API, flow_pb2.EGRESS, 3)


def test_an_identity_that_no_header_says_is_that_of_the_pod() -> None:
    world = World()
    world.pods[11] = world.pods[11].__class__(11, "shop", "web-7f9", "default", identity=WEB)
    read = Read(judged(SYN, flags=0x02, remote=API), world=world)
    assert (read.flow.source.identity, next(iter(read.flow.source.labels))) == (WEB, "k8s:app=web")
    predicate = compile_filters([flow_pb2.FlowFilter(source_identity=[WEB])], [], read.store)
    assert predicate is not None
    assert predicate(read.store.ring.span(0, 1)).all()


@pytest.mark.parametrize(
    ("subtype", "interface", "port"), [(4, 7, 0), (5, 7, 0), (8, 0, 15001), (9, 0, 15001), (10, 7, 0)]
)
def test_a_capture_names_its_point_and_a_device_or_a_proxy(subtype: int, interface: int, port: int) -> None:
    argument = struct.unpack("=I", struct.pack(">I", 15001))[0] if port else 7
    flow = Read(captured(SYN, subtype=subtype, source=11, arg1=argument)).flow
    assert (flow.verdict, flow.debug_capture_point) == (flow_pb2.VERDICT_UNKNOWN, subtype)
    assert (flow.event_type.type, flow.interface.index, flow.proxy_port) == (3, interface, port)
    assert flow.l4.TCP.destination_port == 80


def test_a_trace_to_the_proxy_names_its_port() -> None:
    assert Read(trace(SYN, subtype=1, dst_id=10001)).flow.proxy_port == 10001


CGROUPS = {7: (packed("10.244.0.11"), packed("fd00::11"))}


@pytest.mark.parametrize(
    ("point", "verdict", "ends", "ports"),
    [
        (1, flow_pb2.TRACED, ("10.244.0.11", "10.96.0.1"), (0, 80)),
        (2, flow_pb2.TRANSLATED, ("10.244.0.11", "10.96.0.1"), (0, 80)),
        (3, flow_pb2.TRACED, ("10.96.0.1", "10.244.0.11"), (80, 0)),
        (4, flow_pb2.TRANSLATED, ("10.96.0.1", "10.244.0.11"), (80, 0)),
        (9, flow_pb2.VERDICT_UNKNOWN, ("10.244.0.11", "10.96.0.1"), (0, 80)),
    ],
)
def test_a_translation_is_a_flow_of_its_socket(point: int, verdict: int, ends: Any, ports: Any) -> None:
    sample = translated(
        subtype=point, address=packed("10.96.0.1").ljust(16, b"\xee"), dport=80, cookie=2**63 + 1, cgroup=7, l4=1
    )
    flow = Read(sample, world=World(cgroups=CGROUPS)).flow
    assert (flow.Type, flow.verdict, flow.sock_xlate_point) == (flow_pb2.SOCK, verdict, point)
    assert (flow.IP.source, flow.IP.destination, flow.IP.ipVersion) == (*ends, flow_pb2.IPv4)
    assert (flow.l4.TCP.source_port, flow.l4.TCP.destination_port) == ports
    assert (flow.socket_cookie, flow.cgroup_id, flow.Summary) == (2**63 + 1, 7, "TCP")
    assert "web-7f9" in (flow.source.pod_name, flow.destination.pod_name)
    assert not flow.l4.TCP.HasField("flags")


def test_a_translation_of_ipv6_has_the_pods_address_of_that_family() -> None:
    sample = translated(subtype=1, address=packed("fd00:96::1"), dport=53, cgroup=7, l4=2, flags=1)
    flow = Read(sample, world=World(cgroups=CGROUPS)).flow
    assert (flow.IP.source, flow.IP.destination, flow.l4.UDP.destination_port) == ("fd00::11", "fd00:96::1", 53)


def test_a_translation_for_nobody_we_know_is_skipped_and_counted() -> None:
    read = Read(translated(subtype=1, cgroup=8, l4=1), trace(SYN))
    assert (read.parser.skipped, read.parser.malformed, read.count) == (1, 0, 1)


def test_debug_messages_are_events_and_no_flows() -> None:
    read = Read(debug(subtype=7, source=11, hash=1, arg1=2, arg2=3, arg3=4), debug(subtype=250))
    assert (read.count, read.store.ring.written, read.debug.written) == (2, 0, 2)
    told = read.debug.told(0)
    assert (told.type, told.source.ID, told.source.pod_name) == (flow_pb2.DBG_CT_LOOKUP_REV, 11, "web-7f9")
    assert (told.hash.value, told.arg1.value, told.arg2.value, told.arg3.value) == (1, 2, 3, 4)
    assert told.message == "CT reverse lookup: sport=0 dport=2 nexthdr=0 flags=OUT, RELATED"
    assert not told.HasField("cpu")
    assert read.debug.told(1).message == "Unknown message type=250 arg1=0 arg2=0"


@pytest.mark.parametrize(
    ("protocol", "payload", "expected"),
    [
        (UDP, udp(5353, 53), {"UDP": flow_pb2.UDP(source_port=5353, destination_port=53)}),
        (SCTP, sctp(1, 2), {"SCTP": flow_pb2.SCTP(source_port=1, destination_port=2)}),
        (ICMP, icmp(3, 1), {"ICMPv4": flow_pb2.ICMPv4(type=3, code=1)}),
        (112, b"\x31\x05\x64\x01\0\0\0\0", {"VRRP": flow_pb2.VRRP(type=1, vrid=5, priority=100)}),
        (2, b"\x16\0\0\0" + packed("224.0.0.251"), {"IGMP": flow_pb2.IGMP(type=0x16, group_address="224.0.0.251")}),
    ],
)
def test_each_layer_has_its_fields(protocol: int, payload: bytes, expected: dict[str, Any]) -> None:
    read = Read(trace(frame("10.244.0.11", "10.244.0.12", protocol, payload)))
    assert read.flow.l4 == flow_pb2.Layer4(**expected)
    (name,) = expected
    predicate = compile_filters([flow_pb2.FlowFilter(protocol=[name])], [], read.store)
    assert predicate is not None
    assert predicate(read.store.ring.span(0, 1)).all()


def test_the_ninth_tcp_flag_is_told_too() -> None:
    header = bytearray(tcp(1, 2, 0x12))
    header[12] |= 1
    read = Read(trace(frame("10.244.0.11", "10.244.0.12", TCP, bytes(header))), trace(SYN))
    flow = read.flows[0]
    assert flow.l4.TCP.flags == flow_pb2.TCPFlags(SYN=True, ACK=True, NS=True)
    assert flow.Summary == "TCP Flags: SYN, ACK, NS"
    for names, expected in ((["NS"], [0]), (["NS", "ACK"], [0]), (["NS", "FIN"], []), (["SYN"], [0, 1])):
        wanted = flow_pb2.TCPFlags(**dict.fromkeys(names, True))
        predicate = compile_filters([flow_pb2.FlowFilter(tcp_flags=[wanted])], [], read.store)
        assert predicate is not None
        assert rows_matching(predicate(read.store.ring.span(0, 2)).tolist()) == expected


@pytest.mark.parametrize("chain", [[], [0], [43, 60], [44], [51], [0, 43, 44, 60]])
def test_ipv6_extension_headers_are_passed_over(chain: list[int]) -> None:
    first, payload = extensions(chain, TCP, tcp(7, 80))
    flow = Read(trace(ethernet(ipv6("fd00::11", "fd00::12", first, payload), 0x86DD), flags=1)).flow
    assert (flow.IP.ipVersion, flow.l4.TCP.source_port, flow.source.pod_name) == (flow_pb2.IPv6, 7, "web-7f9")


def test_icmp6_is_read() -> None:
    flow = Read(trace(frame("fd00::11", "fd00::12", ICMP6, icmp(128)))).flow
    assert flow.l4.ICMPv6 == flow_pb2.ICMPv6(type=128)


def test_later_fragments_have_no_ports() -> None:
    packet = ethernet(ipv4("10.244.0.11", "10.244.0.12", TCP, tcp(1, 2), fragment=8), 0x0800)
    flow = Read(trace(packet)).flow
    assert flow.IP.source == "10.244.0.11"
    assert not flow.HasField("l4")


def test_vlan_tags_are_passed_over_and_a_device_without_ethernet_has_none() -> None:
    tagged = SYN[:12] + struct.pack(">HH", 0x88A8, 5) + struct.pack(">HH", 0x8100, 6) + SYN[12:]
    bare = trace(SYN[14:], flags=2)
    bare6 = judged(ipv6("fd00::11", "fd00::12", TCP, tcp(7, 80)), flags=0x80 | 0x04 | 0x01)
    flows = Read(trace(tagged), bare, bare6).flows
    assert [one.l4.TCP.destination_port for one in flows] == [80, 80, 80]
    assert [one.HasField("ethernet") for one in flows] == [True, False, False]
    assert flows[2].IP.source == "fd00::11"


@pytest.mark.parametrize(
    ("flag", "header", "protocol"),
    [
        (4, vxlan(0x123456, SYN), flow_pb2.Tunnel.VXLAN),
        (8, geneve(0x123456, SYN), flow_pb2.Tunnel.GENEVE),
        (8, geneve(0x123456, SYN, b"\x01\x02\x03\x01abcd"), flow_pb2.Tunnel.GENEVE),
    ],
    ids=["vxlan", "geneve", "geneve with options"],
)
def test_of_a_tunnel_the_flow_is_the_packet_within(flag: int, header: bytes, protocol: int) -> None:
    outer = udp(40000, 8472, header)
    for sample in (trace(frame(*OUTER, outer), flags=flag), drop(frame(*OUTER, outer), flags=flag, subtype=133)):
        flow = Read(sample).flow
        assert (flow.IP.source, flow.l4.TCP.destination_port) == ("10.244.0.11", 80)
        assert (flow.tunnel.protocol, flow.tunnel.vni) == (protocol, 0x123456)
        assert (flow.tunnel.IP.source, flow.tunnel.IP.destination) == OUTER[:2]
        assert (flow.tunnel.l4.UDP.source_port, flow.tunnel.l4.UDP.destination_port) == (40000, 8472)


def test_a_tunnel_without_a_packet_within_is_a_flow_of_the_tunnel() -> None:
    for header in (vxlan(1, b"garbage"), vxlan(1, b""), b""):
        flow = Read(trace(frame(*OUTER, udp(40000, 8472, header)), flags=4)).flow
        assert (flow.IP.source, flow.l4.UDP.destination_port) == ("192.0.2.1", 8472)
        assert not flow.HasField("tunnel")


def test_what_only_few_flows_have_is_told_and_can_be_filtered() -> None:
    original = packed("10.244.0.13").ljust(16, b"\0")
    read = Read(trace(SYN, original=original, trace_id=2**64 - 1), trace(SYN, reason=0x80, original=bytes(16)))
    first, second = read.flows
    assert (first.IP.source, first.IP.source_xlated, first.source.pod_name) == ("10.244.0.13", "10.244.0.11", "db-0")
    assert first.ip_trace_id.trace_id == 2**64 - 1
    assert (first.IP.encrypted, second.IP.encrypted, second.trace_reason) == (False, True, flow_pb2.NEW)
    for wanted, expected in (
        ({"source_ip_xlated": ["10.244.0.0/24"]}, [0]),
        ({"encrypted": [True]}, [1]),
        ({"encrypted": [False]}, [0]),
        ({"ip_trace_id": [2**64 - 1]}, [0]),
        ({"ip_trace_id": [0]}, []),
    ):
        predicate = compile_filters([flow_pb2.FlowFilter(**wanted)], [], read.store)
        assert predicate is not None
        assert rows_matching(predicate(read.store.ring.span(0, 2)).tolist()) == expected, wanted


def test_every_truncation_is_a_flow_of_what_is_there_or_is_counted() -> None:
    whole = trace(frame(*OUTER, udp(40000, 8472, vxlan(1, SYN))), flags=4)
    read = Read(*(whole[:size] for size in range(len(whole) + 1)))
    assert read.parser.malformed == 56, "those that are shorter than the header"
    assert read.count == len(read.flows) == len(whole) + 1 - 56
    assert read.flows[-1].HasField("tunnel")


@pytest.mark.parametrize(
    "sample",
    [
        b"",
        b"\0",
        b"\x01",
        b"\xff" * 60,
        b"\x81" * 60,
        b"\x82" * 60,
        drop(SYN)[:47],
        trace(SYN).replace(b"\x02", b"\x03", 1),
    ],
)
def test_what_is_no_sample_is_counted(sample: bytes) -> None:
    read = Read(sample, trace(SYN))
    assert (read.parser.malformed, read.count, len(read.flows)) == (1, 1, 1)


def test_samples_of_other_versions_and_extensions_are_counted() -> None:
    for fields in ({"extension": 1},):
        assert Read(trace(SYN, **fields), drop(SYN, **fields)).parser.malformed == 2
    late = bytearray(drop(SYN))
    late[14] = 4
    assert Read(bytes(late)).parser.malformed == 1


@pytest.mark.slow
@settings(max_examples=examples(300), deadline=None)
@given(data=st.data())
def test_any_bytes_become_flows_that_can_be_encoded_or_are_counted(data: st.DataObject) -> None:
    layouts = {1: DROP, 2: DEBUG, 3: CAPTURED, 4: TRACE, 5: JUDGED, 7: SOCKET}
    packets = st.one_of(
        st.binary(max_size=200),
        st.sampled_from(
            [SYN, SYN[14:], frame(*OUTER, udp(1, 2, vxlan(1, SYN))), frame(*OUTER, udp(1, 2, geneve(1, SYN)))]
        ),
    )

    def sample() -> bytes:
        kind = data.draw(st.sampled_from(sorted(layouts)))
        header = bytearray(data.draw(st.binary(min_size=layouts[kind].itemsize, max_size=layouts[kind].itemsize)))
        header[0] = kind
        if kind in (1, 4):
            header[14:16] = bytes((data.draw(st.integers(0, 3)), 0))
        whole = bytes(header) + data.draw(packets)
        return whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole

    samples = [sample() for _ in range(data.draw(st.integers(1, 8)))]
    read = Read(*samples, world=World(cgroups={0: (packed("10.244.0.11"),)}))
    assert read.count + read.parser.malformed + read.parser.skipped == len(samples)
    flows = read.flows
    assert [one.flow for one in responses(read.store, Encoder(read.store, origin=True))] == flows


def test_long_samples_are_looked_at_as_far_as_headers_reach() -> None:
    assert Read(trace(SYN + bytes(1 << 16))).flow.l4.TCP.destination_port == 80
    assert SAMPLE_MAX < 1 << 16
