"""What the datapath cannot do is said, and refused where it would be wider than written."""

import pytest

from cplane.domain.policy.enforceability import Note, notes
from tests.support.builders import ccnp, cnp, knp, policy, ports, selector

SERVICE = {"toServices": [{"k8sService": {"serviceName": "a"}}]}
WEB = {"fromEndpoints": [selector("app=web")]}
NOBODY = "selects nobody"
WIDER = "a deny rule that selects nobody would be wider than written"


def said(document):
    return list(notes(policy(document).rules))


def on_nodes(document):
    document["spec"]["nodeSelector"] = document["spec"].pop("endpointSelector")
    return document


@pytest.mark.parametrize(
    "document",
    [
        cnp(ingress=[WEB], egressDeny=[{"toCIDR": ["10.0.0.0/8"]}]),
        cnp(ingress=[{**WEB, "authentication": {"mode": "disabled"}}]),
        cnp(ingress=[{**WEB, "toPorts": ports("http")}]),
        cnp(egress=[{"toCIDRSet": [{"cidrGroupRef": "g"}]}], egressDeny=[{"toCIDRSet": [{"cidrGroupRef": "g"}]}]),
        cnp(ingress=[{"icmps": [{"fields": [{"type": 8}]}]}]),
        knp(ingress=[{}]),
        cnp(ingress=[{"toPorts": [{**ports("80/TCP")[0], "rules": {"http": [{}]}}]}]),
        cnp(egress=[{"toPorts": [{**ports("443/TCP")[0], "serverNames": ["a"]}]}]),
        cnp(egress=[SERVICE], egressDeny=[SERVICE]),
    ],
)
def test_of_what_is_enforced_nothing_is_said(document):
    assert said(document) == []


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            cnp(ingress=[WEB, {"toPorts": [*ports("1/TCP"), {**ports("80/TCP")[0], "rules": {"l7proto": "x"}}]}]),
            Note("spec.ingress[1].toPorts[1]", "there is no proxy for x: this traffic is dropped (178)"),
        ),
        (
            cnp(ingress=[{**WEB, "authentication": {"mode": "required"}}]),
            Note("spec.ingress[0]", "there is no mutual authentication: this traffic is dropped (189)"),
        ),
        (
            cnp(ingressDeny=[{"toPorts": ports("0/VRRP")}]),
            Note("spec.ingressDeny[0]", "the datapath drops VRRP (137)"),
        ),
        (
            cnp(ingress=[{"fromGroups": [{"aws": {}}]}]),
            Note("spec.ingress[0]", f"groups of a cloud provider are not known here: {NOBODY}"),
        ),
        (
            cnp(ingressDeny=[{"fromGroups": [{"aws": {}}]}]),
            Note("spec.ingressDeny[0]", f"groups of a cloud provider are not known here: {WIDER}", refused=True),
        ),
        (
            on_nodes(ccnp(ingress=[WEB])),
            Note("spec.nodeSelector", "host policies are not enforced by this version", refused=True),
        ),
    ],
)
def test_what_is_not_enforced_is_said_with_its_place(document, expected):
    assert said(document) == [expected]


def test_every_rule_of_a_document_is_looked_at():
    document = cnp(egress=[{"toGroups": [{"aws": {}}]}])
    document["specs"] = [cnp(egress=[{"toGroups": [{"aws": {}}], "toPorts": ports("0/IGMP")}])["spec"]]
    assert [note.path for note in said(document)] == ["spec.egress[0]", "specs[0].egress[0]", "specs[0].egress[0]"]
