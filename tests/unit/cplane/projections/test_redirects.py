"""Redirects: which proxy ports there are, what they are for, and when they stay the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cplane.domain.policy.redirection import PORT_MAX, PORT_MIN
from cplane.projections import redirects
from cplane.projections.delta import Delta
from cplane.projections.policymap import PolicyMapProjection
from datapath.maps.policy import PolicyKey
from tests.support.builders import DUAL_STACK, allocated, cnp, deleted, pod_labels, ports, selector, upserted
from tests.support.scenario import endpoint_created

WEB, API, OTHER = 300, 301, 302
HOST = 1
FROM_WEB = {"fromEndpoints": [selector("app=web")]}


def world(*events):
    made = PolicyMapProjection()
    for event in (
        DUAL_STACK,
        allocated(WEB, pod_labels("app=web")),
        allocated(API, pod_labels("app=api")),
        allocated(OTHER, pod_labels("app=other")),
        endpoint_created(endpoint=1, ipv4="10.0.0.1", ipv6="", identity=API, labels=pod_labels("app=api").texts()),
        *events,
    ):
        made.apply(event)
        made.redirected()
    return made


def reading(*paths, port="80/TCP", **more):
    return {**more, "toPorts": [{**ports(port)[0], "rules": {"http": [{"path": path} for path in paths]}}]}


def kafka(topic, **more):
    rules = {"kafka": [{"role": "produce", "topic": topic}]}
    return {**more, "toPorts": [{**ports("9092/TCP")[0], "rules": rules}]}


def row(made, identity, port=80, bits=24, direction=0):
    return made.table().get(PolicyKey(API, identity, direction, 6, port, bits))


def heeded(made, identity, port=80):
    """The rules that a proxy heeds for connections of this peer, by path."""
    found = row(made, identity, port) or row(made, 0, port)
    (redirection,) = (one for key, one in made.redirections().items() if key.proxy_port == found.proxy_port)
    return {rule.path or "host" for rule in redirection.rules}


def test_a_port_is_the_same_as_long_as_the_rules_stand_where_they_do():
    made = world(upserted(cnp("a", ingress=[reading("/a", **FROM_WEB)])))
    port = row(made, WEB).proxy_port
    assert PORT_MIN <= port <= PORT_MAX
    delta = made.apply(upserted(cnp("a", ingress=[reading("/b", "/c", **FROM_WEB)])))
    assert not delta, "no entry is another one"
    changed = made.redirected()
    ((key, redirection),) = changed.after.items()
    assert key.proxy_port == port == row(made, WEB).proxy_port
    assert [rule.path for rule in redirection.rules[0].redirect.rules.rules] == ["/b", "/c"]
    made.apply(deleted(cnp("a", ingress=[FROM_WEB])))
    assert made.redirected().deletes == (key,)
    assert not made.redirections()


def test_what_is_said_of_anyone_is_heeded_for_a_peer_of_whom_more_is_said():
    made = world(upserted(cnp("a", ingress=[reading("/anyone"), reading("/web", **FROM_WEB)])))
    anyone, web = "spec.ingress[0].toPorts[0]", "spec.ingress[1].toPorts[0]"
    assert heeded(made, WEB) == {anyone, web}
    assert heeded(made, OTHER) == {anyone}
    assert row(made, OTHER) is None
    assert row(made, WEB).proxy_port != row(made, 0).proxy_port


def test_a_peer_that_may_all_is_not_read_as_others_are():
    made = world(upserted(cnp("a", ingress=[reading("/anyone"), FROM_WEB])))
    assert heeded(made, WEB) == {"spec.ingress[0].toPorts[0]", "spec.ingress[1]"}
    (all_of_it,) = (
        rule for one in made.redirections().values() for rule in one.rules if rule.path == "spec.ingress[1]"
    )
    assert all_of_it.redirect is None
    made.apply(upserted(cnp("a", ingress=[reading("/anyone")])))
    assert row(made, WEB) is None


def test_a_port_that_is_allowed_within_ports_that_are_read_is_heeded():
    wide = {**reading("/x"), "toPorts": [{"ports": [{"port": "80", "endPort": 87, "protocol": "TCP"}]}]}
    wide["toPorts"][0]["rules"] = {"http": [{"path": "/x"}]}
    made = world(upserted(cnp("a", ingress=[{**FROM_WEB, "toPorts": ports("80/TCP")}, {**FROM_WEB, **wide}])))
    assert heeded(made, WEB) == {"spec.ingress[0]", "spec.ingress[1].toPorts[0]"}
    assert row(made, WEB, 80, 21).proxy_port != row(made, WEB).proxy_port


def test_a_port_that_is_allowed_for_anyone_within_ports_that_are_read_of_a_peer_is_heeded():
    wide = [{"ports": [{"port": "80", "endPort": 87, "protocol": "TCP"}], "rules": {"http": [{"path": "/x"}]}}]
    read = upserted(cnp("read", ingress=[{**FROM_WEB, "toPorts": wide}]))
    open_to_all = upserted(cnp("open", ingress=[{"toPorts": ports("80/TCP")}]))
    both = {"spec.ingress[0].toPorts[0]", "spec.ingress[0]"}
    for first, second in ((read, open_to_all), (open_to_all, read)):
        made = world(first, second)
        assert heeded(made, WEB) == both
        assert row(made, WEB, 80, 21).proxy_port != row(made, WEB).proxy_port
        assert row(made, OTHER) is None
    for gone in (cnp("read", ingress=[{}]), cnp("open", ingress=[{}])):
        made = world(read, open_to_all, deleted(gone))
        assert row(made, WEB) is None
    made = world(read, open_to_all, upserted(cnp("no", ingressDeny=[FROM_WEB])))
    assert row(made, WEB) is None


def test_the_local_host_may_ask_anything():
    made = world(upserted(cnp("a", ingress=[reading("/anyone")])))
    assert "host" in heeded(made, HOST)


def test_a_deny_is_not_read():
    made = world(upserted(cnp("a", ingress=[reading("/anyone")], ingressDeny=[FROM_WEB])))
    assert row(made, WEB) is None
    assert made.table()[PolicyKey(API, WEB, 0, 0, 0, 0)].deny


def test_each_parser_has_ports_of_its_own():
    made = world(upserted(cnp("a", ingress=[reading("/a", **FROM_WEB), kafka("t", **FROM_WEB)])))
    assert {one.parser for one in made.redirections().values()} == {"http", "kafka"}


def test_each_policy_has_ports_of_its_own():
    other = endpoint_created(
        endpoint=2, ipv4="10.0.0.2", ipv6="", identity=OTHER, labels=pod_labels("app=other").texts()
    )
    made = world(other, upserted(cnp("a", subject={}, ingress=[reading("/a", **FROM_WEB)])))
    assert {key.policy_id for key, one in made.table().items() if one.proxy_port} == {API, OTHER}
    assert len(made.redirections()) == 2
    assert dict(made.copy()) == dict(made.table())


def test_a_port_stays_when_another_policy_says_more():
    made = world(upserted(cnp("a", ingress=[reading("/a", **FROM_WEB)])))
    port = row(made, WEB).proxy_port
    delta = made.apply(upserted(cnp("b", ingress=[reading("/b", **FROM_WEB)])))
    assert row(made, WEB).proxy_port == port
    assert not {key for key in delta.after if key.identity == WEB} - {PolicyKey(API, WEB, 0, 6, 80, 24)}
    assert [len(one.rules) for one in made.redirected().after.values()] == [2]
    made.apply(upserted(cnp("b", ingress=[FROM_WEB])))
    assert row(made, WEB).proxy_port == port
    made.apply(deleted(cnp("a", ingress=[FROM_WEB])))
    assert not made.redirections()


def test_peers_that_are_told_apart_later_have_ports_of_their_own_then():
    both = {"fromEndpoints": [selector("app=web"), selector("app=other")]}
    made = world(upserted(cnp("a", ingress=[reading("/a", **both)])))
    port = row(made, WEB).proxy_port
    assert row(made, OTHER).proxy_port == port
    delta = made.apply(upserted(cnp("b", ingress=[reading("/b", **FROM_WEB)])))
    assert row(made, WEB).proxy_port == port, "the least peer names it"
    assert row(made, OTHER).proxy_port != port
    assert delta.after[PolicyKey(API, OTHER, 0, 6, 80, 24)] == row(made, OTHER), "though nothing new is said of it"
    assert heeded(made, OTHER) == {"spec.ingress[0].toPorts[0]"}


def test_where_all_ports_are_taken_nobody_is_let_through(monkeypatch):
    monkeypatch.setattr(redirects, "CAPACITY", 3)
    made = world()
    for number in range(4):
        made.apply(upserted(cnp(f"p{number}", ingress=[reading("/a", port=f"{1 + number}/TCP", **FROM_WEB)])))
    assert len(made.redirections()) == 3
    assert min(one.proxy_port for one in made.table().values() if one.proxy_port) == redirects.NO_PROXY


def on(made, *numbers):
    """Ports of the policies that read a port each; 1: it has none."""
    return [row(made, WEB, 1 + number).proxy_port for number in numbers]


def put(number):
    return upserted(cnp(f"p{number}", ingress=[reading("/a", port=f"{1 + number}/TCP", **FROM_WEB)]))


def gone(number):
    return deleted(cnp(f"p{number}", ingress=[FROM_WEB]))


def test_who_has_no_port_gets_one_that_becomes_free_and_in_turn(monkeypatch):
    monkeypatch.setattr(redirects, "CAPACITY", 3)
    made = world(*map(put, range(6)))
    assert on(made, 3, 4, 5) == [redirects.NO_PROXY] * 3
    (freed,) = on(made, 0)
    delta = made.apply(gone(0))
    assert on(made, 3, 4, 5) == [freed, redirects.NO_PROXY, redirects.NO_PROXY]
    assert delta.after[PolicyKey(API, WEB, 0, 6, 4, 24)].proxy_port == freed
    assert delta.before[PolicyKey(API, WEB, 0, 6, 4, 24)].proxy_port == redirects.NO_PROXY
    told = made.redirected()
    assert [one.rules[0].ref.name for one in told.after.values()] == ["p3"]
    made.apply(gone(4))  # who does not want one any more is not waited for
    made.apply(gone(3))
    assert on(made, 5) == [freed]
    assert len(made.redirections()) == 3
    made.apply(put(7))
    assert on(made, 7) == [redirects.NO_PROXY]


def test_a_port_rests_before_another_has_it(monkeypatch):
    monkeypatch.setattr(redirects, "CAPACITY", 4)
    monkeypatch.setattr(redirects, "RESTING", 2)
    made = world(put(0))
    (first,) = on(made, 0)
    made.apply(gone(0))
    for number in range(1, 4):
        made.apply(put(number))
    assert first not in on(made, 1, 2, 3)
    made.apply(gone(1))
    made.apply(gone(2))  # two rest that have been given back later
    made.apply(put(4))
    assert on(made, 4) == [first]


def test_who_had_a_port_has_it_again_at_once(monkeypatch):
    monkeypatch.setattr(redirects, "CAPACITY", 4)
    made = world(put(0), put(1))
    had = on(made, 0, 1)
    for number in (0, 1):
        made.apply(gone(number))
    for number in (1, 0):
        made.apply(put(number))
    assert on(made, 0, 1) == had


def test_where_only_ports_that_rest_are_free_the_one_that_has_rested_longest_is_given(monkeypatch):
    monkeypatch.setattr(redirects, "CAPACITY", 3)
    made = world(put(0), put(1), put(2))
    had = on(made, 0, 1, 2)
    for number in (1, 0, 2):
        made.apply(gone(number))
    made.apply(put(3))
    assert on(made, 3) == [had[1]]
    made.apply(put(2))
    assert on(made, 2) == [had[2]]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=30))
def test_ports_are_one_each_in_bounds_and_the_same_in_every_replay(changes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redirects, "CAPACITY", 4)
        patch.setattr(redirects, "RESTING", 2)
        live = world()
        wanted = set()
        for wants, number in changes:
            if wants or number in wanted:
                live.apply((put if wants else gone)(number))
            (wanted.add if wants else wanted.discard)(number)
            had = [port for port in on(live, *wanted) if port != redirects.NO_PROXY]
            assert len(had) == len(set(had)) == min(len(wanted), 4) == len(live.redirections())
            assert {key.proxy_port for key in live.redirections()} == set(had)
        again = world(*((put if wants else gone)(number) for wants, number in _meant(changes)))
        assert dict(again.table()) == dict(live.table())
        assert dict(again.redirections()) == dict(live.redirections())


def _meant(changes):
    """Without what takes away something that is not there."""
    wanted = set()
    for wants, number in changes:
        if wants or number in wanted:
            yield wants, number
        (wanted.add if wants else wanted.discard)(number)


def test_policies_are_gathered_only_where_none_asks_for_a_proxy():
    covered = cnp("a", ingress=[reading("/a", **FROM_WEB)])
    denying = cnp("b", ingressDeny=[{**FROM_WEB, "toPorts": ports("80/TCP")}])
    made = world(upserted(covered), upserted(denying))
    assert not made.redirections(), "the deny leaves nothing for a proxy"
    plain = upserted(cnp("b", ingress=[{**FROM_WEB, "toPorts": ports("81/TCP")}]))
    assert not made.gather(plain)
    assert made.gathered() == Delta.nothing()
    assert made.apply(plain), "the deny is gone"
    assert made.redirections()
    made.apply(deleted(covered))
    assert made.gather(upserted(cnp("c", ingress=[FROM_WEB])))
    assert made.gathered()
    assert not made.gather(upserted(covered))
