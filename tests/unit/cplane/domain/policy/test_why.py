"""Every verdict has its reason: the rules that made it, or what was missing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.domain.identity import Reserved
from cplane.domain.policy.edges import port_edges
from cplane.domain.policy.explanation import Outcome, PeerIdentity, RuleHit, Traffic, listed
from cplane.domain.policy.http import HttpRequest
from cplane.domain.policy.kafka import KafkaRequest
from cplane.domain.policy.lookup import lookup
from cplane.domain.policy.repository import AUDIT_PLANE, Enforcement, Repository
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.policy.why import Judge, explain
from cplane.domain.ports import parse_named_ports
from cplane.domain.verdict import Direction
from tests.support.builders import ccnp, cnp, pod_labels, policy, ports, selector
from tests.support.effort import examples
from tests.support.policies import IDENTITIES, PODS, own_ports, packets, peer_ports, repository
from tests.support.strategies import documents

LABELS = {
    300: pod_labels("app=web"),
    301: pod_labels("app=api"),
    302: pod_labels("app=db"),
    303: pod_labels("app=web", namespace="other"),
    1: Reserved.HOST.labels,
    6: Reserved.REMOTE_NODE.labels,
    9: Reserved.WORLD_IPV4.labels,
}
WEB, API, DB, OTHER_WEB, HOST, WORLD = 300, 301, 302, 303, 1, 9
IN, OUT = Direction.INGRESS, Direction.EGRESS
ALL_PORTS = frozenset().union(*map(own_ports, PODS), *map(peer_ports, IDENTITIES))
FROM_WEB = {"fromEndpoints": [selector("app=web")]}
GET = HttpRequest("GET", "/pub")


def http(*rules, port="80/TCP"):
    return [{**ports(port)[0], "rules": {"http": list(rules)}}]


def world(*written, mode="default", own_ports=()):
    found = Repository(Enforcement(mode))
    for number, labels in LABELS.items():
        found.add_identity(number, labels)
    for document in written:
        found.upsert(policy(document))
    found.add_subject(API, LABELS[API], parse_named_ports(own_ports))
    return found


def why(repo, peer, port=80, request=None, *, direction=IN, protocol=6, audited=False):
    traffic = Traffic(direction, protocol, port)
    return explain(repo, API, PeerIdentity(peer, LABELS[peer]), traffic, request, audited=audited)


def audit(document):
    document["metadata"]["annotations"] = {"policy.cplane.io/audit": "true"}
    return document


def test_without_a_policy_nothing_is_enforced():
    found = why(world(), WEB)
    assert (found.verdict, found.rules, found.l7) == (Outcome.ALLOWED, (), False)
    assert found.reason == "not enforced: no policy asks for default deny of ingress"


def test_an_allow_names_its_rule_and_the_selector_that_selects_the_peer():
    found = why(world(cnp("a", ingress=[{}, FROM_WEB])), WEB)
    ref = PolicyRef("CiliumNetworkPolicy", "shop", "a")
    chosen = "app=web,k8s:io.cilium.k8s.policy.cluster=c1,k8s:io.kubernetes.pod.namespace=shop"
    assert found.rules == (RuleHit(ref, "spec.ingress[1]", chosen),)
    assert found.reason == "allowed by CiliumNetworkPolicy shop/a spec.ingress[1]"


def test_a_deny_rule_is_named_also_beside_allows():
    found = why(world(cnp("a", ingress=[FROM_WEB], ingressDeny=[{"toPorts": ports("80/TCP")}])), WEB)
    assert (found.verdict, found.reason) == (
        Outcome.DENIED,
        "denied by CiliumNetworkPolicy shop/a spec.ingressDeny[0]",
    )
    assert found.rules[0].selector == "anyone"


def test_a_default_deny_names_who_asks_for_it_and_the_nearest_rule():
    repo = world(
        cnp("a", ingress=[{**FROM_WEB, "toPorts": ports("8080/TCP")}]),
        cnp("b", ingress=[{"fromEndpoints": [selector("app=db", "tier=x")]}]),
    )
    found = why(repo, WEB)
    assert [rule.ref.name for rule in found.rules] == ["a", "b"]
    assert found.reason == (
        "no rule of CiliumNetworkPolicy shop/a and CiliumNetworkPolicy shop/b allows 80/TCP from identity 300 "
        "(k8s:app=web k8s:io.kubernetes.pod.namespace=shop); the nearest is CiliumNetworkPolicy shop/a "
        "spec.ingress[0]: it is about 8080/TCP, not 80/TCP"
    )
    assert found.nearest is not None
    assert found.nearest.hit.path == "spec.ingress[0]"


@pytest.mark.parametrize(
    ("peer", "term", "lacks"),
    [
        (DB, FROM_WEB, ("the peer does not meet app=web",)),
        (OTHER_WEB, FROM_WEB, ("the peer does not meet k8s:io.kubernetes.pod.namespace=shop",)),
        (WEB, {**FROM_WEB, "toPorts": ports("80/UDP")}, ("it is about 80/UDP, not 80/TCP",)),
        (WEB, {**FROM_WEB, "toPorts": ports("http/TCP")}, ("it is about http/TCP, not 80/TCP",)),
        (WEB, {"fromCIDR": ["10.0.0.0/8"]}, ("the peer is in the cluster, where 10.0.0.0/8 selects nobody",)),
        (WORLD, {"fromCIDR": ["10.0.0.0/8"]}, ("the peer is not in 10.0.0.0/8",)),
        (WEB, {"fromEndpoints": [], "toPorts": ports("80/TCP")}, ("its list of peers is empty",)),
        (
            WEB,
            {"fromCIDRSet": [{"cidrGroupRef": "g"}], "toPorts": ports("80-90")},
            ("it selects nobody (group g)",),
        ),
        (WEB, {"icmps": [{"fields": [{"type": 8}]}]}, ("it is about ICMP type 8, not 80/TCP",)),
    ],
)
def test_the_nearest_rule_says_what_it_lacks(peer, term, lacks):
    found = why(world(cnp("a", ingress=[term])), peer).nearest
    assert found is not None
    assert found.lacks == lacks


def test_the_rule_that_fits_most_is_the_nearest_wherever_it_stands():
    term = {"fromEndpoints": [selector("app=db")], "toPorts": ports("80/TCP")}
    far = {"fromEndpoints": [selector("app=db")], "toPorts": ports("53/UDP")}
    for rules in ([far, term], [term, far]):
        found = why(world(cnp("a", ingress=rules)), WEB).nearest
        assert found is not None
        assert found.hit.path == f"spec.ingress[{rules.index(term)}]"


def test_a_rule_without_default_deny_can_be_the_nearest():
    repo = world(cnp("a", ingress=[FROM_WEB], enableDefaultDeny={"ingress": False}), cnp("b", ingress=[{}]))
    found = why(repo, DB)
    assert found.nearest is not None
    assert found.nearest.hit.ref.name == "a"
    assert [rule.ref.name for rule in found.rules] == ["b"]


def test_where_no_rule_selects_anything_there_is_no_nearest():
    found = why(world(cnp("a", ingress=[{}])), WEB)
    assert found.nearest is None
    assert found.reason.endswith("k8s:io.kubernetes.pod.namespace=shop)")


def test_default_deny_by_mode_is_told_from_one_by_policy():
    found = why(world(mode="always"), WEB, direction=OUT)
    assert found.reason.startswith("egress is enforced, and no policy allows 80/TCP to identity 300")
    assert found.rules == ()


def test_many_policies_are_counted():
    repo = world(*(cnp(f"p{number}", ingress=[{}]) for number in range(7)))
    assert why(repo, WEB).reason.startswith("no rule of these 7 policies allows")
    assert listed("ab", many="x") == "a and b"
    assert listed("abc", many="x") == "a, b and c"


def test_the_local_host_always_gets_in_unless_a_rule_denies_it():
    assert why(world(cnp(ingress=[{}])), HOST).reason == "the local host may always reach its endpoints"
    assert why(world(cnp(ingressDeny=[{"fromEntities": ["host"]}])), HOST).verdict is Outcome.DENIED
    assert why(world(cnp(egress=[{}])), HOST, direction=OUT).verdict is Outcome.DENIED


def test_named_ports_are_the_subjects_at_ingress():
    repo = world(cnp(ingress=[{"toPorts": ports("http/TCP")}]), own_ports=("http=8080/TCP",))
    assert why(repo, WEB, 8080).verdict is Outcome.ALLOWED
    assert why(repo, WEB, 80).verdict is Outcome.DENIED


def test_authentication_that_is_required_fails_closed_and_names_who_requires_it():
    repo = world(cnp("a", ingress=[{**FROM_WEB, "authentication": {"mode": "required"}}]))
    found = why(repo, WEB)
    assert found.verdict is Outcome.DENIED
    assert found.reason == (
        "authentication (spire) is required by CiliumNetworkPolicy shop/a spec.ingress[0], "
        "and the peer has not been proven"
    )
    assert [rule.path for rule in found.rules] == ["spec.ingress[0]"]


def test_a_proxy_judges_requests_and_packets_without_one_are_allowed():
    repo = world(cnp("a", ingress=[{**FROM_WEB, "toPorts": http({"method": "GET", "path": "/pub"})}]))
    packets_only = why(repo, WEB)
    assert (packets_only.verdict, packets_only.l7) == (Outcome.ALLOWED, True)
    assert "a proxy (http) judges requests" in packets_only.reason
    for request, verdict in ((GET, Outcome.ALLOWED), (HttpRequest("POST", "/pub"), Outcome.DENIED)):
        found = why(repo, WEB, request=request)
        assert (found.verdict, found.l7) == (verdict, True)
        assert [rule.path for rule in found.rules] == ["spec.ingress[0].toPorts[0]"]
    assert why(repo, WEB, request=HttpRequest("POST", "/pub")).reason.startswith("POST /pub is not allowed by")
    assert why(repo, DB, request=GET).l7 is False


def test_a_plain_rule_lets_every_request_through_the_proxy():
    narrow = cnp("a", ingress=[{**FROM_WEB, "toPorts": http({"path": "/pub"})}])
    for plain in (FROM_WEB, {**FROM_WEB, "toPorts": ports("80/TCP")}, {"fromEntities": ["all"]}):
        found = why(world(narrow, cnp("b", ingress=[plain])), WEB, request=HttpRequest("POST", "/x"))
        assert (found.verdict, found.l7, [rule.ref.name for rule in found.rules]) == (Outcome.ALLOWED, True, ["b"])


def test_rules_of_requests_hold_although_nobody_asks_for_default_deny():
    rule = {**FROM_WEB, "toPorts": http({"path": "/pub"})}
    repo = world(cnp("a", ingress=[rule], enableDefaultDeny={"ingress": False}))
    assert why(repo, WEB, request=HttpRequest("GET", "/x")).verdict is Outcome.DENIED
    assert why(repo, WEB, 81).verdict is Outcome.ALLOWED
    assert why(repo, DB, request=HttpRequest("GET", "/x")).verdict is Outcome.ALLOWED


def test_rules_of_requests_do_not_bind_the_local_host():
    repo = world(cnp("a", ingress=[{"toPorts": http({"path": "/pub"})}]))
    found = why(repo, HOST, request=HttpRequest("POST", "/x"))
    assert (found.verdict, found.reason) == (Outcome.ALLOWED, "the local host may always reach its endpoints")
    assert why(repo, 6, request=HttpRequest("POST", "/x")).verdict is Outcome.DENIED


def test_a_deny_is_stronger_than_a_proxy():
    repo = world(cnp(ingress=[{**FROM_WEB, "toPorts": http({})}], ingressDeny=[FROM_WEB]))
    found = why(repo, WEB, request=GET)
    assert (found.verdict, found.l7) == (Outcome.DENIED, False)


def test_requests_of_another_protocol_do_not_pass():
    repo = world(cnp(ingress=[{**FROM_WEB, "toPorts": http({})}]))
    assert why(repo, WEB, request=KafkaRequest(0)).verdict is Outcome.DENIED
    assert why(repo, WEB, request="a.example").reason.startswith("the name a.example is not allowed by")


def test_of_two_protocols_at_a_port_only_that_of_the_proxy_passes():
    kafka = [{**ports("80/TCP")[0], "rules": {"kafka": [{"topic": "t"}]}}]
    both = cnp("a", ingress=[{**FROM_WEB, "toPorts": kafka}, {**FROM_WEB, "toPorts": http({"path": "/pub"})}])
    fetch = KafkaRequest(1, topics=("t",))
    assert why(world(both), WEB, request=fetch).verdict is Outcome.DENIED  # by the proxy for HTTP
    assert why(world(both), WEB, request=HttpRequest("GET", "/pub")).verdict is Outcome.ALLOWED
    assert why(world(both), WEB, request=HttpRequest("GET", "/x")).verdict is Outcome.DENIED
    assert why(world(both), WEB).reason.endswith("; a proxy (http) judges requests")
    assert why(world(cnp("a", ingress=[{**FROM_WEB, "toPorts": kafka}])), WEB, request=fetch).verdict is Outcome.ALLOWED


def test_server_names_are_compared_with_the_host_of_a_request():
    element = {**ports("443/TCP")[0], "serverNames": ["*.shop.example"]}
    repo = world(cnp(egress=[{"toPorts": [element]}]))
    asked = {"direction": OUT, "port": 443}
    assert why(repo, WEB, request=HttpRequest(host="a.shop.example:443"), **asked).verdict is Outcome.ALLOWED
    assert why(repo, WEB, request=HttpRequest(host="shop.example"), **asked).verdict is Outcome.DENIED
    assert why(repo, WEB, **asked).l7


def test_an_audited_endpoint_gets_packets_but_not_requests():
    repo = world(cnp("a", ingress=[{**FROM_WEB, "toPorts": http({"path": "/pub"})}]))
    found = why(repo, DB, audited=True)
    assert found.verdict is Outcome.AUDIT
    assert found.reason.startswith("passes, as the endpoint is only audited: no rule of CiliumNetworkPolicy shop/a")
    assert why(repo, WEB, request=HttpRequest("GET", "/x"), audited=True).verdict is Outcome.DENIED


def test_a_policy_that_only_audits_is_named_and_denies_nothing():
    repo = world(audit(cnp("a", ingress=[FROM_WEB])))
    assert why(repo, WEB).verdict is Outcome.ALLOWED
    found = why(repo, DB)
    assert found.verdict is Outcome.AUDIT
    assert found.reason.startswith("passes, as CiliumNetworkPolicy shop/a only audits: no rule of ")
    assert [rule.ref.name for rule in found.rules] == ["a"]


def test_what_is_enforced_is_denied_whatever_is_audited():
    repo = world(audit(cnp("a", ingress=[{}])), cnp("b", ingress=[FROM_WEB]))
    assert why(repo, DB).verdict is Outcome.DENIED
    assert why(repo, WEB).verdict is Outcome.ALLOWED  # by both of them


def test_requests_that_an_audited_rule_would_refuse_are_told():
    repo = world(audit(cnp("a", ingress=[{**FROM_WEB, "toPorts": http({"path": "/pub"})}])))
    assert why(repo, WEB).l7
    assert why(repo, WEB, request=GET).verdict is Outcome.ALLOWED
    assert why(repo, WEB, request=HttpRequest("GET", "/x")).verdict is Outcome.AUDIT


def test_a_rule_that_is_audited_is_no_nearest_rule_of_what_is_enforced():
    repo = world(audit(cnp("a", ingress=[{"toPorts": ports("80/TCP")}])), cnp("b", ingress=[{}]))
    found = why(repo, WEB)
    assert (found.verdict, found.nearest) == (Outcome.DENIED, None)


def test_clusterwide_policies_are_named_without_a_namespace():
    assert why(world(ccnp("all", ingress=[{}])), WEB).reason.startswith(
        "no rule of CiliumClusterwideNetworkPolicy all allows"
    )


@pytest.mark.slow
@given(found=st.lists(documents(), max_size=3), subject=st.sampled_from(tuple(PODS)))
@settings(max_examples=examples(25), deadline=None)
def test_the_verdict_is_that_of_the_lookup_and_every_deny_says_whose_it_is(found, subject):
    found = list({(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]): d for d in found}.values())
    repo = repository(*found, subjects=[subject])
    state, plane = repo.state(subject), repo.state(subject | AUDIT_PLANE)
    judge = Judge(repo)
    for number, (labels, _) in IDENTITIES.items():
        for direction in Direction:
            for protocol, port in packets(found):
                case = judge.case_of(subject, PeerIdentity(number, labels), Traffic(direction, protocol, port))
                told = case.explain()
                decided = lookup(state.entry, number, direction, protocol, port)
                if decided.reason is not None:
                    assert told.verdict is Outcome.DENIED
                elif plane is None:
                    assert (told.verdict, told.l7) == (Outcome.ALLOWED, decided.proxied)
                else:
                    strict = lookup(plane.entry, number, direction, protocol, port)
                    assert (told.verdict is Outcome.AUDIT) == (strict.reason is not None)
                assert told.rules or told.verdict is Outcome.ALLOWED
                assert told.reason
                # A port that no rule tells from another has its verdict, word for word but for the port.
                edges = port_edges(repo, subject, direction, protocol, ALL_PORTS)
                alike = max((edge for edge in edges if edge <= port), default=0)
                other = Judge(repo).case_of(subject, PeerIdentity(number, labels), Traffic(direction, protocol, alike))
                assert other.at(Traffic(direction, protocol, port)).explain() == told
