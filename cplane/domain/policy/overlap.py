"""Which rules say what others say already, by their words alone: whatever identities exist, it holds."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations, islice
from typing import Final, NamedTuple

from cplane.domain.cidr import contains
from cplane.domain.policy.rule import L4Match, Peer, Policy, PolicyRef, PortMatch, Rule, Term
from cplane.domain.ports import PORT_PROTOCOLS, Protocol
from cplane.domain.selectors import CidrSelector, LabelSelector, Requirement
from cplane.domain.verdict import Direction

_REQUIREMENTS_MAX: Final = 6  # of a subject; of one with more only equal and wholly general subjects are looked for


_COMPARED_MAX: Final = 500  # rules that one is compared with


class Held(NamedTuple):
    """A rule and whose it is."""

    ref: PolicyRef
    rule: Rule

    def __str__(self) -> str:
        return f"{self.ref} {self.rule.path}"


_BySubject = dict[tuple[bool, tuple[Requirement, ...]], list[Held]]


class RuleIndex:
    """Rules that are enforced, found by those whose subjects they are surely about too."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        self._all: _BySubject = defaultdict(list)
        self._denying: _BySubject = defaultdict(list)
        self._naming: _BySubject = defaultdict(list)
        self._allowing: set[tuple[bool, Direction]] = set()
        for policy in policies:
            for rule in policy.rules if not policy.audit else ():
                self._add(Held(policy.ref, rule))

    def about_all_of(self, rule: Rule) -> Iterator[Held]:
        """The rules about everything that this one is about, itself included, those of equal subjects first.

        Of very many, some are left out.
        """
        return islice(_found(self._all, rule), _COMPARED_MAX)

    def denying(self, rule: Rule) -> Iterator[Held]:
        """Of those rules the ones that deny something."""
        return _found(self._denying, rule)

    def naming(self, rule: Rule) -> Iterator[Held]:
        """Of those rules the ones with DNS rules."""
        return _found(self._naming, rule)

    def allows(self, rule: Rule, direction: Direction) -> bool:
        """Whether any rule allows something in that direction, to endpoints or to nodes as this one is about."""
        return (rule.about_nodes, direction) in self._allowing

    def _add(self, held: Held) -> None:
        key = (held.rule.about_nodes, held.rule.subject.requirements)
        self._all[key].append(held)
        self._allowing.update(
            (held.rule.about_nodes, term.direction) for term in held.rule.terms if not term.deny and not _is_void(term)
        )
        if any(term.deny for term in held.rule.terms):
            self._denying[key].append(held)
        redirects = [term.redirect for term in held.rule.terms if term.redirect is not None]
        if any(one.rules is not None and one.rules.protocol == "dns" for one in redirects):
            self._naming[key].append(held)


def _found(index: _BySubject, rule: Rule) -> Iterator[Held]:
    """Rules whose requirements on the subject are among this one's."""
    written = rule.subject.requirements
    inner = range(len(written) - 1, -1, -1) if len(written) <= _REQUIREMENTS_MAX else (0,)
    for size in (len(written), *inner):
        for part in combinations(written, size):
            yield from index.get((rule.about_nodes, part), ())


def shadowing(policy: Policy, index: RuleIndex) -> PolicyRef | None:
    """Another policy without which nothing of this one would be missed, since it says all of it; None: there is none.

    Of two that say the same the one that comes first in the alphabet is kept.
    """
    said = [_saying(policy.ref, rule, index) for rule in policy.rules if not policy.audit]
    return min(frozenset.intersection(*said), default=None) if said else None


def _saying(ref: PolicyRef, rule: Rule, index: RuleIndex) -> frozenset[PolicyRef]:
    """The other policies that say all that the rule says."""
    found = set()
    for held in index.about_all_of(rule):
        if held.ref != ref and _says_all(held.rule, rule):
            equal = held.rule.subject == rule.subject and _says_all(rule, held.rule)
            if not (equal and ref < held.ref):
                found.add(held.ref)
    return frozenset(found)


def denying(term: Term, rule: Rule, index: RuleIndex) -> tuple[Held, Term] | None:
    """A deny that leaves nothing of what the term allows; None: there is none, or the term denies itself."""
    if term.deny or _is_void(term):
        return None
    for held in index.denying(rule):
        for other in held.rule.terms:
            if other.deny and other.direction is term.direction and _covers(other, term):
                return held, other
    return None


def denies_some(rule: Rule, direction: Direction) -> bool:
    """Whether it denies something in that direction, by its words, and not all that there is."""
    denied = [term for term in rule.terms if term.deny and term.direction is direction and not _is_void(term)]
    return bool(denied) and not any(term.l4 is None and LabelSelector() in (term.peers or ()) for term in denied)


def _says_all(rule: Rule, other: Rule) -> bool:
    """Whether `rule`, which is about everything that `other` is about, says all that it says."""
    if any(wanted > given for wanted, given in zip(other.default_deny, rule.default_deny, strict=True)):
        return False
    return all(_is_void(term) or any(_says(held, term) for held in rule.terms) for term in other.terms)


def _says(held: Term, term: Term) -> bool:
    if (held.direction, held.deny) != (term.direction, term.deny) or held.auth != term.auth:
        return False
    return held.redirect in {None, term.redirect} and _covers(held, term)


def _is_void(term: Term) -> bool:
    """Whether it selects no traffic, by its words."""
    return (term.peers is None and term.l4 is None) or term.peers == () or term.l4 == ()


def _covers(held: Term, term: Term) -> bool:
    """Whether all traffic of `term` is traffic of `held`."""
    return not _is_void(held) and _covers_peers(held.peers, term.peers) and _covers_l4(held.l4, term.l4)


def _covers_peers(held: tuple[Peer, ...] | None, wanted: tuple[Peer, ...] | None) -> bool:
    if held is None or LabelSelector() in held:
        return True
    return wanted is not None and all(any(_covers_peer(one, peer) for one in held) for peer in wanted)


def _covers_peer(held: Peer, peer: Peer) -> bool:
    if held == peer:
        return True
    if isinstance(held, LabelSelector) and isinstance(peer, LabelSelector):
        return set(held.requirements) <= set(peer.requirements)
    if isinstance(held, CidrSelector) and isinstance(peer, CidrSelector):
        return set(held.excepts) <= set(peer.excepts) and contains(held.prefix, peer.prefix)
    return False


def _covers_l4(held: tuple[L4Match, ...] | None, wanted: tuple[L4Match, ...] | None) -> bool:
    if held is None:
        return True
    return wanted is not None and all(any(_covers_match(one, match) for one in held) for match in wanted)


def _covers_match(held: L4Match, match: L4Match) -> bool:
    if held == match:
        return True
    if not isinstance(held, PortMatch) or not isinstance(match, PortMatch):
        return False
    same = held.protocol is match.protocol or (held.protocol is Protocol.ANY and match.protocol in PORT_PROTOCOLS)
    return same and held.first <= match.first and match.last <= held.last
