"""Rows of the policy table that many policies have alike, held once for all of them.

On most nodes a rule is about many pods, each of an identity, and so of a policy, of its own: a thousand rules about 65
of them are a quarter of a million rows, and four thousand different ones.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datapath.maps.policy import AUDIT_PLANE, KEY, VALUE, PolicyEntry, PolicyKey

Groups = Mapping[int, tuple[int, ...]]
"""Policies that have their rows alike, under the first of them; nobody is in two groups."""

_NUMBER: Final = slice(4, 8)  # of `policy_id` in the bytes of a key


class _Columns(NamedTuple):
    """The bytes of the rows, and which of them stand together for one group: its first policy, from where to where."""

    keys: npt.NDArray[np.uint8]
    values: npt.NDArray[np.uint8]
    runs: list[tuple[int, int, int]]


class Spread(Mapping[PolicyKey, PolicyEntry]):
    """`rows` are those of the first policy of each group; to a reader every policy of the group has them.

    The order is that of `rows`, and each comes for all policies of its group before the next one comes.
    """

    __slots__ = ("_columns", "_first", "groups", "rows")

    def __init__(self, rows: Mapping[PolicyKey, PolicyEntry], groups: Groups) -> None:
        self.rows, self.groups = rows, groups
        self._first: dict[int, int] | None = None
        self._columns: _Columns | None = None

    def __getitem__(self, key: PolicyKey) -> PolicyEntry:
        if self._first is None:
            self._first = {number: first for first, numbers in self.groups.items() for number in numbers}
        first = self._first.get(key.policy_id)
        if first is None:
            raise KeyError(key)
        return self.rows[key._replace(policy_id=first)]

    def __iter__(self) -> Iterator[PolicyKey]:
        none: tuple[int, ...] = ()
        groups = self.groups
        return (PolicyKey(number, *key[1:]) for key in self.rows for number in groups.get(key.policy_id, none))

    def __bool__(self) -> bool:
        return any(self.groups.get(key.policy_id) for key in self.rows)  # the first row says so, as a rule

    def __len__(self) -> int:
        return sum(
            len(self.groups.get(first, ())) * count
            for first, count in Counter(key.policy_id for key in self.rows).items()
        )

    def __repr__(self) -> str:
        return f"Spread({self.rows!r} for {self.groups!r})"

    def policies(self) -> set[int]:
        """The policies that have any of the rows."""
        return {number for first in {key.policy_id for key in self.rows} for number in self.groups.get(first, ())}

    def of(self, policies: Collection[int]) -> "Spread":
        """The rows of these policies and of their audit planes."""
        groups = {
            first: tuple(number for number in numbers if number & ~AUDIT_PLANE in policies)
            for first, numbers in self.groups.items()
        }
        part = Spread(self.rows, groups)
        part._columns = self._packed()
        return part

    def counts(self) -> Mapping[int, int]:
        """How many rows each policy has, with those of its audit plane, in the order of the groups."""
        rows = Counter(key.policy_id for key in self.rows)
        found: Counter[int] = Counter()
        for first, numbers in self.groups.items():
            for number in numbers:
                found[number & ~AUDIT_PLANE] += rows[first]
        return found

    def packed(self, most: int) -> Iterator[tuple[bytes, bytes, int]]:
        """The bytes of all keys and of their values, in order, about `most` rows at a time, and how many these are."""
        columns = self._packed()
        for first, start, stop in columns.runs:
            numbers = np.array(self.groups.get(first, ()), "<u4").view(np.uint8).reshape(-1, 4)
            if not len(numbers):
                continue
            step = max(1, most // len(numbers))
            for begin in range(start, stop, step):
                some = slice(begin, min(begin + step, stop))
                keys = np.repeat(columns.keys[some], len(numbers), axis=0)
                keys[:, _NUMBER] = np.tile(numbers, (some.stop - some.start, 1))
                values = np.repeat(columns.values[some], len(numbers), axis=0)
                yield keys.tobytes(), values.tobytes(), len(keys)

    def _packed(self) -> _Columns:
        if self._columns is None:
            entries = {id(entry): entry for entry in self.rows.values()}  # many rows share one
            values = {number: entry.pack() for number, entry in entries.items()}
            keys = np.frombuffer(b"".join(key.pack() for key in self.rows), np.uint8)
            packed = np.frombuffer(b"".join(values[id(entry)] for entry in self.rows.values()), np.uint8)
            self._columns = _Columns(keys.reshape(-1, KEY.size), packed.reshape(-1, VALUE.size), self._runs())
        return self._columns

    def _runs(self) -> list[tuple[int, int, int]]:
        firsts = np.fromiter((key.policy_id for key in self.rows), np.int64, len(self.rows))
        edges = [0, *(np.flatnonzero(np.diff(firsts)) + 1).tolist(), len(firsts)]
        return [(int(firsts[start]), start, stop) for start, stop in pairwise(edges) if start < stop]


def policies_of(keys: Mapping[PolicyKey, PolicyEntry]) -> set[int]:
    """The policies that have any of these rows, held once for many or not."""
    return keys.policies() if isinstance(keys, Spread) else {key.policy_id for key in keys}
