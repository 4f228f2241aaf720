"""What flows are told of a verdict follows from the policies that are in force."""

import json

import pytest

from cplane.agent.observed import Observed
from cplane.deciders.config import ChangeOptions
from cplane.deciders.policy import ApplyPolicies
from cplane.domain.policy.parse import AUDIT_ANNOTATION
from cplane.hubble.attribution import NO_POLICY, POLICIES_MAX, Attribution
from cplane.projections.tables import POLICY
from tests.support.builders import Document, ccnp, cnp, ports, selector
from tests.support.engine import ListEngine
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
