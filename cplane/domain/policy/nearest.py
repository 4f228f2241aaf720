"""Of the rules that allow something, the one that comes nearest to traffic that none of them allows."""

from collections.abc import Iterable
from operator import add
from typing import Final, NamedTuple, TypeVar

from cplane.domain.identity import Reserved
from cplane.domain.labels import CIDR, LabelSet
from cplane.domain.policy.explanation import Nearest, PeerIdentity, RuleHit, Traffic, l4_text
from cplane.domain.policy.resolve import Contribution, ResolvedRule
from cplane.domain.policy.rule import IcmpMatch, L4Match, PortMatch, Term
from cplane.domain.policy.selectorcache import CachedSelector
from cplane.domain.ports import PORT_PROTOCOLS, NamedPorts, Protocol
from cplane.domain.selectors import CidrSelector, Selector
from cplane.domain.verdict import Direction

K = TypeVar("K")
V = TypeVar("V")

_KEPT_MAX: Final = 65_536  # fits that are kept, of each kind; beyond, all are forgotten and found again
_PART: Final = 4  # more than all that counts less together: that the peer fits, and how much of it
_SELECTED: Final = 2
_L4_PARTS: Final = 2  # of what fits or does not: the protocol and the port
_WORLDS: Final = frozenset(
    label for one in (Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6) for label in one.labels
)


class _Candidate(NamedTuple):
    """A term of the direction that allows something, and what it contributes."""

    resolved: ResolvedRule
    term: Term
    made: tuple[Contribution, ...]


class Fits:
    """How peers fit selectors, found once for all whose rules name these; it holds while peers keep their labels."""

    def __init__(self) -> None:
        self._shares: dict[tuple[CachedSelector, int], float] = {}
        self._missing: dict[tuple[CachedSelector, int], str] = {}

    def share(self, one: CachedSelector, peer: PeerIdentity) -> float:
        """How much of the selector the labels meet; of a prefix it is all or nothing, and so nothing."""
        key = one, peer.number
        found = self._shares.get(key)
        if found is None:
            _make_room(self._shares)
            found = self._shares[key] = _share(one.selector, peer.labels)
        return found

    def missing(self, one: CachedSelector, peer: PeerIdentity) -> str:
        """What the peer lacks of the selector, in words."""
        key = one, peer.number
        found = self._missing.get(key)
        if found is None:
            _make_room(self._missing)
            found = self._missing[key] = _missing(one.selector, peer.labels)
        return found


class Candidates:
    """The terms of rules that allow something in a direction, prepared to be asked for the nearest again and again.

    `own_ports` are the subject's. What they say holds while selectors select what they do now.
    """

    def __init__(self, rules: Iterable[ResolvedRule], direction: Direction, own_ports: NamedPorts, fits: Fits) -> None:
        self._own_ports = own_ports if direction is Direction.INGRESS else frozenset()
        self._fits = fits
        self._terms = tuple(
            _Candidate(resolved, term, tuple(one for one in resolved.contributions if one.term is term))
            for resolved in sorted(rules, key=lambda one: one.ref)
            for term in resolved.rule.terms
            if term.direction is direction and not term.deny and (term.peers is not None or term.l4 is not None)
        )
        # Terms that name the same peers fit a peer alike: one of each kind is asked.
        kinds: dict[tuple[bool, tuple[CachedSelector, ...]], int] = {}
        for one in self._terms:
            kinds.setdefault(_kind(one), len(kinds))
        self._asked = tuple(kinds)
        self._kind_of = [kinds[_kind(one)] for one in self._terms]
        self._peers: dict[int, list[float]] = {}
        self._ports: dict[tuple[int, int], list[int]] = {}
        self._words: dict[tuple[int, int], tuple[str, str]] = {}
        self._abouts: dict[int, str] = {}

    def nearest(self, peer: PeerIdentity, traffic: Traffic) -> Nearest | None:
        """The term that fits most of peer, protocol and port; None where no term selects anything.

        Of terms that fit as well, the one whose peer fits, then the one of whose requirements the peer meets more, then
        the first by policy and place.
        """
        if not self._terms:
            return None
        # As one number: how many parts fit, whether the peer does, how much of it. Tuples would take twice as long.
        ports = self._l4_fits(traffic)
        scores = list(map(add, self._peer_fits(peer), ports))
        place = scores.index(max(scores))
        resolved, term, made = self._terms[place]
        words = self._words.get((place, peer.number))
        if words is None:
            _make_room(self._words)
            words = self._words[place, peer.number] = self._peer_words(term, made, peer)
        selector, missing = words
        about = "" if ports[place] == _PART * _L4_PARTS else self._about(place)
        return Nearest(RuleHit(resolved.ref, term.path, selector), missing, about, traffic)

    def _about(self, place: int) -> str:
        """Which ports the term at this place is about."""
        found = self._abouts.get(place)
        if found is None:
            found = self._abouts[place] = l4_text(self._terms[place].term.l4 or ())
        return found

    def _peer_fits(self, peer: PeerIdentity) -> list[float]:
        found = self._peers.get(peer.number)
        if found is None:
            _make_room(self._peers)
            number, share = peer.number, self._fits.share
            fits = [
                _PART + _SELECTED + 1.0
                if anyone or any(number in one.numbers for one in peers)
                else max([share(one, peer) for one in peers], default=0.0)
                for anyone, peers in self._asked
            ]
            found = self._peers[number] = [fits[kind] for kind in self._kind_of]
        return found

    def _l4_fits(self, traffic: Traffic) -> list[int]:
        key = traffic.protocol, traffic.port
        found = self._ports.get(key)
        if found is None:
            _make_room(self._ports)
            fits = (sum(_l4_fit(one.term, traffic, self._own_ports)) for one in self._terms)
            found = self._ports[key] = [_PART * fit for fit in fits]
        return found

    def _peer_words(self, term: Term, made: tuple[Contribution, ...], peer: PeerIdentity) -> tuple[str, str]:
        """The selector that comes nearest, and what the peer lacks; empty: nothing."""
        if term.peers is None:
            return "anyone", ""
        for one in made:
            if one.peer is None or peer.number in one.peer.numbers:
                return str(one.peer.selector) if one.peer is not None else "anyone", ""
        if not made:
            written = ", ".join(str(one) for one in term.peers) or "nobody"
            return written, f"it selects nobody ({written})" if term.peers else "its list of peers is empty"
        found = max((one.peer for one in made if one.peer is not None), key=lambda one: self._fits.share(one, peer))
        return str(found.selector), self._fits.missing(found, peer)


def _make_room(kept: dict[K, V]) -> None:
    if len(kept) >= _KEPT_MAX:
        kept.clear()


def _kind(candidate: _Candidate) -> tuple[bool, tuple[CachedSelector, ...]]:
    """Whether the term is about anyone, and otherwise about whom."""
    anyone = candidate.term.peers is None or any(one.peer is None for one in candidate.made)
    return anyone, tuple(one.peer for one in candidate.made if one.peer is not None)


def _share(selector: Selector, labels: LabelSet) -> float:
    if isinstance(selector, CidrSelector):
        return 0.0
    total = len(selector.requirements)
    return sum(one.matches(labels) for one in selector.requirements) / total if total else 1.0


def _missing(selector: Selector, labels: LabelSet) -> str:
    if isinstance(selector, CidrSelector):
        outside = any(one.source == CIDR or one in _WORLDS for one in labels)
        return (
            f"the peer {f'is not in {selector}' if outside else f'is in the cluster, where {selector} selects nobody'}"
        )
    return f"the peer does not meet {','.join(str(one) for one in selector.requirements if not one.matches(labels))}"


def _l4_fit(term: Term, traffic: Traffic, ports: NamedPorts) -> tuple[bool, bool]:
    """Whether the protocol and the port are among those that the term is about."""
    if term.l4 is None:
        return True, True
    same = [one for one in term.l4 if traffic.protocol in _protocols(one)]
    return bool(same), any(_has_port(one, traffic, ports) for one in same)


def _protocols(match: L4Match) -> tuple[int, ...]:
    return PORT_PROTOCOLS if match.protocol is Protocol.ANY else (match.protocol,)


def _has_port(match: L4Match, traffic: Traffic, ports: NamedPorts) -> bool:
    if isinstance(match, PortMatch):
        return match.first <= traffic.port <= match.last
    if isinstance(match, IcmpMatch):
        return match.type == traffic.port
    return any(
        (held.name, int(held.protocol), number) == (match.name, traffic.protocol, traffic.port)
        for held, number in ports
    )
