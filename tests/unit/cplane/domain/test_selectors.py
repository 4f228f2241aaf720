"""Selectors judge labels and prefixes."""

from ipaddress import ip_network

import pytest

from cplane.domain.labels import LabelSet
from cplane.domain.selectors import CidrSelector, LabelSelector, Operator, Requirement

WEB = LabelSet.parse(["k8s:app=web", "container:app=nginx", "k8s:tier=", "k8s:replicas=3", "reserved:host"])


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        (Requirement("k8s", "app", Operator.IN, ("web",)), True),
        (Requirement("k8s", "app", Operator.IN, ("nginx",)), False),
        (Requirement("any", "app", Operator.IN, ("nginx",)), True),
        (Requirement("any", "app", Operator.IN, ("x", "web")), True),
        (Requirement("any", "app", Operator.IN, ("x",)), False),
        (Requirement("k8s", "tier", Operator.IN, ("",)), True),
        (Requirement("k8s", "app", Operator.NOT_IN, ("nginx",)), True),
        (Requirement("any", "app", Operator.NOT_IN, ("nginx",)), False),
        (Requirement("k8s", "absent", Operator.NOT_IN, ("x",)), True),
        (Requirement("k8s", "absent", Operator.IN, ("",)), False),
        (Requirement("any", "tier", Operator.EXISTS), True),
        (Requirement("container", "tier", Operator.EXISTS), False),
        (Requirement("container", "tier", Operator.DOES_NOT_EXIST), True),
        (Requirement("reserved", "host", Operator.EXISTS), True),
        (Requirement("k8s", "replicas", Operator.GREATER, ("2",)), True),
        (Requirement("k8s", "replicas", Operator.GREATER, ("3",)), False),
        (Requirement("any", "replicas", Operator.LESS, ("4",)), True),
        (Requirement("container", "replicas", Operator.LESS, ("4",)), False),
        (Requirement("any", "app", Operator.LESS, ("4",)), False),
    ],
)
def test_a_requirement_judges_the_values_under_its_key(requirement, expected):
    assert requirement.matches(WEB) is expected


def test_a_selector_asks_for_all_of_its_requirements():
    both = LabelSelector.of(
        [Requirement("any", "app", Operator.IN, ("web",)), Requirement("any", "tier", Operator.EXISTS)]
    )
    assert both.matches(WEB)
    assert not both.matches(LabelSet.parse(["k8s:app=web"]))
    assert LabelSelector().is_wildcard
    assert LabelSelector().matches(LabelSet())


def test_selectors_that_say_the_same_are_equal():
    one, two = Requirement("any", "a", Operator.EXISTS), Requirement("any", "b", Operator.EXISTS)
    assert LabelSelector((one, two)) == LabelSelector((two, one, two))
    assert hash(LabelSelector((one, two))) == hash(LabelSelector((two, one)))
    ten, twenty = ip_network("10.1.0.0/16"), ip_network("10.2.0.0/16")
    outer = ip_network("10.0.0.0/8")
    assert CidrSelector(outer, (ten, twenty)) == CidrSelector(outer, (twenty, ten, ten))
    assert hash(CidrSelector(outer, (ten, twenty))) == hash(CidrSelector(outer, (twenty, ten)))


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("10.0.0.0/8", True), ("10.2.0.0/16", True), ("10.1.0.0/16", False), ("10.1.2.0/24", False), ("0.0.0.0/0", False),
     ("11.0.0.0/8", False), ("::/0", False)],
)  # fmt: skip
def test_a_prefix_selects_what_lies_in_it_and_in_none_of_its_holes(prefix, expected):
    selector = CidrSelector(ip_network("10.0.0.0/8"), (ip_network("10.1.0.0/16"),))
    assert selector.matches(ip_network(prefix)) is expected
    assert not selector.matches(None)


def test_selectors_say_what_they_select():
    selector = LabelSelector.of(
        [
            Requirement("any", "app", Operator.IN, ("web",)),
            Requirement("k8s", "tier", Operator.NOT_IN, ("a", "b")),
            Requirement("any", "x", Operator.EXISTS),
            Requirement("any", "y", Operator.DOES_NOT_EXIST),
            Requirement("any", "z", Operator.IN, ("a", "b")),
            Requirement("any", "zz", Operator.GREATER, ("1",)),
            Requirement("any", "zzz", Operator.LESS, ("2",)),
        ]
    )
    assert str(selector) == "app=web,x,!y,z in (a,b),zz>1,zzz<2,k8s:tier notin (a,b)"
    assert str(LabelSelector()) == "{}"
    assert str(CidrSelector(ip_network("::/0"), (ip_network("2001:db8::/32"),))) == "::/0,!2001:db8::/32"
