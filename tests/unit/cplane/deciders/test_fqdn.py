"""Addresses that endpoints were told have the identity that follows from their names, as long as they count."""

import json
from typing import Any

from hypothesis import given as over
from hypothesis import settings
from hypothesis import strategies as st

from cplane.deciders import fqdn
from cplane.deciders.endpoint import DeleteEndpoint
from cplane.deciders.fqdn import Answer, Ended, ExpireNames, RecordAnswers
from cplane.deciders.policy import ApplyPolicies, DeletePolicies
from cplane.deciders.world import Command, World, facts
from cplane.domain.policy import PolicyRef
from cplane.errors import CplaneError
from cplane.events.fqdn import AddressesForgotten, AddressesIdentified, NameExpired, NameResolved
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.projections.addresses import prefix_key
from cplane.projections.tables import IPCACHE, POLICY, Tables
from tests.support.builders import cnp, ports
from tests.support.effort import examples
from tests.support.scenario import JOIN, given, pod, replayed, when

WEB = pod("web", "k8s:app=api", ifindex=10)
DB = pod("db", "k8s:app=db", ifindex=11)
REF = PolicyRef("CiliumNetworkPolicy", "shop", "a")
AT = 1_700_000_000_000_000_000


def names(*found: str, policy: str = "a", **more: Any) -> ApplyPolicies:
    key = {True: "matchPattern", False: "matchName"}
    rule = {"toFQDNs": [{key["*" in one]: one} for one in found], "toPorts": ports("443/TCP")}
    return ApplyPolicies(documents=(json.dumps(cnp(policy, egress=[rule, *more.get("egress", [])])),))


def cidr(prefix: str, policy: str = "c") -> ApplyPolicies:
    return ApplyPolicies(documents=(json.dumps(cnp(policy, egress=[{"toCIDR": [prefix]}])),))


def told(name: str, *ips: str, endpoint: int = 1, ttl: int = 30) -> RecordAnswers:
    return RecordAnswers(answers=(Answer(endpoint, name, ips, ttl, "10.96.0.10", AT),))


def labels_of(world: World, address: str) -> tuple[str, ...]:
    """Of the identity that the ipcache has for exactly this address; none where it has no row."""
    row = Tables(facts(world)).table(IPCACHE).get(prefix_key(address))
    return () if row is None else world.identities[row.identity].texts()


def allows(world: World, address: str, port: int = 443) -> bool:
    row = Tables(facts(world)).table(IPCACHE).get(prefix_key(address))
    number = 0 if row is None else row.identity
    held = Tables(facts(world)).table(POLICY)
    return any(key.identity == number and key.port == port for key in held) if number else False


def test_an_answer_is_recorded_before_anybody_selects_its_name() -> None:
    world = given(JOIN, WEB)
    assert when(world, told("a.example.", "192.0.2.1")) == [
        NameResolved(endpoint=1, name="a.example.", ips=("192.0.2.1",), ttl=30, server="10.96.0.10", resolved_at_ns=AT)
    ]


def test_an_address_of_a_selected_name_has_an_identity_at_once() -> None:
    world = given(JOIN, WEB, names("a.example"))
    kinds = [type(one) for one in when(world, told("a.example.", "192.0.2.1", "192.0.2.2"))]
    assert kinds == [NameResolved, IdentityAllocated, AddressesIdentified]
    world = given(JOIN, WEB, names("a.example"), told("a.example.", "192.0.2.1", "192.0.2.2"))
    wanted = ("cidr:0.0.0.0/0=", "fqdn:a.example=", "reserved:world-ipv4=")
    assert labels_of(world, "192.0.2.1") == labels_of(world, "192.0.2.2") == wanted
    assert allows(world, "192.0.2.1")


def test_nothing_is_recorded_of_an_answer_that_only_says_what_is_known() -> None:
    world = given(JOIN, WEB, names("a.example"), told("a.example.", "192.0.2.1"))
    assert when(world, told("a.example.", "192.0.2.1", ttl=300)) == []


def test_an_endpoint_that_is_gone_is_told_nothing() -> None:
    assert when(given(JOIN, WEB), told("a.example.", "192.0.2.1", endpoint=9)) == []


def test_a_policy_that_comes_later_knows_what_was_told_before() -> None:
    world = given(JOIN, WEB, told("a.example.", "192.0.2.1"), told("b.example.", "192.0.2.2"), names("*.example"))
    assert labels_of(world, "192.0.2.1") == labels_of(world, "192.0.2.2")
    assert "fqdn:*.example=" in labels_of(world, "192.0.2.1")


def test_an_address_has_a_label_for_every_selector_of_every_name_of_it() -> None:
    world = given(
        JOIN,
        WEB,
        DB,
        names("a.example", "*.example"),
        names("b.example", policy="b"),
        told("a.example.", "192.0.2.1"),
        told("b.example.", "192.0.2.1", endpoint=2),
    )
    found = {one for one in labels_of(world, "192.0.2.1") if one.startswith("fqdn:")}
    assert found == {"fqdn:a.example=", "fqdn:*.example=", "fqdn:b.example="}


def test_what_expires_has_no_identity_when_no_other_name_has_it() -> None:
    world = given(JOIN, WEB, names("a.example"), told("a.example.", "192.0.2.1", "192.0.2.2"))
    gone = when(world, ExpireNames(names=(Ended(1, "a.example.", ("192.0.2.1",), "ttl"),)))
    assert [type(one) for one in gone] == [NameExpired, AddressesForgotten]
    both = when(world, ExpireNames(names=(Ended(1, "a.example.", ("192.0.2.1", "192.0.2.2", "192.0.2.3"), "ttl"),)))
    assert [type(one) for one in both] == [NameExpired, AddressesForgotten, IdentityReleased]
    assert isinstance(both[0], NameExpired)
    assert both[0].ips == ("192.0.2.1", "192.0.2.2")


def test_an_address_counts_while_any_endpoint_knows_it() -> None:
    history = [JOIN, WEB, DB, names("a.example"), told("a.example.", "192.0.2.1")]
    world = given(*history, told("a.example.", "192.0.2.1", endpoint=2))
    gone = DeleteEndpoint(container_id="c-web", container_interface="eth0")
    assert not any(isinstance(one, AddressesForgotten) for one in when(world, gone))
    assert any(isinstance(one, AddressesForgotten) for one in when(given(*history), gone))


def test_a_policy_that_goes_takes_its_label_along() -> None:
    world = given(JOIN, WEB, names("a.example"), names("*.example", policy="b"), told("a.example.", "192.0.2.1"))
    events = when(world, DeletePolicies(refs=(PolicyRef("CiliumNetworkPolicy", "shop", "b"),)))
    assert [type(one).__name__ for one in events] == [
        "PolicyDeleted",
        "IdentityAllocated",
        "AddressesIdentified",
        "IdentityReleased",
    ]
    world = given(JOIN, WEB, names("a.example"), told("a.example.", "192.0.2.1"), DeletePolicies(refs=(REF,)))
    assert labels_of(world, "192.0.2.1") == ()
    assert world.identities.get(16777217) is None


def test_an_address_also_meets_the_prefixes_that_policies_name_around_it() -> None:
    for history in (
        [names("a.example"), cidr("192.0.2.0/24"), told("a.example.", "192.0.2.1")],
        [cidr("192.0.2.0/24"), told("a.example.", "192.0.2.1"), names("a.example")],
        [names("a.example"), told("a.example.", "192.0.2.1"), cidr("192.0.0.0/16", "d"), cidr("192.0.2.0/24")],
    ):
        world = given(JOIN, WEB, *history)
        wanted = ("cidr:192.0.2.0/24=", "fqdn:a.example=", "reserved:world-ipv4=")
        assert labels_of(world, "192.0.2.1") == wanted
        number = world.fqdn.numbers["192.0.2.1"]
        keys = [key for key in Tables(facts(world)).table(POLICY) if key.identity == number]
        assert {key.port for key in keys if key.direction} == {443, 0}, "of the name and of the prefix"
        gone = given(JOIN, WEB, *history, DeletePolicies(refs=(PolicyRef("CiliumNetworkPolicy", "shop", "c"),)))
        assert "cidr:192.0.2.0/24=" not in labels_of(gone, "192.0.2.1")


def test_an_address_that_a_policy_names_itself_still_has_a_row_when_its_names_are_gone() -> None:
    history = [JOIN, WEB, names("a.example"), cidr("192.0.2.1/32"), told("a.example.", "192.0.2.1")]
    assert labels_of(given(*history), "192.0.2.1") == ("cidr:192.0.2.1/32=", "fqdn:a.example=", "reserved:world-ipv4=")
    world = given(*history, ExpireNames(names=(Ended(1, "a.example.", ("192.0.2.1",), "ttl"),)))
    assert labels_of(world, "192.0.2.1") == ("cidr:192.0.2.1/32=", "reserved:world-ipv4=")


def test_a_selector_of_everything_outside_selects_addresses_with_names() -> None:
    for rule in ({"toCIDR": ["0.0.0.0/0"]}, {"toEntities": ["world"]}):
        world = given(JOIN, WEB, names("a.example", egress=[rule]), told("a.example.", "192.0.2.1", "2001:db8::1"))
        number = world.fqdn.numbers["192.0.2.1"]
        assert any(k.identity == number and k.port == 0 for k in Tables(facts(world)).table(POLICY))


def test_the_address_of_a_pod_stays_its_own_whatever_names_it_has() -> None:
    world = given(JOIN, WEB, DB, names("a.example"))
    address = world.endpoints[2].ipv4
    before = Tables(facts(world)).table(IPCACHE)[prefix_key(address)]
    world = given(JOIN, WEB, DB, names("a.example"), told("a.example.", address))
    assert Tables(facts(world)).table(IPCACHE)[prefix_key(address)] == before


def test_an_endpoint_that_was_told_too_much_learns_nothing_more(monkeypatch) -> None:
    monkeypatch.setattr(fqdn, "ADDRESSES_MAX", 3)
    world = given(JOIN, WEB, told("a.example.", "192.0.2.1", "192.0.2.2"))
    assert when(world, told("b.example.", "192.0.2.3", "192.0.2.4")) == []
    assert len(when(world, told("b.example.", "192.0.2.3"))) == 1


ADDRESS = st.sampled_from(("192.0.2.1", "192.0.2.130", "198.51.100.7", "2001:db8::1"))
NAME = st.sampled_from(("a.example.", "b.example.", "x.a.example."))
ACT = st.one_of(
    st.builds(
        lambda e, n, ips: told(n, *ips, endpoint=e), st.integers(1, 3), NAME, st.lists(ADDRESS, min_size=1, max_size=3)
    ),
    st.builds(
        lambda e, n, ips: ExpireNames(names=(Ended(e, n, tuple(ips), "ttl"),)),
        st.integers(1, 3),
        NAME,
        st.lists(ADDRESS, min_size=1, max_size=3),
    ),
    st.builds(
        lambda found, policy: names(*found, policy=policy),
        st.lists(
            st.sampled_from(("a.example", "*.example", "**.example", "c.example")), min_size=1, max_size=2, unique=True
        ),
        st.sampled_from(("a", "b")),
    ),
    st.builds(cidr, st.sampled_from(("192.0.2.0/24", "192.0.2.128/25", "192.0.2.1/32", "2001:db8::/32"))),
    st.just(pod("new", "k8s:app=web", ifindex=12)),
    st.just(DeleteEndpoint(container_id="c-web", container_interface="eth0")),
    st.just(DeletePolicies(refs=(REF,))),
)


def carried_out(history: list[Command]) -> list[Command]:
    """Those of the commands that are not refused."""
    done: list[Command] = [JOIN, WEB, DB]
    for command in history:
        try:
            given(*done, command)
        except CplaneError:
            continue
        done.append(command)
    return done


@settings(max_examples=examples(60), deadline=None)
@over(st.lists(ACT, max_size=10))
def test_identities_follow_from_what_is_true_and_from_nothing_else(history) -> None:
    done = carried_out(history)
    world = given(*done)
    assert replayed(done) == world
    state = world.fqdn
    assert fqdn.gathered(state.answers, state.numbers) == state
    for address, known in state.named.items():
        found = {one for name in known for one in fqdn.selectors_of(name, world.policy.names)}
        labels = world.identities[state.numbers[address]] if address in state.numbers else ()
        assert {label.key for label in labels if label.source == "fqdn"} == found
    of_names = {n for n, labels in world.identities.items() if any(label.source == "fqdn" for label in labels)}
    assert of_names == set(state.users), "every identity of names is in use"
    rebuilt = Tables(facts(world))
    assert set(rebuilt.table(IPCACHE)) >= {prefix_key(address) for address in state.numbers}
