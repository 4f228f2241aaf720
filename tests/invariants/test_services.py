"""Services: whether facts are taken in one by one or many at once, the world and the tables are the same."""

from random import Random

from hypothesis import given, settings

from cplane.deciders.service import ApplyServices, DeleteServices, SetBackendState
from cplane.deciders.world import Command, World, decide, evolve, evolve_services, facts
from cplane.domain.ports import Protocol
from cplane.domain.service import Backend, Backends, BackendState, Frontend, FrontendKind, Service, ServiceName
from cplane.errors import NotFound, Rejected
from cplane.events.catalog import Event
from cplane.events.endpoint import EndpointCreated, EndpointDeleted
from cplane.projections.delta import Composition, compose
from cplane.projections.tables import LB, Tables
from tests.support.effort import examples
from tests.support.strategies import CHANCE

NAMES = [ServiceName("shop", name) for name in ("web", "api", "db")]
PLACES = ["10.96.0.1", "10.96.0.2", "fd00::1"]
BACKENDS = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "fd00:1::1"]
KINDS = [FrontendKind.CLUSTER_IP, FrontendKind.LOAD_BALANCER, FrontendKind.LOCAL_REDIRECT]


def some(chance: Random, things: list[str]) -> list[str]:
    """Some of them in any order, often none."""
    return chance.sample(things, chance.randint(0, len(things)))


def service(chance: Random, name: ServiceName) -> Service:
    """Any service of that name."""
    return Service(
        name=name,
        frontends=tuple(Frontend(one, 80, Protocol.TCP, chance.choice(KINDS)) for one in some(chance, PLACES)),
        selector=chance.choice([(), ("app=a",)]),
        affinity_s=chance.choice([0, 60]),
        source_ranges=chance.choice([(), ("192.0.2.0/24",)]),
        skip_backends=chance.random() < 0.3,
    )


def backends(chance: Random, name: ServiceName, source: str) -> Backends:
    """Any backends of that source."""
    made = [
        Backend(
            one,
            8080,
            Protocol.TCP,
            state=chance.choice([BackendState.ACTIVE, BackendState.ACTIVE, BackendState.TERMINATING]),
            weight=chance.choice([0, 1, 1]),
            node=chance.choice(["", "other"]),
        )
        for one in some(chance, BACKENDS)
    ]
    return Backends(name, source, tuple(made))


def command(chance: Random) -> Command:
    """Any command about services; many are refused."""
    match chance.randrange(8):
        case 0:
            return DeleteServices(names=tuple(chance.sample(NAMES, chance.randint(1, 2))))
        case 1:
            state = chance.choice([BackendState.ACTIVE, BackendState.MAINTENANCE, BackendState.QUARANTINED])
            address = chance.choice(BACKENDS)
            return SetBackendState(address=address, port=8080, protocol=Protocol.TCP, state=state)
        case _:
            names = chance.sample(NAMES, chance.randint(0, len(NAMES)))
            places = [(name, source) for name in NAMES for source in ("s1", "s2") if chance.random() < 0.4]
            return ApplyServices(
                services=tuple(service(chance, name) for name in names),
                backends=tuple(backends(chance, *place) for place in places),
            )


def pod(chance: Random, number: int) -> Event:
    """A pod with the address of a backend comes or goes."""
    if chance.random() < 0.3:
        return EndpointDeleted(endpoint=number)
    return EndpointCreated(
        endpoint=number,
        container_id=f"c{number}",
        container_interface="eth0",
        netns="",
        host_interface=f"h{number}",
        host_ifindex=number + 1,
        ipv4=BACKENDS[number],
        ipv6="",
        mac="",
        host_mac="",
        labels=(),
        identity=256 + number,
        namespace="shop",
        pod=f"p{number}",
        pod_uid="",
        netns_cookie=100 + number,
    )


def rows(tables: Tables) -> dict[str, dict[object, object]]:
    """What the tables of services have."""
    return {name: dict(tables.table(name)) for name in LB}


@settings(max_examples=examples(300), deadline=None)
@given(CHANCE)
def test_facts_may_be_taken_in_one_by_one_or_many_at_once(chance: Random) -> None:
    world = World()
    singly, together = Tables(), Tables()
    for _ in range(chance.randint(1, 12)):
        events: list[Event] = []
        for _ in range(chance.randint(1, 3)):
            try:
                decision = decide(command(chance), world)
            except (Rejected, NotFound):
                continue
            after = world
            for stream, event in decision:
                after = evolve(after, stream, event)
            assert evolve_services(world, decision) == after
            world = after
            events += [event for _, event in decision]
            if chance.random() < 0.3:
                events.append(pod(chance, chance.randrange(3)))
        made: dict[str, Composition[object, object]] = {}
        for event in events:
            compose(made, singly.apply(event))
        composed = {name: delta for name, one in made.items() if (delta := one.delta())}
        assert {name: delta for name, delta in together.apply_all(events).items() if delta} == composed
        assert rows(together) == rows(singly)


@settings(max_examples=examples(100), deadline=None)
@given(CHANCE)
def test_tables_of_services_follow_from_facts_alone(chance: Random) -> None:
    world, live = World(), Tables()
    for _ in range(chance.randint(1, 12)):
        try:
            decision = decide(command(chance), world)
        except (Rejected, NotFound):
            continue
        for stream, event in decision:
            world = evolve(world, stream, event)
            live.apply(event)
    assert rows(Tables(facts(world))) == rows(live)
