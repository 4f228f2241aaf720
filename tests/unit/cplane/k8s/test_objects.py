"""Texts become objects with places; manifests become pods, nodes and services, or errors with places."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.domain.ports import NamedPort, Protocol
from cplane.k8s.coverage import Coverage
from cplane.k8s.manifests import read_manifests
from cplane.k8s.objects import Finding, Source, read_objects
from cplane.k8s.scene import Scene
from tests.support.builders import cnp
from tests.support.effort import examples
from tests.support.scenes import endpoint_slice, manifests, node, pod, service


def read(text, name="a.yaml"):
    return read_objects([Source(name, text.encode())])


def test_documents_and_items_of_lists_are_objects_with_their_places():
    objects, wrong = read(
        "{apiVersion: v1, kind: Pod, metadata: {name: a}}\n---\n"
        "{apiVersion: v1, kind: PodList, items: [{metadata: {name: b}}, {kind: Node, metadata: {name: c}}]}"
    )
    assert wrong == ()
    assert [(one.document, one.path, str(one)) for one in objects] == [
        (1, "", "Pod default/a"),
        (2, "items[0]", "Pod default/b"),
        (2, "items[1]", "Node c"),
    ]


def test_a_place_in_an_item_is_one_in_the_text():
    objects, _ = read("{apiVersion: v1, kind: List, items: [{kind: Pod}]}")
    assert str(objects[0].finding("spec", "wrong")) == "a.yaml, document 1, items[0].spec: wrong"
    assert str(objects[0].finding("", "wrong")) == "a.yaml, document 1, items[0]: wrong"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("just text", "a.yaml, document 1: an object is wanted"),
        ("[{kind: Pod}]", "a.yaml, document 1: an object is wanted, not a list of them: write `---`"),
        ("{kind: List, items: [1]}", "a.yaml, document 1, items[0]: an object is wanted"),
        ("a: [", "a.yaml, document 1"),
    ],
)
def test_what_holds_no_object_is_told(text, place):
    _, (wrong,) = read(text)
    assert str(wrong).startswith(place)


@pytest.mark.parametrize("text", ["{endpointSelector: {}, egress: []}", "- {nodeSelector: {}, ingressDeny: [{}]}"])
def test_rules_without_an_object_are_not_passed_over(text):
    objects, (wrong,) = read(text)
    assert objects == ()
    assert wrong.parts() == (
        "rules without an object around them",
        "write each under spec of a CiliumNetworkPolicy, with apiVersion, kind and metadata",
    )


@pytest.mark.parametrize("text", ["{nodeSelector: {}, ingress: {enabled: true}}", "{endpointSelector: {}}", "[1, {}]"])
def test_values_for_a_chart_are_no_rules(text):
    objects, wrong = read(text)
    assert ([one.kind_text for one in objects], wrong) == (["not of Kubernetes"], ())


def test_lists_within_lists_are_read_and_an_empty_one_is_nothing():
    objects, wrong = read("{kind: List, items: [{kind: List, items: null}, {kind: PodList, items: [{}, 1]}]}")
    assert [(one.path, one.kind) for one in objects] == [("items[1].items[0]", "Pod")]
    assert [one.path for one in wrong] == ["items[1].items[1]"]


@pytest.mark.parametrize(
    ("field", "path", "mark"),
    [
        ({"metadata": {"name": "{{ .Release.Name }}-x"}}, "metadata.name", "{{ .Release.Name }}"),
        ({"metadata": {"name": "a", "namespace": "${NS}"}}, "metadata.namespace", "${NS}"),
        ({"kind": "CiliumNetworkPolicy", "spec": {"egress": ["{% x %}"]}}, "spec.egress[0]", "{% x %}"),
        ({"spec": {"{{ .key }}": 1}}, 'spec."{{ .key }}"', "{{ .key }}"),
    ],
)
def test_what_is_left_of_a_template_is_the_one_thing_that_is_wrong_with_a_policy(field, path, mark):
    (wrong,) = manifests({**cnp(ingress=[{}]), **field}).errors
    assert (wrong.path, wrong.parts()) == (
        f"items[0].{path}",
        (f"{mark} looks like part of a template", "render it first, for example with `helm template`"),
    )


def test_texts_of_policies_in_which_anything_may_stand_may_look_like_a_template():
    document = cnp(ingress=[], egress=[{}], description="{{ a }}")
    document["metadata"]["annotations"] = {"a": "${B}"}
    http = {"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"path": "/{{id}}"}]}}
    document["spec"]["ingress"] = [{"toPorts": [http]}]
    assert manifests(document).errors == []


def test_one_bad_text_does_not_hide_the_others():
    objects, wrong = read_objects([Source("bad", b"\xff"), Source("good", b"{kind: Pod, metadata: {name: a}}")])
    assert [one.file for one in objects] == ["good"]
    assert [one.file for one in wrong] == ["bad"]


def test_a_list_of_something_else_is_nothing_of_kubernetes():
    objects, wrong = read("- {from: a, to: b, expect: allow}")
    assert wrong == ()
    assert read_manifests(objects, cluster="c1").ignored == {"not of Kubernetes": 1}


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ("unknown field; did you mean 'toPorts'?", ("unknown field", "did you mean 'toPorts'?")),
        ("port is missing: write a number", ("port is missing", "write a number")),
        ("nothing can be done", ("nothing can be done", "")),
    ],
)
def test_a_message_says_what_to_do_after_what_is_wrong(message, parts):
    assert Finding("f", 1, "p", message).parts() == parts


def test_a_pod_has_its_labels_account_node_addresses_and_named_ports():
    document = pod("shop/web", "10.0.0.1", nodeName="n1", serviceAccountName="luke")
    document["status"]["podIPs"] = [{"ip": "10.0.0.1"}, {"ip": "FD00:0::1"}]
    document["spec"]["containers"] = [
        {"ports": [{"name": "HTTP", "containerPort": 80}, {"containerPort": 81}]},
        {"ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
    ]
    document["spec"]["initContainers"] = [
        {"ports": [{"name": "once", "containerPort": 1}]},
        {"restartPolicy": "Always", "ports": [{"name": "sidecar", "containerPort": 2}]},
    ]
    found = manifests(document).pods["shop", "web"]
    assert (found.labels, found.service_account, found.node) == ({"app": "web"}, "luke", "n1")
    assert found.addresses == ("10.0.0.1", "fd00::1")
    assert found.ports == {
        (NamedPort(Protocol.TCP, "http"), 80),
        (NamedPort(Protocol.UDP, "dns"), 53),
        (NamedPort(Protocol.TCP, "sidecar"), 2),
    }


def test_a_pod_that_has_ended_has_no_address():
    document = pod("shop/job", "10.0.0.1")
    document["status"]["phase"] = "Succeeded"
    found = manifests(document).pods["shop", "job"]
    assert (found.ended, found.addresses, found.service_account) == (True, (), "default")


@pytest.mark.parametrize(
    ("kind", "version", "spec"),
    [
        ("Deployment", "apps/v1", {"template": {"metadata": {"labels": {"app": "x"}}, "spec": {}}}),
        ("Job", "batch/v1", {"template": {"metadata": {"labels": {"app": "x"}}, "spec": {}}}),
        (
            "CronJob",
            "batch/v1",
            {"jobTemplate": {"spec": {"template": {"metadata": {"labels": {"app": "x"}}, "spec": {}}}}},
        ),
    ],
)
def test_a_workload_is_a_pod_unless_its_pods_are_there(kind, version, spec):
    document = {"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": "shop"}, "spec": spec}
    found = manifests(document).pods
    assert found["shop", "x"].workload == kind
    beside = manifests(document, pod("shop/x-123", labels={"app": "x", "hash": "1"})).pods
    assert set(beside) == {("shop", "x-123")}


def test_a_workload_that_another_made_is_left_out():
    made = {"template": {"metadata": {"labels": {"app": "x"}}, "spec": {}}}
    metadata = {"name": "x-1", "namespace": "shop", "ownerReferences": [{"kind": "Deployment", "controller": True}]}
    document = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata, "spec": made}
    assert manifests(document).pods == {}


def test_a_service_has_ports_with_targets_and_addresses():
    found = manifests(
        service("shop/a", {"name": "web", "port": 80, "targetPort": "HTTP"}, {"port": 53, "protocol": "UDP"}),
        service("shop/b", {"port": 80, "targetPort": "8080"}, clusterIP="None"),
        service("shop/c", type="ExternalName", externalName="c.example", selector=None),
    ).services
    assert [(str(one), one.target) for one in found["shop", "a"].ports] == [("web=80/TCP", "http"), ("53/UDP", 53)]
    assert found["shop", "b"].headless
    assert found["shop", "b"].ports[0].target == 8080
    assert found["shop", "c"].external_name == "c.example"


def test_endpoints_that_are_not_ready_are_left_out():
    port = [{"name": "", "port": 80}]
    ready, not_ready = (endpoint_slice("shop/a", "10.0.0.1", ports=port, ready=ready) for ready in (True, False))
    assert [len(one.endpoints) for one in manifests(ready).slices + manifests(not_ready).slices] == [1, 0]


def test_a_node_that_is_marked_serves_the_api():
    found = manifests(node("a", "192.0.2.1", **{"node_role.kubernetes.io__control_plane": ""}), node("b")).nodes
    assert [found[name].apiserver for name in "ab"] == [True, False]
    assert found["a"].addresses == ("192.0.2.1",)


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (pod("shop/web", "10.0.0.300"), "status.podIP: '10.0.0.300' is not an IP address"),
        (pod("shop/web", "fe80::1%eth0"), "status.podIP: 'fe80::1%eth0' has a zone"),
        (pod("shop/web", labels={"app": 1}), 'metadata.labels.app: expected a string, got number 1; write "1"'),
        (pod("shop/web", containers=[{"ports": [{"name": "x", "containerPort": 0}]}]), "expected an integer"),
        (pod("shop/web", containers=[{"ports": [{"name": "x", "containerPort": 1, "protocol": "tcp"}]}]), "mean 'TCP'"),
        (pod("shop/web", hostNetwork="yes"), "spec.hostNetwork: expected true or false"),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {}}, "metadata.name: missing: a Pod needs a name"),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": []}, "spec: expected an object"),
        ({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}}, "spec.template is missing"),
        ({"metadata": {"name": "a"}, "spec": {}}, "kind is missing"),
        ({**cnp(ingress=[{}]), "kind": "CiliumNetworkPolcy"}, "did you mean 'CiliumNetworkPolicy'?"),
        ({**cnp(ingress=[{}]), "apiVersion": "cilium.io/v1"}, "write cilium.io/v2"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_told_with_its_place(document, error):
    found = manifests(document).errors
    assert any(error in str(one) for one in found), [str(one) for one in found]


def test_two_objects_of_one_name_are_refused():
    found = manifests(pod("shop/web"), pod("shop/web")).errors
    told = "Pod shop/web stands in x.json, document 1, items[0] already: keep one of them"
    assert [str(one) for one in found] == [f"x.json, document 1, items[1].metadata.name: {told}"]


def test_kinds_that_mean_nothing_are_counted():
    others = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}},
        {"apiVersion": "serving.example/v1", "kind": "Service", "metadata": {"name": "a"}},
        {"replicas": 3},
    ]
    assert manifests(*others).ignored == {"ConfigMap": 2, "Service (serving.example/v1)": 1, "not of Kubernetes": 1}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}}
    assert not manifests(account).ignored


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
        ("crd.projectcalico.org/v1", "GlobalNetworkPolicy"),
        ("projectcalico.org/v3", "NetworkPolicy"),
        ("crd.antrea.io/v1beta1", "NetworkPolicy"),
    ],
)
def test_policies_of_other_apis_are_left_out_and_named(version, kind):
    found = manifests({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}})
    assert found.ignored == {f"{kind} ({version})": 1}
    (one,) = found.foreign
    assert one.path == "items[0].kind"
    assert one.message.startswith(f"{kind} ({version}) is not among the policies that are read here")


@pytest.mark.parametrize("version", ["", "v1", "extensions/v1beta1", "networking.k8s/v1", "cilium.io/v2"])
def test_a_network_policy_of_an_unknown_version_is_refused(version):
    found = manifests({"apiVersion": version, "kind": "NetworkPolicy", "metadata": {"name": "a"}})
    assert (found.errors[0].path, found.foreign) == ("items[0].apiVersion", [])


@pytest.mark.parametrize("kind", ["CiliumNetworkPolicies", "NetworkPolicies", "networkpolicy", "CiliumCIDRGroups"])
def test_kinds_with_a_slip_in_them_are_refused(kind):
    found = manifests({"apiVersion": "cilium.io/v2", "kind": kind, "metadata": {"name": "a"}})
    assert found.errors[0].path == "items[0].kind"
    assert "did you mean" in found.errors[0].message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 70_000) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
KINDS = (
    node("a", "192.0.2.1", pool="x"),
    pod("shop/a", "10.0.0.1", ports={"http": 80}, nodeName="n"),
    service("shop/a", {"port": 80, "targetPort": "http"}, clusterIP="10.96.0.1"),
    endpoint_slice("shop/a", "10.0.0.1", ports=[{"port": 80}]),
    cnp(ingress=[{"fromCIDR": ["10.0.0.0/8"]}]),
)


@pytest.mark.slow
@given(kind=st.sampled_from(KINDS), chance=st.randoms(use_true_random=False), value=JSON)
@settings(max_examples=examples(400), deadline=None)
def test_whatever_stands_in_a_manifest_is_read_or_refused(kind, chance, value):
    document = json.loads(json.dumps(kind))
    holder, step = document, chance.choice(sorted(document))
    while chance.random() < 0.8 and isinstance(holder[step], dict | list) and holder[step]:
        holder = holder[step]
        step = chance.choice(sorted(holder) if isinstance(holder, dict) else range(len(holder)))
    holder[step] = value
    found = manifests(document)
    if not found.errors:
        Coverage(Scene(found, cluster="c1"))
