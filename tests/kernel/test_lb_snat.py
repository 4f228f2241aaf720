"""Services for clients outside whose backends are on other nodes: requests leave as the node's own, answers as the
service's, at tcx and at XDP alike.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from datapath.gc import conntrack as clock
from datapath.maps import lb
from datapath.maps.lb import FlowFlags, FlowKey, LbFlags, LbKind, NetdevFlags
from tests.support.headers import Headers, sealed, unsummed
from tests.support.lb_tables import Backend
from tests.support.outside import (
    CLIENT_MAC,
    ETH0_MAC,
    ETH1_MAC,
    FAMILIES,
    FAR_MAC,
    OUTSIDE,
    ROUTER_MAC,
    V4,
    V6,
    Family,
    Outside,
    Went,
    outside,
    sent,
)
from tests.support.packets import (
    ACK,
    FIN,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    ethernet,
    extensions,
    icmp,
    ipv4,
    ipv6,
    packed,
    sctp,
    tcp,
    udp,
)

pytestmark = pytest.mark.root

families = pytest.mark.parametrize("family", FAMILIES, ids=repr)
ways = pytest.mark.parametrize("xdp", [False, True], ids=["tcx", "xdp"])
PORT, BACKEND_PORT = 80, 8080


@pytest.fixture(scope="module")
def shared(cache: Path) -> Iterator[Outside]:
    with outside("snat", cache) as made:
        yield made


@pytest.fixture
def net(shared: Outside) -> Outside:
    """No services, nothing remembered."""
    shared.reset()
    return shared


def behind(family: Family, *numbers: int) -> tuple[Backend, ...]:
    """Backends of another node, behind the device that clients come by."""
    return tuple(Backend(number, f"{family.near}{number}", BACKEND_PORT) for number in numbers)


def request(family: Family, sport: int = 40000, flags: int = SYN, *, client: str = "", to: str = "") -> bytes:
    return sent(client or family.client, to or family.vip, TCP, tcp(sport, PORT, flags, b"hello"))


def answer(went: Went, flags: int = SYN | ACK) -> bytes:
    """What the backend answers to a request that has reached it."""
    seen = went.headers
    payload = tcp(seen.dport, seen.sport, flags, b"hi") if seen.protocol == TCP else udp(seen.dport, seen.sport, b"hi")
    return sent(seen.to, seen.source, seen.protocol, payload)


@families
@ways
def test_a_request_leaves_as_the_nodes_own(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, behind(family, 5))
    went = net.arrives(request(family), xdp=xdp)
    assert (went.action, went.took) == ("forward", "xdp_netdev" if xdp else "from_netdev")
    assert went.headers.ends == (family.node, 40000, f"{family.near}5", BACKEND_PORT)
    assert went.headers.sums_hold
    assert went.headers.ttl == 63
    assert went.headers.body[20:] == b"hello"
    assert went.frame[:12] == ROUTER_MAC + ETH0_MAC


@families
def test_xdp_sends_nothing_by_a_device_that_would_lose_it(net: Outside, family: Family) -> None:
    net.netdev(net.eth0, V4.node, V6.node, NetdevFlags.MUTE)
    net.service(1, family.vip, PORT, behind(family, 5))
    went = net.arrives(request(family), xdp=True)
    assert (went.action, went.took) == ("forward", "from_netdev")
    assert net.arrives(answer(went), xdp=True).took == "from_netdev"


@families
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_what_is_to_be_summed_yet_is_left_to_the_stack(net: Outside, family: Family, protocol: int) -> None:
    """A sender on the same machine leaves that to whoever receives the packet; sent on by XDP it would stay undone."""
    net.service(1, family.vip, PORT, behind(family, 5), protocol=protocol)
    segments = [tcp(40000, PORT, SYN), tcp(40000, PORT, ACK, b"hello")]
    for segment in segments if protocol == TCP else [udp(40000, PORT, b""), udp(40000, PORT, b"hello")]:
        asked = sent(family.client, family.vip, protocol, segment)
        assert net.arrives(unsummed(asked), xdp=True).took == "from_netdev"
        went = net.arrives(asked, xdp=True)
        assert went.took == "xdp_netdev"
        assert net.arrives(unsummed(answer(went)), xdp=True).took == "from_netdev"
        assert net.arrives(answer(went), xdp=True).took == "xdp_netdev"


@ways
@pytest.mark.parametrize("check", [0, 0xD00D])
def test_so_is_sctp_that_has_no_checksum_at_all(net: Outside, xdp: bool, check: int) -> None:
    (backend,) = behind(V4, 5)
    net.service(1, V4.vip, PORT, (backend._replace(port=PORT),), protocol=SCTP, flags=OUTSIDE | LbFlags.DSR)
    segment = sctp(40000, PORT)[:8] + struct.pack(">I", check)
    went = net.arrives(sent(V4.client, V4.vip, SCTP, segment), xdp=xdp)
    assert (went.action, went.took) == ("forward", "xdp_netdev" if xdp and check else "from_netdev")


@families
@ways
def test_an_answer_leaves_as_the_services(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, behind(family, 5))
    came = net.arrives(answer(net.arrives(request(family), xdp=xdp)), xdp=xdp)
    assert (came.action, came.took) == ("forward", "xdp_netdev" if xdp else "from_netdev")
    assert came.headers.ends == (family.vip, PORT, family.client, 40000)
    assert came.headers.sums_hold
    assert came.headers.ttl == 63
    assert came.frame[:12] == CLIENT_MAC + ETH0_MAC


@families
@ways
@pytest.mark.parametrize("summed", [True, False], ids=["sum", "no-sum"])
def test_datagrams_go_the_same_way(net: Outside, family: Family, xdp: bool, summed: bool) -> None:
    net.service(1, family.vip, 53, behind(family, 5), protocol=UDP)
    data = sent(family.client, family.vip, UDP, udp(40000, 53, b"question"))
    if not summed:
        at = len(data) - len(b"question") - 2
        data = data[:at] + b"\0\0" + data[at + 2 :]
    went = net.arrives(data, xdp=xdp)
    assert went.headers.ends == (family.node, 40000, f"{family.near}5", BACKEND_PORT)
    assert went.headers.sums_hold
    assert (went.headers.body[6:8] == b"\0\0") is not summed
    came = net.arrives(answer(went), xdp=xdp)
    assert came.headers.ends == (family.vip, 53, family.client, 40000)
    assert came.headers.sums_hold


@families
def test_a_known_connection_stays_with_its_backend(net: Outside, family: Family) -> None:
    net.service(1, family.vip, PORT, behind(family, *range(2, 50)))
    first = net.arrives(request(family)).headers.ends
    for xdp in (False, True) * 20:
        assert net.arrives(request(family, flags=ACK), xdp=xdp).headers.ends == first
    assert len(net.flows()) == 2


@families
@ways
def test_new_connections_go_to_all_backends(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, behind(family, 2, 3, 4))
    seen = {net.arrives(request(family, sport), xdp=xdp).headers.to for sport in range(40000, 40100)}
    assert seen == {f"{family.near}{number}" for number in (2, 3, 4)}


@families
@ways
def test_a_port_below_those_of_nat_is_replaced(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, behind(family, 5))
    went = net.arrives(request(family, 1234), xdp=xdp)
    assert went.headers.sport >= 32768
    assert went.headers.sums_hold
    again = net.arrives(request(family, 1234, ACK), xdp=xdp)
    assert again.headers.ends == went.headers.ends
    assert net.arrives(answer(went), xdp=xdp).headers.ends == (family.vip, PORT, family.client, 1234)


@families
@ways
def test_two_clients_with_one_port_have_two(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, behind(family, 5))
    first = net.arrives(request(family), xdp=xdp)
    second = net.arrives(request(family, client=family.other_client), xdp=xdp)
    assert first.headers.sport == 40000 != second.headers.sport >= 32768
    for went, client in ((first, family.client), (second, family.other_client)):
        assert net.arrives(answer(went), xdp=xdp).headers.ends == (family.vip, PORT, client, 40000)


@families
@ways
def test_a_port_whose_connection_has_run_out_is_free(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, behind(family, 5))
    net.arrives(request(family), xdp=xdp)
    for key, flow in net.flows().items():
        net.set_flow(key, flow._replace(lifetime=clock.now_s() - 1))
    second = net.arrives(request(family, client=family.other_client), xdp=xdp)
    assert second.headers.sport == 40000
    assert net.arrives(answer(second), xdp=xdp).headers.to == family.other_client


@families
@ways
def test_the_devices_address_is_that_of_the_one_it_leaves_by(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, (Backend(5, f"{family.far}5", BACKEND_PORT),))
    went = net.arrives(request(family), xdp=xdp)
    assert went.headers.source == family.far_node
    assert went.frame[:12] == FAR_MAC + ETH1_MAC
    assert went.took == "from_netdev", "no XDP program hands frames to a device that does not take them"
    back = net.arrives(answer(went)[:6].replace(ETH0_MAC, ETH1_MAC) + answer(went)[6:], xdp=xdp, ifindex=net.eth1)
    assert back.headers.ends == (family.vip, PORT, family.client, 40000)


@families
def test_xdp_hands_frames_to_a_device_that_takes_them(net: Outside, family: Family) -> None:
    net.netdev(net.eth1, V4.far_node, V6.far_node, NetdevFlags.REDIRECT)
    net.service(1, family.vip, PORT, (Backend(5, f"{family.far}5", BACKEND_PORT),))
    went = net.arrives(request(family), xdp=True)
    assert (went.action, went.took) == ("forward", "xdp_netdev")
    assert went.frame[:12] == FAR_MAC + ETH1_MAC


@families
@ways
def test_a_neighbour_that_is_not_known_yet_is_asked_for_by_the_kernel(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, (Backend(5, f"{family.unheard}5", BACKEND_PORT),))
    went = net.arrives(request(family), xdp=xdp)
    assert (went.action, went.took) == ("forward", "from_netdev")
    assert went.headers.ends == (family.far_node, 40000, f"{family.unheard}5", BACKEND_PORT)


@families
@ways
def test_a_node_without_an_address_there_sends_nothing(net: Outside, family: Family, xdp: bool) -> None:
    net.netdev(net.eth0, "", "")
    net.service(1, family.vip, PORT, behind(family, 5))
    assert net.arrives(request(family), xdp=xdp).action == "drop"
    assert net.net.dropped() == [167]
    assert not net.flows()


@families
@ways
def test_a_backend_that_no_route_leads_to_is_a_drop(net: Outside, family: Family, xdp: bool) -> None:
    far = "192.0.2.1" if family is V4 else "2001:db8:ffff::1"
    net.service(1, family.vip, PORT, (Backend(5, far, BACKEND_PORT),))
    assert net.arrives(request(family), xdp=xdp).action == "drop"
    assert net.net.dropped() == [167]


@families
@ways
def test_a_packet_at_its_last_hop_is_dropped(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, behind(family, 5))
    data = sent(family.client, family.vip, TCP, tcp(40000, PORT), ttl=1)
    assert net.arrives(data, xdp=xdp).action == "drop"
    (record,) = net.net.records()
    assert (record["subtype"], record["src_identity"], record["ifindex"]) == (196, 2, net.eth0)


@families
@ways
def test_any_address_of_the_node_is_a_node_ports(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.any, 30080, behind(family, 5), kind=LbKind.NODE_PORT)
    for address in (family.node, family.far_node):
        went = net.arrives(sent(family.client, address, TCP, tcp(40000, 30080)), xdp=xdp)
        assert went.headers.to == f"{family.near}5"
        assert net.arrives(answer(went), xdp=xdp).headers.ends == (address, 30080, family.client, 40000)
        net.maps[lb.FLOWS.name].delete_batch(list(net.maps[lb.FLOWS.name].dump()))
    data = sent(family.client, f"{family.near}9", TCP, tcp(40000, 30080))
    assert net.arrives(data, xdp=xdp) == Went("pass", data, "from_netdev")


@families
@ways
def test_who_comes_from_outside_meets_only_what_is_for_outside(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, behind(family, 5), flags=LbFlags(0), kind=LbKind.CLUSTER_IP)
    data = request(family)
    assert net.arrives(data, xdp=xdp) == Went("pass", data, "from_netdev")
    assert not net.flows()


@families
@ways
@pytest.mark.parametrize("deny", [False, True], ids=["allow", "deny"])
def test_source_ranges_say_who_is_served(net: Outside, family: Family, xdp: bool, deny: bool) -> None:
    prefix = f"{family.client}/32" if family is V4 else f"{family.client}/128"
    flags = OUTSIDE | LbFlags.SOURCE_RANGES | (LbFlags.SOURCE_DENY if deny else LbFlags(0))
    net.service(1, family.vip, PORT, behind(family, 5), flags=flags, ranges=(prefix,))
    actions = [net.arrives(request(family, client=c), xdp=xdp).action for c in (family.client, family.other_client)]
    assert actions == (["drop", "forward"] if deny else ["forward", "drop"])
    assert net.net.dropped() == [177]


@families
@ways
def test_a_backend_that_is_gone_loses_its_connections_only(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, behind(family, 5, 6, 7))
    before = {sport: net.arrives(request(family, sport), xdp=xdp).headers.to for sport in range(40000, 40100)}
    gone = f"{family.near}7"
    assert gone in before.values()
    net.forget_backend(7, 1, 3)
    net.service(1, family.vip, PORT, behind(family, 5, 6))
    after = {sport: net.arrives(request(family, sport, ACK), xdp=xdp).headers.to for sport in before}
    assert all(after[sport] == to for sport, to in before.items() if to != gone)
    assert gone not in after.values()


@families
@ways
def test_a_number_that_is_another_backends_by_now_keeps_nobody(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, behind(family, 5))
    net.arrives(request(family), xdp=xdp)
    net.service(1, family.vip, PORT, (Backend(5, f"{family.near}6", BACKEND_PORT),))
    net.net.datapath.bump_epoch()
    assert net.arrives(request(family, flags=ACK), xdp=xdp).headers.to == f"{family.near}6"


@families
@ways
def test_a_service_that_is_gone_serves_nobody(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, behind(family, 5))
    net.arrives(request(family), xdp=xdp)
    table = net.maps[lb.SERVICES.name]
    table.delete_batch(list(table.dump()))
    net.net.datapath.bump_epoch()
    data = request(family, flags=ACK)
    assert net.arrives(data, xdp=xdp) == Went("pass", data, "from_netdev")


@families
@ways
def test_a_service_without_backends_is_a_drop(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, (), flags=OUTSIDE | LbFlags.DROP)
    assert net.arrives(request(family), xdp=xdp).action == "drop"
    assert net.net.dropped() == [158]


def lives(net: Outside) -> set[int]:
    """Seconds that the rows of the one connection still have, give or take one."""
    return {flow.lifetime - clock.now_s() for flow in net.flows().values()}


def near(values: set[int], wanted: int) -> bool:
    return all(abs(value - wanted) <= 1 for value in values) and bool(values)


@families
@ways
def test_connections_live_as_long_as_conntracks(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, behind(family, 5))
    went = net.arrives(request(family), xdp=xdp)
    assert near(lives(net), 60)
    net.arrives(answer(went), xdp=xdp)
    assert near(lives(net), 60)
    net.arrives(request(family, flags=ACK), xdp=xdp)
    assert near(lives(net), 8000)
    net.arrives(request(family, flags=FIN | ACK), xdp=xdp)
    assert near(lives(net), 8000)
    net.arrives(answer(went, FIN | ACK), xdp=xdp)
    assert near(lives(net), 10)


@families
@ways
def test_one_packet_is_not_kept_for_hours(net: Outside, family: Family, xdp: bool) -> None:
    """Else a flood of segments that belong to nothing would take every port of a backend for hours."""
    net.service(1, family.vip, PORT, behind(family, 5))
    net.arrives(request(family, flags=ACK), xdp=xdp)
    assert near(lives(net), 60)
    net.arrives(request(family, flags=ACK), xdp=xdp)
    assert near(lives(net), 8000)


@families
def test_what_has_run_out_is_swept(net: Outside, family: Family) -> None:
    net.service(1, family.vip, PORT, behind(family, 5))
    for sport in (40000, 40001):
        net.arrives(request(family, sport))
    for key, flow in net.flows().items():
        if 40000 in (key.sport, key.dport):
            net.set_flow(key, flow._replace(lifetime=clock.now_s() - clock.GRACE_S - 1))
    assert clock.sweep(net.maps[lb.FLOWS.name], clock.now_s()) == (4, 2)
    assert all(40001 in (key.sport, key.dport) for key in net.flows())


@families
@ways
def test_a_reset_ends_a_connection_from_either_side(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, behind(family, 5))
    went = net.arrives(request(family), xdp=xdp)
    net.arrives(answer(went, RST | ACK), xdp=xdp)
    assert near(lives(net), 10)
    assert {flow.flags & FlowFlags.CLOSING_FWD for flow in net.flows().values()} == {FlowFlags.CLOSING_FWD}


@families
@ways
def test_a_port_that_is_used_again_opens_a_new_connection(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, behind(family, 5))
    net.arrives(request(family), xdp=xdp)
    net.arrives(request(family, flags=RST), xdp=xdp)
    net.service(1, family.vip, PORT, behind(family, 6))
    assert net.arrives(request(family, flags=ACK), xdp=xdp).headers.to == f"{family.near}5"
    assert net.arrives(request(family), xdp=xdp).headers.to == f"{family.near}6"


def rows(net: Outside) -> tuple[FlowKey, FlowKey]:
    """The one connection's, requests first."""
    there, back = sorted(net.flows(), key=lambda key: net.flows()[key].flags & FlowFlags.REVERSE)
    return there, back


@families
@ways
@pytest.mark.parametrize("lost", [0, 1], ids=["requests", "answers"])
def test_a_row_that_was_evicted_is_made_again_from_the_other(
    net: Outside, family: Family, xdp: bool, lost: int
) -> None:
    net.service(1, family.vip, PORT, behind(family, 5, 6, 7, 8, 9))
    went = net.arrives(request(family), xdp=xdp)
    net.arrives(answer(went), xdp=xdp)
    before = {key: flow[:4] for key, flow in net.flows().items()}
    net.maps[lb.FLOWS.name].delete(rows(net)[lost].pack())
    # Not within the tick in which it was looked at last: a flag counts as one, too.
    if lost:
        net.arrives(request(family, flags=FIN | ACK), xdp=xdp)
    else:
        net.arrives(answer(went, FIN | ACK), xdp=xdp)
    assert {key: flow[:4] for key, flow in net.flows().items()} == before


@families
@ways
def test_a_connection_whose_port_is_somebody_elses_by_now_gets_another(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, behind(family, 5))
    net.arrives(request(family), xdp=xdp)
    _, back = rows(net)
    other = packed(family.other_client).ljust(16, b"\0")
    net.set_flow(back, net.flows()[back]._replace(daddr=other))
    again = net.arrives(request(family, flags=FIN | ACK), xdp=xdp)
    assert again.headers.sport != 40000
    assert net.arrives(answer(again), xdp=xdp).headers.to == family.client
    assert net.flows()[back].daddr == other


@families
@ways
def test_sctp_goes_on_where_ports_may_stay(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, (Backend(5, f"{family.near}5", PORT),), protocol=SCTP)
    net.service(2, family.vip, PORT + 1, behind(family, 6), protocol=SCTP)
    went = net.arrives(sent(family.client, family.vip, SCTP, sctp(40000, PORT)), xdp=xdp)
    assert went.headers.ends == (family.node, 40000, f"{family.near}5", PORT)
    assert net.arrives(sent(family.client, family.vip, SCTP, sctp(40000, PORT + 1)), xdp=xdp).action == "drop"
    assert net.net.dropped() == [168]


@ways
def test_headers_before_the_transports_are_stepped_over(net: Outside, xdp: bool) -> None:
    net.service(1, V4.vip, PORT, behind(V4, 5))
    net.service(2, V6.vip, PORT, behind(V6, 6))
    to = {"source": CLIENT_MAC, "to": ETH0_MAC}
    segment = tcp(40000, PORT, SYN, b"hello")
    four = sealed(ethernet(ipv4(V4.client, V4.vip, TCP, segment, options=b"\x94\x04\0\0" * 3), 0x0800, **to))
    first, payload = extensions([0, 60, 43], TCP, segment)
    six = sealed(ethernet(ipv6(V6.client, V6.vip, first, payload), 0x86DD, **to))
    for family, data in ((V4, four), (V6, six)):
        went = net.arrives(data, xdp=xdp)
        assert went.action == "forward"
        assert went.headers.source == family.node
        assert went.headers.dport == BACKEND_PORT
        assert went.headers.sums_hold
        assert len(went.frame) == len(data)


def foreign() -> list[bytes]:
    """Frames that are none of ours, whatever services there are."""
    to = {"source": CLIENT_MAC, "to": ETH0_MAC}
    segment = tcp(40000, PORT)
    good = sent(V4.client, V4.vip, TCP, segment)
    return [
        sent(V4.client, "192.0.2.99", TCP, segment),
        sent(V4.client, V4.vip, TCP, tcp(40000, PORT + 1)),
        sent(V4.client, V4.vip, UDP, udp(40000, PORT)),
        sent(V4.client, V4.vip, 1, icmp(8, ident=7)),
        sent(V6.client, V6.vip, 58, icmp(128, ident=7)),
        sent(V4.client, V4.vip, 47, b"\0" * 24),
        ethernet(b"\0" * 46, 0x0806, **to),
        ethernet(b"\0" * 46, 0x88CC, **to),
        ethernet(b"\x65" + good[15:], 0x0800, **to),
        ethernet(good[14:40], 0x0800, **to),
        ethernet(ipv6(V6.client, V6.vip, 59, b""), 0x86DD, **to),
        ethernet(struct.pack(">HH", 5, 0x0800) + good[14:], 0x8100, **to),
        good[:3] + b"\xee" + good[4:],
    ]


@ways
def test_what_is_none_of_ours_passes_as_it_is(net: Outside, xdp: bool) -> None:
    net.service(1, V4.vip, PORT, behind(V4, 5))
    net.service(2, V6.vip, PORT, behind(V6, 6))
    for data in foreign():
        went = net.arrives(data, xdp=xdp)
        assert went == Went("pass", data, "from_netdev"), data.hex()
    assert net.net.records() == []


def numbers(headers: Headers) -> tuple[int, int]:
    return headers.sport, headers.dport


@families
def test_both_programs_know_one_connection(net: Outside, family: Family) -> None:
    net.service(1, family.vip, PORT, behind(family, *range(2, 50)))
    first = net.arrives(request(family, 1000), xdp=True)
    second = net.arrives(request(family, 1000, ACK), xdp=False)
    assert first.headers.ends == second.headers.ends
    assert numbers(net.arrives(answer(second), xdp=True).headers) == (PORT, 1000)
