"""All documents of a call or none; the prefixes that policies name have identities while they are named."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from cplane.deciders.policy import (
    PREFIXES_MAX,
    ApplyPolicies,
    DeletePolicies,
    InvalidDocuments,
    NoSuchPolicy,
    TooManyPrefixes,
)
from cplane.domain.identity import LOCAL_MIN
from cplane.domain.policy import PolicyRef
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.policy import PolicyDeleted, PolicyUpserted
from tests.support.builders import audited, cnp, group, knp
from tests.support.effort import examples
from tests.support.scenario import JOIN, given, replayed, when

CLOUD = "groups of a cloud provider are not known here: a deny rule that selects nobody would be wider than written"


def document(name: str, *cidrs: str, **spec: object) -> str:
    """A CiliumNetworkPolicy that lets web reach prefixes."""
    body = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": "web"}},
            "egress": [{"toCIDR": list(cidrs)}],
            **spec,
        },
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


def apply(*documents: str) -> ApplyPolicies:
    return ApplyPolicies(documents=documents)


REF = PolicyRef("CiliumNetworkPolicy", "shop", "a")


def test_a_prefix_gets_an_identity_with_the_first_policy_that_names_it():
    events = when(given(JOIN), apply(document("a", "192.0.2.0/24")))
    assert [type(e) for e in events] == [PolicyUpserted, IdentityAllocated]
    assert events[1] == IdentityAllocated(number=LOCAL_MIN, labels=("cidr:192.0.2.0/24=", "reserved:world-ipv4="))
    world = given(JOIN, apply(document("a", "192.0.2.0/24")))
    assert [type(e) for e in when(world, apply(document("b", "192.0.2.0/24")))] == [PolicyUpserted]


def test_the_last_policy_that_names_a_prefix_takes_its_identity_along():
    world = given(JOIN, apply(document("a", "192.0.2.0/24"), document("b", "192.0.2.0/24")))
    assert [type(e) for e in when(world, DeletePolicies(refs=(REF,)))] == [PolicyDeleted]
    world = given(JOIN, apply(document("a", "192.0.2.0/24")))
    assert [type(e) for e in when(world, DeletePolicies(refs=(REF,)))] == [PolicyDeleted, IdentityReleased]


def test_a_changed_policy_settles_only_the_prefixes_that_changed():
    world = given(JOIN, apply(document("a", "192.0.2.0/24", "198.51.100.0/24")))
    events = when(world, apply(document("a", "192.0.2.0/24", "203.0.113.0/24")))
    assert [type(e) for e in events] == [PolicyUpserted, IdentityReleased, IdentityAllocated]


def test_the_whole_world_needs_no_identity_of_its_own():
    assert [type(e) for e in when(given(JOIN), apply(document("a", "0.0.0.0/0")))] == [PolicyUpserted]


def test_the_same_document_again_changes_nothing():
    assert when(given(JOIN, apply(document("a"))), apply(document("a"))) == []


def test_one_bad_document_refuses_all_and_every_error_names_its_document():
    bad = document("b", "not-a-prefix")
    worse = document("c", nonsense=1)
    with pytest.raises(InvalidDocuments) as refused:
        when(given(JOIN), apply(document("a"), bad, worse))
    assert [index for index, _, _ in refused.value.errors] == [1, 2]
    assert "document 2, spec.egress[0].toCIDR[0]" in str(refused.value)


def test_two_documents_of_one_name_are_refused():
    with pytest.raises(InvalidDocuments, match="CiliumNetworkPolicy shop/a stands in this call more than once"):
        when(given(JOIN), apply(document("a"), document("a", "192.0.2.0/24")))


def test_more_prefixes_than_one_call_may_name_are_refused_whatever_policies_they_are_in():
    prefixes = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(PREFIXES_MAX + 1)]
    with pytest.raises(TooManyPrefixes, match=f"name {PREFIXES_MAX + 1} prefixes, and one call takes {PREFIXES_MAX}"):
        when(given(JOIN), apply(document("a", *prefixes[:9000]), document("b", *prefixes[8000:])))


@pytest.mark.slow
def test_a_call_may_have_thousands_of_consequences():
    """Each of these policies names a prefix of its own, and each prefix is settled by a command of its own."""
    count = examples(10_001)
    policies = [document(f"p{n}", f"10.{n >> 8}.{n & 255}.0/24") for n in range(count)]
    events = when(given(JOIN), apply(*policies))
    assert [sum(isinstance(e, kind) for e in events) for kind in (PolicyUpserted, IdentityAllocated)] == [count] * 2


def test_deleting_a_policy_that_does_not_exist_deletes_none():
    world = given(JOIN, apply(document("a")))
    with pytest.raises(NoSuchPolicy, match=r"shop/zz$"):
        when(world, DeletePolicies(refs=(REF, PolicyRef("CiliumNetworkPolicy", "shop", "zz"))))


def test_a_policy_that_is_looked_for_in_the_wrong_namespace_is_named():
    elsewhere = PolicyRef("CiliumNetworkPolicy", "default", "a")
    with pytest.raises(NoSuchPolicy, match=r"default/a; there is CiliumNetworkPolicy shop/a$"):
        when(given(JOIN, apply(document("a"))), DeletePolicies(refs=(elsewhere,)))


def test_the_events_alone_give_the_same_world():
    history = [
        JOIN,
        apply(document("a", "192.0.2.0/24")),
        apply(document("a", "203.0.113.0/24")),
        DeletePolicies(refs=(REF,)),
    ]
    assert replayed(history) == given(*history)
    assert not given(*history).identities


def text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True)


def test_the_prefixes_of_a_group_have_identities_while_it_is_there():
    events = when(given(JOIN), apply(text(group("g", "192.0.2.0/24", "0.0.0.0/0"))))
    assert [type(e) for e in events] == [PolicyUpserted, IdentityAllocated]
    world = given(JOIN, apply(text(group("g", "192.0.2.0/24"))))
    assert [type(e) for e in when(world, apply(document("a", "192.0.2.0/24")))] == [PolicyUpserted]
    gone = DeletePolicies(refs=(PolicyRef("CiliumCIDRGroup", "", "g"),))
    assert [type(e) for e in when(world, gone)] == [PolicyDeleted, IdentityReleased]


def test_the_exceptions_of_a_rule_about_a_group_have_identities_of_their_own():
    rule = cnp("a", egress=[{"toCIDRSet": [{"cidrGroupRef": "g", "except": ["192.0.2.0/25"]}]}])
    events = when(given(JOIN), apply(text(rule)))
    assert [e.labels[0] for e in events if isinstance(e, IdentityAllocated)] == ["cidr:192.0.2.0/25="]


def test_a_network_policy_is_a_policy():
    block = {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/25"]}}
    events = when(given(JOIN), apply(text(knp("a", egress=[{"to": [block]}]))))
    assert [type(e) for e in events] == [PolicyUpserted, IdentityAllocated, IdentityAllocated]
    assert events[0].kind == "NetworkPolicy"  # type: ignore[union-attr]


def test_what_would_be_enforced_wider_than_written_is_refused_with_its_place():
    deny = cnp("b", egressDeny=[{"toGroups": [{"aws": {}}]}])
    with pytest.raises(InvalidDocuments) as refused:
        when(given(JOIN), apply(document("a"), text(deny)))
    assert refused.value.errors == (
        (
            1,
            "spec.egressDeny[0]",
            CLOUD,
        ),
    )


def test_what_is_enforced_narrower_than_written_is_accepted():
    allow = cnp("a", egress=[{"toGroups": [{"aws": {}}]}])
    assert [type(e) for e in when(given(JOIN), apply(text(allow)))] == [PolicyUpserted]


def test_policies_and_groups_of_one_name_are_two():
    world = given(JOIN, apply(text(cnp("a", ingress=[{}])), text(group("a")), text(knp("a"))))
    assert sorted(ref.kind for ref in world.policies) == ["CiliumCIDRGroup", "CiliumNetworkPolicy", "NetworkPolicy"]


def test_an_annotation_alone_is_a_change():
    plain = cnp("a", ingress=[{}])
    world = given(JOIN, apply(text(plain)))
    assert [type(e) for e in when(world, apply(text(audited(plain))))] == [PolicyUpserted]
    assert not world.policies[PolicyRef("CiliumNetworkPolicy", "shop", "a")].audit
