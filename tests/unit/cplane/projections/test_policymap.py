"""Rows of the policy map follow from endpoints, identities, policies and the node."""

from ipaddress import ip_network

from cplane.domain.identity import LOCAL_MIN, cidr_labels
from cplane.domain.policy.mapstate import Origin
from cplane.domain.policy.redirection import PORT_MAX, PORT_MIN
from cplane.domain.policy.resolve import ALLOW, DENY, precedence
from cplane.events.config import OptionsChanged
from cplane.events.endpoint import EndpointConfigured, EndpointDeleted, EndpointRelabelled
from cplane.events.identity import IdentityReleased
from cplane.events.ipam import AddressAllocated
from cplane.events.node import NodeJoined
from cplane.projections.policymap import PolicyMapProjection
from datapath.maps.policy import AUDIT_PLANE, PolicyEntry, PolicyKey
from tests.support.builders import (
    CLUSTER,
    DUAL_STACK,
    IPV4_ONLY,
    allocated,
    audited,
    ccnp,
    cnp,
    deleted,
    group,
    knp,
    pod_labels,
    ports,
    selector,
    upserted,
)
from tests.support.scenario import endpoint_created

WEB, API = 300, 301
FROM_WEB = {"fromEndpoints": [selector("app=web")]}
EVERYTHING = PolicyEntry(deny=False, precedence=ALLOW, l4_bits=0)
OPEN = {(0, 0, 0, 0, 0), (0, 1, 0, 0, 0), (1, 0, 0, 0, 0)}
CLOSED_IN = {(0, 1, 0, 0, 0), (1, 0, 0, 0, 0)}


def created(number, *labels, endpoint=1):
    return endpoint_created(endpoint=endpoint, ipv4="", ipv6="", identity=number, labels=pod_labels(*labels).texts())


def world(*events, node=DUAL_STACK):
    projection = PolicyMapProjection()
    for event in (
        node,
        allocated(WEB, pod_labels("app=web")),
        allocated(API, pod_labels("app=api")),
        created(API, "app=api"),
        *events,
    ):
        projection.apply(event)
    return projection


def rows(projection, policy_id=API):
    return {tuple(key[1:]) for key in projection.table() if key.policy_id == policy_id}


def test_without_policies_an_endpoint_is_open_and_the_world_has_no_rows():
    projection = world()
    assert rows(projection) == OPEN
    assert set(projection.table().values()) == {EVERYTHING}
    assert projection.entries_by_policy() == {API: 3}


def test_without_endpoints_there_are_no_rows():
    projection = PolicyMapProjection()
    for event in (DUAL_STACK, allocated(API, pod_labels("app=api")), upserted(ccnp(ingress=[{}]))):
        assert not projection.apply(event)
    assert not projection.table()


def test_a_policy_changes_only_what_it_is_about():
    projection = world()
    delta = projection.apply(upserted(cnp("a", ingress=[{**FROM_WEB, "toPorts": ports("80/TCP")}])))
    ((key, row),) = delta.upserts.items()
    assert key == PolicyKey(API, WEB, 0, 6, 80, 24)
    assert row == PolicyEntry(deny=False, precedence=ALLOW, l4_bits=24, cookie=row.cookie)
    assert projection.origins(row.cookie) == (Origin("CiliumNetworkPolicy shop/a", "spec.ingress[0]"),)
    assert delta.deletes == (PolicyKey(API, 0, 0, 0, 0, 0),)
    assert not projection.apply(upserted(cnp("b", subject=selector("app=other"), ingress=[{}])))


def test_a_policy_that_is_deleted_takes_its_rows_along():
    projection = world(upserted(cnp("a", ingressDeny=[FROM_WEB])))
    row = projection.table()[PolicyKey(API, WEB, 0, 0, 0, 0)]
    assert row == PolicyEntry(deny=True, precedence=DENY, l4_bits=0, cookie=row.cookie)
    projection.apply(deleted(cnp("a", ingressDeny=[FROM_WEB])))
    assert rows(projection) == OPEN
    assert not projection.apply(deleted(cnp("a", ingressDeny=[FROM_WEB])))


def test_a_document_that_says_the_same_changes_nothing():
    document = cnp("a", ingress=[FROM_WEB])
    projection = world(upserted(document))
    document["metadata"]["annotations"] = {"note": "new"}
    assert not projection.apply(upserted(document))


def test_an_identity_that_comes_gets_the_rows_that_select_it():
    projection = world(upserted(cnp("a", ingress=[FROM_WEB])))
    delta = projection.apply(allocated(310, pod_labels("app=web", "v=2")))
    assert list(delta.upserts) == [PolicyKey(API, 310, 0, 0, 0, 0)]
    assert projection.apply(IdentityReleased(number=310)).deletes == (PolicyKey(API, 310, 0, 0, 0, 0),)
    assert not projection.apply(allocated(311, pod_labels("app=db")))


def test_endpoints_of_one_identity_share_their_rows_until_the_last_is_gone():
    projection = world()
    assert not projection.apply(created(API, "app=api", endpoint=2))
    assert not projection.apply(EndpointDeleted(endpoint=1))
    assert len(projection.apply(EndpointDeleted(endpoint=2)).deletes) == 3
    assert not projection.table()
    assert not projection.entries_by_policy()
    assert not projection.apply(EndpointDeleted(endpoint=2))


def test_an_endpoint_that_is_relabelled_obeys_another_policy():
    projection = world(upserted(cnp("a", ingress=[{}])))
    assert rows(projection) == CLOSED_IN
    labels = pod_labels("app=web").texts()
    delta = projection.apply(EndpointRelabelled(endpoint=1, labels=labels, identity=WEB))
    assert {key.policy_id for key in delta.upserts} == {WEB}
    assert {key.policy_id for key in delta.deletes} == {API}
    assert rows(projection, WEB) == OPEN
    assert not projection.apply(EndpointRelabelled(endpoint=9, labels=labels, identity=WEB))


def test_an_endpoint_whose_identity_is_not_known_yet_goes_by_its_own_labels():
    projection = PolicyMapProjection()
    for event in (DUAL_STACK, upserted(cnp("a", ingress=[{}])), created(API, "app=api", "pod-template-hash=x")):
        projection.apply(event)
    assert rows(projection) == CLOSED_IN
    assert not projection.apply(allocated(API, pod_labels("app=api")))


def test_reserved_identities_are_known_from_the_start():
    projection = world(upserted(cnp("a", ingress=[{"fromEntities": ["remote-node", "health"]}])))
    assert rows(projection) == CLOSED_IN | {(n, 0, 0, 0, 0) for n in (4, 6, 7)}


def test_the_world_of_each_family_is_one_identity_on_two_families():
    projection = world(upserted(cnp("a", egress=[{"toEntities": ["world"]}])))
    assert {key.identity for key in projection.table() if key.direction == 1} == {9, 10}
    assert peers(world(upserted(cnp("a", egress=[{"toCIDR": ["0.0.0.0/0"]}])))) == {9}
    assert peers(world(upserted(cnp("a", egress=[{"toCIDR": ["::/0"]}])))) == {10}


def test_on_one_family_the_world_is_one_identity_and_the_other_family_is_nobody():
    assert peers(world(upserted(cnp("a", egress=[{"toEntities": ["world"]}])), node=IPV4_ONLY)) == {2}
    assert peers(world(upserted(cnp("a", egress=[{"toCIDR": ["0.0.0.0/0"]}])), node=IPV4_ONLY)) == {2}
    assert peers(world(upserted(cnp("a", egress=[{"toCIDR": ["::/0"]}])), node=IPV4_ONLY)) == set()


def peers(projection):
    return {key.identity for key in projection.table() if key.direction == 1}


def test_a_prefix_selects_the_identities_that_lie_in_it():
    document = cnp("a", egress=[{"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16"]}]}])
    projection = world(upserted(document))
    for number, text in enumerate(("10.0.0.0/8", "10.2.0.0/16", "10.3.0.0/16"), LOCAL_MIN):
        projection.apply(allocated(number, cidr_labels(ip_network(text), dual_stack=True)))
    assert peers(projection) == {LOCAL_MIN, LOCAL_MIN + 2}


def test_a_node_that_gives_the_cluster_another_name_completes_the_selectors_anew():
    projection = world(upserted(cnp("a", ingress=[FROM_WEB])))
    assert (WEB, 0, 0, 0, 0) in rows(projection)
    joined = {name: getattr(DUAL_STACK, name) for name in DUAL_STACK.__struct_fields__}
    delta = projection.apply(NodeJoined(**{**joined, "cluster": "c9"}))
    assert delta.deletes == (PolicyKey(API, WEB, 0, 0, 0, 0),)
    assert CLUSTER != "c9"


def test_other_nodes_and_other_facts_change_nothing():
    projection = world()
    joined = {name: getattr(DUAL_STACK, name) for name in DUAL_STACK.__struct_fields__}
    assert not projection.apply(NodeJoined(**{**joined, "cluster": "c9", "local": False}))
    assert not projection.apply(AddressAllocated(pool="ipv4", address="10.1.0.7", owner="x"))


def test_the_state_behind_the_rows_names_the_rules_that_made_them():
    projection = world(upserted(cnp("a", ingress=[FROM_WEB])))
    state = projection.state(API)
    (key,) = (key for key in state.entries() if key.identity == WEB)
    assert [str(origin.policy) for origin in state.origins(key)] == ["CiliumNetworkPolicy shop/a"]


HTTP, OTHER_HTTP = ("http=80/TCP",), ("http=8080/TCP",)
VARIANT = 1 << 27


def with_ports(endpoint, number, ports_, policy=0, labels=("app=api",)):
    return endpoint_created(
        endpoint=endpoint,
        ipv4="",
        ipv6="",
        identity=number,
        labels=pod_labels(*labels).texts(),
        named_ports=ports_,
        policy=policy,
    )


def test_endpoints_with_other_ports_under_the_same_names_obey_a_policy_of_their_own():
    document = cnp("a", ingress=[{**FROM_WEB, "toPorts": ports("http/TCP")}])
    projection = PolicyMapProjection()
    for event in (
        DUAL_STACK,
        allocated(WEB, pod_labels("app=web")),
        allocated(API, pod_labels("app=api")),
        upserted(document),
        with_ports(1, API, HTTP),
        with_ports(2, API, OTHER_HTTP, VARIANT),
    ):
        projection.apply(event)
    assert (WEB, 0, 6, 80, 24) in rows(projection)
    assert (WEB, 0, 6, 8080, 24) in rows(projection, VARIANT)
    assert rows(projection) & rows(projection, VARIANT) == CLOSED_IN
    projection.apply(EndpointDeleted(endpoint=2))
    assert rows(projection, VARIANT) == set()


def test_a_peer_has_the_named_ports_of_all_of_its_endpoints_that_are_there():
    document = cnp("a", subject=selector("app=web"), egress=[{"toEndpoints": [{}], "toPorts": ports("http/TCP")}])
    projection = world(created(WEB, "app=web", endpoint=9), upserted(document))

    def reached():
        return {key.port for key in projection.table() if key.policy_id == WEB and key.port}

    assert reached() == set()
    projection.apply(with_ports(2, API, HTTP))
    projection.apply(with_ports(3, API, OTHER_HTTP, VARIANT))
    assert reached() == {80, 8080}
    projection.apply(EndpointDeleted(endpoint=2))
    assert reached() == {8080}
    projection.apply(EndpointRelabelled(endpoint=3, labels=pod_labels("app=x").texts(), identity=999, policy=0))
    assert reached() == set()


def test_a_policy_of_its_own_follows_the_labels_of_the_identity_when_they_come_to_be_known():
    projection = PolicyMapProjection()
    for event in (DUAL_STACK, upserted(cnp("a", ingress=[{}])), with_ports(1, API, HTTP, VARIANT, labels=())):
        projection.apply(event)
    assert rows(projection, VARIANT) == OPEN
    projection.apply(allocated(API, pod_labels("app=api")))
    assert rows(projection, VARIANT) == CLOSED_IN


def test_what_is_only_audited_has_rows_in_a_plane_and_none_where_it_would_be_enforced():
    projection = world()
    projection.apply(upserted(audited(cnp("a", ingress=[FROM_WEB]))))
    assert rows(projection) == OPEN
    assert rows(projection, API | AUDIT_PLANE) == CLOSED_IN | {(WEB, 0, 0, 0, 0)}
    assert all(row.audited for key, row in projection.table().items() if key.policy_id == API)
    assert not any(row.audited for key, row in projection.table().items() if key.policy_id != API)
    projection.apply(deleted(cnp("a", ingress=[FROM_WEB])))
    assert projection.entries_by_policy() == {API: 3}
    assert not any(row.audited for row in projection.table().values())


def test_what_needs_a_proxy_has_a_port_and_what_needs_proof_says_so():
    http = {**ports("80/TCP")[0], "rules": {"http": [{}]}}
    document = cnp(
        "a",
        ingress=[{**FROM_WEB, "toPorts": [http]}, {"toPorts": ports("81/TCP"), "authentication": {"mode": "required"}}],
    )
    table = world(upserted(document)).table()
    proxied, asked = table[PolicyKey(API, WEB, 0, 6, 80, 24)], table[PolicyKey(API, 0, 0, 6, 81, 24)]
    assert proxied.precedence == precedence(deny=False, redirect=101)
    assert PORT_MIN <= proxied.proxy_port <= PORT_MAX
    assert (asked.auth_type, asked.auth_said, asked.proxy_port) == (1, True, 0)


def test_the_mode_closes_and_opens_all_endpoints():
    projection = world(upserted(cnp("a", ingress=[{}])))
    projection.apply(OptionsChanged(policy_enforcement="always", policy_audit=False))
    assert rows(projection) == {(1, 0, 0, 0, 0)}
    projection.apply(OptionsChanged(policy_enforcement="never", policy_audit=False))
    assert rows(projection) == OPEN
    projection.apply(OptionsChanged(policy_enforcement="default", policy_audit=True))
    assert rows(projection) == CLOSED_IN
    assert not projection.apply(EndpointConfigured(endpoint=1, audit=True))


def test_a_group_of_prefixes_is_a_document_too():
    projection = world(upserted(cnp("a", egress=[{"toCIDRSet": [{"cidrGroupRef": "g"}]}])))
    projection.apply(allocated(LOCAL_MIN, cidr_labels(ip_network("10.0.0.0/8"), dual_stack=True)))
    assert peers(projection) == set()
    projection.apply(upserted(group("g", "10.0.0.0/8")))
    assert peers(projection) == {LOCAL_MIN}
    projection.apply(deleted(group("g", "10.0.0.0/8")))
    assert peers(projection) == set()


def test_a_network_policy_is_enforced_like_the_others():
    document = knp("a", ingress=[{"from": [{"podSelector": selector("app=web")}], "ports": [{"port": 80}]}])
    projection = world(upserted(document))
    assert rows(projection) == CLOSED_IN | {(WEB, 0, 6, 80, 24)}
    projection.apply(deleted(document))
    assert rows(projection) == OPEN
