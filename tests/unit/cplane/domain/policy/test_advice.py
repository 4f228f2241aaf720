"""What is legal and was surely meant otherwise, and which rules say what others say."""

import pytest

from cplane.domain.policy.advice import advice
from cplane.domain.policy.overlap import RuleIndex
from tests.support.builders import ccnp, cnp, policy, ports, selector

FROM_WEB = {"fromEndpoints": [selector("app=web")]}
NAMESPACE = "io.kubernetes.pod.namespace"
DNS = {"toPorts": [{**ports("53")[0], "rules": {"dns": [{"matchPattern": "*.example"}]}}]}


def told(*documents):
    """The advice about the first of the documents."""
    policies = [policy(document) for document in documents]
    return [tuple(one) for one in advice(documents[0], policies[0], RuleIndex(policies))]


def paths(*documents):
    return [path for path, _ in told(*documents)]


def knp(**spec):
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "k", "namespace": "shop"},
        "spec": {"podSelector": {}, **spec},
    }


def test_a_sound_policy_needs_no_advice():
    assert told(cnp(ingress=[FROM_WEB], egress=[DNS, {"toFQDNs": [{"matchName": "a.example"}]}])) == []


def read(protocol, *l4, **peers):
    rules = {"http": [{"method": "GET"}], "kafka": [{"topic": "t"}], "dns": [{"matchPattern": "*"}]}[protocol]
    return {**peers, "toPorts": [{**ports(*l4)[0], "rules": {protocol: rules}}]}


def test_two_protocols_at_a_port_of_the_same_peers_are_told():
    clash = [read("kafka", "80/TCP", **FROM_WEB), read("http", "79-81/TCP", **FROM_WEB)]
    ((path, message),) = told(cnp(ingress=clash))
    assert path == "spec.ingress[0].toPorts[0]"
    assert message.startswith("kafka is refused where spec.ingress[1].toPorts[0] has the same peers' connections read")
    assert paths(cnp(egress=[read("dns", "53"), read("http", "53/TCP")])) == ["spec.egress[0].toPorts[0]"]


@pytest.mark.parametrize(
    "rules",
    [
        {"ingress": [read("kafka", "80/TCP", **FROM_WEB), read("http", "81/TCP", **FROM_WEB)]},
        {"ingress": [read("kafka", "80/TCP", **FROM_WEB), read("http", "80/TCP", fromEntities=["world"])]},
        {"ingress": [read("http", "80/TCP"), {"toPorts": ports("80/TCP")}], "egress": [read("kafka", "80/TCP")]},
        {"egress": [read("dns", "53/UDP"), read("http", "53/TCP")]},
    ],
)
def test_protocols_at_ports_of_their_own_need_no_advice(rules):
    assert told(cnp(**rules)) == []


@pytest.mark.parametrize("section", ["ingress", "ingressDeny", "egress", "egressDeny"])
def test_an_empty_section_is_told(section):
    other = "egress" if section.startswith("ingress") else "ingress"
    found = told(cnp(**{section: [], other: [{}]}))
    assert [path for path, _ in found] == [f"spec.{section}"]
    assert "changes nothing" in found[0][1]


METADATA = {"toCIDR": ["169.254.169.254/32"]}


def test_a_rule_that_only_denies_is_told_to_deny_everything():
    ((path, message),) = told(ccnp(egressDeny=[METADATA]))
    assert path == "spec.egressDeny"
    assert message.startswith("denies all egress, not only this")
    assert "`enableDefaultDeny: {egress: false}`" in message
    assert paths(cnp(ingressDeny=[FROM_WEB])) == ["spec.ingressDeny"]
    assert paths(cnp(ingressDeny=[{"fromEntities": ["all"], "toPorts": ports("22/TCP")}])) == ["spec.ingressDeny"]


@pytest.mark.parametrize(
    "rule",
    [
        {"egressDeny": [METADATA], "enableDefaultDeny": {"egress": False}},
        {"egressDeny": [METADATA], "enableDefaultDeny": {"egress": True}},
        {"egressDeny": [METADATA], "egress": [{"toEntities": ["all"]}]},
        {"egressDeny": [METADATA, {"toEntities": ["all"]}]},
        {"egress": [{}], "ingress": [{}]},
    ],
)
def test_a_rule_that_denies_as_it_seems_to_is_not_told(rule):
    assert told(ccnp(**rule)) == []


def test_what_any_other_rule_allows_is_enough_for_one_that_only_denies():
    assert told(ccnp(egressDeny=[METADATA]), cnp("b", egress=[DNS])) == []
    assert paths(ccnp(egressDeny=[METADATA]), cnp("b", ingress=[FROM_WEB])) == ["spec.egressDeny"]
    assert paths(ccnp(egressDeny=[METADATA]), cnp("b", egress=[{}])) == ["spec.egressDeny"]


def test_sections_of_every_rule_are_looked_at():
    document = cnp(ingress=[{}])
    document["specs"] = [cnp(ingress=[], egress=[{}])["spec"]]
    assert paths(document) == ["specs[0].ingress"]


def test_an_empty_list_of_a_network_policy_is_how_it_denies():
    assert told(knp(ingress=[], policyTypes=["Ingress"])) == []


def test_a_network_policy_without_a_spec_is_told_what_it_does():
    found = [("spec", "missing: all pods of the namespace are meant, and nobody may reach them; write it out")]
    assert told({**knp(), "spec": None}) == found
    assert told({key: value for key, value in knp().items() if key != "spec"}) == found
    assert told({**knp(), "spec": {}}) == []


@pytest.mark.parametrize(
    ("element", "field", "meant"),
    [
        ({"fromEndpoints": None, "toPorts": ports("80/TCP")}, "fromEndpoints", "everyone"),
        ({"fromEndpoints": None, "icmps": [{"fields": [{"type": 8}]}]}, "fromEndpoints", "everyone"),
        ({"fromCIDR": None}, "fromCIDR", "nobody"),
        ({"fromCIDR": None, "toPorts": []}, "fromCIDR", "nobody"),
        ({**FROM_WEB, "fromCIDR": None}, "fromCIDR", "what the other peers say"),
        ({**FROM_WEB, "toPorts": None}, "toPorts", "all traffic"),
        ({"icmps": None}, "icmps", "nobody"),
    ],
)
def test_a_field_that_is_there_and_empty_is_told_for_what_it_means(element, field, meant):
    ((path, message),) = told(cnp(ingress=[{"fromEntities": ["health"]}, element]))
    assert path == f"spec.ingress[1].{field}"
    assert message == f"empty, as good as left out: {meant} is meant; write a list, or remove it"


@pytest.mark.parametrize("element", [{"fromEndpoints": []}, {"fromCIDRSet": [], "toPorts": ports("80/TCP")}])
def test_an_empty_list_of_peers_is_told_to_be_nobody(element):
    ((path, message),) = told(cnp(ingress=[{"fromEntities": ["health"]}, element]))
    assert path == f"spec.ingress[1].{next(iter(element))}"
    assert message == "an empty list of peers is nobody: write who is meant, or remove it for all"


def test_an_empty_list_beside_other_peers_is_not_told():
    assert told(cnp(ingress=[{**FROM_WEB, "fromCIDR": []}])) == []


def test_a_section_that_is_there_and_empty_is_told():
    assert paths(cnp(ingress=None, egress=[{}])) == ["spec.ingress"]


@pytest.mark.parametrize("key", ["k8s.io.kubernetes.pod.namespace", "any.io.cilium.k8s.policy.cluster"])
def test_a_source_and_a_dot_before_a_key_are_told(key):
    source, _, plain = key.partition(".")
    remedy = f"nothing has the label {key}: write {source}:{plain}"
    expression = {"matchExpressions": [{"key": key, "operator": "Exists"}]}
    assert told(cnp(subject={"matchLabels": {key: "shop"}}, ingress=[{}])) == [("spec.endpointSelector", remedy)]
    assert told(cnp(ingress=[{"fromEndpoints": [expression]}])) == [("spec.ingress[0]", remedy)]
    written = f"{source}:{plain}"
    assert told(cnp(ingress=[{"fromEndpoints": [{"matchLabels": {written: "shop"}}]}])) == []
    assert told(cnp(ingress=[{"fromEndpoints": [selector("k8s.io/cluster=a")]}])) == []


def test_a_protocol_in_small_letters_is_told():
    egress = {"toPorts": [{"ports": [{"port": "1"}, {"port": "53", "protocol": "udp"}]}]}
    assert told(cnp(egress=[egress])) == [
        ("spec.egress[0].toPorts[0].ports[1].protocol", "an API server refuses 'udp': write UDP")
    ]


def test_a_range_that_ends_below_its_start_is_told():
    ranges = [{"port": "80", "endPort": last, "protocol": "TCP"} for last in (0, 79, 80, 81)]
    assert told(cnp(ingress=[{"toPorts": [{"ports": ranges}]}])) == [
        (
            "spec.ingress[0].toPorts[0].ports[1].endPort",
            "79 is below port 80, which alone is meant: write the range upwards",
        )
    ]


@pytest.mark.parametrize(("key", "effect"), [(f"k8s:{NAMESPACE}", "is overwritten"), (NAMESPACE, "selects nothing")])
def test_a_foreign_namespace_of_the_subject_is_told(key, effect):
    ((path, message),) = told(cnp(subject={"matchLabels": {key: "other", "app": "api"}}, ingress=[{}]))
    assert path == f'spec.endpointSelector.matchLabels."{key}"'
    assert effect in message
    assert told(cnp(subject={"matchLabels": {key: "shop"}}, ingress=[{}])) == []
    assert told(ccnp(subject={"matchLabels": {key: "other"}}, ingress=[{}])) == []


def test_a_dns_rule_without_a_name_is_told():
    term = {"toPorts": [{**ports("53")[0], "rules": {"dns": [{}]}}]}
    assert paths(cnp(egress=[term])) == ["spec.egress[0].toPorts[0]"]


def test_a_peer_without_a_name_is_told_once():
    ((path, message),) = told(cnp(egress=[{"toFQDNs": [{}]}]))
    assert path == "spec.egress[0]"
    assert message.startswith("an element of toFQDNs without a name selects nothing: write ")


@pytest.mark.parametrize(
    ("element", "odd"),
    [
        ({"toCIDR": ["192.0.2.0/24"]}, True),
        ({"toCIDRSet": [{"cidrGroupRef": "g"}, {"cidr": "192.0.2.0/24"}]}, True),
        ({"toEndpoints": [selector("app=api")]}, False),
        ({"toEntities": ["cluster"]}, False),
        ({}, False),
    ],
)
def test_what_is_outside_has_no_named_ports(element, odd):
    found = told(cnp(egress=[{**element, "toPorts": ports("https/TCP")}]))
    assert [path for path, _ in found] == (["spec.egress[0]"] if odd else [])
    assert all("has named ports, such as 'https': write its number" in message for _, message in found)
    assert told(cnp(egress=[{**element, "toPorts": ports("443/TCP")}])) == []


def test_the_name_of_a_port_at_ingress_is_that_of_the_subject():
    assert told(cnp(ingress=[{"fromCIDR": ["192.0.2.0/24"], "toPorts": ports("https/TCP")}])) == []


@pytest.mark.parametrize(
    ("wanted", "covered"),
    [
        ({"matchName": "a.example"}, True),
        ({"matchName": "A.Example."}, True),
        ({"matchName": "a.b.example"}, False),
        ({"matchPattern": "*.example"}, True),
        ({"matchPattern": "a*.example"}, True),
        ({"matchPattern": "*.other"}, False),
    ],
)
def test_names_need_a_dns_rule_that_covers_them(wanted, covered):
    found = told(cnp(egress=[DNS, {"toFQDNs": [wanted]}]))
    assert bool(found) is not covered
    for path, message in found:
        assert path == "spec.egress[1]"
        assert message.startswith("no DNS rule covers ")


def test_the_dns_rule_may_be_that_of_a_broader_policy_and_of_no_narrower_one():
    asking = cnp("a", egress=[{"toFQDNs": [{"matchName": "a.example"}]}])
    assert told(asking, ccnp("b", egress=[DNS])) == []
    assert told(asking, cnp("b", subject={}, egress=[DNS])) == []
    assert paths(asking, cnp("b", subject=selector("app=api", "tier=x"), egress=[DNS])) == ["spec.egress[0]"]
    assert paths(asking, cnp("b", namespace="other", subject={}, egress=[DNS])) == ["spec.egress[0]"]


def test_an_allow_that_a_deny_leaves_nothing_of_is_told():
    allow = cnp("a", ingress=[{**FROM_WEB, "toPorts": ports("80/TCP")}])
    ((path, message),) = told(allow, ccnp("b", ingressDeny=[{"toPorts": ports("0/TCP")}]))
    assert (path, message) == (
        "spec.ingress[0]",
        "allows nothing: CiliumClusterwideNetworkPolicy b spec.ingressDeny[0] denies all of it",
    )
    assert told(allow, ccnp("b", ingressDeny=[{"toPorts": ports("80/UDP")}])) == []
    assert told(allow, cnp("b", subject=selector("app=db"), ingressDeny=[{"toPorts": ports("80/TCP")}])) == []


@pytest.mark.parametrize(
    ("narrow", "broad", "shadowed"),
    [
        (FROM_WEB, FROM_WEB, True),
        ({**FROM_WEB, "toPorts": ports("80/TCP")}, FROM_WEB, True),
        (FROM_WEB, {**FROM_WEB, "toPorts": ports("80/TCP")}, False),
        ({**FROM_WEB, "toPorts": ports("80/TCP")}, {"toPorts": ports("1-100")}, True),
        ({**FROM_WEB, "toPorts": ports("80/TCP", "443/TCP")}, {"toPorts": ports("80")}, False),
        ({"fromEndpoints": [selector("app=web", "tier=x")]}, FROM_WEB, True),
        ({"fromCIDR": ["10.1.0.0/16"]}, {"fromCIDR": ["10.0.0.0/8"]}, True),
        ({"fromCIDR": ["10.0.0.0/8"]}, {"fromCIDR": ["10.1.0.0/16"]}, False),
        ({"fromCIDR": ["10.1.0.0/16"]}, {"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.2.0/24"]}]}, False),
        ({**FROM_WEB, "toPorts": [{**ports("80/TCP")[0], "rules": {"http": [{"path": "/"}]}}]}, FROM_WEB, True),
        (FROM_WEB, {**FROM_WEB, "authentication": {"mode": "required"}}, False),
        ({}, {}, True),
    ],
)
def test_a_policy_that_another_says_all_of_is_told(narrow, broad, shadowed):
    found = told(cnp("b", ingress=[narrow]), cnp("a", subject={}, ingress=[broad]))
    assert bool(found) is shadowed
    if shadowed:
        assert found == [("spec", "adds nothing: CiliumNetworkPolicy shop/a says all of it; remove one of them")]


def test_a_policy_that_asks_for_more_default_deny_is_not_shadowed():
    broad = cnp("a", ingress=[FROM_WEB], enableDefaultDeny={"ingress": False})
    assert told(cnp("b", ingress=[FROM_WEB]), broad) == []


def test_of_two_that_say_the_same_one_is_told():
    one, other = cnp("a", ingress=[FROM_WEB]), cnp("b", ingress=[FROM_WEB])
    assert told(one, other) == []
    assert len(told(other, one)) == 1


def test_a_policy_that_only_audits_shadows_nothing_and_is_not_shadowed():
    audited = cnp("a", ingress=[FROM_WEB])
    audited["metadata"]["annotations"] = {"policy.cplane.io/audit": "true"}
    assert told(cnp("b", ingress=[FROM_WEB]), audited) == []
    assert told(audited, cnp("b", ingress=[FROM_WEB])) == []


def test_every_rule_of_a_policy_must_be_said_for_it_to_be_shadowed():
    document = cnp("b", ingress=[FROM_WEB])
    document["specs"] = [cnp(egress=[{}])["spec"]]
    assert told(document, cnp("a", ingress=[FROM_WEB])) == []
    assert len(told(document, cnp("a", ingress=[FROM_WEB], egress=[{}]))) == 1
