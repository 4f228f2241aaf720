"""The entries of one subject, and how they change."""

from cplane.domain.policy.mapstate import MapEntry, MapKey, MapState, Origin
from cplane.domain.policy.resolve import ALLOW, DENY, resolve
from cplane.domain.policy.selectorcache import SelectorCache
from cplane.domain.verdict import Direction
from tests.support.builders import cnp, pod_labels, policy, ports, selector

FROM_WEB = {"fromEndpoints": [selector("app=web")]}
ALLOW_IN, ALLOW_OUT = MapKey(0, 0, 0, 0, 0), MapKey(0, 1, 0, 0, 0)
FROM_HOST = MapKey(1, 0, 0, 0, 0)
ALLOWED = MapEntry(deny=False, precedence=ALLOW, l4_bits=0)


class Subject:
    """One map state, and the rules that are about it."""

    def __init__(self, *, enforced=False):
        self.peers = SelectorCache()
        self.subjects = SelectorCache()
        self.peers.add(300, pod_labels("app=web"))
        self.peers.add(302, pod_labels("app=db"))
        self.state = MapState(enforced=enforced)
        self.rows = {}
        self.follow()

    def add(self, **rule):
        document = policy(cnp(**rule))
        resolved = resolve(document.ref, document.rules[0], subjects=self.subjects, peers=self.peers)
        self.state.add_rule(resolved)
        self.follow()
        return resolved

    def remove(self, resolved):
        self.state.remove_rule(resolved)
        self.follow()

    def follow(self):
        """The changes, which must lead to what the state says it holds."""
        changes = dict(self.state.changes())
        for key, entry in changes.items():
            if entry is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = entry
        assert self.rows == self.state.entries()
        assert all(self.state.entry(key) == entry for key, entry in self.rows.items())
        self.last = changes


def keys(subject):
    return set(subject.rows)


def test_without_rules_both_directions_are_open():
    assert Subject().rows == {ALLOW_IN: ALLOWED, ALLOW_OUT: ALLOWED, FROM_HOST: ALLOWED}


def test_an_enforced_subject_is_open_to_the_host_only():
    assert keys(Subject(enforced=True)) == {FROM_HOST}


def test_default_deny_closes_one_direction_and_opens_it_again_with_the_last_rule():
    subject = Subject()
    first, second = subject.add(ingress=[{}]), subject.add(ingress=[{}])
    assert keys(subject) == {ALLOW_OUT, FROM_HOST}
    subject.remove(first)
    assert keys(subject) == {ALLOW_OUT, FROM_HOST}
    subject.remove(second)
    assert keys(subject) == {ALLOW_IN, ALLOW_OUT, FROM_HOST}


def test_a_range_of_ports_is_covered_by_prefixes():
    subject = Subject()
    subject.add(ingress=[{**FROM_WEB, "toPorts": ports("80-89/TCP")}])
    found = {(k.port, k.l4_bits) for k in keys(subject) if k.identity == 300}
    assert found == {(80, 21), (88, 23)}


def test_a_deny_hides_the_narrower_allows_of_its_peer_and_gives_them_back():
    subject = Subject()
    subject.add(ingress=[{**FROM_WEB, "toPorts": ports("80/TCP", "53/UDP")}])
    before = dict(subject.rows)
    deny = subject.add(ingressDeny=[{**FROM_WEB, "toPorts": ports("0/TCP")}])
    assert MapKey(300, 0, 6, 80, 24) not in subject.rows
    assert subject.rows[MapKey(300, 0, 6, 0, 8)] == MapEntry(deny=True, precedence=DENY, l4_bits=8)
    assert MapKey(300, 0, 17, 53, 24) in subject.rows
    subject.remove(deny)
    assert subject.rows == before


def test_a_deny_of_anyone_does_not_hide_the_allows_of_a_peer_which_the_lookup_compares():
    subject = Subject()
    subject.add(ingress=[{**FROM_WEB, "toPorts": ports("80/TCP")}], ingressDeny=[{"toPorts": ports("0/TCP")}])
    assert {MapKey(300, 0, 6, 80, 24), MapKey(0, 0, 6, 0, 8)} <= keys(subject)


def test_under_one_key_the_deny_stands_and_the_allow_comes_back():
    subject = Subject()
    subject.add(ingress=[FROM_WEB])
    deny = subject.add(ingressDeny=[FROM_WEB])
    assert subject.rows[MapKey(300, 0, 0, 0, 0)].deny
    subject.remove(deny)
    assert not subject.rows[MapKey(300, 0, 0, 0, 0)].deny


def test_an_allow_that_two_rules_make_stays_until_both_are_gone():
    subject = Subject()
    first, second = subject.add(ingress=[FROM_WEB]), subject.add(ingress=[FROM_WEB])
    assert MapKey(300, 0, 0, 0, 0) in subject.rows
    subject.remove(second)
    assert subject.last.get(MapKey(300, 0, 0, 0, 0)) is None
    assert MapKey(300, 0, 0, 0, 0) in subject.rows
    subject.remove(first)
    assert MapKey(300, 0, 0, 0, 0) not in subject.rows


def test_an_entry_names_the_terms_that_made_it():
    subject = Subject()
    subject.add(name="a", ingress=[{}, FROM_WEB])
    subject.add(name="b", ingress=[FROM_WEB])
    assert subject.state.origins(MapKey(300, 0, 0, 0, 0)) == (
        Origin("CiliumNetworkPolicy shop/a", "spec.ingress[1]"),
        Origin("CiliumNetworkPolicy shop/b", "spec.ingress[0]"),
    )
    assert subject.state.origins(ALLOW_OUT) == (Origin("", ""),)
    assert subject.state.origins(MapKey(9, 0, 0, 0, 0)) == ()


def test_a_peer_that_comes_and_goes_changes_only_its_own_entries():
    subject = Subject()
    resolved = subject.add(ingress=[{**FROM_WEB, "toPorts": ports("80/TCP")}])
    (one,) = resolved.contributions
    (selecting,) = subject.peers.add(310, pod_labels("app=web", "v=2"))
    assert selecting is one.peer
    subject.state.put(one, (310,))
    subject.follow()
    assert set(subject.last) == {MapKey(310, 0, 6, 80, 24)}
    subject.state.take(one, (310,))
    subject.follow()
    assert subject.last == {MapKey(310, 0, 6, 80, 24): None}


def test_lengths_are_those_that_entries_can_have_longest_first():
    subject = Subject()
    assert subject.state.lengths(Direction.INGRESS) == (0,)
    subject.add(ingress=[{**FROM_WEB, "toPorts": ports("80/TCP", "0/UDP")}])
    assert subject.state.lengths(Direction.INGRESS) == (24, 8, 0)
    assert subject.state.lengths(Direction.EGRESS) == (0,)
