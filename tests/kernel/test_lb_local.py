"""Services for clients outside whose backends are on this node: they see the client, who sees the service."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from datapath.maps import lb
from datapath.maps.lb import FlowFlags, LbFlags, LbKind
from tests.support.headers import sealed
from tests.support.kernel import A, Pod
from tests.support.lb_tables import Backend
from tests.support.outside import CLIENT_MAC, ETH0_MAC, FAMILIES, OUTSIDE, V4, Family, Outside, Went, outside, sent
from tests.support.packets import ACK, RST, SYN, TCP, UDP, frame, packed, tcp, udp

pytestmark = pytest.mark.root

families = pytest.mark.parametrize("family", FAMILIES, ids=repr)
ways = pytest.mark.parametrize("xdp", [False, True], ids=["tcx", "xdp"])
PORT, BACKEND_PORT = 80, 8080


@pytest.fixture(scope="module")
def shared(cache: Path) -> Iterator[Outside]:
    with outside("local", cache, lb=1) as made:
        yield made


@pytest.fixture
def net(shared: Outside) -> Outside:
    """No services, nothing remembered; pod A may talk to everybody."""
    shared.reset()
    shared.net.allow_all(A)
    return shared


def own(pod: Pod, family: Family) -> str:
    return pod.ipv4 if family is V4 else pod.ipv6


def in_pod(family: Family) -> tuple[Backend, ...]:
    """Pod A, as a backend."""
    return (Backend(9, own(A, family), BACKEND_PORT, local=True),)


def request(family: Family, sport: int = 40000, flags: int = SYN, *, client: str = "", to: str = "") -> bytes:
    return sent(client or family.client, to or family.vip, TCP, tcp(sport, PORT, flags, b"hello"))


def from_pod(family: Family, sport: int = 40000, flags: int = SYN | ACK, *, client: str = "") -> bytes:
    """What pod A answers."""
    return sealed(frame(own(A, family), client or family.client, TCP, tcp(BACKEND_PORT, sport, flags, b"hi")))


def opened(net: Outside, family: Family, *, xdp: bool = False, sport: int = 40000) -> Went:
    """A request reaches pod A's device, which judges it."""
    went = net.arrives(request(family, sport), xdp=xdp)
    assert net.net.into(went.frame, came_in=net.eth0).action == 0
    return went


@families
@ways
def test_the_pod_sees_the_client(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, in_pod(family))
    went = net.arrives(request(family), xdp=xdp)
    assert (went.action, went.took) == ("pass", "from_netdev")
    assert went.headers.ends == (family.client, 40000, own(A, family), BACKEND_PORT)
    assert went.headers.sums_hold
    assert went.headers.ttl == 64, "the stack forwards it"


@families
@ways
def test_the_client_sees_the_service(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, in_pod(family))
    opened(net, family, xdp=xdp)
    went = net.pod_sends(from_pod(family))
    assert went.action == "forward"
    assert went.headers.ends == (family.vip, PORT, family.client, 40000)
    assert went.headers.sums_hold
    assert went.headers.ttl == 63
    assert went.frame[:12] == CLIENT_MAC + ETH0_MAC


@families
def test_a_node_port_answers_by_the_address_that_was_asked(net: Outside, family: Family) -> None:
    net.service(1, family.any, 30080, in_pod(family), kind=LbKind.NODE_PORT)
    data = sent(family.client, family.far_node, TCP, tcp(40000, 30080))
    assert net.net.into(net.arrives(data).frame, came_in=net.eth0).action == 0
    went = net.pod_sends(from_pod(family))
    assert went.headers.ends == (family.far_node, 30080, family.client, 40000)


@families
def test_what_the_pod_opens_itself_is_left_alone(net: Outside, family: Family) -> None:
    net.service(1, family.vip, PORT, in_pod(family))
    opened(net, family)
    data = from_pod(family, 40001, SYN)
    assert net.pod_sends(data) == Went("pass", data, "from_container")


@families
def test_a_pod_that_policy_forbids_to_answer_does_not(net: Outside, family: Family) -> None:
    net.service(1, family.vip, PORT, in_pod(family))
    net.arrives(request(family))
    net.net.reset()
    assert net.pod_sends(from_pod(family)).action == "drop"


@families
def test_policy_meets_the_client_at_the_backends_port(net: Outside, family: Family) -> None:
    net.net.reset()
    net.net.rule(A, 0, 2, TCP, BACKEND_PORT)
    net.service(1, family.vip, PORT, in_pod(family))
    assert net.net.into(net.arrives(request(family)).frame, came_in=net.eth0).action == 0
    assert net.net.into(request(family), came_in=net.eth0).action == 2


@families
@ways
def test_a_backend_that_is_the_node_answers_by_its_stack(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, (Backend(9, family.node, BACKEND_PORT),))
    went = net.arrives(request(family), xdp=xdp)
    assert went.action == "pass"
    assert went.headers.ends == (family.client, 40000, family.node, BACKEND_PORT)
    back = net.leaves(sent(family.node, family.client, TCP, tcp(BACKEND_PORT, 40000, SYN | ACK)))
    assert back.action == "pass"
    assert back.headers.ends == (family.vip, PORT, family.client, 40000)
    assert back.headers.sums_hold


@families
def test_what_the_node_says_by_itself_is_left_alone(net: Outside, family: Family) -> None:
    net.service(1, family.vip, PORT, (Backend(9, family.node, BACKEND_PORT),))
    net.arrives(request(family))
    for data in (
        sent(family.node, family.client, TCP, tcp(BACKEND_PORT, 40001, SYN | ACK)),
        sent(family.node, family.other_client, TCP, tcp(BACKEND_PORT, 40000, SYN | ACK)),
        sent(family.node, family.client, UDP, udp(BACKEND_PORT, 40000)),
    ):
        assert net.leaves(data) == Went("pass", data, "to_netdev")


@families
def test_what_is_only_forwarded_is_left_alone_on_the_way_out(net: Outside, family: Family) -> None:
    net.service(1, family.vip, PORT, (Backend(9, family.node, BACKEND_PORT),))
    net.arrives(request(family))
    data = sent(family.node, family.client, TCP, tcp(BACKEND_PORT, 40000, SYN | ACK))
    assert net.leaves(data, came_in=net.eth1) == Went("pass", data, "to_netdev")


@families
@ways
def test_nobody_outside_answers_for_a_pod(net: Outside, family: Family, xdp: bool) -> None:
    net.service(1, family.vip, PORT, in_pod(family))
    opened(net, family, xdp=xdp)
    data = sent(own(A, family), family.client, TCP, tcp(BACKEND_PORT, 40000, RST))
    assert net.arrives(data, xdp=xdp) == Went("pass", data, "from_netdev")


@families
@ways
def test_with_local_traffic_only_the_nodes_own_backends_are_met(net: Outside, family: Family, xdp: bool) -> None:
    backends = (Backend(5, f"{family.near}5", BACKEND_PORT), *in_pod(family))
    net.service(1, family.vip, PORT, backends, flags=OUTSIDE | LbFlags.EXTERNAL_LOCAL)
    for sport in range(40000, 40030):
        assert net.arrives(request(family, sport), xdp=xdp).headers.to == own(A, family)


@families
@ways
def test_with_local_traffic_and_no_backend_here_there_is_none(net: Outside, family: Family, xdp: bool) -> None:
    net.service(
        1,
        family.vip,
        PORT,
        (Backend(5, f"{family.near}5", BACKEND_PORT),),
        flags=OUTSIDE | LbFlags.EXTERNAL_LOCAL | LbFlags.DROP,
    )
    assert net.arrives(request(family), xdp=xdp).action == "drop"
    assert net.net.dropped() == [158]


@families
@ways
def test_backends_here_and_there_have_their_shares(net: Outside, family: Family, xdp: bool) -> None:
    backends = (*(Backend(n, f"{family.near}{n}", BACKEND_PORT) for n in (5, 6, 7)), *in_pod(family))
    net.service(1, family.vip, PORT, backends)
    seen = [net.arrives(request(family, sport), xdp=xdp).headers.to for sport in range(30000, 30400)]
    for address in {one.address for one in backends}:
        assert 60 <= seen.count(address) <= 140, address


@families
def test_two_services_that_lead_to_one_pod_keep_apart(net: Outside, family: Family) -> None:
    """A client may use one port for both: the pod would take them for one connection."""
    other = "203.0.113.81" if family is V4 else "2001:db8:80::81"
    net.service(1, family.vip, PORT, in_pod(family))
    net.service(2, other, PORT, in_pod(family))
    first, second = opened(net, family), net.arrives(request(family, to=other))
    assert second.headers.source == family.client
    assert second.headers.sport != 40000
    assert net.net.into(second.frame, came_in=net.eth0).action == 0
    assert net.pod_sends(from_pod(family)).headers.ends == (family.vip, PORT, family.client, 40000)
    again = net.pod_sends(from_pod(family, second.headers.sport))
    assert again.headers.ends == (other, PORT, family.client, 40000)
    assert first.headers.sport == 40000


@families
def test_an_answer_keeps_the_requests_row_alive(net: Outside, family: Family) -> None:
    net.service(1, family.vip, PORT, in_pod(family))
    opened(net, family)
    there = next(key for key, flow in net.flows().items() if not flow.flags & FlowFlags.REVERSE)
    net.maps[lb.FLOWS.name].delete(there.pack())
    net.pod_sends(from_pod(family, flags=ACK))
    assert net.flows()[there].daddr == packed(own(A, family)).ljust(16, b"\0")
