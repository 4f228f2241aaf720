"""Connections: states, lifetimes, replies, related errors, re-judgement, and what is traced of them."""

import time

import pytest

from datapath.gc import conntrack as gc
from datapath.maps.conntrack import CtEntry, CtFlags, CtKey
from datapath.notify.records import RecordFlags, TracePoint, TraceReason
from tests.support.kernel import DROP, EGRESS, HOST4, INGRESS, PASS, REDIRECT, WORLD4, WORLD6, A, B, Node
from tests.support.packets import (
    ACK,
    FIN,
    ICMP,
    ICMP6,
    RST,
    SYN,
    TCP,
    UDP,
    extensions,
    frame,
    icmp,
    ipv4,
    ipv6,
    packed,
    read,
    tcp,
    udp,
)

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize(("own", "peer"), [(A.ipv4, WORLD4), (A.ipv6, WORLD6)], ids=["v4", "v6"])
EVER = 1 << 30


def entry_of(net: Node, protocol: int, own: str, own_port: int, peer: str, peer_port: int) -> tuple[CtKey, CtEntry]:
    """The entry that the documented key names."""
    key = CtKey.of(A.lxc_id, protocol, (packed(own), own_port), (packed(peer), peer_port))
    return key, net.connections()[key]


def left(entry: CtEntry) -> int:
    """Seconds to live, give or take the coarse clock's second."""
    return entry.lifetime - gc.now_s()


def edit(net: Node, key: CtKey, **changes: int) -> None:
    values = net.connections()[key]._asdict() | changes
    net.write(key, CtEntry(**values))


@FAMILIES
@pytest.mark.parametrize(("own_port", "peer_port"), [(1000, 80), (80, 1000), (443, 443)])
def test_the_key_is_the_same_from_both_sides(net: Node, own: str, peer: str, own_port: int, peer_port: int) -> None:
    net.rule(A, EGRESS)
    assert net.out(frame(own, peer, TCP, tcp(own_port, peer_port))).action == PASS
    assert net.into(frame(peer, own, TCP, tcp(peer_port, own_port, SYN | ACK)), came_in=5).action == PASS
    assert len(net.connections()) == 1
    key, entry = entry_of(net, TCP, own, own_port, peer, peer_port)
    assert bool(entry.flags & CtFlags.INITIATOR_LOW) == ((key.low, key.low_port) == (packed(own), own_port))


@FAMILIES
def test_replies_pass_without_policy_and_strangers_do_not(net: Node, own: str, peer: str) -> None:
    net.rule(A, EGRESS)
    net.out(frame(own, peer, TCP, tcp(1000, 80)))
    net.records()
    assert net.into(frame(peer, own, TCP, tcp(80, 1000, SYN | ACK)), came_in=5).action == PASS
    (trace,) = net.records()
    assert (trace["type"], trace["subtype"], trace["trace_reason"]) == (4, TracePoint.TO_ENDPOINT, TraceReason.REPLY)
    assert trace["flags"] & RecordFlags.REPLY
    assert (trace["src_identity"], trace["dst_identity"]) == (2, A.identity)
    assert net.into(frame(peer, own, TCP, tcp(80, 1001, SYN | ACK)), came_in=5).action == DROP
    assert net.into(frame(peer, own, UDP, udp(80, 1000)), came_in=5).action == DROP


@FAMILIES
def test_tcp_lifetimes_follow_the_handshake_and_the_farewell(net: Node, own: str, peer: str) -> None:
    net.rule(A, EGRESS)
    steps: list[tuple[bool, int, int]] = [
        (True, SYN, 60),
        (False, SYN | ACK, 60),
        (True, ACK, 8000),
        (True, FIN | ACK, 8000),
        (False, ACK, 8000),
        (False, FIN | ACK, 10),
    ]
    for outward, flags, lifetime in steps:
        if outward:
            assert net.out(frame(own, peer, TCP, tcp(1000, 80, flags))).action == PASS
        else:
            assert net.into(frame(peer, own, TCP, tcp(80, 1000, flags)), came_in=5).action == PASS
        _, entry = entry_of(net, TCP, own, 1000, peer, 80)
        assert lifetime - 2 <= left(entry) <= lifetime + 1
    assert entry.flags & (CtFlags.CLOSING_FWD | CtFlags.CLOSING_REV) == CtFlags.CLOSING_FWD | CtFlags.CLOSING_REV


@pytest.mark.parametrize("outward", [True, False])
def test_a_reset_closes_both_ways_at_once(net: Node, *, outward: bool) -> None:
    net.rule(A, EGRESS)
    net.out(frame(A.ipv4, WORLD4, TCP, tcp(1000, 80, ACK)))
    if outward:
        net.out(frame(A.ipv4, WORLD4, TCP, tcp(1000, 80, RST)))
    else:
        net.into(frame(WORLD4, A.ipv4, TCP, tcp(80, 1000, RST)), came_in=5)
    _, entry = entry_of(net, TCP, A.ipv4, 1000, WORLD4, 80)
    assert left(entry) <= 11


def test_what_trickles_in_after_the_end_prolongs_nothing(net: Node) -> None:
    net.rule(A, EGRESS)
    net.out(frame(A.ipv4, WORLD4, TCP, tcp(1000, 80, RST)))
    key, _ = entry_of(net, TCP, A.ipv4, 1000, WORLD4, 80)
    edit(net, key, lifetime=gc.now_s() + 4)
    net.out(frame(A.ipv4, WORLD4, TCP, tcp(1000, 80, ACK)))
    assert left(net.connections()[key]) <= 5


def test_a_syn_opens_a_closing_connection_anew(net: Node) -> None:
    rule = net.rule(A, EGRESS)
    net.out(frame(A.ipv4, WORLD4, TCP, tcp(1000, 80, FIN | ACK)))
    net.maps["cplane_policy"].delete(rule.pack())
    assert net.into(frame(WORLD4, A.ipv4, TCP, tcp(80, 1000, ACK)), came_in=5).action == PASS
    net.records()
    assert net.out(frame(A.ipv4, WORLD4, TCP, tcp(1000, 80, SYN))).action == DROP
    assert net.into(frame(WORLD4, A.ipv4, TCP, tcp(80, 1000, SYN)), came_in=5).action == DROP
    net.records()
    net.rule(A, INGRESS)
    assert net.into(frame(WORLD4, A.ipv4, TCP, tcp(80, 1000, SYN)), came_in=5).action == PASS
    verdict, trace = net.records()
    assert (verdict["type"], trace["trace_reason"]) == (5, TraceReason.NEW)
    _, entry = entry_of(net, TCP, A.ipv4, 1000, WORLD4, 80)
    assert not entry.flags & (CtFlags.CLOSING_FWD | CtFlags.CLOSING_REV)


@FAMILIES
@pytest.mark.parametrize("protocol", [UDP, ICMP])
def test_others_live_a_minute_after_their_last_packet(net: Node, own: str, peer: str, protocol: int) -> None:
    net.rule(A, EGRESS)
    if protocol == UDP:
        there, back = frame(own, peer, UDP, udp(1000, 53)), frame(peer, own, UDP, udp(53, 1000))
    else:
        kind = ICMP6 if ":" in own else ICMP
        ask, answer = (128, 129) if ":" in own else (8, 0)
        there = frame(own, peer, kind, icmp(ask, ident=7))
        back = frame(peer, own, kind, icmp(answer, ident=7))
    net.out(there)
    ((key, entry),) = net.connections().items()
    assert 58 <= left(entry) <= 61
    edit(net, key, lifetime=gc.now_s() + 20)
    assert net.into(back, came_in=5).action == PASS
    assert 58 <= left(net.connections()[key]) <= 61


@FAMILIES
def test_an_expired_connection_does_not_exist(net: Node, own: str, peer: str) -> None:
    rule = net.rule(A, EGRESS)
    net.out(frame(own, peer, TCP, tcp(1000, 80)))
    net.maps["cplane_policy"].delete(rule.pack())
    key, _ = entry_of(net, TCP, own, 1000, peer, 80)
    back = frame(peer, own, TCP, tcp(80, 1000, ACK))
    assert net.into(back, came_in=5).action == PASS
    edit(net, key, lifetime=gc.now_s() - 1)
    assert net.into(back, came_in=5).action == DROP
    assert net.out(frame(own, peer, TCP, tcp(1000, 80, ACK))).action == DROP


@FAMILIES
def test_each_endpoint_has_its_own_entry(net: Node, own: str, peer: str) -> None:
    net.allow_all()
    inside = B.ipv6 if ":" in own else B.ipv4
    assert net.out(frame(own, inside, TCP, tcp(1000, 80))).action == REDIRECT
    assert {(k.lxc_id, k.protocol) for k in net.connections()} == {(A.lxc_id, TCP), (B.lxc_id, TCP)}
    assert peer


@FAMILIES
def test_a_removed_rule_cuts_a_live_connection_at_the_next_epoch(net: Node, own: str, peer: str) -> None:
    rule = net.rule(A, EGRESS, cookie=8)
    there, back = frame(own, peer, TCP, tcp(1000, 80, ACK)), frame(peer, own, TCP, tcp(80, 1000, ACK))
    net.out(there)
    net.maps["cplane_policy"].delete(rule.pack())
    assert net.out(there).action == PASS
    net.records()
    net.datapath.bump_epoch()
    assert net.out(there).action == DROP
    verdict, drop = net.records()
    assert (verdict["type"], verdict["verdict"], drop["subtype"]) == (5, -133, 133)
    # Replies still pass, and the connection goes on when it is allowed again.
    assert net.into(back, came_in=5).action == PASS
    net.rule(A, EGRESS, cookie=9)
    net.records()
    assert net.out(there).action == PASS
    assert not any(r["type"] == 5 for r in net.records())
    _, entry = entry_of(net, TCP, own, 1000, peer, 80)
    assert (entry.cookie, entry.epoch) == (9, net.datapath.numbers[1])  # type: ignore[index]


def test_a_receiver_that_changes_its_mind_cuts_too(net: Node) -> None:
    net.rule(A, INGRESS)
    there = frame(WORLD4, A.ipv4, TCP, tcp(1000, 80, ACK))
    assert net.into(there, came_in=5).action == PASS
    net.rule(A, INGRESS, 2, deny=True)
    net.datapath.bump_epoch()
    assert net.into(there, came_in=5).action == DROP
    assert net.out(frame(A.ipv4, WORLD4, TCP, tcp(80, 1000, ACK))).action == PASS


def test_a_new_epoch_finds_a_peer_that_has_become_someone_else(net: Node) -> None:
    net.rule(A, EGRESS, 2)
    there = frame(A.ipv4, WORLD4, TCP, tcp(1000, 80, ACK))
    net.out(there)
    net.prefix(f"{WORLD4}/32", 500)
    net.datapath.bump_epoch()
    assert net.out(there).action == DROP
    net.rule(A, EGRESS, 500)
    assert net.out(there).action == PASS
    assert entry_of(net, TCP, A.ipv4, 1000, WORLD4, 80)[1].peer_identity == 500


@FAMILIES
def test_an_echo_of_the_other_side_is_not_a_reply(net: Node, own: str, peer: str) -> None:
    net.rule(A, EGRESS)
    protocol, ask, answer = (ICMP6, 128, 129) if ":" in own else (ICMP, 8, 0)
    net.out(frame(own, peer, protocol, icmp(ask, ident=7)))
    assert net.into(frame(peer, own, protocol, icmp(answer, ident=7)), came_in=5).action == PASS
    assert net.into(frame(peer, own, protocol, icmp(ask, ident=7)), came_in=5).action == DROP
    assert net.into(frame(peer, own, protocol, icmp(answer, ident=8)), came_in=5).action == DROP
    assert net.into(frame(peer, own, protocol, icmp(ask, ident=ask)), came_in=5).action == DROP


def _error(outer_from: str, outer_to: str, inner: bytes, kind: int = 3, code: int = 3) -> bytes:
    v6 = ":" in outer_from
    return frame(outer_from, outer_to, ICMP6 if v6 else ICMP, icmp(kind, code) + inner)


@pytest.mark.parametrize("kind", [3, 11, 12])
@pytest.mark.parametrize("inner_protocol", [TCP, UDP, ICMP])
def test_an_error_about_a_live_connection_is_related_in_ipv4(net: Node, kind: int, inner_protocol: int) -> None:
    net.rule(A, EGRESS)
    payload = {TCP: tcp(1000, 80), UDP: udp(1000, 80), ICMP: icmp(8, ident=9)}[inner_protocol]
    router = "203.0.113.1"
    inner = ipv4(A.ipv4, WORLD4, inner_protocol, payload, options=b"\1" * 4)[: 24 + 8]
    assert net.into(_error(router, A.ipv4, inner, kind), came_in=5).action == DROP
    net.out(frame(A.ipv4, WORLD4, inner_protocol, payload))
    net.records()
    assert net.into(_error(router, A.ipv4, inner, kind), came_in=5).action == PASS
    (trace,) = net.records()
    assert (trace["trace_reason"], trace["src_identity"], trace["icmp_type"]) == (TraceReason.RELATED, 2, kind)
    assert len(net.connections()) == 1


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
@pytest.mark.parametrize("headers", [[], [60]])
def test_an_error_about_a_live_connection_is_related_in_ipv6(net: Node, kind: int, headers: list[int]) -> None:
    net.rule(A, EGRESS)
    first, payload = extensions(headers, UDP, udp(1000, 80))
    inner = ipv6(A.ipv6, WORLD6, first, payload)
    assert net.into(_error("2001:db8::1", A.ipv6, inner, kind), came_in=5).action == DROP
    net.out(frame(A.ipv6, WORLD6, UDP, udp(1000, 80)))
    assert net.into(_error("2001:db8::1", A.ipv6, inner, kind), came_in=5).action == PASS


def test_an_error_that_is_not_about_what_the_pod_sent_is_not_related(net: Node) -> None:
    net.rule(A, EGRESS)
    net.out(frame(A.ipv4, WORLD4, UDP, udp(1000, 80)))
    for inner in (
        ipv4(WORLD4, A.ipv4, UDP, udp(80, 1000)),
        ipv4(A.ipv4, WORLD4, UDP, udp(1001, 80)),
        ipv4(A.ipv4, WORLD4, UDP, udp(1000, 80), fragment=1),
        ipv4(A.ipv4, WORLD4, UDP, udp(1000, 80))[:24],
        b"",
    ):
        assert net.into(_error(WORLD4, A.ipv4, inner), came_in=5).action == DROP


def test_a_pod_may_report_on_what_it_received(net: Node) -> None:
    net.rule(A, INGRESS)
    net.into(frame(WORLD4, A.ipv4, UDP, udp(1000, 80)), came_in=5)
    inner = ipv4(WORLD4, A.ipv4, UDP, udp(1000, 80))
    assert net.out(_error(A.ipv4, WORLD4, inner)).action == PASS
    # About somebody else's packet, or to somebody else, it needs a policy like any message.
    assert net.out(_error(A.ipv4, WORLD4, ipv4(WORLD4, B.ipv4, UDP, udp(1000, 80)))).action == DROP
    assert net.out(_error(A.ipv4, HOST4, inner)).action == DROP


def test_an_error_between_two_local_pods_is_related_at_both(net: Node) -> None:
    net.rule(B, EGRESS)
    net.rule(A, INGRESS)
    net.device(B)
    assert net.out(frame(B.ipv4, A.ipv4, UDP, udp(1000, 80))).action == REDIRECT
    net.device(A)
    net.records()
    assert net.out(_error(A.ipv4, B.ipv4, ipv4(B.ipv4, A.ipv4, UDP, udp(1000, 80)))).action == REDIRECT
    (trace,) = net.records()
    assert (trace["subtype"], trace["trace_reason"]) == (TracePoint.TO_ENDPOINT, TraceReason.RELATED)


@FAMILIES
def test_traces_come_once_and_then_with_each_new_flag(net: Node, own: str, peer: str) -> None:
    net.rule(A, EGRESS)
    there = {flags: frame(own, peer, TCP, tcp(1000, 80, flags)) for flags in (SYN, ACK, FIN | ACK)}
    back = {flags: frame(peer, own, TCP, tcp(80, 1000, flags)) for flags in (SYN | ACK, ACK, FIN | ACK)}

    def traces() -> list[tuple[int, int]]:
        return [(int(r["subtype"]), int(r["trace_reason"])) for r in net.records() if r["type"] == 4]

    stack, endpoint = TracePoint.TO_STACK, TracePoint.TO_ENDPOINT
    net.out(there[SYN])
    assert traces() == [(stack, TraceReason.NEW)]
    net.into(back[SYN | ACK], came_in=5)
    assert traces() == [(endpoint, TraceReason.REPLY)]
    for _ in range(3):
        net.out(there[ACK])
        net.into(back[ACK], came_in=5)
    assert traces() == []
    net.out(there[FIN | ACK])
    net.out(there[FIN | ACK])
    assert traces() == [(stack, TraceReason.ESTABLISHED)]
    net.into(back[FIN | ACK], came_in=5)
    assert traces() == [(endpoint, TraceReason.REPLY)]


def test_a_live_connection_is_traced_every_five_seconds_each_way(net: Node) -> None:
    net.rule(A, EGRESS)
    there, back = frame(A.ipv4, WORLD4, UDP, udp(1, 2)), frame(WORLD4, A.ipv4, UDP, udp(2, 1))
    net.out(there)
    net.into(back, came_in=5)
    ((key, entry),) = net.connections().items()
    for field, data in (("reported_fwd", there), ("reported_rev", back)):
        net.records()
        send = net.out if data is there else lambda d: net.into(d, came_in=5)
        send(data)
        assert net.records() == []
        edit(net, key, **{field: entry.reported_fwd - 6})
        send(data)
        (trace,) = net.records()
        assert trace["type"] == 4


def test_the_sweep_removes_what_expired_and_nothing_else(net: Node) -> None:
    net.rule(A, EGRESS)
    for port in range(1, 301):
        net.out(frame(A.ipv4, WORLD4, UDP, udp(port, 53)))
    now = gc.now_s()
    dead = sorted(net.connections(), key=lambda key: key.low_port + key.high_port)[:100]
    for key in dead:
        edit(net, key, lifetime=now - gc.GRACE_S - 1)
    swept = gc.sweep(net.maps["cplane_ct4"], now)
    assert (swept.seen, swept.deleted) == (300, 100)
    assert not set(dead) & net.connections().keys()
    assert len(net.connections()) == 200
    assert gc.sweep(net.maps["cplane_ct6"], now) == (0, 0)


@FAMILIES
def test_an_endpoint_that_is_gone_leaves_no_connection_to_its_successor(net: Node, own: str, peer: str) -> None:
    net.allow_all()
    inside = B.ipv6 if ":" in own else B.ipv4
    name = "cplane_ct6" if ":" in own else "cplane_ct4"
    net.out(frame(own, peer, UDP, udp(1, 2)))
    net.out(frame(own, inside, UDP, udp(3, 4)))
    assert gc.forget(net.maps[name], {A.lxc_id, 9999}) == 2
    assert [key.lxc_id for key in net.connections()] == [B.lxc_id]
    assert gc.forget(net.maps[name], {A.lxc_id}) == 0


def test_the_programs_clock_is_ours(net: Node) -> None:
    net.rule(A, EGRESS)
    net.out(frame(A.ipv4, WORLD4, UDP, udp(1, 2)))
    (entry,) = net.connections().values()
    assert (int(time.clock_gettime(time.CLOCK_MONOTONIC)) - entry.reported_fwd) % (1 << 16) < 2


def test_a_full_map_evicts_old_connections_and_keeps_working(net: Node) -> None:
    net.rule(A, EGRESS)
    for port in range(1, 3001):
        assert net.out(frame(A.ipv4, WORLD4, UDP, udp(port, 53))).action == PASS
    assert 512 <= len(net.connections()) <= 1024


@pytest.mark.parametrize(("own", "inside"), [(A.ipv4, B.ipv4), (A.ipv6, B.ipv6)])
def test_delivery_to_a_local_pod_rewrites_what_a_router_would(net: Node, own: str, inside: str) -> None:
    net.allow_all()
    outcome = net.out(frame(own, inside, TCP, tcp(1000, 80), ttl=64))
    assert outcome.action == REDIRECT
    assert read(outcome.packet) == (B.mac, B.node_mac, 63, True)
    for ttl in range(2, 256):
        assert read(net.out(frame(own, inside, TCP, tcp(1000, 80), ttl=ttl)).packet)[2:] == (ttl - 1, True)


@pytest.mark.parametrize(("own", "inside"), [(A.ipv4, B.ipv4), (A.ipv6, B.ipv6)])
def test_a_packet_out_of_hops_is_dropped(net: Node, own: str, inside: str) -> None:
    net.allow_all()
    for ttl in (0, 1):
        assert net.out(frame(own, inside, TCP, tcp(1000, 80), ttl=ttl)).action == DROP
    assert net.dropped() == [196, 196]


def test_a_packet_for_the_stack_is_left_as_it_is(net: Node) -> None:
    net.allow_all()
    data = frame(A.ipv4, WORLD4, TCP, tcp(1000, 80), ttl=1)
    assert net.out(data)[:2] == (PASS, data)
