"""Which backend a client outside is sent to: by Maglev's table, at random, and where it was before."""

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cplane.domain import maglev
from cplane.domain.jhash import flow_hash
from cplane.domain.service import MAGLEV_SEED
from datapath.gc import conntrack as clock
from datapath.maps import lb
from datapath.maps.lb import LbFlags, MemberKey
from tests.support.lb_tables import Backend
from tests.support.outside import FAMILIES, OUTSIDE, V4, Family, Outside, outside, sent
from tests.support.packets import ACK, SYN, TCP, UDP, packed, tcp, udp

pytestmark = pytest.mark.root

families = pytest.mark.parametrize("family", FAMILIES, ids=repr)
ways = pytest.mark.parametrize("xdp", [False, True], ids=["tcx", "xdp"])
PORT = 80
SIZE = 251
SEED = maglev.parse_seed(MAGLEV_SEED)
MAGLEV = OUTSIDE | LbFlags.MAGLEV


@pytest.fixture(scope="module")
def shared(cache: Path) -> Iterator[Outside]:
    with outside("choice", cache, maglev_size=SIZE) as made:
        yield made


@pytest.fixture
def net(shared: Outside) -> Outside:
    """No services, nothing remembered."""
    shared.reset()
    return shared


def behind(family: Family, count: int) -> tuple[Backend, ...]:
    return tuple(Backend(number, f"{family.near}{number}", 8080) for number in range(1, count + 1))


def table_of(backends: tuple[Backend, ...], protocol: str = "TCP") -> bytes:
    texts = [(one.id, maglev.text_of(one.address, one.port, protocol), 1) for one in backends]
    return maglev.table(texts, SIZE, SEED.murmur)


def chosen(net: Outside, family: Family, sport: int, *, xdp: bool = False, client: str = "", flags: int = SYN) -> str:
    data = sent(client or family.client, family.vip, TCP, tcp(sport, PORT, flags))
    return net.arrives(data, xdp=xdp).headers.to


def forget(net: Outside) -> None:
    """All connections."""
    table = net.maps[lb.FLOWS.name]
    table.delete_batch(list(table.dump()))


@families
@ways
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_the_place_in_the_table_is_that_of_the_hash(net: Outside, family: Family, xdp: bool, protocol: int) -> None:
    """The table names each of its places, so the place that a packet has chosen can be told."""
    places = struct.pack(f"<{SIZE}I", *range(1, SIZE + 1))
    backends = behind(family, SIZE)
    net.service(1, family.vip, PORT, backends, flags=MAGLEV, protocol=protocol, table=places)
    seed = SEED.jhash0 if family is V4 else SEED.jhash1
    for sport in (1, 80, 255, 256, 32768, 40000, 65535):
        segment = tcp(sport, PORT) if protocol == TCP else udp(sport, PORT)
        seen = net.arrives(sent(family.client, family.vip, protocol, segment), xdp=xdp).headers.to
        place = flow_hash(packed(family.client), sport, PORT, protocol, seed) % SIZE
        assert seen == backends[place].address


@families
def test_every_backend_has_its_share(net: Outside, family: Family) -> None:
    backends = behind(family, 5)
    net.service(1, family.vip, PORT, backends, flags=MAGLEV, table=table_of(backends))
    seen = Counter(chosen(net, family, sport) for sport in range(40000, 40400))
    forget(net)
    assert set(seen) == {one.address for one in backends}
    assert all(40 <= count <= 120 for count in seen.values()), seen


@families
@ways
def test_another_node_sends_a_client_to_the_same_backend(net: Outside, family: Family, xdp: bool) -> None:
    """In the middle of a connection of which it has never heard."""
    backends = behind(family, 5)
    net.service(1, family.vip, PORT, backends, flags=MAGLEV, table=table_of(backends))
    before = {sport: chosen(net, family, sport, xdp=xdp) for sport in range(40000, 40040)}
    forget(net)
    assert {sport: chosen(net, family, sport, xdp=xdp, flags=ACK) for sport in before} == before


@families
def test_a_backend_that_is_in_the_table_yet_but_gone_is_not_chosen(net: Outside, family: Family) -> None:
    backends = behind(family, 2)
    net.service(1, family.vip, PORT, backends, flags=MAGLEV, table=table_of(backends))
    net.forget_backend(2, 1, 2)
    assert {chosen(net, family, sport) for sport in range(40000, 40040)} == {backends[0].address}


@families
def test_without_a_table_the_choice_is_random(net: Outside, family: Family) -> None:
    backends = behind(family, 2)
    net.service(1, family.vip, PORT, backends, flags=MAGLEV)
    assert {chosen(net, family, sport) for sport in range(40000, 40040)} == {one.address for one in backends}


@families
@ways
@pytest.mark.parametrize("flags", [OUTSIDE, MAGLEV], ids=["random", "maglev"])
def test_a_client_stays_with_its_backend(net: Outside, family: Family, xdp: bool, flags: LbFlags) -> None:
    backends = behind(family, 20)
    net.service(1, family.vip, PORT, backends, flags=flags, affinity_s=60, table=table_of(backends))
    first = chosen(net, family, 40000, xdp=xdp)
    assert {chosen(net, family, sport, xdp=xdp) for sport in range(40001, 40030)} == {first}
    others = {f"{family.near}{number}" for number in range(200, 230)}
    assert len({chosen(net, family, 40000, xdp=xdp, client=other) for other in others}) > 1


@families
def test_a_client_is_forgotten_in_time(net: Outside, family: Family) -> None:
    net.service(1, family.vip, PORT, behind(family, 20), affinity_s=60)
    first = chosen(net, family, 40000)
    table = net.maps[lb.AFFINITY.name]
    for key, value in table.dump().items():
        (backend, used) = struct.unpack("<2I", value)
        assert abs(used - clock.now_s()) <= 1
        table.update(key, struct.pack("<2I", backend, used - 59))
    assert chosen(net, family, 40001) == first
    seen = set()
    for sport in range(40100, 40130):
        for key in table.dump():
            table.update(key, struct.pack("<2I", 1, clock.now_s() - 61))
        seen.add(chosen(net, family, sport))
    assert len(seen) > 1


@families
def test_a_client_does_not_stay_with_who_is_no_member_any_more(net: Outside, family: Family) -> None:
    backends = behind(family, 20)
    net.service(1, family.vip, PORT, backends, affinity_s=60)
    first = chosen(net, family, 40000)
    number = next(one.id for one in backends if one.address == first)
    net.maps[lb.MEMBERS.name].delete(MemberKey(1, number).pack())
    assert any(chosen(net, family, sport) != first for sport in range(40001, 40020))


@families
def test_maglev_with_affinity_does_not_look_at_the_clients_port(net: Outside, family: Family) -> None:
    """So all nodes send all of a client's connections to the same backend, without telling each other."""
    backends = behind(family, 20)
    net.service(1, family.vip, PORT, backends, flags=MAGLEV, affinity_s=60, table=table_of(backends))
    seen = set()
    for sport in range(40000, 40020):
        seen.add(chosen(net, family, sport))
        table = net.maps[lb.AFFINITY.name]
        table.delete_batch(list(table.dump()))
    assert len(seen) == 1
    seed = SEED.jhash0 if family is V4 else SEED.jhash1
    place = flow_hash(packed(family.client), 0, PORT, TCP, seed) % SIZE
    number = struct.unpack(f"<{SIZE}I", table_of(backends))[place]
    assert seen == {f"{family.near}{number}"}
