"""Who changed what, and what was refused: stories whose answers are known."""

from itertools import pairwise
from random import Random

import pytest

from cplane.deciders.config import ChangeOptions
from cplane.deciders.endpoint import ConfigureEndpoint, RelabelEndpoint
from cplane.deciders.policy import DeletePolicies
from cplane.deciders.world import Command
from cplane.domain.policy import CNP, PolicyRef
from cplane.eventlog.reader import MemoryReader
from cplane.events.objects import KINDS
from cplane.timetravel.audit import Asked, BackwardsInTime, Entry, UnknownKind, UnknownObject, audit
from cplane.timetravel.history import History, NoSuchMoment
from cplane.timetravel.intent import written
from cplane.timetravel.refused import Refused
from tests.support import churn
from tests.support.builders import ports
from tests.support.scenario import JOIN, pod
from tests.support.story import applied, told, web

NOW = churn.BEGAN_NS + 10**15
WEB = "policy CiliumNetworkPolicy/shop/web"


STORY: tuple[Command, ...] = (
    JOIN,
    pod("web", "k8s:app=web", ifindex=10),
    pod("client", "k8s:app=client", ifindex=11),
    web("80"),
    web("443"),
    ConfigureEndpoint(endpoint=1, audit=True),
    RelabelEndpoint(endpoint=2, labels=("k8s:app=other",)),
    ChangeOptions(policy_audit=True),
    DeletePolicies(refs=(PolicyRef(CNP, "shop", "web"),)),
)


def refused(at_ns: int, *objects: str, actor: str = "uid:1000(alice)") -> Refused:
    return Refused(
        recorded_at_ns=at_ns,
        actor=actor,
        cause="",
        command="apply policies",
        objects=objects,
        code="policy.invalid",
        message="no",
    )


@pytest.fixture(scope="module")
def past() -> tuple[History, list[int]]:
    return told(*STORY)


def asked(history: History, **what: object) -> list[Entry]:
    return list(audit(history, NOW, Asked(**what)))


def test_a_policy_has_its_text_before_and_after_each_change(past) -> None:
    history, positions = past
    first, second, last = asked(history, object=WEB)
    assert [one.position for one in (first, second, last)] == [positions[3], positions[4], positions[8]]
    assert first.before is None
    assert second.before == first.after
    assert last.before == second.after
    assert last.after is None
    assert "+      - port: '443'" in second.diff.splitlines()


def test_an_endpoint_is_as_its_own_events_say(past) -> None:
    history, positions = past
    created, configured = asked(history, object="endpoint 1")
    assert created.before is None
    assert created.after is not None
    assert not created.after["policy_audit"]
    assert configured.before == created.after
    assert configured.after == created.after | {"policy_audit": True}
    _, relabelled = asked(history, object="endpoint 2")
    assert relabelled.position <= positions[6]
    assert relabelled.after is not None
    assert relabelled.after["labels"] == ["k8s:app=other"]


@pytest.mark.parametrize("seed", range(3))
def test_the_sides_of_every_change_are_those_of_the_worlds_around_it(seed) -> None:
    history = churned(seed, 400)
    for one in asked(history, last=1000):
        if one.object.startswith("pool "):
            assert one.before is one.after is None
            continue
        before, after = (written(history.moment(at).world) for at in (one.position - 1, one.position))
        assert one.before == before.get(one.object)
        assert one.after == after.get(one.object)


def churned(seed: int, events: int) -> History:
    made: list = []
    for decided in churn.Churn(Random(seed), pods=8, policies=6).turns():
        made += decided
        if len(made) >= events:
            return History(MemoryReader(churn.rows_of(tuple(made))[1]))
    raise AssertionError


def test_changes_are_chosen_by_actor_kind_and_time(past) -> None:
    history, positions = past
    whole = asked(history)
    assert [one.position for one in whole] == list(range(1, history.head + 1))
    assert {one.object.partition(" ")[0] for one in whole} <= set(KINDS)
    for kind in KINDS:
        assert asked(history, kind=kind) == [one for one in whole if one.object.partition(" ")[0] == kind]
    actors = {one.actor for one in whole}
    for actor in actors:
        assert asked(history, actor=actor) == [one for one in whole if one.actor == actor]
    assert asked(history, since=str(positions[3]), until=str(positions[4])) == whole[positions[3] - 1 : positions[4]]
    assert asked(history, last=2) == whole[-2:]
    assert asked(history, kind="policy", last=1) == asked(history, object=WEB)[-1:]


def test_a_time_before_the_log_is_its_beginning_and_one_to_come_is_refused(past) -> None:
    history, _ = past
    assert len(asked(history, since="2020-01-01T00:00:00Z")) == history.head
    with pytest.raises(NoSuchMoment, match="still to come"):
        asked(history, since="2099-01-01T00:00:00Z")
    with pytest.raises(NoSuchMoment, match="not there yet"):
        asked(history, until="9999")


def test_an_unknown_kind_is_refused_with_those_that_there_are(past) -> None:
    with pytest.raises(UnknownKind, match="policy, endpoint, identity"):
        asked(past[0], kind="pods")


@pytest.mark.parametrize("name", ["shop/web", "policy shop/web", "policy", "pods web", "options x", "endpoint"])
def test_what_is_no_name_of_an_object_is_refused(past, name: str) -> None:
    with pytest.raises(UnknownObject, match=f"'{name}' is no name of an object: write policy KIND/NAMESPACE/NAME"):
        asked(past[0], object=name)


@pytest.mark.parametrize("kind", KINDS)
def test_each_name_that_events_have_is_one(past, kind: str) -> None:
    history, _ = past
    for one in asked(history, kind=kind, last=3):
        assert one in asked(history, object=one.object, last=history.head)


@pytest.mark.parametrize(("since", "until"), [("5", "4"), ("head", "3"), ("1h", "2h")])
def test_an_end_before_the_beginning_is_refused(past, since: str, until: str) -> None:
    with pytest.raises(BackwardsInTime, match="give them the other way round"):
        asked(past[0], since=since, until=until)


def test_the_endpoints_that_obey_other_rows_are_those_of_the_policy(past) -> None:
    history, positions = past
    by_position = {one.position: one for one in asked(history, verdicts=True)}
    applied = by_position[positions[3]].endpoints
    assert applied is not None
    assert [(one.pod, one.direction, one.added, one.removed) for one in applied] == [("shop/web", "ingress", 1, 1)]
    changed = by_position[positions[4]].endpoints
    assert changed is not None
    assert [(one.pod, one.added, one.removed, one.changed) for one in changed] == [("shop/web", 1, 1, 0)]
    assert by_position[positions[7]].endpoints == ()
    assert all(one.endpoints is None for one in asked(history))


@pytest.mark.parametrize("with_ports", [False, True])
def test_who_is_cut_off_by_an_exception_is_told_though_no_row_differs(with_ports: bool) -> None:
    at = {"toPorts": ports("80/TCP", "443/TCP")} if with_ports else {}
    around = {"cidr": "203.0.113.0/24"}
    stories = [
        applied("web", "web", ingress=[{"fromCIDRSet": [one], **at}])
        for one in (around, {**around, "except": ["203.0.113.0/29", "203.0.113.128/32"]})
    ]
    history, positions = told(JOIN, pod("web", "k8s:app=web", ifindex=10), *stories, stories[0])
    cut, back = (
        [
            (each.pod, each.direction, each.added, each.removed, each.changed)
            for one in asked(history, since=str(first + 1), until=str(last), verdicts=True)
            for each in one.endpoints or ()
        ]
        for first, last in pairwise(positions[-3:])
    )
    rows = 2 if with_ports else 1
    assert cut == [("shop/web", "ingress", 0, rows, 0)] * 2
    gone = [("shop/web", "ingress", 0, rows, 0)] * 2  # rows of their own, once they have those around them again
    assert back == [("shop/web", "ingress", 2 * rows, 0, 0), *gone]


def test_what_was_refused_stands_between_what_was_not(past) -> None:
    before, positions = past
    at = before.recorded_at_ns(positions[3]) + 1
    history, _ = told(*STORY, refusals=(refused(at, WEB), refused(NOW - 1, "policy CiliumNetworkPolicy/shop/other")))
    whole = asked(history)
    times = [one.recorded_at_ns for one in whole]
    assert times == sorted(times)
    assert len(whole) == history.head + 2
    (one,) = [one for one in asked(history, object=WEB) if one.refused is not None]
    assert (one.position, one.summary, one.refused.code) == (0, "apply policies", "policy.invalid")
    assert [entry.refused is not None for entry in asked(history, refused=True)] == [True, True]
    assert len(asked(history, refused=True, last=1)) == 1
    assert asked(history, refused=True, actor="uid:0(root)") == []
    assert len(asked(history, refused=True, kind="policy")) == 2
    assert len(asked(history, refused=True, until=str(positions[-1]))) == 1
