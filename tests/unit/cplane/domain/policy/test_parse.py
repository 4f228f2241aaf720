"""Documents become rules with every default of the language filled in."""

import json
from ipaddress import ip_network

import pytest

from cplane.domain.labels import CLUSTER_KEY, NAMESPACE_KEY
from cplane.domain.policy import (
    CCNP,
    CNP,
    DefaultDeny,
    IcmpMatch,
    InvalidPolicy,
    PolicyRef,
    PortMatch,
    parse,
    parse_text,
)
from cplane.domain.policy.parse import KEPT_CHARS
from cplane.domain.ports import Protocol
from cplane.domain.selectors import CidrSelector, LabelSelector, Operator, Requirement
from cplane.domain.verdict import Direction
from tests.support.builders import ccnp, cnp, policy, ports, selector

IN, EXISTS = Operator.IN, Operator.EXISTS
IN_SHOP = Requirement("k8s", NAMESPACE_KEY, IN, ("shop",))
IN_C1 = Requirement("k8s", CLUSTER_KEY, IN, ("c1",))
SOMEWHERE = Requirement("k8s", NAMESPACE_KEY, EXISTS)


def one_term(document):
    (rule,) = policy(document).rules
    (term,) = rule.terms
    return term


def peers(document):
    return one_term(document).peers


def test_a_policy_has_the_name_and_namespace_of_its_metadata():
    assert policy(cnp("a", namespace="n", ingress=[{}])).ref == PolicyRef(CNP, "n", "a")
    assert str(policy(cnp("a", namespace="n", ingress=[{}])).ref) == "CiliumNetworkPolicy n/a"
    assert policy(ccnp("a", ingress=[{}])).ref == PolicyRef(CCNP, "", "a")


def test_without_a_namespace_a_policy_is_in_default():
    document = cnp("a", ingress=[{}])
    del document["metadata"]["namespace"]
    assert policy(document).ref == PolicyRef(CNP, "default", "a")


def test_what_kubernetes_writes_is_accepted_and_does_not_matter():
    document = cnp("a", ingress=[{}])
    document["metadata"] |= {
        "resourceVersion": "7",
        "generation": 2,
        "creationTimestamp": "2024-01-01T00:00:00Z",
        "managedFields": [{}],
        "annotations": {"x": "y"},
        "labels": {"x": "y"},
        "ownerReferences": [],
        "finalizers": [],
    }
    document["status"] = {"conditions": []}
    assert policy(document) == policy(cnp("a", ingress=[{}]))


def test_spec_comes_before_specs():
    document = cnp(ingress=[{}])
    document["specs"] = [cnp(egress=[{}])["spec"]]
    assert [rule.path for rule in policy(document).rules] == ["spec", "specs[0]"]
    del document["spec"]
    assert [rule.path for rule in policy(document).rules] == ["specs[0]"]


def test_a_rule_carries_the_users_labels_and_those_that_name_its_policy():
    document = cnp("a", ingress=[{}], labels=[{"key": "team", "value": "x"}, "k8s:tier=1"], log={"value": "hi"})
    document["metadata"]["uid"] = "u-1"
    (rule,) = policy(document).rules
    assert rule.labels.texts() == (
        "k8s:io.cilium.k8s.policy.derived-from=CiliumNetworkPolicy",
        "k8s:io.cilium.k8s.policy.name=a",
        "k8s:io.cilium.k8s.policy.namespace=shop",
        "k8s:io.cilium.k8s.policy.uid=u-1",
        "unspec:team=x",
        "k8s:tier=1",
    )
    assert rule.log == "hi"


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"ingress": [{}]}, DefaultDeny(ingress=True, egress=False)),
        ({"egressDeny": [{}]}, DefaultDeny(ingress=False, egress=True)),
        ({"ingress": [], "egress": [{}]}, DefaultDeny(ingress=False, egress=True)),
        ({"ingress": [{}], "enableDefaultDeny": {"ingress": False}}, DefaultDeny(ingress=False, egress=False)),
        ({"ingress": [{}], "enableDefaultDeny": {"egress": True}}, DefaultDeny(ingress=True, egress=True)),
        ({"ingress": [{}], "enableDefaultDeny": {"ingress": None}}, DefaultDeny(ingress=True, egress=False)),
    ],
)
def test_default_deny_follows_the_sections_that_have_elements_unless_it_is_said(sections, expected):
    assert policy(cnp(**sections)).rules[0].default_deny == expected


def test_a_section_says_direction_and_verdict():
    (rule,) = policy(cnp(ingress=[{}], ingressDeny=[{}], egress=[{}], egressDeny=[{}])).rules
    assert [(t.path, t.direction, t.deny) for t in rule.terms] == [
        ("spec.ingress[0]", Direction.INGRESS, False),
        ("spec.ingressDeny[0]", Direction.INGRESS, True),
        ("spec.egress[0]", Direction.EGRESS, False),
        ("spec.egressDeny[0]", Direction.EGRESS, True),
    ]


@pytest.mark.parametrize(
    ("term", "expected_peers", "expected_l4"),
    [
        ({}, None, None),
        ({"fromEndpoints": None}, None, None),
        ({"fromEndpoints": []}, (), None),
        ({"fromCIDR": []}, (), None),
        ({"fromEndpoints": [{}], "fromCIDR": []}, (), None),
        ({"toPorts": []}, None, None),
        ({"icmps": []}, None, None),
        ({"toPorts": [{}]}, None, ()),
        ({"toPorts": [{"ports": []}]}, None, ()),
        ({"toPorts": ports("80/TCP")}, None, (PortMatch(Protocol.TCP, 80, 80),)),
    ],
)
def test_nothing_and_an_empty_list_are_different_things(term, expected_peers, expected_l4):
    found = one_term(cnp(ingress=[term]))
    assert (found.peers, found.l4) == (expected_peers, expected_l4)


def test_a_peer_of_a_namespaced_policy_is_in_its_namespace_and_cluster():
    (peer,) = peers(cnp(ingress=[{"fromEndpoints": [selector("app=web")]}]))
    assert peer == LabelSelector((Requirement("any", "app", IN, ("web",)), IN_SHOP, IN_C1))
    (everyone,) = peers(cnp(ingress=[{"fromEndpoints": [{}]}]))
    assert everyone == LabelSelector((IN_SHOP, IN_C1))


def test_a_peer_of_a_clusterwide_policy_has_some_namespace():
    (peer,) = peers(ccnp(ingress=[{"fromEndpoints": [{}]}]))
    assert peer == LabelSelector((SOMEWHERE, IN_C1))


def test_a_clusterwide_rule_about_pods_without_labels_asks_no_namespace_of_its_peers():
    (peer,) = peers(ccnp(subject=selector("reserved:init="), ingress=[{"fromEndpoints": [{}]}]))
    assert peer == LabelSelector((IN_C1,))


@pytest.mark.parametrize(
    "key", [NAMESPACE_KEY, f"k8s:{NAMESPACE_KEY}", f"any:{NAMESPACE_KEY}", "k8s:io.cilium.k8s.namespace.labels.team"]
)
def test_a_peer_that_names_a_namespace_is_not_tied_to_the_policys(key):
    (peer,) = peers(cnp(ingress=[{"fromEndpoints": [selector(f"{key}=other")]}]))
    assert IN_SHOP not in peer.requirements
    assert IN_C1 in peer.requirements


def test_namespace_labels_do_not_free_a_clusterwide_peer_from_having_a_namespace():
    (peer,) = peers(ccnp(ingress=[{"fromEndpoints": [selector("io.cilium.k8s.namespace.labels.team=a")]}]))
    assert SOMEWHERE in peer.requirements


def test_a_namespace_of_another_source_does_not_count():
    (peer,) = peers(cnp(ingress=[{"fromEndpoints": [selector(f"container:{NAMESPACE_KEY}=x")]}]))
    assert IN_SHOP in peer.requirements


def test_a_peer_that_names_a_cluster_may_be_in_that_one():
    (peer,) = peers(cnp(ingress=[{"fromEndpoints": [selector(f"{CLUSTER_KEY}=c2")]}]))
    assert IN_C1 not in peer.requirements


@pytest.mark.parametrize("key", ["reserved:host", "$host", "reserved.host"])
def test_a_peer_with_a_reserved_label_is_left_as_it_is(key):
    (peer,) = peers(cnp(ingress=[{"fromEndpoints": [selector(f"{key}=")]}]))
    assert peer == LabelSelector((Requirement("reserved", "host", IN, ("",)),))


def test_the_subject_of_a_namespaced_policy_is_in_its_namespace_whatever_it_says():
    foreign = selector(f"k8s:{NAMESPACE_KEY}=other", "app=api")
    (rule,) = policy(cnp(subject=foreign, ingress=[{}])).rules
    assert rule.subject == LabelSelector((Requirement("any", "app", IN, ("api",)), IN_SHOP))


def test_a_foreign_namespace_in_another_spelling_stays_and_selects_nobody():
    (rule,) = policy(cnp(subject=selector(f"{NAMESPACE_KEY}=other"), ingress=[{}])).rules
    assert set(rule.subject.requirements) == {IN_SHOP, Requirement("any", NAMESPACE_KEY, IN, ("other",))}


def test_the_subject_of_a_clusterwide_policy_is_what_it_says():
    assert policy(ccnp(ingress=[{}])).rules[0].subject.is_wildcard


def test_all_operators_are_read():
    expressions = [
        {"key": "a", "operator": "In", "values": ["y", "x"]},
        {"key": "k8s:b", "operator": "NotIn", "values": ["x"]},
        {"key": "c", "operator": "Exists"},
        {"key": "d", "operator": "DoesNotExist", "values": []},
    ]
    (rule,) = policy(ccnp(subject={"matchExpressions": expressions}, ingress=[{}])).rules
    assert rule.subject.requirements == (
        Requirement("any", "a", Operator.IN, ("x", "y")),
        Requirement("any", "c", Operator.EXISTS),
        Requirement("any", "d", Operator.DOES_NOT_EXIST),
        Requirement("k8s", "b", Operator.NOT_IN, ("x",)),
    )


def test_the_entity_all_selects_everything_and_none_nobody():
    (everything,) = peers(cnp(ingress=[{"fromEntities": ["all"]}]))
    assert everything.is_wildcard
    assert peers(cnp(ingress=[{"fromEntities": ["none"]}])) == ()


def test_the_entity_cluster_is_what_is_in_the_local_cluster():
    found = peers(cnp(egress=[{"toEntities": ["cluster"]}]))
    assert LabelSelector((IN_C1,)) in found
    assert len(found) == 8


def test_prefixes_are_read_with_and_without_a_length():
    found = peers(cnp(egress=[{"toCIDR": ["10.1.2.3", "10.0.0.7/8", "2001:db8::1", "::/0"]}]))
    assert [str(peer.prefix) for peer in found] == ["10.1.2.3/32", "10.0.0.0/8", "2001:db8::1/128", "::/0"]


def test_exceptions_belong_to_their_own_prefix():
    rules = [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "10.1.0.0/16"}]
    found = peers(cnp(egress=[{"toCIDRSet": rules}]))
    assert found == (
        CidrSelector(ip_network("10.0.0.0/8"), (ip_network("10.1.0.0/16"),)),
        CidrSelector(ip_network("10.1.0.0/16")),
    )


def test_a_policy_knows_the_prefixes_that_need_identities():
    rules = [{"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}, {"cidr": "192.0.2.0/24"}]
    document = cnp(egress=[{"toCIDRSet": rules}], ingressDeny=[{"fromCIDR": ["2001:db8::1"]}])
    assert {str(prefix) for prefix in policy(document).cidrs()} == {
        "10.0.0.0/8",
        "192.0.2.0/24",
        "2001:db8::1/128",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80/TCP", PortMatch(Protocol.TCP, 80, 80)),
        ("80/tcp", PortMatch(Protocol.TCP, 80, 80)),
        ("80", PortMatch(Protocol.ANY, 80, 80)),
        ("80-89/UDP", PortMatch(Protocol.UDP, 80, 89)),
        ("80-80/UDP", PortMatch(Protocol.UDP, 80, 80)),
        ("80-0/UDP", PortMatch(Protocol.UDP, 80, 80)),
        ("0/SCTP", PortMatch(Protocol.SCTP, 0, 65535)),
        ("0", PortMatch(Protocol.ANY, 0, 65535)),
        ("0-1023/TCP", PortMatch(Protocol.TCP, 0, 1023)),
        ("65535/ANY", PortMatch(Protocol.ANY, 65535, 65535)),
    ],
)
def test_ports_are_read(text, expected):
    assert one_term(cnp(ingress=[{"toPorts": ports(text)}])).l4 == (expected,)


def test_an_empty_protocol_is_any():
    term = one_term(cnp(ingress=[{"toPorts": [{"ports": [{"port": "53", "protocol": ""}]}]}]))
    assert term.l4 == (PortMatch(Protocol.ANY, 53, 53),)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ({"type": 8}, IcmpMatch(Protocol.ICMP, 8)),
        ({"type": "8"}, IcmpMatch(Protocol.ICMP, 8)),
        ({"type": "Echo"}, IcmpMatch(Protocol.ICMP, 8)),
        ({"type": "EchoRequest", "family": "IPv4"}, IcmpMatch(Protocol.ICMP, 8)),
        ({"type": "EchoRequest", "family": "IPv6"}, IcmpMatch(Protocol.ICMPV6, 128)),
        ({"type": 255, "family": "IPv6"}, IcmpMatch(Protocol.ICMPV6, 255)),
        ({"type": 0, "family": ""}, IcmpMatch(Protocol.ICMP, 0)),
    ],
)
def test_icmp_types_are_read_by_number_and_by_name(field, expected):
    assert one_term(cnp(ingress=[{"icmps": [{"fields": [field]}]}])).l4 == (expected,)


def test_a_text_is_parsed_as_its_object_and_all_who_read_it_share_one_policy():
    document = cnp("a", ingress=[{"fromEntities": ["world"]}])
    text = json.dumps(document)
    assert parse_text(text, cluster="c1") == parse(document, cluster="c1")
    assert parse_text(text, cluster="c1") is parse_text(text, cluster="c1")
    assert parse_text(text, cluster="c2") == parse(document, cluster="c2")


def test_a_very_long_text_is_parsed_and_not_kept():
    document = cnp("a", ingress=[{"fromCIDR": [f"10.{n >> 8}.{n & 255}.0/24" for n in range(2000)]}])
    text = json.dumps(document)
    assert len(text) > KEPT_CHARS
    assert parse_text(text, cluster="c1") == parse(document, cluster="c1")
    assert parse_text(text, cluster="c1") is not parse_text(text, cluster="c1")


def test_a_text_that_is_no_policy_is_refused_each_time():
    text = json.dumps(cnp("a", ingress=[{"fromNobody": []}]))
    for _ in range(2):
        with pytest.raises(InvalidPolicy):
            parse_text(text, cluster="c1")
