"""Which entry decides, what it says, and what is written about it."""

import random

import numpy as np
import pytest

from datapath.maps.conntrack import CtFlags
from datapath.maps.metrics import MetricsDirection, MetricsKey, MetricsValue
from datapath.maps.policy import PolicyEntry, PolicyKey
from datapath.maps.state import MonitorFlags
from datapath.notify.records import RecordFlags, RecordType, TracePoint
from tests.support.kernel import (
    DROP,
    EGRESS,
    HOST,
    HOST4,
    HOST6,
    INGRESS,
    PASS,
    REDIRECT,
    WORLD,
    WORLD4,
    WORLD6,
    A,
    B,
    Node,
)
from tests.support.packets import (
    ACK,
    ICMP,
    ICMP6,
    SCTP,
    SYN,
    TCP,
    UDP,
    ethernet,
    frame,
    icmp,
    ipv4,
    ipv6,
    packed,
    sctp,
    tcp,
    udp,
)

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize(("own", "peer"), [(A.ipv4, WORLD4), (A.ipv6, WORLD6)], ids=["v4", "v6"])


def verdicts(net: Node) -> list[np.void]:
    return [r for r in net.records() if r["type"] == RecordType.POLICY_VERDICT]


@FAMILIES
def test_without_an_entry_nothing_passes(net: Node, own: str, peer: str) -> None:
    assert net.out(frame(own, peer, TCP, tcp(1000, 80))).action == DROP
    verdict, drop = net.records()
    assert (verdict["type"], verdict["verdict"], verdict["match_type"], verdict["cookie"]) == (5, -133, 0, 0)
    assert (drop["type"], drop["subtype"], drop["file"]) == (1, 133, 2)
    assert verdict["flags"] & RecordFlags.EGRESS
    assert verdict["position"] == drop["position"] == 42
    assert (verdict["src_identity"], verdict["dst_identity"]) == (A.identity, WORLD)


@FAMILIES
@pytest.mark.parametrize(
    ("identity", "protocol", "port", "match"),
    [(0, 0, 0, 4), (0, 6, 0, 6), (0, 6, 80, 3), (WORLD, 0, 0, 1), (WORLD, 6, 0, 5), (WORLD, 6, 80, 2)],
)
def test_the_verdict_says_which_kind_of_entry_matched(
    net: Node, own: str, peer: str, identity: int, protocol: int, port: int, match: int
) -> None:
    net.rule(A, EGRESS, identity, protocol, port, cookie=77)
    assert net.out(frame(own, peer, TCP, tcp(1000, 80))).action == PASS
    verdict, trace = net.records()
    assert (verdict["type"], verdict["verdict"], verdict["match_type"], verdict["cookie"]) == (5, 0, match, 77)
    assert (trace["type"], trace["subtype"], trace["cookie"]) == (4, TracePoint.TO_STACK, 77)


@pytest.mark.parametrize(
    ("own", "peer", "protocol", "payload", "port"),
    [
        (A.ipv4, WORLD4, TCP, tcp(9, 80), 80),
        (A.ipv4, WORLD4, UDP, udp(9, 53), 53),
        (A.ipv4, WORLD4, SCTP, sctp(9, 99), 99),
        (A.ipv4, WORLD4, ICMP, icmp(8), 8),
        (A.ipv6, WORLD6, UDP, udp(9, 53), 53),
        (A.ipv6, WORLD6, SCTP, sctp(9, 99), 99),
        (A.ipv6, WORLD6, ICMP6, icmp(128), 128),
    ],
)
def test_every_protocol_has_its_port_and_icmp_its_type(
    net: Node, own: str, peer: str, protocol: int, payload: bytes, port: int
) -> None:
    net.rule(A, EGRESS, 0, protocol, port + 1)
    assert net.out(frame(own, peer, protocol, payload)).action == DROP
    net.rule(A, EGRESS, 0, protocol, port)
    assert net.out(frame(own, peer, protocol, payload)).action == PASS
    assert [int(r["verdict"]) for r in verdicts(net)] == [-133, 0]


def test_the_record_of_an_echo_has_type_and_code_and_no_ports(net: Node) -> None:
    net.allow_all()
    net.out(frame(A.ipv4, WORLD4, ICMP, icmp(8, 3, ident=500)))
    verdict, _ = net.records()
    assert (verdict["icmp_type"], verdict["icmp_code"], verdict["sport"], verdict["dport"]) == (8, 3, 0, 0)


def test_the_record_of_a_segment_is_complete(net: Node) -> None:
    net.allow_all()
    data = frame(A.ipv6, WORLD6, TCP, tcp(1000, 443))
    net.out(data)
    verdict, trace = net.records()
    for record in (verdict, trace):
        assert record["time_ns"] > 0
        assert record["protocol"] == TCP
        assert record["tcp_flags"] == SYN
        assert bytes(record["saddr"]) == packed(A.ipv6)
        assert bytes(record["daddr"]) == packed(WORLD6)
        assert (record["sport"], record["dport"]) == (1000, 443)
        assert (record["src_lxc"], record["dst_lxc"]) == (A.lxc_id, 0)
        assert (record["ifindex"], record["length"]) == (1, len(data))
        assert bytes(record["dmac"]) + bytes(record["smac"]) == data[:12]
        assert RecordFlags(int(record["flags"])) == RecordFlags.IPV6 | RecordFlags.EGRESS | RecordFlags.REPLY_KNOWN
        assert not any(int(record[name]) for name in ("hash", "arg1", "arg2", "arg3", "cpu", "source", "pad"))


@FAMILIES
def test_a_deny_entry_wins_and_says_so(net: Node, own: str, peer: str) -> None:
    net.rule(A, EGRESS, WORLD, 6, 80, precedence=1)
    net.rule(A, EGRESS, 0, deny=True, cookie=5)
    assert net.out(frame(own, peer, TCP, tcp(1000, 80))).action == DROP
    verdict, drop = net.records()
    assert (verdict["verdict"], verdict["match_type"], verdict["cookie"]) == (-181, 4, 5)
    assert (drop["subtype"], drop["cookie"]) == (181, 5)


@pytest.mark.parametrize(
    ("named", "anyone", "decides"),
    [
        ((24, 5), (0, 9), "anyone"),
        ((0, 9), (24, 5), "named"),
        ((0, 5), (24, 5), "anyone"),
        ((24, 5), (8, 5), "named"),
        ((24, 5), (24, 5), "named"),
        ((0, 5), (0, 5), "named"),
        ((0, 0xFFFFFFFF), (24, 0xFFFFFFFF), "named"),
    ],
    ids=[
        "higher precedence of the broad entry",
        "higher precedence of the named peer",
        "longer prefix at equal precedence",
        "longer prefix of the named peer",
        "the named peer when all is equal",
        "the named peer on wildcards",
        "the named peer alone at the highest precedence",
    ],
)
def test_precedence_then_length_then_the_peer(
    net: Node, named: tuple[int, int], anyone: tuple[int, int], decides: str
) -> None:
    for identity, (bits, precedence), deny in ((WORLD, named, decides == "anyone"), (0, anyone, decides == "named")):
        port = 80 if bits == 24 else 0
        net.rule(A, EGRESS, identity, 6 if bits else 0, port, bits=bits, deny=deny, precedence=precedence)
    assert net.out(frame(A.ipv4, WORLD4, TCP, tcp(1000, 80))).action == PASS


def test_a_masked_port_range_matches_its_ports_only(net: Node) -> None:
    net.rule(A, EGRESS, WORLD, 6, 0x1F90, bits=8 + 13)  # 8080..8087
    passed = [p for p in (8079, 8080, 8087, 8088) if net.out(frame(A.ipv4, WORLD4, TCP, tcp(p, p))).action == PASS]
    assert passed == [8080, 8087]


@FAMILIES
@pytest.mark.parametrize("direction", [EGRESS, INGRESS])
@pytest.mark.parametrize(
    ("proxy_port", "auth_type", "deny", "reason"),
    [
        (0, 1, False, 189),
        (0, 2, False, 189),
        (1, 1, False, 189),
        (1, 1, True, 181),
    ],
)
def test_what_cannot_be_served_yet_is_dropped(
    net: Node, own: str, peer: str, direction: int, proxy_port: int, auth_type: int, deny: bool, reason: int
) -> None:
    net.rule(A, direction, WORLD, TCP, 80, proxy_port=proxy_port, auth_type=auth_type, deny=deny, cookie=8)
    assert net.one_way(direction, own, peer, tcp(1000, 80)).action == DROP
    verdict, drop = net.records()
    assert (verdict["type"], verdict["verdict"], verdict["match_type"], verdict["cookie"]) == (5, -reason, 2, 8)
    assert (drop["type"], drop["subtype"], drop["cookie"]) == (1, reason, 8)
    assert net.connections() == {}


@FAMILIES
@pytest.mark.parametrize("direction", [EGRESS, INGRESS])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_what_a_proxy_is_to_have_is_dropped_where_none_listens(
    net: Node, own: str, peer: str, direction: int, protocol: int
) -> None:
    net.rule(A, direction, WORLD, protocol, 80, proxy_port=15_000, cookie=8)
    payload = tcp(1000, 80) if protocol == TCP else udp(1000, 80)
    assert net.one_way(direction, own, peer, payload, protocol).action == DROP
    verdict, drop = net.records()
    assert (verdict["type"], verdict["verdict"], verdict["match_type"], verdict["cookie"]) == (5, 15_000, 2, 8)
    assert (drop["type"], drop["subtype"], drop["cookie"]) == (1, 178, 8)
    (entry,) = net.connections().values()
    assert (entry.proxy_port, bool(entry.flags & CtFlags.PROXIED)) == (15_000, True)


@FAMILIES
def test_a_fragment_and_what_has_no_socket_go_to_no_proxy(net: Node, own: str, peer: str) -> None:
    net.rule(A, EGRESS, WORLD, proxy_port=15_000)
    assert net.out(frame(own, peer, SCTP, sctp(1000, 80))).action == DROP
    assert net.dropped() == [180]


@FAMILIES
def test_a_live_connection_that_now_needs_more_than_is_there_is_cut(net: Node, own: str, peer: str) -> None:
    net.rule(A, EGRESS, 0, TCP, 80)
    assert net.out(frame(own, peer, TCP, tcp(1000, 80))).action == PASS
    net.records()
    net.rule(A, EGRESS, 0, TCP, 80, auth_type=2)
    net.datapath.bump_epoch()
    assert net.out(frame(own, peer, TCP, tcp(1000, 80, ACK))).action == DROP
    assert [(r["type"], r["verdict"]) for r in net.records()] == [(5, -189), (1, -189)]


@FAMILIES
def test_a_live_connection_that_a_proxy_is_to_have_now_does_not_go_on_past_it(net: Node, own: str, peer: str) -> None:
    net.rule(A, EGRESS, 0, TCP, 80)
    assert net.out(frame(own, peer, TCP, tcp(1000, 80))).action == PASS
    net.records()
    net.rule(A, EGRESS, 0, TCP, 80, proxy_port=15_000)
    net.datapath.bump_epoch()
    for _ in range(2):
        assert net.out(frame(own, peer, TCP, tcp(1000, 80, ACK))).action == DROP
    assert net.dropped() == [178, 178]
    (entry,) = net.connections().values()
    assert (entry.proxy_port, bool(entry.flags & CtFlags.PROXIED)) == (15_000, True)


def test_a_redirect_wins_over_an_allow_and_loses_to_a_deny(net: Node) -> None:
    net.rule(A, EGRESS, WORLD, TCP, 80, precedence=0xFFFFFF01)
    net.rule(A, EGRESS, 0, TCP, precedence=0xFFFFFF9A, proxy_port=1)
    assert net.out(frame(A.ipv4, WORLD4, TCP, tcp(1, 80))).action == DROP
    assert net.dropped() == [178]
    net.rule(A, EGRESS, WORLD, deny=True)
    net.maps["cplane_policy"].delete(PolicyKey(A.identity, WORLD, EGRESS, TCP, 80, 24).pack())
    assert net.out(frame(A.ipv4, WORLD4, TCP, tcp(2, 80))).action == DROP
    assert net.dropped() == [181]


def test_fragmentation_needed_passes_every_policy(net: Node) -> None:
    net.rule(A, INGRESS, 0, deny=True)
    assert net.into(frame(WORLD4, A.ipv4, ICMP, icmp(3, 4)), came_in=5).action == PASS
    (trace,) = net.records()
    assert (trace["type"], trace["trace_reason"], trace["flags"]) == (4, 5, 0)
    assert net.connections() == {}
    assert net.into(frame(WORLD4, A.ipv4, ICMP, icmp(3, 3)), came_in=5).action == DROP
    assert net.into(frame(WORLD6, A.ipv6, ICMP6, icmp(2)), came_in=5).action == DROP


@pytest.mark.parametrize("v6", [False, True])
def test_a_later_fragment_passes_by_what_allows_all_ports(net: Node, *, v6: bool) -> None:
    if v6:
        data = ethernet(ipv6(A.ipv6, WORLD6, 44, bytes([TCP, 0, 0x05, 0xC8, 0, 0, 0, 1]) + b"\0" * 8), 0x86DD)
    else:
        data = ethernet(ipv4(A.ipv4, WORLD4, TCP, b"\0" * 8, fragment=185), 0x0800)
    net.rule(A, EGRESS, 0, TCP, 80)
    net.rule(A, EGRESS, 0, UDP)
    assert net.out(data).action == DROP
    assert net.dropped() == [157]
    key = net.rule(A, EGRESS, WORLD)
    assert net.out(data).action == PASS
    assert net.records() == []
    assert net.connections() == {}
    net.maps["cplane_policy"].delete(key.pack())
    net.rule(A, EGRESS, 0, TCP, deny=True)
    assert net.out(data).action == DROP
    assert net.dropped() == [181]


@pytest.mark.parametrize("more", [True, False])
def test_a_first_fragment_has_its_ports(net: Node, *, more: bool) -> None:
    net.rule(A, EGRESS, 0, TCP, 80)
    assert net.out(ethernet(ipv4(A.ipv4, WORLD4, TCP, tcp(1, 80), more=more), 0x0800)).action == PASS
    assert net.out(ethernet(ipv4(A.ipv4, WORLD4, TCP, tcp(1, 81), more=more), 0x0800)).action == DROP


@pytest.mark.parametrize(("own", "peer"), [(A.ipv4, HOST4), (A.ipv6, HOST6)])
def test_the_host_is_a_peer_like_others_on_the_way_out(net: Node, own: str, peer: str) -> None:
    assert net.out(frame(own, peer, TCP, tcp(1, 2))).action == DROP
    net.records()
    net.rule(A, EGRESS, HOST)
    assert net.out(frame(own, peer, TCP, tcp(1, 2))).action == PASS
    verdict, trace = net.records()
    assert (verdict["dst_identity"], trace["subtype"]) == (HOST, TracePoint.TO_HOST)


@pytest.mark.parametrize(("own", "peer"), [(A.ipv4, HOST4), (A.ipv6, HOST6)])
def test_only_what_was_made_on_the_node_comes_from_the_host(net: Node, own: str, peer: str) -> None:
    net.rule(A, INGRESS, HOST)
    assert net.into(frame(peer, own, TCP, tcp(1, 2))).action == PASS
    verdict, trace = net.records()
    assert (verdict["src_identity"], verdict["match_type"]) == (HOST, 1)
    assert (trace["subtype"], trace["dst_lxc"]) == (TracePoint.TO_ENDPOINT, A.lxc_id)
    assert net.into(frame(peer, own, TCP, tcp(3, 4)), came_in=5).action == DROP
    verdict, _ = net.records()
    assert verdict["src_identity"] == WORLD


def test_a_forwarded_packet_with_a_host_address_is_of_its_familys_world(net: Node) -> None:
    net.prefix("0.0.0.0/0", 9)
    net.prefix("::/0", 10)
    net.into(frame(HOST4, A.ipv4, TCP, tcp(3, 4)), came_in=5)
    net.into(frame(HOST6, A.ipv6, TCP, tcp(3, 4)), came_in=5)
    assert [int(r["src_identity"]) for r in verdicts(net)] == [9, 10]


def test_an_address_of_a_local_pod_comes_by_that_pods_device_only(net: Node) -> None:
    net.rule(A, INGRESS, B.identity)
    assert net.into(frame(B.ipv4, A.ipv4, TCP, tcp(1, 2)), came_in=B.device).action == PASS
    net.records()
    assert net.into(frame(B.ipv4, A.ipv4, TCP, tcp(3, 4)), came_in=5).action == DROP
    assert net.dropped() == [132]


@pytest.mark.parametrize(
    ("prefixes", "identity"),
    [
        ({"192.0.2.0/24": 1 << 24 | 5}, 1 << 24 | 5),
        ({"192.0.2.0/24": 1 << 24 | 5, "192.0.2.7/32": 400}, 400),
        ({"192.0.2.0/25": 7, "192.0.2.128/25": 8}, 7),
    ],
)
def test_the_longest_prefix_names_the_peer(net: Node, prefixes: dict[str, int], identity: int) -> None:
    for prefix, number in prefixes.items():
        net.prefix(prefix, number)
    net.rule(A, EGRESS, identity)
    assert net.out(frame(A.ipv4, WORLD4, TCP, tcp(1, 2))).action == PASS
    (verdict,) = verdicts(net)
    assert verdict["dst_identity"] == identity


def test_an_empty_ipcache_means_the_world(net: Node) -> None:
    table = net.maps["cplane_ipcache"]
    table.delete_batch(list(table.dump()))
    net.rule(A, EGRESS, WORLD)
    assert net.out(frame(A.ipv4, WORLD4, TCP, tcp(1, 2))).action == PASS


def test_both_pods_must_agree_and_each_says_so(net: Node) -> None:
    data = frame(A.ipv4, B.ipv4, TCP, tcp(1000, 80))
    assert net.out(data).action == DROP
    egress, drop = net.records()
    assert (egress["flags"] & RecordFlags.EGRESS, drop["flags"] & RecordFlags.EGRESS) == (2, 2)
    net.rule(A, EGRESS, B.identity, TCP, 80, cookie=1)
    assert net.out(data).action == DROP
    egress, ingress, drop = net.records()
    assert (egress["verdict"], egress["cookie"], ingress["verdict"], drop["subtype"]) == (0, 1, -133, 133)
    assert not drop["flags"] & RecordFlags.EGRESS
    assert (ingress["src_lxc"], ingress["dst_lxc"]) == (A.lxc_id, B.lxc_id)
    net.rule(B, INGRESS, A.identity, TCP, 80, cookie=2)
    assert net.out(data).action == REDIRECT
    ingress, trace = net.records()
    assert (ingress["verdict"], ingress["cookie"], ingress["src_identity"]) == (0, 2, A.identity)
    assert (trace["type"], trace["subtype"], trace["cookie"]) == (4, TracePoint.TO_ENDPOINT, 2)


@pytest.mark.parametrize(
    ("flags", "types"),
    [(MonitorFlags(0), []), (MonitorFlags.VERDICT, [5]), (MonitorFlags.TRACE, [4]), (MonitorFlags.DROP, [])],
)
def test_the_monitor_switch_chooses_what_is_written(net: Node, flags: MonitorFlags, types: list[int]) -> None:
    net.allow_all()
    net.datapath.set_monitor(flags)
    assert net.out(frame(A.ipv4, WORLD4, TCP, tcp(1, 2))).action == PASS
    assert [int(r["type"]) for r in net.records()] == types
    net.out(frame(B.ipv4, WORLD4, TCP, tcp(1, 2)))
    assert len(net.dropped()) == bool(flags & MonitorFlags.DROP)


def _oracle(table: dict[PolicyKey, PolicyEntry], identity: int, protocol: int, port: int) -> tuple[int, int]:
    """The documented rule, read literally over all entries: (0 or minus the reason, cookie)."""

    def covers(key: PolicyKey) -> bool:
        if key.l4_bits >= 8 and key.protocol != protocol:
            return False
        port_bits = max(key.l4_bits - 8, 0)
        return port >> (16 - port_bits) == key.port >> (16 - port_bits)

    def longest(peer: int) -> tuple[PolicyKey, PolicyEntry] | None:
        found = [(k, e) for k, e in table.items() if k.identity == peer and covers(k)]
        return max(found, key=lambda pair: pair[0].l4_bits, default=None)

    peer = longest(identity)
    if peer is not None and peer[1].precedence == 0xFFFFFFFF:  # nothing can win against it
        return (-181 if peer[1].deny else 0), peer[1].cookie
    candidates = [(e.precedence, e.l4_bits, k.identity != 0, e) for k, e in filter(None, (peer, longest(0)))]
    if not candidates:
        return -133, 0
    *_, entry = max(candidates, key=lambda c: c[:3])
    return (-181 if entry.deny else 0), entry.cookie


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_random_tables_agree_with_the_rule_read_literally(net: Node, seed: int) -> None:
    chance = random.Random(seed)
    peers = {f"198.51.100.{i}": 1000 + i for i in range(4)}
    for address, number in peers.items():
        net.prefix(f"{address}/32", number)
    table: dict[PolicyKey, PolicyEntry] = {}
    for cookie in range(1, chance.randrange(4, 60)):
        bits = chance.choice([0, 8, 24, *range(9, 24)])
        port = chance.randrange(0, 1 << 16) & ~((1 << (24 - max(bits, 8))) - 1)
        protocol = chance.choice([TCP, UDP]) if bits else 0
        key = PolicyKey(
            A.identity, chance.choice([0, *peers.values()]), EGRESS, protocol, port if bits > 8 else 0, bits
        )
        table[key] = PolicyEntry(chance.random() < 0.3, chance.choice([1, 2, 3, 0xFFFFFFFF]), bits, cookie)
    for key, entry in table.items():
        net.entry(key, entry)
    known_ports = [key.port for key in table if key.l4_bits > 8] or [1]
    for number in range(200):
        address = chance.choice(list(peers))
        protocol = chance.choice([TCP, UDP])
        port = chance.choice([chance.randrange(1, 1 << 16), chance.choice(known_ports) | chance.randrange(4)])
        payload = tcp(10_000 + number, port) if protocol == TCP else udp(10_000 + number, port)
        outcome = net.out(frame(A.ipv4, address, protocol, payload))
        (verdict,) = verdicts(net)
        expected, cookie = _oracle(table, peers[address], protocol, port)
        assert (int(verdict["verdict"]), int(verdict["cookie"])) == (expected, cookie), (address, protocol, port)
        assert outcome.action == (DROP if expected else PASS)


def test_an_established_packet_without_an_entry_is_judged_like_a_first_one(net: Node) -> None:
    net.rule(A, EGRESS, 0, TCP, 80)
    assert net.out(frame(A.ipv4, WORLD4, TCP, tcp(1, 80, ACK))).action == PASS
    assert net.out(frame(A.ipv4, WORLD4, TCP, tcp(1, 81, ACK))).action == DROP


def test_what_becomes_of_packets_is_counted_with_their_bytes(net: Node) -> None:
    before = net.datapath.traffic()
    net.out(frame(A.ipv4, WORLD4, TCP, tcp(1000, 80)))
    net.out(frame(A.ipv4, WORLD4, TCP, tcp(1001, 80)))
    after = net.datapath.traffic()
    denied = MetricsKey(133, MetricsDirection.EGRESS)
    known = before.get(denied, MetricsValue(0, 0))
    assert after[denied].packets - known.packets == 2
    assert after[denied].byte_count - known.byte_count >= 2 * 40
    assert {key: value for key, value in after.items() if key != denied} == {
        key: value for key, value in before.items() if key != denied
    }
