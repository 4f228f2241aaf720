"""Questions about the address of a service are about its backends."""

import pytest

from cplane.cli.why_text import lines
from cplane.deciders.node import SetNodeAddresses
from cplane.deciders.service import ApplyServices, SetBackendState
from cplane.domain.ports import Protocol
from cplane.domain.service import Backend, Backends, BackendState, Frontend, FrontendKind, Service, ServiceName
from cplane.timetravel.flows import pick_flow
from cplane.timetravel.served import JUDGED_MAX
from cplane.timetravel.traffic import question_of
from cplane.timetravel.when import instant
from cplane.timetravel.why import Why, why, why_flow
from tests.support.builders import ports, selector
from tests.support.flow_lines import line
from tests.support.scenario import pod
from tests.support.story import Story, applied

NAME = ServiceName("shop", "web")
VIP, NODE4, OUTSIDE = "10.96.0.10", "198.51.100.1", "198.51.100.2"
FROM_OTHERS = [{"fromEndpoints": [selector("app=other")], "toPorts": ports("8080/TCP")}]
PODS = {"client": 10, "one": 11, "two": 12}


@pytest.fixture
def told() -> Story:
    made = Story(
        *(pod(name, f"k8s:app={name}", ifindex=index, netns_cookie=index) for name, index in PODS.items()),
        SetNodeAddresses(addresses=(NODE4,)),
    )
    found = {name: f"10.244.0.{2 + place}" for place, name in enumerate(PODS)}
    assert {name: asked(made, to=address).destination.name for name, address in found.items() if name != "client"} == {
        name: f"shop/{name}" for name in found if name != "client"
    }
    return made


ONE, TWO = "10.244.0.3", "10.244.0.4"


def asked(told: Story, *, to: str = VIP, source: str = "shop/client", port: str = "80/TCP") -> Why:
    question = question_of(source=source, destination=to, port=port)
    return why(told.history, told.entries[-1].recorded_at_ns + 1, question)


def served(
    *backends: str,
    at: str = VIP,
    kind: FrontendKind = FrontendKind.CLUSTER_IP,
    name: ServiceName = NAME,
    **more: object,
) -> ApplyServices:
    front = Frontend(at, 80, Protocol.TCP, kind)
    made = Service(name=name, frontends=(front,), **more)  # type: ignore[arg-type]
    return ApplyServices(
        services=(made,), backends=(Backends(name, "s", tuple(Backend(one, 8080, Protocol.TCP) for one in backends)),)
    )


def test_of_the_backends_the_one_that_fares_worst_is_judged(told: Story) -> None:
    told.do(served(ONE, TWO))
    assert (asked(told).verdict, asked(told).traffic) == ("ALLOWED", "8080/TCP")
    told.do(applied("two", "two", ingress=FROM_OTHERS))
    found = asked(told)
    assert (found.verdict, found.destination.name, found.direction) == ("DENIED", "shop/two", "ingress")
    assert found.turned is not None and found.turned.object == "policy CiliumNetworkPolicy/shop/two"
    assert found.service is not None
    assert (found.service.name, found.service.frontend) == ("shop/web", f"{VIP}:80/TCP")
    assert (found.service.backend, found.service.backends, found.service.left) == (f"{TWO}:8080/TCP", 2, 0)
    assert f"  connections go to one of 2 backends; judged is the worst off, {TWO}:8080/TCP" in list(lines(found))


def test_backends_that_take_no_connections_are_not_asked(told: Story) -> None:
    told.do(served(ONE, TWO), applied("two", "two", ingress=FROM_OTHERS))
    told.do(SetBackendState(address=TWO, port=8080, protocol=Protocol.TCP, state=BackendState.MAINTENANCE))
    found = asked(told)
    assert (found.verdict, found.destination.name) == ("ALLOWED", "shop/one")
    told.do(served())
    found = asked(told)
    assert found.service is not None and (found.service.backend, found.service.backends) == ("", 0)
    assert "  no backend takes connections: they are refused before a policy is asked" in list(lines(found))


def test_a_world_that_may_be_reached_is_not_the_backend_of_a_service(told: Story) -> None:
    told.do(applied("client", "client", egress=[{"toEntities": ["world"]}]))
    assert asked(told).verdict == "ALLOWED"
    told.do(served(ONE))
    assert (asked(told).verdict, asked(told).direction) == ("DENIED", "egress")


@pytest.mark.parametrize(("port", "to"), [("81/TCP", VIP), ("80/UDP", VIP), ("80/TCP", "10.96.0.11"), ("ICMP:8", VIP)])
def test_what_is_no_frontend_is_an_address_like_others(told: Story, port: str, to: str) -> None:
    told.do(served(ONE))
    found = asked(told, to=to, port=port)
    assert (found.service, found.destination.name) == (None, to)


def test_the_nodes_ports_are_at_its_addresses(told: Story) -> None:
    told.do(served(ONE, at="0.0.0.0", kind=FrontendKind.NODE_PORT))
    for source in ("shop/client", OUTSIDE):
        found = asked(told, to=NODE4, source=source)
        assert found.destination.name == "shop/one"
        assert found.service is not None and found.service.frontend == f"{NODE4}:80/TCP"
    assert asked(told, to=OUTSIDE).service is None


def test_cluster_addresses_are_not_served_to_who_is_outside(told: Story) -> None:
    told.do(served(ONE))
    assert asked(told, source=OUTSIDE).service is None
    assert asked(told, source="node").service is not None


def test_a_pod_that_others_are_redirected_to_reaches_what_was_meant(told: Story) -> None:
    cache = ServiceName("shop", "cache")
    redirect = served(ONE, name=cache, kind=FrontendKind.LOCAL_REDIRECT, skip_backends=True)
    told.do(served(TWO), redirect)
    for source, reached in (("shop/client", "shop/one"), ("shop/one", "shop/two")):
        assert asked(told, source=source).destination.name == reached


def test_pods_that_fare_alike_are_judged_once_and_of_many_others_some(told: Story) -> None:
    others = [f"192.0.2.{number}" for number in range(1, JUDGED_MAX + 5)]
    told.do(served(ONE, *others))
    found = asked(told)
    assert found.service is not None
    assert (found.service.backends, found.service.left) == (len(others) + 1, 5)


def test_what_a_socket_asked_for_is_no_verdict(told: Story) -> None:
    at = told.do(served(ONE), applied("one", "one", ingress=FROM_OTHERS))
    ends = {"source": {"namespace": "shop", "pod_name": "client"}, "destination": {}}
    place = {"source": "10.244.0.2", "destination": VIP}
    time = instant(told.entries[-1].recorded_at_ns)
    flow = line(verdict="TRACED", IP=place, extensions={"position": str(at)}, time=time, **ends)
    found = why_flow(told.history, pick_flow([flow], ""))
    assert (found.verdict, found.destination.name) == ("DENIED", "shop/one")
    assert found.flow is not None
    assert found.flow.note == "it is what a socket asked for, before there was a packet to judge"
