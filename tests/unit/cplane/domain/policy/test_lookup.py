"""Which of several entries decides: the kernel's order, on hand-made entries."""

import pytest

from cplane.domain.policy.lookup import NO_MATCH, lookup
from cplane.domain.policy.mapstate import MapEntry, MapKey
from cplane.domain.policy.resolve import ALLOW, DENY, PRIORITY_MAX, is_redirect, precedence
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


def asking(key_, auth, *, said, level=ALLOW):
    return key_, MapEntry(False, level, key_.l4_bits, auth_type=auth, auth_said=said)


def test_an_entry_that_asks_for_authentication_drops_who_has_not_proved_who_it_is():
    table = dict([asking(key(300), 1, said=True)])
    decision = lookup(table.get, 300, IN, 6, 80)
    assert (decision.reason, decision.auth_type) == (DropReason.AUTH_REQUIRED, 1)


@pytest.mark.parametrize(
    ("said", "level", "reason", "auth"),
    [
        (False, ALLOW, DropReason.AUTH_REQUIRED, 2),
        (True, ALLOW, None, 0),
        (False, precedence(deny=False, redirect=101), DropReason.AUTH_REQUIRED, 2),
        (True, precedence(deny=False, redirect=101), None, 0),
    ],
)
def test_the_entry_that_does_not_decide_asks_too_unless_the_other_says(said, level, reason, auth):
    table = dict([asking(key(300), 2, said=True), asking(key(0, 6, 80, 24), 0, said=said, level=level)])
    decision = lookup(table.get, 300, IN, 6, 80)
    assert (decision.key, decision.reason, decision.auth_type) == (key(0, 6, 80, 24), reason, auth)


def test_a_deny_asks_for_nothing():
    table = {**entries((key(0), True, DENY)), **dict([asking(key(300), 2, said=True)])}
    decision = lookup(table.get, 300, IN, 6, 80)
    assert (decision.reason, decision.auth_type) == (DropReason.POLICY_DENY, 0)


def test_what_goes_to_a_proxy_is_allowed_as_far_as_packets_go():
    table = entries((key(0, 6, 80, 24), False, precedence(deny=False, redirect=126)))
    decision = lookup(table.get, 300, IN, 6, 80)
    assert (decision.allowed, decision.reason, decision.proxied) == (True, None, True)


def test_a_decision_says_whether_the_audit_plane_is_to_be_asked():
    table = {key(0): MapEntry(False, ALLOW, 0, audited=True)}
    assert lookup(table.get, 300, IN, 6, 80).audited
    assert not NO_MATCH.audited


@pytest.mark.parametrize(("redirect", "level"), [(1, 254), (101, 154), (126, 129)])
def test_a_redirect_is_between_allow_and_deny_the_smallest_number_first(redirect, level):
    assert precedence(deny=False, redirect=redirect) == 0xFFFFFF00 | level
    assert is_redirect(precedence(deny=False, redirect=redirect))
    assert not is_redirect(ALLOW)
    assert not is_redirect(DENY)
