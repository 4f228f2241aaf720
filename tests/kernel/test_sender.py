"""What a pod may send at all: addresses, link-layer conversations, well-formed packets."""

import struct

import pytest

from tests.support.kernel import DROP, HOST4, HOST6, PASS, REDIRECT, WORLD4, WORLD6, A, B, Node
from tests.support.packets import (
    ACK,
    ICMP,
    ICMP6,
    NODE_MAC,
    POD_MAC,
    SCTP,
    TCP,
    UDP,
    arp,
    ethernet,
    extensions,
    frame,
    icmp,
    icmp6_checksum,
    ipv4,
    ipv6,
    neighbour,
    packed,
    sctp,
    tcp,
    udp,
)

pytestmark = pytest.mark.root

LINK_LOCAL = "fe80::11"


def test_a_device_that_nobody_stands_behind_is_not_ready(net: Node) -> None:
    net.maps["cplane_devices"].delete(struct.pack("<I", 1))
    data = frame(A.ipv4, WORLD4, TCP, tcp(1, 2))
    assert (net.out(data).action, net.into(data).action) == (DROP, DROP)
    assert net.dropped() == [203, 203]


@pytest.mark.parametrize(("source", "to"), [(B.ipv4, WORLD4), (WORLD4, B.ipv4), (B.ipv6, WORLD6), ("0.0.0.0", WORLD4)])
def test_a_pod_speaks_with_its_own_address_only(net: Node, source: str, to: str) -> None:
    net.allow_all()
    assert net.out(frame(source, to, TCP, tcp(1000, 80))).action == DROP
    (record,) = net.records()
    assert (record["type"], record["subtype"], record["verdict"]) == (1, 132, -132)
    assert bytes(record["saddr"]) == packed(source).ljust(16, b"\0")
    assert record["src_identity"] == A.identity
    assert record["src_lxc"] == A.lxc_id
    assert record["file"] == 2
    assert record["line"] > 0


def test_a_pod_without_an_ipv4_address_has_none_to_send_from(net: Node) -> None:
    net.device(type(A)(A.lxc_id, A.identity, 1, "0.0.0.0", A.ipv6))
    net.allow_all()
    assert net.out(frame("0.0.0.0", WORLD4, UDP, udp(68, 67))).action == DROP
    assert net.dropped() == [132]


@pytest.mark.parametrize("target", [B.ipv4, HOST4, WORLD4, "169.254.1.1"])
def test_the_node_answers_arp_for_every_address_but_the_pods_own(net: Node, target: str) -> None:
    outcome = net.out(arp(1, A.ipv4, target))
    expected = arp(2, target, A.ipv4, sender_mac=NODE_MAC, target_mac=POD_MAC, to=POD_MAC)
    assert outcome.action == REDIRECT
    assert outcome.packet == expected
    assert net.records() == []


def test_an_arp_probe_for_the_pods_own_address_finds_nobody(net: Node) -> None:
    assert net.out(arp(1, "0.0.0.0", A.ipv4)).action == DROP
    assert net.out(arp(1, A.ipv4, A.ipv4)).action == DROP
    assert net.records() == []


def test_the_stack_hears_a_pods_arp_answer_about_itself_only(net: Node) -> None:
    assert net.out(arp(2, A.ipv4, HOST4, target_mac=NODE_MAC)).action == PASS
    assert net.out(arp(2, B.ipv4, HOST4, target_mac=NODE_MAC)).action == DROP
    assert net.out(arp(2, A.ipv4, HOST4, sender_mac=B.mac, target_mac=NODE_MAC)).action == DROP
    assert net.dropped() == [132, 132]


def test_arp_towards_the_pod_passes(net: Node) -> None:
    assert net.into(arp(1, HOST4, A.ipv4, sender_mac=NODE_MAC)).action == PASS
    assert net.records() == []


@pytest.mark.parametrize("data", [arp(1, A.ipv4, B.ipv4)[:30], arp(1, A.ipv4, B.ipv4)[:14] + bytes(28)])
def test_malformed_arp_is_swallowed(net: Node, data: bytes) -> None:
    assert net.out(data).action == DROP
    assert net.records() == []


@pytest.mark.parametrize("source", [A.ipv6, LINK_LOCAL])
@pytest.mark.parametrize("with_option", [True, False])
@pytest.mark.parametrize("target", [B.ipv6, HOST6, WORLD6, "fe80::1"])
def test_the_node_answers_neighbour_solicitations(net: Node, source: str, with_option: bool, target: str) -> None:
    outcome = net.out(neighbour(135, source, "ff02::1:ff00:1", target, mac=POD_MAC if with_option else None))
    assert outcome.action == REDIRECT
    expected = neighbour(136, target, source, target, mac=NODE_MAC, flags=0x60000000)
    assert outcome.packet == POD_MAC + NODE_MAC + expected[12:]
    message = outcome.packet[54:]
    assert icmp6_checksum(packed(target), packed(source), message) == 0
    assert net.records() == []


def test_duplicate_address_detection_hears_no_objection(net: Node) -> None:
    for target in (A.ipv6, LINK_LOCAL, B.ipv6):
        assert net.out(neighbour(135, "::", "ff02::1:ff00:1", target, mac=None)).action == DROP
    assert net.records() == []


def test_a_solicitation_for_the_pods_own_address_is_swallowed(net: Node) -> None:
    assert net.out(neighbour(135, A.ipv6, "ff02::1:ff00:1", A.ipv6)).action == DROP
    assert net.records() == []


def test_a_solicitation_that_crossed_a_router_or_lies_is_not_answered(net: Node) -> None:
    assert net.out(neighbour(135, A.ipv6, "ff02::1:ff00:1", B.ipv6, hop_limit=254)).action == DROP
    assert net.records() == []
    assert net.out(neighbour(135, B.ipv6, "ff02::1:ff00:1", HOST6)).action == DROP
    (record,) = net.records()
    assert (record["subtype"], record["file"]) == (132, 103)


def test_the_stack_hears_advertisements_of_the_pod_about_itself_only(net: Node) -> None:
    assert net.out(neighbour(136, A.ipv6, HOST6, A.ipv6)).action == PASS
    assert net.out(neighbour(136, LINK_LOCAL, HOST6, LINK_LOCAL)).action == PASS
    assert net.out(neighbour(136, A.ipv6, HOST6, B.ipv6)).action == DROP
    assert net.dropped() == [132]


@pytest.mark.parametrize("kind", [130, 131, 132, 133, 134, 137, 143])
def test_router_and_listener_messages_of_a_pod_are_swallowed(net: Node, kind: int) -> None:
    net.allow_all()
    first, payload = extensions([0], ICMP6, icmp(kind))
    for source in (LINK_LOCAL, "::", A.ipv6):
        assert net.out(ethernet(ipv6(source, "ff02::2", first, payload), 0x86DD)).action == DROP
        assert net.out(frame(source, "ff02::2", ICMP6, icmp(kind))).action == DROP
    assert net.records() == []


def test_a_link_local_source_is_good_for_neighbour_discovery_only(net: Node) -> None:
    net.allow_all()
    assert net.out(frame(LINK_LOCAL, "ff02::fb", UDP, udp(5353, 5353))).action == DROP
    assert net.dropped() == [132]


def test_neighbour_discovery_of_the_node_passes_to_the_pod(net: Node) -> None:
    for kind in (133, 134, 135, 136, 137):
        assert net.into(frame("fe80::1", A.ipv6, ICMP6, icmp(kind) + bytes(16), ttl=255)).action == PASS
    assert net.records() == []
    # From further away it is an ordinary message, for the policy to judge.
    assert net.into(frame(WORLD6, A.ipv6, ICMP6, icmp(136) + bytes(16), ttl=254)).action == DROP
    assert net.into(frame("fe80::1", A.ipv6, ICMP6, icmp(136) + bytes(16), ttl=255), came_in=7).action == DROP
    assert net.dropped() == [133, 133]


@pytest.mark.parametrize("source", ["::", "fe80::1"])
def test_listener_reports_of_the_node_are_no_business_of_policies(net: Node, source: str) -> None:
    """The node says who listens on its side of the veth, at first without an address: nothing of that is a drop."""
    first, payload = extensions([0], ICMP6, icmp(143))
    assert net.into(ethernet(ipv6(source, "ff02::16", first, payload, hop_limit=1), 0x86DD)).action == PASS
    assert net.records() == []
    assert net.into(frame(source, "ff02::16", ICMP6, icmp(128))).action == DROP
    assert net.dropped() == [133]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (ethernet(b"\0" * 40, 0x88CC), 139),
        (ethernet(b"\0" * 40, 0x0026), 166),
        (ethernet(b"\x55" + b"\0" * 40, 0x0800), 134),
        (ethernet(b"\x44" + b"\0" * 40, 0x0800), 134),
        (ethernet(b"\x40" + b"\0" * 50, 0x86DD), 134),
    ],
)
def test_what_is_not_a_packet_is_dropped_with_its_reason(net: Node, data: bytes, reason: int) -> None:
    net.allow_all()
    assert net.out(data).action == DROP
    assert net.into(data).action == DROP
    assert net.dropped() == [reason, reason]


@pytest.mark.parametrize(
    ("protocol", "header", "needed"),
    [(TCP, tcp(1, 2), 20), (UDP, udp(1, 2), 8), (SCTP, sctp(1, 2), 12), (ICMP, icmp(8), 8)],
)
def test_a_truncated_transport_header_is_invalid(net: Node, protocol: int, header: bytes, needed: int) -> None:
    net.allow_all()
    assert net.out(frame(A.ipv4, WORLD4, protocol, header[:needed])).action == PASS
    net.records()
    for size in (0, 4, needed - 1):
        assert net.out(frame(A.ipv4, WORLD4, protocol, header[:size])).action == DROP
    assert net.dropped() == [135, 135, 135]


@pytest.mark.parametrize("protocol", [2, 4, 41, 47, 58, 89, 112])
def test_an_unknown_transport_protocol_is_dropped_in_ipv4(net: Node, protocol: int) -> None:
    net.allow_all()
    assert net.out(frame(A.ipv4, WORLD4, protocol, bytes(40))).action == DROP
    assert net.dropped() == [137]


@pytest.mark.parametrize("protocol", [1, 2, 4, 41, 47, 89])
def test_an_unknown_transport_protocol_is_dropped_in_ipv6(net: Node, protocol: int) -> None:
    net.allow_all()
    assert net.out(frame(A.ipv6, WORLD6, protocol, bytes(40))).action == DROP
    assert net.dropped() == [137]


def test_ipv4_options_are_stepped_over(net: Node) -> None:
    net.rule(A, 1, 0, TCP, 80)
    for words in (1, 5, 10):
        data = ethernet(ipv4(A.ipv4, WORLD4, TCP, tcp(1000 + words, 80), options=b"\x01" * 4 * words), 0x0800)
        assert net.out(data).action == PASS
    assert net.out(ethernet(ipv4(A.ipv4, WORLD4, TCP, tcp(1, 81), options=b"\x01" * 8), 0x0800)).action == DROP


@pytest.mark.parametrize("headers", [[0], [60], [43], [0, 60, 43], [0, 60, 43, 60], [44], [0, 44]])
def test_ipv6_extension_headers_are_stepped_over(net: Node, headers: list[int]) -> None:
    net.rule(A, 1, 0, TCP, 80)
    first, payload = extensions(headers, TCP, tcp(1000, 80))
    assert net.out(ethernet(ipv6(A.ipv6, WORLD6, first, payload), 0x86DD)).action == PASS
    first, payload = extensions(headers, TCP, tcp(1000, 81))
    assert net.out(ethernet(ipv6(A.ipv6, WORLD6, first, payload), 0x86DD)).action == DROP
    assert net.dropped() == [133]


def test_an_authentication_header_counts_in_words(net: Node) -> None:
    net.rule(A, 1, 0, TCP, 80)
    header = struct.pack(">BBHIII", TCP, 2, 0, 1, 1, 1)
    assert net.out(ethernet(ipv6(A.ipv6, WORLD6, 51, header + tcp(1000, 80)), 0x86DD)).action == PASS


@pytest.mark.parametrize(
    "payload",
    [extensions([0, 60, 43, 60, 60], TCP, tcp(1, 80)), extensions([0], 59, b""), (59, bytes(20)), (0, b"\x06")],
    ids=["too many", "none behind one", "none", "truncated"],
)
def test_extension_headers_that_lead_nowhere_are_invalid(net: Node, payload: tuple[int, bytes]) -> None:
    net.allow_all()
    assert net.out(ethernet(ipv6(A.ipv6, WORLD6, *payload), 0x86DD)).action == DROP
    (record,) = net.records()
    assert (record["subtype"], record["file"]) == (156, 114)


def test_every_drop_is_counted_by_reason_and_direction(net: Node) -> None:
    data = frame(A.ipv4, WORLD4, TCP, tcp(1, 2, ACK))
    before = net.counted(133, 2), net.counted(133, 1)  # type: ignore[arg-type]
    net.out(data)
    net.into(frame(WORLD4, A.ipv4, TCP, tcp(1, 2, ACK)))
    after = net.counted(133, 2), net.counted(133, 1)  # type: ignore[arg-type]
    assert [new.packets - old.packets for old, new in zip(before, after, strict=True)] == [1, 1]
    assert [new.byte_count - old.byte_count for old, new in zip(before, after, strict=True)] == [54, 54]
