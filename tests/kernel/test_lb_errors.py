"""What is not a plain segment of a service for clients outside: ICMP errors, fragments, and what the node itself
answers.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from datapath.maps.lb import LbFlags
from tests.support.headers import Headers, read, sealed
from tests.support.kernel import A
from tests.support.lb_tables import Backend
from tests.support.outside import CLIENT_MAC, ETH0_MAC, FAMILIES, OUTSIDE, V4, Family, Outside, Went, outside, sent
from tests.support.packets import (
    ACK,
    FIN,
    ICMP,
    ICMP6,
    RST,
    SYN,
    TCP,
    UDP,
    ethernet,
    frame,
    ipv4,
    tcp,
    udp,
)
from tests.support.pieces import joined, pieces

pytestmark = pytest.mark.root

families = pytest.mark.parametrize("family", FAMILIES, ids=repr)
ways = pytest.mark.parametrize("xdp", [False, True], ids=["tcx", "xdp"])
protocols = pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
PORT, BACKEND_PORT = 80, 8080
TO_NODE = {"source": CLIENT_MAC, "to": ETH0_MAC}


@pytest.fixture(scope="module")
def shared(cache: Path) -> Iterator[Outside]:
    with outside("errors", cache, lb=1) as made:
        yield made


@pytest.fixture
def net(shared: Outside) -> Outside:
    """No services, nothing remembered; pod A may talk to everybody."""
    shared.reset()
    shared.net.allow_all(A)
    return shared


def own(family: Family) -> str:
    return A.ipv4 if family is V4 else A.ipv6


def remote(net: Outside, family: Family, protocol: int = TCP) -> str:
    """A service whose one backend is on another node."""
    net.service(1, family.vip, PORT, (Backend(5, f"{family.near}5", BACKEND_PORT),), protocol=protocol)
    return f"{family.near}5"


def segment(protocol: int, sport: int, dport: int, payload: bytes = b"hello, who is there?") -> bytes:
    return tcp(sport, dport, SYN, payload) if protocol == TCP else udp(sport, dport, payload)


def request(family: Family, protocol: int = TCP, sport: int = 40000, payload: bytes = b"hello") -> bytes:
    return sent(family.client, family.vip, protocol, segment(protocol, sport, PORT, payload))


def error(family: Family, reporter: str, about: bytes, *, kind: int = 0, mtu: int = 0, quoted: int = 0) -> bytes:
    """A frame with an ICMP error of `reporter` to who sent the frame `about`."""
    kind = kind or (3 if family is V4 else 1)
    quote = about[14:] if not quoted else about[14 : 14 + quoted]
    body = struct.pack(">BBHI", kind, 4 if mtu else 3, 0, mtu) + quote
    return sent(reporter, read(about).source, ICMP if family is V4 else ICMP6, body)


def quoted(seen: Headers) -> Headers:
    """The packet that an ICMP error quotes, as far as it does."""
    assert seen.sums_hold
    kind = 0x0800 if "." in seen.source else 0x86DD
    return read(ethernet(seen.body[8:], kind))


@families
@ways
@protocols
def test_an_error_about_a_request_reaches_the_client_as_if_by_the_service(
    net: Outside, family: Family, xdp: bool, protocol: int
) -> None:
    backend = remote(net, family, protocol)
    asked = request(family, protocol)
    inside = net.arrives(asked, xdp=xdp).frame
    went = net.arrives(error(family, backend, inside), xdp=xdp)
    assert (went.action, went.took) == ("forward", "xdp_netdev" if xdp else "from_netdev")
    assert (went.headers.source, went.headers.to) == (family.vip, family.client)
    inner = quoted(went.headers)
    assert inner.ends == (family.client, 40000, family.vip, PORT)
    assert inner.sums_hold
    assert inner.body == read(asked).body


@families
@ways
@protocols
def test_an_error_about_an_answer_reaches_the_backend(net: Outside, family: Family, xdp: bool, protocol: int) -> None:
    backend = remote(net, family, protocol)
    seen = net.arrives(request(family, protocol), xdp=xdp).headers
    answer = sent(backend, seen.source, protocol, segment(protocol, seen.dport, seen.sport))
    outside_ = net.arrives(answer, xdp=xdp).frame
    went = net.arrives(error(family, family.client, outside_), xdp=xdp)
    assert went.action == "forward"
    assert (went.headers.source, went.headers.to) == (family.node, backend)
    inner = quoted(went.headers)
    assert inner.ends == (backend, BACKEND_PORT, family.node, 40000)
    assert inner.sums_hold
    assert inner.body == read(answer).body


@families
@ways
def test_a_router_between_says_what_fits(net: Outside, family: Family, xdp: bool) -> None:
    remote(net, family)
    inside = net.arrives(request(family), xdp=xdp).frame
    router = "10.201.0.77" if family is V4 else "fd21::77"
    kind = 3 if family is V4 else 2
    size = (20 if family is V4 else 40) + 8  # what a router is bound to quote
    went = net.arrives(error(family, router, inside, kind=kind, mtu=1300, quoted=size), xdp=xdp)
    assert (went.headers.source, went.headers.to) == (family.vip, family.client)
    assert went.headers.sums_hold
    assert went.headers.body[:2] == bytes([kind, 4])
    assert struct.unpack_from(">I", went.headers.body, 4) == (1300,)
    ports = went.headers.body[8 + size - 8 :][:4]
    assert struct.unpack(">HH", ports) == (40000, PORT)


@families
@ways
def test_an_error_for_a_pod_goes_to_it(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, (Backend(9, own(family), BACKEND_PORT, local=True),))
    asked = net.arrives(request(family), xdp=xdp)
    assert net.net.into(asked.frame, came_in=net.eth0).action == 0
    answer = net.pod_sends(sealed(frame(own(family), family.client, TCP, tcp(BACKEND_PORT, 40000, SYN | ACK))))
    went = net.arrives(error(family, "192.0.2.9" if family is V4 else "2001:db8::9", answer.frame), xdp=xdp)
    assert went.action == "pass"
    assert went.headers.to == own(family)
    assert quoted(went.headers).ends == (own(family), BACKEND_PORT, family.client, 40000)
    assert net.net.into(went.frame, came_in=net.eth0).action == 0


@families
def test_an_error_of_a_pod_is_the_services(net: Outside, family: Family) -> None:
    net.service(1, family.vip, PORT, (Backend(9, own(family), BACKEND_PORT, local=True),), protocol=UDP)
    asked = net.arrives(request(family, UDP))
    assert net.net.into(asked.frame, came_in=net.eth0).action == 0
    went = net.pod_sends(error(family, own(family), asked.frame))
    assert went.action == "forward"
    assert (went.headers.source, went.headers.to) == (family.vip, family.client)
    inner = quoted(went.headers)
    assert inner.ends == (family.client, 40000, family.vip, PORT)
    assert inner.sums_hold


@families
def test_an_error_of_the_nodes_own_is_the_services(net: Outside, family: Family) -> None:
    net.service(1, family.vip, PORT, (Backend(9, own(family), BACKEND_PORT, local=True),))
    asked = net.arrives(request(family))
    kind = 11 if family is V4 else 3
    went = net.leaves(error(family, family.node, asked.frame, kind=kind))
    assert (went.headers.source, went.headers.to) == (family.vip, family.client)
    assert quoted(went.headers).ends == (family.client, 40000, family.vip, PORT)


@families
@ways
def test_an_error_that_is_about_nothing_of_ours_passes(net: Outside, family: Family, xdp: bool) -> None:
    backend = remote(net, family)
    inside = net.arrives(request(family), xdp=xdp).frame
    strange = sent(family.node, backend, TCP, tcp(40001, BACKEND_PORT))
    elsewhere = error(family, backend, inside)
    to = read(elsewhere)
    moved = sent(to.source, family.far_node, to.protocol, to.body)
    for data in (error(family, backend, strange), moved, error(family, backend, inside, quoted=12)):
        assert net.arrives(data, xdp=xdp) == Went("pass", data, "from_netdev")


@families
@ways
def test_later_pieces_go_where_the_first_one_went(net: Outside, family: Family, xdp: bool) -> None:
    backend = remote(net, family, UDP)
    datagram = udp(40000, PORT, bytes(range(100)))
    went = [net.arrives(one, xdp=xdp) for one in pieces(family, family.client, family.vip, datagram)]
    assert [one.action for one in went] == ["forward", "forward"]
    seen = joined([one.frame for one in went])
    assert seen.ends == (family.node, 40000, backend, BACKEND_PORT)
    assert seen.sums_hold
    assert seen.body[8:] == bytes(range(100))
    answer = pieces(family, backend, family.node, udp(BACKEND_PORT, 40000, bytes(range(90))), 78)
    seen = joined([net.arrives(one, xdp=xdp).frame for one in answer])
    assert seen.ends == (family.vip, PORT, family.client, 40000)
    assert seen.sums_hold


@families
@ways
def test_a_later_piece_whose_first_is_not_known_passes(net: Outside, family: Family, xdp: bool) -> None:
    remote(net, family, UDP)
    _, later = pieces(family, family.client, family.vip, udp(40000, PORT, bytes(100)))
    assert net.arrives(later, xdp=xdp) == Went("pass", later, "from_netdev")
    first, _ = pieces(family, family.client, family.vip, udp(40000, PORT, bytes(100)), 79)
    net.arrives(first, xdp=xdp)
    assert net.arrives(later, xdp=xdp).action == "pass"


@families
def test_pieces_of_a_pods_answer_are_the_services(net: Outside, family: Family) -> None:
    net.service(1, family.vip, PORT, (Backend(9, own(family), BACKEND_PORT, local=True),), protocol=UDP)
    asked = net.arrives(request(family, UDP))
    assert net.net.into(asked.frame, came_in=net.eth0).action == 0
    answer = pieces(family, own(family), family.client, udp(BACKEND_PORT, 40000, bytes(range(90))))
    went = [net.pod_sends(one) for one in answer]
    assert [one.action for one in went] == ["forward", "forward"]
    seen = joined([one.frame for one in went])
    assert seen.ends == (family.vip, PORT, family.client, 40000)
    assert seen.sums_hold


@families
@ways
@pytest.mark.parametrize(
    ("flags", "expected", "number", "acknowledged"),
    [
        (SYN, RST | ACK, 0, 2),
        (ACK, RST, 7, 0),
        (FIN | ACK, RST, 7, 0),
        (FIN, RST | ACK, 0, 2),
    ],
    ids=["syn", "ack", "fin-ack", "fin"],
)
def test_where_nobody_serves_a_connection_is_reset(
    net: Outside, family: Family, xdp: bool, flags: int, expected: int, number: int, acknowledged: int
) -> None:
    net.service(1, family.vip, PORT, ())
    head = struct.pack(">HHIIBBHHH", 40000, PORT, 1, 7, 6 << 4, flags, 1024, 0, 0) + b"\1\1\1\0"
    went = net.arrives(sent(family.client, family.vip, TCP, head + b"hello"), xdp=xdp)
    assert (went.action, went.took) == ("forward", "from_netdev")
    assert went.frame[:12] == CLIENT_MAC + ETH0_MAC
    seen = went.headers
    assert seen.ends == (family.vip, PORT, family.client, 40000)
    assert seen.sums_hold
    said = struct.unpack(">IIBB", seen.body[4:14])
    assert said == (number, acknowledged + (5 if acknowledged else 0), 5 << 4, expected)
    assert len(went.frame) == 14 + (20 if family is V4 else 40) + 20
    assert net.net.dropped() == [158]


@families
@ways
def test_a_reset_is_not_answered(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, ())
    data = sent(family.client, family.vip, TCP, tcp(40000, PORT, RST))
    assert net.arrives(data, xdp=xdp).action == "drop"


@families
@ways
@pytest.mark.parametrize("size", [0, 5, 1000])
def test_where_nobody_serves_a_datagram_is_unreachable(net: Outside, family: Family, xdp: bool, size: int) -> None:
    net.service(1, family.vip, PORT, (), protocol=UDP)
    asked = request(family, UDP, payload=bytes(size))
    went = net.arrives(asked, xdp=xdp)
    assert went.action == "forward"
    assert (went.headers.source, went.headers.to) == (family.vip, family.client)
    assert went.headers.sums_hold
    assert went.headers.body[:2] == (b"\x03\x03" if family is V4 else b"\x01\x04")
    quote = went.headers.body[8:]
    assert quote == asked[14 : 14 + (28 if family is V4 else 48)]


@ways
def test_what_cannot_be_answered_is_only_dropped(net: Outside, xdp: bool) -> None:
    net.service(1, V4.vip, PORT, (), protocol=UDP)
    packet = ipv4(V4.client, V4.vip, UDP, udp(40000, PORT), options=b"\x94\x04\0\0")
    assert net.arrives(sealed(ethernet(packet, 0x0800, **TO_NODE)), xdp=xdp).action == "drop"
    assert net.net.dropped() == [158]


@families
@ways
@protocols
def test_a_packet_that_does_not_fit_is_answered(net: Outside, family: Family, xdp: bool, protocol: int) -> None:
    backend = Backend(5, f"{family.far}5", BACKEND_PORT)
    net.service(1, family.vip, PORT, (backend,), protocol=protocol)
    net.home.ip("link", "set", "eth1", "mtu", "1400")
    try:
        asked = request(family, protocol, payload=bytes(1400))
        went = net.arrives(asked, xdp=xdp)
    finally:
        net.home.ip("link", "set", "eth1", "mtu", "1500")
    assert went.action == "forward"
    assert (went.headers.source, went.headers.to) == (family.vip, family.client)
    assert went.headers.sums_hold
    assert went.headers.body[:2] == (b"\x03\x04" if family is V4 else b"\x02\x00")
    assert struct.unpack_from(">I", went.headers.body, 4) == (1400,)
    quote = went.headers.body[8:]
    assert quote == asked[14 : 14 + len(quote)]
    assert len(quote) == (20 if family is V4 else 40) + (20 if protocol == TCP else 8)


@families
def test_a_service_that_is_silent_answers_nothing(net: Outside, family: Family) -> None:
    net.service(1, family.vip, PORT, (), flags=OUTSIDE | LbFlags.DROP, protocol=UDP)
    assert net.arrives(request(family, UDP)).action == "drop"
