"""Pods behind ports of the host and behind redirects."""

import pytest

from cplane.domain.service import ServiceName
from cplane.k8s.lb_reading import Here
from tests.support.balanced import (
    Document,
    ends,
    errors,
    kube_pod,
    kube_redirect,
    kube_service,
    notes,
    places,
    read,
    sound,
)

HOST_PORT = {"containerPort": 80, "hostPort": 8080}
DNS = {"ip": "169.254.20.10", "toPorts": [{"port": "53", "protocol": "UDP"}]}


def test_a_port_of_the_host_leads_to_the_pod():
    both = kube_pod("p", HOST_PORT, {**HOST_PORT, "protocol": "UDP"}, {"containerPort": 81})
    both["status"]["podIPs"] = [{"ip": "10.0.0.9"}, {"ip": "fd00::9"}]
    found = sound(both)
    (service,), (backends,) = found.services, found.backends
    assert service.name == ServiceName("shop", "p:host-port:8080")
    assert places(service.frontends) == [
        "0.0.0.0:8080/TCP HostPort",
        "[::]:8080/TCP HostPort",
        "0.0.0.0:8080/UDP HostPort",
        "[::]:8080/UDP HostPort",
    ]
    assert (backends.service, backends.source) == (service.name, "pod:p")
    assert sorted(ends(backends.backends)) == [
        "10.0.0.9:80/TCP  active",
        "10.0.0.9:80/UDP  active",
        "[fd00::9]:80/TCP  active",
        "[fd00::9]:80/UDP  active",
    ]
    assert {one.node for one in backends.backends} == {"n1"}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", ["192.0.2.1:8080/TCP HostPort"]),
        ("0.0.0.0", ["0.0.0.0:8080/TCP HostPort"]),
        ("", ["0.0.0.0:8080/TCP HostPort"]),
        ("127.0.0.1", []),
    ],
)
def test_the_port_is_at_the_address_that_it_names(address: str, expected: list[str]):
    services = sound(kube_pod("p", {**HOST_PORT, "hostIP": address})).services
    assert [place for one in services for place in places(one.frontends)] == expected


def test_a_port_at_one_address_leads_to_the_pods_address_of_that_family():
    both = kube_pod("p", {**HOST_PORT, "hostIP": "192.0.2.1"})
    both["status"]["podIPs"] = [{"ip": "10.0.0.9"}, {"ip": "fd00::9"}]
    (backends,) = sound(both).backends
    assert ends(backends.backends) == ["10.0.0.9:80/TCP  active"]
    found = sound(kube_redirect({"addressMatcher": DNS}), both).backends[1]
    assert ends(found.backends) == ["10.0.0.9:5353/UDP  active"]


@pytest.mark.parametrize(
    "change",
    [
        {"status": {"phase": "Pending", "podIP": "10.0.0.9"}},
        {"status": {"phase": "Succeeded", "podIP": "10.0.0.9"}},
        {"status": {}},
        {"metadata": {"name": "p", "namespace": "shop", "deletionTimestamp": "2026-01-01T00:00:00Z"}},
        {"spec": {"hostNetwork": True, "containers": [{"ports": [{**HOST_PORT}]}]}},
        {"spec": {"nodeName": "n2", "containers": [{"ports": [{**HOST_PORT}]}]}},
        {"spec": {"initContainers": [{"ports": [{**HOST_PORT}]}]}},
    ],
)
def test_ports_of_a_pod_that_does_not_run_here_are_not_served(change: Document):
    assert not sound({**kube_pod("p", HOST_PORT), **change}, here=Here("n1")).services


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ([{"containerPort": 80, "hostPort": 70000}], "ports[0].hostPort: expected an integer from 0 to 65535"),
        ([{"hostPort": 80}], "ports[0]: containerPort is missing"),
        ([{"containerPort": 80, "hostport": 80}], "ports[0].hostport: unknown field; did you mean 'hostPort'?"),
        ([{**HOST_PORT, "hostIP": "x"}], "ports[0].hostIP: 'x' is not an IP address"),
        ([{**HOST_PORT, "protocol": "x"}], "ports[0].protocol: unknown protocol 'x'"),
        ([HOST_PORT, HOST_PORT], "ports[1]: 0.0.0.0:8080/TCP stands there already"),
    ],
)
def test_what_is_wrong_with_a_port_is_told_with_its_place(ports: list[Document], expected: str):
    found = errors(kube_pod("p", *ports))
    assert found and all(expected in one for one in found), found


def test_what_is_not_served_of_a_pod_is_said():
    assert "30000 is one of the node ports 30000-32767" in notes(kube_pod("p", {**HOST_PORT, "hostPort": 30000}))[0]
    assert "a loopback address is not served" in notes(kube_pod("p", {**HOST_PORT, "hostIP": "::1"}))[0]
    assert "the pod does not run" in notes(kube_pod("p", HOST_PORT, status={}))[0]
    assert notes(kube_pod("p", {"containerPort": 80})) == []


def test_a_redirect_is_read():
    (found,) = read(kube_redirect({"addressMatcher": DNS}, skipRedirectFromBackend=True)).redirects
    assert (str(found.name), found.address, found.skip_backends) == ("shop/dns", "169.254.20.10", True)
    assert [str(one) for one in found.selector.requirements] == ["k8s:app=dns"]


@pytest.mark.parametrize(
    ("frontend", "backend", "expected", "backends"),
    [
        (
            {"addressMatcher": DNS},
            None,
            ["169.254.20.10:53/UDP LocalRedirect"],
            ["10.0.0.9:5353/UDP  active"],
        ),
        (
            {"serviceMatcher": {"serviceName": "web", "namespace": "shop"}},
            {"toPorts": [{"port": "8080", "protocol": "TCP"}]},
            ["10.96.0.1:80/TCP LocalRedirect", "10.96.0.1:443/TCP LocalRedirect"],
            ["10.0.0.9:8080/TCP  active"],
        ),
        (
            {"serviceMatcher": {"serviceName": "web", "toPorts": [{"port": "443"}]}},
            {"toPorts": [{"port": "8443"}]},
            ["10.96.0.1:443/TCP LocalRedirect"],
            ["10.0.0.9:8443/TCP  active"],
        ),
        (
            {"serviceMatcher": {"serviceName": "web"}},
            {"toPorts": [{"port": "8443", "name": "HTTPS"}, {"port": "99", "name": "other"}]},
            ["10.96.0.1:443/TCP LocalRedirect https"],
            ["10.0.0.9:8443/TCP https active", "10.0.0.9:99/TCP other active"],
        ),
        (
            {
                "addressMatcher": {
                    "ip": "fd00::a",
                    "toPorts": [{"port": "53", "name": "a"}, {"port": "54", "name": "b"}],
                }
            },
            {"toPorts": [{"port": "1", "name": "b"}, {"port": "2", "name": "a"}]},
            ["[fd00::a]:53/TCP LocalRedirect a", "[fd00::a]:54/TCP LocalRedirect b"],
            ["[fd00::9]:1/TCP b active", "[fd00::9]:2/TCP a active"],
        ),
    ],
)
def test_a_redirect_leads_to_the_pods_of_this_node(
    frontend: Document, backend: Document | None, expected: list[str], backends: list[str]
):
    if backend is not None:
        backend = {"localEndpointSelector": {"matchLabels": {"app": "dns"}}, **backend}
    service = kube_service(ports=[{"name": "http", "port": 80}, {"name": "https", "port": 443}])
    pod = kube_pod(address="fd00::9" if "fd00::a" in str(frontend) else "10.0.0.9")
    found = sound(kube_redirect(frontend, backend), service, pod, here=Here("n1"))
    (redirect,) = (one for one in found.services if one.name.name == "dns:local-redirect")
    assert places(redirect.frontends) == expected
    (held,) = (one for one in found.backends if one.service == redirect.name)
    assert ends(held.backends) == backends


@pytest.mark.parametrize(
    "pod",
    [
        kube_pod(node="n2"),
        kube_pod(metadata={"name": "p", "namespace": "other", "labels": {"app": "dns"}}),
        kube_pod(metadata={"name": "p", "namespace": "shop", "labels": {"app": "web"}}),
        kube_pod(
            status={"phase": "Running", "podIP": "10.0.0.9", "conditions": [{"type": "Ready", "status": "False"}]}
        ),
        kube_pod(address="fd00::9"),
    ],
)
def test_a_redirect_without_pods_redirects_nothing(pod: Document):
    found = sound(kube_redirect({"addressMatcher": DNS}), pod, here=Here("n1"))
    assert [one.frontends for one in found.services] == [()]
    assert found.notes[0].message.endswith("nothing is redirected")


ANY_POD: Document = {"localEndpointSelector": {}}


@pytest.mark.parametrize(
    ("frontend", "backend", "expected"),
    [
        ({}, None, "spec.redirectFrontend: write one of addressMatcher, serviceMatcher"),
        ({"addressMatcher": DNS, "serviceMatcher": {}}, None, "spec.redirectFrontend: write one of"),
        ({"addressMatcher": {**DNS, "ip": "x"}}, None, "addressMatcher.ip: 'x' is not an IP address"),
        ({"addressMatcher": {"toPorts": DNS["toPorts"]}}, None, "addressMatcher: ip is missing"),
        ({"addressMatcher": {"ip": "10.0.0.1"}}, None, "addressMatcher: toPorts is missing"),
        (
            {"addressMatcher": {**DNS, "toPorts": [{"port": 53}]}},
            None,
            'toPorts[0].port: expected a string, got number 53; write "53"',
        ),
        (
            {"addressMatcher": {**DNS, "toPorts": [{"port": "0", "protocol": "UDP"}]}},
            None,
            "toPorts[0].port: '0' is not a port",
        ),
        (
            {"addressMatcher": {**DNS, "toPorts": [{"port": "53"}]}},
            None,
            "toPorts: its protocol is UDP, and that of the redirected",
        ),
        (
            {"addressMatcher": {**DNS, "toPorts": [{"port": "53", "protocol": "udp"}]}},
            None,
            "protocol: unknown value 'udp'; did you",
        ),
        (
            {"serviceMatcher": {"serviceName": "web", "namespace": "x"}},
            None,
            "namespace: a redirect takes services of its own",
        ),
        ({"serviceMatcher": {"namespace": "shop"}}, None, "serviceMatcher: serviceName is missing"),
        (
            {"addressMatcher": DNS},
            {"toPorts": []},
            "spec.redirectBackend: localEndpointSelector and toPorts are wanted",
        ),
        ({"addressMatcher": DNS}, {**ANY_POD, "toPorts": []}, "spec.redirectBackend.toPorts: empty"),
        (
            {"addressMatcher": DNS},
            {**ANY_POD, "toPort": []},
            "spec.redirectBackend.toPort: unknown field; did you mean 'toPorts'?",
        ),
        (
            {"serviceMatcher": {"serviceName": "web"}},
            {**ANY_POD, "toPorts": [{"port": "1"}, {"port": "2", "name": "b"}]},
            "spec.redirectBackend.toPorts[0]: name is missing",
        ),
        (
            {
                "serviceMatcher": {
                    "serviceName": "web",
                    "toPorts": [{"port": "1", "name": "a"}, {"port": "2", "name": "b"}],
                }
            },
            {**ANY_POD, "toPorts": [{"port": "1", "name": "a"}]},
            "no TCP port is called 'b', as the redirected port 2 is",
        ),
        (
            {"addressMatcher": DNS},
            {"localEndpointSelector": {"matchLabel": {}}, "toPorts": [{"port": "1", "protocol": "UDP"}]},
            "localEndpointSelector.matchLabel: unknown field; did you mean 'matchLabels'?",
        ),
    ],
)
def test_what_is_wrong_with_a_redirect_is_told_with_its_place(
    frontend: Document, backend: Document | None, expected: str
):
    found = errors(kube_redirect(frontend, backend))
    assert any(expected in one for one in found), found
