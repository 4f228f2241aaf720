"""Connections that proxies of the node have: which packets are theirs, and whom those of others go to."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from cplane.domain.verdict import DropReason
from datapath.maps.conntrack import CtEntry, CtFlags, CtKey
from tests.support.kernel import DROP, EGRESS, INGRESS, PASS, REDIRECT, WORLD, WORLD4, WORLD6, A, Node
from tests.support.netns import Namespace, namespace
from tests.support.packets import ACK, RST, SYN, TCP, UDP, frame, packed, tcp, udp

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize(("own", "peer"), [(A.ipv4, WORLD4), (A.ipv6, WORLD6)], ids=["v4", "v6"])
FROM_INGRESS_PROXY, FROM_EGRESS_PROXY = 0xA00, 0xB00
PORT = 61_000  # that the proxy and the client have both


@pytest.fixture
def proxied(net: Node) -> Iterator[Node]:
    """Requests of the world to pod A are read, and there is an interface to hand them over at."""
    net.datapath.numbers.set_proxy(7)
    net.rule(A, INGRESS, WORLD, TCP, 80, proxy_port=15_000)
    try:
        yield net
    finally:
        net.datapath.numbers.set_proxy(0)


def entry_of(net: Node, own: str, peer: str, protocol: int = TCP, own_port: int = 80) -> CtEntry:
    return net.connections()[CtKey.of(A.lxc_id, protocol, (packed(own), own_port), (packed(peer), PORT))]


@FAMILIES
@pytest.mark.parametrize("flags", [SYN, ACK, RST])
def test_a_client_with_the_port_of_a_proxy_s_own_connection_goes_to_the_proxy(
    proxied: Node, own: str, peer: str, flags: int
) -> None:
    assert proxied.into(frame(peer, own, TCP, tcp(PORT, 80, SYN)), mark=FROM_INGRESS_PROXY).action == PASS
    assert proxied.into(frame(peer, own, TCP, tcp(PORT, 80, flags)), came_in=5).action == REDIRECT
    entry = entry_of(proxied, own, peer)
    assert entry.flags & CtFlags.FROM_PROXY and not entry.flags & (CtFlags.PROXIED | CtFlags.CLOSING_FWD)
    assert proxied.into(frame(peer, own, TCP, tcp(PORT, 80, ACK)), mark=FROM_INGRESS_PROXY).action == PASS


@FAMILIES
def test_a_proxy_with_the_port_of_a_client_has_the_connection_and_the_client_keeps_its_own(
    proxied: Node, own: str, peer: str
) -> None:
    for flags in (SYN, ACK):
        assert proxied.into(frame(peer, own, TCP, tcp(PORT, 80, flags)), came_in=5).action == REDIRECT
    assert proxied.into(frame(peer, own, TCP, tcp(PORT, 80, SYN)), mark=FROM_INGRESS_PROXY).action == PASS
    assert entry_of(proxied, own, peer).flags & CtFlags.FROM_PROXY
    assert proxied.into(frame(peer, own, TCP, tcp(PORT, 80, ACK)), came_in=5).action == REDIRECT
    assert entry_of(proxied, own, peer).flags & CtFlags.FROM_PROXY


@FAMILIES
def test_where_no_proxy_is_asked_for_any_more_the_client_s_connection_is_the_client_s(
    proxied: Node, own: str, peer: str
) -> None:
    proxied.into(frame(peer, own, TCP, tcp(PORT, 80, SYN)), mark=FROM_INGRESS_PROXY)
    proxied.rule(A, INGRESS, WORLD, TCP, 80)
    assert proxied.into(frame(peer, own, TCP, tcp(PORT, 80, SYN)), came_in=5).action == PASS
    assert not entry_of(proxied, own, peer).flags & (CtFlags.FROM_PROXY | CtFlags.PROXIED)


@FAMILIES
@pytest.mark.parametrize(("protocol", "sent"), [(TCP, tcp), (UDP, udp)], ids=["tcp", "udp"])
def test_what_answers_a_proxy_that_has_the_port_of_its_client_is_the_proxy_s(
    proxied: Node, own: str, peer: str, protocol: int, sent: Callable[[int, int], bytes]
) -> None:
    proxied.rule(A, EGRESS, WORLD, protocol, 80, proxy_port=15_001)
    proxied.out(frame(own, peer, protocol, sent(PORT, 80)))
    answer = frame(peer, own, protocol, tcp(80, PORT, SYN | ACK) if protocol == TCP else udp(80, PORT))
    assert proxied.into(answer, came_in=5).action == REDIRECT
    assert proxied.into(answer).action == PASS, "what the proxy itself answers"


@contextmanager
def speaking(netns: Namespace, kind: int, client: str, server: str) -> Iterator[None]:
    """A socket of the node that has the client's address and is connected to the server."""
    with ExitStack() as stack:

        def connect() -> None:
            family = socket.AF_INET6 if ":" in client else socket.AF_INET
            if kind == socket.SOCK_STREAM:
                stack.enter_context(socket.create_server((server, 80), family=family))
            made = stack.enter_context(socket.socket(family, kind))
            made.bind((client, PORT))
            made.connect((server, 80))

        netns.run(connect)
        yield


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Namespace]:
    """A node that has all addresses."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with namespace() as made:
        made.ip("link", "set", "lo", "up")
        for address in (A.ipv4, WORLD4, A.ipv6, WORLD6):
            made.ip("address", "add", address, "dev", "lo", *(("nodad",) if ":" in address else ()))
        yield made


@FAMILIES
@pytest.mark.parametrize(
    ("protocol", "kind", "answer"),
    [(TCP, socket.SOCK_STREAM, tcp(80, PORT, ACK)), (UDP, socket.SOCK_DGRAM, udp(80, PORT))],
    ids=["tcp", "udp"],
)
def test_what_a_pod_answers_a_proxy_is_the_proxy_s_also_when_conntrack_has_forgotten(
    proxied: Node, elsewhere: Namespace, own: str, peer: str, protocol: int, kind: int, answer: bytes
) -> None:
    proxied.rule(A, EGRESS)
    with speaking(elsewhere, kind, peer, own):
        found = elsewhere.run(lambda: proxied.out(frame(own, peer, protocol, answer)))
        # A test run has no device to come in by, so no socket can be assigned: one was found.
        assert (found.action, proxied.dropped()) == (DROP, [DropReason.SOCKET_ASSIGN_FAILED])
        assert not proxied.connections(), "nobody can answer the pod by an entry that it has made"
    assert elsewhere.run(lambda: proxied.out(frame(own, peer, protocol, answer))).action == PASS
    assert len(proxied.connections()) == 1
