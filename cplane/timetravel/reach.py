"""Who could reach whom after a change and could not before, or the other way round, whether anybody ever tried or not.

A packet passes when both ends let it: the source's policy is asked, and the destination's. Of an end that is not on
this node the policy is not known here, and counts as one that allows everything.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple

import msgspec

from cplane.deciders.world import World
from cplane.domain.endpoint import Endpoint
from cplane.domain.identity import NumericIdentity, Reserved, is_local, is_of_names, prefix_of
from cplane.domain.labels import FQDN
from cplane.domain.policy.explanation import Explanation, Outcome, Traffic
from cplane.domain.policy.mapstate import MapEntry, MapKey
from cplane.domain.ports import PORT_PROTOCOLS, Protocol
from cplane.domain.verdict import Direction
from cplane.timetravel.fork import OPEN, PROXY, Course, Fork, Rules, Side
from cplane.timetravel.intent import named

PAIRS_MAX: Final = 100_000  # that are judged; of more it says how many there are
_ROWS_MAX: Final = 500  # of an answer, likewise
_NAMES_MAX: Final = 5  # pods that stand for all of an identity
_MESSAGES: Final = {Protocol.ICMP: "ICMP type", Protocol.ICMPV6: "ICMPv6 type"}
_LAST: Final = {**dict.fromkeys(PORT_PROTOCOLS, 0xFFFF), **dict.fromkeys(_MESSAGES, 0xFF)}
_RANK: Final[dict[str, int]] = {Outcome.ALLOWED: 0, PROXY: 1, Outcome.AUDIT: 2, Outcome.DENIED: 3}
_ANYBODY: Final = 0
_STRICT: Final = frozenset({PROXY, Outcome.DENIED})

Ranges = dict[Protocol, list[tuple[int, int]]]
"""Ports, or types of messages: the first and the last of each range, in order."""


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic between two workloads whose verdict is another afterwards.

    A workload is every pod of an identity (with the same named ports); it is named by a few of them, and by its labels
    where it has no pod here.
    `ports` is `80/TCP`, `8000-8999/UDP, ICMP type 8`, `any`, or `any but 80/TCP`. A verdict is ALLOWED, DENIED, AUDIT
    (it passes, and would be denied if what only audits were enforced), or PROXY (packets pass, and a proxy judges what
    is asked). `direction` says whose policy makes the difference, `egress` the source's; `because` is its reason
    afterwards, for the first of the ports.
    """

    direction: str
    source: str
    destination: str
    ports: str
    before: str
    after: str
    because: str


class Reaches(NamedTuple):
    """All of them, worst first; `more` is how many are left out. Of `unasked` pairs not even that is known."""

    rows: tuple[Reach, ...]
    more: int
    unasked: int


class Party(NamedTuple):
    """One end: the pods of an identity that obey a policy. `policy` 0: none that is known here."""

    identity: int
    policy: int


class _Turn(NamedTuple):
    """Ports at which the verdict on packets between two is another, by the policy of one side."""

    source: Party
    destination: Party
    there: Ranges
    before: str
    after: str
    direction: Direction


class _Turned(NamedTuple):
    """A policy that is of another mind about these peers. `breaks`: it denies something that it let pass."""

    policy: int
    direction: Direction
    peers: list[int]
    protocols: frozenset[Protocol]
    breaks: bool


def breaks(before: str, after: str) -> bool:
    """Whether something that passed would be denied, all of it or what a proxy refuses."""
    return (before not in _STRICT and after in _STRICT) or (before == PROXY and after == Outcome.DENIED)


def badness(before: str, after: str) -> int:
    """What is denied from now on is worst; then comes what passes less freely."""
    return 3 if breaks(before, after) else 1 if _RANK[after] > _RANK[before] else 0


def reaches(fork: Fork) -> Reaches:
    """What differs."""
    finder = _Finder(fork)
    found = sorted(finder.turns(), key=lambda one: (-badness(one.before, one.after), one.source, one.destination))
    rows = tuple(map(finder.row, found[:_ROWS_MAX]))  # to find a reason takes longer than all else
    return Reaches(rows, max(0, len(found) - _ROWS_MAX), finder.unasked)


class Names:
    """What people call those who have an identity."""

    def __init__(self, fork: Fork) -> None:
        self._fork = fork
        self._pods: dict[tuple[int, int], list[str]] = {}
        for one in fork.after.world.endpoints.values():
            for policy in (0, one.policy_id):
                self._pods.setdefault((int(one.identity), policy), []).append(named(one))

    def of(self, identity: int, policy: int = 0) -> str:
        """Its pods, of these the ones that obey the policy if one is given, or what it stands for."""
        pods = sorted(self._pods.get((identity, policy), ()))
        if pods:
            more = f" and {len(pods) - _NAMES_MAX} more" if len(pods) > _NAMES_MAX else ""
            return ", ".join(pods[:_NAMES_MAX]) + more
        labels = self._fork.after.labels(identity) or self._fork.before.labels(identity)
        prefix = prefix_of(labels)
        if is_of_names(labels):
            return " ".join(str(one).removesuffix("=") for one in labels if one.source == FQDN)
        if prefix is not None and is_local(NumericIdentity(identity)):
            return str(prefix)
        return " ".join(str(one).removesuffix("=") for one in labels) or f"identity {identity}"


class _Finder:
    """Judges every pair that rows which differ are about."""

    def __init__(self, fork: Fork) -> None:
        self._fork, self._names = fork, Names(fork)
        self._ends: dict[int, list[Endpoint]] = {}  # by policy
        self._parties: dict[int, list[Party]] = {}  # by identity
        self._audited: dict[int, bool] = {}
        self._twins: dict[int, int] = {}
        self._sides = fork.before, fork.after
        self._peers = _everybody(fork.before.world, fork.after)
        self._moved = tuple(self._moves())
        for one in fork.before.world.endpoints.values():
            self._ends.setdefault(one.policy_id, []).append(one)
        for policy, ends in self._ends.items():
            self._parties.setdefault(int(ends[0].identity), []).append(Party(int(ends[0].identity), policy))
            self._audited[policy] = all(map(fork.before.is_audited, ends))
        self.unasked = 0

    def turns(self) -> Iterator[_Turn]:
        """What differs, each pair once for every way in which it does."""
        asked: dict[tuple[Party, Party], frozenset[Protocol]] = {}
        found = sorted(self._turned(), key=lambda one: not one.breaks)  # what matters most is asked in any case
        for one in found:
            own = Party(int(self._ends[one.policy][0].identity), one.policy)
            for peer in one.peers:
                for other in self._parties.get(peer) or [Party(peer, 0)]:
                    pair = (own, other) if one.direction is Direction.EGRESS else (other, own)
                    if pair in asked or len(asked) < PAIRS_MAX:
                        asked[pair] = asked.get(pair, frozenset()) | one.protocols
                    else:
                        self.unasked += 1
        for (source, destination), protocols in asked.items():
            yield from self._pair(source, destination, protocols)

    def _turned(self) -> Iterator[_Turned]:
        """The policies that are of another mind. Those that say the same are asked once."""
        known: dict[tuple[Rules, Rules, bool], list[_Turned]] = {}
        for policy in self._ends:
            before, after = (side.rules(policy) for side in self._sides)
            assert before is not None and after is not None, f"policy {policy} is obeyed"
            alike = before, after, self._audited[policy]
            if alike not in known:
                differing = _differing(before, after, self._moved)
                known[alike] = [one for some in differing for one in self._minds(policy, *some)]
            yield from (one._replace(policy=policy) for one in known[alike])

    def _moves(self) -> Iterator[tuple[int, int, int]]:
        """Prefixes and names that only one side knows, each with who has their addresses before and after."""
        worlds = self._fork.before.world.identities, self._fork.after.world.identities
        for number in dict.fromkeys(chain.from_iterable(worlds)):
            if is_local(NumericIdentity(number)):
                before, after = (self._at(side, int(number)) for side in self._sides)
                if before != after:
                    yield int(number), before, after

    def _minds(
        self, policy: int, direction: Direction, touched: frozenset[int], protocols: frozenset[Protocol]
    ) -> Iterator[_Turned]:
        kinds: dict[tuple[int, ...], int] = {}
        peers: tuple[list[int], list[int]] = ([], [])
        for peer in self._peers if 0 in touched else touched:
            who = tuple(self._who(side, policy, direction, peer) for side in self._sides)
            if who not in kinds:
                kinds[who] = self._turns(policy, direction, peer, protocols)
            if kinds[who]:
                peers[kinds[who] - 1].append(peer)
        for some, is_break in zip(peers, (False, True), strict=True):
            yield _Turned(policy, direction, some, protocols, is_break)

    def _who(self, side: Side, policy: int, direction: Direction, peer: int) -> int:
        """The same for all peers that the policy does not tell apart."""
        at = self._at(side, peer)
        return at if side.names(policy, direction, at) else 0

    def _turns(self, policy: int, direction: Direction, peer: int, protocols: frozenset[Protocol]) -> int:
        """Whether the policy changes its mind about the peer: 0 not, 1 it does, 2 and denies what passed."""
        found = 0
        for protocol in protocols:
            courses = [self._course(side, policy, direction, peer, protocol) for side in self._sides]
            for _, _, (old, new) in _together(courses, protocol):
                if breaks(old, new):
                    return 2
                found = max(found, int(old != new))
        return found

    def _pair(self, source: Party, destination: Party, protocols: frozenset[Protocol]) -> Iterator[_Turn]:
        if source == destination and len(self._ends.get(source.policy, ())) < 2:
            return  # an end and itself: no policy is asked
        found: dict[tuple[str, str, Direction], Ranges] = {}
        for protocol in (one for one in _LAST if one in protocols):
            courses = [
                self._course(side, own.policy, direction, peer.identity, protocol)
                for side in self._sides
                for own, peer, direction in (
                    (source, destination, Direction.EGRESS),
                    (destination, source, Direction.INGRESS),
                )
            ]
            for first, last, words in _together(courses, protocol):
                kind = _judged(*words)
                if kind[0] == kind[1]:
                    continue
                ranges = found.setdefault(kind, {}).setdefault(protocol, [])
                if ranges and ranges[-1][1] == first - 1:
                    ranges[-1] = ranges[-1][0], last
                else:
                    ranges.append((first, last))
        for (before, after, direction), there in found.items():
            yield _Turn(source, destination, there, before, after, direction)

    def row(self, turn: _Turn) -> Reach:
        """The same in words, with its reason."""
        source, destination, there, before, after, direction = turn
        own, peer = (source, destination) if direction is Direction.EGRESS else (destination, source)
        protocol, ranges = next(iter(there.items()))
        traffic = Traffic(direction, protocol, ranges[0][0])
        return Reach(
            direction=direction.name.lower(),
            source=self._names.of(*source),
            destination=self._names.of(*destination),
            ports=ports_text(there),
            before=str(before),
            after=str(after),
            because=self._explained(own.policy, peer.identity, traffic).reason,
        )

    def _explained(self, policy: int, peer: int, traffic: Traffic) -> Explanation:
        side = self._fork.after
        return side.explain(policy, self._at(side, peer), traffic, audited=self._audited[policy])

    def _course(self, side: Side, policy: int, direction: Direction, peer: int, protocol: Protocol) -> Course:
        if not policy:
            return OPEN
        return side.course(policy, self._at(side, peer), direction, protocol, audited=self._audited[policy])

    def _at(self, side: Side, peer: int) -> int:
        """Who the peer is on that side: a prefix that is not known there is what is around it."""
        if not is_local(NumericIdentity(peer)) or side.knows(peer):
            return peer
        if peer not in self._twins:
            labels = self._fork.before.labels(peer) or self._fork.after.labels(peer)
            prefix = prefix_of(labels)
            address = self._fork.address_of(peer) or (str(prefix.network_address) if prefix is not None else "")
            self._twins[peer] = side.identity_at(address) if address else peer
        return self._twins[peer]


def _judged(egress: str, ingress: str, egress_then: str, ingress_then: str) -> tuple[str, str, Direction]:
    """The verdict on packets between two before and after, and by which side it is another."""
    before = max(egress, ingress, key=_RANK.__getitem__)
    after = max(egress_then, ingress_then, key=_RANK.__getitem__)
    worst = max(before, after, key=_RANK.__getitem__)
    by_egress = egress != egress_then and (ingress == ingress_then or worst in {egress, egress_then})
    return before, after, Direction.EGRESS if by_egress else Direction.INGRESS


def _together(courses: Sequence[Course], protocol: Protocol) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Ranges that none of the courses tells apart, by their first and last port, with the words of all."""
    lowest, last = (1 if protocol in PORT_PROTOCOLS else 0), _LAST[protocol]
    if all(len(one.words) == 1 for one in courses):
        yield lowest, last, tuple(one.words[0] for one in courses)
        return
    firsts = sorted({lowest, *(first for one in courses for first in one.firsts if lowest < first <= last)})
    for first, following in zip(firsts, (*firsts[1:], last + 1), strict=True):
        yield first, following - 1, tuple(one.at(first) for one in courses)


def _differing(
    before: Rules, after: Rules, moved: Sequence[tuple[int, int, int]]
) -> Iterator[tuple[Direction, frozenset[int], frozenset[Protocol]]]:
    """In which directions rows differ, about which peers (0: about all) and protocols.

    What was an address of one prefix and will be one of another, or the other way round, has the rows of either: where
    an exception is added, no row differs, and still there is somebody whom none is about any more.
    """
    found: dict[int, tuple[set[int], set[Protocol]]] = {}

    def differs(peer: int, key: MapKey) -> None:
        peers, protocols = found.setdefault(key.direction, (set(), set()))
        peers.add(peer)
        protocols.update(_LAST if not key.l4_bits else {one for one in _LAST if one == key.protocol})

    for old, new in zip(before, after, strict=True):
        first, second = (one.told.items() if one is not None else {}.items() for one in (old, new))
        for key, _ in first ^ second:
            differs(key.identity, key)
        had, will_have = _about(first, {was for _, was, _ in moved}), _about(second, {now for _, _, now in moved})
        for peer, was, now in moved:
            for key, _ in had.get(was, set()) ^ will_have.get(now, set()):
                differs(peer, key)
    for direction, (peers, protocols) in found.items():
        yield Direction(direction), frozenset(peers), frozenset(protocols)


def _about(rows: Iterable[tuple[MapKey, MapEntry]], peers: set[int]) -> dict[int, set[tuple[MapKey, MapEntry]]]:
    """The rows about each of the peers, as if they were about anybody."""
    found: dict[int, set[tuple[MapKey, MapEntry]]] = {}
    for key, entry in rows if peers else ():
        if key.identity in peers:
            found.setdefault(key.identity, set()).add((key._replace(identity=_ANYBODY), entry))
    return found


def _everybody(before: World, after: Side) -> tuple[int, ...]:
    """Every identity that there is or would be, and those that are never allocated."""
    reserved = map(int, (Reserved.HOST, Reserved.REMOTE_NODE))
    return tuple(dict.fromkeys((*reserved, *after.worlds, *after.world.identities, *before.identities)))


def ports_text(there: Ranges) -> str:
    """The ports in words, by what they are or by what they are not, whichever is shorter."""
    rest: Ranges = {}
    for protocol, last in _LAST.items():
        at = 1 if protocol in PORT_PROTOCOLS else 0
        for first, until in (*there.get(protocol, ()), (last + 1, last + 1)):
            if first > at:
                rest.setdefault(protocol, []).append((at, first - 1))
            at = until + 1
    if not rest:
        return "any"
    if sum(map(len, rest.values())) < sum(map(len, there.values())):
        return f"any but {_listed(rest)}"
    return _listed(there)


def _listed(there: Ranges) -> str:
    return ", ".join(_range_text(protocol, *one) for protocol, ranges in there.items() for one in ranges)


def _range_text(protocol: Protocol, first: int, last: int) -> str:
    lowest = 1 if protocol in PORT_PROTOCOLS else 0
    if (first, last) == (lowest, _LAST[protocol]):
        return f"any {protocol.name}" if protocol in PORT_PROTOCOLS else f"any {_MESSAGES[protocol].split()[0]}"
    numbers = str(first) if first == last else f"{first}-{last}"
    return f"{numbers}/{protocol.name}" if protocol in PORT_PROTOCOLS else f"{_MESSAGES[protocol]} {numbers}"
