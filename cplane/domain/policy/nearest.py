"""Of the rules that allow something, the one that comes nearest to traffic that none of them allows."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from cplane.domain.identity import Reserved
from cplane.domain.labels import CIDR, LabelSet
from cplane.domain.policy.explanation import Nearest, PeerIdentity, RuleHit, Traffic, l4_text
from cplane.domain.policy.resolve import Contribution, ResolvedRule
from cplane.domain.policy.rule import IcmpMatch, L4Match, PortMatch, Term
from cplane.domain.ports import PORT_PROTOCOLS, NamedPorts, Protocol
from cplane.domain.selectors import CidrSelector, Selector
from cplane.domain.verdict import Direction

_WORLDS: Final = frozenset(
    label for one in (Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6) for label in one.labels
)


class _Fit(NamedTuple):
    """How near a term is, comparable, and what it lacks."""

    score: tuple[int, bool, float]  # parts that fit of peer, protocol and port; the peer's; requirements that it meets
    selector: str
    peer: str
    about: str


def nearest(
    rules: Iterable[ResolvedRule], peer: PeerIdentity, traffic: Traffic, own_ports: NamedPorts
) -> Nearest | None:
    """The term that fits most of peer, protocol and port; None where no term of the direction selects anything.

    `own_ports` are the subject's. Of terms that fit as well, the first by policy and place.
    """
    best: tuple[_Fit, Nearest] | None = None
    for resolved in sorted(rules, key=lambda one: one.ref):
        for term in resolved.rule.terms:
            if term.direction is not traffic.direction or term.deny or (term.peers is None and term.l4 is None):
                continue
            made = tuple(one for one in resolved.contributions if one.term is term)
            fit = _fit(term, made, peer, traffic, own_ports)
            if best is None or fit.score > best[0].score:
                hit = RuleHit(resolved.ref, term.path, fit.selector)
                best = fit, Nearest(hit, fit.peer, fit.about, traffic)
    return best[1] if best is not None else None


def _fit(
    term: Term, made: tuple[Contribution, ...], peer: PeerIdentity, traffic: Traffic, own_ports: NamedPorts
) -> _Fit:
    selector, met, missing = _peer_fit(term, made, peer)
    protocol, port = _l4_fit(term, traffic, own_ports)
    about = "" if protocol and port else l4_text(term.l4 or ())
    return _Fit(((missing is None) + protocol + port, missing is None, met), selector, missing or "", about)


def _peer_fit(term: Term, made: tuple[Contribution, ...], peer: PeerIdentity) -> tuple[str, float, str | None]:
    """The selector that comes nearest, how much of it the peer meets, and what it does not; None: it is selected."""
    if term.peers is None:
        return "anyone", 1.0, None
    found: list[tuple[float, str, str]] = []
    for one in made:
        if one.peer is None or peer.number in one.peer.numbers:
            return str(one.peer.selector) if one.peer is not None else "anyone", 1.0, None
        met, missing = _judged(one.peer.selector, peer.labels)
        found.append((met, str(one.peer.selector), missing))
    if not found:
        written = ", ".join(str(one) for one in term.peers) or "nobody"
        return written, 0.0, f"it selects nobody ({written})" if term.peers else "its list of peers is empty"
    met, selector, missing = max(found, key=lambda one: one[0])
    return selector, met, missing


def _judged(selector: Selector, labels: LabelSet) -> tuple[float, str]:
    """How much of the selector the labels meet, and what they do not."""
    if isinstance(selector, CidrSelector):
        outside = any(one.source == CIDR or one in _WORLDS for one in labels)
        known = f"is not in {selector}" if outside else f"is in the cluster, where {selector} selects nobody"
        return 0.0, f"the peer {known}"
    missing = [str(one) for one in selector.requirements if not one.matches(labels)]
    total = len(selector.requirements)
    return (total - len(missing)) / total if total else 1.0, f"the peer does not meet {','.join(missing)}"


def _l4_fit(term: Term, traffic: Traffic, own_ports: NamedPorts) -> tuple[bool, bool]:
    """Whether the protocol and the port are among those that the term is about."""
    if term.l4 is None:
        return True, True
    ports = own_ports if traffic.direction is Direction.INGRESS else frozenset()
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
