"""What references stand for: groups of prefixes, services, names."""

from ipaddress import ip_network

import pytest

from cplane.domain.labels import NAMESPACE_KEY, LabelSet
from cplane.domain.policy.directory import Directory, Service
from cplane.domain.policy.dns import DnsRule
from cplane.domain.policy.rule import CloudRef, GroupRef, ServiceRef
from cplane.domain.selectors import CidrSelector, LabelSelector, Operator, Requirement
from tests.support.builders import group, parsed

TEN, TEN_ONE, DOC = (ip_network(text) for text in ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24"))
TEAM_A = LabelSelector((Requirement("any", "team", Operator.IN, ("a",)),))


def directory():
    found = Directory()
    found.set_group("g", parsed(group("g", str(TEN), str(DOC))))
    found.set_group("h", parsed(group("h", str(DOC), labels={"team": "a"})))
    found.set_service(Service("shop", "pods", LabelSet.parse(["k8s:team=a"]), (("app", "web"), ("v", "1"))))
    found.set_service(Service("shop", "out", LabelSet(), (), ("192.0.2.7", "2001:db8::1")))
    found.set_service(Service("other", "pods", LabelSet.parse(["k8s:team=a"]), (("app", "api"),)))
    return found


def pods(namespace, *pairs):
    where = Requirement("k8s", NAMESPACE_KEY, Operator.IN, (namespace,))
    return LabelSelector.of((where, *(Requirement("k8s", key, Operator.IN, (value,)) for key, value in pairs)))


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        (GroupRef("g"), {CidrSelector(TEN), CidrSelector(DOC)}),
        (GroupRef("g", None, (TEN_ONE,)), {CidrSelector(TEN, (TEN_ONE,)), CidrSelector(DOC)}),
        (GroupRef("", TEAM_A), {CidrSelector(DOC)}),
        (GroupRef("", LabelSelector()), {CidrSelector(TEN), CidrSelector(DOC)}),
        (GroupRef("missing"), set()),
        (ServiceRef("shop", "pods"), {pods("shop", ("app", "web"), ("v", "1"))}),
        (
            ServiceRef("shop", "out"),
            {CidrSelector(ip_network("192.0.2.7/32")), CidrSelector(ip_network("2001:db8::1/128"))},
        ),
        (ServiceRef("", "pods"), {pods("shop", ("app", "web"), ("v", "1")), pods("other", ("app", "api"))}),
        (ServiceRef("other", "", TEAM_A), {pods("other", ("app", "api"))}),
        (ServiceRef("other", "out"), set()),
        (CloudRef("aws r"), set()),
        (DnsRule("a.example.", ""), {LabelSelector((Requirement("fqdn", "a.example", Operator.EXISTS),))}),
        (DnsRule("", "*.example"), {LabelSelector((Requirement("fqdn", "*.example", Operator.EXISTS),))}),
        (DnsRule(), set()),
        (CidrSelector(TEN), {CidrSelector(TEN)}),
    ],
)
def test_a_reference_stands_for_the_selectors_of_what_exists(peer, expected):
    found = directory().expand(peer)
    assert set(found) == expected
    assert len(found) == len(expected)


def test_a_group_that_is_gone_is_nobody():
    found = directory()
    found.set_group("g", None)
    found.set_group("never", None)
    assert found.expand(GroupRef("g")) == ()


def test_references_say_what_they_refer_to():
    assert str(GroupRef("g", None, (TEN_ONE,))) == "group g,!10.1.0.0/16"
    assert str(GroupRef("", TEAM_A)) == "group team=a"
    assert str(ServiceRef("", "s")) == "service */s"
    assert str(ServiceRef("n", "", TEAM_A)) == "service n/team=a"
    assert str(CloudRef("aws r")) == "cloud group aws r"
    assert str(DnsRule("a.example.", "")) == "a.example"
