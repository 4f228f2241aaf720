"""Frontends that redirect to this node: whose place they take, and who is not redirected."""

from collections.abc import Iterator

from cplane.deciders.endpoint import DeleteEndpoint
from cplane.deciders.service import ApplyServices, DeleteServices
from cplane.deciders.world import Command, World, facts
from cplane.domain.ports import Protocol
from cplane.domain.service import Backend, Backends, Frontend, FrontendKind, Service, ServiceName
from cplane.projections import services
from cplane.projections.tables import Tables
from cplane.reactors.reaction import settle
from datapath.maps.ipcache import FAMILY_V4
from datapath.maps.lb import BENEATH, LbFlags, LbKind, ServiceKey, SkipKey
from tests.support.scenario import JOIN, pod

DNS, CACHE = ServiceName("kube-system", "dns"), ServiceName("kube-system", "cache:local-redirect")
PLACE = Frontend("10.96.0.10", 53, Protocol.UDP, FrontendKind.CLUSTER_IP)
KEY = ServiceKey(bytes((10, 96, 0, 10)).ljust(16, b"\0"), 53, 17, FAMILY_V4)
UNDER = KEY._replace(family=FAMILY_V4 | BENEATH)
CACHE_NETNS, OTHER_NETNS = 5001, 5002


def own() -> ApplyServices:
    """The service itself: its frontend is 1, its backend elsewhere."""
    elsewhere = Backend("10.9.9.9", 53, Protocol.UDP, node="n2")
    return ApplyServices(
        services=(Service(name=DNS, frontends=(PLACE,)),), backends=(Backends(DNS, "slice", (elsewhere,)),)
    )


def redirect(*addresses: str, skip: bool = True) -> ApplyServices:
    """What takes its place."""
    frontend = PLACE._replace(kind=FrontendKind.LOCAL_REDIRECT)
    made = tuple(Backend(address, 5353, Protocol.UDP, node="n1") for address in addresses)
    service = Service(name=CACHE, frontends=(frontend,), skip_backends=skip)
    return ApplyServices(services=(service,), backends=(Backends(CACHE, "pods", made),))


CACHE_POD, OTHER_POD = pod("cache", netns_cookie=CACHE_NETNS), pod("other", ifindex=11, netns_cookie=OTHER_NETNS)


def tables(*commands: Command) -> Tables:
    """After the commands; a fold of all events, and of the fewest that say the same, are the same."""
    world, folded = World(), Tables()
    for command in (JOIN, *commands):
        decided, world = settle(command, world)
        for _, event in decided:
            folded.apply(event)
    anew = Tables(facts(world))
    for name in services.TABLES:
        assert anew.table(name) == folded.table(name), name
    return folded


def served(made: Tables) -> Iterator[tuple[str, LbKind]]:
    """Which of the two keys have rows, and of what kind."""
    table = made.table(services.SERVICES)
    yield from ((name, table[key].kind) for name, key in (("there", KEY), ("beneath", UNDER)) if key in table)


def skips(made: Tables) -> set[SkipKey]:
    return set(made.table(services.SKIPS))


def test_what_redirects_takes_the_place_and_the_other_is_beneath_for_its_own_pods() -> None:
    for order in ((own(), redirect("10.244.0.2")), (redirect("10.244.0.2"), own())):
        made = tables(CACHE_POD, OTHER_POD, *order)
        assert dict(served(made)) == {"there": LbKind.LOCAL_REDIRECT, "beneath": LbKind.CLUSTER_IP}
        entry = made.table(services.SERVICES)[KEY]
        assert entry.flags & LbFlags.SKIP_BACKENDS
        assert skips(made) == {SkipKey(CACHE_NETNS, entry.id)}


def test_nobody_is_exempt_unless_that_is_asked_for() -> None:
    made = tables(CACHE_POD, own(), redirect("10.244.0.2", skip=False))
    assert dict(served(made)) == {"there": LbKind.LOCAL_REDIRECT}
    assert not made.table(services.SERVICES)[KEY].flags & LbFlags.SKIP_BACKENDS
    assert skips(made) == set()


def test_pods_come_and_go() -> None:
    gone = DeleteEndpoint(container_id="c-cache", container_interface="eth0")
    wanted = redirect("10.244.0.2", "10.244.0.3")
    assert {key.netns_cookie for key in skips(tables(wanted, CACHE_POD, OTHER_POD))} == {CACHE_NETNS, OTHER_NETNS}
    assert {key.netns_cookie for key in skips(tables(wanted, CACHE_POD, OTHER_POD, gone))} == {OTHER_NETNS}
    assert {key.netns_cookie for key in skips(tables(wanted, CACHE_POD, OTHER_POD, redirect("10.244.0.2")))} == {
        CACHE_NETNS
    }


def test_without_a_service_nothing_is_beneath_and_without_a_redirect_nothing_above() -> None:
    assert dict(served(tables(CACHE_POD, redirect("10.244.0.2")))) == {"there": LbKind.LOCAL_REDIRECT}
    back = tables(CACHE_POD, own(), redirect("10.244.0.2"), DeleteServices(names=(CACHE,)))
    assert dict(served(back)) == {"there": LbKind.CLUSTER_IP}
    assert skips(back) == set()
    alone = tables(CACHE_POD, own(), redirect("10.244.0.2"), DeleteServices(names=(DNS,)))
    assert dict(served(alone)) == {"there": LbKind.LOCAL_REDIRECT}
    assert dict(served(tables(own(), redirect("10.244.0.2"), redirect("10.244.0.2", skip=False)))) == {
        "there": LbKind.LOCAL_REDIRECT
    }


def test_a_pod_of_which_the_namespace_is_not_known_is_redirected_like_others() -> None:
    assert skips(tables(pod("cache"), redirect("10.244.0.2"))) == set()
