"""The policy of one subject as the kernel holds it: entries by peer, direction and prefix of (protocol, port).

The kernel looks a packet up twice, for its peer and for anyone, and takes from each the entry with the longest L4
prefix, whatever its precedence; only then does it compare the two. So among the entries of one peer, one that is
covered by a broader entry of higher precedence must not be there: it would be found in place of the one that counts.

What each rule contributes is kept, so every change costs what it changes, and every entry can name its makers.

A proxy heeds all that allows a connection, whatever its precedence, and knows nothing of peers. So where it is asked,
an entry stands for those peers for whom the same is to be heeded (`MapEntry.group`), and there are entries that no rule
has made by itself: for a peer of whom more is said than of anyone, at the keys at which anyone's requests are read.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from copy import copy
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from cplane.domain.identity import UNKNOWN, Reserved
from cplane.domain.policy.resolve import ALLOW, DENY_LEVEL, Contribution, ResolvedRule, is_redirect, named_keys
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.ports import ALL_L4, FULL_BITS, L4Key, NamedPorts, covers, shortened
from cplane.domain.verdict import Direction

ANYONE: Final = int(UNKNOWN)  # as a peer in a map key
_JUST_ANYONE: Final = (ANYONE,)
_ALLOW_ALL: Final = tuple(Contribution(int(direction), None, (ALL_L4,), ALLOW) for direction in Direction)
_LOCAL_HOST: Final = Contribution(int(Direction.INGRESS), None, (ALL_L4,), ALLOW)
_NO_PORTS: Final[NamedPorts] = frozenset()


class MapKey(NamedTuple):
    """`identity` 0 is anyone; `l4_bits` of protocol, then port, are matched: 0, or 8 to 24."""

    identity: int
    direction: int
    protocol: int
    port: int
    l4_bits: int


class MapEntry(NamedTuple):
    """What the kernel finds; `l4_bits` repeats the key's.

    `auth_type` is the authentication that is asked for; `cookie` stands for the terms that made the entry; 0: none.
    `audited`: what it allows is looked up in the subject's audit plane too. `auth_said`: `auth_type` is what its own
    terms say. `group` stands for the key's ports and all that a proxy heeds, however it reads; 0: no
    proxy is asked.
    """

    deny: bool
    precedence: int
    l4_bits: int
    auth_type: int = 0
    cookie: int = 0
    audited: bool = False
    auth_said: bool = False
    group: int = 0


class Origin(NamedTuple):
    """Who made an entry: a policy and the path of a term in it; both empty for what the language itself adds."""

    policy: str
    path: str


_Cell = tuple[Contribution, ...]  # strongest first
_Table = dict[L4Key, _Cell]


class MapState:
    """Entries of the subjects that have the same rules. `changes` says which of them differ since it was asked last."""

    __slots__ = (
        *("_authentic", "_changed", "_demands", "_lengths", "_levels", "_named", "_ports", "_reading", "_tables"),
        *("audited", "enforced", "fingerprint", "members", "own_ports", "rules", "told"),
    )

    def __init__(
        self, ports: Mapping[int, NamedPorts], *, enforced: bool = False, own_ports: NamedPorts = _NO_PORTS
    ) -> None:
        """Without rules everything is allowed, unless the subject is `enforced` from the start.

        `ports` are the named ports that endpoints of each identity have, kept by the owner; `own_ports` the subject's.
        """
        self._ports, self.own_ports, self.enforced = ports, own_ports, enforced
        self.members: dict[int, None] = {}  # the numbers of the subjects, kept by the owner
        self.rules: dict[ResolvedRule, None] = {}
        self.fingerprint = 0  # the same for the same rules
        self.told: dict[MapKey, MapEntry] = {}  # the entries as `changes` has told them
        self._tables: tuple[dict[int, _Table], ...] = ({}, {})
        # Prefix lengths and precedences that contributions of a direction may have: what can cover, and whether
        # anything can. One that went is not forgotten; that costs a look, and changes no answer.
        self._lengths: tuple[set[int], ...] = ({0}, {0})
        self._levels: tuple[set[int], ...] = ({ALLOW}, {ALLOW})
        # Who asks for default deny, by direction; None stands for the subject itself.
        self._demands: tuple[dict[ResolvedRule | None, None], ...] = tuple(
            {None: None} if enforced else {} for _ in Direction
        )
        self._authentic = [False] * len(Direction)  # whether anything of a direction ever asked for authentication
        self._reading = [0] * len(Direction)  # how many contributions of a direction ask for a proxy
        self._named: dict[Contribution, None] = {}  # those of egress, whose keys depend on the peer's ports
        self._changed: dict[tuple[int, int, L4Key], None] = {}
        self.audited = False
        self.put(_LOCAL_HOST, (int(Reserved.HOST),))
        if not enforced:
            for one in _ALLOW_ALL:
                self.put(one, _JUST_ANYONE)

    def another(self) -> "MapState":
        """One for no subject yet that says the same, and of whose entries the same may differ."""
        made = copy(self)
        made.detach()
        return made

    def detach(self) -> None:
        """Nothing is held together with the state that this one is a copy of."""
        self.members, self.rules, self.told = {}, dict(self.rules), dict(self.told)
        self._tables = tuple({number: dict(table) for number, table in tables.items()} for tables in self._tables)
        self._lengths, self._levels = tuple(map(set, self._lengths)), tuple(map(set, self._levels))
        self._demands = tuple(map(dict, self._demands))
        self._authentic, self._named, self._changed = list(self._authentic), dict(self._named), dict(self._changed)
        self._reading = list(self._reading)

    def add_rule(self, resolved: ResolvedRule) -> None:
        """The rule is about these subjects."""
        self.rules[resolved] = None
        self.fingerprint ^= id(resolved)
        for one in resolved.contributions:
            self._levels[one.direction].add(one.precedence)
            self._lengths[one.direction].update(one.lengths)
            self._authentic[one.direction] |= one.auth is not None
            self._reading[one.direction] += is_redirect(one.precedence)
            if one.named and one.direction == Direction.EGRESS:
                self._named[one] = None
            self.put(one, one.peer.numbers if one.peer is not None else _JUST_ANYONE)
        for direction in resolved.demands:
            self._demands[direction][resolved] = None
            if len(self._demands[direction]) == 1:
                self.take(_ALLOW_ALL[direction], _JUST_ANYONE)

    def remove_rule(self, resolved: ResolvedRule) -> None:
        """The rule is no longer about these subjects; its selectors must still be as they were."""
        del self.rules[resolved]
        self.fingerprint ^= id(resolved)
        for one in resolved.contributions:
            self._named.pop(one, None)
            self.take(one, one.peer.numbers if one.peer is not None else _JUST_ANYONE)
            self._reading[one.direction] -= is_redirect(one.precedence)
        for direction in resolved.demands:
            del self._demands[direction][resolved]
            if not self._demands[direction]:
                self.put(_ALLOW_ALL[direction], _JUST_ANYONE)

    def put(self, one: Contribution, numbers: Collection[int]) -> None:
        """The contribution holds for these peers."""
        self._touch_read(one, numbers)
        self._put(one, numbers)
        self._touch_read(one, numbers)

    def take(self, one: Contribution, numbers: Collection[int]) -> None:
        """The contribution, which was put, no longer holds for these peers, whose ports are still the same."""
        self._touch_read(one, numbers)
        self._take(one, numbers)
        self._touch_read(one, numbers)

    def _touch_read(self, one: Contribution, numbers: Collection[int]) -> None:
        """What a proxy heeds of these peers may be something else, at every key that the contribution covers.

        It is called before a change, too: keys at which requests are read may become fewer.
        """
        direction = one.direction
        if not self._reading[direction]:
            return
        tables, changed = self._tables[direction], self._changed
        read: tuple[L4Key, ...] | None = None
        for who, keys in self._places(one, numbers):
            wide = [key for key in keys if key.bits < FULL_BITS]
            if wide and read is None:
                read = tuple(self._read_keys(direction))
            for number in tables if who == ANYONE else (who,):
                for key in keys:
                    changed[number, direction, key] = None
                for key in (*tables.get(number, ()), *(read or ()), *self._beneath(number, direction)) if wide else ():
                    if any(covers(other, key) for other in wide):
                        changed[number, direction, key] = None

    def _read_keys(self, direction: int) -> Iterator[L4Key]:
        """The keys at which anyone's requests are read."""
        anyone = self._tables[direction].get(ANYONE)
        if anyone is not None and self._reading[direction]:
            yield from (key for key, cell in anyone.items() if is_redirect(cell[0].precedence))

    def _beneath(self, number: int, direction: int) -> Iterator[L4Key]:
        """The keys at which anyone is let pass where a proxy reads the requests of this peer at more ports.

        It has these connections, too, and heeds what is said of anyone.
        """
        tables = self._tables[direction]
        anyone = tables.get(ANYONE)
        if number == ANYONE or not anyone or not self._reading[direction]:
            return
        table = tables.get(number, {})
        wide = [key for key, cell in table.items() if key.bits < FULL_BITS and is_redirect(cell[0].precedence)]
        if wide:
            for key, cell in anyone.items():
                if cell[0].precedence & DENY_LEVEL != DENY_LEVEL and any(covers(one, key) for one in wide):
                    yield key

    def _put(self, one: Contribution, numbers: Collection[int]) -> None:
        direction, level = one.direction, one.precedence
        tables, changed = self._tables[direction], self._changed
        covering = level > min(self._levels[direction]) or one.auth is not None
        alone = (one,)
        for number, keys in self._places(one, numbers):
            table = tables.get(number)
            if table is None:
                table = tables[number] = {}
            for key in keys:
                cell = table.get(key)
                if cell is None:
                    table[key] = alone
                elif level > cell[0].precedence:
                    table[key] = (one, *cell)
                else:
                    weakest = level <= cell[-1].precedence
                    table[key] = (*cell, one) if weakest else tuple(sorted((*cell, one), key=_by_strength))
                    if level < cell[0].precedence and one.auth is None:
                        continue
                changed[number, direction, key] = None
                if covering:
                    self._touch_covered(table, number, direction, key, one.auth)

    def _take(self, one: Contribution, numbers: Collection[int]) -> None:
        direction, level = one.direction, one.precedence
        tables, changed = self._tables[direction], self._changed
        covering = level > min(self._levels[direction]) or one.auth is not None
        for number, keys in self._places(one, numbers):
            table = tables[number]
            for key in keys:
                cell = table[key]
                if len(cell) == 1:
                    del table[key]
                else:
                    place = cell.index(one)
                    left = table[key] = cell[:place] + cell[place + 1 :]
                    if left[0].precedence > level and one.auth is None:
                        continue
                changed[number, direction, key] = None
                if covering:
                    self._touch_covered(table, number, direction, key, one.auth)
            if not table:
                del tables[number]

    def named_at(self, number: int) -> tuple[Contribution, ...]:
        """What was put for the peer of that number at ports that it calls by name."""
        return tuple(one for one in self._named if one.peer is not None and number in one.peer.numbers)

    @property
    def asks_for_proxies(self) -> bool:
        """Whether anything that is said asks for one."""
        return any(self._reading)

    def set_audited(self, audited: bool) -> None:  # noqa: FBT001  # what it is set to
        """Whether what is allowed is looked up in the audit plane too."""
        if audited != self.audited:
            self.audited = audited
            for key in self.keys():
                self._changed[key.identity, key.direction, L4Key(key.protocol, key.port, key.l4_bits)] = None

    def pending(self) -> Iterator[MapKey]:
        """The keys whose entries may differ from those that were told."""
        return (MapKey(number, direction, *key) for number, direction, key in self._changed)

    def changes(self) -> Iterator[tuple[MapKey, MapEntry | None, MapEntry | None]]:
        """Every key whose entry differs from the one that was told last, that one, and what it holds now."""
        changed, self._changed = self._changed, {}
        told = self.told
        for number, direction, key in changed:
            full = MapKey(number, direction, *key)
            was, now = told.get(full), self._entry(number, direction, key)
            if now == was:
                continue
            if now is not None:
                told[full] = now
            else:
                del told[full]
            yield full, was, now

    def names(self, number: int, direction: Direction) -> bool:
        """Whether any entry is under this peer."""
        return number in self._tables[direction]

    def entry(self, key: MapKey) -> MapEntry | None:
        """The entry under exactly this key."""
        return self._entry(key.identity, key.direction, L4Key(key.protocol, key.port, key.l4_bits))

    def entries(self) -> dict[MapKey, MapEntry]:
        """All entries."""
        return {key: entry for key in self.keys() if (entry := self.entry(key)) is not None}

    def keys(self) -> Iterator[MapKey]:
        """Every key that may have an entry."""
        for direction, tables in enumerate(self._tables):
            read, is_read = tuple(self._read_keys(direction)), bool(self._reading[direction])
            for number, table in tables.items():
                for key in dict.fromkeys((*table, *read, *self._beneath(number, direction))) if is_read else table:
                    yield MapKey(number, direction, *key)

    def lengths(self, direction: Direction) -> tuple[int, ...]:
        """The prefix lengths that entries of the direction have, longest first."""
        return tuple(sorted(self._lengths[direction], reverse=True))

    def is_enforced(self, direction: Direction) -> bool:
        """Whether what no rule allows is dropped."""
        return bool(self._demands[direction])

    def demanding(self, direction: Direction) -> tuple[ResolvedRule, ...]:
        """The rules that ask for default deny."""
        return tuple(one for one in self._demands[direction] if one is not None)

    def makers(self, key: MapKey) -> tuple[Contribution, ...]:
        """Whose word the entry under this key is: all of its highest precedence."""
        place = L4Key(key.protocol, key.port, key.l4_bits)
        cell = self._tables[key.direction].get(key.identity, {}).get(place, ())
        if self._reading[key.direction]:
            read = self._read(key.identity, key.direction, place)
            cell = read if read is not None else cell
        return tuple(one for one in cell if one.precedence == cell[0].precedence)

    def heeded(self, key: MapKey) -> tuple[Contribution, ...]:
        """What a proxy heeds that has connections by the entry under this key: all that allows them."""
        return self._heeded(key.identity, key.direction, L4Key(key.protocol, key.port, key.l4_bits))

    def origins(self, key: MapKey) -> tuple[Origin, ...]:
        """Who contributes what the entry under this key says, sorted."""
        return tuple(sorted({origin_of(one) for one in self.makers(key)}))

    def covering(self, identity: int, direction: Direction, protocol: int, port: int) -> Iterator[Contribution]:
        """Everything that was said of this traffic with this peer, strong or not."""
        for number in dict.fromkeys((identity, ANYONE)):
            table = self._tables[direction].get(number, {})
            for bits in self.lengths(direction):
                yield from table.get(shortened(protocol, port, bits), ())

    def _places(self, one: Contribution, numbers: Collection[int]) -> Iterator[tuple[int, tuple[L4Key, ...]]]:
        """Those of the peers for which the contribution has keys, and these."""
        if not one.named or one.direction == Direction.INGRESS:
            keys = _with_named(one, self.own_ports)
            if keys:
                for number in numbers:
                    yield number, keys
            return
        # Most identities have no ports with names, so these are looked through where nothing is said of others.
        for number in numbers if one.keys else [number for number in self._ports if number in numbers]:
            keys = _with_named(one, self._ports.get(number, _NO_PORTS))
            if keys:
                yield number, keys

    def _entry(self, number: int, direction: int, key: L4Key) -> MapEntry | None:
        if self._reading[direction]:
            read = self._read(number, direction, key)
            if read is not None:
                return self._read_entry(number, direction, key, read)
        return self._said_entry(number, direction, key)

    def _said_entry(self, number: int, direction: int, key: L4Key) -> MapEntry | None:
        """The entry as it is by what is said under just this key."""
        table = self._tables[direction].get(number)
        cell = table.get(key) if table is not None else None
        if table is None or cell is None:
            return None
        level = cell[0].precedence
        if len(self._levels[direction]) > 1 and self._is_covered(table, direction, key, level):
            return None
        auth, said = self._auth(number, direction, key, cell) if self._authentic[direction] else (0, False)
        cookie = cell[0].origin if len(cell) == 1 else _cookie(cell)
        return _map_entry(level, key.bits, auth, said, cookie, self.audited)

    def _read(self, number: int, direction: int, key: L4Key) -> "_Cell | None":
        """Where a proxy has the connections: the contributions by which it does, and those beneath them.

        None: no proxy has them, or they come to it by an entry of anyone, as nothing else is said of the peer.
        """
        found = list(self._above(number, direction, key))
        if number != ANYONE and found:
            found += self._above(ANYONE, direction, key)
        if not found or not is_redirect(max(one.precedence for one in found)):
            return None
        said = key in self._tables[direction].get(number, ()) or self._is_read(number, direction, key)
        return tuple(sorted(found, key=_by_strength)) if said else None

    def _is_read(self, number: int, direction: int, key: L4Key) -> bool:
        """Whether the key is one of anyone at which a proxy has connections of the peer."""
        tables = self._tables[direction]
        cell = tables.get(ANYONE, {}).get(key)
        if cell is None or cell[0].precedence & DENY_LEVEL == DENY_LEVEL:
            return False
        if is_redirect(cell[0].precedence):
            return True
        table = tables.get(number, {})
        wide = (shortened(key.protocol, key.port, bits) for bits in self._lengths[direction] if bits < key.bits)
        return any(one in table and is_redirect(table[one][0].precedence) for one in wide)

    def _above(self, number: int, direction: int, key: L4Key) -> Iterator[Contribution]:
        """All that is said of a peer under this key and those that cover it."""
        table = self._tables[direction].get(number)
        if table is not None:
            for bits in self._lengths[direction]:
                if bits <= key.bits:
                    yield from table.get(shortened(key.protocol, key.port, bits), ())

    def _heeded(self, number: int, direction: int, key: L4Key) -> tuple[Contribution, ...]:
        """That nobody asks for default deny opens no requests; that the peer is the local host does."""
        return tuple(
            one
            for peer in dict.fromkeys((number, ANYONE))
            for one in self._above(peer, direction, key)
            if one.precedence & DENY_LEVEL != DENY_LEVEL and (one.term is not None or one is _LOCAL_HOST)
        )

    def _read_entry(self, number: int, direction: int, key: L4Key, read: _Cell) -> MapEntry:
        level = read[0].precedence
        auth, said = self._read_auth(number, direction, key) if self._authentic[direction] else (0, False)
        group = _group(direction, key, (one.origin for one in self._heeded(number, direction, key)))
        return MapEntry(False, level, key.bits, auth, _cookie(read), self.audited, said, group)

    def _read_auth(self, number: int, direction: int, key: L4Key) -> tuple[int, bool]:
        """What the lookup would find to be asked for if there were only entries of what is said."""
        sides = (self._longest(number, direction, key), self._longest(ANYONE, direction, key))
        chosen, *others = sorted(
            (one for one in dict.fromkeys(sides) if one is not None),
            key=lambda one: (one.precedence, one.l4_bits),
            reverse=True,
        )
        asked = [chosen.auth_type, *(one.auth_type for one in others if not chosen.auth_said)]
        return max(asked), chosen.auth_said

    def _longest(self, number: int, direction: int, key: L4Key) -> MapEntry | None:
        for bits in sorted(self._lengths[direction], reverse=True):
            if bits <= key.bits:
                entry = self._said_entry(number, direction, shortened(key.protocol, key.port, bits))
                if entry is not None:
                    return entry
        return None

    def _is_covered(self, table: _Table, direction: int, key: L4Key, level: int) -> bool:
        for bits in self._lengths[direction]:
            if bits < key.bits:
                cell = table.get(shortened(key.protocol, key.port, bits))
                if cell is not None and cell[0].precedence > level:
                    return True
        return False

    def _auth(self, number: int, direction: int, key: L4Key, cell: _Cell) -> tuple[int, bool]:
        """What the entry's own terms ask for or, where they do not say, the most that a broader entry asks for."""
        if cell[0].precedence & DENY_LEVEL == DENY_LEVEL:
            return 0, False
        own = [one.auth for one in cell if one.auth is not None]
        if own:
            return max(own), True
        found = 0
        for peer in {number, ANYONE}:
            table = self._tables[direction].get(peer, {})
            for bits in self._lengths[direction]:
                if bits <= key.bits:
                    broader = table.get(shortened(key.protocol, key.port, bits), ())
                    found = max((found, *(one.auth for one in broader if one.auth is not None)))
        return found, False

    def _touch_covered(self, table: _Table, number: int, direction: int, key: L4Key, auth: int | None) -> None:
        if auth is not None and number == ANYONE:  # what is asked of anyone is asked of every peer
            for peer, other in self._tables[direction].items():
                if peer != ANYONE:
                    if key in other:
                        self._changed[peer, direction, key] = None
                    self._touch(other, peer, direction, key)
        self._touch(table, number, direction, key)

    def _touch(self, table: _Table, number: int, direction: int, key: L4Key) -> None:
        if key.bits < FULL_BITS:
            for other in table:
                if other.bits > key.bits and covers(key, other):
                    self._changed[number, direction, other] = None


def _with_named(one: Contribution, ports: NamedPorts) -> tuple[L4Key, ...]:
    if not one.named or not ports:
        return one.keys
    return tuple(dict.fromkeys((*one.keys, *named_keys(one.named, ports))))


def origin_of(one: Contribution) -> Origin:
    """The policy and the path of the term."""
    return Origin(str(one.ref), one.term.path) if one.term is not None else Origin("", "")


def refs_of(rules: Iterable[ResolvedRule]) -> tuple[PolicyRef, ...]:
    """The policies that have these rules, sorted."""
    return tuple(sorted({one.ref for one in rules}))


def _group(direction: int, key: L4Key, origins: Iterable[int]) -> int:
    """64 bits for the key and these terms: the same as long as they stand where they do, however they read."""
    state = blake2b(bytes((direction, key.protocol, key.bits)) + key.port.to_bytes(2, "big"), digest_size=8)
    for origin in sorted(set(origins)):
        state.update(origin.to_bytes(4, "big"))
    return int.from_bytes(state.digest(), "big") or 1


def _cookie(cell: _Cell) -> int:
    """Stands for the set of terms whose word the cell is."""
    cookie = 0
    for origin in {one.origin for one in cell if one.precedence == cell[0].precedence}:
        cookie ^= origin
    return cookie


@lru_cache(maxsize=4096)
def _map_entry(level: int, bits: int, auth: int, said: bool, cookie: int, audited: bool) -> MapEntry:  # noqa: FBT001  # fields
    deny = level & DENY_LEVEL == DENY_LEVEL
    return MapEntry(deny, level, bits, auth, cookie, audited and not deny, said)


def _by_strength(one: Contribution) -> int:
    return -one.precedence
