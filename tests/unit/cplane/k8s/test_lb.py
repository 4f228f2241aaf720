"""Manifests for the load balancer as a whole: kinds, versions, and that nothing but an error comes of nonsense."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.domain.service import wrong_backends, wrong_services
from cplane.k8s.lb import read_lb
from cplane.k8s.lb_reading import Here
from cplane.k8s.objects import Source, read_objects
from tests.support.balanced import (
    Document,
    errors,
    kube_pod,
    kube_redirect,
    kube_service,
    kube_slice,
    read,
    sound,
)
from tests.support.effort import examples

YAML = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  ports:
  - {name: http, port: 80, targetPort: http}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: shop
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
ports:
- {name: http, port: 8080}
endpoints:
- {addresses: [10.0.0.1], conditions: {ready: true}}
- addresses: [10.0.0.300]
"""


def test_errors_name_file_document_and_field():
    objects, _ = read_objects([Source("web.yaml", YAML.encode())])
    (told,) = read_lb(objects).errors
    assert str(told) == "web.yaml, document 2, endpoints[1].addresses[0]: '10.0.0.300' is not an IP address"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"kind": None}, "kind: missing: write one of Node, Service"),
        ({"kind": "Servce"}, "kind: unknown kind; did you mean 'Service'?"),
        ({"apiVersion": None}, "apiVersion: this version is not known: write v1"),
        ({"apiVersion": "v2"}, "apiVersion: this version is not known: write v1"),
        ({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1beta1"}, "write discovery.k8s.io/v1"),
        ({"metadata": {}}, "metadata.name: missing: a Service needs a name"),
        ({"metadata": {"name": "a", "label": {}}}, "metadata.label: unknown field; did you mean 'labels'?"),
    ],
)
def test_an_object_says_what_it_is(change: Document, expected: str):
    (told,) = errors({**kube_service(), **change})
    assert expected in told


def test_what_means_nothing_here_is_counted():
    others = [
        {"apiVersion": "serving.example/v1", "kind": "Service", "metadata": {"name": "a"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}},
    ]
    assert sound(*others).ignored == {"Service (serving.example/v1)": 1, "ConfigMap": 1, "Secret": 1}


def test_two_objects_of_one_name_are_refused():
    assert errors(kube_service(), kube_service()) == [
        "items[1].metadata.name: Service shop/web stands in x.json, document 1, items[0] already: keep one of them"
    ]


def test_the_order_of_documents_does_not_matter():
    documents = [
        kube_service(publishNotReadyAddresses=True),
        kube_slice({"addresses": ["10.0.0.1"], "conditions": {"ready": False}}),
        kube_pod(),
        kube_redirect(
            {"serviceMatcher": {"serviceName": "web"}}, {"localEndpointSelector": {}, "toPorts": [{"port": "1"}]}
        ),
    ]
    found, other = sound(*documents), sound(*documents[::-1])
    assert (found.services, found.backends, found.redirects) == (other.services, other.backends, other.redirects)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 70_000)
    | st.text(max_size=4)
    | st.sampled_from(["10.0.0.7", "fd00::7"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
KINDS = (
    kube_service(
        type="LoadBalancer",
        ports=[{"name": "http", "port": 80, "nodePort": 30080, "targetPort": "http"}],
        externalIPs=["192.0.2.1"],
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 5}},
        loadBalancerSourceRanges=["10.0.0.0/8"],
        status={"loadBalancer": {"ingress": [{"ip": "192.0.2.2", "ipMode": "VIP"}]}},
        annotations={"service.cilium.io/lb-algorithm": "maglev", "service.cilium.io/node-selector": "a=b"},
    ),
    kube_slice(
        {
            "addresses": ["10.0.0.1"],
            "conditions": {"ready": True},
            "nodeName": "n1",
            "hints": {"forZones": [{"name": "a"}]},
        },
        metadata={
            "name": "web-1",
            "labels": {"kubernetes.io/service-name": "web"},
            "annotations": {"service.cilium.io/weight": "7"},
        },
    ),
    {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "web"},
        "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}],
    },
    kube_pod("p", {"containerPort": 80, "hostPort": 8080, "hostIP": "192.0.2.1"}),
    kube_redirect(
        {"addressMatcher": {"ip": "10.0.0.1", "toPorts": [{"port": "53", "protocol": "UDP", "name": "dns"}]}}
    ),
    kube_redirect({"serviceMatcher": {"serviceName": "web", "namespace": "shop", "toPorts": []}}),
)


@pytest.mark.slow
@given(kind=st.sampled_from(KINDS), chance=st.randoms(use_true_random=False), value=JSON)
@settings(max_examples=examples(1000), deadline=None)
def test_whatever_stands_in_a_manifest_is_read_or_refused(kind: Document, chance, value: object):
    document = json.loads(json.dumps(kind))
    holder, step = document, chance.choice(sorted(document))
    while chance.random() < 0.85 and isinstance(holder[step], dict | list) and holder[step]:
        holder = holder[step]
        step = chance.choice(sorted(holder) if isinstance(holder, dict) else range(len(holder)))
    if isinstance(holder, dict) and chance.random() < 0.2:
        step = f"{step}x"
    holder[step] = value
    found = read(document, kube_pod(), here=Here(labels={"a": "b"}))
    if not found.errors:
        assert list(wrong_services(tuple(found.services))) == []
        assert list(wrong_backends(tuple(found.backends))) == []
