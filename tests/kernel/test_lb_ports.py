"""The ports that stand for those of clients: what happens when there are none left, and what makes room again."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from datapath.gc import conntrack as clock
from datapath.maps import lb
from datapath.maps.ipcache import FAMILY_V4, FAMILY_V6
from datapath.maps.lb import Flow, FlowFlags, FlowKey
from tests.support.kernel import SIZES
from tests.support.lb_tables import Backend
from tests.support.outside import FAMILIES, V4, Family, Outside, outside, sent
from tests.support.packets import ACK, TCP, packed, tcp

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
