"""Which of several entries decides: the kernel's order, on hand-made entries."""

from cplane.domain.policy.lookup import NO_MATCH, lookup
from cplane.domain.policy.mapstate import MapEntry, MapKey
from cplane.domain.policy.resolve import ALLOW, DENY, PRIORITY_MAX, precedence
from cplane.domain.verdict import Direction, DropReason, MatchType
from datapath.maps.policy import PolicyEntry, PolicyKey

IN, OUT = Direction.INGRESS, Direction.EGRESS


def key(identity, protocol=0, port=0, bits=0, direction=IN):
    return MapKey(identity, int(direction), protocol, port, bits)


def entries(*found):
    return {k: MapEntry(deny, level, k.l4_bits) for k, deny, level in found}


def test_precedence_puts_priority_first_then_deny():
    assert precedence(deny=True) == 0xFFFFFFFF == DENY
    assert precedence(deny=False) == 0xFFFFFF01 == ALLOW
    assert precedence(deny=True, priority=1) == 0xFFFFFEFF < precedence(deny=False)
    assert precedence(deny=False, priority=PRIORITY_MAX) == 1


def test_no_entry_is_a_drop_without_a_key():
    assert lookup({}.get, 300, IN, 6, 80) == NO_MATCH
    assert NO_MATCH.reason is DropReason.POLICY_DENIED


def test_the_longest_prefix_of_the_peer_is_taken_whatever_its_precedence():
    table = entries((key(300), True, DENY), (key(300, 6, 80, 24), False, ALLOW))
    assert lookup(table.get, 300, IN, 6, 80).allowed
    assert not lookup(table.get, 300, IN, 6, 81).allowed


def test_of_peer_and_anyone_the_higher_precedence_decides():
    table = entries((key(300, 6, 80, 24), False, ALLOW), (key(0), True, DENY))
    decision = lookup(table.get, 300, IN, 6, 80)
    assert (decision.reason, decision.match, decision.key) == (DropReason.POLICY_DENY, MatchType.ALL, key(0))


def test_of_equal_precedence_the_longer_prefix_decides_then_the_peer():
    table = entries((key(300), False, ALLOW), (key(0, 6, 80, 24), False, ALLOW), (key(0), False, ALLOW))
    assert lookup(table.get, 300, IN, 6, 80).match is MatchType.L4_ONLY
    assert lookup(table.get, 300, IN, 6, 81).match is MatchType.L3_ONLY


def test_the_highest_precedence_of_the_peer_ends_the_search():
    table = entries((key(300), True, DENY), (key(0, 6, 80, 24), True, DENY))
    assert lookup(table.get, 300, IN, 6, 80).match is MatchType.L3_ONLY


def test_a_direction_does_not_see_the_other():
    table = entries((key(0, direction=OUT), False, ALLOW))
    assert not lookup(table.get, 300, IN, 6, 80).allowed
    assert lookup(table.get, 300, OUT, 6, 80).allowed


def test_the_unknown_peer_is_anyone():
    table = entries((key(0), False, ALLOW))
    assert lookup(table.get, 0, IN, 6, 80).match is MatchType.ALL


def test_a_fragment_is_judged_by_its_protocol_alone():
    table = entries((key(0, 6, 80, 24), False, ALLOW), (key(0, 17, 0, 8), False, ALLOW))
    assert not lookup(table.get, 300, IN, 6, 80, shown_bits=8).allowed
    assert lookup(table.get, 300, IN, 17, 0, shown_bits=8).match is MatchType.PROTO_ONLY


def test_the_packed_table_is_looked_up_by_the_same_function():
    table = {
        PolicyKey(301, 300, 0, 6, 80, 24): PolicyEntry(deny=False, precedence=ALLOW, l4_bits=24),
        PolicyKey(302, 0, 0, 0, 0, 0): PolicyEntry(deny=True, precedence=DENY, l4_bits=0),
    }
    allowed = lookup(lambda k: table.get((301, *k)), 300, IN, 6, 80)
    denied = lookup(lambda k: table.get((302, *k)), 300, IN, 6, 80)
    assert (allowed.allowed, allowed.match) == (True, MatchType.L3_L4)
    assert (denied.allowed, denied.match) == (False, MatchType.ALL)
