"""The twenty cases by which the language is usually explained, each as a test; their numbers are in the names.

Namespace `shop`, cluster `c1`: web, api, db; `other` has a web of its own. Sources may send what they want unless a
case is about egress.
"""

from ipaddress import ip_network

from cplane.domain.identity import Reserved, cidr_labels
from cplane.domain.labels import LabelSet
from cplane.domain.policy.http import HttpRequest
from cplane.domain.policy.mapstate import MapState
from cplane.domain.policy.redirect import Request
from cplane.domain.policy.repository import Enforcement, Repository
from cplane.domain.verdict import Direction, DropReason
from tests.support.builders import audited, ccnp, cnp, pod_labels, policy, ports, selector
from tests.support.policies import DIRECTIONS, PODS, Setting, is_audited, number_of, repository, verdict

WEB, API, DB, OTHER_WEB, *_ = PODS
HOST, REMOTE_NODE, WORLD = 1, 6, 9
OUTSIDE = number_of("203.0.113.7")
TCP, ICMP = 6, 1
A, D, DENIED = "allowed", "dropped", "denied"
FROM_WEB = {"fromEndpoints": [selector("app=web")]}
CLOSED = cnp("closed", ingress=[{}])


def fate(repo, subject, peer, protocol=TCP, port=80, direction="ingress"):
    return verdict(repo.state(subject), peer, DIRECTIONS[direction], protocol, port)


def passes_proxy(state: MapState, peer: int, port: int, request: Request) -> bool:
    """Whether of all that was said of this traffic something lets the request through."""
    return any(
        one.term is not None
        and not one.term.deny
        and (one.term.redirect is None or (one.term.redirect.rules and one.term.redirect.rules.allow(request)))
        for one in state.covering(peer, Direction.INGRESS, TCP, port)
    )


def test_01_without_policies_everything_passes():
    assert fate(repository(), API, WEB) == A


def test_02_an_empty_rule_closes_ingress_to_all_but_the_host():
    repo = repository(CLOSED)
    assert fate(repo, API, WEB) == D
    assert fate(repo, API, WEB, direction="egress") == A
    assert fate(repo, API, HOST) == A


def test_03_a_peer_may_send_anything_and_is_of_the_policys_namespace():
    repo = repository(cnp(ingress=[FROM_WEB]))
    assert [fate(repo, API, WEB), fate(repo, API, WEB, 17, 9999), fate(repo, API, WEB, ICMP, 8)] == [A, A, A]
    assert fate(repo, API, DB) == D
    assert fate(repo, API, OTHER_WEB) == D


def test_04_a_peer_that_names_a_namespace_is_of_that_one():
    peer = selector("app=web", "k8s:io.kubernetes.pod.namespace=other")
    repo = repository(cnp(ingress=[{"fromEndpoints": [peer]}]))
    assert fate(repo, API, OTHER_WEB) == A
    assert fate(repo, API, WEB) == D


def test_05_the_empty_selector_is_the_namespace_and_ports_are_ports():
    repo = repository(cnp(ingress=[{"fromEndpoints": [{}], "toPorts": ports("80/TCP")}]))
    assert [fate(repo, API, WEB), fate(repo, API, DB)] == [A, A]
    assert fate(repo, API, WEB, TCP, 81) == D
    assert fate(repo, API, WEB, ICMP, 8) == D
    assert fate(repo, API, OUTSIDE) == D


def test_06_ports_without_peers_are_open_to_anyone():
    repo = repository(cnp(ingress=[{"toPorts": ports("80/TCP")}]))
    assert [fate(repo, API, one) for one in (WEB, OTHER_WEB, OUTSIDE, WORLD)] == [A, A, A, A]


def test_07_an_empty_list_of_peers_is_nobody():
    repo = repository(cnp(ingress=[{"fromEndpoints": [], "toPorts": ports("80/TCP")}]))
    assert [fate(repo, API, one) for one in (WEB, DB, OUTSIDE)] == [D, D, D]


def test_08_a_deny_wins_on_its_port():
    repo = repository(cnp(ingress=[FROM_WEB], ingressDeny=[{**FROM_WEB, "toPorts": ports("80/TCP")}]))
    assert fate(repo, API, WEB) == DENIED
    assert fate(repo, API, WEB, TCP, 81) == A


def test_09_a_deny_of_the_world_leaves_the_cluster():
    everyone = ccnp("all", ingress=[{"fromEntities": ["all"]}])
    repo = repository(everyone, cnp(ingressDeny=[{"fromEntities": ["world"]}]))
    assert [fate(repo, API, one) for one in (WEB, OUTSIDE, HOST)] == [A, DENIED, A]


def test_10_a_deny_without_default_deny_denies_nobody_else():
    deny = {"ingressDeny": [{"fromEndpoints": [selector("app=db")]}]}
    repo = repository(cnp(**deny, enableDefaultDeny={"ingress": False}))
    assert [fate(repo, API, one) for one in (DB, WEB, OUTSIDE)] == [DENIED, A, A]
    assert fate(repository(cnp(**deny)), API, WEB) == D


def test_11_requests_are_judged_by_their_rules_and_a_rule_without_any_allows_all_of_them():
    http = {**ports("80/TCP")[0], "rules": {"http": [{"method": "GET", "path": "/pub"}]}}
    repo = repository(cnp("a", ingress=[{**FROM_WEB, "toPorts": [http]}]))
    state = repo.state(API)
    assert fate(repo, API, WEB) == "proxied"
    assert passes_proxy(state, WEB, 80, HttpRequest("GET", "/pub"))
    assert not passes_proxy(state, WEB, 80, HttpRequest("GET", "/pub/x"))
    assert not passes_proxy(state, WEB, 80, HttpRequest("POST", "/pub"))
    repo.upsert(policy(cnp("b", ingress=[{**FROM_WEB, "toPorts": ports("80/TCP")}])))
    assert fate(repo, API, WEB) == "proxied"
    assert passes_proxy(state, WEB, 80, HttpRequest("POST", "/pub"))


def test_12_a_name_is_no_address_before_it_was_resolved_and_asking_for_it_needs_a_rule():
    name = {"toFQDNs": [{"matchName": "a.example"}], "toPorts": ports("443/TCP")}
    document = cnp(subject=selector("app=web"), egress=[name])
    repo = Repository()
    repo.add_identity(DB, PODS[DB])
    repo.add_subject(WEB, PODS[WEB])
    repo.upsert(policy(document))
    assert fate(repo, WEB, DB, 17, 53, "egress") == D
    assert fate(repo, WEB, OUTSIDE, TCP, 443, "egress") == D
    prefix = ip_network("203.0.113.7/32")
    resolved = cidr_labels(prefix, dual_stack=True).union(LabelSet.parse(["fqdn:a.example"]))
    repo.add_identity(OUTSIDE, resolved, prefix)
    assert fate(repo, WEB, OUTSIDE, TCP, 443, "egress") == A


def test_13_an_exception_is_out_of_its_own_prefix_only():
    subject = selector("app=web")
    rule = {"cidr": "203.0.113.0/24", "except": ["203.0.113.7/32"]}
    repo = repository(cnp("a", subject=subject, egress=[{"toCIDRSet": [rule]}]))
    assert fate(repo, WEB, number_of("203.0.113.8"), direction="egress") == A
    assert fate(repo, WEB, OUTSIDE, direction="egress") == D
    repo.upsert(policy(cnp("b", subject=subject, egress=[{"toCIDR": ["203.0.113.7/32"]}])))
    assert fate(repo, WEB, OUTSIDE, direction="egress") == A


def test_14_a_prefix_selects_no_pod_whatever_its_address():
    repo = repository(cnp(subject=selector("app=web"), egress=[{"toCIDR": ["10.0.0.0/8"]}]))
    assert fate(repo, WEB, API, direction="egress") == D


def test_15_enforcement_is_for_all_or_for_nobody_where_the_node_says_so():
    repo = repository(setting=Setting(mode="always"))
    assert [fate(repo, API, WEB), fate(repo, WEB, API, direction="egress")] == [D, D]
    repo = repository(CLOSED)
    repo.set_enforcement(Enforcement.NEVER)
    assert fate(repo, API, WEB) == A


def test_16_a_port_inside_a_range_can_be_denied():
    repo = repository(
        cnp(
            ingress=[{**FROM_WEB, "toPorts": ports("80-89/TCP")}],
            ingressDeny=[{**FROM_WEB, "toPorts": ports("85/TCP")}],
        )
    )
    assert [fate(repo, API, WEB, TCP, port) for port in (79, 84, 85, 86, 90)] == [D, A, DENIED, A, D]


def test_17_a_policy_about_nodes_is_about_the_host_and_no_pod():
    document = ccnp(ingress=[{"fromEntities": ["cluster"], "toPorts": ports("22/TCP")}])
    document["spec"]["nodeSelector"] = document["spec"].pop("endpointSelector")
    (rule,) = policy(document).rules
    assert rule.about_nodes
    repo = repository(document)
    repo.add_subject(HOST, Reserved.HOST.labels)
    assert [fate(repo, HOST, one, TCP, 22) for one in (REMOTE_NODE, WEB, OUTSIDE)] == [A, A, D]
    assert [fate(repo, API, one, TCP, 22) for one in (REMOTE_NODE, WEB, OUTSIDE)] == [A, A, A]


def test_18_a_service_account_is_a_label():
    repo = Repository()
    luke = "io.cilium.k8s.policy.serviceaccount=luke"
    repo.add_identity(WEB, pod_labels("app=web", luke))
    repo.add_identity(DB, pod_labels("app=db"))
    repo.add_identity(OTHER_WEB, pod_labels("app=web", luke, namespace="other"))
    repo.add_subject(API, PODS[API])
    repo.upsert(policy(cnp(ingress=[{"fromEndpoints": [selector(luke)]}])))
    assert [fate(repo, API, one) for one in (WEB, DB, OTHER_WEB)] == [A, D, D]


def test_19_a_policy_that_is_only_audited_tells_what_it_would_drop():
    repo = repository(audited(CLOSED))
    assert fate(repo, API, WEB) == A
    assert is_audited(repo, API, WEB, Direction.INGRESS, TCP, 80)
    assert not is_audited(repo, API, HOST, Direction.INGRESS, TCP, 80)
    assert not is_audited(repo, API, WEB, Direction.EGRESS, TCP, 80)


def test_20_who_has_not_proved_who_it_is_is_told_to():
    repo = repository(cnp(ingress=[{**FROM_WEB, "authentication": {"mode": "required"}}]))
    assert fate(repo, API, WEB) == "unproven"
    assert fate(repo, API, DB) == D
    assert DropReason.AUTH_REQUIRED == 189
