"""Which event changed an answer: found among many, in few steps."""

from random import Random

import pytest

from cplane.deciders.policy import DeletePolicies
from cplane.domain.policy.rule import PolicyRef
from cplane.eventlog.reader import MemoryReader
from cplane.projections.tables import IPCACHE
from cplane.timetravel.bisect import BadPredicate, bisect, table_question
from cplane.timetravel.history import History
from cplane.timetravel.replay import NothingToShow
from cplane.timetravel.traffic import question_of
from tests.support import churn
from tests.support.builders import selector
from tests.support.effort import examples
from tests.support.scenario import pod
from tests.support.story import Story, applied

ASKED = question_of(source="shop/client", destination="shop/web", port="80/TCP")
OTHERS = [{"fromEndpoints": [selector("app=other")]}]


@pytest.fixture
def told() -> Story:
    made = Story(pod("web", "k8s:app=web", ifindex=10), pod("client", "k8s:app=client", ifindex=11))
    for number in range(400):
        made.do(applied(f"aside-{number % 7}", f"aside{number}", ingress=OTHERS))
    return made


def test_the_event_that_shut_a_port_is_found_in_few_steps(told: Story) -> None:
    good = len(told.entries)
    shut = told.do(applied("web", "web", ingress=OTHERS))
    for number in range(600):
        told.do(applied(f"aside-{number % 7}", f"again{number}", ingress=OTHERS))
    found = bisect(told.history, 0, ASKED, good=str(good), bad="head")
    assert found.turned is not None
    assert (found.turned.event.position, found.turned.before, found.turned.after) == (shut, "ALLOWED", "DENIED")
    assert (found.turned.event.actor, found.turned.object) == (
        told.entries[shut - 1].actor,
        "policy CiliumNetworkPolicy/shop/web",
    )
    assert {(one.position, one.answer) for one in found.steps} >= {(shut - 1, "ALLOWED"), (shut, "DENIED")}
    assert len(found.steps) <= 8
    assert (found.others, found.counted) == ((), True)


def test_good_may_be_after_bad(told: Story) -> None:
    shut = told.do(applied("web", "web", ingress=OTHERS))
    lifted = told.do(DeletePolicies(refs=(PolicyRef("CiliumNetworkPolicy", "shop", "web"),)))
    found = bisect(told.history, 0, ASKED, good="head", bad=str(shut))
    assert found.turned is not None
    assert (found.turned.event.position, found.turned.after, found.good.answer) == (lifted, "ALLOWED", "ALLOWED")


def test_both_the_same_is_nothing_to_find_but_what_was_between_is_said(told: Story) -> None:
    good = len(told.entries)
    shut = told.do(applied("web", "web", ingress=OTHERS))
    lifted = told.do(DeletePolicies(refs=(PolicyRef("CiliumNetworkPolicy", "shop", "web"),)))
    found = bisect(told.history, 0, ASKED, good=str(good), bad="head")
    assert (found.turned, found.good.answer, found.bad.answer) == (None, "ALLOWED", "ALLOWED")
    assert found.others == (shut, lifted)


def test_further_changes_on_the_way_are_named(told: Story) -> None:
    good = len(told.entries)
    delete = DeletePolicies(refs=(PolicyRef("CiliumNetworkPolicy", "shop", "web"),))
    positions = [told.do(one) for one in (applied("web", "web", ingress=OTHERS), delete)]
    positions.append(told.do(applied("web", "web", ingress=OTHERS)))
    found = bisect(told.history, 0, ASKED, good=str(good), bad="head")
    assert found.turned is not None
    assert {found.turned.event.position, *found.others} == set(positions)


def test_a_row_of_a_table_and_how_many_there_are_can_be_asked_for() -> None:
    _, entries = churn.recorded(Random(5), examples(150, least=50), pods=6)
    history = History(MemoryReader(entries))
    counts = [len(history.moment(at).tables.table(IPCACHE)) for at in range(len(entries) + 1)]
    limit = max(counts) - 1
    first = counts.index(limit + 1)
    found = bisect(history, 0, table_question("ipcache", "", limit), good="0", bad=str(first))
    assert found.turned is not None and found.turned.event.position == first
    created = next(one.event for one in entries if type(one.event).__name__ == "EndpointCreated")
    (where,) = [at for at, one in enumerate(entries, start=1) if one.event is created]
    asked = table_question("ipcache", f"{created.ipv4}/32", None)
    row = bisect(history, 0, asked, good="0", bad=str(where))
    assert row.turned is not None and row.turned.event.position == where


@pytest.mark.parametrize("arguments", [("ipcache", "", None), ("ipcache", "x", 3)])
def test_a_question_about_a_table_asks_for_one_thing(arguments: tuple[str, str, int | None]) -> None:
    with pytest.raises(BadPredicate):
        table_question(*arguments)
    with pytest.raises(NothingToShow):
        table_question("services", "x", None)
