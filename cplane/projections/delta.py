"""The difference between two states of a table, and the order in which it is safe to write.

Most tables may be written in any order. In a policy map the order decides whether, for a moment, a packet
passes that neither the old nor the new table lets pass. The order follows from the type of the key, so nobody
who plans or composes deltas can forget it.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar, cast

from datapath.maps.policy import AUDIT_PLANE, PolicyEntry, PolicyKey
from datapath.maps.spread import Groups, Spread

K = TypeVar("K")
V = TypeVar("V")

PART_ROWS: Final = 4096  # so many rows of policies, and all of the last one's, are written before others
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
        self._order: tuple[Mapping[K, V], Collection[K]] | None = None

    @classmethod
    def nothing(cls) -> "Delta[K, V]":
        """The delta that changes nothing."""
        return cls({}, {})

    @property
    def upserts(self) -> Mapping[K, V]:
        """Rows to write, in this order."""
        return self._ordered()[0]

    @property
    def deletes(self) -> Collection[K]:
        """Keys to delete after that, in this order."""
        return self._ordered()[1]

    def parts(self) -> Iterator[tuple[Mapping[K, V], Collection[K]]]:
        """Upserts and deletes again, some policies at a time: with each pair these have their rows, before the next.

        For a change of nothing but policies, which are judged each by itself. One that has many rows need not wait for
        those of all others. Other tables are one part.
        """
        upserts, deletes = self._ordered()
        if not isinstance(upserts, Spread) or not isinstance(deletes, Spread):
            yield upserts, deletes
            return
        part: set[int] = set()
        rows, gone = 0, deletes.counts()
        for policy, count in upserts.counts().items():
            part.add(policy)
            rows += count + gone[policy]
            if rows >= PART_ROWS:
                yield cast("Any", upserts.of(part)), cast("Any", deletes.of(part))
                part, rows = set(), 0
        if part:
            yield cast("Any", upserts.of(part)), cast("Any", deletes.of(part))

    def _ordered(self) -> tuple[Mapping[K, V], Collection[K]]:
        if self._order is None:
            # The rows of one table are of one type, which the key's says.
            first = next(iter(self.after or self.before), None)
            if isinstance(first, PolicyKey):
                self._order = cast("Any", _policy_order(cast("Any", self.before), cast("Any", self.after)))
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
    command may lead to thousands. Rows that policies have alike are held once as long as these policies are the same
    ones in every delta.
    """

    def __init__(self) -> None:
        self._only: Delta[K, V] | None = Delta.nothing()  # as long as there is at most one
        self._before: dict[K, V] = {}
        self._after: dict[K, V] = {}
        self._alike: _Alike | None = None  # none: every row is held for itself
        self._apart = False  # and it is to stay so

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
        return Delta(self._shared(before), self._shared(after))

    def _follow(self, one: Delta[K, V]) -> None:
        was, now = self._rows(one)
        before, after = self._before, self._after
        if before.keys().isdisjoint(was) and after.keys().isdisjoint(was):
            before.update(was)
        else:
            # What is only in `after` came with an earlier delta: before the first of them it was not there.
            before.update((key, row) for key, row in was.items() if key not in before and key not in after)
            for key in was.keys() - now.keys():
                after.pop(key, None)
        after.update(now)

    def _rows(self, one: Delta[K, V]) -> tuple[Mapping[K, V], Mapping[K, V]]:
        """The rows of a delta, held as those here are: if they cannot be, all are held each for itself from now on."""
        before, after = one.before, one.after
        theirs = before.groups if isinstance(before, Spread) else None
        if self._apart or (theirs is None and self._alike is None):
            return before, after
        if self._alike is None:
            self._alike = _Alike()
            self._alike.take(_alone(self._before, self._after))
        if self._alike.take(_alone(before, after) if theirs is None else theirs):
            return (before, after) if theirs is None else (cast("Any", before).rows, cast("Any", after).rows)
        self._before, self._after = dict(self._shared(self._before)), dict(self._shared(self._after))
        self._alike, self._apart = None, True
        return before, after

    def _shared(self, rows: Mapping[K, V]) -> Mapping[K, V]:
        return rows if self._alike is None else cast("Any", Spread(cast("Any", rows), self._alike.groups))


def compose(made: dict[str, Composition[Any, Any]], deltas: Mapping[str, Delta[Any, Any]]) -> None:
    """One more delta for each of these tables follows those that are in `made`."""
    for name, delta in deltas.items():
        made.setdefault(name, Composition()).add(delta)


class _Alike:
    """Policies that have had the same rows in every delta."""

    def __init__(self) -> None:
        self.groups: dict[int, tuple[int, ...]] = {}
        self._known: set[int] = set()

    def take(self, groups: Groups) -> bool:
        """These are alike in one more delta. False: they are not the ones that were."""
        for first, numbers in groups.items():
            held = self.groups.get(first)
            if held is None and self._known.isdisjoint(numbers):
                self.groups[first] = numbers
                self._known.update(numbers)
            elif held != numbers:
                return False
        return True


def _alone(*rows: Mapping[Any, Any]) -> Groups:
    """Every policy has its rows for itself."""
    return {key.policy_id: (key.policy_id,) for some in rows for key in some}


def plan(desired: Mapping[K, V], actual: Mapping[K, V]) -> Delta[K, V]:
    """What to write so that `actual` becomes `desired`; empty when equal."""
    # Some tables have rows of which there is nothing to say, and None is also what a missing key gives.
    after = {key: row for key, row in desired.items() if key not in actual or actual[key] != row}
    before = {key: row for key, row in actual.items() if key in after or key not in desired}
    return Delta(before, after)


def _policy_order(
    before: Mapping[PolicyKey, PolicyEntry], after: Mapping[PolicyKey, PolicyEntry]
) -> tuple[Mapping[PolicyKey, PolicyEntry], Collection[PolicyKey]]:
    """The order is that of each policy's own rows, so that of policies which have them alike is found once."""
    if not isinstance(before, Spread) or not isinstance(after, Spread):
        upserts, deletes = _safe_order(before, after)
        return upserts, tuple(deletes)
    upserts, deletes = _safe_order(before.rows, after.rows)
    return Spread(upserts, after.groups), Spread(deletes, after.groups)


def _safe_order(
    before: Mapping[PolicyKey, PolicyEntry], after: Mapping[PolicyKey, PolicyEntry]
) -> tuple[Mapping[PolicyKey, PolicyEntry], Mapping[PolicyKey, PolicyEntry]]:
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
    unsaid = {key for key, row in after.items() if _is_unsaid(row, before.get(key))} if asked else ()
    upserts = _by_strictness({**asking, **after, **covered}, strict_first=True, unsaid=unsaid)
    deletes = _by_strictness({**gone, **asking, **covered}, strict_first=False)
    return upserts, deletes


def _asked(rows: Mapping[PolicyKey, PolicyEntry]) -> dict[tuple[int, int], int]:
    """The authentication that each policy and direction asks for; what is only audited drops nobody."""
    found: dict[tuple[int, int], int] = {}
    for key, row in rows.items():
        if row.auth_type and not key.policy_id & AUDIT_PLANE:
            place = (key.policy_id, key.direction)
            found[place] = max(found.get(place, 0), row.auth_type)
    return found


def _is_unsaid(row: PolicyEntry, held: PolicyEntry | None) -> bool:
    """What said that nobody need be proven says so no more: it drops whom others of its precedence ask to be."""
    return held is not None and held.auth_said and held._replace(auth_said=False, cookie=row.cookie) == row


def _by_strictness(
    rows: Mapping[PolicyKey, PolicyEntry], *, strict_first: bool, unsaid: Collection[PolicyKey] = ()
) -> Mapping[PolicyKey, PolicyEntry]:
    different = {id(row): row for row in rows.values()}
    proving = any(row.auth_type for row in different.values())
    found = {key: _strictness(row, proving=proving) for key, row in different.items()}
    if not unsaid and not any(key.policy_id & AUDIT_PLANE for key in rows):
        if len(set(found.values())) < 2:
            return rows
        return dict(sorted(rows.items(), key=lambda item: found[id(item[1])], reverse=strict_first))

    def of_plane(item: tuple[PolicyKey, PolicyEntry]) -> tuple[int, int, int]:
        key, row = item
        section, precedence, asks = found[id(row)]
        if key in unsaid:  # before the rows that ask, or these would be answered by what it says until now
            section, asks = 2, 2
        return 1 if key.policy_id & AUDIT_PLANE else section, precedence, asks

    return dict(sorted(rows.items(), key=of_plane, reverse=strict_first))


def _strictness(row: PolicyEntry, *, proving: bool) -> tuple[int, int, int]:
    """What drops at once (2) goes in before an audit plane (1), what passes after it (0): nobody is told too early.

    What a proxy is to have passes; but where others are to be proven it must hide what hides those. Only what is
    audited waits for its plane all the same.
    """
    drops = row.deny or row.auth_type or (proving and row.proxy_port and not row.audited)  # there is no authentication
    return 2 if drops else 0, row.precedence, int(bool(row.auth_type))


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
