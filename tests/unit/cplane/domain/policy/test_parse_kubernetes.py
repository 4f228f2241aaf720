"""Kubernetes NetworkPolicies and groups of prefixes, with every default filled in."""

from ipaddress import ip_network

import pytest

from cplane.domain.labels import CLUSTER_KEY, NAMESPACE_KEY, NAMESPACE_LABELS_PREFIX, LabelSet
from cplane.domain.policy import CIDR_GROUP, KNP, CidrGroup, DefaultDeny, PolicyRef, PortMatch
from cplane.domain.ports import NamedPort, Protocol
from cplane.domain.selectors import CidrSelector, LabelSelector, Operator, Requirement
from cplane.domain.verdict import Direction
from tests.support.builders import group, knp, parsed, policy, selector

IN, EXISTS, NOT_IN = Operator.IN, Operator.EXISTS, Operator.NOT_IN
IN_SHOP = Requirement("k8s", NAMESPACE_KEY, IN, ("shop",))
IN_C1 = Requirement("k8s", CLUSTER_KEY, IN, ("c1",))
WEB = Requirement("k8s", "app", IN, ("web",))
EVERYONE = LabelSelector()


def one_rule(**spec):
    (rule,) = policy(knp(**spec)).rules
    return rule


def one_term(**term):
    (found,) = one_rule(ingress=[term]).terms
    return found


def peer(**fields):
    (found,) = one_term(**{"from": [fields]}).peers
    return found


def test_a_policy_has_the_name_and_namespace_of_its_metadata():
    assert policy(knp("a", namespace="n")).ref == PolicyRef(KNP, "n", "a")
    document = knp("a")
    del document["metadata"]["namespace"]
    assert policy(document).ref == PolicyRef(KNP, "default", "a")


@pytest.mark.parametrize("written", [{}, {"spec": None}, {"spec": {}}])
def test_without_a_spec_all_pods_of_the_namespace_are_meant_and_nobody_may_reach_them(written):
    document = knp("a")
    del document["spec"]
    (rule,) = policy(document | written).rules
    assert rule.path == "spec"
    assert rule.subject == LabelSelector((IN_SHOP,))
    assert rule.terms == ()
    assert rule.default_deny == DefaultDeny(ingress=True, egress=False)


def test_a_rule_carries_the_labels_that_name_its_policy():
    document = knp("a")
    document["metadata"]["uid"] = "u-1"
    (rule,) = policy(document).rules
    assert rule.labels.texts() == (
        "k8s:io.cilium.k8s.policy.derived-from=NetworkPolicy",
        "k8s:io.cilium.k8s.policy.name=a",
        "k8s:io.cilium.k8s.policy.namespace=shop",
        "k8s:io.cilium.k8s.policy.uid=u-1",
    )
    assert rule.path == "spec"


@pytest.mark.parametrize("annotation", ["policy.cilium.io/name", "io.cilium.name"])
def test_an_annotation_gives_it_another_name_in_flows_but_not_to_the_api(annotation):
    document = knp("a")
    document["metadata"]["annotations"] = {annotation: "b"}
    found = policy(document)
    assert found.ref.name == "a"
    assert found.rules[0].labels.get("k8s", "io.cilium.k8s.policy.name") == "b"


def test_the_subject_are_the_selected_pods_of_its_namespace():
    assert one_rule(podSelector=selector("app=web")).subject == LabelSelector((WEB, IN_SHOP))
    assert one_rule(podSelector={}).subject == LabelSelector((IN_SHOP,))
    document = knp()
    del document["spec"]["podSelector"]
    assert policy(document).rules[0].subject == LabelSelector((IN_SHOP,))


RULE = [{"ports": [{"port": 80}]}]


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ({}, True, False),
        ({"policyTypes": []}, True, False),
        ({"policyTypes": ["Ingress"]}, True, False),
        ({"policyTypes": ["Egress"]}, False, True),
        ({"policyTypes": ["Ingress", "Egress"]}, True, True),
        ({"ingress": []}, True, False),
        ({"ingress": [], "policyTypes": ["Egress"]}, False, True),
        ({"ingress": RULE}, True, False),
        ({"ingress": RULE, "policyTypes": ["Egress"]}, True, True),
        ({"egress": []}, True, False),
        ({"egress": RULE}, True, True),
        ({"egress": RULE, "policyTypes": ["Ingress"]}, True, True),
        ({"egress": RULE, "policyTypes": ["Egress"]}, False, True),
        ({"ingress": RULE, "egress": RULE}, True, True),
    ],
)
def test_which_directions_are_denied_follows_from_the_types_and_the_rules(spec, ingress, egress):
    assert one_rule(**spec).default_deny == DefaultDeny(ingress, egress)


@pytest.mark.parametrize("term", [{}, {"from": []}, {"from": None}])
def test_without_peers_everyone_is_meant_the_world_too(term):
    assert one_term(**term).peers == (EVERYONE,)


@pytest.mark.parametrize(("term", "l4"), [({}, None), ({"ports": []}, None), ({"ports": None}, None)])
def test_without_ports_all_traffic_is_meant(term, l4):
    assert one_term(**term).l4 == l4


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({}, PortMatch(Protocol.TCP)),
        ({"protocol": "UDP"}, PortMatch(Protocol.UDP)),
        ({"port": 80}, PortMatch(Protocol.TCP, 80, 80)),
        ({"port": 80, "protocol": "SCTP"}, PortMatch(Protocol.SCTP, 80, 80)),
        ({"port": 80, "endPort": 89}, PortMatch(Protocol.TCP, 80, 89)),
        ({"port": 80, "endPort": 80}, PortMatch(Protocol.TCP, 80, 80)),
        ({"port": "web-1"}, NamedPort(Protocol.TCP, "web-1")),
        ({"port": "http", "protocol": "UDP"}, NamedPort(Protocol.UDP, "http")),
    ],
)
def test_ports_are_tcp_unless_they_say(port, expected):
    assert one_term(ports=[port]).l4 == (expected,)


def test_pods_alone_are_those_of_the_policys_namespace_and_cluster():
    assert peer(podSelector=selector("app=web")) == LabelSelector((WEB, IN_SHOP, IN_C1))
    assert peer(podSelector={}) == LabelSelector((IN_SHOP, IN_C1))


def test_a_namespace_is_selected_by_its_own_labels():
    team = Requirement("k8s", f"{NAMESPACE_LABELS_PREFIX}team", IN, ("a",))
    assert peer(namespaceSelector=selector("team=a")) == LabelSelector((team, IN_C1))
    assert peer(namespaceSelector=selector("team=a"), podSelector=selector("app=web")) == LabelSelector(
        (team, WEB, IN_C1)
    )
    expression = {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}
    assert peer(namespaceSelector=expression) == LabelSelector((team._replace(operator=NOT_IN), IN_C1))


def test_the_empty_namespace_selector_is_every_namespace():
    somewhere = Requirement("k8s", NAMESPACE_KEY, EXISTS)
    assert peer(namespaceSelector={}) == LabelSelector((somewhere, IN_C1))
    assert peer(namespaceSelector={}, podSelector=selector("app=web")) == LabelSelector((somewhere, WEB, IN_C1))


def test_a_block_is_a_prefix_with_holes():
    ten, hole = ip_network("10.0.0.0/8"), ip_network("10.1.0.0/16")
    assert peer(ipBlock={"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}) == CidrSelector(ten, (hole,))
    assert policy(knp(egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}])).cidrs() == {ten}


def test_several_peers_of_a_rule_are_one_term_and_each_rule_is_its_own():
    rules = [{"from": [{"podSelector": {}}, {"namespaceSelector": {}}]}, {"ports": [{"port": 80}]}]
    found = one_rule(ingress=rules, egress=[{}]).terms
    assert [(term.path, term.direction, len(term.peers)) for term in found] == [
        ("spec.ingress[0]", Direction.INGRESS, 2),
        ("spec.ingress[1]", Direction.INGRESS, 1),
        ("spec.egress[0]", Direction.EGRESS, 1),
    ]
    assert not any(term.deny or term.redirect or term.auth for term in found)


def test_it_can_be_only_audited_too():
    document = knp()
    document["metadata"]["annotations"] = {"policy.cplane.io/audit": "true"}
    assert policy(document).audit


@pytest.mark.parametrize("version", ["cilium.io/v2", "cilium.io/v2alpha1"])
def test_a_group_has_prefixes_each_once_and_labels(version):
    document = {**group("g", "10.0.0.7/8", "10.0.0.0/8", "192.0.2.1", "0.0.0.0/0"), "apiVersion": version}
    document["metadata"]["labels"] = {"team": "a"}
    found = parsed(document)
    assert found == CidrGroup(
        PolicyRef(CIDR_GROUP, "", "g"),
        LabelSet.parse(["k8s:team=a"]),
        (ip_network("10.0.0.0/8"), ip_network("192.0.2.1/32"), ip_network("0.0.0.0/0")),
    )
    assert isinstance(found, CidrGroup)
    assert found.cidrs() == {ip_network("10.0.0.0/8"), ip_network("192.0.2.1/32")}


def test_a_group_may_be_empty():
    assert parsed(group("g")).prefixes == ()
    assert parsed({**group("g"), "spec": {}}).prefixes == ()
