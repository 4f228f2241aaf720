"""Deltas of rows that policies have alike: in one, in order, and together with those of single policies."""

import pytest

from cplane.domain.policy.resolve import ALLOW, DENY
from cplane.projections import delta as delta_module
from cplane.projections.delta import Delta
from datapath.maps.policy import AUDIT_PLANE, PolicyEntry, PolicyKey
from datapath.maps.spread import Spread
from tests.support.deltas import in_one

WEB, TCP, DNS = (7, 0, 6, 80, 24), (7, 0, 6, 0, 8), (7, 1, 17, 53, 24)
LET, DROP = PolicyEntry(False, ALLOW, 24), PolicyEntry(True, DENY, 24)


def alike(numbers, before, after):
    """The delta by which policies that have their rows alike go from these to those."""
    groups = {numbers[0]: numbers}
    held = [{PolicyKey(numbers[0], *where): row for where, row in rows.items()} for rows in (before, after)]
    return Delta(*(Spread(rows, groups) for rows in held))


def apart(delta):
    """The same, every row for itself."""
    return Delta(dict(delta.before), dict(delta.after))


@pytest.mark.parametrize(
    "second",
    [
        alike((1, 2), {WEB: LET}, {WEB: DROP, DNS: LET}),  # those of the first
        alike((8, 9), {}, {WEB: DROP}),  # others
        alike((2, 3), {}, {DNS: DROP}),  # some of them, and another
        alike((2, 1), {WEB: LET}, {}),  # in another order
        apart(alike((5,), {}, {WEB: DROP})),  # another one
        apart(alike((2,), {WEB: LET}, {WEB: DROP})),  # one of them
    ],
)
def test_deltas_of_rows_that_policies_have_alike_are_in_one_what_those_of_each_row_are(second):
    first = alike((1, 2), {}, {WEB: LET})
    for some in ((first, second), (first, second, Delta.nothing()), (apart(first), second)):
        together, single = in_one(some), in_one(map(apart, some))
        assert together == single
        assert dict(together.upserts) == dict(single.upserts)
        assert set(together.deletes) == set(single.deletes)


def test_rows_that_policies_have_alike_are_ordered_as_those_of_each():
    before, after = {WEB: LET}, {DNS: DROP, TCP: DROP}
    shared = alike((1, 2), before, after)
    for number in (1, 2):
        single = apart(alike((number,), before, after))
        assert [(key, row) for key, row in shared.upserts.items() if key.policy_id == number] == [
            *single.upserts.items()
        ]
        assert [key for key in shared.deletes if key.policy_id == number] == [*single.deletes]


def written(delta):
    """What is written, one after another, as the parts have it."""
    return [
        (kind, key, row)
        for upserts, deletes in delta.parts()
        for kind, rows in (("upsert", upserts.items()), ("delete", ((key, None) for key in deletes)))
        for key, row in rows
    ]


PLANE = AUDIT_PLANE
ORDERED = Spread(
    {
        PolicyKey(1, *WEB): DROP,
        PolicyKey(5, *TCP): DROP,
        PolicyKey(1 | PLANE, *WEB): LET,
        PolicyKey(5 | PLANE, *TCP): LET,
        PolicyKey(1, *DNS): LET,
    },
    {1: (1, 2, 3), 5: (5,), 1 | PLANE: (1 | PLANE, 3 | PLANE), 5 | PLANE: (5 | PLANE,), 2 | PLANE: (2 | PLANE,)},
)


@pytest.mark.parametrize("rows", [1, 2, 5, 100])
def test_in_parts_each_policy_has_its_own_rows_in_their_order_and_as_a_whole(monkeypatch, rows):
    monkeypatch.setattr(delta_module, "PART_ROWS", rows)
    delta = Delta(Spread({PolicyKey(1, *TCP): LET, PolicyKey(5, *DNS): LET}, ORDERED.groups), ORDERED)
    whole = [*(("upsert", key, row) for key, row in delta.upserts.items())]
    whole += [("delete", key, None) for key in delta.deletes]
    found = written(delta)
    assert sorted(found, key=str) == sorted(whole, key=str)
    for policy in (1, 2, 3, 5):
        own = [one for one in whole if one[1].policy_id & ~PLANE == policy]
        assert [one for one in found if one[1].policy_id & ~PLANE == policy] == own
    assert len(list(delta.parts())) == {1: 4, 2: 4, 5: 2, 100: 1}[rows]


def test_what_is_no_policy_or_of_single_ones_is_one_part():
    for delta in (apart(alike((1, 2), {WEB: LET}, {TCP: DROP})), Delta({"a": 1}, {"b": 2})):
        assert [(dict(upserts), set(deletes)) for upserts, deletes in delta.parts()] == [
            (dict(delta.upserts), set(delta.deletes))
        ]
