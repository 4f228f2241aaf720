"""Who a pod is: namespace, name, labels and addresses out of everything a runtime can say."""

import pytest

from cplane.api.cni import request, wire

CONFIG = {"cniVersion": "1.0.0", "name": "net", "type": "cplane-cni"}
IMPLICIT = {
    "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=default",
    "k8s:io.cilium.k8s.policy.cluster=prod",
    "k8s:io.cilium.k8s.policy.serviceaccount=default",
    "k8s:io.kubernetes.pod.namespace=default",
}


def read(arguments: str = "", /, **config):
    environment = {
        "CNI_CONTAINERID": "0123456789abcdef",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": arguments,
    }
    return request.read({"verb": "ADD", "env": environment}, {**CONFIG, **config})


def pod(arguments: str = "", /, **config):
    return request.pod_of(read(arguments, **config), "prod")


def refusal(arguments: str = "", /, **config):
    with pytest.raises(wire.CniError) as caught:
        pod(arguments, **config)
    return caught.value


def ours(**section):
    return {"cplane": section}


def test_a_bare_container_is_a_pod_of_the_default_namespace():
    one = pod()
    assert (one.namespace, one.name, one.uid) == ("default", "0123456789ab", "")
    assert set(one.labels) == IMPLICIT


def test_a_kubernetes_pod_says_who_it_is():
    one = pod("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=u1;OTHER=x")
    assert (one.namespace, one.name, one.uid) == ("shop", "web-1", "u1")
    assert "k8s:io.kubernetes.pod.namespace=shop" in one.labels
    assert "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop" in one.labels


def test_our_section_comes_before_what_the_runtime_says():
    args = ours(namespace="shop", pod="web", podUid="u2", serviceAccount="shopper")
    one = pod("K8S_POD_NAMESPACE=podman;K8S_POD_NAME=podman;K8S_POD_UID=u1", args=args)
    assert (one.namespace, one.name, one.uid) == ("shop", "web", "u2")
    assert "k8s:io.cilium.k8s.policy.serviceaccount=shopper" in one.labels


def test_labels_are_kubernetes_labels_unless_they_name_another_source():
    args = ours(labels={"app": "web", "container:tier": "front", "example.com/team": "a"})
    assert set(pod("CPLANE_LABELS=env=prod,k8s:x=y,bare", args=args).labels) - IMPLICIT == {
        "k8s:app=web",
        "container:tier=front",
        "k8s:example.com/team=a",
        "k8s:env=prod",
        "k8s:x=y",
        "k8s:bare=",
    }


def test_namespace_labels_are_labels_of_the_pod_under_the_usual_prefix():
    one = pod(args=ours(namespace="shop", namespaceLabels={"team": "a"}))
    assert "k8s:io.cilium.k8s.namespace.labels.team=a" in one.labels


@pytest.mark.parametrize(
    "label",
    ["reserved:host", "cidr:10.0.0.0/8", "fqdn:x", "any:app", "io.kubernetes.pod.namespace", "a=b", "", "a;b"],
)
def test_labels_that_are_not_the_users_to_give_are_refused(label):
    error = refusal(args=ours(labels={label: "x"}))
    assert error.code == wire.INVALID_CONFIG
    assert "args.cplane.labels" in error.msg


def test_the_same_holds_for_labels_in_cni_args():
    assert refusal("CPLANE_LABELS=reserved:host=").code == wire.INVALID_CONFIG


def test_unknown_arguments_are_refused_unless_they_may_be_ignored():
    error = refusal("COLOUR=red")
    assert error.code == wire.INVALID_ENVIRONMENT
    assert "CNI_ARGS: COLOUR" in error.msg
    assert pod("COLOUR=red;IgnoreUnknown=true")
    assert refusal("nonsense").code == wire.INVALID_ENVIRONMENT


@pytest.mark.parametrize(
    "config",
    [
        {"args": ours(colour="red")},
        {"args": ours(labels=["app"])},
        {"args": ours(labels={"app": 1})},
        {"args": ours(labels={"app": None})},
        {"args": ["x"]},
        {"dns": {"nameservers": "10.0.0.1"}},
        {"runtimeConfig": {"ips": "10.0.0.1"}},
    ],
)
def test_sections_of_the_wrong_shape_are_refused(config):
    assert refusal(**config).code == wire.INVALID_CONFIG


def test_null_says_nothing_as_go_writes_it():
    nothing = dict.fromkeys(
        ("args", "dns", "runtimeConfig", "capabilities", "ipam", "mtu", "prevResult", "cniVersions")
    )
    assert read(**nothing).config == read().config


def test_an_earlier_result_is_read_by_check_alone_which_takes_null_for_nothing():
    environment = {"CNI_CONTAINERID": "a", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0"}
    of_others = {
        "interfaces": [{"name": "eth0", "mac": None, "sandbox": None}],
        "ips": [{"address": "10.0.0.1/32", "interface": None, "gateway": None}],
        "routes": [{"dst": "0.0.0.0/0", "gw": None}],
        "dns": None,
    }
    checked = request.read({"verb": "CHECK", "env": environment}, {**CONFIG, "prevResult": of_others}).config.previous
    assert [route.gw for route in checked.routes] == [""]
    deleted = request.read({"verb": "DEL", "env": environment}, {**CONFIG, "prevResult": {"ips": "of another form"}})
    assert deleted.config.previous is None


def test_addresses_can_be_asked_for_in_every_usual_way():
    for one in (
        pod("IP=10.9.0.7"),
        pod(args={"cni": {"ips": ["10.9.0.7"]}}),
        pod(runtimeConfig={"ips": ["10.9.0.7/24"]}),
    ):
        assert (one.requested_ipv4, one.requested_ipv6) == ("10.9.0.7", "")
    both = pod(runtimeConfig={"ips": ["fd09::7", "10.9.0.7"]})
    assert (both.requested_ipv4, both.requested_ipv6) == ("10.9.0.7", "fd09::7")


@pytest.mark.parametrize("ips", [["nonsense"], ["10.9.0.7", "10.9.0.8"]])
def test_addresses_that_cannot_be_meant_are_refused(ips):
    assert refusal(runtimeConfig={"ips": ips}).code == wire.INVALID_CONFIG


def test_ports_have_names_by_which_policies_may_call_them():
    args = ours(namedPorts={"HTTP": "8080/TCP", "dns": "53/udp", "metrics": "9090", "m3ua": "2905/SCTP"})
    assert pod(args=args).named_ports == ("dns=53/UDP", "http=8080/TCP", "m3ua=2905/SCTP", "metrics=9090/TCP")
    assert pod().named_ports == ()


@pytest.mark.parametrize(
    ("ports", "told"),
    [
        ({"http": ""}, "'http': '' is not number/protocol"),
        ({"http": "0/TCP"}, "'http': '0/TCP' is not number/protocol"),
        ({"http": "65536/TCP"}, "'http': '65536/TCP' is not number/protocol"),
        ({"http": "80/ICMP"}, "'http': '80/ICMP' is not number/protocol"),
        ({"http": "80/"}, "'http': '80/' is not number/protocol"),
        ({"http": "web/TCP"}, "'http': 'web/TCP' is not number/protocol"),
        ({"http": "80=80/TCP"}, "'http': '80=80/TCP' is not number/protocol"),
        ({"80": "80/TCP"}, "'80' is no name of a port"),
        ({"a=b": "80/TCP"}, "'a=b' is no name of a port"),
        ({"a-name-of-16-char": "80/TCP"}, "is no name of a port"),
        ({"http": "80/TCP", "HTTP": "81/TCP"}, "'HTTP': 'http' is the same name"),
        ({"http": 80}, "$.args.cplane.namedPorts"),
        (["http"], "$.args.cplane.namedPorts"),
    ],
)
def test_ports_that_cannot_be_meant_are_refused(ports, told):
    error = refusal(args=ours(namedPorts=ports))
    assert error.code == wire.INVALID_CONFIG
    assert told in error.msg


@pytest.mark.parametrize("message", [None, [], {}, {"verb": 1, "env": {}}, {"verb": "ADD", "env": {"CNI_IFNAME": 1}}])
def test_messages_of_another_shape_cannot_be_decoded(message):
    with pytest.raises(wire.CniError) as caught:
        request.read(message, CONFIG)
    assert caught.value.code == wire.DECODE_FAILURE
