"""Addresses that policies name by a service without a selector have identities, as long as that is so."""

import json

import pytest

from cplane.deciders.policy import ApplyPolicies, DeletePolicies, PolicyState
from cplane.deciders.prefixes import by_services
from cplane.deciders.service import ApplyServices, DeleteServices
from cplane.deciders.servicestate import ServiceState
from cplane.deciders.world import World, facts
from cplane.domain.cidr import Prefix
from cplane.domain.policy import PolicyRef
from cplane.domain.ports import Protocol
from cplane.domain.service import Backend, Backends, Frontend, Service, ServiceName
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.projections.tables import IPCACHE, POLICY, Tables
from tests.support.builders import cnp
from tests.support.scenario import JOIN, given, pod, replayed, when

WAREHOUSE = ServiceName("shop", "warehouse")
BY_NAME = {"k8sService": {"serviceName": "warehouse", "namespace": "shop"}}
BY_LABELS = {"k8sServiceSelector": {"selector": {"matchLabels": {"tier": "legacy"}}, "namespace": "shop"}}
REF = PolicyRef("CiliumNetworkPolicy", "shop", "a")


def applied(peer: dict[str, object], *, side: str = "egress") -> ApplyPolicies:
    return ApplyPolicies(documents=(json.dumps(cnp("a", **{side: [{"toServices": [peer]}]})),))


def described(*addresses: str, selector: tuple[str, ...] = (), name: ServiceName = WAREHOUSE) -> ApplyServices:
    place = f"10.96.0.{1 + len(name.name)}"
    return ApplyServices(
        services=(
            Service(
                name=name,
                frontends=(Frontend(place, 80, Protocol.TCP),),
                labels=("tier=legacy",),
                selector=selector,
            ),
        ),
        backends=(Backends(name, "s", tuple(Backend(one, 8080, Protocol.TCP) for one in addresses)),),
    )


def prefixes(world: World) -> set[str]:
    """Those that have an identity."""
    return {
        str(label).removeprefix("cidr:").removesuffix("=")
        for labels in world.identities.values()
        for label in labels
        if label.source == "cidr"
    }


@pytest.mark.parametrize("peer", [BY_NAME, BY_LABELS])
@pytest.mark.parametrize("side", ["egress", "egressDeny"])
def test_they_have_identities_whatever_comes_first(peer: dict[str, object], side: str) -> None:
    policy, service = applied(peer, side=side), described("192.0.2.7", "192.0.2.8")
    for history in ([JOIN, policy, service], [JOIN, service, policy]):
        world = given(*history)
        assert prefixes(world) == {"192.0.2.7/32", "192.0.2.8/32"}
        assert replayed(history) == world


def test_they_follow_the_backends() -> None:
    world = given(JOIN, applied(BY_NAME), described("192.0.2.7", "192.0.2.8"))
    events = when(world, described("192.0.2.8", "192.0.2.9"))
    assert [type(one) for one in events[1:]] == [IdentityReleased, IdentityAllocated]
    assert prefixes(given(JOIN, applied(BY_NAME), described("192.0.2.7"), described())) == set()


@pytest.mark.parametrize(
    "end",
    [
        DeletePolicies(refs=(REF,)),
        DeleteServices(names=(WAREHOUSE,)),
        described("192.0.2.7", selector=("app=web",)),
        ApplyPolicies(documents=(json.dumps(cnp("a", egress=[{"toCIDR": ["198.51.100.0/24"]}])),)),
    ],
)
def test_they_go_with_whatever_made_them_so(end: object) -> None:
    world = given(JOIN, applied(BY_NAME), described("192.0.2.7"), end)  # type: ignore[arg-type]
    assert "192.0.2.7/32" not in prefixes(world)


def test_what_is_named_otherwise_too_stays() -> None:
    written = ApplyPolicies(documents=(json.dumps(cnp("b", egress=[{"toCIDR": ["192.0.2.7/32"]}])),))
    other = described("192.0.2.8", name=ServiceName("shop", "depot"))
    history = (JOIN, written, applied(BY_LABELS), described("192.0.2.7", "192.0.2.8"), other)
    assert prefixes(given(*history, DeleteServices(names=(WAREHOUSE,)))) == {"192.0.2.7/32", "192.0.2.8/32"}
    assert prefixes(given(*history, DeletePolicies(refs=(REF,)))) == {"192.0.2.7/32"}


def test_services_that_no_policy_names_cost_nothing() -> None:
    assert not when(given(JOIN, described("192.0.2.7")), applied({"k8sService": {"serviceName": "other"}}))[1:]
    assert prefixes(given(JOIN, applied(BY_NAME), described("192.0.2.7", selector=("app=web",)))) == set()


def test_the_tables_let_through_what_is_named_so() -> None:
    document = cnp("a", egress=[{"toServices": [BY_NAME]}])
    document["spec"]["endpointSelector"] = {}
    document["metadata"]["namespace"] = "shop"
    world = given(
        JOIN, pod("web", "k8s:app=web"), ApplyPolicies(documents=(json.dumps(document),)), described("192.0.2.7")
    )
    tables = Tables(facts(world))
    number = next(number for number, labels in world.identities.items() if any(one.source == "cidr" for one in labels))
    assert number in {info.identity for info in tables.table(IPCACHE).values()}  # type: ignore[attr-defined]
    assert any(key.identity == number for key in tables.table(POLICY))  # type: ignore[attr-defined]


def test_a_service_that_nobody_names_is_not_looked_for_among_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """With thousands of them each would cost as much as all."""
    world = given(JOIN, applied(BY_NAME), described("192.0.2.7"))
    asked: list[World] = []

    def looking(policies: PolicyState, services: ServiceState) -> frozenset[Prefix]:
        asked.append(world)
        return by_services(policies, services)

    monkeypatch.setattr("cplane.reactors.policy.by_services", looking)
    when(world, described("192.0.2.9", name=ServiceName("shop", "depot")))
    assert not asked
    when(world, described("192.0.2.9"))
    assert asked
