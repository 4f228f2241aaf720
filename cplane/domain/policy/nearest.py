"""Of the rules that allow something, the one that comes nearest to traffic that none of them allows."""

from collections.abc import Iterable, Iterator
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

_KEPT_MAX: Final = 4096  # peers, or ports, whose fits are kept
_L4_PARTS: Final = 2  # of what fits or does not: the protocol and the port
_WORLDS: Final = frozenset(
    label for one in (Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6) for label in one.labels
)


class _Candidate(NamedTuple):
    """A term of the direction that allows something, and what it contributes."""

    resolved: ResolvedRule
    term: Term
    made: tuple[Contribution, ...]


class Candidates:
    """The terms of rules that allow something in a direction, prepared to be asked for the nearest again and again.

    `own_ports` are the subject's. What they say holds while selectors select what they do now.
    """

    def __init__(self, rules: Iterable[ResolvedRule], direction: Direction, own_ports: NamedPorts) -> None:
        self._own_ports = own_ports if direction is Direction.INGRESS else frozenset()
        self._terms = tuple(
            _Candidate(resolved, term, tuple(one for one in resolved.contributions if one.term is term))
            for resolved in sorted(rules, key=lambda one: one.ref)
            for term in resolved.rule.terms
            if term.direction is direction and not term.deny and (term.peers is not None or term.l4 is not None)
        )
        self._selectors = tuple(dict.fromkeys(peer.selector for one in self._terms for peer in _peers(one)))
        place = {selector: index for index, selector in enumerate(self._selectors)}
        # Terms that name the same peers fit a peer alike: one of each kind is asked.
        kinds: dict[tuple[bool, tuple[int, ...]], int] = {}
        self._asked: list[tuple[bool, tuple[CachedSelector, ...], tuple[int, ...]]] = []
        self._kind_of: list[int] = []
        for one in self._terms:
            peers = tuple(_peers(one))
            places = tuple(place[peer.selector] for peer in peers)
            anyone = one.term.peers is None or any(held.peer is None for held in one.made)
            kind = kinds.setdefault((anyone, places), len(kinds))
            if kind == len(self._asked):
                self._asked.append((anyone, peers, places))
            self._kind_of.append(kind)
        self._peers: dict[int, list[tuple[bool, float]]] = {}
        self._ports: dict[tuple[int, int], list[int]] = {}

    def nearest(self, peer: PeerIdentity, traffic: Traffic) -> Nearest | None:
        """The term that fits most of peer, protocol and port; None where no term selects anything.

        Of terms that fit as well, the one whose peer fits, then the one of whose requirements the peer meets more, then
        the first by policy and place.
        """
        if not self._terms:
            return None
        scores = [
            (selected + parts, selected, met)
            for (selected, met), parts in zip(self._peer_fits(peer), self._l4_fits(traffic), strict=True)
        ]
        place = max(range(len(scores)), key=scores.__getitem__)
        resolved, term, made = self._terms[place]
        selector, missing = _peer_words(term, made, peer)
        about = "" if sum(_l4_fit(term, traffic, self._own_ports)) == _L4_PARTS else l4_text(term.l4 or ())
        return Nearest(RuleHit(resolved.ref, term.path, selector), missing, about, traffic)

    def _peer_fits(self, peer: PeerIdentity) -> list[tuple[bool, float]]:
        found = self._peers.get(peer.number)
        if found is None:
            _make_room(self._peers)
            shares = [_share(one, peer.labels) for one in self._selectors]
            number = peer.number
            fits = [
                (True, 1.0)
                if anyone or any(number in one.numbers for one in peers)
                else (False, max([shares[at] for at in places], default=0.0))
                for anyone, peers, places in self._asked
            ]
            found = self._peers[peer.number] = [fits[kind] for kind in self._kind_of]
        return found

    def _l4_fits(self, traffic: Traffic) -> list[int]:
        key = traffic.protocol, traffic.port
        found = self._ports.get(key)
        if found is None:
            _make_room(self._ports)
            found = self._ports[key] = [sum(_l4_fit(one.term, traffic, self._own_ports)) for one in self._terms]
        return found


def _make_room(kept: dict[K, V]) -> None:
    if len(kept) >= _KEPT_MAX:
        kept.clear()


def _peers(candidate: _Candidate) -> Iterator[CachedSelector]:
    return (one.peer for one in candidate.made if one.peer is not None)


def _peer_words(term: Term, made: tuple[Contribution, ...], peer: PeerIdentity) -> tuple[str, str]:
    """The selector that comes nearest, and what the peer lacks; empty: nothing."""
    if term.peers is None:
        return "anyone", ""
    for one in made:
        if one.peer is None or peer.number in one.peer.numbers:
            return str(one.peer.selector) if one.peer is not None else "anyone", ""
    if not made:
        written = ", ".join(str(one) for one in term.peers) or "nobody"
        return written, f"it selects nobody ({written})" if term.peers else "its list of peers is empty"
    selectors = [one.peer.selector for one in made if one.peer is not None]
    found = max(selectors, key=lambda one: _share(one, peer.labels))
    return str(found), _missing(found, peer.labels)


def _share(selector: Selector, labels: LabelSet) -> float:
    """How much of the selector the labels meet; of a prefix it is all or nothing, and so nothing."""
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
