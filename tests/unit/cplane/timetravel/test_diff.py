"""What differs between two moments, what was so at one, and how it came about: stories whose answers are known."""

from random import Random

import msgspec
import pytest

from cplane.deciders.config import ChangeOptions
from cplane.deciders.endpoint import DeleteEndpoint, NoSuchEndpoint, RelabelEndpoint
from cplane.deciders.policy import DeletePolicies
from cplane.deciders.world import Command, World
from cplane.domain.policy import CNP, PolicyRef
from cplane.eventlog.reader import MemoryReader
from cplane.projections.tables import Tables
from cplane.timetravel.diff import INTENT, Difference, diff
from cplane.timetravel.history import History
from cplane.timetravel.intent import compare
from cplane.timetravel.replay import SHOWS, TABLES, NotByEndpoint, NothingToShow, Shown, replay
from cplane.timetravel.steps import Backwards, Steps, span, steps
from tests.support import churn
from tests.support.scenario import JOIN, pod
from tests.support.story import told, web

NOW = churn.BEGAN_NS + 10**15
WEB = "policy CiliumNetworkPolicy/shop/web"


STORY: tuple[Command, ...] = (
    JOIN,
    pod("web", "k8s:app=web", ifindex=10),
    pod("client", "k8s:app=client", ifindex=11),
    web("80"),
    web("443"),
    RelabelEndpoint(endpoint=2, labels=("k8s:app=other",)),
    ChangeOptions(policy_audit=True),
    DeletePolicies(refs=(PolicyRef(CNP, "shop", "web"),)),
    DeleteEndpoint(container_id="c-client", container_interface="eth0"),
)


@pytest.fixture(scope="module")
def past() -> tuple[History, list[int]]:
    return told(*STORY)


def between(past: tuple[History, list[int]], first: int, last: int, *tables: str) -> Difference:
    history, positions = past
    return diff(history, NOW, before=str(positions[first]), after=str(positions[last]), tables=tables)


def test_a_policy_that_was_written_anew_is_changed_by_the_event_that_did_it(past) -> None:
    found = between(past, 3, 4)
    (change,) = found.intent
    assert (change.object, change.action) == (WEB, "changed")
    assert [line for line in change.diff.splitlines() if line[0] in "+-"][2:] == [
        "-      - port: '80'",
        "+      - port: '443'",
    ]
    assert [event.position for event in change.events] == [past[1][4]]
    (policymap,) = [one for one in found.tables if one.rows]
    assert policymap.table == "policymap"
    assert [(bool(row.before), bool(row.after), row.key[-1]) for row in policymap.rows] == [
        (True, False, "80"),
        (False, True, "443"),
    ]


def test_what_came_and_went_between_is_no_difference(past) -> None:
    assert WEB not in {one.object for one in between(past, 2, 7).intent}


def test_every_kind_of_object_is_told(past) -> None:
    found = {one.object: one.action for one in between(past, 2, 8).intent}
    assert found == {
        "options": "changed",
        "endpoint 2": "removed",
        "identity 257": "removed",
    }
    first = {one.object.split()[0]: one.action for one in diff(past[0], NOW, before="0", after="head").intent}
    assert first == {
        "endpoint": "added",
        "identity": "added",
        "pool": "added",
        "node": "added",
        "options": "changed",
    }


def test_an_endpoint_that_was_relabelled_shows_its_labels_and_its_pod(past) -> None:
    (change,) = [one for one in between(past, 4, 5).intent if one.object == "endpoint 2"]
    assert (change.action, change.detail) == ("changed", "shop/client")
    assert "-- k8s:app=client" in change.diff.splitlines()
    assert "+- k8s:app=other" in change.diff.splitlines()


def test_only_what_is_asked_for_is_compared(past) -> None:
    assert between(past, 3, 4, "ipcache").intent == ()
    assert [one.table for one in between(past, 3, 4, "devices", "ipcache").tables] == ["ipcache", "devices"]
    assert between(past, 3, 4, INTENT).tables == ()
    with pytest.raises(NothingToShow, match="intent, policymap"):
        between(past, 3, 4, "services")


def test_of_many_events_about_one_object_the_last_are_told_and_the_others_counted() -> None:
    history, positions = told(*STORY[:3], *(web(str(1000 + number)) for number in range(30)))
    found = diff(history, NOW, before=str(positions[2]), after="head")
    (change,) = [one for one in found.intent if one.object == WEB]
    assert [one.position for one in change.events] == positions[-10:]
    assert change.more == 20


def test_a_world_does_not_differ_from_itself_and_everything_from_nothing() -> None:
    for seed in range(5):
        churned = churn.Churn(Random(seed), pods=4)
        for _, _ in zip(range(60), churned.turns(), strict=False):
            pass
        world = churned.world
        assert compare(world, world) == []
        assert {one.action for one in compare(World(), world)} <= {"added", "changed"}
        kinds = {one.object.split()[0] for one in compare(World(), world, ("policy", "endpoint"))}
        assert kinds <= {"policy", "endpoint"}


def test_answers_survive_the_way_over_the_wire(past) -> None:
    history, positions = past
    answers = [
        between(past, 0, 8),
        replay(history, NOW, to="head", show="summary"),
        Steps(to=positions[-1], steps=tuple(steps(history, 1, positions[-1]))),
    ]
    for answer in answers:
        assert msgspec.json.decode(msgspec.json.encode(answer), type=type(answer)) == answer


@pytest.mark.parametrize("show", SHOWS)
def test_everything_can_be_shown_at_every_moment(past, show: str) -> None:
    history, positions = past
    for position in (0, *positions):
        shown = replay(history, NOW, to=str(position), show=show)
        assert all(len(row) == len(shown.columns) for row in shown.rows)
        assert shown.position == position


def cells(shown: Shown, column: str) -> list[str]:
    return [row[shown.columns.index(column)] for row in shown.rows]


def test_what_concerns_an_endpoint_is_shown_alone(past) -> None:
    history, positions = past
    at = str(positions[3])
    assert cells(replay(history, NOW, to=at, show="policymap", endpoint=1), "port").count("80") == 1
    assert set(cells(replay(history, NOW, to=at, show="policymap", endpoint=2), "port")) == {"ANY"}
    assert len(replay(history, NOW, to=at, show="addresses", endpoint=1).rows) == 2
    assert cells(replay(history, NOW, to=at, show="endpoints", endpoint=2), "pod") == ["shop/client"]
    with pytest.raises(NoSuchEndpoint, match=rf"no endpoint 2 at position {history.head}: `cplane replay --to"):
        replay(history, NOW, to="head", show="ipcache", endpoint=2)
    with pytest.raises(NotByEndpoint, match="say with --show what of it you mean: endpoints, policymap"):
        replay(history, NOW, to="head", show="options", endpoint=1)
    with pytest.raises(NothingToShow, match="known are summary"):
        replay(history, NOW, to="head", show="everything")


def test_steps_add_up_to_the_tables(past) -> None:
    history, positions = past
    found = list(steps(history, 1, positions[-1]))
    assert [one.position for one in found] == list(range(1, positions[-1] + 1))
    tables = Tables(history.ledger(positions[-1]).facts())
    for shown, name in TABLES.items():
        changes = [one.tables[shown] for one in found if shown in one.tables]
        before = len(Tables().table(name))
        assert before + sum(one.added - one.removed for one in changes) == len(tables.table(name))


def test_steps_can_begin_in_the_middle_and_need_not_know_what_was_before(past) -> None:
    history, positions = past
    whole = list(steps(history, 1, positions[-1]))
    for first in (2, positions[3], positions[-1]):
        assert list(steps(history, first, positions[-1])) == whole[first - 1 :]


def test_a_span_is_the_whole_log_unless_it_is_said() -> None:
    history, positions = told(*STORY)
    assert span(history, NOW, first="", last="") == (1, positions[-1])
    assert span(history, NOW, first="3", last="7") == (3, 7)
    with pytest.raises(Backwards, match="the other way round"):
        span(history, NOW, first="7", last="3")
    empty = History(MemoryReader(()))
    assert list(steps(empty, *span(empty, NOW, first="", last=""))) == []
    assert list(steps(empty, *span(empty, NOW, first="", last="head"))) == []
