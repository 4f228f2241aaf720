"""Tables follow from the facts, not from the order in which independent facts came."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cplane.events.endpoint import EndpointCreated
from cplane.projections.delta import compose
from cplane.projections.policymap import PolicyMapProjection
from cplane.projections.tables import POLICY, REDIRECTS, Tables
from tests.support.effort import examples
from tests.support.events import histories, settled

pytestmark = pytest.mark.slow


def fold(events):
    projection = PolicyMapProjection()
    for event in events:
        projection.apply(event)
    return projection


@given(histories())
@settings(max_examples=examples(120), deadline=None)
def test_interleavings_of_independent_streams_give_the_same_policy_map(both):
    one, other = both
    assert fold(one).table() == fold(other).table()


@given(histories())
@settings(max_examples=examples(120), deadline=None)
def test_the_policy_map_is_what_a_fold_of_the_settled_facts_gives(both):
    history, _ = both
    incremental, scratch = fold(history), fold(settled(history))
    assert incremental.table() == scratch.table()
    assert incremental.entries_by_policy() == scratch.entries_by_policy()


@given(histories())
@settings(max_examples=examples(60), deadline=None)
def test_a_state_left_and_reached_again_is_the_same(both):
    history, more = both
    projection = fold(settled(history))
    before = dict(projection.table())
    for event in settled(more):
        projection.apply(event)
    for event in settled(history):
        projection.apply(event)
    again = fold([*settled(more), *settled(history)])
    assert projection.table() == again.table()
    assert before == fold(settled(history)).table()


@given(histories())
@settings(max_examples=examples(120), deadline=None)
def test_every_delta_leads_from_the_table_before_to_the_table_after(both):
    history, _ = both
    projection, shadow = PolicyMapProjection(), {}
    for event in history:
        delta = projection.apply(event)
        assert all(shadow.get(key) == row for key, row in delta.before.items())
        shadow.update(delta.upserts)
        for key in delta.deletes:
            del shadow[key]
        assert shadow == projection.table()
        counted = {}
        for key in shadow:
            counted[key.policy_id] = counted.get(key.policy_id, 0) + 1
        assert counted == projection.entries_by_policy()


@given(histories(), st.randoms(use_true_random=False))
@settings(max_examples=examples(120), deadline=None)
def test_facts_that_are_taken_in_many_at_once_change_what_they_do_one_by_one(both, chance):
    history = [replace(one, host_ifindex=one.endpoint) if isinstance(one, EndpointCreated) else one for one in both[0]]
    singly, together = Tables(), Tables()
    at = 0
    while at < len(history):
        some = history[at : at + chance.randint(1, 6)]
        at += len(some)
        made = {}
        for event in some:
            compose(made, singly.apply(event))
        composed = {name: delta for name, one in made.items() if (delta := one.delta())}
        assert {name: delta for name, delta in together.apply_all(some).items() if delta} == composed
        assert together.table(POLICY) == singly.table(POLICY)
        assert together.table(REDIRECTS) == singly.table(REDIRECTS)
