"""Writing a delta, row by row, never opens a window: in no order of events, composed or not."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cplane.domain.policy.resolve import ALLOW, DENY
from cplane.projections.delta import Delta, plan
from cplane.projections.policymap import PolicyMapProjection
from datapath.maps.policy import PolicyEntry, PolicyKey
from tests.support.builders import CLUSTER, DUAL_STACK, allocated, pod_labels
from tests.support.events import NUMBERS, policy_stream
from tests.support.scenario import endpoint_created
from tests.support.windows import assert_no_window, steps

pytestmark = pytest.mark.slow

API = 301
L4 = ((0, 0, 0), (6, 0, 8), (6, 80, 23), (6, 80, 24), (6, 81, 24), (17, 0, 8), (17, 53, 24))


def world():
    projection = PolicyMapProjection()
    projection.apply(DUAL_STACK)
    for number, labels in NUMBERS.items():
        projection.apply(allocated(number, labels))
    projection.apply(endpoint_created(endpoint=1, ipv4="", ipv6="", identity=API, labels=NUMBERS[API].texts()))
    return projection


@st.composite
def tables(draw):
    """Rows of one subject in one direction, without any that a stricter and broader one covers."""
    drawn = draw(
        st.dictionaries(
            st.tuples(st.sampled_from((0, 300)), st.sampled_from(L4)),
            st.booleans(),
            max_size=10,
        )
    )
    found = {}
    for (identity, l4), deny in drawn.items():
        row = PolicyEntry(deny=deny, precedence=DENY if deny else ALLOW, l4_bits=l4[2])
        found[PolicyKey(API, identity, 0, *l4)] = row
    return {key: row for key, row in found.items() if row.deny or not covered(key, found)}


def covered(key, table):
    for bits in range(key.l4_bits):
        behind = 24 - bits
        port = key.port >> behind << behind if bits >= 8 else 0
        broad = table.get(key._replace(protocol=key.protocol if bits else 0, port=port, l4_bits=bits))
        if broad is not None and broad.deny:
            return True
    return False


def entry(bits, *, deny):
    return PolicyEntry(deny=deny, precedence=DENY if deny else ALLOW, l4_bits=bits)


@given(tables(), tables())
@example(
    {PolicyKey(API, 300, 0, 6, 0, 8): entry(8, deny=True), PolicyKey(API, 0, 0, 6, 80, 24): entry(24, deny=False)},
    {PolicyKey(API, 300, 0, 6, 80, 24): entry(24, deny=False), PolicyKey(API, 0, 0, 6, 0, 8): entry(8, deny=True)},
)
@settings(max_examples=200, deadline=None)
def test_a_plan_between_any_two_tables_opens_no_window(old, new):
    assert_no_window(old, plan(new, old))


@given(tables(), tables())
@settings(max_examples=200, deadline=None)
def test_a_plan_reaches_the_table_from_anywhere(old, new):
    *_, reached = (old, *steps(old, plan(new, old)))
    assert reached == new
    assert not plan(new, new)


@given(tables(), tables(), tables())
@settings(max_examples=120, deadline=None)
def test_two_deltas_in_one_reach_the_last_table_and_open_no_window(first, second, third):
    composed = plan(second, first).then(plan(third, second))
    *_, reached = (first, *steps(first, composed))
    assert reached == third
    assert_no_window(first, composed)
    assert composed == plan(third, first) or dict(composed.upserts) == dict(plan(third, first).upserts)


@given(st.lists(tables(), min_size=2, max_size=5))
@settings(max_examples=120, deadline=None)
def test_any_number_of_deltas_in_one_reach_the_last_table_and_open_no_window(stages):
    composed = Delta.composed(plan(new, old) for old, new in pairwise(stages))
    *_, reached = (stages[0], *steps(stages[0], composed))
    assert reached == stages[-1]
    assert_no_window(stages[0], composed)


@given(policy_stream(max_size=4))
@settings(max_examples=20, deadline=None)
def test_policies_that_come_and_go_open_no_window(stream):
    projection = world()
    table = dict(projection.table())
    start, composed = dict(table), Delta.nothing()
    for event in stream:
        delta = projection.apply(event)
        composed = composed.then(delta)
        assert_no_window(table, delta)
        table = dict(projection.table())
    assert_no_window(start, composed)
    *_, reached = (start, *steps(start, composed))
    assert reached == table


def test_the_labels_of_these_tests_are_in_the_cluster_of_the_policies():
    assert NUMBERS[API] == pod_labels("app=api", "tier=back", cluster=CLUSTER)
