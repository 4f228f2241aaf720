"""Going back is one more change, after which everything that users want is as it was."""

from random import Random

import pytest

from cplane.deciders.config import ChangeOptions
from cplane.deciders.endpoint import ConfigureEndpoint, DeleteEndpoint
from cplane.deciders.policy import ApplyPolicies, DeletePolicies
from cplane.deciders.restore import PARTS, NoLongerAccepted, Restore
from cplane.deciders.service import ApplyServices, ChangeServiceOptions, DeleteServices, SetBackendState
from cplane.deciders.servicestate import ServiceState, backend_of, service_of
from cplane.deciders.world import World, facts
from cplane.domain.policy import CNP, PolicyRef
from cplane.domain.ports import Protocol
from cplane.domain.service import Backend, Backends, BackendState, Frontend, Service, ServiceName, ServiceOptions
from cplane.eventlog.reader import MemoryReader
from cplane.projections.tables import UPSERT_ORDER, Tables
from cplane.reactors.reaction import settle
from cplane.timetravel.history import History
from cplane.timetravel.rollback import NothingToRestore, done, target, trial
from tests.support import churn
from tests.support.builders import cnp, document, selector
from tests.support.scenario import JOIN, pod
from tests.support.story import applied, told, web

NOW = churn.BEGAN_NS + 10**15
WEB = PolicyRef(CNP, "shop", "web")


def set_state(state: BackendState) -> SetBackendState:
    """Of the first backend."""
    return SetBackendState(address="10.1.0.1", port=8080, protocol=Protocol.TCP, state=state)


def wanted(world: World) -> tuple[object, ...]:
    audits = {number: one.audit for number, one in world.endpoints.items()}
    return world.policy.documents, world.options, audits, described(world.service)


def described(state: ServiceState) -> tuple[object, ...]:
    """Everything but the numbers."""
    keys = {number: key for key, number in state.backends_by_key.items()}
    return (
        {name: service_of(one) for name, one in state.services.items()},
        {
            (name, source): tuple(map(backend_of, records))
            for name, sources in state.sources.items()
            for source, records in sources.items()
        },
        {keys[number]: held for number, held in state.states.items()},
        state.options,
    )


def service(address: str, *backends: str) -> ApplyServices:
    """A service at the address, with backends."""
    name = ServiceName("shop", "web")
    made = Backends(name, "s1", tuple(Backend(one, 8080, Protocol.TCP) for one in backends))
    return ApplyServices(
        services=(Service(name=name, frontends=(Frontend(address, 80, Protocol.TCP),)),), backends=(made,)
    )


STORY = (
    JOIN,
    pod("web", "k8s:app=web", ifindex=10),
    web("80"),
    service("10.96.0.1", "10.1.0.1", "10.1.0.2"),
    set_state(BackendState.MAINTENANCE),
    ConfigureEndpoint(endpoint=1, audit=True),
    ChangeOptions(policy_audit=True),
    web("443"),
    ApplyPolicies(documents=(document(cnp("other", subject=selector("app=web"), egress=[{}])),)),
    DeletePolicies(refs=(WEB,)),
    service("10.96.0.2", "10.1.0.1", "10.1.0.3"),
    set_state(BackendState.ACTIVE),
    ChangeServiceOptions(options=ServiceOptions(zone="a")),
    DeleteServices(names=(ServiceName("shop", "web"),)),
)


@pytest.mark.parametrize("step", range(len(STORY)))
def test_afterwards_all_that_users_want_is_as_it_was(step) -> None:
    history, positions = told(*STORY)
    goal = target(history, NOW, to=str(positions[step]))
    _, world = settle(goal.command, history.moment(history.head).world)
    then = history.moment(positions[step]).world
    assert world.policy.documents == then.policy.documents
    assert world.options == then.options
    assert described(world.service) == described(then.service)
    assert all(world.endpoints[number].audit == one.audit for number, one in then.endpoints.items())


@pytest.mark.parametrize("part", PARTS)
def test_only_a_part_is_as_it_was(part) -> None:
    history, positions = told(*STORY)
    now, then = history.moment(history.head).world, history.moment(positions[4]).world
    _, world = settle(target(history, NOW, to=str(positions[4]), only=[part]).command, now)
    for name, before, after, is_now in zip(PARTS, wanted(then), wanted(world), wanted(now), strict=True):
        assert after == (before if name == part else is_now)


def test_going_back_twice_is_as_before_the_first_time() -> None:
    history, positions = told(*STORY)
    back = target(history, NOW, to=str(positions[4])).command
    again, _ = told(*STORY, back)
    _, world = settle(target(again, NOW, to=str(history.head)).command, again.moment(again.head).world)
    assert wanted(world) == wanted(history.moment(history.head).world)


def test_nothing_that_has_not_changed_is_written_again() -> None:
    history, _ = told(*STORY)
    decided, _ = settle(target(history, NOW, to="head").command, history.moment(history.head).world)
    assert decided == ()
    found = trial(target(history, NOW, to="head"), history.moment(history.head).world)
    assert (found.changes, found.endpoints, found.position) == ((), (), 0)


def test_a_trial_tells_who_is_cut_off_by_an_exception() -> None:
    around = {"cidr": "203.0.113.0/24"}
    ways = ({**around, "except": ["203.0.113.7/32"]}, around)
    stories = [applied("web", "web", ingress=[{"fromCIDRSet": [one]}]) for one in ways]
    history, positions = told(JOIN, pod("web", "k8s:app=web", ifindex=10), *stories)
    (one,) = trial(target(history, NOW, to=str(positions[2])), history.moment(history.head).world).endpoints
    assert (one.pod, one.direction, one.counts) == ("shop/web", "ingress", "-1")


def test_a_trial_says_what_the_rollback_then_does() -> None:
    history, positions = told(*STORY)
    goal = target(history, NOW, to=str(positions[4]))
    before = history.moment(history.head).world
    tried = trial(goal, before)
    assert [(one.object, one.action) for one in tried.changes] == [
        ("policy CiliumNetworkPolicy/shop/other", "removed"),
        ("policy CiliumNetworkPolicy/shop/web", "added"),
        ("endpoint 1", "changed"),
        ("options", "changed"),
        ("service shop/web", "added"),
        ("backend 4", "added"),
        ("service-options", "changed"),
    ]
    assert {(one.pod, one.direction) for one in tried.endpoints} == {("shop/web", "ingress"), ("shop/web", "egress")}
    after, _ = told(*STORY, goal.command)
    found = done(after, NOW, goal=goal, events=after.head - history.head, position=after.head)
    assert found.position == after.head
    assert (found.changes, found.endpoints) == (tried.changes, tried.endpoints)


def test_what_has_gone_since_is_left_out() -> None:
    history, positions = told(*STORY, DeleteEndpoint(container_id="c-web", container_interface="eth0"))
    goal = target(history, NOW, to=str(positions[3]), only=["endpoints"])
    assert settle(goal.command, history.moment(history.head).world)[0] == ()


def test_what_is_not_accepted_any_more_is_named_and_nothing_is_changed() -> None:
    history, _ = told(*STORY)
    bad = Restore(documents={WEB: '{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy"}'})
    with pytest.raises(NoLongerAccepted, match=r"CiliumNetworkPolicy shop/web, .*nothing was changed"):
        settle(bad, history.moment(history.head).world)


def test_a_part_that_nobody_knows_is_refused() -> None:
    history, _ = told(*STORY)
    with pytest.raises(NothingToRestore, match="policies, options, endpoints"):
        target(history, NOW, to="1", only=["pods"])


@pytest.mark.parametrize("seed", range(4))
def test_wherever_one_goes_back_to_the_tables_follow_and_prefixes_have_identities(seed) -> None:
    chance, events = Random(seed), []
    for decided in churn.Churn(chance, pods=8, policies=6).turns():
        events += decided
        if len(events) > 300:
            break
    history = History(MemoryReader(churn.rows_of(tuple(events))[1]))
    position = chance.randrange(1, history.head)
    before = history.moment(history.head).world
    decided, world = settle(target(history, NOW, to=str(position)).command, before)
    assert world.policy.documents == history.moment(position).world.policy.documents
    tables = Tables(facts(before))
    for _, event in decided:
        tables.apply(event)
    whole = Tables(facts(world))
    assert all(dict(tables.table(name)) == dict(whole.table(name)) for name in UPSERT_ORDER)
