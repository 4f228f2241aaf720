"""Clients outside, real ones: a node port over a wire, with backends on the node that is asked and on another."""

import errno
import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from datapath.maps.lb import FlowFlags, LbFlags, LbKind
from tests.support.echo import Said, asked, echo, opened, said
from tests.support.kernel import Pod
from tests.support.lb_tables import Backend
from tests.support.netns import Namespace
from tests.support.packets import TCP, UDP
from tests.support.wire import CLIENT4, CLIENT6, Wire, wire

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

NODE_PORT, PORT = 30080, 8080
MANY = 2000
MUCH = 2_000_000
UDP_SEGMENT = 103  # a socket option, which Python does not name
VIPS = {4: "203.0.113.80", 6: "2001:db8:80::80"}
KINDS = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
versions = pytest.mark.parametrize("version", [4, 6], ids=["v4", "v6"])
protocols = pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
ways = pytest.mark.parametrize("xdp", [False, True], ids=["tcx", "xdp"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module", autouse=True)
def _descriptors() -> Iterator[None]:
    """Room for both ends of many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def shared(cache: Path) -> Iterator[Wire]:
    """Two pods on each node, which all answer."""
    with wire(cache, {"a": 2, "b": 2}, {"lb": 1}) as made, ExitStack() as stack:
        for site in (made.a, made.b):
            for name, (pod, netns) in site.pods.items():
                stack.enter_context(echo(name, netns, (pod.ipv4, pod.ipv6), PORT))
        yield made


@pytest.fixture
def net(shared: Wire) -> Wire:
    """No services, nothing remembered."""
    for site in (shared.a, shared.b):
        site.services.forget_connections()
    return shared


def address(pod: Pod, version: int) -> str:
    return pod.ipv4 if version == 4 else pod.ipv6


def backends(net: Wire, version: int, *names: str) -> tuple[Backend, ...]:
    """Pods by their names, those of node a last, as it is the one that is asked."""
    pods = {name: pod for site in (net.a, net.b) for name, (pod, _) in site.pods.items()}
    numbers = {name: number for number, name in enumerate(sorted(pods), 1)}
    return tuple(
        Backend(numbers[name], address(pods[name], version), PORT, name in net.a.pods)
        for name in sorted(names, reverse=True)
    )


def node_port(net: Wire, version: int, protocol: int, *names: str, flags: LbFlags = LbFlags.OUTSIDE) -> str:
    """A node port of node a; its address."""
    anywhere = "0.0.0.0" if version == 4 else "::"
    net.a.services.service(
        version * 10 + (protocol == UDP),
        anywhere,
        NODE_PORT,
        backends(net, version, *names),
        protocol=protocol,
        kind=LbKind.NODE_PORT,
        flags=flags,
    )
    net.a.net.datapath.bump_epoch()
    return net.a.address(version)


def client(version: int) -> str:
    return CLIENT4 if version == 4 else CLIENT6


@versions
@protocols
@ways
def test_a_backend_of_another_node_sees_the_node(net: Wire, version: int, protocol: int, xdp: bool) -> None:
    net.serve(xdp=xdp)
    at = node_port(net, version, protocol, "b0")
    for _ in range(3):
        name, seen, _port = asked(net.client, at, NODE_PORT, KINDS[protocol])
        assert (name, seen) == ("b0", net.a.address(version))


@versions
@protocols
@ways
def test_a_backend_of_the_node_sees_the_client(net: Wire, version: int, protocol: int, xdp: bool) -> None:
    net.serve(xdp=xdp)
    at = node_port(net, version, protocol, "a1")
    for _ in range(3):
        name, seen, _port = asked(net.client, at, NODE_PORT, KINDS[protocol])
        assert (name, seen) == ("a1", client(version))


@versions
@protocols
def test_an_xdp_program_forwards_by_itself(net: Wire, version: int, protocol: int) -> None:
    net.serve(xdp=True)
    at = node_port(net, version, protocol, "b0")
    asked(net.client, at, NODE_PORT, KINDS[protocol])  # neighbours are known afterwards
    net.a.netns.run(lambda: net.a.net.datapath.detach_netdev(net.a.eth0))
    assert asked(net.client, at, NODE_PORT, KINDS[protocol])[0] == "b0"
    net.a.netns.run(lambda: net.a.net.datapath.detach_xdp(net.a.eth0))
    with pytest.raises(OSError, match="refused"):
        asked(net.client, at, NODE_PORT, KINDS[protocol])


@versions
@protocols
def test_all_backends_are_reached(net: Wire, version: int, protocol: int) -> None:
    net.serve()
    at = node_port(net, version, protocol, "a0", "a1", "b0", "b1")
    names = Counter(asked(net.client, at, NODE_PORT, KINDS[protocol])[0] for _ in range(80))
    assert set(names) == {"a0", "a1", "b0", "b1"}


@versions
@ways
def test_an_address_that_is_nobodys_is_served(net: Wire, version: int, xdp: bool) -> None:
    net.serve(xdp=xdp)
    family, bits = ("-4", 32) if version == 4 else ("-6", 128)
    net.client.ip(family, "route", "replace", f"{VIPS[version]}/{bits}", "via", net.a.address(version))
    net.a.services.service(1, VIPS[version], 80, backends(net, version, "a0", "b0"))
    seen = {asked(net.client, VIPS[version], 80, socket.SOCK_STREAM)[0] for _ in range(30)}
    assert seen == {"a0", "b0"}


@versions
@ways
@pytest.mark.parametrize("name", ["a0", "b0"])
def test_much_goes_through_whole(net: Wire, version: int, xdp: bool, name: str) -> None:
    """More than fits a packet, so segments of any size, and acknowledgements either way."""
    net.serve(xdp=xdp)
    at = node_port(net, version, TCP, name)
    assert net.client.run(lambda: much(at, NODE_PORT)) == MUCH


def much(address: str, port: int) -> int:
    """How many of so many bytes a server has got, which the calling thread sends it."""
    with opened(address, port, socket.SOCK_STREAM) as one:
        sending = memoryview(bytes(MUCH))
        while sending:
            sending = sending[one.send(sending[:100_000]) :]
        one.shutdown(socket.SHUT_WR)
        data = b""
        while more := one.recv(65_536):
            data += more
    return sum(int(line.split()[3]) for line in data.splitlines())


@versions
@ways
def test_nobody_behind_it_is_a_refusal_at_once(net: Wire, version: int, xdp: bool) -> None:
    net.serve(xdp=xdp)
    at = node_port(net, version, TCP)
    node_port(net, version, UDP)
    for kind in KINDS.values():
        started = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            asked(net.client, at, NODE_PORT, kind)
        assert time.monotonic() - started < 0.5


@versions
@ways
def test_a_port_that_nobody_listens_to_is_said_to_be_closed(net: Wire, version: int, xdp: bool) -> None:
    """The error comes from the backend, and is about a packet that the client has never sent."""
    net.serve(xdp=xdp)
    for name in ("a0", "b0"):
        (one,) = backends(net, version, name)
        at = node_port(net, version, UDP)
        net.a.services.service(
            version * 10 + 1,
            "0.0.0.0" if version == 4 else "::",
            NODE_PORT,
            (one._replace(port=9),),
            protocol=UDP,
            kind=LbKind.NODE_PORT,
        )
        net.a.services.forget_connections()
        with pytest.raises(ConnectionRefusedError):
            asked(net.client, at, NODE_PORT, socket.SOCK_DGRAM)


@versions
@ways
def test_datagrams_in_pieces_arrive(net: Wire, version: int, xdp: bool) -> None:
    net.serve(xdp=xdp)
    for name in ("a0", "b0"):
        at = node_port(net, version, UDP, name)
        net.a.services.forget_connections()
        assert asked(net.client, at, NODE_PORT, socket.SOCK_DGRAM, size=5000)[0] == name


@versions
def test_the_clients_path_mtu_is_found(net: Wire, version: int) -> None:
    """The way to the backend takes less than the client's: it is told so, and sends less."""
    net.serve()
    at = node_port(net, version, TCP, "b0")
    family = "-4" if version == 4 else "-6"
    prefix = "10.202.0.0/24" if version == 4 else "fd22::/64"
    net.a.netns.ip(family, "route", "change", prefix, "via", net.b.address(version), "mtu", "1400")
    try:
        assert asked(net.client, at, NODE_PORT, socket.SOCK_STREAM, size=20_000)[0] == "b0"
    finally:
        net.a.netns.ip(family, "route", "change", prefix, "via", net.b.address(version))


@versions
@ways
def test_a_backend_that_leaves_takes_its_own_connections_only(net: Wire, version: int, xdp: bool) -> None:
    net.serve(xdp=xdp)
    at = node_port(net, version, TCP, "a0", "a1", "b0", "b1")

    def many() -> list[tuple[socket.socket, Said]]:
        made = [opened(at, NODE_PORT, socket.SOCK_STREAM) for _ in range(MANY)]
        return [(one, said(one)) for one in made]

    held = net.client.run(many)
    try:
        shares = Counter(first[0] for _, first in held)
        assert all(abs(shares[name] - MANY / 4) < MANY / 12 for name in ("a0", "a1", "b0", "b1")), shares
        number = next(one.id for one in backends(net, version, "b1"))
        net.a.services.take_backend(number)
        node_port(net, version, TCP, "a0", "a1", "b0")
        kept, lost = Counter[str](), Counter[str]()
        for one, first in held:
            try:
                assert said(one) == first
                kept[first[0]] += 1
            except ConnectionResetError:  # and no silence
                lost[first[0]] += 1
        assert lost == {"b1": shares["b1"]}
        assert kept == {name: count for name, count in shares.items() if name != "b1"}
        assert {asked(net.client, at, NODE_PORT, socket.SOCK_STREAM)[0] for _ in range(40)} == {"a0", "a1", "b0"}
    finally:
        for one, _ in held:
            one.close()


@versions
def test_a_client_of_datagrams_is_moved_when_its_backend_leaves(net: Wire, version: int) -> None:
    net.serve()
    at = node_port(net, version, UDP, "b0", "b1")
    with net.client.run(lambda: opened(at, NODE_PORT, socket.SOCK_DGRAM)) as one:
        first = said(one)[0]
        other = "b1" if first == "b0" else "b0"
        assert said(one)[0] == first
        net.a.services.take_backend(next(b.id for b in backends(net, version, first)))
        node_port(net, version, UDP, other)
        assert said(one)[0] == other


@versions
@ways
def test_a_backend_that_is_the_node_itself_answers(net: Wire, version: int, xdp: bool) -> None:
    net.serve(xdp=xdp)
    own = net.a.address(version)
    with echo("host", net.a.netns, (own,), 8081):
        for protocol, kind in KINDS.items():
            net.a.services.service(
                version * 10 + (protocol == UDP),
                VIPS[version],
                81,
                (Backend(77, own, 8081, local=True),),
                protocol=protocol,
            )
            family, bits = ("-4", 32) if version == 4 else ("-6", 128)
            net.client.ip(family, "route", "replace", f"{VIPS[version]}/{bits}", "via", own)
            name, seen, _ = asked(net.client, VIPS[version], 81, kind)
            assert (name, seen) == ("host", client(version))


def test_what_is_no_service_is_left_alone(net: Wire) -> None:
    net.serve(xdp=True)
    with echo("host", net.a.netns, (net.a.ipv4,), 9000):
        assert asked(net.client, net.a.ipv4, 9000, socket.SOCK_STREAM)[0] == "host"
        with pytest.raises(OSError) as refused:
            asked(net.client, net.a.ipv4, 9001, socket.SOCK_STREAM)
    assert refused.value.errno == errno.ECONNREFUSED


DISPATCHES = {"opt": 1, "ipip": 2, "geneve": 3}


@pytest.fixture(scope="module", params=DISPATCHES)
def direct(cache: Path, request: pytest.FixtureRequest) -> Iterator[Wire]:
    """Two nodes that answer directly, and a pod of the one that is not asked."""
    configs = {"lb": 1, "dsr_dispatch": DISPATCHES[request.param]}
    with wire(cache, {"a": 0, "b": 1}, configs) as made:
        pod, netns = made.b.pods["b0"]
        with echo("b0", netns, (pod.ipv4, pod.ipv6), PORT):
            yield made


@contextmanager
def overheard(home: Namespace, protocol: int) -> Iterator[Callable[[], list[tuple[bytes, str]]]]:
    """Whose MAC and whose address the packets of the protocol have that come to the namespace's eth0."""

    def listen() -> socket.socket:
        one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))  # ETH_P_ALL
        one.bind(("eth0", 0))
        one.setblocking(False)
        return one

    with home.run(listen) as listening:

        def heard() -> list[tuple[bytes, str]]:
            found = []
            with suppress(BlockingIOError):
                while True:
                    frame, place = listening.recvfrom(65_536)
                    if place[2] == socket.PACKET_OUTGOING:
                        continue
                    if frame[12:14] == b"\x08\x00" and frame[23] == protocol:
                        found.append((frame[6:12], socket.inet_ntop(socket.AF_INET, frame[26:30])))
                    elif frame[12:14] == b"\x86\xdd" and frame[20] == protocol:
                        found.append((frame[6:12], socket.inet_ntop(socket.AF_INET6, frame[22:38])))
            return found

        yield heard


def directly(net: Wire, version: int, protocol: int, *more: str, flags: LbFlags = LbFlags.DSR) -> str:
    """A service whose backend on node b answers clients, who ask node a (`more`: of their route). Its address."""
    vip, bits = (VIPS[4], 32) if version == 4 else (VIPS[6], 128)
    net.client.ip(f"-{version}", "route", "replace", f"{vip}/{bits}", "via", net.a.address(version), *more)
    (one,) = backends(net, version, "b0")
    for site, local in ((net.a, False), (net.b, True)):
        site.services.forget_connections()
        one_there = (one._replace(local=local),)
        site.services.service(7, vip, 80, one_there, protocol=protocol, flags=LbFlags.OUTSIDE | flags)
    return vip


@versions
@protocols
@ways
def test_a_backend_of_another_node_answers_the_client_itself(
    direct: Wire, version: int, protocol: int, xdp: bool
) -> None:
    """The client hears the service from the backend's node, and nothing of what it hears came by the node it asks."""
    direct.serve(xdp=xdp)
    vip = directly(direct, version, protocol)
    with overheard(direct.client, protocol) as heard:
        for size in (5, 1200, 60_000 if protocol == TCP else 1300):
            name, seen, _ = asked(direct.client, vip, 80, KINDS[protocol], size=size)
            assert (name, seen) == ("b0", client(version))
        answers = {mac for mac, source in heard() if source == vip}
    assert answers == {direct.b.mac}
    assert all(flow.flags & FlowFlags.DSR for flow in direct.a.services.flows().values())


@versions
@ways
@pytest.mark.parametrize("direct", ["opt", "geneve"], indirect=True)
def test_datagrams_in_pieces_are_answered_directly(direct: Wire, version: int, xdp: bool) -> None:
    direct.serve(xdp=xdp)
    vip = directly(direct, version, UDP, "mtu", "1400")
    for _ in range(3):
        name, seen, _ = asked(direct.client, vip, 80, socket.SOCK_DGRAM, size=5000)
        assert (name, seen) == ("b0", client(version))


@versions
@protocols
@ways
@pytest.mark.parametrize("direct", ["geneve"], indirect=True)
def test_between_nodes_there_is_nothing_but_geneve(direct: Wire, version: int, protocol: int, xdp: bool) -> None:
    """Networks that drop what has options, or sources that are not theirs, see datagrams of one node to the other's."""
    direct.serve(xdp=xdp)
    vip = directly(direct, version, protocol)
    asked(direct.client, vip, 80, KINDS[protocol])  # neighbours are known afterwards
    with overheard(direct.b.netns, UDP) as datagrams, overheard(direct.b.netns, TCP) as segments:
        for size in (5, 20_000 if protocol == TCP else 1200):
            name, seen, _ = asked(direct.client, vip, 80, KINDS[protocol], size=size)
            assert (name, seen) == ("b0", client(version))
        assert set(datagrams()) == {(direct.a.mac, direct.a.address(version))}
        assert not segments()


@pytest.fixture(scope="module", params=["snat", *DISPATCHES])
def offloading(cache: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Wire, LbFlags]]:
    """Devices as they are made: senders leave checksums, and the cutting of what is large, to whoever comes after."""
    configs = {"lb": 1, "dsr_dispatch": DISPATCHES.get(request.param, 1)}
    with wire(cache, {"a": 0, "b": 1}, configs, offloads=True) as made:
        pod, netns = made.b.pods["b0"]
        with echo("b0", netns, (pod.ipv4, pod.ipv6), PORT):
            yield made, LbFlags(0) if request.param == "snat" else LbFlags.DSR


def in_one(address: str, port: int) -> int:
    """How many bytes of ten datagrams a server has got, which the kernel was given in one, as QUIC's are."""
    with opened(address, port, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1200)
        one.sendall(bytes(12_000))
        return sum(int(one.recv(65_536).split()[3]) for _ in range(10))


@versions
@ways
@pytest.mark.parametrize("xdp_behind", [False, True], ids=["tcx-behind", "xdp-behind"])
def test_checksums_and_large_packets_may_be_left_to_devices(
    offloading: tuple[Wire, LbFlags], version: int, xdp: bool, xdp_behind: bool
) -> None:
    net, flags = offloading
    net.serve(xdp=xdp, xdp_behind=xdp_behind)
    for protocol in (TCP, UDP):
        vip = directly(net, version, protocol, flags=flags)
        for _ in range(3):
            name, seen, _ = asked(net.client, vip, 80, KINDS[protocol])
            assert (name, seen) == ("b0", client(version) if flags else net.a.address(version))
    assert net.client.run(lambda: in_one(VIPS[version], 80)) == 12_000
    vip = directly(net, version, TCP, flags=flags)
    assert net.client.run(lambda: much(vip, 80)) == MUCH
