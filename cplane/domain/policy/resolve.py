"""Rules as what they contribute to a policy map: for these peers, these keys, with this precedence."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from cplane.domain.labels import RESERVED
from cplane.domain.policy.directory import Directory
from cplane.domain.policy.rule import IcmpMatch, L4Match, PolicyRef, PortMatch, Rule, Term
from cplane.domain.policy.selectorcache import CachedSelector, SelectorCache
from cplane.domain.ports import ALL_L4, FULL_BITS, L4Key, NamedPort, NamedPorts, Protocol, port_keys
from cplane.domain.selectors import LabelSelector, Operator, Requirement, Selector
from cplane.domain.verdict import Direction

PRIORITY_MAX: Final = 0xFFFFFF
DENY_LEVEL: Final = 255
_ALLOW_LEVEL: Final = 1
_EVERYONE: Final = LabelSelector()


def precedence(*, deny: bool, priority: int = 0, redirect: int = 0) -> int:
    """32 bits, higher wins: the rule's priority, inverted because 0 is the strongest, then what it does.

    `redirect` is the priority of a redirect, 1 to 126 and the strongest first; 0: none.
    Source: Cilium's `policy_entry.precedence`, low byte 255 deny, 1 plain allow, proxy redirects between them.
    """
    assert 0 <= priority <= PRIORITY_MAX, f"priority {priority} does not fit in 24 bits"
    assert 0 <= redirect < DENY_LEVEL - _ALLOW_LEVEL, f"redirect priority {redirect} is not below 254"
    level = DENY_LEVEL if deny else DENY_LEVEL - redirect if redirect else _ALLOW_LEVEL
    return (PRIORITY_MAX - priority) << 8 | level


def is_redirect(level: int) -> bool:
    """Whether what has this precedence goes to a proxy."""
    return _ALLOW_LEVEL < level & DENY_LEVEL < DENY_LEVEL


ALLOW: Final = precedence(deny=False)
DENY: Final = precedence(deny=True)


@dataclass(frozen=True, eq=False, slots=True)
class Contribution:
    """What one term says about one of its peers; `peer` None is anyone. Compared by identity.

    `direction` is a `Direction`, as a plain number because maps are keyed by it. `named`: ports whose keys depend on
    the endpoint that has them. `lengths`: those that keys may have. `origin`: 32 bits that stand for the term, 0 where
    the language itself says it (no default deny, the local host); then `ref`, `rule` and `term` are None.
    """

    direction: int
    peer: CachedSelector | None
    keys: tuple[L4Key, ...]
    precedence: int
    named: tuple[NamedPort, ...] = ()
    subject: CachedSelector | None = None
    ref: PolicyRef | None = None
    rule: Rule | None = None
    term: Term | None = None
    audit: bool = False
    origin: int = 0
    lengths: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        lengths = {key.bits for key in self.keys} | ({FULL_BITS} if self.named else set())
        object.__setattr__(self, "lengths", frozenset(lengths))

    @property
    def auth(self) -> int | None:
        """The authentication that is asked for; None: not said."""
        return None if self.term is None or self.term.auth is None else int(self.term.auth)


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
    audit: bool


def resolve(
    ref: PolicyRef, rule: Rule, *, audit: bool, directory: Directory, subjects: SelectorCache, peers: SelectorCache
) -> ResolvedRule:
    """The rule with its selectors interned in both caches; `release` gives them back."""
    subject = subjects.intern(_subject(rule))
    contributions = tuple(
        Contribution(
            direction=int(term.direction),
            peer=None if selector is None else peers.intern(selector),
            keys=keys,
            precedence=precedence(deny=term.deny, redirect=term.redirect.priority if term.redirect else 0),
            named=named,
            subject=subject,
            ref=ref,
            rule=rule,
            term=term,
            audit=audit,
            origin=_origin(ref, term.path),
        )
        for term in rule.terms
        for selector, keys, named in _parts(term, directory)
    )
    demands = tuple(int(d) for d, wanted in zip(Direction, rule.default_deny, strict=True) if wanted)
    return ResolvedRule(ref, rule, subject, contributions, demands, audit)


def release(resolved: ResolvedRule, *, subjects: SelectorCache, peers: SelectorCache) -> None:
    """The rule no longer uses its selectors."""
    subjects.release(resolved.subject)
    for one in resolved.contributions:
        if one.peer is not None:
            peers.release(one.peer)


def parser_of(makers: Iterable[Contribution]) -> str:
    """Who reads the traffic of an entry that these make; empty: nobody. Where they disagree it is always the same."""
    redirects = (one.term.redirect for one in makers if one.term is not None)
    return min((one.parser for one in redirects if one is not None), default="")


def named_keys(named: Iterable[NamedPort], ports: NamedPorts) -> tuple[L4Key, ...]:
    """The keys of named ports where an endpoint has these: (protocol and name, number) each."""
    wanted = tuple(named)
    return tuple(
        dict.fromkeys(
            key
            for held, number in ports
            if any(one.name == held.name and one.protocol in (held.protocol, Protocol.ANY) for one in wanted)
            for key in port_keys(held.protocol, number, number)
        )
    )


def _traffic(term: Term) -> tuple[tuple[L4Key, ...], tuple[NamedPort, ...]]:
    """The keys and named ports that the term is about; neither where it selects nothing."""
    if term.l4 is None:
        return () if term.peers is None else (ALL_L4,), ()
    named = tuple(match for match in term.l4 if isinstance(match, NamedPort))
    return tuple(dict.fromkeys(key for match in term.l4 for key in _match_keys(match))), named


def _match_keys(match: L4Match) -> Iterable[L4Key]:
    if isinstance(match, PortMatch):
        return port_keys(match.protocol, match.first, match.last)
    if isinstance(match, IcmpMatch):
        return (L4Key(int(match.protocol), match.type, FULL_BITS),)
    return ()


def _subject(rule: Rule) -> LabelSelector:
    """Nodes are subjects with the label of the host, so that a rule about nodes is about no other endpoint."""
    if not rule.about_nodes:
        return rule.subject
    return LabelSelector.of((*rule.subject.requirements, Requirement(RESERVED, "host", Operator.EXISTS)))


def _parts(
    term: Term, directory: Directory
) -> Iterator[tuple[Selector | None, tuple[L4Key, ...], tuple[NamedPort, ...]]]:
    """Each peer (None: anyone) with the keys and named ports that the term says of it.

    At egress ports are named by the peer, so for these also anyone must be each identity that there is.
    """
    keys, named = _traffic(term)
    if not keys and not named:
        return
    for selector in _selectors(term, directory):
        if not (isinstance(selector, LabelSelector) and selector.is_wildcard):
            yield selector, keys, named
        elif named and term.direction is Direction.EGRESS:
            yield selector, (), named
            if keys:
                yield None, keys, ()
        else:
            yield None, keys, named


def _selectors(term: Term, directory: Directory) -> tuple[Selector, ...]:
    if term.peers is None:
        return (_EVERYONE,)
    return tuple(dict.fromkeys(one for peer in term.peers for one in directory.expand(peer)))


def _origin(ref: PolicyRef, path: str) -> int:
    text = "\0".join((*ref, path)).encode()
    return int.from_bytes(blake2b(text, digest_size=4).digest(), "big") or 1
