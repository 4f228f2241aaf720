"""What flows are told of a verdict follows from the policies that are in force."""

import json

import pytest

from cplane.agent.observed import Observed
from cplane.deciders.config import ChangeOptions
from cplane.deciders.endpoint import DeleteEndpoint
from cplane.deciders.node import SetNodeAddresses
from cplane.deciders.policy import ApplyPolicies
from cplane.deciders.service import ApplyServices, DeleteServices
from cplane.deciders.world import Command
from cplane.domain.policy.parse import AUDIT_ANNOTATION
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.ports import Protocol
from cplane.domain.service import Frontend, FrontendKind, Service, ServiceName
from cplane.hubble.attribution import NO_POLICY, POLICIES_MAX, Attribution
from cplane.hubble.endpoint import Service as Named
from cplane.hubble.parser.getters import NetnsOwner
from cplane.projections.tables import POLICY
from tests.support.builders import Document, ccnp, cnp, ports, selector
from tests.support.engine import ListEngine
from tests.support.packets import packed
from tests.support.scenario import pod

WEB, CLIENT = 1, 2  # endpoints


def engine_with(*documents: Document) -> ListEngine:
    engine = ListEngine(pod("web", "k8s:app=web", ifindex=10), pod("client", "k8s:app=client", ifindex=11))
    if documents:
        apply(engine, *documents)
    return engine


def apply(engine: ListEngine, *documents: Document) -> None:
    engine.execute(ApplyPolicies(documents=tuple(json.dumps(one) for one in documents)), actor="test")


def cookie(engine: ListEngine, *, deny: bool = False) -> int:
    """That of the one entry which a rule has made."""
    (found,) = {row.cookie for row in engine.desired(POLICY).values() if row.cookie and row.deny == deny}
    return found


def names(found: Attribution) -> list[str]:
    return [f"{one.kind} {one.namespace}/{one.name}" for one in found.policies]


def by_default(engine: ListEngine, endpoint: int = WEB, *, egress: bool = False, audited: bool = False) -> list[str]:
    return names(Observed(engine).denied_by_default(endpoint, egress=egress, audited=audited))  # type: ignore[arg-type]


def about(app: str, name: str, **rule: object) -> Document:
    return cnp(name, subject=selector(f"app={app}"), **rule)


def audited(document: Document) -> Document:
    return {**document, "metadata": {**document["metadata"], "annotations": {AUDIT_ANNOTATION: "true"}}}


ALLOW = {"ingress": [{"fromEndpoints": [selector("app=client")], "toPorts": ports("80/TCP")}]}


def test_a_cookie_names_the_policy_its_labels_its_revision_and_its_log():
    document = about("web", "allow", log={"value": "let in"}, labels=[{"key": "team", "value": "a"}], **ALLOW)
    document["metadata"]["uid"] = "0-1"
    engine = engine_with(document)
    found = Observed(engine).decided_by(cookie(engine))
    (named,) = found.policies
    assert (named.kind, named.namespace, named.name, named.revision) == ("CiliumNetworkPolicy", "shop", "allow", 1)
    assert named.labels == (
        "k8s:io.cilium.k8s.policy.derived-from=CiliumNetworkPolicy",
        "k8s:io.cilium.k8s.policy.name=allow",
        "k8s:io.cilium.k8s.policy.namespace=shop",
        "k8s:io.cilium.k8s.policy.uid=0-1",
        "unspec:team=a",
    )
    assert found.log == ("let in",)


def test_a_cookie_that_several_made_names_all_of_them_once():
    twice = {**about("web", "twice"), "specs": [about("web", "", **ALLOW)["spec"]] * 2}
    del twice["spec"]
    engine = engine_with(about("web", "allow", **ALLOW), twice)
    found = Observed(engine).decided_by(cookie(engine))
    assert names(found) == ["CiliumNetworkPolicy shop/allow", "CiliumNetworkPolicy shop/twice"]


def test_what_a_rule_wants_logged_is_what_it_says_now():
    engine = engine_with(about("web", "allow", **ALLOW))
    before = cookie(engine)
    apply(engine, about("web", "allow", log={"value": "seen"}, **ALLOW))
    assert cookie(engine) == before
    assert Observed(engine).decided_by(before).log == ("seen",)


def test_a_kubernetes_policy_may_call_itself_otherwise():
    engine = engine_with(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "generated-1", "namespace": "shop", "annotations": {"policy.cilium.io/name": "mine"}},
            "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]},
        }
    )
    assert names(Observed(engine).decided_by(cookie(engine))) == ["NetworkPolicy shop/mine"]


def test_a_default_deny_is_that_of_the_policies_that_ask_for_it_in_its_direction():
    engine = engine_with(
        about("web", "allow", **ALLOW),
        about("web", "silent", enableDefaultDeny={"ingress": False}, **ALLOW),
        ccnp("all", egress=[{}]),
        about("client", "other", ingress=[{}]),
    )
    assert by_default(engine) == ["CiliumNetworkPolicy shop/allow"]
    assert by_default(engine, egress=True) == ["CiliumClusterwideNetworkPolicy /all"]
    assert by_default(engine, CLIENT) == ["CiliumNetworkPolicy shop/other"]
    assert by_default(engine, 99) == []


def test_an_audited_default_deny_is_that_of_the_audited_policy_unless_another_enforces_it():
    trial = audited(about("web", "trial", ingress=[{}]))
    engine = engine_with(trial)
    assert by_default(engine) == [], "it drops nothing"
    assert by_default(engine, audited=True) == ["CiliumNetworkPolicy shop/trial"]
    apply(engine, about("web", "allow", **ALLOW))
    assert by_default(engine, audited=True) == ["CiliumNetworkPolicy shop/allow"]


def test_nobody_asked_for_the_default_deny_of_the_always_mode():
    engine = engine_with()
    engine.execute(ChangeOptions(policy_enforcement="always"), actor="test")
    assert by_default(engine) == by_default(engine, audited=True) == []


def test_an_unknown_cookie_is_nobodys():
    assert Observed(engine_with()).decided_by(4711) == NO_POLICY


@pytest.mark.slow
def test_a_flow_names_no_more_policies_than_fit():
    many = [about("web", f"p{number:03}", log={"value": f"p{number}"}, **ALLOW) for number in range(POLICIES_MAX + 8)]
    engine = engine_with(*many)
    found = Observed(engine).decided_by(cookie(engine))
    assert names(found) == [f"CiliumNetworkPolicy shop/p{number:03}" for number in range(POLICIES_MAX)]
    assert len(found.log) == POLICIES_MAX


OWN, WEB_NETNS = 1, 5011


def about_sockets(*commands: Command) -> Observed:
    pods = (pod("web", "k8s:app=web", ifindex=10, netns_cookie=WEB_NETNS), pod("client", ifindex=11))
    return Observed(ListEngine(*pods, *commands), OWN)  # type: ignore[arg-type]


def test_a_network_namespace_is_an_endpoints_or_the_nodes_or_nobodys():
    observed = about_sockets()
    own = observed.owner_of_netns(WEB_NETNS)
    assert own is not None
    assert own.endpoint_id == WEB
    assert own.addresses == (packed("10.244.0.2"), packed("fd00:10:244::2"))
    assert own.identity == observed.endpoint_by_id(WEB).identity
    host = observed.owner_of_netns(OWN)
    assert host == NetnsOwner(0, 1, (packed("10.244.0.1"), packed("fd00:10:244::1")))
    assert observed.owner_of_netns(77) is None
    assert observed.owner_of_netns(0) is None, "endpoints of which it is not known have 0"


def test_an_endpoint_that_is_gone_owns_nothing():
    engine = ListEngine(pod("web", netns_cookie=WEB_NETNS))
    observed = Observed(engine)
    assert observed.owner_of_netns(WEB_NETNS) is not None
    engine.execute(DeleteEndpoint(container_id="c-web", container_interface="eth0"), actor="test")
    assert observed.owner_of_netns(WEB_NETNS) is None


def test_the_identity_of_an_address_is_not_that_of_a_prefix_around_it():
    observed = about_sockets()
    assert observed.identity_at(4, packed("10.244.0.2")) == observed.endpoint_by_id(WEB).identity
    assert observed.identity_at(6, packed("fd00:10:244::2")) == observed.endpoint_by_id(WEB).identity
    assert observed.identity_at(4, packed("192.0.2.1")) == 0


def test_the_identity_for_an_address_is_that_of_the_longest_prefix_around_it():
    engine = engine_with(
        about("web", "out", egress=[{"toCIDR": ["203.0.113.0/24", "203.0.113.128/25", "2001:db8::/32"]}])
    )
    observed = Observed(engine)
    web = observed.endpoint_by_id(WEB)
    assert observed.identity_within(4, packed(engine.world.endpoints[WEB].ipv4)) == web.identity
    near, far = (observed.identity_within(4, packed(one)) for one in ("203.0.113.1", "203.0.113.129"))
    assert near != far
    assert "cidr:203.0.113.0/24=" in observed.identity_labels(near)
    assert "cidr:203.0.113.128/25=" in observed.identity_labels(far)
    assert "cidr:2001-db8--0/32=" in observed.identity_labels(observed.identity_within(6, packed("2001:db8::1")))
    world = observed.identity_within(4, packed("192.0.2.1"))
    assert any(label.startswith("reserved:world") for label in observed.identity_labels(world))


def test_policies_are_named_with_their_labels_and_without_when_they_are_gone():
    engine = engine_with(about("web", "allow", log={"value": "let in"}, **ALLOW))
    gone = PolicyRef("CiliumNetworkPolicy", "shop", "gone")
    found = Observed(engine).policies_named((PolicyRef("CiliumNetworkPolicy", "shop", "allow"), gone))
    assert names(found) == ["CiliumNetworkPolicy shop/allow", "CiliumNetworkPolicy shop/gone"]
    assert "k8s:io.cilium.k8s.policy.name=allow" in found.policies[0].labels
    assert (found.policies[1].labels, found.policies[1].revision) == ((), 1)
    assert found.log == ("let in",)


def service(name: str, *frontends: Frontend) -> Command:
    return ApplyServices(services=(Service(name=ServiceName("shop", name), frontends=frontends),))


def test_frontends_are_found_by_their_address_and_those_of_all_addresses_at_the_nodes():
    cluster = Frontend("10.96.0.10", 80, Protocol.TCP, FrontendKind.CLUSTER_IP)
    six = Frontend("fd00:96::10", 80, Protocol.TCP, FrontendKind.CLUSTER_IP)
    ported = Frontend("0.0.0.0", 30080, Protocol.TCP, FrontendKind.NODE_PORT)
    here = cluster._replace(kind=FrontendKind.LOCAL_REDIRECT)
    node = SetNodeAddresses(addresses=("192.0.2.10", "2001:db8::10"))
    observed = about_sockets(node, service("web", cluster, six, ported), service("cache", here))
    assert observed.services_at(4, packed("10.96.0.10")) == {(6, 80): Named("cache", "shop")}
    assert observed.services_at(6, packed("fd00:96::10")) == {(6, 80): Named("web", "shop")}
    assert observed.services_at(4, packed("192.0.2.10")) == {(6, 30080): Named("web", "shop")}
    assert observed.services_at(4, packed("10.244.0.2")) == {}, "a pod's"
    assert observed.services_at(6, packed("2001:db8::10")) == {}, "of another family"


def test_services_that_change_are_found_as_they_are():
    engine = ListEngine()
    observed = Observed(engine)
    assert observed.services_at(4, packed("10.96.0.10")) == {}
    engine.execute(service("web", Frontend("10.96.0.10", 80, Protocol.TCP, FrontendKind.CLUSTER_IP)), actor="test")
    assert observed.services_at(4, packed("10.96.0.10")) == {(6, 80): Named("web", "shop")}
    engine.execute(DeleteServices(names=(ServiceName("shop", "web"),)), actor="test")
    assert observed.services_at(4, packed("10.96.0.10")) == {}
