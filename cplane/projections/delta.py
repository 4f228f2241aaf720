"""The difference between two states of a table, and the order in which it is safe to write.

Most tables may be written in any order. In a policy map the order decides whether, for a moment, a packet
passes that neither the old nor the new table lets pass. The order follows from the type of the key, so nobody
who plans or composes deltas can forget it.
"""

from collections.abc import Iterator, Mapping
from typing import Final, Generic, TypeVar, cast

from datapath.maps.policy import AUDIT_PLANE, PolicyEntry, PolicyKey

K = TypeVar("K")
V = TypeVar("V")

_PROTOCOL_BITS: Final = 8  # of an L4 prefix; those behind them belong to the port
_PORT_BITS: Final = 16


class Delta(Generic[K, V]):
    """What makes the rows `before` into the rows `after`, which differ for every key of either.

    First `upserts` are written in their order, then `deletes` in theirs. A key may stand in both: its row is replaced
    by a stricter one until its turn to go comes. The order is found when it is asked for: of the deltas of a command's
    events only their composition is ever written.
    """

    __slots__ = ("_order", "after", "before")

    def __init__(self, before: Mapping[K, V], after: Mapping[K, V]) -> None:
        self.before, self.after = before, after
        self._order: tuple[Mapping[K, V], tuple[K, ...]] | None = None

    @classmethod
    def nothing(cls) -> "Delta[K, V]":
        """The delta that changes nothing."""
        return cls({}, {})

    @property
    def upserts(self) -> Mapping[K, V]:
        """Rows to write, in this order."""
        return self._ordered()[0]

    @property
    def deletes(self) -> tuple[K, ...]:
        """Keys to delete after that, in this order."""
        return self._ordered()[1]

    def _ordered(self) -> tuple[Mapping[K, V], tuple[K, ...]]:
        if self._order is None:
            first = next(iter(self.after or self.before), None)
            if isinstance(first, PolicyKey):
                upserts, deletes = _policy_order(
                    cast("Mapping[PolicyKey, PolicyEntry]", self.before),  # the rows of one table are of one type
                    cast("Mapping[PolicyKey, PolicyEntry]", self.after),
                )
                self._order = cast("Mapping[K, V]", upserts), cast("tuple[K, ...]", deletes)
            else:
                self._order = self.after, tuple(key for key in self.before if key not in self.after)
        return self._order

    def __bool__(self) -> bool:
        return bool(self.after or self.before)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Delta) and (self.before, self.after) == (other.before, other.after)

    def __hash__(self) -> int:
        raise TypeError("a delta holds rows that may change")

    def __repr__(self) -> str:
        return f"Delta({self.before!r} → {self.after!r})"


class Composition(Generic[K, V]):
    """Deltas, one after another, as they become one, ordered as one: what lies between them is never seen.

    None of them needs to be kept for that. The cost is that of the rows they touch, however many deltas they are in: a
    command may lead to thousands.
    """

    def __init__(self) -> None:
        self._only: Delta[K, V] | None = Delta.nothing()  # as long as there is at most one
        self._before: dict[K, V] = {}
        self._after: dict[K, V] = {}

    def add(self, one: Delta[K, V]) -> None:
        """The delta follows those before it."""
        if not one:
            return
        if self._only is not None:
            if not self._only:
                self._only = one
                return
            first, self._only = self._only, None
            self._follow(first)
        self._follow(one)

    def delta(self) -> Delta[K, V]:
        """All in one, after which this is of no more use."""
        if self._only is not None:
            return self._only
        before, after = self._before, self._after
        for key in [key for key in before.keys() & after.keys() if before[key] == after[key]]:
            del after[key], before[key]
        return Delta(before, after)

    def _follow(self, one: Delta[K, V]) -> None:
        before, after = self._before, self._after
        if before.keys().isdisjoint(one.before) and after.keys().isdisjoint(one.before):
            before.update(one.before)
        else:
            # What is only in `after` came with an earlier delta: before the first of them it was not there.
            before.update((key, row) for key, row in one.before.items() if key not in before and key not in after)
            for key in one.before.keys() - one.after.keys():
                after.pop(key, None)
        after.update(one.after)


def plan(desired: Mapping[K, V], actual: Mapping[K, V]) -> Delta[K, V]:
    """What to write so that `actual` becomes `desired`; empty when equal."""
    # Some tables have rows of which there is nothing to say, and None is also what a missing key gives.
    after = {key: row for key, row in desired.items() if key not in actual or actual[key] != row}
    before = {key: row for key, row in actual.items() if key in after or key not in desired}
    return Delta(before, after)


def _policy_order(
    before: Mapping[PolicyKey, PolicyEntry], after: Mapping[PolicyKey, PolicyEntry]
) -> tuple[Mapping[PolicyKey, PolicyEntry], tuple[PolicyKey, ...]]:
    """Strict rows go in first and out last.

    That alone is not enough. The kernel takes, for the peer and for anyone, the row with the longest L4
    prefix, whatever its precedence. So an old allow on its way out hides a new deny with a shorter prefix. If
    the packet was denied by the other of the two rows until now, and a new, longer allow hides that one, it
    passes, though neither table lets it pass. So when there are allows to write, an old allow that is hidden
    in the new table first becomes what hides it.

    Where authentication is asked for, an old row on its way out asks for it too: what is asked of the one of two rows
    may be asked of the other, whatever its precedence.
    """
    gone = {key: row for key, row in before.items() if key not in after}
    levels = {row.precedence for row in {id(row): row for row in after.values()}.values()}  # few rows are not the same
    weakest, strongest = min(levels, default=0), max(levels, default=0)
    asked = _asked(after)
    covered, asking = {}, {}
    for key, row in gone.items() if weakest < strongest or asked else ():
        cover = _stricter_cover(key, row, after)
        if cover is not None and weakest < cover.precedence:
            covered[key] = cover._replace(l4_bits=key.l4_bits)
        elif row.auth_type < (auth := asked.get((key.policy_id, key.direction), 0)) and not row.deny:
            asking[key] = row._replace(auth_type=auth, auth_said=True)
    if asked:  # of equal rows, one that hides or takes the place of a stronger one uncovers others: it comes last
        weaker = {key: _is_stronger_held(key, row, before) for key, row in after.items()}
        after = {key: after[key] for key in sorted(after, key=weaker.__getitem__)}
    upserts = _by_strictness({**asking, **after, **covered}, strict_first=True)
    deletes = _by_strictness({**gone, **asking, **covered}, strict_first=False)
    return upserts, tuple(deletes)


def _asked(rows: Mapping[PolicyKey, PolicyEntry]) -> dict[tuple[int, int], int]:
    """The authentication that each policy and direction asks for; what is only audited drops nobody."""
    found: dict[tuple[int, int], int] = {}
    for key, row in rows.items():
        if row.auth_type and not key.policy_id & AUDIT_PLANE:
            place = (key.policy_id, key.direction)
            found[place] = max(found.get(place, 0), row.auth_type)
    return found


def _by_strictness(rows: Mapping[PolicyKey, PolicyEntry], *, strict_first: bool) -> Mapping[PolicyKey, PolicyEntry]:
    found = {id(row): _strictness(row) for row in {id(row): row for row in rows.values()}.values()}
    if not any(key.policy_id & AUDIT_PLANE for key in rows):
        if len(set(found.values())) < 2:
            return rows
        return dict(sorted(rows.items(), key=lambda item: found[id(item[1])], reverse=strict_first))

    def of_plane(item: tuple[PolicyKey, PolicyEntry]) -> tuple[int, int, bool]:
        key, row = item
        section, precedence, asks = found[id(row)]
        return 1 if key.policy_id & AUDIT_PLANE else section, precedence, asks

    return dict(sorted(rows.items(), key=of_plane, reverse=strict_first))


def _strictness(row: PolicyEntry) -> tuple[int, int, bool]:
    """What drops at once (2) goes in before an audit plane (1), what passes after it (0): nobody is told too early."""
    drops = row.deny or row.auth_type or row.proxy_port  # there is no authentication and no proxy
    return 2 if drops else 0, row.precedence, bool(row.auth_type)


def _stricter_cover(key: PolicyKey, row: PolicyEntry, after: Mapping[PolicyKey, PolicyEntry]) -> PolicyEntry | None:
    """The row of `after` with the longest prefix that covers `key`, where it is stricter than `row`.

    A row that was there before and still is cannot do so, or `key` would not have been in the table.
    """
    for broader in _broader(key):
        cover = after.get(broader)
        if cover is not None:
            return cover if cover.precedence > row.precedence or cover.auth_type > row.auth_type else None
    return None


def _is_stronger_held(key: PolicyKey, row: PolicyEntry, before: Mapping[PolicyKey, PolicyEntry]) -> bool:
    held = (before.get(one) for one in (key, *_broader(key)))
    return any(one is not None and one.precedence > row.precedence for one in held)


def _broader(key: PolicyKey) -> Iterator[PolicyKey]:
    """Every other key of the same peer that matches all that the key matches, longest first."""
    for bits in range(key.l4_bits - 1, -1, -1):
        if bits >= _PROTOCOL_BITS:
            unmatched = _PORT_BITS + _PROTOCOL_BITS - bits
            yield key._replace(port=key.port >> unmatched << unmatched, l4_bits=bits)
        elif not bits:
            yield key._replace(protocol=0, port=0, l4_bits=0)
