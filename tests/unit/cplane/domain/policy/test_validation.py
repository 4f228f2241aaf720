"""Every reason why a document is refused: the path of what is wrong, and what to do."""

import copy

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
EXPRESSION = "spec.endpointSelector.matchExpressions[0]"


def expression(**fields):
    return cnp(subject={"matchExpressions": [fields]}, ingress=[WEB])


REFUSED = [
    # the document
    (with_field(GOOD, ["apiVersion"], None), "document", "apiVersion is missing: write cilium.io/v2"),
    (with_field(GOOD, ["apiVersion"], "v1"), "apiVersion", "'v1' is not read here: write cilium.io/v2"),
    (with_field(GOOD, ["kind"], None), "document", "kind is missing"),
    (with_field(GOOD, ["kind"], "CiliumNetworkPolicies"), "kind", "did you mean 'CiliumNetworkPolicy'?"),
    (with_field(GOOD, ["kind"], "NetworkPolicy"), "kind", "NetworkPolicy: not supported by this version"),
    (with_field(GOOD, ["kind"], 7), "kind", 'expected a string, got number 7; write "7"'),
    (with_field(GOOD, ["Spec"], {}), "Spec", "unknown field; did you mean 'spec'?"),
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
    (
        with_field(with_field(ccnp(ingress=[WEB]), ["spec", "endpointSelector"], None), ["spec", "nodeSelector"], {}),
        "spec.nodeSelector",
        "not supported by this version",
    ),
    (cnp(), "spec", "no ingress, ingressDeny, egress or egressDeny"),
    (cnp(ingress=[]), "spec", "no ingress, ingressDeny, egress or egressDeny"),
    (cnp(ingress={}), "spec.ingress", "expected a list, got object with 0 entries"),
    (cnp(ingress=["x"]), "spec.ingress[0]", "expected an object, got string 'x'"),
    (cnp(ingress=[None]), "spec.ingress[0]", "expected an object, got null None"),
    (cnp(ingres=[WEB], ingress=[WEB]), "spec.ingres", "unknown field; did you mean 'ingress'?"),
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
        ingress(fromEndpoints=[selector("cidr:10.0.0.0/8=")]),
        'spec.ingress[0].fromEndpoints[0].matchLabels."cidr:10.0.0.0/8"',
        "labels of source 'cidr': not supported by this version; to select prefixes, use fromCIDRSet",
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
    (egress(toCIDRSet=[{}]), "spec.egress[0].toCIDRSet[0]", "cidr is missing"),
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
    (
        egress(toCIDRSet=[{"cidrGroupRef": "g"}]),
        "spec.egress[0].toCIDRSet[0].cidrGroupRef",
        "not supported by this version",
    ),
    (
        ingress(**WEB, fromCIDR=["10.0.0.0/8"]),
        "spec.ingress[0]",
        "fromEndpoints and fromCIDR in one element: write an element for each of them",
    ),
    # ports
    (port(protocol="TCP"), "spec.ingress[0].toPorts[0].ports[0]", "port is missing"),
    (port(port=80), "spec.ingress[0].toPorts[0].ports[0].port", 'expected a string, got number 80; write "80"'),
    (port(port=""), "spec.ingress[0].toPorts[0].ports[0].port", "'' is not a port"),
    (port(port="65536"), "spec.ingress[0].toPorts[0].ports[0].port", "'65536' is not a port"),
    (port(port="080"), "spec.ingress[0].toPorts[0].ports[0].port", "without leading zeros"),
    (port(port="-1"), "spec.ingress[0].toPorts[0].ports[0].port", "'-1' is not a port"),
    (port(port="http"), "spec.ingress[0].toPorts[0].ports[0].port", "named port 'http': not supported by this version"),
    (
        port(port="80", endPort="90"),
        "spec.ingress[0].toPorts[0].ports[0].endPort",
        "expected an integer from 0 to 65535",
    ),
    (port(port="80", endPort=70000), "spec.ingress[0].toPorts[0].ports[0].endPort", "expected an integer"),
    (port(port="80", endPort=79), "spec.ingress[0].toPorts[0].ports[0].endPort", "79 is below port 80"),
    (port(port="80", protocol="TPC"), "spec.ingress[0].toPorts[0].ports[0].protocol", "did you mean 'TCP'?"),
    (port(port="0", protocol="VRRP"), "spec.ingress[0].toPorts[0].ports[0].protocol", "not supported by this version"),
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


UNSUPPORTED = [
    *(("ingress", field) for field in ("fromGroups", "fromNodes", "authentication")),
    *(("ingressDeny", field) for field in ("fromGroups", "fromNodes")),
    *(("egress", field) for field in ("toFQDNs", "toServices", "toGroups", "toNodes", "authentication")),
    *(("egressDeny", field) for field in ("toServices", "toGroups", "toNodes")),
]


@pytest.mark.parametrize(("section", "field"), UNSUPPORTED)
def test_what_cannot_be_enforced_yet_is_refused_by_name(section, field):
    with pytest.raises(InvalidPolicy) as refused:
        policy(cnp(**{section: [{field: [{}]}]}))
    assert [tuple(e) for e in refused.value.errors] == [(f"spec.{section}[0].{field}", "not supported by this version")]


@pytest.mark.parametrize("field", ["rules", "listener", "serverNames", "terminatingTLS", "originatingTLS"])
def test_what_a_port_cannot_have_yet_is_refused_by_name(field):
    with pytest.raises(InvalidPolicy) as refused:
        policy(ingress(**WEB, toPorts=[{**ports("80/TCP")[0], field: {}}]))
    assert refused.value.errors[0].path == f"spec.ingress[0].toPorts[0].{field}"
    assert "not supported" in refused.value.errors[0].message


@pytest.mark.parametrize("field", ["rules", "listener", "serverNames"])
def test_a_deny_rule_has_only_ports(field):
    with pytest.raises(InvalidPolicy, match=f"toPorts\\[0\\].{field}: unknown field"):
        policy(cnp(ingressDeny=[{**WEB, "toPorts": [{**ports("80/TCP")[0], field: {}}]}]))


@pytest.mark.parametrize(("section", "field"), [("ingressDeny", "authentication"), ("egressDeny", "toFQDNs")])
def test_a_deny_rule_has_no_authentication_and_no_names(section, field):
    with pytest.raises(InvalidPolicy, match=f"{field}: unknown field"):
        policy(cnp(**{section: [{field: []}]}))


@pytest.mark.parametrize(("section", "field"), [("ingress", "fromRequires"), ("egress", "toRequires")])
def test_requirements_were_removed_from_the_language(section, field):
    with pytest.raises(InvalidPolicy, match=f"{field}: removed from the language"):
        policy(cnp(**{section: [{field: []}]}))


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
