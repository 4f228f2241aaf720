"""Every reason why a document is refused: the path of what is wrong, and what to do."""

import copy
from itertools import combinations

import pytest

from cplane.domain.policy import InvalidPolicy, parse
from tests.support.builders import ccnp, cnp, policy, ports, selector

WEB = {"fromEndpoints": [selector("app=web")]}


def ingress(**term):
    return cnp(ingress=[term])


def egress(**term):
    return cnp(egress=[term])


def with_field(document, path, value):
    document = copy.deepcopy(document)
    target = document
    for step in path[:-1]:
        target = target[step]
    if value is None:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return document


def port(**fields):
    return ingress(**WEB, toPorts=[{"ports": [fields]}])


def icmp(**fields):
    return ingress(**WEB, icmps=[{"fields": [fields]}])


GOOD = ingress(**WEB)
EGRESS_MEMBERS = {
    "toEndpoints": [{}],
    "toCIDR": ["10.0.0.0/8"],
    "toCIDRSet": [{"cidr": "10.0.0.0/8"}],
    "toEntities": ["world"],
    "toServices": [{"k8sService": {"serviceName": "a"}}],
    "toGroups": [{"aws": {}}],
    "toFQDNs": [{"matchName": "a.example"}],
}
EXPRESSION = "spec.endpointSelector.matchExpressions[0]"


def expression(**fields):
    return cnp(subject={"matchExpressions": [fields]}, ingress=[WEB])


REFUSED = [
    # the document
    (with_field(GOOD, ["apiVersion"], None), "document", "apiVersion is missing: write cilium.io/v2"),
    (with_field(GOOD, ["apiVersion"], "v1"), "apiVersion", "'v1' is not read here: write cilium.io/v2"),
    (with_field(GOOD, ["kind"], None), "document", "kind is missing"),
    (with_field(GOOD, ["kind"], "CiliumNetworkPolicies"), "kind", "did you mean 'CiliumNetworkPolicy'?"),
    (with_field(GOOD, ["kind"], "NetworkPolicy"), "apiVersion", "is not read here: write networking.k8s.io/v1"),
    (with_field(GOOD, ["kind"], "CiliumNetworkPolicies"), "kind", "kinds are CiliumNetworkPolicy, "),
    (with_field(GOOD, ["kind"], ""), "kind", "empty: write one of CiliumNetworkPolicy, "),
    (with_field(GOOD, ["kind"], 7), "kind", 'expected a string, got number 7; write "7"'),
    (with_field(GOOD, ["Spec"], {}), "Spec", "unknown field; did you mean 'spec'?"),
    (with_field(GOOD, ["description"], "x"), "description", "unknown field; put it under spec"),
    (with_field(GOOD, ["endpointSelector"], {}), "endpointSelector", "unknown field; put it under spec"),
    (with_field(GOOD, ["name"], "x"), "name", "unknown field; put it under metadata"),
    (with_field(GOOD, ["spec"], None), "document", "spec is missing"),
    (with_field(GOOD, ["spec"], []), "spec", "expected an object, got list with 0 entries"),
    ({**with_field(GOOD, ["spec"], None), "specs": []}, "specs", "no rule: write at least one"),
    ({**GOOD, "specs": {}}, "specs", "expected a list, got object"),
    # metadata
    (with_field(GOOD, ["metadata"], None), "document", "metadata is missing"),
    (with_field(GOOD, ["metadata", "name"], None), "metadata", "name is missing: a policy needs a name"),
    (with_field(GOOD, ["metadata", "name"], ""), "metadata.name", "empty: a policy needs a name"),
    (with_field(GOOD, ["metadata", "name"], "A_b"), "metadata.name", "'A_b' is not a name"),
    (with_field(GOOD, ["metadata", "name"], "a" * 254), "metadata.name", "is not a name"),
    (with_field(GOOD, ["metadata", "namespace"], "a.b"), "metadata.namespace", "'a.b' is not a namespace"),
    (with_field(GOOD, ["metadata", "nam"], "x"), "metadata.nam", "unknown field; did you mean 'name'?"),
    (
        with_field(ccnp(ingress=[WEB]), ["metadata", "namespace"], "shop"),
        "metadata.namespace",
        "a CiliumClusterwideNetworkPolicy has no namespace",
    ),
    # the rule
    (with_field(GOOD, ["spec", "endpointSelector"], None), "spec", "endpointSelector is missing"),
    (with_field(GOOD, ["spec", "nodeSelector"], {}), "spec", "both endpointSelector and nodeSelector"),
    (
        with_field(GOOD, ["spec", "nodeSelector"], {}),
        "spec.nodeSelector",
        "only a CiliumClusterwideNetworkPolicy can select nodes",
    ),
    (cnp(), "spec", "no ingress, ingressDeny, egress or egressDeny"),
    (cnp(ingress=[]), "spec", "no ingress, ingressDeny, egress or egressDeny"),
    (cnp(ingress={}), "spec.ingress", "expected a list, got object with 0 entries"),
    (cnp(ingress=["x"]), "spec.ingress[0]", "expected an object, got string 'x'"),
    (cnp(ingress=[None]), "spec.ingress[0]", "expected an object, got null"),
    (cnp(ingres=[WEB], ingress=[WEB]), "spec.ingres", "unknown field; did you mean 'ingress'?"),
    (cnp(ingress=[WEB], podSelector={}), "spec.podSelector", "unknown field; write endpointSelector"),
    (cnp(ingress=[WEB], policyTypes=["Ingress"]), "spec.policyTypes", "unknown field; remove it: a direction is"),
    (cnp(ingress=[{"from": []}]), "spec.ingress[0].from", "unknown field; write fromEndpoints, fromCIDRSet or from"),
    (cnp(egress=[{"to": []}]), "spec.egress[0].to", "unknown field; write toEndpoints, toCIDRSet or toEntities"),
    (cnp(egress=[{"ports": []}]), "spec.egress[0].ports", "unknown field; write toPorts"),
    (cnp(ingress=[WEB], description=5), "spec.description", "expected a string"),
    (
        cnp(ingress=[WEB], enableDefaultDeny={"ingress": "no"}),
        "spec.enableDefaultDeny.ingress",
        "expected true or false",
    ),
    (cnp(ingress=[WEB], enableDefaultDeny={"in": True}), "spec.enableDefaultDeny.in", "unknown field"),
    (cnp(ingress=[WEB], log={"value": "x" * 33}), "spec.log.value", "has 33 characters: at most 32"),
    (cnp(ingress=[WEB], log={"value": "a\nb"}), "spec.log.value", "all of them printable"),
    (cnp(ingress=[WEB], labels=[{"value": "x"}]), "spec.labels[0]", "key is missing"),
    (cnp(ingress=[WEB], labels=["=x"]), "spec.labels[0]", "the key is empty"),
    (cnp(ingress=[WEB], labels=[{"key": ""}]), "spec.labels[0].key", "empty: a label needs a key"),
    (cnp(ingress=[WEB], labels=[{"key": "a", "name": "b"}]), "spec.labels[0].name", "unknown field"),
    (cnp(ingress=[WEB], labels={}), "spec.labels", "expected a list"),
    (cnp(ingress=[{**WEB, "authentication": {}}]), "spec.ingress[0].authentication", "mode is missing: write one of"),
    (
        cnp(ingress=[{**WEB, "authentication": {"mode": "require"}}]),
        "spec.ingress[0].authentication.mode",
        "unknown mode 'require'; did you mean 'required'?",
    ),
    (
        cnp(ingress=[{**WEB, "authentication": {"mode": "required", "type": "x"}}]),
        "spec.ingress[0].authentication.type",
        "unknown field",
    ),
    # annotations
    (
        with_field(GOOD, ["metadata", "annotations"], {"policy.cplane.io/audit": "yes"}),
        'metadata.annotations."policy.cplane.io/audit"',
        '\'yes\' is neither "true" nor "false"',
    ),
    (
        with_field(GOOD, ["metadata", "annotations"], {"policy.cplane.io/audit": True}),
        'metadata.annotations."policy.cplane.io/audit"',
        "expected a string, got boolean true; write it in quotes, as it is meant",
    ),
    # selectors
    (cnp(subject={"matchLabel": {}}, ingress=[WEB]), "spec.endpointSelector.matchLabel", "did you mean 'matchLabels'?"),
    (cnp(subject=selector("a b=x"), ingress=[WEB]), 'spec.endpointSelector.matchLabels."a b"', "is not a label's key"),
    (cnp(subject=selector("app=-x"), ingress=[WEB]), "spec.endpointSelector.matchLabels.app", "is not a label's value"),
    (cnp(subject=selector("app=" + "x" * 64), ingress=[WEB]), "spec.endpointSelector.matchLabels.app", "at most 63"),
    (
        cnp(subject={"matchLabels": {"app": 1}}, ingress=[WEB]),
        "spec.endpointSelector.matchLabels.app",
        'expected a string, got number 1; write "1"',
    ),
    (expression(operator="Exists"), EXPRESSION, "key is missing"),
    (expression(key="app"), EXPRESSION, "operator is missing"),
    (expression(key="app", operator="in", values=["x"]), f"{EXPRESSION}.operator", "did you mean 'In'?"),
    (expression(key="app", operator="Gt", values=["1"]), f"{EXPRESSION}.operator", "unknown operator 'Gt'"),
    (expression(key="app", operator="In"), EXPRESSION, "operator In needs values"),
    (expression(key="app", operator="NotIn", values=[]), EXPRESSION, "operator NotIn needs values"),
    (expression(key="app", operator="Exists", values=["x"]), f"{EXPRESSION}.values", "takes no values"),
    (
        ingress(fromEndpoints=[selector("cidrgroup:g=")]),
        'spec.ingress[0].fromEndpoints[0].matchLabels."cidrgroup:g"',
        "groups of prefixes are selected by cidrGroupRef or cidrGroupSelector of fromCIDRSet or toCIDRSet",
    ),
    (
        ingress(fromEndpoints=[selector("_x:app=")]),
        'spec.ingress[0].fromEndpoints[0].matchLabels."_x:app"',
        "is not a label's key: write source:key or key",
    ),
    (
        ingress(fromEndpoints=[selector("reserved:=")]),
        'spec.ingress[0].fromEndpoints[0].matchLabels."reserved:"',
        "key",
    ),
    (ingress(fromEndpoints=[selector("a/b/c=")]), 'spec.ingress[0].fromEndpoints[0].matchLabels."a/b/c"', "key"),
    (
        ingress(fromEndpoints=[selector("x" * 64 + "=")]),
        f"spec.ingress[0].fromEndpoints[0].matchLabels.{'x' * 64}",
        "63",
    ),
    (ingress(fromEndpoints=[None]), "spec.ingress[0].fromEndpoints[0]", "expected an object, got null"),
    (ingress(fromEndpoints={}), "spec.ingress[0].fromEndpoints", "expected a list"),
    (
        ingress(fromEndpoints=[{"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", 1]}]}]),
        "spec.ingress[0].fromEndpoints[0].matchExpressions[0].values[1]",
        'expected a string, got number 1; write "1"',
    ),
    # peers
    (
        ingress(fromEntities=["worlds"]),
        "spec.ingress[0].fromEntities[0]",
        "unknown entity 'worlds'; did you mean 'world'?",
    ),
    (ingress(fromEntities="world"), "spec.ingress[0].fromEntities", "expected a list, got string 'world'"),
    (ingress(fromCIDR=["10.0.0.0/33"]), "spec.ingress[0].fromCIDR[0]", "is neither a prefix nor an address"),
    (ingress(fromCIDR=["10.0.0"]), "spec.ingress[0].fromCIDR[0]", "is neither a prefix nor an address"),
    (ingress(fromCIDR=["010.0.0.1"]), "spec.ingress[0].fromCIDR[0]", "is neither a prefix nor an address"),
    (ingress(fromCIDR=[""]), "spec.ingress[0].fromCIDR[0]", "is neither a prefix nor an address"),
    (ingress(fromCIDR=["fe80::1%eth0"]), "spec.ingress[0].fromCIDR[0]", "zone"),
    (egress(toCIDRSet=[{"cidr": "10.0.0.1"}]), "spec.egress[0].toCIDRSet[0].cidr", "it has no prefix length"),
    (egress(toCIDRSet=[{"cidr": "10.0.0.0/255.0.0.0"}]), "spec.egress[0].toCIDRSet[0].cidr", "not a plain number"),
    (egress(toCIDRSet=[{"cidr": "10.0.0.0/08"}]), "spec.egress[0].toCIDRSet[0].cidr", "not a plain number"),
    (
        egress(toCIDRSet=[{}]),
        "spec.egress[0].toCIDRSet[0]",
        "write one of cidr, cidrGroupRef, cidrGroupSelector, for example cidr: 10.0.0.0/8; here is none of them",
    ),
    (
        egress(toCIDRSet=[{"cidr": "10.0.0.0/8", "cidrGroupRef": "g"}]),
        "spec.egress[0].toCIDRSet[0]",
        "here is cidr and cidrGroupRef",
    ),
    (
        egress(toCIDRSet=[{"cidrGroupRef": "g", "cidrGroupSelector": {}}]),
        "spec.egress[0].toCIDRSet[0]",
        "here is cidrGroupRef and cidrGroupSelector",
    ),
    (
        egress(toCIDRSet=[{"cidrGroupRef": "G_1"}]),
        "spec.egress[0].toCIDRSet[0].cidrGroupRef",
        "'G_1' is not the name of a CiliumCIDRGroup",
    ),
    (
        egress(toCIDRSet=[{"cidrGroupRef": "g", "except": ["10.0.0.1"]}]),
        "spec.egress[0].toCIDRSet[0].except[0]",
        "it has no prefix length",
    ),
    (
        egress(toCIDRSet=[{"cidrGroupSelector": {"matchLabels": {"a": "-"}}}]),
        "spec.egress[0].toCIDRSet[0].cidrGroupSelector.matchLabels.a",
        "is not a label's value",
    ),
    (
        egress(toCIDRSet=[{"cidrGroupSelector": selector("k8s:a=b")}]),
        "spec.egress[0].toCIDRSet[0].cidrGroupSelector",
        "k8s:a selects no group, whose labels have no source: write a",
    ),
    (egress(toCIDR=["10.0.0.0/8/8"]), "spec.egress[0].toCIDR[0]", "not a plain number"),
    (egress(toCIDR=["1" * 65]), "spec.egress[0].toCIDR[0]", "it has 65 characters, no address has more than 64"),
    (
        egress(toCIDRSet=[{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}]),
        "spec.egress[0].toCIDRSet[0].except[0]",
        "11.0.0.0/16 does not lie in 10.0.0.0/8",
    ),
    (
        egress(toCIDRSet=[{"cidr": "10.0.0.0/8", "except": ["::/0"]}]),
        "spec.egress[0].toCIDRSet[0].except[0]",
        "does not lie in",
    ),
    (
        egress(toCIDRSet=[{"cidr": "10.0.0.0/8", "except": ["10.0.0.1"]}]),
        "spec.egress[0].toCIDRSet[0].except[0]",
        "it has no prefix length",
    ),
    # services, names and cloud groups
    (egress(toServices=[{}]), "spec.egress[0].toServices[0]", "write one of k8sService, k8sServiceSelector"),
    (
        egress(toServices=[{"k8sService": {}, "k8sServiceSelector": {"selector": {}}}]),
        "spec.egress[0].toServices[0]",
        "write one of k8sService, k8sServiceSelector",
    ),
    (
        egress(toServices=[{"k8sService": {"namespace": "shop"}}]),
        "spec.egress[0].toServices[0].k8sService",
        "serviceName is missing",
    ),
    (
        egress(toServices=[{"k8sServiceSelector": {"namespace": "shop"}}]),
        "spec.egress[0].toServices[0].k8sServiceSelector",
        "selector is missing",
    ),
    (
        egress(toServices=[{"k8sService": {"serviceName": "a", "name": "a"}}]),
        "spec.egress[0].toServices[0].k8sService.name",
        "unknown field; did you mean 'namespace'?",
    ),
    (
        egress(toFQDNs=[{"matchName": "a.example", "matchPattern": "*.example"}]),
        "spec.egress[0].toFQDNs[0]",
        "both matchName and matchPattern: write an element for each of them",
    ),
    (egress(toFQDNs=[{"matchName": "*.example"}]), "spec.egress[0].toFQDNs[0].matchName", "write matchPattern"),
    (egress(toFQDNs=[{"matchName": "a..example"}]), "spec.egress[0].toFQDNs[0].matchName", "single dots between"),
    (egress(toFQDNs=[{"matchName": ".a"}]), "spec.egress[0].toFQDNs[0].matchName", "single dots between"),
    (egress(toFQDNs=[{"matchName": "a" * 256}]), "spec.egress[0].toFQDNs[0].matchName", "256 characters, at most 255"),
    (egress(toFQDNs=[{"matchPattern": "a[.]b"}]), "spec.egress[0].toFQDNs[0].matchPattern", "'-', '_', '.' and '*'"),
    (egress(toFQDNs=[{"matchPattern": "*" * 256}]), "spec.egress[0].toFQDNs[0].matchPattern", "at most 255"),
    (egress(toGroups=[{}]), "spec.egress[0].toGroups[0]", "aws is missing"),
    (
        egress(toGroups=[{"aws": {"securityGroupsIds": ["a", 1]}}]),
        "spec.egress[0].toGroups[0].aws.securityGroupsIds[1]",
        "a string",
    ),
    (egress(toGroups=[{"azure": {}}]), "spec.egress[0].toGroups[0].azure", "unknown field"),
    (
        ingress(**WEB, fromCIDR=["10.0.0.0/8"]),
        "spec.ingress[0]",
        "fromEndpoints and fromCIDR in one element: write an element for each of them",
    ),
    *(
        (
            egress(**{one: EGRESS_MEMBERS[one], other: EGRESS_MEMBERS[other]}),
            "spec.egress[0]",
            " in one element: write an element for each of them",
        )
        for one, other in combinations(EGRESS_MEMBERS, 2)
    ),
    # ports
    (port(protocol="TCP"), "spec.ingress[0].toPorts[0].ports[0]", "port is missing"),
    (port(port=80), "spec.ingress[0].toPorts[0].ports[0].port", 'expected a string, got number 80; write "80"'),
    (port(port=""), "spec.ingress[0].toPorts[0].ports[0].port", "'' is not a port"),
    (port(port="65536"), "spec.ingress[0].toPorts[0].ports[0].port", "'65536' is not a port"),
    (port(port="080"), "spec.ingress[0].toPorts[0].ports[0].port", "without leading zeros"),
    (port(port="-1"), "spec.ingress[0].toPorts[0].ports[0].port", "'-1' is not a port"),
    (port(port="80:81"), "spec.ingress[0].toPorts[0].ports[0].port", "'80:81' is not a port"),
    (port(port="a" * 16), "spec.ingress[0].toPorts[0].ports[0].port", "a container port's name, at most 15 letters"),
    (port(port="a--b"), "spec.ingress[0].toPorts[0].ports[0].port", "'a--b' is not a port"),
    (port(port="-a"), "spec.ingress[0].toPorts[0].ports[0].port", "'-a' is not a port"),
    (port(port="1-2"), "spec.ingress[0].toPorts[0].ports[0].port", "with a letter among them"),
    (
        port(port="80", endPort="90"),
        "spec.ingress[0].toPorts[0].ports[0].endPort",
        "expected an integer from 0 to 65535",
    ),
    (port(port="80", endPort=70000), "spec.ingress[0].toPorts[0].ports[0].endPort", "expected an integer"),
    (port(port="80", protocol="TPC"), "spec.ingress[0].toPorts[0].ports[0].protocol", "did you mean 'TCP'?"),
    (port(port="80", protocol="VRRP"), "spec.ingress[0].toPorts[0].ports[0].port", 'VRRP has no ports: write port "0"'),
    (
        port(port="http", protocol="IGMP"),
        "spec.ingress[0].toPorts[0].ports[0].port",
        'IGMP has no ports: write port "0"',
    ),
    (port(port="0", endPort=9, protocol="IGMP"), "spec.ingress[0].toPorts[0].ports[0].port", "IGMP has no ports"),
    (
        port(port="8", protocol="ICMPv6"),
        "spec.ingress[0].toPorts[0].ports[0].protocol",
        "use icmps in place of toPorts",
    ),
    (port(port="8", protocol="ICMP"), "spec.ingress[0].toPorts[0].ports[0].protocol", "use icmps in place of toPorts"),
    (ingress(**WEB, toPorts=[{"ports": [{"port": "1"}] * 41}]), "spec.ingress[0].toPorts[0].ports", "at most 40"),
    (ingress(**WEB, toPorts=[{"port": []}]), "spec.ingress[0].toPorts[0].port", "did you mean 'ports'?"),
    # ICMP
    (icmp(), "spec.ingress[0].icmps[0].fields[0]", "type is missing"),
    (icmp(type=256), "spec.ingress[0].icmps[0].fields[0].type", "expected an integer from 0 to 255"),
    (icmp(type=True), "spec.ingress[0].icmps[0].fields[0].type", "expected an integer from 0 to 255"),
    (icmp(type="Ecko"), "spec.ingress[0].icmps[0].fields[0].type", "did you mean 'Echo'?"),
    (icmp(type="PacketTooBig"), "spec.ingress[0].icmps[0].fields[0].type", "of family IPv4"),
    (icmp(type=8, family="ipv4"), "spec.ingress[0].icmps[0].fields[0].family", "unknown family 'ipv4'"),
    (ingress(**WEB, icmps=[{"fields": [{"type": 8}] * 41}]), "spec.ingress[0].icmps[0].fields", "at most 40"),
    (
        ingress(**WEB, icmps=[{"fields": [{"type": 8}]}], toPorts=ports("80")),
        "spec.ingress[0]",
        "icmps and toPorts in one element",
    ),
]


@pytest.mark.parametrize(("document", "path", "message"), REFUSED)
def test_a_wrong_document_is_refused_with_the_path_and_what_to_do(document, path, message):
    with pytest.raises(InvalidPolicy) as refused:
        policy(document)
    assert [e for e in refused.value.errors if e.path == path and message in e.message], str(refused.value)


def only_error(document):
    with pytest.raises(InvalidPolicy) as refused:
        policy(document)
    (error,) = refused.value.errors
    return error


@pytest.mark.parametrize(
    ("section", "field"),
    [("ingress", "fromNodes"), ("ingressDeny", "fromNodes"), ("egress", "toNodes"), ("egressDeny", "toNodes")],
)
def test_nodes_have_no_labels_to_select_them_by_and_entities_are_the_way(section, field):
    path, message = only_error(cnp(**{section: [{field: [{}]}]}))
    assert path == f"spec.{section}[0].{field}"
    assert message == "needs the labels of nodes as identities, which are off: use fromEntities or toEntities"


@pytest.mark.parametrize("field", ["rules", "listener", "serverNames", "terminatingTLS", "originatingTLS"])
@pytest.mark.parametrize(("section", "member"), [("ingressDeny", "fromEndpoints"), ("egressDeny", "toEndpoints")])
def test_a_deny_rule_has_only_ports(section, member, field):
    path, message = only_error(cnp(**{section: [{member: [{}], "toPorts": [{**ports("80/TCP")[0], field: {}}]}]}))
    assert path == f"spec.{section}[0].toPorts[0].{field}"
    assert message == "a deny rule drops packets before anybody could read them: remove it"


@pytest.mark.parametrize(
    ("section", "field"),
    [("ingressDeny", "authentication"), ("egressDeny", "authentication"), ("egressDeny", "toFQDNs")],
)
def test_a_deny_rule_has_no_authentication_and_no_names(section, field):
    assert only_error(cnp(**{section: [{field: []}]})) == (
        f"spec.{section}[0].{field}",
        "cannot stand in a deny rule: remove it",
    )


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ("ingress", "fromRequires"),
        ("ingressDeny", "fromRequires"),
        ("egress", "toRequires"),
        ("egressDeny", "toRequires"),
    ],
)
def test_requirements_were_removed_from_the_language_and_an_empty_list_of_them_does_not_matter(section, field):
    path, message = only_error(cnp(**{section: [{field: [{}]}]}))
    assert path == f"spec.{section}[0].{field}"
    assert message.startswith("removed from the language in Cilium 1.19")
    assert policy(cnp(**{section: [{field: []}]})) == policy(cnp(**{section: [{}]}))


@pytest.mark.parametrize(
    ("section", "member"), [("ingress", "toServices"), ("ingress", "toFQDNs"), ("egress", "fromCIDR")]
)
def test_a_member_of_the_other_direction_is_unknown(section, member):
    assert only_error(cnp(**{section: [{member: []}]}))[1].startswith("unknown field")


def test_a_cluster_wide_policy_may_select_nodes():
    document = ccnp(ingress=[WEB])
    document["spec"]["nodeSelector"] = document["spec"].pop("endpointSelector")
    (rule,) = policy(document).rules
    assert rule.about_nodes


def test_all_errors_of_a_document_come_at_once_in_its_order():
    document = cnp("BAD", ingress=[{"fromCIDR": ["x"]}, {"toPorts": ports("99999/TCP")}], nonsense=1)
    document["specs"] = [{"ingress": [{}]}]
    with pytest.raises(InvalidPolicy) as refused:
        policy(document)
    assert [error.path for error in refused.value.errors] == [
        "metadata.name",
        "spec.nonsense",
        "spec.ingress[0].fromCIDR[0]",
        "spec.ingress[1].toPorts[0].ports[0].port",
        "specs[0]",
    ]
    assert refused.value.code == "policy.invalid"


def test_a_document_with_endless_errors_lists_the_first_thousand_and_counts_the_rest():
    with pytest.raises(InvalidPolicy) as refused:
        policy(ingress(fromCIDR=["x"] * 1500))
    assert len(refused.value.errors) == 1001
    assert refused.value.errors[-1] == ("document", "500 more errors are not listed")


def test_a_long_value_is_quoted_in_part():
    with pytest.raises(InvalidPolicy) as refused:
        policy(ingress(fromEntities=["w" * 1000]))
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("document", [[], "x", None, 7])
def test_what_is_no_object_is_no_policy(document):
    with pytest.raises(InvalidPolicy, match="document: expected an object"):
        parse(document, cluster="c1")


def test_field_names_that_are_no_strings_are_refused():
    with pytest.raises(InvalidPolicy, match="field name 1 is not a string"):
        policy({**GOOD, 1: 2})


def test_of_an_object_of_another_kind_nothing_else_is_said():
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "P"}, "spec": {"containers": []}, "status": {}}
    with pytest.raises(InvalidPolicy) as refused:
        parse(pod, cluster="c1")
    assert [str(one).partition(";")[0] for one in refused.value.errors] == ["kind: unknown kind 'Pod'"]
