"""Services: where they are reached, how they are served, and what is refused with its place."""

import pytest

from cplane.domain.service import Algorithm, Forwarding, Service
from cplane.k8s.lb_reading import Here
from tests.support.balanced import HTTP, Document, errors, kube_service, notes, places, sound

DUAL = {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"]}
NODE_PORT = {"type": "NodePort", "ports": [{**HTTP, "nodePort": 30080}]}
BALANCED = {"type": "LoadBalancer", "ports": [{**HTTP, "nodePort": 30080}]}


def balanced(*ingress: Document) -> Document:
    return {"loadBalancer": {"ingress": list(ingress)}}


def one(**fields: object) -> Service:
    (found,) = sound(kube_service(**fields)).services
    return found


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ["10.96.0.1:80/TCP ClusterIP http"]),
        ({"ports": [{"port": 53, "protocol": "UDP"}]}, ["10.96.0.1:53/UDP ClusterIP"]),
        ({"ports": [{"port": 53, "protocol": "SCTP", "targetPort": "dns"}]}, ["10.96.0.1:53/SCTP ClusterIP"]),
        (
            {"ports": [HTTP, {"name": "https", "port": 443, "targetPort": 8443, "appProtocol": "https"}]},
            ["10.96.0.1:80/TCP ClusterIP http", "10.96.0.1:443/TCP ClusterIP https"],
        ),
        (DUAL, ["10.96.0.1:80/TCP ClusterIP http", "[fd00::1]:80/TCP ClusterIP http"]),
        ({"clusterIP": None, "clusterIPs": ["FD00:0::1"]}, ["[fd00::1]:80/TCP ClusterIP http"]),
        ({"clusterIP": "None"}, []),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, []),
        ({"clusterIP": None, "type": "ExternalName", "externalName": "a.example", "ports": None}, []),
        (NODE_PORT, ["10.96.0.1:80/TCP ClusterIP http", "0.0.0.0:30080/TCP NodePort http"]),
        (
            {**NODE_PORT, **DUAL},
            [
                "10.96.0.1:80/TCP ClusterIP http",
                "[fd00::1]:80/TCP ClusterIP http",
                "0.0.0.0:30080/TCP NodePort http",
                "[::]:30080/TCP NodePort http",
            ],
        ),
        ({**NODE_PORT, "clusterIP": "fd00::1"}, ["[fd00::1]:80/TCP ClusterIP http", "[::]:30080/TCP NodePort http"]),
        (
            {"externalIPs": ["192.0.2.1", "10.96.0.1"]},
            ["10.96.0.1:80/TCP ClusterIP http", "192.0.2.1:80/TCP ExternalIPs http"],
        ),
        (
            {**BALANCED, "status": balanced({"ip": "192.0.2.9"}, {"hostname": "lb.example"})},
            [
                "10.96.0.1:80/TCP ClusterIP http",
                "0.0.0.0:30080/TCP NodePort http",
                "192.0.2.9:80/TCP LoadBalancer http",
            ],
        ),
        (
            {
                "type": "LoadBalancer",
                "allocateLoadBalancerNodePorts": False,
                "status": balanced({"ip": "192.0.2.8", "ipMode": "Proxy"}, {"ip": "192.0.2.9", "ipMode": "VIP"}),
            },
            ["10.96.0.1:80/TCP ClusterIP http", "192.0.2.9:80/TCP LoadBalancer http"],
        ),
        (
            {
                **BALANCED,
                "status": balanced({"ip": "192.0.2.9"}),
                "annotations": {"service.cilium.io/type": "LoadBalancer"},
            },
            ["192.0.2.9:80/TCP LoadBalancer http"],
        ),
        (
            {**NODE_PORT, "annotations": {"service.cilium.io/type": "NodePort"}},
            ["0.0.0.0:30080/TCP NodePort http"],
        ),
    ],
)
def test_a_service_is_reached_where_it_says(fields: Document, expected: list[str]):
    assert places(one(**fields).frontends) == expected


def test_a_label_makes_a_service_headless():
    document = kube_service()
    document["metadata"]["labels"]["service.kubernetes.io/headless"] = ""
    assert sound(document).services[0].frontends == ()


def test_a_service_has_its_labels_and_selector():
    found = one(selector={"app": "web", "a": "b"})
    assert (str(found.name), found.labels, found.selector) == ("shop/web", ("tier=front",), ("a=b", "app=web"))


@pytest.mark.parametrize(
    ("fields", "field", "value"),
    [
        ({}, "affinity_s", 0),
        ({"sessionAffinity": "ClientIP"}, "affinity_s", 10_800),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}}},
            "affinity_s",
            7,
        ),
        ({"externalTrafficPolicy": "Local"}, "external_local", True),
        ({"internalTrafficPolicy": "Local"}, "internal_local", True),
        ({**BALANCED, "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}, "health_check_port", 32000),
        (
            {**BALANCED, "loadBalancerSourceRanges": ["10.1.2.3/8", " fd00::/16"]},
            "source_ranges",
            ("10.0.0.0/8", "fd00::/16"),
        ),
        ({"annotations": {"service.cilium.io/lb-algorithm": "Maglev"}}, "algorithm", Algorithm.MAGLEV),
        ({"annotations": {"service.cilium.io/forwarding-mode": "dsr"}}, "forwarding", Forwarding.DSR),
        ({"annotations": {"service.cilium.io/src-ranges-policy": "deny"}}, "ranges_deny", True),
        ({"annotations": {"service.cilium.io/src-ranges-policy": "allow"}}, "ranges_deny", False),
        (
            {
                **BALANCED,
                "annotations": {"service.beta.kubernetes.io/load-balancer-source-ranges": "10.0.0.0/8, 192.0.2.0/24"},
            },
            "source_ranges",
            ("10.0.0.0/8", "192.0.2.0/24"),
        ),
        ({"trafficDistribution": "PreferClose"}, "topology", True),
        ({"trafficDistribution": "PreferSameZone"}, "topology", True),
        ({"trafficDistribution": "PreferClose", "internalTrafficPolicy": "Local"}, "topology", False),
        ({"annotations": {"service.kubernetes.io/topology-mode": "Auto"}}, "topology", True),
        ({"annotations": {"service.cplane.io/health-path": "/healthz?a=%20"}}, "health_path", "/healthz?a=%20"),
        ({"annotations": {"service.kubernetes.io/topology-aware-hints": "disabled"}}, "topology", False),
    ],
)
def test_a_service_is_served_as_it_says(fields: Document, field: str, value: object):
    assert getattr(one(**fields), field) == value


@pytest.mark.parametrize(
    ("annotations", "labels", "served"),
    [
        ({"service.cilium.io/node": "edge"}, {"service.cilium.io/node": "edge"}, True),
        ({"service.cilium.io/node": "edge"}, {"service.cilium.io/node": "core"}, False),
        ({"service.cilium.io/node": "edge"}, {}, False),
        ({"service.cilium.io/node": "edge"}, None, False),
        ({"service.cilium.io/node-selector": "pool in (a,b),!old"}, {"pool": "a"}, True),
        ({"service.cilium.io/node-selector": "pool in (a,b),!old"}, {"pool": "a", "old": ""}, False),
        (
            {"service.cilium.io/node-selector": "x", "service.cilium.io/node": "edge"},
            {"service.cilium.io/node": "edge"},
            False,
        ),
    ],
)
def test_a_service_is_on_the_nodes_that_it_names(annotations: Document, labels: dict[str, str] | None, served: bool):
    (found,) = sound(kube_service(annotations=annotations), here=Here(labels=labels)).services
    assert bool(found.frontends) is served


def test_the_labels_of_the_node_are_those_of_its_manifest():
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"pool": "a"}}}
    service = kube_service(annotations={"service.cilium.io/node-selector": "pool=a"})
    assert sound(service, node, here=Here("n1")).services[0].frontends
    assert not sound(service, node, here=Here("n2")).services[0].frontends


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ports": [{"port": 0}]}, "spec.ports[0].port: expected an integer from 1 to 65535, got number 0"),
        ({"ports": [{"port": 65_536}]}, "spec.ports[0].port: expected an integer from 1 to 65535, got number 65536"),
        ({"ports": [{"port": "80"}]}, "spec.ports[0].port: expected an integer from 1 to 65535, got string '80'"),
        ({"ports": [{"name": "a"}]}, "spec.ports[0]: port is missing: write a number from 1 to 65535"),
        (
            {"ports": [{"port": 1, "protocol": "tcp"}]},
            "spec.ports[0].protocol: unknown protocol 'tcp'; did you mean 'TCP'?",
        ),
        ({"ports": [{"port": 1, "protocol": "ICMP"}]}, "spec.ports[0].protocol: unknown protocol 'ICMP'"),
        ({"ports": [{"port": 1, "targetPort": 0}]}, "spec.ports[0].targetPort: expected an integer"),
        ({"ports": [{"port": 1, "targetPort": "70000"}]}, "spec.ports[0].targetPort: '70000' is neither a port"),
        (
            {"ports": [{"port": 1, "targetport": 80}]},
            "spec.ports[0].targetport: unknown field; did you mean 'targetPort'?",
        ),
        ({"ports": [HTTP, {"port": 81}]}, "spec.ports[1]: name is missing"),
        ({"ports": [HTTP, {"name": "http", "port": 81}]}, "spec.ports[1].name: a port 'http' stands there already"),
        ({"ports": [HTTP, {"name": "b", "port": 80}]}, "spec.ports[1].port: port 80 stands there already"),
        ({"ports": [{**HTTP, "nodePort": 30080}]}, "spec.ports[0].nodePort: a ClusterIP has no node ports"),
        (
            {"type": "NodePort", "ports": [{**HTTP, "nodePort": 80}]},
            "spec.ports[0].nodePort: 80 is not one of the node ports",
        ),
        (
            {"type": "NodePort", "ports": [{**HTTP, "nodePort": 30000}, {"name": "b", "port": 81, "nodePort": 30000}]},
            "spec.ports[1].nodePort: nodePort 30000 stands there already",
        ),
        ({"clusterIP": "10.96.0.300"}, "spec.clusterIP: '10.96.0.300' is not an IP address"),
        ({"clusterIP": "127.0.0.1"}, "spec.clusterIP: 127.0.0.1 is loopback, link-local, multicast or unspecified"),
        ({"clusterIP": 10}, "spec.clusterIP: expected a string, got number 10"),
        ({"clusterIPs": ["10.96.0.2"]}, "spec.clusterIP: clusterIPs begins with 10.96.0.2"),
        ({"clusterIPs": ["10.96.0.1", "10.96.0.2"]}, "spec.clusterIPs: two addresses of one family"),
        ({"clusterIPs": ["10.96.0.1", "10.96.0.1"]}, "spec.clusterIPs[1]: the address stands there already"),
        ({"ipFamilies": ["IPv6"]}, "spec.clusterIP: 10.96.0.1 is IPv4, which is not among ipFamilies"),
        ({**DUAL, "ipFamilies": ["IPv4"]}, "spec.clusterIPs[1]: fd00::1 is IPv6, which is not among ipFamilies"),
        ({"ipFamilies": ["IPv4"], "externalIPs": ["fd00::9"]}, "spec.externalIPs[0]: fd00::9 is IPv6"),
        ({"ipFamilies": ["IPv4", "IPv4"]}, "spec.ipFamilies[1]: the family stands there already"),
        ({"ipFamilyPolicy": "DualStack"}, "spec.ipFamilyPolicy: unknown value 'DualStack'"),
        ({**DUAL, "ipFamilyPolicy": "SingleStack"}, "spec.ipFamilyPolicy: it has two families, and SingleStack is for"),
        (
            {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "SingleStack"},
            "spec.ipFamilyPolicy: it has two families",
        ),
        ({"ipFamilies": ["ipv4"]}, "spec.ipFamilies[0]: unknown value 'ipv4'; did you mean 'IPv4'?"),
        (
            {"externalIPs": ["0.0.0.0"]},
            "spec.externalIPs[0]: 0.0.0.0 is loopback, link-local, multicast or unspecified",
        ),
        ({"externalIPs": ["fe80::1"]}, "spec.externalIPs[0]: fe80::1 is loopback"),
        ({"externalIPs": ["fe80::1%eth0"]}, "spec.externalIPs[0]: 'fe80::1%eth0' is not an IP address"),
        ({"externalIPs": "192.0.2.1"}, "spec.externalIPs: expected a list"),
        ({**BALANCED, "status": balanced({"ip": "x"})}, "status.loadBalancer.ingress[0].ip: 'x' is not an IP address"),
        (
            {**BALANCED, "status": balanced({"ip": "192.0.2.1", "ipMode": "vip"})},
            "status.loadBalancer.ingress[0].ipMode: unknown value",
        ),
        (
            {**BALANCED, "loadBalancerSourceRanges": ["10.0.0.0"]},
            "spec.loadBalancerSourceRanges[0]: '10.0.0.0' is not a prefix",
        ),
        (
            {**BALANCED, "loadBalancerSourceRanges": ["10.0.0.0/33"]},
            "spec.loadBalancerSourceRanges[0]: '10.0.0.0/33' is not a prefix: the prefix length 33 is more than 32;",
        ),
        ({**BALANCED, "loadBalancerSourceRanges": [1]}, "spec.loadBalancerSourceRanges[0]: expected a string"),
        ({"loadBalancerSourceRanges": ["10.0.0.0/8"]}, "spec.loadBalancerSourceRanges: only for type LoadBalancer"),
        ({"healthCheckNodePort": 32000}, "spec.healthCheckNodePort: only for type LoadBalancer with"),
        ({"sessionAffinity": "clientIP"}, "spec.sessionAffinity: unknown value 'clientIP'; did you mean 'ClientIP'?"),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}},
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: expected an integer from 1 to 86400, got number 0",
        ),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86_401}}},
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: expected an integer from 1 to 86400",
        ),
        (
            {"sessionAffinityConfig": {}},
            "spec.sessionAffinityConfig: without sessionAffinity: ClientIP it means nothing",
        ),
        ({"type": "Nodeport"}, "spec.type: unknown value 'Nodeport'; did you mean 'NodePort'?"),
        ({"externalTrafficPolicy": "local"}, "spec.externalTrafficPolicy: unknown value 'local'"),
        ({"selector": {"app": 1}}, 'spec.selector.app: expected a string, got number 1; write "1"'),
        ({"topologyKeys": ["*"]}, "spec.topologyKeys: removed from Kubernetes: write trafficDistribution"),
        ({"sesionAffinity": "None"}, "spec.sesionAffinity: unknown field; did you mean 'sessionAffinity'?"),
        (
            {"annotations": {"service.cilium.io/lb-algorithm": "fast"}},
            'metadata.annotations."service.cilium.io/lb-algorithm": unknown value',
        ),
        (
            {"annotations": {"service.cilium.io/lb-algoritm": "maglev"}},
            "unknown annotation; did you mean 'lb-algorithm'?",
        ),
        ({"annotations": {"service.cilium.io/type": "ExternalName"}}, "write ClusterIP, NodePort, LoadBalancer"),
        ({"annotations": {"service.cilium.io/node-selector": "a in b"}}, "'a in b' is not a label selector"),
        ({"annotations": {"service.beta.kubernetes.io/load-balancer-source-ranges": "x"}}, "'x' is not a prefix"),
        ({"annotations": {"service.cplane.io/health-path": "healthz"}}, "'healthz' is not a path of a URL"),
        ({"annotations": {"service.cplane.io/health-path": "/a b"}}, "'/a b' is not a path of a URL"),
        ({"annotations": {"service.cplane.io/health-path": "/" * 1025}}, "1025 characters are more than 1024"),
        ({"annotations": {"service.cplane.io/healthpath": "/a"}}, "did you mean 'service.cplane.io/health-path'?"),
        ({"annotations": {"a": 1}}, "metadata.annotations.a: expected a string"),
    ],
)
def test_what_is_wrong_with_a_service_is_told_with_its_place(fields: Document, expected: str):
    found = errors(kube_service(**fields))
    assert len(found) == 1 and expected in found[0], found


def test_a_service_needs_a_name_and_a_spec():
    assert errors({**kube_service(), "spec": None}) == ["items[0]: spec is missing: write at least spec.ports"]
    document = kube_service()
    document["metadata"]["name"] = "Web_1"
    assert "'Web_1' is not a name: lower-case letters" in errors(document)[0]


def test_all_errors_of_all_documents_are_told_at_once():
    first = kube_service(ports=[{"port": 0}, {"port": 0}], clusterIP="x")
    second = {**kube_service(type="x"), "metadata": {"name": "other"}}
    assert [one.partition(": ")[0] for one in errors(first, second)] == [
        "items[0].spec.clusterIP",
        "items[0].spec.ports[0].port",
        "items[0].spec.ports[0]",
        "items[0].spec.ports[1].port",
        "items[0].spec.ports[1]",
        "items[1].spec.type",
    ]


def test_the_range_of_node_ports_is_the_nodes():
    document = kube_service(type="NodePort", ports=[{**HTTP, "nodePort": 80}])
    assert (
        places(sound(document, here=Here(node_ports=(1, 100))).services[0].frontends)[1]
        == "0.0.0.0:80/TCP NodePort http"
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"clusterIP": None}, "it has no clusterIP"),
        ({"ports": None}, "it has no ports"),
        ({"type": "NodePort"}, "spec.ports: a port without nodePort"),
        (BALANCED, "spec.type: there is no status.loadBalancer.ingress with an ip to serve"),
        (
            {**BALANCED, "loadBalancerIP": "192.0.2.1", "status": balanced({"ip": "192.0.2.1"})},
            "spec.loadBalancerIP: a wish",
        ),
        (
            {"trafficDistribution": "PreferSameNode"},
            "spec.trafficDistribution: backends of the same zone are preferred",
        ),
        ({"ipFamilyPolicy": "RequireDualStack"}, "spec.ipFamilyPolicy: it has an address of one family only"),
        ({**DUAL, "ipFamilyPolicy": "RequireDualStack"}, None),
        ({"ipFamilyPolicy": "PreferDualStack"}, None),
        ({"trafficDistribution": "Other"}, "spec.trafficDistribution: 'Other' is not known here"),
        ({"annotations": {"service.cilium.io/global": "true"}}, "it is about several clusters"),
        ({"annotations": {"lbipam.cilium.io/ips": "192.0.2.1"}}, "addresses are not given here"),
        ({"annotations": {"service.cilium.io/node": "a"}}, "the labels of this node are not known"),
    ],
)
def test_what_is_not_served_is_said(fields: Document, expected: str | None):
    found = notes(kube_service(**fields))
    assert (expected is None and not found) or (len(found) == 1 and expected is not None and expected in found[0]), (
        found
    )


def test_addresses_that_a_load_balancer_was_given_and_that_cannot_be_served_hinder_nothing():
    """Whoever applies what `kubectl get` has printed cannot change a status."""
    given = balanced({"ip": "192.0.2.1"}, {"ip": "127.0.0.1"}, {"ip": "2001:db8::1"}, {"ip": "192.0.2.1"})
    document = kube_service(**{**BALANCED, "ipFamilies": ["IPv4"], "status": given})
    assert [one for one in places(sound(document).services[0].frontends) if "LoadBalancer" in one] == [
        "192.0.2.1:80/TCP LoadBalancer http"
    ]
    assert [one.partition("status.loadBalancer.")[2] for one in notes(document)] == [
        "ingress[1].ip: 127.0.0.1 is loopback, link-local, multicast or unspecified: not served",
        "ingress[2].ip: 2001:db8::1 is IPv6, which is not among ipFamilies: not served",
    ]
