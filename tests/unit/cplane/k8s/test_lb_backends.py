"""Slices and Endpoints: backends with state, weight, node and zones, or errors with places."""

import pytest

from cplane.domain.service import Backend
from tests.support.balanced import Document, ends, errors, kube_service, kube_slice, notes, sound


def only(*documents: object) -> tuple[Backend, ...]:
    (found,) = sound(*documents).backends
    return found.backends


def endpoint(address: str = "10.0.0.1", **fields: object) -> Document:
    return {"addresses": [address], **fields}


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        (None, "active"),
        ({}, "active"),
        ({"ready": None}, "active"),
        ({"ready": True, "serving": True, "terminating": False}, "active"),
        ({"ready": True, "terminating": True}, "active"),
        ({"ready": False}, "maintenance"),
        ({"ready": False, "serving": True}, "maintenance"),
        ({"ready": False, "serving": True, "terminating": True}, "terminating"),
        ({"ready": False, "serving": False, "terminating": True}, "maintenance"),
        ({"ready": False, "terminating": True}, "maintenance"),
    ],
)
def test_conditions_say_the_state(conditions: object, state: str):
    assert [one.state for one in only(kube_slice(endpoint(conditions=conditions)))] == [state]


def test_a_service_may_use_its_endpoints_before_they_are_ready():
    service = kube_service(publishNotReadyAddresses=True)
    slices = [kube_slice(endpoint(conditions={"ready": False})), kube_slice("10.0.0.2", name="web-2")]
    assert [ends(one.backends) for one in sound(*slices, service).backends] == [
        ["10.0.0.1:8080/TCP http active"],
        ["10.0.0.2:8080/TCP http active"],
    ]


def test_a_backend_has_its_node_and_the_zones_that_it_is_for():
    hints = {"forZones": [{"name": "b"}, {"name": "a"}], "forNodes": [{"name": "n1"}]}
    reference = {"kind": "Pod", "name": "p", "namespace": "shop", "uid": "1"}
    (found,) = only(kube_slice(endpoint(nodeName="n1", zone="a", hints=hints, targetRef=reference, hostname="h")))
    assert (found.node, found.zones, found.weight) == ("n1", ("a", "b"), 1)


@pytest.mark.parametrize(("weight", "state"), [("70", "active"), ("255", "active"), ("0", "maintenance")])
def test_a_slice_may_say_the_weight_of_its_backends(weight: str, state: str):
    document = kube_slice("10.0.0.1")
    document["metadata"]["annotations"] = {"service.cilium.io/weight": weight, "other": "x"}
    (found,) = only(document)
    assert (found.weight, found.state) == (int(weight), state)


def test_each_port_of_each_address_is_a_backend():
    ports = [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP", "appProtocol": "dns"}]
    found = only(kube_slice({"addresses": ["FD00:0::1", "fd00::2"]}, ports=ports, addressType="IPv6"))
    assert ends(found) == [
        "[fd00::1]:80/TCP http active",
        "[fd00::1]:53/UDP dns active",
        "[fd00::2]:80/TCP http active",
        "[fd00::2]:53/UDP dns active",
    ]


def test_each_slice_is_a_source_and_an_empty_one_has_nothing_left():
    found = sound(kube_slice("10.0.0.1"), kube_slice(name="web-2")).backends
    assert [(str(one.service), one.source, len(one.backends)) for one in found] == [
        ("shop/web", "web-1", 1),
        ("shop/web", "web-2", 0),
    ]


def kube_endpoints(*subsets: Document) -> Document:
    metadata = {"name": "web", "namespace": "shop"}
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": list(subsets)}


SUBSET = {
    "addresses": [{"ip": "10.0.0.1", "nodeName": "n1", "targetRef": {"kind": "Pod", "name": "p"}}],
    "notReadyAddresses": [{"ip": "10.0.0.2"}],
    "ports": [{"name": "http", "port": 8080}],
}


def test_endpoints_are_backends_where_there_are_no_slices():
    (found,) = sound(kube_endpoints(SUBSET)).backends
    assert found.source == "endpoints:web"
    assert ends(found.backends) == ["10.0.0.1:8080/TCP http active", "10.0.0.2:8080/TCP http maintenance"]
    assert [one.node for one in found.backends] == ["n1", ""]
    assert [one.source for one in sound(kube_endpoints(SUBSET), kube_slice("10.0.0.1")).backends] == ["web-1"]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (kube_slice({"addresses": []}), "endpoints[0].addresses: no address: write at least one"),
        (kube_slice({}), "endpoints[0].addresses: no address: write at least one"),
        (kube_slice({"addresses": "10.0.0.1"}), "endpoints[0].addresses: expected a list"),
        (kube_slice("10.0.0.1", ""), "endpoints[1].addresses[0]: '' is not an IP address"),
        (
            kube_slice("10.0.0.1", metadata={"name": "s", "labels": {"kubernetes.io/service-name": "a/b"}}),
            "'a/b' is not a name of a service: lower-case letters",
        ),
        (kube_slice({"addresses": [7]}), "endpoints[0].addresses[0]: expected an address in quotes, got 7"),
        (kube_slice("10.0.0.01"), "endpoints[0].addresses[0]: '10.0.0.01' is not an IP address"),
        (kube_slice("fd00::1"), "endpoints[0].addresses[0]: fd00::1 is not IPv4, which addressType says"),
        (kube_slice("10.0.0.1", addressType="IPv6"), "endpoints[0].addresses[0]: 10.0.0.1 is not IPv6"),
        (kube_slice("127.0.0.1"), "endpoints[0].addresses[0]: 127.0.0.1 is loopback"),
        (kube_slice("::", addressType="IPv6"), "endpoints[0].addresses[0]: :: is loopback, link-local, multicast or"),
        (kube_slice("10.0.0.1", "10.0.0.1"), "endpoints[1].addresses[0]: 10.0.0.1:8080/TCP stands there already"),
        (kube_slice(addressType=None), "items[0]: addressType is missing: write IPv4, IPv6, FQDN"),
        (kube_slice(addressType="ipv4"), "addressType: unknown value 'ipv4'; did you mean 'IPv4'?"),
        (kube_slice(ports=[{"port": 0}]), "ports[0].port: expected an integer from 1 to 65535, got number 0"),
        (kube_slice(ports=[{"port": 1, "protocol": "QUIC"}]), "ports[0].protocol: unknown protocol 'QUIC'"),
        (kube_slice(ports=[{"port": 1}, {"port": 2}]), "ports[1]: a TCP port '' stands there already"),
        (kube_slice(ports=[{"prot": 1, "port": 2}]), "ports[0].prot: unknown field; did you mean 'port'?"),
        (kube_slice(endpoint(conditions={"ready": "yes"})), "endpoints[0].conditions.ready: expected true or false"),
        (
            kube_slice(endpoint(conditions={"redy": True})),
            "endpoints[0].conditions.redy: unknown field; did you mean 'ready'?",
        ),
        (kube_slice(endpoint(nodename="n")), "endpoints[0].nodename: unknown field; did you mean 'nodeName'?"),
        (kube_slice(endpoint(nodeName=1)), "endpoints[0].nodeName: expected a string"),
        (kube_slice(endpoint(topology={})), "endpoints[0].topology: removed from Kubernetes: write nodeName and zone"),
        (kube_slice(endpoint(hints={"forZones": [{"nam": "a"}]})), "endpoints[0].hints.forZones[0].nam: unknown field"),
        (
            kube_slice(endpoint(targetRef={"knd": "Pod"})),
            "endpoints[0].targetRef.knd: unknown field; did you mean 'kind'?",
        ),
        (kube_slice(7), "endpoints[0]: expected an object, got number 7"),
        (kube_slice(endpoint="10.0.0.1"), "endpoint: unknown field; did you mean 'endpoints'?"),
        (kube_endpoints({**SUBSET, "addresses": [{}]}), "subsets[0].addresses[0]: ip is missing"),
        (
            kube_endpoints({**SUBSET, "addresses": [{"ip": "x"}]}),
            "subsets[0].addresses[0].ip: 'x' is not an IP address",
        ),
        (kube_endpoints({**SUBSET, "adresses": []}), "subsets[0].adresses: unknown field; did you mean 'addresses'?"),
    ],
)
def test_what_is_wrong_with_a_slice_is_told_with_its_place(document: Document, expected: str):
    found = errors(document)
    assert len(found) == 1 and expected in found[0], found


@pytest.mark.parametrize("weight", ["256", "-1", "1.5", "", "x", "٣", 7])
def test_a_weight_is_a_small_number(weight: object):
    document = kube_slice("10.0.0.1")
    document["metadata"]["annotations"] = {"service.cilium.io/weight": weight}
    assert errors(document)[0].startswith('metadata.annotations."service.cilium.io/weight": ')


def test_what_is_no_backend_is_said():
    assert notes(kube_slice({"addresses": ["a.example"]}, addressType="FQDN")) == [
        "addressType: names are not resolved here: these endpoints are not used"
    ]
    assert "no label kubernetes.io/service-name" in notes({**kube_slice("10.0.0.1"), "metadata": {"name": "a"}})[0]
    assert notes(kube_slice("10.0.0.1", ports=[{"name": "all"}])) == [
        "ports[0]: no port, which means all of them: they are not used"
    ]


def test_a_port_that_no_backend_has_is_said():
    service = kube_service(ports=[{"name": "http", "port": 80}, {"name": "htps", "port": 443}])
    assert notes(service, kube_slice("10.0.0.1")) == ["items[0].spec.ports: no backend of it has a TCP port 'htps'"]


def test_five_thousand_backends_are_as_many():
    addresses = [f"10.1.{number >> 8}.{number & 255}" for number in range(5000)]
    assert len(only(kube_slice(*addresses))) == 5000
