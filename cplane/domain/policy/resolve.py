"""Rules as what they contribute to a policy map: for these peers, these keys, with this precedence."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cplane.domain.policy.rule import L4Match, PolicyRef, PortMatch, Rule, Term
from cplane.domain.policy.selectorcache import CachedSelector, SelectorCache
from cplane.domain.ports import ALL_L4, FULL_BITS, L4Key, port_keys
from cplane.domain.selectors import LabelSelector
from cplane.domain.verdict import Direction

PRIORITY_MAX: Final = 0xFFFFFF
_DENY: Final = 255
_ALLOW: Final = 1


def precedence(*, deny: bool, priority: int = 0) -> int:
    """32 bits, higher wins: the rule's priority, inverted because 0 is the strongest, then what it does.

    Source: Cilium's `policy_entry.precedence`, low byte 255 deny, 1 plain allow, proxy redirects between them.
    """
    assert 0 <= priority <= PRIORITY_MAX, f"priority {priority} does not fit in 24 bits"
    return (PRIORITY_MAX - priority) << 8 | (_DENY if deny else _ALLOW)


ALLOW: Final = precedence(deny=False)
DENY: Final = precedence(deny=True)


@dataclass(frozen=True, eq=False, slots=True)
class Contribution:
    """What one term says about one of its peers; `peer` None is anyone. Compared by identity.

    `direction` is a `Direction`, as a plain number because maps are keyed by it. `lengths`: those of `keys`.
    `term` None: not from a rule but from the language itself (no default deny, the local host).
    """

    direction: int
    peer: CachedSelector | None
    keys: tuple[L4Key, ...]
    precedence: int
    subject: CachedSelector | None = None
    ref: PolicyRef | None = None
    term: Term | None = None
    lengths: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", frozenset(key.bits for key in self.keys))


@dataclass(frozen=True, eq=False, slots=True)
class ResolvedRule:
    """A rule whose selectors are interned; `demands` are the directions it asks default deny for.

    Compared by identity.
    """

    ref: PolicyRef
    rule: Rule
    subject: CachedSelector
    contributions: tuple[Contribution, ...]
    demands: tuple[int, ...]


def resolve(ref: PolicyRef, rule: Rule, *, subjects: SelectorCache, peers: SelectorCache) -> ResolvedRule:
    """The rule with its selectors interned in both caches; `release` gives them back."""
    subject = subjects.intern(rule.subject)
    contributions = tuple(one for term in rule.terms for one in _contributions(ref, term, subject, peers))
    demands = tuple(int(d) for d, wanted in zip(Direction, rule.default_deny, strict=True) if wanted)
    return ResolvedRule(ref, rule, subject, contributions, demands)


def release(resolved: ResolvedRule, *, subjects: SelectorCache, peers: SelectorCache) -> None:
    """The rule no longer uses its selectors."""
    subjects.release(resolved.subject)
    for one in resolved.contributions:
        if one.peer is not None:
            peers.release(one.peer)


def term_keys(term: Term) -> tuple[L4Key, ...]:
    """The keys that the term's ports and message types stand for; none where the term selects nothing."""
    if term.l4 is None:
        return () if term.peers is None else (ALL_L4,)
    return tuple(dict.fromkeys(key for match in term.l4 for key in _match_keys(match)))


def _match_keys(match: L4Match) -> Iterable[L4Key]:
    if isinstance(match, PortMatch):
        return port_keys(match.protocol, match.first, match.last)
    return (L4Key(int(match.protocol), match.type, FULL_BITS),)


def _contributions(ref: PolicyRef, term: Term, subject: CachedSelector, peers: SelectorCache) -> Iterable[Contribution]:
    keys = term_keys(term)
    if not keys:
        return
    level = precedence(deny=term.deny)
    for selector in (None,) if term.peers is None else term.peers:
        anyone = selector is None or (isinstance(selector, LabelSelector) and selector.is_wildcard)
        peer = None if anyone or selector is None else peers.intern(selector)
        yield Contribution(int(term.direction), peer, keys, level, subject, ref, term)
