"""Both ends of traffic are asked; names, addresses, services and hosts are what they are in a cluster."""

import pytest

from cplane.domain.policy.explanation import Outcome
from cplane.k8s.probes import BadProbe, parse_probe
from cplane.k8s.reach import Reach
from tests.support.builders import ccnp, cnp, ports, selector
from tests.support.scenes import ask, endpoint_slice, node, pod, scene, service

ALLOWED, DENIED, AUDIT = Outcome.ALLOWED, Outcome.DENIED, Outcome.AUDIT
N1, N2 = node("n1", "192.0.2.1"), node("n2", "192.0.2.2")
WEB = pod("shop/web", "10.0.0.1", nodeName="n1")
API = pod("shop/api", "10.0.0.2", nodeName="n1", ports={"http": 8080})
DB = pod("shop/db", "10.0.0.3", nodeName="n2")
CLOSED = cnp("closed", ingress=[{}])
ONLY_WEB = cnp("web", ingress=[{"fromEndpoints": [selector("app=web")]}])


def reach(*documents, audited=(), enforcement="default"):
    return Reach(scene(*documents, enforcement=enforcement), audited)


def test_the_source_must_let_out_and_the_destination_let_in():
    out = cnp("out", subject=selector("app=web"), egress=[{"toEndpoints": [selector("app=db")]}])
    found = ask(reach(WEB, API, DB, out), "shop/web", "shop/api")
    assert (found.verdict, found.egress.verdict, found.ingress.verdict) == (DENIED, DENIED, ALLOWED)
    found = ask(reach(WEB, API, DB, CLOSED), "shop/web", "shop/api")
    assert (found.verdict, found.egress.verdict, found.ingress.verdict) == (DENIED, ALLOWED, DENIED)
    assert ask(reach(WEB, API, DB, out, CLOSED), "shop/web", "shop/db").verdict is ALLOWED


def test_an_address_of_a_pod_is_the_pod_and_one_of_a_node_the_node():
    world = reach(N1, N2, WEB, API, DB, ONLY_WEB)
    assert ask(world, "10.0.0.1", "10.0.0.2").verdict is ALLOWED
    assert ask(world, "10.0.0.3", "shop/api").verdict is DENIED
    assert ask(world, "192.0.2.1", "shop/api").verdict is ALLOWED  # its own node
    assert ask(world, "192.0.2.2", "shop/api").verdict is DENIED


@pytest.mark.parametrize(
    ("address", "verdict"),
    [("10.9.0.1", ALLOWED), ("10.9.9.1", DENIED), ("203.0.113.7", DENIED), ("2001:db8::1", ALLOWED), ("::1", DENIED)],
)
def test_any_other_address_is_the_longest_prefix_that_is_named(address, verdict):
    rule = {"fromCIDRSet": [{"cidr": "10.9.0.0/16", "except": ["10.9.9.0/24"]}, {"cidr": "2001:db8::/32"}]}
    assert ask(reach(API, cnp(ingress=[rule])), address, "shop/api").verdict is verdict


def test_the_world_is_both_families():
    for entity, address in (("world", "::1"), ("world-ipv4", "203.0.113.7"), ("world-ipv6", "2001:db8::1")):
        world = reach(API, cnp(ingress=[{"fromEntities": [entity]}]))
        assert ask(world, address, "shop/api").verdict is ALLOWED


def test_namespaces_have_their_labels_and_the_one_with_their_name():
    peers = [{"matchLabels": {"io.cilium.k8s.namespace.labels.team": "x"}}]
    named = [{"matchLabels": {"io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name": "shop"}}]
    described = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "x"}}}
    for wanted, documents in ((peers, (described,)), (named, (described,)), (named, ())):
        world = reach(WEB, API, pod("other/web"), *documents, cnp(ingress=[{"fromEndpoints": wanted}]))
        assert ask(world, "shop/web", "shop/api").verdict is ALLOWED
        assert ask(world, "other/web", "shop/api").verdict is DENIED


def test_labels_that_make_no_identity_select_nobody():
    peer = pod("shop/web", labels={"app": "web", "pod-template-hash": "1"})
    rule = {"fromEndpoints": [selector("pod-template-hash=1")]}
    assert ask(reach(peer, API, cnp(ingress=[rule])), "shop/web", "shop/api").verdict is DENIED


def test_a_pod_on_the_network_of_its_host_is_its_node():
    agent = pod("shop/agent", "192.0.2.1", nodeName="n1", hostNetwork=True, ports={"metrics": 9100})
    world = reach(N1, N2, agent, API, DB, cnp("closed", subject={}, ingress=[{}]))
    assert ask(world, "shop/agent", "shop/api").verdict is ALLOWED
    assert ask(world, "shop/agent", "shop/db").verdict is DENIED
    assert ask(world, "shop/api", "shop/agent", "metrics").verdict is ALLOWED
    assert ask(world, "192.0.2.1", "shop/api").verdict is ALLOWED


def test_a_pod_that_does_not_say_where_it_is_is_on_the_only_node():
    unplaced = pod("shop/api")
    assert ask(reach(N1, unplaced, CLOSED), "node/n1", "shop/api").verdict is ALLOWED
    assert ask(reach(N1, N2, unplaced, CLOSED), "node/n1", "shop/api").verdict is DENIED
    hosted = pod("shop/agent", hostNetwork=True)
    assert ask(reach(N1, hosted, unplaced, CLOSED), "shop/agent", "shop/api").verdict is ALLOWED
    assert ask(reach(N1, N2, hosted, unplaced, CLOSED), "shop/agent", "shop/api").verdict is DENIED


def test_a_node_that_only_pods_name_exists():
    assert ask(reach(API, DB, CLOSED), "node/n2", "shop/api").verdict is DENIED
    assert ask(reach(API, DB, CLOSED), "node/n1", "shop/api").verdict is ALLOWED


def test_the_kubernetes_api_is_where_its_nodes_or_endpoints_are():
    control = node("c", "192.0.2.9", **{"node_role.kubernetes.io__control_plane": ""})
    rule = cnp("api", subject=selector("app=web"), egress=[{"toEntities": ["kube-apiserver"]}])
    on_control = pod("shop/web", nodeName="c")
    assert ask(reach(control, N1, WEB, rule), "shop/web", "node/c", 6443).verdict is ALLOWED
    assert ask(reach(control, N1, WEB, rule), "shop/web", "node/n1", 6443).verdict is DENIED
    assert ask(reach(control, N1, on_control, rule), "shop/web", "node/c", 6443).verdict is ALLOWED
    outside = endpoint_slice("default/kubernetes", "203.0.113.1", "192.0.2.1", ports=[{"name": "https", "port": 6443}])
    assert ask(reach(N1, N2, WEB, outside, rule), "shop/web", "203.0.113.1", 6443).verdict is ALLOWED
    assert ask(reach(N1, N2, WEB, outside, rule), "shop/web", "node/n1", 6443).verdict is ALLOWED
    assert ask(reach(N1, N2, WEB, outside, rule), "shop/web", "node/n2", 6443).verdict is DENIED


def test_hosts_have_policies_only_of_rules_about_nodes():
    ssh = ccnp("ssh", ingress=[{"fromEntities": ["remote-node"], "toPorts": ports("22/TCP")}])
    ssh["spec"]["nodeSelector"] = ssh["spec"].pop("endpointSelector")
    world = reach(N1, N2, WEB, API, ssh)
    assert ask(world, "node/n2", "node/n1", 22).verdict is ALLOWED
    assert ask(world, "shop/web", "node/n2", 22).verdict is DENIED
    assert ask(world, "shop/web", "shop/api", 23).verdict is ALLOWED
    assert ask(world, "node/n1", "node/n1", 23).verdict is ALLOWED  # never leaves it
    closed = ccnp("all", ingress=[{}])
    assert ask(reach(N1, N2, WEB, closed), "shop/web", "node/n2").verdict is ALLOWED


def test_host_policies_select_nodes_by_their_labels():
    rule = ccnp("ssh", ingress=[{}])
    del rule["spec"]["endpointSelector"]
    rule["spec"]["nodeSelector"] = selector("pool=data")
    world = reach(node("n1", pool="data"), node("n2"), WEB, rule)
    assert ask(world, "node/n2", "node/n1", 22).verdict is DENIED
    assert ask(world, "node/n1", "node/n2", 22).verdict is ALLOWED


def test_modes_of_enforcement_are_those_of_the_agent():
    assert ask(reach(WEB, API, enforcement="always"), "shop/web", "shop/api").verdict is DENIED
    assert ask(reach(WEB, API, CLOSED, enforcement="never"), "shop/web", "shop/api").verdict is ALLOWED
    assert ask(reach(N1, N2, enforcement="always"), "node/n1", "node/n2").verdict is ALLOWED


def test_an_audited_pod_denies_nothing_and_another_of_its_identity_does():
    twins = (pod("shop/api"), pod("shop/api-2", labels={"app": "api"}), WEB, CLOSED)
    world = reach(*twins, audited=("shop/api",))
    assert ask(world, "shop/web", "shop/api").verdict is AUDIT
    assert ask(world, "shop/web", "shop/api-2").verdict is DENIED
    assert ask(reach(*twins, audited=("all",)), "shop/web", "shop/api-2").verdict is AUDIT


@pytest.mark.parametrize("audited", ["shop/agent", "node/n1"])
def test_to_audit_a_pod_on_the_network_of_its_host_is_to_audit_its_node(audited):
    agents = [pod(f"shop/{name}", "192.0.2.1", nodeName="n1", hostNetwork=True) for name in ("agent", "other")]
    closed = ccnp("closed", ingress=[{}])
    closed["spec"]["nodeSelector"] = closed["spec"].pop("endpointSelector")
    world = reach(N1, N2, *agents, DB, closed, audited=(audited,))
    for name in ("shop/agent", "shop/other", "node/n1", "192.0.2.1"):
        assert ask(world, "shop/db", name).verdict is AUDIT
    assert ask(world, "shop/db", "node/n2").verdict is DENIED


def test_ports_have_names_at_each_pod():
    other = pod("shop/api-2", labels={"app": "api"}, ports={"http": 9090})
    world = reach(WEB, API, other, cnp(ingress=[{"toPorts": ports("http/TCP")}]))
    assert [ask(world, "shop/web", f"shop/{name}", "HTTP").verdict for name in ("api", "api-2")] == [ALLOWED, ALLOWED]
    assert ask(world, "shop/web", "shop/api", 9090).verdict is DENIED
    assert ask(world, "shop/web", "shop/api-2", 9090).verdict is ALLOWED
    out = cnp("out", subject=selector("app=web"), egress=[{"toPorts": ports("http/TCP")}])
    assert ask(reach(WEB, API, out), "shop/web", "shop/api", 8080).verdict is ALLOWED


def test_a_service_is_judged_by_its_backends_and_their_ports():
    for port in ({"name": "web", "port": 80, "targetPort": "http"}, {"name": "web", "port": 80, "targetPort": 8080}):
        world = reach(
            WEB,
            API,
            DB,
            service("shop/api", port, clusterIP="10.96.0.1"),
            cnp(ingress=[{"toPorts": ports("8080/TCP")}]),
        )
        for name, asked in (("svc:shop/api", 80), ("svc:shop/api", "web"), ("10.96.0.1", 80), ("svc:shop/api", None)):
            assert ask(world, "shop/web", name, asked).verdict is ALLOWED


def test_of_several_backends_the_worst_counts_and_is_named():
    other = pod("shop/api-2", labels={"app": "api", "v": "2"}, ports={"http": 8080})
    rule = cnp(subject=selector("v=2"), ingress=[{}])
    world = reach(WEB, API, other, service("shop/api", {"port": 80, "targetPort": "http"}), rule)
    found = ask(world, "shop/web", "svc:shop/api")
    assert found.verdict is DENIED
    assert found.ingress.reason.startswith("backend shop/api-2 at 8080/TCP: no rule of ")


def test_slices_say_which_backends_there_are():
    port = {"name": "web", "port": 80, "targetPort": "http"}
    outside = endpoint_slice("shop/api", "203.0.113.7", ports=[{"name": "web", "port": 5433}])
    rule = cnp("out", subject=selector("app=web"), egress=[{"toCIDR": ["203.0.113.7"], "toPorts": ports("5433/TCP")}])
    world = reach(WEB, API, service("shop/api", port), outside, rule)
    assert ask(world, "shop/web", "svc:shop/api").verdict is ALLOWED
    pods = endpoint_slice("shop/api", "10.0.0.2", ports=[{"name": "web", "port": 8080}])
    assert ask(reach(WEB, API, service("shop/api", port), pods, rule), "shop/web", "svc:shop/api").verdict is DENIED


def test_a_service_without_backends_answers_nobody():
    for documents in (
        (service("shop/none", {"port": 80}),),
        (service("shop/none", {"port": 80, "targetPort": "x"}, selector={"app": "api"}),),
    ):
        found = ask(reach(WEB, API, *documents), "shop/web", "svc:shop/none")
        assert (found.verdict, found.egress.reason) == (DENIED, "svc:shop/none has no backend for this port")


def test_a_pod_reaches_itself_through_its_service():
    world = reach(API, service("shop/api", {"port": 80, "targetPort": 8080}), CLOSED)
    assert ask(world, "shop/api", "svc:shop/api").verdict is ALLOWED
    assert ask(world, "shop/api", "shop/api", 8080).verdict is DENIED


def test_clients_of_a_headless_service_keep_the_port_that_they_ask_for():
    headless = service("shop/api", {"name": "web", "port": 80, "targetPort": 8080}, clusterIP="None")
    world = reach(WEB, API, headless, cnp(ingress=[{"toPorts": ports("8080/TCP")}]))
    verdicts = [ask(world, "shop/web", "svc:shop/api", port).verdict for port in (80, 8080, "web")]
    assert verdicts == [DENIED, ALLOWED, ALLOWED]


def test_services_can_be_named_by_rules():
    rule = {"toServices": [{"k8sService": {"serviceName": "api", "namespace": "shop"}}]}
    out = cnp("out", subject=selector("app=web"), egress=[rule])
    world = reach(WEB, API, DB, service("shop/api", {"port": 80}), out)
    assert [ask(world, "shop/web", f"shop/{name}").verdict for name in ("api", "db")] == [ALLOWED, DENIED]
    outside = endpoint_slice("shop/old", "203.0.113.7", ports=[{"port": 80}])
    old = {"toServices": [{"k8sService": {"serviceName": "old", "namespace": "shop"}}]}
    out = cnp("out", subject=selector("app=web"), egress=[old])
    world = reach(WEB, API, service("shop/old", {"port": 80}, selector=None), outside, out)
    assert ask(world, "shop/web", "203.0.113.7").verdict is ALLOWED
    assert ask(world, "shop/web", "203.0.113.8").verdict is DENIED


def test_requests_are_judged_where_a_proxy_has_the_traffic():
    rules = [{**ports("80/TCP")[0], "rules": {"http": [{"method": "GET", "headers": ["X-Token"]}]}}]
    world = reach(WEB, API, DB, cnp(ingress=[{"fromEndpoints": [selector("app=web")], "toPorts": rules}]))
    assert ask(world, "shop/web", "shop/api").l7
    allowed = ask(world, "shop/web", "shop/api", http={"headers": {"x-token": "1"}})
    assert (allowed.verdict, allowed.l7) == (ALLOWED, True)
    assert ask(world, "shop/web", "shop/api", http={"method": "POST"}).verdict is DENIED
    packet = ask(world, "shop/db", "shop/api", http={"method": "GET"})
    assert (packet.verdict, packet.l7) == (DENIED, False)


def test_a_drop_of_packets_at_one_end_is_no_verdict_of_a_proxy_at_the_other():
    rules = [{**ports("80/TCP")[0], "rules": {"http": [{"method": "GET"}]}}]
    out = cnp("out", subject=selector("app=web"), egress=[{}])
    found = ask(reach(WEB, API, cnp(ingress=[{"toPorts": rules}]), out), "shop/web", "shop/api", http={"method": "PUT"})
    assert (found.verdict, found.l7) == (DENIED, False)


@pytest.mark.parametrize(
    ("kafka", "verdict"),
    [
        ({"apiKey": "produce", "topic": "orders"}, ALLOWED),
        ({"apiKey": 0, "topics": ["orders", "audit"]}, DENIED),
        ({"role": "produce", "topic": "orders"}, ALLOWED),
        ({"role": "consume", "topic": "orders"}, DENIED),
        ({"apiKey": "metadata"}, DENIED),
    ],
)
def test_kafka_requests_are_judged(kafka, verdict):
    rules = [{**ports("9092/TCP")[0], "rules": {"kafka": [{"apiKey": "produce", "topic": "orders"}]}}]
    world = reach(WEB, API, cnp(ingress=[{"toPorts": rules}]))
    assert ask(world, "shop/web", "shop/api", 9092, kafka=kafka).verdict is verdict


def test_messages_have_a_type_and_an_echo_request_where_it_is_not_said():
    rule = cnp(ingress=[{"icmps": [{"fields": [{"type": 8}, {"type": 128, "family": "IPv6"}]}]}])
    world = reach(WEB, API, rule)
    asked = [("ICMP", None, ALLOWED), ("ICMPv4", 8, ALLOWED), ("icmpv6", None, ALLOWED), ("ICMP", 0, DENIED)]
    for protocol, number, verdict in asked:
        fields = {} if number is None else {"icmp_type": number}
        assert ask(world, "shop/web", "shop/api", None, protocol=protocol, **fields).verdict is verdict


@pytest.mark.parametrize(
    ("probe", "error"),
    [
        ({"from": "shop/wbe"}, "there is no pod 'shop/wbe'; did you mean 'shop/web'?"),
        ({"from": "web"}, "'web' is no end of traffic: write namespace/pod"),
        ({"to": "node/x"}, "there is no node 'x'"),
        ({"to": "svc:shop/ap"}, "there is no service 'shop/ap'; did you mean 'shop/api'?"),
        ({"from": "svc:shop/api"}, "nothing comes from a service"),
        ({"to": "svc:shop/api", "port": 81}, "service shop/api has no port 81/TCP; its ports are web=80/TCP"),
        ({"to": "svc:shop/api", "protocol": "ICMP", "port": None}, "has ports, which ICMP has not"),
        ({"to": "svc:shop/name"}, "stands for the name 'a.example'"),
        ({"port": "htp"}, "shop/api has no TCP port named 'htp'; its named ports are http=8080/TCP"),
        ({"port": None}, "port is missing"),
        ({"port": 0}, "port: 0 is not 1..65535"),
        ({"port": 65536}, "port: 65536 is not 1..65535"),
        ({"port": "9" * 5000}, "shop/api has no TCP port named '9999"),
        ({"protocol": "TCCP"}, "unknown protocol 'TCCP'; did you mean 'TCP'?"),
        ({"protocol": "ICMP"}, "ICMP has no ports; write icmp_type"),
        ({"protocol": "ICMP", "port": None, "icmp_type": 256}, "icmp_type: 256 is not 0..255"),
        ({"icmp_type": 8}, "icmp_type: TCP has none"),
        ({"http": {}, "dns": "a"}, "http and dns in one probe"),
        ({"kafka": {"apiKey": "prodduce"}}, "unknown API key 'prodduce'"),
        ({"kafka": {}}, "no API key"),
        ({"http": {"verb": "GET"}}, "unknown field `verb`"),
        ({"prot": "TCP"}, "unknown field `prot`"),
        ({"to": 1}, "Expected `str`, got `int`"),
    ],
)
def test_a_probe_that_means_nothing_is_refused_with_what_to_write(probe, error):
    named = service("shop/name", type="ExternalName", externalName="a.example", selector=None)
    world = reach(WEB, API, service("shop/api", {"name": "web", "port": 80, "targetPort": "http"}), named)
    fields = {"from": "shop/web", "to": "shop/api", "port": 80, **probe}
    with pytest.raises(BadProbe) as refused:
        ask(world, fields.pop("from"), fields.pop("to"), fields.pop("port"), **fields)
    assert error in str(refused.value)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"\xff", b'{"from":"a"}', b"1"])
def test_a_line_that_is_no_probe_is_refused(line):
    with pytest.raises(BadProbe):
        parse_probe(line)


def test_what_was_found_is_not_found_again_for_another_question():
    world = reach(WEB, API, DB, ONLY_WEB)
    first = ask(world, "shop/web", "shop/api")
    assert ask(world, "shop/web", "shop/api") is first
    assert ask(world, "shop/db", "shop/api").verdict is DENIED
    assert ask(world, "shop/web", "shop/api", http={"path": "/x"}) is first
