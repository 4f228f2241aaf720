"""What a cookie stands for, also after its rule has changed or gone."""

import pytest

from cplane.domain.policy.mapstate import Origin
from cplane.domain.policy.rule import PolicyRef
from cplane.projections import cookies
from cplane.projections.cookies import Cookies
from cplane.projections.policymap import PolicyMapProjection
from tests.support.builders import DUAL_STACK, allocated, cnp, deleted, pod_labels, policy, ports, upserted
from tests.support.scenario import endpoint_created

LABELS = pod_labels("app=api")
ALLOW = {"ingress": [{"toPorts": ports("80/TCP")}]}
REF = "CiliumNetworkPolicy shop/p"


def projection(*events):
    found = PolicyMapProjection()
    for event in (DUAL_STACK, allocated(301, LABELS), *events):
        found.apply(event)
    endpoint = endpoint_created(endpoint=1, ipv4="", ipv6="", identity=301, labels=LABELS.texts())
    found.apply(endpoint)
    return found


def cookies_of(found):
    return {row.cookie for row in found.table().values()} - {0}


def test_a_cookie_stands_for_a_term_and_its_rule():
    found = projection(upserted(cnp(**ALLOW)))
    (cookie,) = cookies_of(found)
    assert found.origins(cookie) == (Origin(REF, "spec.ingress[0]"),)
    assert found.rules(cookie) == policy(cnp(**ALLOW)).rules


def test_a_rule_that_is_gone_is_known_a_while():
    found = projection(upserted(cnp(**ALLOW)))
    (cookie,) = cookies_of(found)
    found.apply(deleted(cnp(**ALLOW)))
    assert cookies_of(found) == set()
    assert found.rules(cookie) == policy(cnp(**ALLOW)).rules


def test_a_rule_that_was_written_anew_reads_as_it_does_now():
    found = projection(upserted(cnp(**ALLOW)))
    (cookie,) = cookies_of(found)
    again = cnp(log={"value": "seen"}, **ALLOW)
    assert not found.apply(upserted(again)), "the rows say the same"
    assert found.rules(cookie) == policy(again).rules


def test_what_the_language_adds_has_no_rule():
    found = projection(upserted(cnp(enableDefaultDeny={"ingress": False}, ingress=[{"fromEntities": ["all"]}])))
    (cookie,) = cookies_of(found)
    assert found.origins(cookie) == (Origin("", ""), Origin(REF, "spec.ingress[0]"))
    assert len(found.rules(cookie)) == 1


def test_what_is_gone_is_forgotten_when_there_is_much_of_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cookies, "_KEPT_MIN", 8)
    found = projection()
    for number in range(100):
        document = cnp(f"p{number}", ingress=[{"toPorts": ports(f"{number + 1}/TCP")}])
        found.apply(upserted(document))
        found.apply(deleted(document))
    held: Cookies = found._cookies
    assert len(held._made) <= 9 + len(found.table()) * 2
    assert len(held._rules) <= 4096


def test_rules_of_policies_that_are_there_are_never_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cookies, "_KEPT_MIN", 4)
    held = Cookies()
    there = {PolicyRef("CiliumNetworkPolicy", "shop", f"p{number}") for number in range(10)}
    for number in range(40):
        held.write(policy(cnp(f"p{number}", **ALLOW)), there)
    assert {ref for ref, _ in held._rules} >= there
    assert len(held._rules) <= 2 * len(there) + 1
