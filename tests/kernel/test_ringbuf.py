"""Records through the ring: in order, whole, across its end, and counted when there is no room."""

import pytest

from datapath.maps.state import MonitorFlags
from tests.support.kernel import SIZES, WORLD4, A, Node
from tests.support.packets import UDP, frame, udp

pytestmark = pytest.mark.root

STRIDE = 136
ROOM = SIZES["cplane_events"] // STRIDE


def _drops(net: Node, count: int, start: int = 0) -> None:
    """`count` drop records; their source ports count up."""
    net.datapath.set_monitor(MonitorFlags.DROP)
    for number in range(start, start + count):
        net.out(frame(A.ipv4, WORLD4, UDP, udp(number % 60_000 + 1, 53)))


def test_an_empty_ring_gives_nothing(net: Node) -> None:
    assert net.datapath.ring.drain(10).size == 0
    assert net.datapath.ring.pending == 0


def test_records_come_in_order_and_in_the_portions_asked_for(net: Node) -> None:
    _drops(net, 10)
    ring = net.datapath.ring
    assert ring.pending == 10 * STRIDE
    assert ring.drain(0).size == 0
    portions = [ring.drain(4)["sport"].tolist() for _ in range(4)]
    assert portions == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10], []]


def test_records_across_the_end_of_the_ring_are_whole(net: Node) -> None:
    for start in range(0, ROOM * 5, ROOM // 3):
        _drops(net, ROOM // 3, start)
        batch = net.datapath.ring.drain(ROOM)
        assert batch["sport"].tolist() == [n % 60_000 + 1 for n in range(start, start + ROOM // 3)]
        assert set(batch["type"].tolist()) == {1}
        assert set(batch["src_identity"].tolist()) == {A.identity}


def test_what_finds_the_ring_full_is_counted_and_the_oldest_stay(net: Node) -> None:
    lost = net.datapath.lost
    _drops(net, ROOM + 50)
    kept = net.datapath.ring.drain(1 << 20)
    assert kept["sport"].tolist() == list(range(1, len(kept) + 1))
    assert len(kept) + net.datapath.lost - lost == ROOM + 50
    assert net.datapath.lost > lost
    _drops(net, 1)
    assert net.datapath.ring.drain(10).size == 1


def test_drained_records_do_not_change_when_the_kernel_goes_on(net: Node) -> None:
    _drops(net, 5)
    batch = net.datapath.ring.drain(5)
    _drops(net, ROOM, 1000)
    assert batch["sport"].tolist() == [1, 2, 3, 4, 5]
