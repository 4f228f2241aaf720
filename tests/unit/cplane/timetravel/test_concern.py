"""A policy that is about somebody is never taken for one that cannot be."""

import json
from random import Random

import pytest

from cplane.domain.labels import CLUSTER_KEY, NAMESPACE_KEY, LabelSet
from cplane.events.policy import PolicyUpserted
from cplane.timetravel.concern import may_concern
from tests.support.builders import ccnp, cnp, knp, policy, selector

API = LabelSet.parse(["k8s:app=api", "k8s:tier=", f"k8s:{NAMESPACE_KEY}=shop", f"k8s:{CLUSTER_KEY}=c1"])
VALUES = frozenset({"api", "", "shop", "c1"})
WITHOUT = {key: value for key, value in knp("a").items() if key != "spec"}


def concerns(document) -> bool:
    found = policy(document).ref
    text = json.dumps(document)
    event = PolicyUpserted(kind=found.kind, namespace=found.namespace, name=found.name, document=text)
    return may_concern(event, VALUES)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (cnp(subject=selector("app=api"), ingress=[{}]), True),
        (cnp(subject=selector("app=web"), ingress=[{}]), False),
        (cnp(subject={}, ingress=[{}]), True),
        (cnp(subject=selector("app=api", f"k8s:{NAMESPACE_KEY}=other"), ingress=[{}]), True),
        (cnp(subject=selector("app=api", f"{NAMESPACE_KEY}=other"), ingress=[{}]), False),
        (ccnp(subject=selector("app=web"), ingress=[{}]), False),
        (knp(podSelector=selector("app=web")), False),
        (knp(podSelector={}), True),
        (WITHOUT, True),
        ({**WITHOUT, "spec": None}, True),
    ],
)
def test_who_a_policy_may_be_about_is_told_from_the_labels_it_matches(document, expected) -> None:
    assert concerns(document) is expected


def test_a_policy_that_selects_somebody_concerns_them() -> None:
    chance = Random(3)
    keys = ["app", "k8s:app", "any:app", "tier", NAMESPACE_KEY, f"k8s:{NAMESPACE_KEY}", f"any:{NAMESPACE_KEY}"]
    seen = set()
    for _ in range(400):
        labels = {key: chance.choice(["api", "web", "", "shop", "other"]) for key in chance.sample(keys, 2)}
        document = cnp(subject={"matchLabels": labels}, ingress=[{}])
        selected = any(rule.subject.matches(API) for rule in policy(document).rules)
        assert concerns(document) or not selected, labels
        seen.add((selected, concerns(document)))
    assert seen >= {(True, True), (False, False)}
