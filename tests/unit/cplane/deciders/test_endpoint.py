"""Endpoints come with addresses and an identity, and take them along when they go."""

from dataclasses import replace

import pytest

from cplane.deciders.endpoint import (
    VARIANT_MIN,
    BadNamedPort,
    ConfigureEndpoint,
    DeleteEndpoint,
    EndpointExists,
    NodeNotReady,
    NoSuchEndpoint,
    RelabelEndpoint,
)
from cplane.deciders.ipam import AddressNotFree, PoolExhausted
from cplane.deciders.world import World, facts
from cplane.domain.endpoint import MAX_ID, next_free_id
from cplane.domain.identity import LOCAL_MAX
from cplane.events.endpoint import EndpointConfigured, EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.ipam import AddressAllocated, AddressReleased
from tests.support.scenario import JOIN, given, pod, replayed, when


def test_an_endpoint_gets_an_address_of_each_family_and_an_identity_for_its_labels():
    events = when(given(JOIN), pod("web", "k8s:app=web"))
    assert [type(e) for e in events] == [
        AddressAllocated,
        AddressAllocated,
        IdentityAllocated,
        EndpointCreated,
    ]
    created = events[-1]
    assert isinstance(created, EndpointCreated)
    assert (created.endpoint, created.ipv4, created.ipv6, created.identity) == (
        1,
        "10.244.0.2",
        "fd00:10:244::2",
        256,
    )


def test_endpoints_with_the_same_relevant_labels_share_an_identity():
    world = given(JOIN, pod("web-1", "k8s:app=web", "k8s:pod-template-hash=1"))
    events = when(world, pod("web-2", "k8s:app=web", "k8s:pod-template-hash=2"))
    assert not [e for e in events if isinstance(e, IdentityAllocated)]
    assert events[-1].identity == 256  # type: ignore[union-attr]


def test_the_last_endpoint_of_an_identity_releases_it():
    world = given(JOIN, pod("a", "k8s:app=web"), pod("b", "k8s:app=web"))
    first = when(world, DeleteEndpoint(container_id="c-a", container_interface="eth0"))
    assert [type(e) for e in first] == [EndpointDeleted, AddressReleased, AddressReleased]
    world = given(JOIN, pod("a", "k8s:app=web"))
    last = when(world, DeleteEndpoint(container_id="c-a", container_interface="eth0"))
    assert [type(e) for e in last] == [EndpointDeleted, AddressReleased, AddressReleased, IdentityReleased]


def test_deleting_what_does_not_exist_changes_nothing():
    assert when(given(JOIN), DeleteEndpoint(container_id="c-x", container_interface="eth0")) == []


def test_an_attachment_cannot_be_added_twice():
    with pytest.raises(EndpointExists, match="endpoint 1 already"):
        when(given(JOIN, pod("web")), pod("web"))


def test_nothing_is_created_before_the_node_has_joined():
    with pytest.raises(NodeNotReady):
        when(World(), pod("web"))


def test_new_labels_bring_a_new_identity_and_release_the_old_one():
    world = given(JOIN, pod("web", "k8s:app=web"))
    labels = pod("web", "k8s:app=api").labels
    events = when(world, RelabelEndpoint(endpoint=1, labels=labels))
    assert [type(e) for e in events] == [IdentityAllocated, EndpointRelabelled, IdentityReleased]
    assert events[0].number == 257  # type: ignore[union-attr]
    assert (
        when(
            given(JOIN, pod("web", "k8s:app=web")),
            RelabelEndpoint(endpoint=1, labels=pod("web", "k8s:app=web").labels),
        )
        == []
    )


def test_labels_of_an_unknown_endpoint_cannot_change():
    with pytest.raises(NoSuchEndpoint, match="no endpoint 7"):
        when(given(JOIN), RelabelEndpoint(endpoint=7, labels=()))


def test_a_full_pool_refuses_and_names_itself():
    world = given(JOIN, *(pod(f"p{i}") for i in range(13)))
    with pytest.raises(PoolExhausted, match=r"'ipv4' \(10\.244\.0\.0/28\) has no free address, 13 are in use"):
        when(world, pod("one-more"))


@pytest.mark.parametrize(
    ("requested", "reason"),
    [
        ("10.9.9.9", "not in 10.244.0.0/28"),
        ("10.244.0.1", "reserved"),
        ("10.244.0.2", "belongs to endpoint/c-web/eth0"),
        ("nonsense", "not an IP address"),
    ],
)
def test_a_requested_address_must_be_free_and_of_the_pool(requested, reason):
    with pytest.raises(AddressNotFree, match=reason):
        when(given(JOIN, pod("web")), replace(pod("api"), requested_ipv4=requested))


def test_a_released_address_rests_as_long_as_others_are_free():
    world = given(JOIN, pod("a"), DeleteEndpoint(container_id="c-a", container_interface="eth0"))
    assert when(world, pod("b"))[0].address == "10.244.0.3"  # type: ignore[union-attr]


def test_endpoint_numbers_go_around_and_skip_those_in_use():
    assert next_free_id({1, 2}, 0) == 3
    assert next_free_id({1}, MAX_ID) == 2
    assert next_free_id(range(1, MAX_ID + 1), 5) is None


def test_the_events_alone_give_the_same_world_and_so_do_its_facts():
    history = [
        JOIN,
        pod("a", "k8s:app=a"),
        pod("b", "k8s:app=b"),
        RelabelEndpoint(endpoint=2, labels=pod("b", "k8s:app=a").labels),
        DeleteEndpoint(container_id="c-a", container_interface="eth0"),
    ]
    world = given(*history)
    assert replayed(history) == world
    assert [type(f).__name__ for f in facts(world)] == [
        "NodeJoined",
        "NodeAddressesChanged",
        "IdentityAllocated",
        "EndpointCreated",
    ]


WEB, HTTP, OTHER = "k8s:app=web", ("http=80/TCP",), ("http=8080/TCP",)


def created(events):
    (found,) = [one for one in events if isinstance(one, EndpointCreated)]
    return found


def test_named_ports_are_kept_sorted_and_in_one_spelling():
    event = created(when(given(JOIN), pod("a", WEB, named_ports=("HTTP=80/tcp", "dns=53/UDP", "http=80"))))
    assert event.named_ports == ("dns=53/UDP", "http=80/TCP")


@pytest.mark.parametrize(
    "text", ["http", "http=", "=80", "http=0", "http=65536", "http=x", "http=80/ICMP", "http=-1", "http=²"]
)
def test_a_named_port_that_is_none_is_refused_by_name(text):
    with pytest.raises(BadNamedPort, match=text):
        when(given(JOIN), pod("a", WEB, named_ports=(text,)))


def test_a_number_without_end_is_no_port():
    with pytest.raises(BadNamedPort, match="is not name=number/protocol"):
        when(given(JOIN), pod("a", WEB, named_ports=("http=" + "9" * 5000,)))


def test_endpoints_of_one_identity_with_the_same_ports_obey_its_policy():
    world = given(JOIN, pod("a", WEB, named_ports=HTTP))
    assert created(when(world, pod("b", WEB, named_ports=HTTP))).policy == 0


def test_endpoints_with_other_ports_obey_another_policy_and_share_it():
    world = given(JOIN, pod("a", WEB, named_ports=HTTP))
    event = created(when(world, pod("b", WEB, named_ports=OTHER)))
    assert event.policy == VARIANT_MIN > LOCAL_MAX
    world = given(JOIN, pod("a", WEB, named_ports=HTTP), pod("b", WEB, named_ports=OTHER))
    assert created(when(world, pod("c", WEB, named_ports=OTHER))).policy == VARIANT_MIN
    assert created(when(world, pod("c", WEB))).policy == VARIANT_MIN + 1
    assert created(when(world, pod("c", WEB, named_ports=HTTP))).policy == 0
    assert created(when(world, pod("c", "k8s:app=api", named_ports=OTHER))).policy == 0


def test_the_policy_of_the_identity_is_free_again_when_nobody_obeys_it():
    gone = DeleteEndpoint(container_id="c-a", container_interface="eth0")
    world = given(JOIN, pod("a", WEB, named_ports=HTTP), pod("b", WEB, named_ports=OTHER), gone)
    assert created(when(world, pod("c", WEB))).policy == 0
    assert created(when(world, pod("c", WEB, named_ports=OTHER))).policy == VARIANT_MIN


def test_new_labels_keep_the_ports_and_lead_to_the_policy_of_who_has_the_same():
    history = [
        JOIN,
        pod("a", WEB, named_ports=HTTP),
        pod("b", WEB, named_ports=OTHER),
        pod("c", "k8s:app=api", named_ports=OTHER),
    ]
    world = given(*history)
    events = when(world, RelabelEndpoint(endpoint=3, labels=pod("c", WEB).labels))
    (event,) = [one for one in events if isinstance(one, EndpointRelabelled)]
    assert (event.identity, event.policy) == (256, VARIANT_MIN)
    alone = when(world, RelabelEndpoint(endpoint=2, labels=pod("b", "k8s:app=new").labels))
    assert [one.policy for one in alone if isinstance(one, EndpointRelabelled)] == [0]
    assert replayed(history) == world


def test_an_endpoint_alone_in_its_identity_obeys_its_policy_whatever_labels_it_gets():
    world = given(JOIN, pod("a", WEB, named_ports=HTTP))
    events = when(world, RelabelEndpoint(endpoint=1, labels=(*pod("a", WEB).labels, "k8s:pod-template-hash=x")))
    assert [(one.identity, one.policy) for one in events if isinstance(one, EndpointRelabelled)] == [(256, 0)]


def test_an_endpoint_is_audited_from_when_it_is_said_until_it_is_said_otherwise():
    world = given(JOIN, pod("a", WEB))
    assert when(world, ConfigureEndpoint(endpoint=1, audit=True)) == [EndpointConfigured(endpoint=1, audit=True)]
    assert when(world, ConfigureEndpoint(endpoint=1, audit=False)) == []
    world = given(JOIN, pod("a", WEB), ConfigureEndpoint(endpoint=1, audit=True))
    assert when(world, ConfigureEndpoint(endpoint=1, audit=True)) == []
    assert when(world, ConfigureEndpoint(endpoint=1, audit=False)) == [EndpointConfigured(endpoint=1, audit=False)]
    assert [one.audit for one in facts(world) if isinstance(one, EndpointCreated)] == [True]


def test_an_endpoint_that_does_not_exist_cannot_be_audited():
    with pytest.raises(NoSuchEndpoint, match="no endpoint 7"):
        when(given(JOIN), ConfigureEndpoint(endpoint=7, audit=True))


def test_what_an_endpoint_has_survives_new_labels():
    world = given(
        JOIN,
        pod("a", WEB, named_ports=HTTP),
        ConfigureEndpoint(endpoint=1, audit=True),
        RelabelEndpoint(endpoint=1, labels=pod("a", "k8s:app=new").labels),
    )
    (fact,) = [one for one in facts(world) if isinstance(one, EndpointCreated)]
    assert (fact.audit, fact.named_ports) == (True, HTTP)
