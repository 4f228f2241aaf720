"""What would be dropped and is only told: audit planes of policies, audit mode of endpoints, and their records."""

import numpy as np
import pytest

from datapath.maps.conntrack import CtFlags
from datapath.notify.records import RecordFlags, RecordType
from tests.support.kernel import DROP, EGRESS, INGRESS, PASS, REDIRECT, WORLD, WORLD4, WORLD6, A, B, Node
from tests.support.packets import ACK, SYN, TCP, ethernet, frame, ipv4, ipv6, tcp

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize(("own", "peer"), [(A.ipv4, WORLD4), (A.ipv6, WORLD6)], ids=["v4", "v6"])
DIRECTIONS = pytest.mark.parametrize("direction", [EGRESS, INGRESS], ids=["egress", "ingress"])


def told(net: Node) -> list[tuple[int, int, bool, int, int]]:
    """Type, verdict, audit flag, match type and cookie of every record since the last call."""
    return [
        (int(r["type"]), int(r["verdict"]), audited(r), int(r["match_type"]), int(r["cookie"])) for r in net.records()
    ]


def audited(record: np.void) -> bool:
    return bool(record["flags"] & RecordFlags.AUDITED)


REFUSALS = pytest.mark.parametrize(
    ("entry", "reason", "match"),
    [
        (None, 133, 0),
        ({"deny": True}, 181, 4),
        ({"identity": WORLD, "protocol": TCP, "port": 80, "deny": True}, 181, 2),
        ({"protocol": TCP, "auth_type": 1}, 189, 6),
    ],
    ids=["no entry", "deny", "deny of the peer", "authentication"],
)


@FAMILIES
@DIRECTIONS
@REFUSALS
def test_in_audit_mode_a_refusal_lets_the_packet_pass_and_is_told(
    net: Node, own: str, peer: str, direction: int, entry: dict[str, int] | None, reason: int, match: int
) -> None:
    net.audit(A)
    if entry is not None:
        net.rule(A, direction, cookie=5, **entry)
    assert net.one_way(direction, own, peer, tcp(1000, 80)).action == PASS
    verdict, trace = told(net)
    assert verdict == (5, -reason, True, match, 5 if entry else 0)
    assert (trace[0], trace[2]) == (RecordType.TRACE, False)
    assert len(net.connections()) == 1


@FAMILIES
@DIRECTIONS
@REFUSALS
def test_what_only_the_audit_plane_refuses_passes_and_is_told(
    net: Node, own: str, peer: str, direction: int, entry: dict[str, int] | None, reason: int, match: int
) -> None:
    net.rule(A, direction, audited=True, cookie=3)
    if entry is not None:
        net.rule(A, direction, plane=True, cookie=5, **entry)
    assert net.one_way(direction, own, peer, tcp(1000, 80)).action == PASS
    verdict, trace = told(net)
    assert verdict == (5, -reason, True, match, 5 if entry else 0)
    assert (trace[0], trace[2], trace[4]) == (RecordType.TRACE, False, 3), "the connection is the allowing entry's"


@FAMILIES
@DIRECTIONS
def test_what_both_planes_allow_is_told_as_the_enforced_one_says(
    net: Node, own: str, peer: str, direction: int
) -> None:
    net.rule(A, direction, audited=True, cookie=3)
    net.rule(A, direction, 0, TCP, 80, plane=True, cookie=5)
    assert net.one_way(direction, own, peer, tcp(1000, 80)).action == PASS
    assert told(net)[0] == (5, 0, False, 4, 3)


@FAMILIES
@DIRECTIONS
def test_the_audit_plane_widens_nothing(net: Node, own: str, peer: str, direction: int) -> None:
    net.rule(A, direction, plane=True, cookie=5)
    assert net.one_way(direction, own, peer, tcp(1000, 80)).action == DROP
    net.rule(A, direction, deny=True, audited=True, cookie=3)
    assert net.one_way(direction, own, peer, tcp(1001, 80)).action == DROP
    assert told(net) == [(5, -133, False, 0, 0), (1, -133, False, 0, 0), (5, -181, False, 4, 3), (1, -181, False, 0, 3)]


def test_an_entry_that_is_not_audited_asks_no_plane(net: Node) -> None:
    net.rule(A, EGRESS, cookie=3)
    assert net.out(frame(A.ipv4, WORLD4, TCP, tcp(1, 80))).action == PASS
    assert told(net)[0] == (5, 0, False, 4, 3)


@FAMILIES
@DIRECTIONS
def test_a_connection_that_began_in_audit_goes_on_unseen_and_is_cut_when_audit_ends(
    net: Node, own: str, peer: str, direction: int
) -> None:
    net.audit(A)
    net.rule(A, direction, deny=True)
    assert net.one_way(direction, own, peer, tcp(1000, 80)).action == PASS
    net.records()
    for _ in range(3):
        net.datapath.bump_epoch()  # something else has changed, as it does all the time
        assert net.one_way(direction, own, peer, tcp(1000, 80, ACK)).action == PASS
    back = (
        frame(peer, own, TCP, tcp(80, 1000, SYN | ACK))
        if direction == EGRESS
        else frame(own, peer, TCP, tcp(80, 1000, SYN | ACK))
    )
    assert (net.into(back, came_in=5) if direction == EGRESS else net.out(back)).action == PASS
    assert [one for one in told(net) if one[0] != RecordType.TRACE] == []
    net.audit(A, on=False)
    net.datapath.bump_epoch()
    assert net.one_way(direction, own, peer, tcp(1000, 80, ACK)).action == DROP
    assert [one[:3] for one in told(net)] == [(5, -181, False), (1, -181, False)]


@FAMILIES
@DIRECTIONS
@pytest.mark.parametrize("by", ["plane", "endpoint"])
def test_a_live_connection_that_would_be_cut_is_told_once(
    net: Node, own: str, peer: str, direction: int, by: str
) -> None:
    net.rule(A, direction, cookie=3)
    assert net.one_way(direction, own, peer, tcp(1000, 80)).action == PASS
    net.records()
    if by == "plane":
        net.rule(A, direction, audited=True, cookie=3)
        net.rule(A, direction, 0, TCP, 80, deny=True, plane=True, cookie=5)
    else:
        net.audit(A)
        net.rule(A, direction, 0, TCP, 80, deny=True, cookie=5)
    seen = []
    for _ in range(3):
        net.datapath.bump_epoch()
        assert net.one_way(direction, own, peer, tcp(1000, 80, ACK)).action == PASS
        seen += [one for one in told(net) if one[0] != RecordType.TRACE]
    assert seen == [(5, -181, True, 3, 5)]
    (entry,) = net.connections().values()
    assert entry.flags & CtFlags.AUDITED


def test_a_live_connection_that_is_refused_again_is_told_again(net: Node) -> None:
    net.audit(A)
    seen = []
    for number, deny in enumerate((True, False, True)):
        net.rule(A, EGRESS, deny=deny)
        net.datapath.bump_epoch()
        assert net.out(frame(A.ipv4, WORLD4, TCP, tcp(1000, 80, ACK if number else SYN))).action == PASS
        seen.append([one[1:3] for one in told(net) if one[0] == RecordType.POLICY_VERDICT])
    assert seen == [[(-181, True)], [], [(-181, True)]]


@pytest.mark.parametrize("v6", [False, True])
def test_every_later_fragment_that_would_be_dropped_is_told(net: Node, *, v6: bool) -> None:
    if v6:
        data = ethernet(ipv6(A.ipv6, WORLD6, 44, bytes([TCP, 0, 0x05, 0xC8, 0, 0, 0, 1]) + b"\0" * 8), 0x86DD)
    else:
        data = ethernet(ipv4(A.ipv4, WORLD4, TCP, b"\0" * 8, fragment=185), 0x0800)
    net.rule(A, EGRESS, audited=True)
    net.rule(A, EGRESS, 0, TCP, 80, plane=True)
    for _ in range(2):
        assert net.out(data).action == PASS
    assert told(net) == [(5, -157, True, 0, 0)] * 2
    net.audit(A)
    net.rule(A, EGRESS, deny=True)
    assert net.out(data).action == PASS
    assert told(net) == [(5, -181, True, 4, 0)]
    assert net.connections() == {}


def test_each_of_two_pods_has_its_own_audit_mode(net: Node) -> None:
    data = frame(A.ipv4, B.ipv4, TCP, tcp(1000, 80))
    net.audit(A)
    assert net.out(data).action == DROP, "B enforces"
    assert [one[:3] for one in told(net)] == [(5, -133, True), (5, -133, False), (1, -133, False)]
    net.audit(B)
    assert net.out(data).action == REDIRECT
    assert [one[:3] for one in told(net)] == [(5, -133, True), (4, 0, False)], "A's connection was told already"


def test_nothing_but_policy_is_audited(net: Node) -> None:
    net.audit(A)
    assert net.out(frame("10.9.0.77", WORLD4, TCP, tcp(1, 80))).action == DROP
    assert net.dropped() == [132]
