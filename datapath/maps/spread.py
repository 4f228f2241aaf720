"""Rows of the policy table that many policies have alike, held once for all of them.

On most nodes a rule is about many pods, each of an identity, and so of a policy, of its own: a thousand rules about 65
of them are a quarter of a million rows, and four thousand different ones.
"""

from collections.abc import Iterator, Mapping
from itertools import groupby, islice

from datapath.maps.policy import PolicyEntry, PolicyKey, split

Groups = Mapping[int, tuple[int, ...]]
"""Policies that have their rows alike, under the first of them; nobody is in two groups."""


class Spread(Mapping[PolicyKey, PolicyEntry]):
    """`rows` are those of the first policy of each group; to a reader every policy of the group has them.

    The order is that of `rows`, and each comes for all policies of its group before the next one comes.
    """

    __slots__ = ("_first", "groups", "rows")

    def __init__(self, rows: Mapping[PolicyKey, PolicyEntry], groups: Groups) -> None:
        self.rows, self.groups = rows, groups
        self._first: dict[int, int] | None = None

    def __getitem__(self, key: PolicyKey) -> PolicyEntry:
        if self._first is None:
            self._first = {number: first for first, numbers in self.groups.items() for number in numbers}
        first = self._first.get(key.policy_id)
        if first is None:
            raise KeyError(key)
        return self.rows[key._replace(policy_id=first)]

    def __iter__(self) -> Iterator[PolicyKey]:
        groups = self.groups
        return (PolicyKey(number, *key[1:]) for key in self.rows for number in groups[key.policy_id])

    def __len__(self) -> int:
        return sum(len(self.groups[key.policy_id]) for key in self.rows)

    def __repr__(self) -> str:
        return f"Spread({self.rows!r} for {self.groups!r})"

    def policies(self) -> set[int]:
        """The policies that have any of the rows."""
        return {number for first in {key.policy_id for key in self.rows} for number in self.groups[first]}

    def packed(self, most: int) -> Iterator[tuple[bytes, bytes, int]]:
        """The bytes of all keys and of their values, in order, about `most` rows at a time, and how many these are."""
        values: dict[int, bytes] = {}  # many rows share one
        for first, run in groupby(self.rows, key=lambda key: key.policy_id):
            numbers = [number.to_bytes(4, "little") for number in self.groups[first]]
            while some := list(islice(run, max(1, most // len(numbers)))):
                keys, entries = [], []
                for key in some:
                    bits, rest = split(key)
                    keys.append(bits + (rest + bits).join(numbers) + rest)
                    entry = self.rows[key]
                    if id(entry) not in values:
                        values[id(entry)] = entry.pack()
                    entries.append(values[id(entry)] * len(numbers))
                yield b"".join(keys), b"".join(entries), len(some) * len(numbers)


def policies_of(keys: Mapping[PolicyKey, PolicyEntry]) -> set[int]:
    """The policies that have any of these rows, held once for many or not."""
    return keys.policies() if isinstance(keys, Spread) else {key.policy_id for key in keys}
