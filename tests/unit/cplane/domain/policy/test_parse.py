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
from cplane.domain.policy.dns import DnsRule
from cplane.domain.policy.parse import KEPT_CHARS
from cplane.domain.policy.rule import AuthType, CloudRef, GroupRef, ServiceRef
from cplane.domain.ports import NamedPort, Protocol
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


INGRESS_MEMBERS = ("fromEndpoints", "fromEntities", "fromCIDR", "fromCIDRSet", "fromGroups")
EGRESS_MEMBERS = ("toEndpoints", "toEntities", "toCIDR", "toCIDRSet", "toGroups", "toServices", "toFQDNs")


@pytest.mark.parametrize(
    ("section", "member"),
    [
        *((section, member) for section in ("ingress", "ingressDeny") for member in INGRESS_MEMBERS),
        *(("egress", member) for member in EGRESS_MEMBERS),
        *(("egressDeny", member) for member in EGRESS_MEMBERS[:-1]),
    ],
)
@pytest.mark.parametrize("l4", [{}, {"toPorts": ports("80/TCP")}])
def test_an_empty_list_of_any_kind_of_peer_is_nobody_and_null_is_as_if_it_were_not_there(section, member, l4):
    assert one_term(cnp(**{section: [{member: [], **l4}]})).peers == ()
    assert one_term(cnp(**{section: [{member: None, **l4}]})) == one_term(cnp(**{section: [l4]}))


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


def numbers(text):
    return {name: int(number) for name, _, number in (one.partition("=") for one in text.split())}


V4_NAMES = numbers("""
    EchoReply=0 DestinationUnreachable=3 Redirect=5 Echo=8 EchoRequest=8 RouterAdvertisement=9 RouterSelection=10
    TimeExceeded=11 ParameterProblem=12 Timestamp=13 TimestampReply=14 Photuris=40 ExtendedEchoRequest=42
    ExtendedEchoReply=43
""")
V6_NAMES = numbers("""
    DestinationUnreachable=1 PacketTooBig=2 TimeExceeded=3 ParameterProblem=4 EchoRequest=128 EchoReply=129
    MulticastListenerQuery=130 MulticastListenerReport=131 MulticastListenerDone=132 RouterSolicitation=133
    RouterAdvertisement=134 NeighborSolicitation=135 NeighborAdvertisement=136 RedirectMessage=137
    RouterRenumbering=138 ICMPNodeInformationQuery=139 ICMPNodeInformationResponse=140
    InverseNeighborDiscoverySolicitation=141 InverseNeighborDiscoveryAdvertisement=142
    HomeAgentAddressDiscoveryRequest=144 HomeAgentAddressDiscoveryReply=145 MobilePrefixSolicitation=146
    MobilePrefixAdvertisement=147 DuplicateAddressRequestCodeSuffix=157 DuplicateAddressConfirmationCodeSuffix=158
    ExtendedEchoRequest=160 ExtendedEchoReply=161
""")


@pytest.mark.parametrize(
    ("family", "protocol", "names"), [("IPv4", Protocol.ICMP, V4_NAMES), ("IPv6", Protocol.ICMPV6, V6_NAMES)]
)
def test_every_name_of_a_message_is_known(family, protocol, names):
    fields = [{"family": family, "type": name} for name in names]
    term = one_term(cnp(ingress=[{"icmps": [{"fields": fields}]}]))
    assert term.l4 == tuple(dict.fromkeys(IcmpMatch(protocol, number) for number in names.values()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http/TCP", NamedPort(Protocol.TCP, "http")),
        ("HTTP", NamedPort(Protocol.ANY, "http")),
        ("0x10/UDP", NamedPort(Protocol.UDP, "0x10")),
        ("0/VRRP", PortMatch(Protocol.VRRP)),
        ("0/IGMP", PortMatch(Protocol.IGMP)),
    ],
)
def test_ports_have_names_and_some_protocols_have_no_ports(text, expected):
    assert one_term(cnp(ingress=[{"toPorts": ports(text)}])).l4 == (expected,)


def test_the_end_of_a_range_does_not_matter_where_it_begins_with_a_name():
    term = one_term(cnp(ingress=[{"toPorts": [{"ports": [{"port": "http", "endPort": 90, "protocol": "TCP"}]}]}]))
    assert term.l4 == (NamedPort(Protocol.TCP, "http"),)


def test_a_range_that_ends_below_its_start_is_the_port_where_it_starts():
    term = one_term(cnp(ingress=[{"toPorts": [{"ports": [{"port": "80", "endPort": 79, "protocol": "TCP"}]}]}]))
    assert term.l4 == (PortMatch(Protocol.TCP, 80, 80),)


def test_forty_ports_and_forty_message_types_can_stand_in_one_element():
    term = one_term(cnp(ingress=[{"toPorts": ports(*(f"{number}/TCP" for number in range(1, 41)))}]))
    assert len(term.l4) == 40
    fields = [{"type": number} for number in range(40)]
    assert len(one_term(cnp(ingress=[{"icmps": [{"fields": fields}]}])).l4) == 40


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("disabled", AuthType.DISABLED),
        ("required", AuthType.SPIRE),
        ("test-always-fail", AuthType.TEST_ALWAYS_FAIL),
    ],
)
def test_a_term_says_how_the_peer_must_have_proved_who_it_is_or_does_not(mode, expected):
    assert one_term(cnp(ingress=[{"authentication": {"mode": mode}, "fromEndpoints": [{}]}])).auth is expected
    assert one_term(cnp(egress=[{"toEndpoints": [{}]}])).auth is None


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ({"k8sService": {"serviceName": "a"}}, ServiceRef("shop", "a")),
        ({"k8sService": {"serviceName": "a", "namespace": "n"}}, ServiceRef("n", "a")),
        ({"k8sServiceSelector": {"selector": {}, "namespace": "n"}}, ServiceRef("n", "", LabelSelector())),
        (
            {"k8sServiceSelector": {"selector": selector("team=a")}},
            ServiceRef("shop", "", LabelSelector((Requirement("any", "team", IN, ("a",)),))),
        ),
    ],
)
def test_services_are_referred_to_by_name_or_by_labels_in_the_policys_namespace_unless_they_say(element, expected):
    assert peers(cnp(egress=[{"toServices": [element]}])) == (expected,)


def test_a_clusterwide_policy_refers_to_services_of_any_namespace():
    assert peers(ccnp(egress=[{"toServices": [{"k8sService": {"serviceName": "a"}}]}])) == (ServiceRef("", "a"),)


def test_groups_of_prefixes_are_referred_to_by_name_or_by_labels():
    rules = [{"cidrGroupRef": "g", "except": ["10.1.0.0/16"]}, {"cidrGroupSelector": selector("team=a")}]
    document = cnp(egress=[{"toCIDRSet": rules}])
    hole = ip_network("10.1.0.0/16")
    assert peers(document) == (
        GroupRef("g", None, (hole,)),
        GroupRef("", LabelSelector((Requirement("any", "team", IN, ("a",)),))),
    )
    assert policy(document).cidrs() == {hole}


def test_names_are_compared_in_lower_case_and_with_their_last_dot():
    found = peers(cnp(egress=[{"toFQDNs": [{"matchName": "A.example"}, {"matchPattern": "*.B.example"}]}]))
    assert found == (DnsRule("a.example.", ""), DnsRule("", "*.b.example"))


def test_a_cloud_group_is_kept_as_a_text_that_selects_nobody():
    aws = {"region": "r", "securityGroupsIds": ["sg-1"], "securityGroupsNames": ["n"], "labels": {"a": "b"}}
    assert peers(cnp(egress=[{"toGroups": [{"aws": aws}]}])) == (CloudRef("aws r sg-1 n a=b"),)


def test_a_label_of_a_prefix_may_stand_in_a_selector():
    (peer,) = peers(cnp(egress=[{"toEndpoints": [selector("cidr:10.0.0.0/8=", "reserved:world-ipv4=")]}]))
    assert peer == LabelSelector(
        (Requirement("cidr", "10.0.0.0/8", IN, ("",)), Requirement("reserved", "world-ipv4", IN, ("",)))
    )


def test_an_expression_about_the_namespace_stays_when_matchlabels_says_the_same():
    foreign = {**selector(f"k8s:{NAMESPACE_KEY}=other"), "matchExpressions": [
        {"key": f"k8s:{NAMESPACE_KEY}", "operator": "In", "values": ["other"]}
    ]}  # fmt: skip
    (rule,) = policy(cnp(subject=foreign, ingress=[{}])).rules
    assert set(rule.subject.requirements) == {IN_SHOP, Requirement("k8s", NAMESPACE_KEY, IN, ("other",))}


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("false", False)])
def test_an_annotation_says_that_a_policy_is_only_audited(text, expected):
    document = cnp(ingress=[{}])
    document["metadata"]["annotations"] = {"policy.cplane.io/audit": text}
    assert policy(document).audit is expected


def test_a_policy_is_enforced_unless_it_says_otherwise():
    assert not policy(cnp(ingress=[{}])).audit


def test_an_element_of_ports_that_asks_for_a_proxy_is_a_term_of_its_own():
    http = {**ports("81/TCP")[0], "rules": {"http": [{}]}}
    elements = [*ports("80/TCP"), http, *ports("82/TCP"), {**ports("443/TCP")[0], "serverNames": ["a"]}]
    (rule,) = policy(cnp(ingress=[{"toPorts": elements}])).rules
    assert [(term.path, [match.first for match in term.l4], str(term.redirect)) for term in rule.terms] == [
        ("spec.ingress[0]", [80, 82], "None"),
        ("spec.ingress[0].toPorts[1]", [81], "http"),
        ("spec.ingress[0].toPorts[3]", [443], "tls"),
    ]


def test_an_element_that_only_asks_for_a_proxy_makes_no_other_term():
    (rule,) = policy(cnp(ingress=[{"toPorts": [{**ports("81/TCP")[0], "rules": {"http": [{}]}}]}])).rules
    assert [term.path for term in rule.terms] == ["spec.ingress[0].toPorts[0]"]


def test_rules_about_nodes_select_nodes_by_exactly_what_is_written():
    document = ccnp(ingress=[{"fromEntities": ["cluster"]}])
    document["spec"]["nodeSelector"] = selector("node:zone=a")
    del document["spec"]["endpointSelector"]
    (rule,) = policy(document).rules
    assert rule.about_nodes
    assert rule.subject == LabelSelector((Requirement("node", "zone", IN, ("a",)),))


def test_a_rule_has_a_description():
    assert policy(cnp(ingress=[{}], description="why")).rules[0].description == "why"
