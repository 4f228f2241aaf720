"""Deltas: what to write, in which order, and two of them in one."""

import pytest

from cplane.domain.policy.resolve import ALLOW, DENY
from cplane.projections.delta import Delta, plan
from datapath.maps.policy import PolicyEntry, PolicyKey
from tests.support.deltas import in_one


def key(port=0, *, identity=0, bits=None):
    bits = (24 if port else 0) if bits is None else bits
    return PolicyKey(301, identity, 0, 6 if bits else 0, port, bits)


def row(*, deny=False, bits=24):
    return PolicyEntry(deny=deny, precedence=DENY if deny else ALLOW, l4_bits=bits)


def test_nothing_is_false_and_changes_nothing():
    assert not Delta.nothing()
    assert not plan({"a": 1}, {"a": 1})
    assert plan({"a": 1}, {"a": 1}) == Delta.nothing()


def test_a_plan_writes_what_differs_and_deletes_what_is_too_much():
    delta = plan({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 9, "d": 4})
    assert (dict(delta.upserts), delta.deletes) == ({"b": 2, "c": 3}, ("d",))
    assert dict(delta.before) == {"b": 9, "d": 4}


def test_a_row_of_which_there_is_nothing_to_say_is_written_where_it_is_missing():
    assert plan({"a": None, "b": None}, {"a": None}).upserts == {"b": None}
    assert plan({"a": None}, {"a": None, "b": None}).deletes == ("b",)


def test_a_plain_table_is_written_in_the_order_of_its_rows():
    assert list(plan({"z": 1, "a": 2}, {}).upserts) == ["z", "a"]
    assert plan({}, {"z": 1, "a": 2}).deletes == ("z", "a")


@pytest.mark.parametrize(
    ("first", "second", "upserts", "deletes"),
    [
        (({}, {"a": 1}), ({"a": 1}, {"a": 2}), {"a": 2}, ()),
        (({}, {"a": 1}), ({"a": 1}, {}), {}, ()),
        (({"a": 1}, {}), ({}, {"a": 2}), {"a": 2}, ()),
        (({"a": 1}, {}), ({}, {"a": 1}), {}, ()),
        (({"a": 1}, {"a": 2}), ({"a": 2}, {}), {}, ("a",)),
        (({"a": 1}, {"a": 2}), ({"a": 2}, {"a": 1}), {}, ()),
        (({"a": 1}, {"a": 2}), ({"b": 1}, {}), {"a": 2}, ("b",)),
    ],
)
def test_two_deltas_in_one_are_the_way_from_the_first_table_to_the_last(first, second, upserts, deletes):
    composed = in_one((plan(first[1], first[0]), plan(second[1], second[0])))
    assert (dict(composed.upserts), composed.deletes) == (upserts, deletes)


def test_nothing_before_or_after_leaves_a_delta_as_it_is():
    delta = plan({"a": 1}, {})
    assert in_one((delta, Delta.nothing())) is delta
    assert in_one((Delta[str, int].nothing(), delta)) is delta


def test_denies_are_written_before_allows_and_deleted_after_them():
    old = {key(1): row(deny=True), key(2): row()}
    new = {key(3): row(), key(4): row(deny=True)}
    delta = plan(new, old)
    assert list(delta.upserts) == [key(4), key(3)]
    assert delta.deletes == (key(2), key(1))


def test_an_allow_that_becomes_a_deny_is_written_with_the_denies():
    delta = plan({key(1): row(), key(2): row(deny=True)}, {key(1): row(deny=True), key(2): row()})
    assert list(delta.upserts) == [key(2), key(1)]


def test_an_old_allow_under_a_new_deny_becomes_that_deny_before_any_allow_is_written():
    old = {key(80): row(), key(identity=300, bits=8): row(deny=True, bits=8)}
    new = {key(bits=8): row(deny=True, bits=8), key(80, identity=300): row()}
    delta = plan(new, old)
    assert list(delta.upserts) == [key(bits=8), key(80), key(80, identity=300)]
    assert delta.upserts[key(80)].deny
    assert set(delta.deletes) == {key(80), key(identity=300, bits=8)}


def test_an_old_allow_under_a_new_deny_just_goes_where_no_allow_is_written():
    delta = plan({key(bits=8): row(deny=True, bits=8)}, {key(80): row()})
    assert (list(delta.upserts), delta.deletes) == ([key(bits=8)], (key(80),))


def test_a_stand_in_is_no_row_of_the_table_that_is_reached():
    old = {key(80): row(), key(identity=300, bits=8): row(deny=True, bits=8)}
    new = {key(bits=8): row(deny=True, bits=8), key(80, identity=300): row()}
    back = in_one((plan(new, old), plan(old, new)))
    assert not back


class CountedKey:
    """A key that counts how often it is looked up."""

    lookups = 0

    def __init__(self, number):
        self.number = number

    def __hash__(self):
        CountedKey.lookups += 1
        return self.number

    def __eq__(self, other):
        return self.number == other.number


def test_a_thousand_deltas_in_one_cost_what_they_touch_and_not_their_number_times_that():
    deltas = [plan({CountedKey(n * 10 + i): n for i in range(10)}, {}) for n in range(1000)]
    CountedKey.lookups = 0
    assert len(in_one(deltas).upserts) == 10_000
    assert CountedKey.lookups < 20 * 10_000
