"""Backends of other nodes that answer clients themselves: what one node sends, and what the other makes of it."""

import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from datapath.maps import endpoints, lb
from datapath.maps.lb import FlowFlags, LbKind
from tests.support.dsr import (
    BACKEND_PORT,
    DSR,
    GENEVE,
    IPIP,
    OPTION,
    PORT,
    Two,
    moved,
    pod,
    request,
    segment,
    two_nodes,
)
from tests.support.headers import read, sealed, unsummed
from tests.support.lb_tables import Backend
from tests.support.outside import (
    CLIENT_MAC,
    ETH0_MAC,
    FAMILIES,
    OUTSIDE,
    V4,
    Family,
    Went,
    sent,
)
from tests.support.packets import ACK, SCTP, SYN, TCP, UDP, checksum, ethernet, frame, packed, sctp, tcp

pytestmark = pytest.mark.root

families = pytest.mark.parametrize("family", FAMILIES, ids=repr)
ways = pytest.mark.parametrize("xdp", [False, True], ids=["tcx", "xdp"])
protocols = pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])


@pytest.fixture(scope="module")
def shared(cache: Path) -> Iterator[dict[int, Two]]:
    with ExitStack() as stack:
        yield {mode: stack.enter_context(two_nodes(cache, mode)) for mode in (OPTION, IPIP, GENEVE)}


@pytest.fixture(params=[OPTION, IPIP, GENEVE], ids=["option", "ipip", "geneve"])
def mode(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def two(shared: dict[int, Two], mode: int) -> Two:
    shared[mode].prepare()
    return shared[mode]


@families
@ways
@protocols
def test_the_client_is_answered_by_the_backends_node(two: Two, family: Family, xdp: bool, protocol: int) -> None:
    two.service(family, protocol)
    went = two.front.arrives(request(family, protocol), xdp=xdp)
    assert (went.action, went.took) == ("forward", "xdp_netdev" if xdp else "from_netdev")
    came = two.back.arrives(moved(went), xdp=xdp)
    assert came.action == "pass"
    assert came.headers.ends == (family.client, 40000, pod(family), BACKEND_PORT)
    assert came.headers.sums_hold
    assert came.headers.options == b""
    assert came.headers.body[-5:] == b"hello"
    assert two.back.net.into(came.frame, came_in=two.back.eth0).action == 0
    answer = segment(protocol, BACKEND_PORT, 40000, SYN | ACK)
    back = two.back.pod_sends(sealed(frame(pod(family), family.client, protocol, answer)))
    assert back.action == "forward"
    assert back.headers.ends == (family.vip, PORT, family.client, 40000)
    assert back.headers.sums_hold
    assert len(two.front.flows()) == 1
    assert [flow.flags & FlowFlags.DSR for flow in two.front.flows().values()] == [FlowFlags.DSR]


@families
@ways
def test_later_segments_arrive_as_well(two: Two, family: Family, xdp: bool) -> None:
    two.service(family)
    for flags in (SYN, ACK, ACK):
        went = two.front.arrives(request(family, flags=flags), xdp=xdp)
        came = two.back.arrives(moved(went), xdp=xdp)
        assert came.headers.ends == (family.client, 40000, pod(family), BACKEND_PORT)
        assert came.headers.sums_hold
        assert came.headers.options == b""


@families
def test_a_node_port_is_answered_from_the_address_that_was_asked(two: Two, family: Family) -> None:
    for node, local in ((two.front, False), (two.back, True)):
        backends = (Backend(9, pod(family), BACKEND_PORT, local),)
        node.service(1, family.any, 30080, backends, flags=DSR, kind=LbKind.NODE_PORT)
    asked = two.front.arrives(sent(family.client, family.far_node, TCP, tcp(40000, 30080)))
    came = two.back.arrives(moved(asked))
    assert two.back.net.into(came.frame, came_in=two.back.eth0).action == 0
    answer = sealed(frame(pod(family), family.client, TCP, tcp(BACKEND_PORT, 40000, SYN | ACK)))
    assert two.back.pod_sends(answer).headers.ends == (family.far_node, 30080, family.client, 40000)


@families
@ways
def test_a_service_that_is_not_answered_directly_is_not(two: Two, family: Family, xdp: bool) -> None:
    two.service(family, flags=OUTSIDE)
    went = two.front.arrives(request(family), xdp=xdp)
    assert went.headers.source == family.node
    assert went.headers.options == b""


@families
@ways
@pytest.mark.parametrize("mode", [OPTION], indirect=True)
@protocols
def test_the_option_is_encoded_as_ciliums(two: Two, family: Family, xdp: bool, protocol: int) -> None:
    """In the node's byte order for IPv4, in the network's for IPv6."""
    two.service(family, protocol)
    went = two.front.arrives(request(family, protocol), xdp=xdp)
    seen = went.headers
    assert seen.ends == (family.client, 40000, pod(family), BACKEND_PORT)
    assert seen.sums_hold
    if family is V4:
        assert seen.options == struct.pack("<BBH", 154, 8, PORT) + packed(family.vip)[::-1]
    else:
        head = struct.pack(">BBBB", protocol, 2, 0x1B, 20)
        assert seen.options == head + packed(family.vip) + struct.pack(">HH", PORT, 0)
    again = two.front.arrives(request(family, protocol, ACK), xdp=xdp).headers
    if protocol == TCP:
        assert again.options == b"", "only what opens a connection bears it"


@families
@pytest.mark.parametrize("mode", [OPTION], indirect=True)
def test_datagrams_that_xdp_leaves_are_told_of_in_every_tick(two: Two, family: Family) -> None:
    """As those that it takes: whose first one was lost would never be answered."""
    two.service(family, UDP)
    for _ in range(3):
        for key, flow in two.front.flows().items():
            two.front.set_flow(key, flow)  # not looked at in this tick
        went = two.front.arrives(unsummed(request(family, UDP)), xdp=True)
        assert went.took == "from_netdev"
        assert went.headers.options


@ways
@pytest.mark.parametrize("mode", [OPTION], indirect=True)
def test_options_of_the_clients_stay(two: Two, xdp: bool) -> None:
    two.service(V4)
    four = read(request(V4))
    options = b"\x94\x04\0\0" * 2
    total = 20 + len(options) + len(four.body)
    head = struct.pack(">BBHHHBBH", 0x47, 0, total, 1, 0, 64, TCP, 0) + packed(four.source) + packed(four.to)
    head = head + options
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    data = sealed(ethernet(head + four.body, 0x0800, source=CLIENT_MAC, to=ETH0_MAC))
    went = two.front.arrives(data, xdp=xdp)
    assert went.headers.options[8:] == options
    assert went.headers.sums_hold
    came = two.back.arrives(moved(went), xdp=xdp)
    assert came.headers.options == options
    assert came.headers.sums_hold


@families
@ways
@pytest.mark.parametrize("mode", [IPIP], indirect=True)
def test_the_packet_lies_in_another_as_it_came(two: Two, family: Family, xdp: bool) -> None:
    two.service(family)
    for flags in (SYN, ACK):
        asked = request(family, flags=flags)
        went = two.front.arrives(asked, xdp=xdp)
        size = 20 if family is V4 else 40
        assert went.frame[14 + size :] == asked[14:]
        assert (went.headers.source, went.headers.to) == (family.node, pod(family))
        assert went.headers.protocol == (4 if family is V4 else 41)
        assert went.headers.ttl == 64
        assert went.headers.sums_hold
        if family is V4:
            assert struct.unpack(">H", went.frame[18:20]) == (BACKEND_PORT,)
        else:
            assert struct.unpack(">I", went.frame[14:18])[0] & 0xFFFFF == BACKEND_PORT


def numbered(frame: bytes, number: int) -> bytes:
    """The frame with another identification in its IPv4 header."""
    head = frame[14:18] + struct.pack(">H", number) + frame[20:24] + b"\0\0" + frame[26:34]
    return frame[:14] + head[:10] + struct.pack(">H", checksum(head)) + head[12:] + frame[34:]


@protocols
@pytest.mark.parametrize("mode", [IPIP], indirect=True)
def test_pieces_that_the_kernel_counts_reach_the_same_port(two: Two, protocol: int) -> None:
    """A large packet is cut when it leaves, and the outer headers' identifications, our ports, count on."""
    two.service(V4, protocol)
    first = moved(two.front.arrives(request(V4, protocol)))
    assert two.back.arrives(first).headers.ends == (V4.client, 40000, pod(V4), BACKEND_PORT)
    piece = moved(two.front.arrives(request(V4, protocol, ACK)))
    for count in (0, 1, 44, 400):
        came = two.back.arrives(numbered(piece, BACKEND_PORT + count))
        assert came.headers.ends == (V4.client, 40000, pod(V4), BACKEND_PORT)
        assert came.headers.sums_hold
    assert two.back.arrives(numbered(piece, 9090)).headers.dport == 9090, "it is another backend's"
    assert two.back.arrives(numbered(piece, BACKEND_PORT)).headers.dport == BACKEND_PORT
    if protocol == TCP:
        assert two.back.arrives(numbered(first, BACKEND_PORT + 1)).headers.dport == BACKEND_PORT + 1, "never cut"


@families
@ways
@pytest.mark.parametrize("mode", [IPIP, GENEVE], indirect=True)
def test_nobody_speaks_in_the_name_of_another_pod_out_of_a_packet(two: Two, family: Family, xdp: bool) -> None:
    two.service(family)
    two.front.home.ip("route", "replace", f"{family.unheard}7", "via", "10.200.0.9" if family is V4 else "fd20::9")
    went = two.front.arrives(sent(f"{family.unheard}7", family.vip, TCP, segment(TCP, 40000, PORT)), xdp=xdp)
    assert two.back.arrives(moved(went), xdp=xdp).headers.to == pod(family)
    two.back.flows().clear()
    two.back.forget_connections()
    two.back.net.prefix(f"{family.unheard}7/{32 if family is V4 else 128}", 301)
    data = moved(went)
    assert two.back.arrives(data, xdp=xdp) == Went("pass", data, "from_netdev")
    assert not two.back.flows()


@families
@pytest.mark.parametrize("mode", [IPIP, GENEVE], indirect=True)
@pytest.mark.parametrize(
    ("identity", "heard"), [(1, True), (6, True), (7, True), (1 << 24 | 5, True), (301, False), (4, False), (5, False)]
)
def test_only_nodes_send_packets_in_packets(two: Two, family: Family, identity: int, heard: bool) -> None:
    """Nodes that are not known to be any belong to the world, as far as is known."""
    two.service(family)
    data = moved(two.front.arrives(request(family)))
    two.back.net.prefix(f"{family.node}/{32 if family is V4 else 128}", identity)
    came = two.back.arrives(data)
    assert came.action == "pass"
    assert (came.frame != data) is heard
    assert bool(two.back.flows()) is heard


@families
@pytest.mark.parametrize("mode", [IPIP, GENEVE], indirect=True)
def test_what_has_just_been_answered_is_not_told_again(two: Two, family: Family) -> None:
    """Its row keeps the way back, which the answer has found."""
    two.service(family, UDP)
    data = moved(two.front.arrives(request(family, UDP)))
    two.back.net.into(two.back.arrives(data).frame, came_in=two.back.eth0)

    def kept() -> bool:
        two.back.pod_sends(sealed(frame(pod(family), family.client, UDP, segment(UDP, BACKEND_PORT, 40000))))
        answered = two.back.maps[lb.FLOWS.name].dump()
        two.back.arrives(data)
        return two.back.maps[lb.FLOWS.name].dump() == answered

    assert any(kept() for _ in range(3)), "the clock of programs ticks once in a second"


@families
@protocols
def test_the_last_frontend_that_was_asked_for_answers(two: Two, family: Family, protocol: int) -> None:
    """A client may use its port for another one, which leads to the same backend."""
    backend = (Backend(9, pod(family), BACKEND_PORT, local=True),)
    two.service(family, protocol)
    for node in two:
        local = backend if node is two.back else (backend[0]._replace(local=False),)
        node.service(2, family.vip, PORT + 1, local, protocol=protocol, flags=DSR)
    for port in (PORT, PORT + 1, PORT):
        asked = sent(family.client, family.vip, protocol, segment(protocol, 40000, port))
        came = two.back.arrives(moved(two.front.arrives(asked)))
        two.back.net.into(came.frame, came_in=two.back.eth0)
        answer = segment(protocol, BACKEND_PORT, 40000, SYN | ACK)
        went = two.back.pod_sends(sealed(frame(pod(family), family.client, protocol, answer)))
        assert went.headers.ends == (family.vip, port, family.client, 40000)


@families
@ways
def test_a_stranger_cannot_have_the_pod_speak_in_anybodys_name(two: Two, family: Family, xdp: bool) -> None:
    """Only frontends of services that are answered directly are believed."""
    two.service(family)
    went = two.front.arrives(request(family), xdp=xdp)
    for flags in (OUTSIDE, None):
        if flags is None:
            two.back.maps[lb.SERVICES.name].delete_batch(list(two.back.maps[lb.SERVICES.name].dump()))
        else:
            two.service(family, flags=flags)
        came = two.back.arrives(moved(went), xdp=xdp)
        assert came.action == "pass"
        assert not two.back.flows()


@families
@ways
def test_what_is_for_nobody_here_is_left_alone(two: Two, family: Family, xdp: bool) -> None:
    two.service(family)
    went = two.front.arrives(request(family), xdp=xdp)
    table = two.back.maps[endpoints.ADDRESS_SPEC.name]
    table.delete_batch(list(table.dump()))
    data = moved(went)
    assert two.back.arrives(data, xdp=xdp) == Went("pass", data, "from_netdev")
    assert not two.back.flows()


@families
@ways
@protocols
def test_what_does_not_fit_with_what_is_added_is_answered(
    two: Two, family: Family, xdp: bool, protocol: int, mode: int
) -> None:
    two.service(family, protocol)
    v4 = family is V4
    extra = {OPTION: 8 if v4 else 24, IPIP: 20 if v4 else 40, GENEVE: 62 if v4 else 94}
    head = (20 if family is V4 else 40) + (20 if protocol == TCP else 8)
    fits = two.front.arrives(request(family, protocol, payload=bytes(1500 - head - extra[mode])), xdp=xdp)
    assert len(fits.frame) == 1514
    two.front.maps[lb.FLOWS.name].delete_batch(list(two.front.maps[lb.FLOWS.name].dump()))
    went = two.front.arrives(request(family, protocol, payload=bytes(1501 - head - extra[mode])), xdp=xdp)
    assert (went.headers.source, went.headers.to) == (family.vip, family.client)
    assert went.headers.body[:2] == (b"\x03\x04" if family is V4 else b"\x02\x00")
    assert struct.unpack_from(">I", went.headers.body, 4) == (1500 - extra[mode],)


@families
@ways
def test_an_error_for_the_backend_is_sent_on(two: Two, family: Family, xdp: bool) -> None:
    """Somebody between the client and the pod tells the service, which has answered, as far as it knows."""
    two.service(family)
    two.front.arrives(request(family), xdp=xdp)
    answer = sent(family.vip, family.client, TCP, tcp(PORT, 40000, SYN | ACK))
    kind = 1 if family is V4 else 58
    body = struct.pack(">BBHI", 3 if family is V4 else 1, 1, 0, 0) + answer[14:]
    went = two.front.arrives(sent(family.other_client, family.vip, kind, body), xdp=xdp)
    assert (went.action, went.headers.source, went.headers.to) == ("forward", family.other_client, pod(family))
    assert went.headers.sums_hold
    inner = read(ethernet(went.headers.body[8:], 0x0800 if family is V4 else 0x86DD))
    assert inner.ends == (pod(family), BACKEND_PORT, family.client, 40000)


@ways
def test_sctp_goes_as_well_where_ports_may_stay(two: Two, xdp: bool) -> None:
    two.service(V4, SCTP, port=PORT)
    went = two.front.arrives(sent(V4.client, V4.vip, SCTP, sctp(40000, PORT)), xdp=xdp)
    came = two.back.arrives(moved(went), xdp=xdp)
    assert came.headers.ends == (V4.client, 40000, pod(V4), PORT)
