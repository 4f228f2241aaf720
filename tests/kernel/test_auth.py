"""Authentication: the entry that decides asks for it, and the other one where that does not say."""

import pytest

from datapath.maps.policy import PolicyEntry, PolicyKey
from tests.support.kernel import DROP, EGRESS, INGRESS, PASS, WORLD, WORLD4, WORLD6, A, Node
from tests.support.packets import TCP, tcp

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize(("own", "peer"), [(A.ipv4, WORLD4), (A.ipv6, WORLD6)], ids=["v4", "v6"])
DIRECTIONS = pytest.mark.parametrize("direction", [EGRESS, INGRESS], ids=["egress", "ingress"])
ALLOW, REDIRECT = 0xFFFFFF01, 0xFFFFFF9A


def entry(
    net: Node, direction: int, identity: int, port: int, *, auth: int = 0, said: bool = True, level: int = ALLOW
) -> None:
    bits = 24 if port else 0
    key = PolicyKey(A.identity, identity, direction, TCP if port else 0, port, bits)
    proxy = int(level == REDIRECT)
    net.entry(key, PolicyEntry(False, level, bits, proxy_port=proxy, auth_type=auth, auth_said=said))


@FAMILIES
@DIRECTIONS
@pytest.mark.parametrize(
    ("anyone", "expected"),
    [
        ({"said": False}, 189),
        ({"said": True}, 0),
        ({"said": False, "level": REDIRECT}, 189),
        ({"said": True, "level": REDIRECT}, 178),
        ({"said": True, "auth": 2}, 189),
    ],
    ids=["silent", "disabled", "silent proxy", "proxy, disabled", "required itself"],
)
def test_what_is_asked_of_a_peer_is_asked_at_a_port_that_is_open_to_anyone(
    net: Node, own: str, peer: str, direction: int, anyone: dict[str, int], expected: int
) -> None:
    entry(net, direction, WORLD, 0, auth=1)
    entry(net, direction, 0, 80, **anyone)
    outcome = net.one_way(direction, own, peer, tcp(1000, 80))
    assert outcome.action == (DROP if expected else PASS)
    assert net.dropped() == ([expected] if expected else [])


@FAMILIES
@DIRECTIONS
def test_what_is_asked_of_anyone_is_asked_of_a_peer_that_decides_and_does_not_say(
    net: Node, own: str, peer: str, direction: int
) -> None:
    entry(net, direction, WORLD, 80, said=False)
    entry(net, direction, 0, 0, auth=1)
    assert net.one_way(direction, own, peer, tcp(1000, 80)).action == DROP
    assert net.dropped() == [189]


def test_what_is_asked_of_others_is_not_asked_of_this_one(net: Node) -> None:
    entry(net, EGRESS, WORLD + 1000, 0, auth=1)
    entry(net, EGRESS, 0, 80, said=False)
    assert net.one_way(EGRESS, A.ipv4, WORLD4, tcp(1000, 80)).action == PASS
