"""The ports that stand for those of clients: what happens when there are none left, and what makes room again."""

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from datapath.gc import conntrack as clock
from datapath.maps import lb
from datapath.maps.ipcache import FAMILY_V4, FAMILY_V6
from datapath.maps.lb import Flow, FlowFlags, FlowKey
from tests.support.kernel import SIZES
from tests.support.lb_tables import Backend
from tests.support.outside import FAMILIES, V4, Family, Outside, Went, outside, sent
from tests.support.packets import ACK, SYN, TCP, UDP, packed, tcp, udp

pytestmark = pytest.mark.root

families = pytest.mark.parametrize("family", FAMILIES, ids=repr)
ways = pytest.mark.parametrize("xdp", [False, True], ids=["tcx", "xdp"])
ALL = range(32_768, 65_536)


@pytest.fixture(scope="module")
def shared(cache: Path) -> Iterator[Outside]:
    with outside("ports", cache, SIZES | {lb.FLOWS.name: 131_072}) as made:
        yield made


@pytest.fixture
def net(shared: Outside, request: pytest.FixtureRequest) -> Outside:
    """A service with one backend."""
    shared.reset()
    family: Family = request.getfixturevalue("family")
    shared.service(1, family.vip, 80, (Backend(5, f"{family.near}5", 8080),))
    return shared


def take(net: Outside, family: Family, ports: Sequence[int], lifetime: int) -> None:
    """The node's ports towards the backend are those of connections of somebody else."""
    number = FAMILY_V4 if family is V4 else FAMILY_V6
    backend, node, vip, other = (
        packed(address).ljust(16, b"\0")
        for address in (f"{family.near}5", family.node, family.vip, family.other_client)
    )
    keys = [FlowKey(backend, node, 8080, port, TCP, number).pack() for port in ports]
    row = Flow(vip, other, 80, 7, lifetime, 0, 5, 1, FlowFlags.SNAT | FlowFlags.REVERSE).pack()
    net.maps[lb.FLOWS.name].update_batch(keys, [row] * len(keys))


def asks(net: Outside, family: Family, xdp: bool, sport: int = 40_000) -> str:
    return net.arrives(sent(family.client, family.vip, TCP, tcp(sport, 80)), xdp=xdp).action


@families
@ways
def test_without_a_free_port_a_connection_is_dropped(net: Outside, family: Family, xdp: bool) -> None:
    take(net, family, ALL, clock.now_s() + 1000)
    assert {asks(net, family, xdp, sport) for sport in (1, 40_000, 65_535)} == {"drop"}
    assert set(net.net.dropped()) == {167}


@families
@ways
def test_ports_of_connections_that_have_run_out_are_free(net: Outside, family: Family, xdp: bool) -> None:
    take(net, family, ALL, clock.now_s() - 1)
    assert {asks(net, family, xdp, sport) for sport in (1, 40_000, 65_535)} == {"forward"}


@families
@ways
def test_one_port_in_sixteen_is_found(net: Outside, family: Family, xdp: bool) -> None:
    """At latest at the second packet, as clients send their first one again."""
    take(net, family, [port for port in ALL if port % 16], clock.now_s() + 1000)
    for sport in range(1, 60):
        assert any(asks(net, family, xdp, sport) == "forward" for _ in range(8))


@families
def test_a_connection_that_there_is_keeps_its_port_when_all_are_taken(net: Outside, family: Family) -> None:
    first = net.arrives(sent(family.client, family.vip, TCP, tcp(40_000, 80)))
    take(net, family, [port for port in ALL if port != first.headers.sport], clock.now_s() + 1000)
    again = net.arrives(sent(family.client, family.vip, TCP, tcp(40_000, 80, ACK)))
    assert again.headers.ends == first.headers.ends


protocols = pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])


def segment(protocol: int, sport: int, dport: int, flags: int = SYN) -> bytes:
    return tcp(sport, dport, flags, b"hello") if protocol == TCP else udp(sport, dport, b"hello")


def own(net: Outside, family: Family, protocol: int, sport: int, flags: int = SYN) -> Went:
    """The node itself talks to the backend."""
    return net.leaves(sent(family.node, f"{family.near}5", protocol, segment(protocol, sport, 8080, flags)))


@families
@ways
@protocols
def test_a_port_of_a_socket_of_the_node_does_not_stand_for_a_client(
    net: Outside, family: Family, xdp: bool, protocol: int
) -> None:
    net.service(1, family.vip, 80, (Backend(5, f"{family.near}5", 8080),), protocol=protocol)
    kind = socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM

    def bound() -> socket.socket:
        one = socket.socket(socket.AF_INET if family is V4 else socket.AF_INET6, kind)
        one.setblocking(False)
        one.bind((family.node, 40_000))
        one.connect_ex((f"{family.near}5", 8080))
        return one

    ask = sent(family.client, family.vip, protocol, segment(protocol, 40_000, 80))
    with net.home.run(bound):
        seen = net.arrives(ask, xdp=xdp).headers
        assert seen.source == family.node
        assert seen.sport != 40_000
    net.forget_connections()
    assert net.arrives(ask, xdp=xdp).headers.sport == 40_000


@families
@ways
@protocols
def test_a_connection_of_the_node_with_the_port_of_a_client_gets_another(
    net: Outside, family: Family, xdp: bool, protocol: int
) -> None:
    backend = f"{family.near}5"
    net.service(1, family.vip, 80, (Backend(5, backend, 8080),), protocol=protocol)
    assert net.arrives(sent(family.client, family.vip, protocol, segment(protocol, 40_000, 80))).headers.sport == 40_000
    for flags in (SYN, SYN, ACK):
        went = own(net, family, protocol, 40_000, flags)
        assert (went.action, went.headers.source, went.headers.to) == ("pass", family.node, backend)
        assert went.headers.sport != 40_000
        assert went.headers.dport == 8080
        assert went.headers.sums_hold
    ports = {went.headers.sport}
    back = segment(protocol, 8080, went.headers.sport, ACK)
    answer = net.arrives(sent(backend, family.node, protocol, back), xdp=xdp)
    assert (answer.action, answer.took) == ("pass", "from_netdev")
    assert answer.headers.ends == (backend, 8080, family.node, 40_000)
    assert answer.headers.sums_hold
    assert own(net, family, protocol, 40_000, ACK).headers.sport in ports
    to_client = net.arrives(sent(backend, family.node, protocol, segment(protocol, 8080, 40_000, ACK)), xdp=xdp)
    assert to_client.headers.ends == (family.vip, 80, family.client, 40_000), "and the client keeps its own"


@families
@protocols
def test_other_connections_of_the_node_are_left_alone(net: Outside, family: Family, protocol: int) -> None:
    net.service(1, family.vip, 80, (Backend(5, f"{family.near}5", 8080),), protocol=protocol)
    net.arrives(sent(family.client, family.vip, protocol, segment(protocol, 40_000, 80)))
    before = net.flows().keys()
    for sport, flags in ((40_001, SYN), (40_001, ACK)):
        data = sent(family.node, f"{family.near}5", protocol, segment(protocol, sport, 8080, flags))
        assert net.leaves(data) == Went("pass", data, "to_netdev")
    assert net.flows().keys() == before


@families
@ways
def test_nobody_outside_speaks_for_the_node(net: Outside, family: Family, xdp: bool) -> None:
    """What reads like a connection of the node's own, and comes in, is left alone."""
    net.arrives(sent(family.client, family.vip, TCP, tcp(40_000, 80)))
    own(net, family, TCP, 40_000)
    data = sent(family.node, f"{family.near}5", TCP, segment(TCP, 40_000, 8080))
    assert net.arrives(data, xdp=xdp) == Went("pass", data, "from_netdev")
