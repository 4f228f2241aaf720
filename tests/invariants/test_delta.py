"""Writing a delta, row by row, never opens a window: in no order of events, composed or not."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cplane.domain.policy.resolve import ALLOW, DENY, precedence
from cplane.projections.delta import Delta, plan
from cplane.projections.policymap import PolicyMapProjection
from datapath.maps.policy import AUDIT_PLANE, PolicyEntry, PolicyKey
from tests.support.builders import DUAL_STACK, allocated, audited, cnp, deleted, ports, upserted
from tests.support.deltas import in_one
from tests.support.effort import examples
from tests.support.events import NUMBERS, SUBJECTS, policy_stream
from tests.support.scenario import endpoint_created
from tests.support.windows import assert_no_window, steps

pytestmark = pytest.mark.slow

API = 301
L4 = ((0, 0, 0), (6, 0, 8), (6, 80, 23), (6, 80, 24), (6, 81, 24), (17, 0, 8), (17, 53, 24))


def world(*subjects):
    projection = PolicyMapProjection()
    projection.apply(DUAL_STACK)
    for number, labels in NUMBERS.items():
        projection.apply(allocated(number, labels))
    for endpoint, number in enumerate(subjects or (API,), 1):
        labels = NUMBERS[number].texts()
        projection.apply(endpoint_created(endpoint=endpoint, ipv4="", ipv6="", identity=number, labels=labels))
    return projection


LEVELS = (ALLOW, ALLOW, precedence(deny=False, redirect=101), DENY)
SAID = st.sampled_from((None, None, None, 0, 1, 2))


@st.composite
def tables(draw, said=SAID):
    """Rows of one subject in one direction, as terms make them: without any that a stricter and broader one covers."""
    drawn = draw(
        st.dictionaries(
            st.tuples(st.sampled_from((0, 300)), st.sampled_from(L4)),
            st.tuples(st.sampled_from(LEVELS), said),
            max_size=10,
        )
    )
    return {
        PolicyKey(API, identity, 0, *l4): row(drawn, identity, l4)
        for (identity, l4), (level, _) in drawn.items()
        if all(drawn[one][0] <= level for one in broader(drawn, identity, l4) if one[0] == identity)
    }


def row(drawn, identity, l4):
    level, auth = drawn[identity, l4]
    deny = level == DENY
    asked = 0
    if not deny:
        derived = [drawn[one][1] or 0 for one in broader(drawn, identity, l4) if drawn[one][0] != DENY]
        asked = max(derived, default=0) if auth is None else auth
    return PolicyEntry(
        deny=deny,
        precedence=level,
        l4_bits=l4[2],
        proxy_port=int(level not in (ALLOW, DENY)),
        auth_type=asked,
        auth_said=auth is not None and not deny,
    )


def broader(drawn, identity, l4):
    """What covers it, of the same peer and of anyone."""
    protocol, port, bits = l4
    return [
        (peer, (other, start, length))
        for peer, (other, start, length) in drawn
        if peer in (0, identity)
        and (length <= bits and (peer, (other, start, length)) != (identity, l4))
        and (not length or other == protocol)
        and (length <= 8 or start >> (24 - length) == port >> (24 - length))
    ]


PLAIN = st.none()


def entry(bits, *, deny):
    return PolicyEntry(deny=deny, precedence=DENY if deny else ALLOW, l4_bits=bits)


@given(tables(), tables())
@example(
    {PolicyKey(API, 300, 0, 6, 0, 8): entry(8, deny=True), PolicyKey(API, 0, 0, 6, 80, 24): entry(24, deny=False)},
    {PolicyKey(API, 300, 0, 6, 80, 24): entry(24, deny=False), PolicyKey(API, 0, 0, 6, 0, 8): entry(8, deny=True)},
)
@settings(max_examples=examples(200), deadline=None)
def test_a_plan_between_any_two_tables_opens_no_window(old, new):
    assert_no_window(old, plan(new, old))


@given(tables(PLAIN), tables(PLAIN))
@settings(max_examples=examples(200), deadline=None)
def test_where_nobody_asks_for_authentication_nothing_is_dropped_for_a_moment_either(old, new):
    assert_no_window(old, plan(new, old))


@given(tables(), tables())
@settings(max_examples=examples(200), deadline=None)
def test_a_plan_reaches_the_table_from_anywhere(old, new):
    *_, reached = (old, *steps(old, plan(new, old)))
    assert reached == new
    assert not plan(new, new)


@given(tables(), tables(), tables())
@settings(max_examples=examples(120), deadline=None)
def test_two_deltas_in_one_reach_the_last_table_and_open_no_window(first, second, third):
    composed = in_one((plan(second, first), plan(third, second)))
    *_, reached = (first, *steps(first, composed))
    assert reached == third
    assert_no_window(first, composed)
    assert composed == plan(third, first) or dict(composed.upserts) == dict(plan(third, first).upserts)


@given(st.lists(tables(), min_size=2, max_size=5))
@settings(max_examples=examples(120), deadline=None)
def test_any_number_of_deltas_in_one_reach_the_last_table_and_open_no_window(stages):
    composed = in_one(plan(new, old) for old, new in pairwise(stages))
    *_, reached = (stages[0], *steps(stages[0], composed))
    assert reached == stages[-1]
    assert_no_window(stages[0], composed)


@given(policy_stream(max_size=3), st.sampled_from(((API,), SUBJECTS)))
@settings(max_examples=examples(25), deadline=None)
def test_policies_that_come_and_go_open_no_window(stream, subjects):
    projection = world(*subjects)
    table = dict(projection.table())
    start, composed = dict(table), Delta.nothing()
    for event in stream:
        delta = projection.apply(event)
        composed = in_one((composed, delta))
        assert_no_window(table, delta)
        table = dict(projection.table())
    assert_no_window(start, composed)
    *_, reached = (start, *steps(start, composed))
    assert reached == table


def test_a_plane_is_there_before_what_is_audited_and_goes_after_it():
    projection = world()
    document = audited(cnp("a", ingress=[{"toPorts": ports("80/TCP")}]))
    came, gone = projection.apply(upserted(document)), projection.apply(deleted(document))
    planes = [bool(key.policy_id & AUDIT_PLANE) for key in came.upserts]
    assert planes == sorted(planes, reverse=True)
    assert True in planes
    assert False in planes
    assert all(key.policy_id & AUDIT_PLANE for key in gone.deletes)
    assert not any(row.audited for row in gone.upserts.values())


def test_who_speaks_with_a_proxy_is_not_told_as_audited_before_the_plane_is_there():
    """Where others are to be proven, what a proxy is to have goes in early: not so what is looked up in the plane."""
    projection = world(*SUBJECTS)
    start, web = dict(projection.table()), {"matchLabels": {"app": "web"}}
    proven = {"toEndpoints": [web], "authentication": {"mode": "test-always-fail"}}
    read = {"toPorts": [{**ports("85/TCP")[0], "rules": {"l7proto": "r2d2"}}]}
    documents = audited(cnp("a", ingress=[{"toPorts": ports("80/TCP")}])), cnp("b", egress=[read, proven])
    assert_no_window(start, in_one([projection.apply(upserted(one)) for one in documents]))


def test_what_says_no_more_that_nobody_need_be_proven_goes_in_before_what_asks():
    anyone, peer, weak = PolicyKey(301, 0, 0, 6, 0, 8), PolicyKey(301, 300, 0, 0, 0, 0), precedence(deny=False)
    said = PolicyEntry(deny=False, precedence=weak, l4_bits=8, auth_said=True)
    old = {anyone: said, peer: PolicyEntry(deny=False, precedence=weak + 9, l4_bits=0, proxy_port=1)}
    asks = PolicyEntry(deny=False, precedence=weak, l4_bits=0, auth_type=1, auth_said=True)
    assert_no_window(old, plan({anyone: said._replace(auth_said=False), peer: asks}, old))
