"""Addresses that have names: who they are to a preview, and what it says of them."""

import json

from cplane.deciders.fqdn import Answer, RecordAnswers
from cplane.deciders.policy import ApplyPolicies
from cplane.timetravel.fork import Fork
from cplane.timetravel.reach import reaches
from tests.support.builders import cnp, ports
from tests.support.scenario import JOIN, given, pod

BY_NAME = {"toFQDNs": [{"matchName": "a.example"}], "toPorts": ports("443/TCP")}
BY_PREFIX = {"toCIDR": ["192.0.2.0/24"], "toPorts": ports("80/TCP")}
TOLD = RecordAnswers(answers=(Answer(1, "a.example.", ("192.0.2.1",), 30, "10.96.0.10", 17),))


def document(*egress: object) -> str:
    return json.dumps(cnp("a", egress=[*egress]))


def forked(before: str, after: str) -> Fork:
    world = given(JOIN, pod("web", "k8s:app=api"), ApplyPolicies(documents=(before,)), TOLD)
    return Fork(world, (after,), ())


def test_an_address_is_who_its_names_make_it_and_others_of_its_prefix_are_who_they_were() -> None:
    fork = forked(document(BY_NAME, BY_PREFIX), document(BY_PREFIX))
    of_name = fork.before.world.fqdn.numbers["192.0.2.1"]
    assert fork.before.identity_at("192.0.2.1") == of_name
    around = fork.before.identity_at("192.0.2.2")
    assert fork.before.labels(around).texts()[0] == "cidr:192.0.2.0/24="
    assert around != of_name
    assert fork.after.identity_at("192.0.2.1") == around
    assert fork.address_of(of_name) == "192.0.2.1"


def test_a_preview_says_which_names_are_reached_no_more() -> None:
    found = reaches(forked(document(BY_NAME, BY_PREFIX), document(BY_PREFIX)))
    lost = [one for one in found.rows if "a.example" in repr(one)]
    assert lost, found
