"""The policy of one subject as the kernel holds it: entries by peer, direction and prefix of (protocol, port).

The kernel looks a packet up twice, for its peer and for anyone, and takes from each the entry with the longest L4
prefix, whatever its precedence; only then does it compare the two. So among the entries of one peer, one that is
covered by a broader entry of higher precedence must not be there: it would be found in place of the one that counts.

What each rule contributes is kept, so every change costs what it changes, and every entry can name its makers.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from cplane.domain.identity import UNKNOWN, Reserved
from cplane.domain.policy.resolve import ALLOW, Contribution, ResolvedRule
from cplane.domain.ports import ALL_L4, FULL_BITS, L4Key, covers, shortened
from cplane.domain.verdict import Direction

ANYONE: Final = int(UNKNOWN)  # as a peer in a map key

_JUST_ANYONE: Final = (ANYONE,)
_ALLOW_ALL: Final = tuple(Contribution(int(direction), None, (ALL_L4,), ALLOW) for direction in Direction)
_LOCAL_HOST: Final = Contribution(int(Direction.INGRESS), None, (ALL_L4,), ALLOW)
_DENY_BYTE: Final = 255


class MapKey(NamedTuple):
    """`identity` 0 is anyone; `l4_bits` of protocol, then port, are matched: 0, or 8 to 24."""

    identity: int
    direction: int
    protocol: int
    port: int
    l4_bits: int


class MapEntry(NamedTuple):
    """What the kernel finds; `l4_bits` repeats the key's."""

    deny: bool
    precedence: int
    l4_bits: int


class Origin(NamedTuple):
    """Who made an entry: a policy and the path of a term in it; both empty for what the language itself adds."""

    policy: str
    path: str


_Cell = tuple[Contribution, ...]  # strongest first
_Table = dict[L4Key, _Cell]


class MapState:
    """Entries of one subject. `changes` says which of them differ since it was asked last."""

    __slots__ = ("_changed", "_demands", "_lengths", "_levels", "_tables")

    def __init__(self, *, enforced: bool = False) -> None:
        """Without rules everything is allowed, unless the subject is `enforced` from the start."""
        self._tables: tuple[dict[int, _Table], ...] = ({}, {})
        # Prefix lengths and precedences that contributions of a direction may have: what can cover, and whether
        # anything can. One that went is not forgotten; that costs a look, and changes no answer.
        self._lengths: tuple[set[int], ...] = ({0}, {0})
        self._levels: tuple[set[int], ...] = ({ALLOW}, {ALLOW})
        self._demands = [int(enforced)] * len(Direction)  # who asks for default deny, by direction
        self._changed: dict[tuple[int, int, L4Key], None] = {}
        self.put(_LOCAL_HOST, (int(Reserved.HOST),))
        if not enforced:
            for one in _ALLOW_ALL:
                self.put(one, _JUST_ANYONE)

    def add_rule(self, resolved: ResolvedRule) -> None:
        """The rule is about this subject."""
        for one in resolved.contributions:
            self._levels[one.direction].add(one.precedence)
            self._lengths[one.direction].update(one.lengths)
            self.put(one, one.peer.numbers if one.peer is not None else _JUST_ANYONE)
        for direction in resolved.demands:
            self._demands[direction] += 1
            if self._demands[direction] == 1:
                self.take(_ALLOW_ALL[direction], _JUST_ANYONE)

    def remove_rule(self, resolved: ResolvedRule) -> None:
        """The rule is no longer about this subject; its selectors must still be as they were."""
        for one in resolved.contributions:
            self.take(one, one.peer.numbers if one.peer is not None else _JUST_ANYONE)
        for direction in resolved.demands:
            self._demands[direction] -= 1
            if self._demands[direction] == 0:
                self.put(_ALLOW_ALL[direction], _JUST_ANYONE)

    def put(self, one: Contribution, numbers: Iterable[int]) -> None:
        """The contribution holds for these peers."""
        direction, level = one.direction, one.precedence
        tables, changed = self._tables[direction], self._changed
        covering = level > min(self._levels[direction])
        alone = (one,)
        for number in numbers:
            table = tables.get(number)
            if table is None:
                table = tables[number] = {}
            for key in one.keys:
                cell = table.get(key)
                if cell is None:
                    table[key] = alone
                elif level > cell[0].precedence:
                    table[key] = (one, *cell)
                else:
                    weakest = level <= cell[-1].precedence
                    table[key] = (*cell, one) if weakest else tuple(sorted((*cell, one), key=_by_strength))
                    continue
                changed[number, direction, key] = None
                if covering:
                    self._touch_covered(table, number, direction, key)

    def take(self, one: Contribution, numbers: Iterable[int]) -> None:
        """The contribution, which was put, no longer holds for these peers."""
        direction, level = one.direction, one.precedence
        tables, changed = self._tables[direction], self._changed
        covering = level > min(self._levels[direction])
        for number in numbers:
            table = tables[number]
            for key in one.keys:
                cell = table[key]
                if len(cell) == 1:
                    del table[key]
                else:
                    place = cell.index(one)
                    left = table[key] = cell[:place] + cell[place + 1 :]
                    if left[0].precedence == level:
                        continue
                changed[number, direction, key] = None
                if covering:
                    self._touch_covered(table, number, direction, key)
            if not table:
                del tables[number]

    def changes(self) -> Iterator[tuple[MapKey, MapEntry | None]]:
        """Every key whose entry may differ since the last call, each once, and what it holds now."""
        changed, self._changed = self._changed, {}
        for number, direction, key in changed:
            yield MapKey(number, direction, *key), self._entry(number, direction, key)

    def entry(self, key: MapKey) -> MapEntry | None:
        """The entry under exactly this key."""
        return self._entry(key.identity, key.direction, L4Key(key.protocol, key.port, key.l4_bits))

    def entries(self) -> dict[MapKey, MapEntry]:
        """All entries."""
        return {
            MapKey(number, direction, *key): entry
            for direction, tables in enumerate(self._tables)
            for number, table in tables.items()
            for key in table
            if (entry := self._entry(number, direction, key)) is not None
        }

    def keys(self) -> Iterator[MapKey]:
        """Every key that may have an entry."""
        for direction, tables in enumerate(self._tables):
            for number, table in tables.items():
                for key in table:
                    yield MapKey(number, direction, *key)

    def lengths(self, direction: Direction) -> tuple[int, ...]:
        """The prefix lengths that entries of the direction have, longest first."""
        return tuple(sorted(self._lengths[direction], reverse=True))

    def origins(self, key: MapKey) -> tuple[Origin, ...]:
        """Who contributes what the entry under this key says, sorted."""
        table = self._tables[key.direction].get(key.identity, {})
        cell = table.get(L4Key(key.protocol, key.port, key.l4_bits), ())
        return tuple(
            sorted(
                Origin(str(one.ref), one.term.path) if one.term is not None else Origin("", "")
                for one in cell
                if one.precedence == cell[0].precedence
            )
        )

    def _entry(self, number: int, direction: int, key: L4Key) -> MapEntry | None:
        table = self._tables[direction].get(number)
        cell = table.get(key) if table is not None else None
        if table is None or cell is None:
            return None
        level = cell[0].precedence
        if len(self._levels[direction]) > 1 and self._is_covered(table, direction, key, level):
            return None
        return _map_entry(level, key.bits)

    def _is_covered(self, table: _Table, direction: int, key: L4Key, level: int) -> bool:
        for bits in self._lengths[direction]:
            if bits < key.bits:
                cell = table.get(shortened(key.protocol, key.port, bits))
                if cell is not None and cell[0].precedence > level:
                    return True
        return False

    def _touch_covered(self, table: _Table, number: int, direction: int, key: L4Key) -> None:
        if key.bits < FULL_BITS and len(table) > 1:
            for other in table:
                if other.bits > key.bits and covers(key, other):
                    self._changed[number, direction, other] = None


@lru_cache(maxsize=1024)
def _map_entry(level: int, bits: int) -> MapEntry:
    return MapEntry(level & _DENY_BYTE == _DENY_BYTE, level, bits)


def _by_strength(one: Contribution) -> int:
    return -one.precedence
