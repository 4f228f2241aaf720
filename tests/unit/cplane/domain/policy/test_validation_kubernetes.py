"""Every reason why a Kubernetes NetworkPolicy or a group of prefixes is refused."""

import pytest

from cplane.domain.policy import InvalidPolicy
from tests.support.builders import group, knp, parsed, selector


def port(**fields):
    return knp(ingress=[{"ports": [fields]}])


def peer(**fields):
    return knp(ingress=[{"from": [fields]}])


def block(cidr="10.0.0.0/8", *holes):
    return {"ipBlock": {"cidr": cidr, "except": list(holes)}}


def without(document, *path):
    target = document
    for step in path[:-1]:
        target = target[step]
    del target[path[-1]]
    return document


PORT, PEER = "spec.ingress[0].ports[0]", "spec.ingress[0].from[0]"

REFUSED = [
    ({**knp(), "apiVersion": "extensions/v1beta1"}, "apiVersion", "write networking.k8s.io/v1"),
    ({**knp(), "specs": []}, "specs", "a NetworkPolicy has one spec"),
    ({**knp(), "spec": []}, "spec", "expected an object"),
    (knp(endpointSelector={}), "spec.endpointSelector", "unknown field; write podSelector"),
    (knp(ingressDeny=[{}]), "spec.ingressDeny", "unknown field; write a CiliumNetworkPolicy"),
    (knp(podSelector=[]), "spec.podSelector", "expected an object, got list"),
    (
        knp(podSelector=selector("k8s:app=x")),
        'spec.podSelector.matchLabels."k8s:app"',
        "'k8s:app' is not a label's key: write letters, digits, '-', '_' and '.', at most 63 of them",
    ),
    (knp(podSelector=selector("$host=")), 'spec.podSelector.matchLabels."$host"', "is not a label's key"),
    (knp(policyTypes=["ingress"]), "spec.policyTypes[0]", "unknown type 'ingress'; did you mean 'Ingress'?"),
    (knp(policyTypes="Ingress"), "spec.policyTypes", "expected a list"),
    (knp(policyTypes=[1]), "spec.policyTypes[0]", "expected a string"),
    (knp(policyTypes=["Ingress", "Egress", "Ingress"]), "spec.policyTypes", "3 types: name each of Ingress, Egress"),
    (knp(ingress={}), "spec.ingress", "expected a list"),
    (knp(ingress=[None]), "spec.ingress[0]", "expected an object, got null"),
    (knp(ingress=[{"to": []}]), "spec.ingress[0].to", "unknown field"),
    (knp(egress=[{"from": []}]), "spec.egress[0].from", "unknown field"),
    (knp(ingress=[{"fromEndpoints": []}]), "spec.ingress[0].fromEndpoints", "unknown field; write from, with podSel"),
    (knp(egress=[{"toCIDR": []}]), "spec.egress[0].toCIDR", "unknown field; write to, with ipBlock"),
    (knp(egress=[{"toPorts": []}]), "spec.egress[0].toPorts", "unknown field; write ports"),
    (knp(egress=[{"podSelector": {}}]), "spec.egress[0].podSelector", "unknown field; put it into an element of to"),
    # peers
    (peer(), PEER, "an empty peer: write podSelector, namespaceSelector or ipBlock"),
    (peer(podSelector=None), PEER, "an empty peer"),
    (peer(pods={}), f"{PEER}.pods", "unknown field"),
    (peer(**block(), podSelector={}), PEER, "ipBlock beside a selector"),
    (peer(ipBlock={}), f"{PEER}.ipBlock", "cidr is missing"),
    (peer(ipBlock={"cidr": "10.0.0.1"}), f"{PEER}.ipBlock.cidr", "it has no prefix length"),
    (peer(ipBlock={"cidr": 10}), f"{PEER}.ipBlock.cidr", "expected a string"),
    (peer(**block("10.0.0.0/8", "11.0.0.0/9")), f"{PEER}.ipBlock.except[0]", "11.0.0.0/9 does not lie in 10.0.0.0/8"),
    (peer(**block("10.0.0.0/8", "10.0.0.0/8")), f"{PEER}.ipBlock.except[0]", "must be a part of its own cidr"),
    (peer(**block("10.0.0.0/8", "::/0")), f"{PEER}.ipBlock.except[0]", "does not lie in"),
    (peer(**block("10.0.0.0/8", "10.0.0.1")), f"{PEER}.ipBlock.except[0]", "it has no prefix length"),
    (
        peer(namespaceSelector={"matchExpressions": [{"key": "a", "operator": "Is"}]}),
        f"{PEER}.namespaceSelector.matchExpressions[0].operator",
        "unknown operator 'Is'",
    ),
    # ports
    (port(protocol="tcp"), f"{PORT}.protocol", "unknown protocol 'tcp'; did you mean 'TCP'?"),
    (port(protocol="ICMP"), f"{PORT}.protocol", "protocols are TCP, UDP, SCTP"),
    (port(protocol=""), f"{PORT}.protocol", "unknown protocol ''"),
    (port(protocol=6), f"{PORT}.protocol", "expected a string"),
    (port(port=0), f"{PORT}.port", "an integer from 1 to 65535"),
    (port(port=65536), f"{PORT}.port", "an integer from 1 to 65535"),
    (port(port=True), f"{PORT}.port", "an integer from 1 to 65535"),
    (port(port=8.5), f"{PORT}.port", "an integer from 1 to 65535"),
    (port(port="80"), f"{PORT}.port", "'80' is text: write the number without quotes"),
    (port(port="0"), f"{PORT}.port", "write the number without quotes"),
    (port(port="9" * 5000), f"{PORT}.port", "write the number without quotes"),
    (port(port="٨٠"), f"{PORT}.port", "is not a container port's name"),
    (port(port="HTTP"), f"{PORT}.port", "'HTTP' is not a container port's name: write at most 15 small letters"),
    (port(port="a_b"), f"{PORT}.port", "is not a container port's name"),
    (port(port="a--b"), f"{PORT}.port", "is not a container port's name"),
    (port(port="a" * 16), f"{PORT}.port", "is not a container port's name"),
    (port(port=""), f"{PORT}.port", "is not a container port's name"),
    (port(endPort=90), PORT, "endPort without port"),
    (port(port="http", endPort=90), PORT, "endPort beside a port's name"),
    (port(port=80, endPort=79), f"{PORT}.endPort", "79 is below port 80"),
    (port(port=80, endPort=0), f"{PORT}.endPort", "an integer from 1 to 65535"),
    (port(port=80, endPort="90"), f"{PORT}.endPort", "an integer from 1 to 65535"),
    (port(port=80, ports=[]), f"{PORT}.ports", "did you mean 'port'?"),
    # groups
    (without(group("g"), "spec"), "document", "spec is missing: list the prefixes under spec.externalCIDRs"),
    ({**group("g"), "specs": []}, "specs", "a group has one spec"),
    (group("g", "10.0.0.0/33"), "spec.externalCIDRs[0]", "is not a prefix"),
    (group("g", "10.0.0.0/8", "x"), "spec.externalCIDRs[1]", "'x' is not a prefix"),
    ({**group("g"), "spec": {"cidrs": []}}, "spec.cidrs", "unknown field"),
    ({**group("g"), "spec": {"externalCIDRs": "10.0.0.0/8"}}, "spec.externalCIDRs", "expected a list"),
    ({**group("g"), "apiVersion": "cilium.io/v1"}, "apiVersion", "write cilium.io/v2"),
    ({**group("g"), "metadata": {"name": "g", "namespace": "n"}}, "metadata.namespace", "has no namespace: remove it"),
    ({**group("g"), "metadata": {"name": "g", "labels": {"a": 1}}}, "metadata.labels.a", 'write "1"'),
    ({**group("g"), "metadata": {"name": "g", "labels": []}}, "metadata.labels", "expected an object"),
]


@pytest.mark.parametrize(("document", "path", "message"), REFUSED)
def test_a_wrong_document_is_refused_with_the_path_and_what_to_do(document, path, message):
    with pytest.raises(InvalidPolicy) as refused:
        parsed(document)
    assert [e for e in refused.value.errors if e.path == path and message in e.message], str(refused.value)
