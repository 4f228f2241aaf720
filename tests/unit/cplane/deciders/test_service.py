"""Services: numbers that a replay has again, places that nobody has twice, states that follow each other."""

from collections import defaultdict
from dataclasses import replace

import pytest

from cplane.deciders.service import (
    ApplyServices,
    BadServiceOption,
    ChangeServiceOptions,
    DeleteServices,
    InvalidServices,
    NoSuchBackend,
    NoSuchService,
    SetBackendState,
    TooManyFrontends,
    WrongState,
)
from cplane.deciders.servicestate import gathered
from cplane.deciders.world import World, evolve, facts
from cplane.domain.ports import Protocol
from cplane.domain.service import (
    Algorithm,
    Backend,
    Backends,
    BackendState,
    Frontend,
    FrontendKind,
    Service,
    ServiceName,
    ServiceOptions,
)
from cplane.events.catalog import Event
from cplane.events.envelope import SERVICE
from cplane.events.service import BackendsChanged, BackendStateChanged, ServiceDeleted, ServiceUpserted
from tests.support.scenario import JOIN, given, replayed, when

WEB = ServiceName("shop", "web")
API = ServiceName("shop", "api")


def service(name: ServiceName, *places: str, **more: object) -> Service:
    """A service at addresses, port 80."""
    frontends = tuple(Frontend(address, 80, Protocol.TCP) for address in places)
    return Service(name=name, frontends=frontends, **more)  # type: ignore[arg-type]


def backends(name: ServiceName, *addresses: str, source: str = "s1", **more: object) -> Backends:
    """Backends at addresses, port 8080."""
    made = tuple(Backend(address, 8080, Protocol.TCP, **more) for address in addresses)  # type: ignore[arg-type]
    return Backends(name, source, made)


def apply(*services: Service, backends: tuple[Backends, ...] = ()) -> ApplyServices:
    """The command."""
    return ApplyServices(services=services, backends=backends)


def test_frontends_and_backends_get_numbers_and_keep_them() -> None:
    first = apply(service(WEB, "10.96.0.1", "10.96.0.2"), backends=(backends(WEB, "10.1.0.1", "10.1.0.2"),))
    found, made = when(given(JOIN), first)
    assert isinstance(made, ServiceUpserted) and isinstance(found, BackendsChanged)
    assert [one.id for one in made.frontends] == [1, 2]
    assert [one.id for one in found.backends] == [1, 2]
    world = given(JOIN, first)
    assert when(world, first) == []
    changed = apply(service(WEB, "10.96.0.2", "10.96.0.3"), backends=(backends(WEB, "10.1.0.2", "10.1.0.3"),))
    found, made = when(world, changed)
    assert isinstance(made, ServiceUpserted) and isinstance(found, BackendsChanged)
    assert [(one.address, one.id) for one in made.frontends] == [("10.96.0.2", 2), ("10.96.0.3", 3)]
    assert [(one.address, one.id) for one in found.backends] == [("10.1.0.2", 2), ("10.1.0.3", 3)]


def test_a_backend_of_several_services_has_one_number_and_rests_before_it_is_given_again() -> None:
    both = apply(
        service(WEB, "10.96.0.1"),
        service(API, "10.96.0.2"),
        backends=(backends(WEB, "10.1.0.1"), backends(API, "10.1.0.1", "10.1.0.2")),
    )
    events = when(given(JOIN), both)
    numbers = [[one.id for one in event.backends] for event in events if isinstance(event, BackendsChanged)]
    assert numbers == [[1], [1, 2]]
    world = given(JOIN, both, apply(backends=(backends(API),)))
    assert dict(world.service.users) == {1: 1}
    (event,) = when(world, apply(backends=(backends(API, "10.1.0.9"),)))
    assert isinstance(event, BackendsChanged) and event.backends[0].id == 3


def test_a_replay_has_the_same_numbers_and_facts_say_all_of_it() -> None:
    history = [
        JOIN,
        apply(service(WEB, "10.96.0.1", "fd00::1"), backends=(backends(WEB, "10.1.0.1", "fd00::2"),)),
        SetBackendState(address="10.1.0.1", port=8080, protocol=Protocol.TCP, state=BackendState.MAINTENANCE),
        apply(service(API, "10.96.0.2"), backends=(backends(API, "10.1.0.7"),)),
        DeleteServices(names=(WEB,)),
        apply(service(WEB, "10.96.0.1"), backends=(backends(WEB, "10.1.0.1"),)),
    ]
    world = given(*history)
    assert replayed(history).service == world.service
    again = World()
    said: dict[type[Event], list[Event]] = defaultdict(list)
    for event in facts(world):
        again = evolve(again, SERVICE, event)
        said[type(event)].append(event)
    together = gathered(said[ServiceUpserted], said[BackendsChanged], said[BackendStateChanged])
    last = {"last_frontend": 4, "last_backend": 4}  # which is not a fact
    assert replace(together, **last) == replace(again.service, **last)
    assert again.service.services == world.service.services
    assert again.service.sources == world.service.sources
    assert again.service.states == world.service.states
    assert (world.service.last_frontend, world.service.last_backend) == (4, 4)
    assert not world.service.states, "a backend that was gone comes back without the state that it had"


def test_a_place_belongs_to_one_service() -> None:
    world = given(JOIN, apply(service(WEB, "10.96.0.1")))
    with pytest.raises(InvalidServices, match=r"10\.96\.0\.1:80/TCP is a frontend of service shop/web already"):
        when(world, apply(service(API, "10.96.0.1")))
    with pytest.raises(InvalidServices, match="already"):
        when(given(JOIN), apply(service(WEB, "10.96.0.1"), service(API, "10.96.0.1")))
    moved = apply(service(API, "10.96.0.1"), service(WEB, "10.96.0.9"))
    history = [JOIN, apply(service(WEB, "10.96.0.1")), moved]
    state = given(*history).service
    assert {str(key): held[1] for key, held in state.frontends.items()} == {
        "10.96.0.1:80/TCP": API,
        "10.96.0.9:80/TCP": WEB,
    }
    redirect = Frontend("10.96.0.1", 80, Protocol.TCP, FrontendKind.LOCAL_REDIRECT)
    assert when(world, apply(Service(name=API, frontends=(redirect,))))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (apply(service(WEB, "10.96.0.1", "10.96.0.1")), "it stands there more than once"),
        (apply(service(WEB, "10.96.0.1"), service(WEB, "10.96.0.2")), "in this call more than once"),
        (apply(service(WEB, "10.96.00.1")), "not an IP address"),
        (apply(service(WEB, "")), "it has no address"),
        (apply(Service(name=WEB, frontends=(Frontend("10.0.0.1", 0, Protocol.TCP),))), "port 0 is not between 1"),
        (apply(Service(name=WEB, frontends=(Frontend("10.0.0.1", 80, Protocol.ICMP),))), "ICMP is none of TCP"),
        (apply(service(ServiceName("shop", ""), "10.96.0.1")), "service shop/, name: '' is no name"),
        (apply(service(ServiceName("", "web"), "10.96.0.1")), "service /web, namespace: '' is no namespace"),
        (apply(service(ServiceName("a/b", "web"), "10.96.0.1")), "'a/b' is no namespace"),
        (apply(service(ServiceName("shop", "web\nx"), "10.96.0.1")), r"'web\\nx' is no name"),
        (apply(service(ServiceName("shop", "w" * 301), "10.96.0.1")), "is no name: 1 to 300 characters"),
        (apply(backends=(backends(ServiceName("shop", "a b"), "10.1.0.1"),)), "'a b' is no name"),
        (apply(service(WEB, "10.96.0.1", affinity_s=1 << 24)), "is not between 0 and 16777215"),
        (apply(service(WEB, "10.96.0.1", health_path="healthz")), "health path: 'healthz' is not a path of a URL"),
        (apply(service(WEB, "10.96.0.1", health_path="/é")), "health path: '/é' is not a path of a URL"),
        (apply(service(WEB, "10.96.0.1", source_ranges=("10.0.0.1/8",))), "'10.0.0.1/8' is not a prefix"),
        (apply(service(WEB, "10.96.0.1"), backends=(backends(WEB, "fd00::1"),)), "no IPv6 frontend"),
        (apply(backends=(backends(WEB, "10.1.0.1", weight=256),)), "weight 256 is not between 0 and 255"),
        (apply(backends=(backends(WEB, ""),)), "it has no address"),
        (apply(backends=(backends(WEB, "10.1.0.1", "10.1.0.1"),)), "it stands there more than once"),
    ],
)
def test_what_is_not_possible_is_refused_whole(command: ApplyServices, said: str) -> None:
    with pytest.raises(InvalidServices, match=said):
        when(given(JOIN), command)


def test_all_that_is_wrong_is_said_at_once() -> None:
    wrong = apply(service(WEB, "", affinity_s=-1), backends=(backends(WEB, "x", weight=999),))
    with pytest.raises(InvalidServices) as refused:
        when(given(JOIN), wrong)
    assert len(refused.value.errors) == 3


def test_the_frontend_after_the_last_is_refused() -> None:
    many = tuple(
        Service(
            name=ServiceName("n", f"s{high}"),
            frontends=tuple(Frontend(f"10.{high}.0.1", port, Protocol.TCP) for port in range(1, 32_768)),
        )
        for high in (1, 2)
    )
    world = given(JOIN, apply(*many, service(WEB, "10.96.0.1")))
    with pytest.raises(TooManyFrontends, match="there would be 65536 frontends"):
        when(world, apply(service(API, "10.96.0.2")))
    assert len(world.service.frontend_ids) == 65_535


def test_a_service_goes_with_its_backends() -> None:
    world = given(JOIN, apply(service(WEB, "10.96.0.1"), backends=(backends(WEB, "10.1.0.1"),)))
    gone, empty = when(world, DeleteServices(names=(WEB,)))
    assert isinstance(gone, ServiceDeleted) and isinstance(empty, BackendsChanged) and not empty.backends
    with pytest.raises(NoSuchService, match="no such service: other/web; there is shop/web"):
        when(world, DeleteServices(names=(ServiceName("other", "web"),)))


def test_states_follow_each_other_as_they_may() -> None:
    def to(state: BackendState, address: str = "10.1.0.1") -> SetBackendState:
        return SetBackendState(address=address, port=8080, protocol=Protocol.TCP, state=state)

    setup = (JOIN, apply(service(WEB, "10.96.0.1"), backends=(backends(WEB, "10.1.0.1"),)))
    (event,) = when(given(*setup), to(BackendState.QUARANTINED))
    assert isinstance(event, BackendStateChanged) and event.backend == 1
    quarantined = given(*setup, to(BackendState.QUARANTINED))
    assert when(quarantined, to(BackendState.QUARANTINED)) == []
    assert when(quarantined, to(BackendState.ACTIVE))
    with pytest.raises(WrongState, match=r"is quarantined and cannot become maintenance; it can become active$"):
        when(quarantined, to(BackendState.MAINTENANCE))
    with pytest.raises(NoSuchBackend, match=r"10\.1\.0\.9:8080/TCP"):
        when(given(*setup), to(BackendState.QUARANTINED, "10.1.0.9"))
    ending = apply(backends=(backends(WEB, "10.1.0.1", state=BackendState.TERMINATING),))
    with pytest.raises(WrongState, match="is terminating"):
        when(given(*setup, ending), to(BackendState.QUARANTINED))


@pytest.mark.parametrize("turned", [False, True])
def test_a_backend_that_moves_to_another_source_keeps_what_was_set_of_it_and_is_none_that_came(*, turned: bool) -> None:
    world = given(
        JOIN,
        apply(service(WEB, "10.96.0.1"), backends=(backends(WEB, "10.1.0.1", "10.1.0.2"),)),
        SetBackendState(address="10.1.0.1", port=8080, protocol=Protocol.TCP, state=BackendState.MAINTENANCE),
        apply(backends=(backends(WEB, "10.1.0.3", "10.1.0.4", source="s2"),)),
    )
    swap = (backends(WEB, "10.1.0.3", "10.1.0.2"), backends(WEB, "10.1.0.1", source="s2"))
    for moved in (
        (backends(WEB, "10.1.0.2"), backends(WEB, "10.1.0.1", "10.1.0.3", "10.1.0.4", source="s2")),
        swap,
        (backends(WEB), backends(API, "10.1.0.1", "10.1.0.2")),
        (backends(WEB), backends(WEB, "10.1.0.1", source="s2"), backends(API, "10.1.0.3", source="s3")),
    ):
        after = world
        for event in when(world, apply(backends=moved[::-1] if turned else moved)):
            after = evolve(after, SERVICE, event)
            assert dict(after.service.states) == {1: BackendState.MAINTENANCE}
            assert after.service.last_backend == world.service.last_backend
        assert {(one.service, one.source) for one in moved if one.backends} <= {
            (name, source) for name, many in after.service.sources.items() for source in many
        }
        for one in moved:
            records = after.service.source(one.service, one.source)
            assert [record.address for record in records] == [each.address for each in one.backends]


def test_of_what_several_sources_say_of_a_backend_the_readiest_counts() -> None:
    states = (BackendState.MAINTENANCE, BackendState.TERMINATING, BackendState.ACTIVE, BackendState.QUARANTINED)
    said = tuple(backends(WEB, "10.1.0.1", source=f"s{n}", state=state) for n, state in enumerate(states))
    world = given(JOIN, apply(service(WEB, "10.96.0.1"), backends=said))
    assert [one.state for one in world.service.backends(WEB)] == ["active"]
    (event,) = when(
        world,
        SetBackendState(address="10.1.0.1", port=8080, protocol=Protocol.TCP, state=BackendState.MAINTENANCE),
    )
    assert isinstance(event, BackendStateChanged)


def test_options_are_facts() -> None:
    wanted = ServiceOptions(algorithm=Algorithm.MAGLEV, maglev_size=251)
    world = given(JOIN, ChangeServiceOptions(options=wanted))
    assert world.service.options == wanted
    assert when(world, ChangeServiceOptions(options=wanted)) == []
    with pytest.raises(BadServiceOption, match="not 252"):
        when(world, ChangeServiceOptions(options=ServiceOptions(maglev_size=252)))
    with pytest.raises(BadServiceOption, match="12 bytes"):
        when(world, ChangeServiceOptions(options=ServiceOptions(maglev_seed="AAAA")))
