"""Rows that many policies have alike read as if each policy had its own."""

import pytest

from datapath.maps.policy import PolicyEntry, PolicyKey
from datapath.maps.spread import Spread, policies_of

WEB, DNS = (300, 0, 6, 80, 24), (300, 1, 17, 53, 24)
ALLOW, DENY = PolicyEntry(False, 1, 24, cookie=5), PolicyEntry(True, 9, 24)
ROWS = {PolicyKey(1, *WEB): ALLOW, PolicyKey(9, *WEB): DENY, PolicyKey(1, *DNS): DENY}
SPREAD = Spread(ROWS, {1: (1, 2, 3), 9: (9,), 20: (20, 21)})
APART = {
    **{PolicyKey(number, *WEB): ALLOW for number in (1, 2, 3)},
    PolicyKey(9, *WEB): DENY,
    **{PolicyKey(number, *DNS): DENY for number in (1, 2, 3)},
}


def test_every_policy_of_a_group_has_the_rows():
    assert SPREAD == APART
    assert list(SPREAD.items()) == list(APART.items())
    assert len(SPREAD) == len(APART)


@pytest.mark.parametrize("key", [PolicyKey(9, *DNS), PolicyKey(20, *WEB), PolicyKey(4, *WEB)])
def test_no_other_policy_has_them(key):
    assert key not in SPREAD


def test_a_policy_without_rows_is_none_of_those_that_have_some():
    assert policies_of(SPREAD) == policies_of(APART) == {1, 2, 3, 9}


@pytest.mark.parametrize("most", [1, 2, 4, 100])
def test_the_bytes_are_those_of_the_rows_in_order_however_many_come_at_once(most):
    pieces = list(SPREAD.packed(most))
    assert b"".join(keys for keys, _, _ in pieces) == b"".join(key.pack() for key in APART)
    assert b"".join(values for _, values, _ in pieces) == b"".join(entry.pack() for entry in APART.values())
    assert sum(count for _, _, count in pieces) == len(APART)


def test_nothing_is_nothing():
    assert not Spread({}, {})
    assert list(Spread({}, {}).packed(10)) == []


@pytest.mark.parametrize("policies", [(1,), (2, 9), (3, 20), (4,), ()])
def test_those_of_some_policies_are_what_they_are_among_all(policies):
    part = SPREAD.of(policies)
    there = {key: row for key, row in APART.items() if key.policy_id in policies}
    assert part == there
    assert list(part) == list(there)
    assert policies_of(part) == {key.policy_id for key in there}
    assert b"".join(keys for keys, _, _ in part.packed(2)) == b"".join(key.pack() for key in there)
    assert b"".join(values for _, values, _ in part.packed(2)) == b"".join(row.pack() for row in there.values())
    assert all(key not in part for key in APART if key not in there)


def test_the_rows_of_each_policy_are_counted():
    assert SPREAD.counts() == {1: 2, 2: 2, 3: 2, 9: 1, 20: 0, 21: 0}
