"""The entries of one subject, and how they change."""

import pytest

from cplane.domain.policy.directory import Directory
from cplane.domain.policy.mapstate import MapEntry, MapKey, MapState, Origin, refs_of
from cplane.domain.policy.resolve import ALLOW, DENY, precedence, resolve
from cplane.domain.policy.selectorcache import SelectorCache
from cplane.domain.ports import parse_named_ports
from cplane.domain.verdict import Direction
from tests.support.builders import cnp, pod_labels, policy, ports, selector

FROM_WEB = {"fromEndpoints": [selector("app=web")]}
ALLOW_IN, ALLOW_OUT = MapKey(0, 0, 0, 0, 0), MapKey(0, 1, 0, 0, 0)
FROM_HOST = MapKey(1, 0, 0, 0, 0)
ALLOWED = MapEntry(deny=False, precedence=ALLOW, l4_bits=0)


class Subject:
    """One map state, and the rules that are about it."""

    def __init__(self, *, enforced=False, own_ports=()):
        self.ports = {}
        self.directory = Directory()
        self.peers = SelectorCache()
        self.subjects = SelectorCache()
        self.peers.add(300, pod_labels("app=web"))
        self.peers.add(302, pod_labels("app=db"))
        self.state = MapState(self.ports, enforced=enforced, own_ports=parse_named_ports(own_ports))
        self.rows = {}
        self.follow()

    def add(self, **rule):
        document = policy(cnp(**rule))
        caches = {"directory": self.directory, "subjects": self.subjects, "peers": self.peers}
        resolved = resolve(document.ref, document.rules[0], audit=False, **caches)
        self.state.add_rule(resolved)
        self.follow()
        return resolved

    def remove(self, resolved):
        self.state.remove_rule(resolved)
        self.follow()

    def follow(self):
        """The changes, which must lead to what the state says it holds."""
        changes = {}
        for key, was, now in self.state.changes():
            assert self.rows.get(key) == was
            changes[key] = now
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


def plain(rows):
    """The rows without what says who made them."""
    return {key: entry._replace(cookie=0) for key, entry in rows.items()}


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
    assert plain(subject.rows)[MapKey(300, 0, 6, 0, 8)] == MapEntry(deny=True, precedence=DENY, l4_bits=8)
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


def test_terms_of_one_place_have_one_cookie_and_others_another():
    subject = Subject()
    subject.add(name="a", ingress=[{**FROM_WEB, "toPorts": ports("80/TCP", "53/UDP")}])
    (one,) = {entry.cookie for key, entry in subject.rows.items() if key.identity == 300}
    subject.add(name="b", ingress=[{**FROM_WEB, "toPorts": ports("80/TCP", "81/TCP")}])
    both, first, second = (
        subject.rows[MapKey(300, 0, protocol, port, 24)].cookie for protocol, port in ((6, 80), (17, 53), (6, 81))
    )
    assert (first, both) == (one, first ^ second)
    assert len({one, both, second, 0}) == 4


def test_what_the_language_itself_says_has_no_cookie():
    assert {entry.cookie for entry in Subject().rows.values()} == {0}


def test_a_weaker_term_under_the_same_key_does_not_make_the_entry():
    subject = Subject()
    subject.add(name="a", ingress=[FROM_WEB])
    deny = subject.add(name="b", ingressDeny=[FROM_WEB])
    (made,) = subject.state.makers(MapKey(300, 0, 0, 0, 0))
    assert made is deny.contributions[0]
    assert subject.rows[MapKey(300, 0, 0, 0, 0)].cookie == made.origin


def test_everything_that_was_said_of_some_traffic_is_known_strong_or_not():
    subject = Subject()
    subject.add(name="a", ingress=[FROM_WEB, {"toPorts": ports("80-89/TCP")}])
    subject.add(name="b", ingressDeny=[{**FROM_WEB, "toPorts": ports("80/TCP")}])
    said = subject.state.covering(300, Direction.INGRESS, 6, 80)
    assert {one.term.path for one in said} == {"spec.ingress[0]", "spec.ingress[1]", "spec.ingressDeny[0]"}
    assert [one.term.path for one in subject.state.covering(302, Direction.INGRESS, 6, 89)] == ["spec.ingress[1]"]
    assert [one.term for one in subject.state.covering(302, Direction.EGRESS, 6, 89)] == [None]


def test_who_asks_for_default_deny_is_known():
    subject = Subject()
    assert not subject.state.is_enforced(Direction.INGRESS)
    rule = subject.add(name="a", ingress=[FROM_WEB])
    subject.add(name="b", ingress=[FROM_WEB], enableDefaultDeny={"ingress": False})
    assert subject.state.is_enforced(Direction.INGRESS)
    assert refs_of(subject.state.demanding(Direction.INGRESS)) == (rule.ref,)
    assert subject.state.demanding(Direction.EGRESS) == ()
    assert Subject(enforced=True).state.demanding(Direction.EGRESS) == ()


HTTP = {**ports("80/TCP")[0], "rules": {"http": [{}]}}
WEB_80 = MapKey(300, 0, 6, 80, 24)


def test_what_goes_to_a_proxy_is_stronger_than_what_does_not_and_weaker_than_a_deny():
    subject = Subject()
    subject.add(ingress=[{**FROM_WEB, "toPorts": [*ports("80/TCP"), HTTP]}])
    assert subject.rows[WEB_80].precedence == precedence(deny=False, redirect=101) == 0xFFFFFF00 | 255 - 101
    subject.add(ingressDeny=[{**FROM_WEB, "toPorts": ports("80/TCP")}])
    assert subject.rows[WEB_80].deny


def required(mode="required", **term):
    return {**FROM_WEB, **term, "authentication": {"mode": mode}}


def test_authentication_comes_with_the_weakest_word_too():
    subject = Subject()
    subject.add(ingress=[{**FROM_WEB, "toPorts": [HTTP]}])
    assert (subject.rows[WEB_80].auth_type, subject.rows[WEB_80].auth_said) == (0, False)
    asking = subject.add(ingress=[required(toPorts=ports("80/TCP"))])
    assert (subject.rows[WEB_80].auth_type, subject.rows[WEB_80].auth_said) == (1, True)
    subject.remove(asking)
    assert (subject.rows[WEB_80].auth_type, subject.rows[WEB_80].auth_said) == (0, False)


@pytest.mark.parametrize("everyone", [False, True])
def test_authentication_that_is_asked_for_more_broadly_reaches_what_does_not_say(everyone):
    subject = Subject()
    subject.add(ingress=[{**FROM_WEB, "toPorts": ports("80/TCP")}])
    peers = {"fromEntities": ["all"]} if everyone else FROM_WEB
    weak = subject.add(ingress=[{**peers, "authentication": {"mode": "required"}}])
    strong = subject.add(ingress=[{**peers, "toPorts": ports("0/TCP"), "authentication": {"mode": "test-always-fail"}}])
    assert (subject.rows[WEB_80].auth_type, subject.rows[WEB_80].auth_said) == (2, False)
    subject.remove(strong)
    assert subject.rows[WEB_80].auth_type == 1
    subject.remove(weak)
    assert subject.rows[WEB_80].auth_type == 0


def test_a_deny_asks_for_no_authentication():
    subject = Subject()
    subject.add(ingress=[required()], ingressDeny=[FROM_WEB])
    assert subject.rows[MapKey(300, 0, 0, 0, 0)].auth_type == 0


NAMED = parse_named_ports(["http=8080/TCP", "http=8080/UDP", "dns=53/UDP"])


def test_at_ingress_a_name_is_a_port_of_the_subject():
    subject = Subject(own_ports=("http=8080/TCP", "dns=53/UDP"))
    rule = subject.add(ingress=[{"toPorts": ports("http", "9/TCP")}])
    assert {key for key in keys(subject) if key.direction == 0 and key.l4_bits} == {
        MapKey(0, 0, 6, 8080, 24),
        MapKey(0, 0, 6, 9, 24),
    }
    subject.remove(rule)
    assert keys(subject) == {ALLOW_IN, ALLOW_OUT, FROM_HOST}


def test_at_egress_a_name_is_a_port_of_the_peer_and_follows_it():
    subject = Subject(own_ports=("http=1/TCP",))
    subject.ports[300] = NAMED
    rule = subject.add(egress=[{"toEndpoints": [{}], "toPorts": ports("http/TCP")}])
    assert {key for key in keys(subject) if key.l4_bits} == {MapKey(300, 1, 6, 8080, 24)}
    assert subject.state.named_at(300) == subject.state.named_at(302) == rule.contributions
    assert subject.state.named_at(303) == ()


def test_names_that_nobody_has_leave_nothing_behind_when_their_rules_go():
    subject = Subject()
    rules = [subject.add(egress=[{"toEndpoints": [{}], "toPorts": ports("http")}]) for _ in range(3)]
    for rule in rules:
        subject.remove(rule)
    assert keys(subject) == {ALLOW_IN, ALLOW_OUT, FROM_HOST}
    assert subject.state.named_at(300) == ()


def test_an_audited_state_says_so_of_what_it_allows():
    subject = Subject()
    subject.add(ingress=[FROM_WEB], ingressDeny=[{"fromEndpoints": [selector("app=db")]}])
    subject.state.set_audited(True)
    subject.follow()
    assert {entry.deny: entry.audited for entry in subject.rows.values()} == {False: True, True: False}
    subject.state.set_audited(True)
    assert not list(subject.state.changes())
    subject.state.set_audited(False)
    subject.follow()
    assert not any(entry.audited for entry in subject.rows.values())


def test_lengths_are_those_that_entries_can_have_longest_first():
    subject = Subject()
    assert subject.state.lengths(Direction.INGRESS) == (0,)
    subject.add(ingress=[{**FROM_WEB, "toPorts": ports("80/TCP", "0/UDP")}])
    assert subject.state.lengths(Direction.INGRESS) == (24, 8, 0)
    assert subject.state.lengths(Direction.EGRESS) == (0,)
