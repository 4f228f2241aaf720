"""Tables follow from the facts, not from the order in which independent facts came."""

import pytest
from hypothesis import given, settings

from cplane.projections.policymap import PolicyMapProjection
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
