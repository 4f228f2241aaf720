"""Why traffic between pods of two nodes has its verdict: two histories, each of which says what its node did."""

import pytest

from cplane.deciders.node import JoinNode
from cplane.deciders.service import ApplyServices
from cplane.domain.ports import Protocol
from cplane.domain.service import Backend, Backends, Frontend, Service, ServiceName
from cplane.timetravel.across import WhyAcross, why_across
from cplane.timetravel.history import NoSuchMoment
from cplane.timetravel.traffic import BadQuestion, question_of
from cplane.timetravel.when import instant
from cplane.timetravel.why import NoSuchEnd
from tests.support.builders import ports, selector
from tests.support.scenario import pod
from tests.support.story import Story, applied

FROM_CLIENT = [{"fromEndpoints": [selector("app=client")], "toPorts": ports("80/TCP")}]
FROM_N1 = [{"fromCIDR": ["10.1.0.0/24"], "toPorts": ports("80/TCP")}]
TO_N2 = [{"toCIDR": ["10.2.0.0/24"], "toPorts": ports("80/TCP")}]
LATER = 1 << 62


@pytest.fixture
def n1() -> Story:
    return Story(pod("client", "k8s:app=client"), join=joined("n1", 1))


@pytest.fixture
def n2() -> Story:
    return Story(pod("web", "k8s:app=web", named_ports=("http=80/TCP",)), join=joined("n2", 2))


def joined(name: str, block: int) -> JoinNode:
    return JoinNode(name=name, cluster="default", ipv4_pod_cidr=f"10.{block}.0.0/24", ipv6_pod_cidr="")


def asked(
    n1: Story, n2: Story, *, source: str = "shop/client", to: str = "shop/web", port: str = "80/TCP", at: str = "head"
) -> WhyAcross:
    question = question_of(source=source, destination=to, port=port)
    return why_across({"n1": n1.history, "n2": n2.history}, LATER, question, at=at)


def test_without_policies_both_nodes_let_it_through(n1: Story, n2: Story) -> None:
    found = asked(n1, n2)
    assert (found.verdict, [one.node for one in found.answers]) == ("ALLOWED", ["n1", "n2"])
    assert (found.source, found.destination) == ("shop/client", "shop/web")


def test_a_policy_at_the_destination_decides_there_and_names_its_rule(n1: Story, n2: Story) -> None:
    n2.do(applied("web", "web", ingress=[{"fromCIDR": ["192.0.2.0/24"]}]))
    found = asked(n1, n2)
    assert (found.verdict, found.node, found.direction) == ("DENIED", "n2", "ingress")
    (rule,) = found.answers[1].why.sides[1].rules
    assert rule.policy == "policy CiliumNetworkPolicy/shop/web"
    n2.do(applied("web", "web", ingress=FROM_N1))
    assert asked(n1, n2).verdict == "ALLOWED"


def test_a_policy_at_the_source_decides_first(n1: Story, n2: Story) -> None:
    n1.do(applied("client", "client", egress=[{"toCIDR": ["192.0.2.0/24"]}]))
    n2.do(applied("web", "web", ingress=[{"fromCIDR": ["192.0.2.0/24"]}]))
    found = asked(n1, n2)
    assert (found.verdict, found.node, found.direction) == ("DENIED", "n1", "egress")
    n1.do(applied("client", "client", egress=TO_N2))
    assert asked(n1, n2).node == "n2"


def test_who_let_it_through_is_said_where_only_one_side_has_rules(n1: Story, n2: Story) -> None:
    n2.do(applied("web", "web", ingress=FROM_N1))
    found = asked(n1, n2)
    assert (found.verdict, found.node, found.direction) == ("ALLOWED", "n2", "ingress")


def test_a_node_that_knew_the_other_pod_as_the_world_says_so(n1: Story, n2: Story) -> None:
    n2.do(applied("web", "web", ingress=FROM_CLIENT))
    found = asked(n1, n2)
    assert (found.verdict, found.node) == ("DENIED", "n2")
    address = found.answers[0].why.source.address
    assert any(note.startswith(f"n2 knew {address} as reserved:world, and not as shop/client") for note in found.notes)


def test_each_node_is_asked_about_the_same_time(n1: Story, n2: Story) -> None:
    shut = n2.do(applied("web", "web", ingress=[{"fromCIDR": ["192.0.2.0/24"]}]))
    n2.do(applied("web", "web", ingress=FROM_N1))
    at_ns = n2.entries[shut - 1].recorded_at_ns
    found = asked(n1, n2, at=instant(at_ns))
    assert (found.verdict, found.answers[1].why.position) == ("DENIED", shut)
    assert n1.entries[found.answers[0].why.position - 1].recorded_at_ns <= at_ns


def test_a_named_port_is_that_of_the_destination(n1: Story, n2: Story) -> None:
    n1.do(applied("client", "client", egress=TO_N2))
    assert asked(n1, n2, port="http/TCP").verdict == "ALLOWED"
    with pytest.raises(NoSuchEnd, match="no port named 'nope'"):
        asked(n1, n2, port="nope/TCP")


def test_an_end_may_be_an_address(n1: Story, n2: Story) -> None:
    address = asked(n1, n2).answers[1].why.destination.address
    n2.do(applied("web", "web", ingress=[{"fromCIDR": ["192.0.2.0/24"]}]))
    found = asked(n1, n2, to=address)
    assert (found.verdict, found.node, [one.node for one in found.answers]) == ("DENIED", "n2", ["n1", "n2"])


def test_ends_of_one_node_and_ends_outside_are_that_nodes_alone(n1: Story, n2: Story) -> None:
    n1.do(pod("db", "k8s:app=db", ifindex=11), applied("db", "db", ingress=FROM_CLIENT))
    for to, port, verdict in (("shop/db", "80/TCP", "ALLOWED"), ("shop/db", "81/TCP", "DENIED")):
        found = asked(n1, n2, to=to, port=port)
        assert (found.verdict, [one.node for one in found.answers]) == (verdict, ["n1"])
    assert [one.node for one in asked(n1, n2, to="192.0.2.1").answers] == ["n1"]
    assert [one.node for one in asked(n1, n2, source="192.0.2.1").answers] == ["n2"]


def test_of_two_nodes_that_have_a_pod_of_one_name_the_younger_one_counts(n1: Story, n2: Story) -> None:
    for number in range(3):
        n1.do(applied("aside", f"aside-{number}", ingress=FROM_CLIENT))
    n1.do(pod("web", "k8s:app=web", ifindex=11))
    found = asked(n1, n2)
    assert [one.node for one in found.answers] == ["n1"]
    assert found.notes == ("n2 has shop/web too, which is older than that of n1: it was not asked",)


def test_what_cannot_be_asked_is_refused_with_a_reason(n1: Story, n2: Story) -> None:
    with pytest.raises(NoSuchEnd, match="there is no pod shop/nobody now on any of the nodes"):
        asked(n1, n2, to="shop/nobody")
    with pytest.raises(NoSuchMoment, match="position 3 is of one node's log"):
        asked(n1, n2, at="3")
    with pytest.raises(BadQuestion, match="neither end is a pod of any node"):
        asked(n1, n2, source="192.0.2.1", to="192.0.2.2")
    with pytest.raises(NoSuchEnd, match="there is no pod shop/client at 2020-01-01"):
        asked(n1, n2, at="2020-01-01T00:00:00Z")


def test_that_a_backend_may_be_of_another_node_is_said(n1: Story, n2: Story) -> None:
    remote, vip = asked(n1, n2).answers[1].why.destination.address, "10.96.0.1"
    local = asked(n1, n2).answers[0].why.source.address
    for backend, notes in ((remote, 1), (local, 0)):
        name = ServiceName("shop", "web")
        made = Service(name=name, frontends=(Frontend(vip, 80, Protocol.TCP),))
        n1.do(ApplyServices(services=(made,), backends=(Backends(name, "s", (Backend(backend, 80, Protocol.TCP),)),)))
        found = asked(n1, n2, to=vip)
        assert len(found.notes) == notes
        assert all(note.startswith(f"{remote} serves shop/web and is no pod of the node") for note in found.notes)
