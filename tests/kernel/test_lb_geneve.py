"""Geneve packets to nodes whose backends answer clients themselves: every byte of one, and which are believed."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.dsr import BACKEND_PORT, DSR, GENEVE, PORT, Two, moved, pod, request, segment, two_nodes
from tests.support.headers import read, sealed
from tests.support.lb_tables import Backend
from tests.support.outside import CLIENT_MAC, ETH0_MAC, FAMILIES, V4, Family, Went, sent
from tests.support.packets import ACK, FIN, RST, SCTP, SYN, TCP, UDP, checksum, ethernet, frame, packed, sctp, tcp
from tests.support.pieces import joined, pieces

pytestmark = pytest.mark.root

ROUTER_MAC = bytes.fromhex("02000000c109")
families = pytest.mark.parametrize("family", FAMILIES, ids=repr)
ways = pytest.mark.parametrize("xdp", [False, True], ids=["tcx", "xdp"])
protocols = pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])


@pytest.fixture(scope="module")
def shared(cache: Path) -> Iterator[Two]:
    with two_nodes(cache, GENEVE) as made:
        yield made


@pytest.fixture
def two(shared: Two) -> Two:
    shared.prepare()
    return shared


class Envelope(NamedTuple):
    """A Geneve packet (RFC 8926), taken apart. `outer` ends before the UDP header."""

    outer: bytes
    sport: int
    dport: int
    length: int
    check: int
    head: bytes  # of Geneve, eight bytes
    options: bytes
    frame: bytes


def opened(data: bytes) -> Envelope:
    """The frame's envelope."""
    at = 34 if data[12:14] == b"\x08\0" else 54
    size = (data[at + 8] & 63) * 4
    ports = struct.unpack_from(">HHHH", data, at)
    return Envelope(data[:at], *ports, data[at + 8 : at + 16], data[at + 16 : at + 16 + size], data[at + 16 + size :])


def option(family: Family, port: int = PORT) -> bytes:
    """What Cilium tells in: class 0x014b, critical type 1, address and port in the network's order."""
    words = 2 if family is V4 else 5
    return struct.pack(">HBB", 0x014B, 0x81, words) + packed(family.vip) + struct.pack(">HH", port, 0)


def enveloped(
    family: Family, inner: bytes, options: bytes, *, to: str = "", head: bytes = b"", dport: int = 6081
) -> bytes:
    """A frame to the node with the backend, from the other one."""
    head = head or struct.pack(">BBHI", len(options) // 4, 0x40 if options else 0, 0x6558, 2 << 8)
    body = head + options + inner
    udp = struct.pack(">HHHH", 50000, dport, 8 + len(body), 0) + body
    data = frame(family.node, to or pod(family), UDP, udp)
    return ETH0_MAC + CLIENT_MAC + data[12:]


def inner(family: Family, protocol: int = TCP, flags: int = SYN) -> bytes:
    """What the pod is to get to see: the client, and itself."""
    return sent(family.client, pod(family), protocol, segment(protocol, 40000, BACKEND_PORT, flags))


def answers(two: Two, family: Family, came: Went, protocol: int = TCP) -> tuple[str, int, str, int]:
    """Between whom the pod's answer to what came is, as it leaves the node."""
    assert two.back.net.into(came.frame, came_in=two.back.eth0).action == 0
    data = segment(protocol, BACKEND_PORT, 40000, SYN | ACK)
    return two.back.pod_sends(sealed(frame(pod(family), family.client, protocol, data))).headers.ends


def taken_out(two: Two, family: Family, data: bytes) -> bool:
    """Whether what is in the envelope goes on to the pod; if not, all of it does as it came."""
    came = two.back.arrives(data)
    assert came.action == "pass"
    if came.frame == data:
        return False
    assert came.frame[:12] == data[:12], "the Ethernet header is the outer one"
    assert came.headers.ends == (family.client, 40000, pod(family), BACKEND_PORT)
    assert came.headers.sums_hold
    return True


@families
@ways
@protocols
def test_every_byte_of_a_first_packet(two: Two, family: Family, xdp: bool, protocol: int) -> None:
    two.service(family, protocol)
    asked = request(family, protocol)
    went = two.front.arrives(asked, xdp=xdp)
    assert (went.action, went.took) == ("forward", "xdp_netdev" if xdp else "from_netdev")
    seen = opened(went.frame)
    total = len(went.frame) - 14
    assert seen.outer[:12] == ROUTER_MAC + ETH0_MAC
    if family is V4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, total, 0, 0x4000, 64, 17, 0) + packed(V4.node) + packed(pod(V4))
        assert seen.outer[12:] == b"\x08\0" + head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    else:
        head = struct.pack(">IHBB", 6 << 28, total - 40, 17, 64) + packed(family.node) + packed(pod(family))
        assert seen.outer[12:] == b"\x86\xdd" + head
    assert (seen.dport, seen.length, seen.check) == (6081, total - (20 if family is V4 else 40), 0)
    assert seen.sport >= 0xC000
    words = len(option(family)) // 4
    assert words == (3 if family is V4 else 6)
    # version 0, critical options, Ethernet, the world's identity
    assert seen.head == bytes((words, 0x40, 0x65, 0x58, 0, 0, 2, 0))
    assert seen.options == option(family)
    # The frame is the client's, translated; its hops are those that it came with.
    assert seen.frame == ETH0_MAC + CLIENT_MAC + inner(family, protocol)[12:]


@families
@ways
@pytest.mark.parametrize(
    ("flags", "told"), [(SYN, True), (SYN | ACK, True), (ACK, False), (FIN | ACK, False), (RST, False)]
)
def test_of_segments_those_with_syn_tell(two: Two, family: Family, xdp: bool, flags: int, told: bool) -> None:
    two.service(family)
    two.front.arrives(request(family), xdp=xdp)
    seen = opened(two.front.arrives(request(family, flags=flags), xdp=xdp).frame)
    assert seen.options == (option(family) if told else b"")
    assert seen.head == bytes((len(seen.options) // 4, 0x40 if told else 0, 0x65, 0x58, 0, 0, 2, 0))
    assert seen.frame == ETH0_MAC + CLIENT_MAC + inner(family, flags=flags)[12:]


@families
@ways
def test_all_datagrams_tell_and_have_one_source(two: Two, family: Family, xdp: bool) -> None:
    two.service(family, UDP)
    seen = [opened(two.front.arrives(request(family, UDP), xdp=xdp).frame) for _ in range(3)]
    assert {one.options for one in seen} == {option(family)}
    assert len({one.sport for one in seen}) == 1


@families
def test_connections_have_sources_of_their_own(two: Two, family: Family) -> None:
    two.service(family)
    asked = (sent(family.client, family.vip, TCP, tcp(port, PORT)) for port in range(41000, 41050))
    assert len({opened(two.front.arrives(one).frame).sport for one in asked}) > 45


@families
@ways
def test_what_pads_a_short_frame_is_not_in_the_packet(two: Two, family: Family, xdp: bool) -> None:
    two.service(family)
    asked = request(family, payload=b"")
    went = two.front.arrives(asked + bytes(6), xdp=xdp)
    assert went.frame[-6:] == bytes(6)
    seen = opened(went.frame)
    assert seen.length == 8 + 8 + len(option(family)) + len(asked)
    came = two.back.arrives(moved(went), xdp=xdp)
    assert came.headers.ends == (family.client, 40000, pod(family), BACKEND_PORT)
    assert came.headers.sums_hold


@families
@pytest.mark.parametrize("flags", [ACK, FIN | ACK, RST])
def test_a_segment_without_an_option_is_one_of_a_connection_that_is_known(two: Two, family: Family, flags: int) -> None:
    two.service(family)
    later = enveloped(family, inner(family, flags=flags), b"")
    assert not taken_out(two, family, later)
    assert not two.back.flows()
    assert taken_out(two, family, enveloped(family, inner(family), option(family)))
    assert taken_out(two, family, later)
    assert answers(two, family, two.back.arrives(later)) == (family.vip, PORT, family.client, 40000)
    other = sent(family.client, pod(family), TCP, tcp(40001, BACKEND_PORT, flags))
    assert two.back.arrives(enveloped(family, other, b"")).headers.protocol == UDP, "another connection"
    two.back.forget_connections()
    assert not taken_out(two, family, later)


@families
def test_a_connection_that_was_not_told_of_is_not_known(two: Two, family: Family) -> None:
    """A row of the same ends that a client of this node itself has left."""
    two.service(family, flags=DSR)
    two.back.arrives(request(family))
    assert len(two.back.flows()) == 2
    assert not taken_out(two, family, enveloped(family, inner(family, flags=ACK), b""))


@families
@pytest.mark.parametrize(
    "head",
    [
        pytest.param(">BBHI 0x43 0x40 0x6558 0x200", id="version"),
        pytest.param(">BBHI 0x03 0xc0 0x6558 0x200", id="control"),
        pytest.param(">BBHI 0x03 0x40 0x0800 0x200", id="no-ethernet"),
        pytest.param(">BBHI 0x02 0x40 0x6558 0x200", id="short"),
        pytest.param(">BBHI 0x07 0x40 0x6558 0x200", id="long"),
    ],
)
def test_headers_that_are_none_of_ours_are_left_alone(two: Two, family: Family, head: str) -> None:
    two.service(family)
    layout, *numbers = head.split()
    first, *rest = (int(one, 0) for one in numbers)
    if family is not V4 and first & 0x3F == 3:
        first += 3  # its option is longer
    data = struct.pack(layout, first, *rest)
    assert not taken_out(two, family, enveloped(family, inner(family), option(family), head=data))
    assert not two.back.flows()


@families
def test_bits_that_are_reserved_are_not_looked_at(two: Two, family: Family) -> None:
    two.service(family)
    whole = option(family)
    data = struct.pack(">BBHI", len(whole) // 4, 0x3F, 0x6558, 0xABCDEF01)
    marked = whole[:3] + bytes((whole[3] | 0xE0,)) + whole[4:]
    came = two.back.arrives(enveloped(family, inner(family), marked, head=data))
    assert answers(two, family, came) == (family.vip, PORT, family.client, 40000)


@families
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_options_that_are_none_of_ours_are_left_alone(two: Two, family: Family, at: int) -> None:
    two.service(family)
    whole = option(family)
    changed = whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :]
    assert not taken_out(two, family, enveloped(family, inner(family), changed))
    assert not two.back.flows()


@families
def test_two_options_are_left_alone(two: Two, family: Family) -> None:
    two.service(family)
    for options in (option(family) * 2, b"\0\0\0\0" + option(family), option(family) + b"\0\0\0\0"):
        assert not taken_out(two, family, enveloped(family, inner(family), options))
    assert not two.back.flows()


@families
def test_what_is_in_it_is_for_whom_it_is_for(two: Two, family: Family) -> None:
    """Who filters by addresses has filtered by the outer ones."""
    two.service(family)
    other = "10.9.0.2" if family is V4 else "fd09::2"
    strange = sent(family.client, other, TCP, tcp(40000, BACKEND_PORT))
    for data in (
        enveloped(family, strange, option(family)),
        enveloped(family, inner(family), option(family), to=other),
        enveloped(family, inner(family), option(family), dport=6082),
        enveloped(family, inner(FAMILIES[family is V4]), option(family)),
        enveloped(family, inner(family)[:12] + b"\x08\x06" + inner(family)[14:], option(family)),
    ):
        came = two.back.arrives(data)
        assert (came.action, came.frame) == ("pass", data)
    assert not two.back.flows()


@families
def test_only_frontends_of_the_protocol_are_believed(two: Two, family: Family) -> None:
    two.service(family, UDP)
    assert not taken_out(two, family, enveloped(family, inner(family), option(family)))
    assert not taken_out(two, family, enveloped(family, inner(family, UDP), option(family, PORT + 1)))
    assert taken_out(two, family, enveloped(family, inner(family, UDP), option(family)))


@families
@protocols
def test_an_envelope_that_ends_too_early_is_harmless(two: Two, family: Family, protocol: int) -> None:
    two.service(family, protocol)
    whole = enveloped(family, inner(family, protocol), option(family))
    l4 = len(whole) - len(segment(protocol, 1, 1))
    for size in range(14 + (20 if family is V4 else 40), l4 + 4):
        came = two.back.arrives(whole[:size])
        assert came.action == "pass", size
        assert came.frame == whole[:size], size
    assert not two.back.flows()
    for size in range(l4 + 4, l4 + (20 if protocol == TCP else 8)):
        assert two.back.arrives(whole[:size]).action == "drop", size
    assert not two.back.flows()


@families
@ways
@protocols
def test_pieces_of_packets_go_in_an_envelope_each(two: Two, family: Family, xdp: bool, protocol: int) -> None:
    two.service(family, protocol)
    whole = segment(protocol, 40000, PORT, ACK, bytes(range(100)))
    if protocol == TCP:
        two.back.arrives(moved(two.front.arrives(request(family), xdp=xdp)))
    asked = pieces(family, family.client, family.vip, whole, protocol=protocol)
    went = [two.front.arrives(one, xdp=xdp) for one in asked]
    assert [one.action for one in went] == ["forward", "forward"]
    seen = [opened(one.frame) for one in went]
    assert len({one.sport for one in seen}) == 1
    assert [one.options for one in seen] == [b"" if protocol == TCP else option(family), option(family)]
    came = [two.back.arrives(moved(one), xdp=xdp) for one in went]
    assert [one.action for one in came] == ["pass", "pass"]
    together = joined([one.frame for one in came], protocol=protocol)
    assert together.ends == (family.client, 40000, pod(family), BACKEND_PORT)
    assert together.sums_hold
    assert answers(two, family, came[0], protocol) == (family.vip, PORT, family.client, 40000)


@families
def test_a_later_piece_without_an_option_is_left_alone(two: Two, family: Family) -> None:
    two.service(family, UDP)
    _, later = pieces(family, family.client, pod(family), segment(UDP, 40000, BACKEND_PORT, payload=bytes(100)))
    data = enveloped(family, later, b"")
    assert two.back.arrives(data) == Went("pass", data, "from_netdev")


@families
def test_an_envelope_in_pieces_is_left_alone(two: Two, family: Family) -> None:
    """We send none: they would have to be put together first."""
    two.service(family)
    whole = enveloped(family, inner(family), option(family))
    body = read(whole).body
    for data in pieces(family, family.node, pod(family), body):
        came = two.back.arrives(data)
        assert (came.action, came.frame) == ("pass", data)
    assert not two.back.flows()


def test_extension_headers_of_the_clients_stay(two: Two) -> None:
    family = FAMILIES[1]
    two.service(family)
    whole = read(request(family)).body
    data = sent(family.client, family.vip, 60, struct.pack(">BBHI", TCP, 0, 0x0104, 0) + whole)
    went = two.front.arrives(data)
    came = two.back.arrives(moved(went))
    assert came.headers.ends == (family.client, 40000, pod(family), BACKEND_PORT)
    assert came.headers.options == struct.pack(">BBHI", TCP, 0, 0x0104, 0)
    assert came.headers.sums_hold
    assert answers(two, family, came) == (family.vip, PORT, family.client, 40000)


@ways
def test_options_of_the_clients_stay(two: Two, xdp: bool) -> None:
    two.service(V4)
    four = read(request(V4))
    options = b"\x94\x04\0\0" * 2
    head = struct.pack(">BBHHHBBH", 0x47, 0, 28 + len(four.body), 1, 0, 64, TCP, 0)
    head += packed(V4.client) + packed(V4.vip) + options
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    data = sealed(ethernet(head + four.body, 0x0800, source=CLIENT_MAC, to=ETH0_MAC))
    came = two.back.arrives(moved(two.front.arrives(data, xdp=xdp)), xdp=xdp)
    assert came.headers.ends == (V4.client, 40000, pod(V4), BACKEND_PORT)
    assert came.headers.options == options
    assert came.headers.sums_hold


@families
@ways
def test_sctp_goes_as_well_where_ports_may_stay(two: Two, family: Family, xdp: bool) -> None:
    two.service(family, SCTP, port=PORT)
    went = two.front.arrives(sent(family.client, family.vip, SCTP, sctp(40000, PORT)), xdp=xdp)
    assert opened(went.frame).options == option(family)
    came = two.back.arrives(moved(went), xdp=xdp)
    assert came.headers.ends == (family.client, 40000, pod(family), PORT)


@families
@ways
@pytest.mark.parametrize(("flags", "extra"), [(SYN, (62, 94)), (ACK, (50, 70))], ids=["syn", "ack"])
def test_what_does_not_fit_any_more_is_answered(
    two: Two, family: Family, xdp: bool, flags: int, extra: tuple[int, int]
) -> None:
    """The client is told of the room that segments of this kind have."""
    two.service(family)
    two.front.arrives(request(family), xdp=xdp)
    grown = extra[0 if family is V4 else 1]
    room = 1500 - grown - (40 if family is V4 else 60)
    fits = two.front.arrives(request(family, flags=flags, payload=bytes(room)), xdp=xdp)
    assert (fits.action, len(fits.frame)) == ("forward", 1514)
    went = two.front.arrives(request(family, flags=flags, payload=bytes(room + 1)), xdp=xdp)
    assert (went.headers.source, went.headers.to) == (family.vip, family.client)
    assert went.headers.body[:2] == (b"\x03\x04" if family is V4 else b"\x02\x00")
    assert struct.unpack_from(">I", went.headers.body, 4) == (1500 - grown,)


@families
@protocols
def test_policies_see_the_client_at_the_backend(two: Two, family: Family, protocol: int) -> None:
    """Nothing is judged before it is out of the envelope, and then as what it is."""
    two.service(family, protocol)
    two.back.net.prefix(f"{family.client}/{32 if family is V4 else 128}", 1 << 24 | 7)
    came = two.back.arrives(moved(two.front.arrives(request(family, protocol))))
    two.back.net.into(came.frame, came_in=two.back.eth0)
    record = two.back.net.records()[-1]
    assert (record["src_identity"], record["dport"]) == (1 << 24 | 7, BACKEND_PORT)


def test_a_service_may_be_asked_at_two_families(two: Two) -> None:
    """Each envelope is of the family of what is in it."""
    for family in FAMILIES:
        for node in two:
            backends = (Backend(9 + family.version, pod(family), BACKEND_PORT, node is two.back),)
            node.service(family.version, family.vip, PORT, backends, flags=DSR)
    for family in FAMILIES:
        went = two.front.arrives(request(family))
        assert went.frame[12:14] == opened(went.frame).frame[12:14]
        came = two.back.arrives(moved(went))
        assert came.headers.ends == (family.client, 40000, pod(family), BACKEND_PORT)
        assert answers(two, family, came) == (family.vip, PORT, family.client, 40000)
