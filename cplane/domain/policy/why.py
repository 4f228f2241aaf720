"""Why traffic between a subject and a peer has its verdict: the lookup's decision, and whose word it was.

There is no second reading of rules here. The verdict on packets is that of `lookup` over the subject's map state, and
what a proxy would do with a request follows from what the same state says of the same traffic.
"""

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from cplane.domain import fqdn
from cplane.domain.identity import Reserved
from cplane.domain.policy import regex
from cplane.domain.policy.explanation import (
    Explanation,
    Nearest,
    Outcome,
    PeerIdentity,
    RuleHit,
    Traffic,
    demands,
    hits,
    listed,
)
from cplane.domain.policy.http import HttpRequest
from cplane.domain.policy.kafka import API_KEYS, KafkaRequest
from cplane.domain.policy.lookup import lookup
from cplane.domain.policy.mapstate import ANYONE, MapEntry, MapKey, MapState
from cplane.domain.policy.nearest import Candidates, Fits
from cplane.domain.policy.redirect import Request
from cplane.domain.policy.repository import AUDIT_PLANE, Repository
from cplane.domain.policy.resolve import DENY_LEVEL, Contribution, is_redirect, parser_of
from cplane.domain.policy.rule import AuthType, Term
from cplane.domain.verdict import Direction

_KAFKA_NAMES: Final = {number: name for name, number in API_KEYS.items()}
_LOCAL_HOST: Final = "the local host may always reach its endpoints"
_ENTRIES_MAX: Final = 1_000_000  # kept; beyond, all are forgotten and found again


class Denial(NamedTuple):
    """A default deny of `traffic`: who asks for it (or that nobody does), the other side, and the nearest rule."""

    traffic: Traffic
    asking: tuple[RuleHit, ...]
    whose: str
    other: str
    near: Nearest | None
    audited: bool

    def explain(self) -> Explanation:
        """The verdict."""
        near = self.near
        if near is not None and near.traffic is not self.traffic:
            near = near._replace(traffic=self.traffic)
        reason = f"{self.whose} {self.traffic} {self.other}{f'; the nearest is {near}' if near is not None else ''}"
        found = Explanation(Outcome.DENIED, reason, self.asking, nearest=near)
        return _as_audited(found) if self.audited else found


@dataclass(frozen=True, slots=True)
class Case:
    """What policy makes of traffic between two, whatever is asked over it.

    `packets` is the verdict where nothing is asked. `heeded` is all that a proxy heeds when it judges a request; none
    where no proxy has the traffic. `strict` is the case if the policies `audits`, which only audit, were enforced.
    `denial` is there where no rule has decided.
    """

    packets: Explanation
    heeded: tuple[Contribution, ...] = ()
    strict: "Case | None" = None
    audits: str = ""
    denial: Denial | None = None

    def at(self, traffic: Traffic) -> "Case":
        """The case for a port that no rule tells from the one that it was made for (`port_edges`)."""
        if self.denial is not None:
            if self.denial.traffic == traffic:
                return self
            denial = self.denial._replace(traffic=traffic)
            return Case(denial.explain(), denial=denial)
        if self.strict is not None and self.strict.denial is not None:
            return replace(self, strict=self.strict.at(traffic))
        return self

    @property
    def depends_on_requests(self) -> bool:
        """Whether what is asked can make a difference."""
        return bool(self.heeded) or (self.strict is not None and self.strict.depends_on_requests)

    def explain(self, request: Request | None = None) -> Explanation:
        """The verdict on a request; None: on packets, where `l7` says that a proxy will judge what is asked."""
        found = self.packets if request is None or not self.heeded else _judged(self.heeded, self.packets, request)
        if self.strict is None or found.verdict is not Outcome.ALLOWED:
            return found
        strict = self.strict.explain(request)
        l7 = found.l7 or strict.l7
        if strict.verdict is Outcome.ALLOWED:
            return found if found.l7 == l7 else replace(found, l7=l7)
        reason = f"passes, as {self.audits} only audits: {strict.reason}"
        return replace(strict, verdict=Outcome.AUDIT, reason=reason, l7=l7)


_HOST_REACHES: Final = Case(Explanation(Outcome.ALLOWED, _LOCAL_HOST))
_NOT_ENFORCED: Final = {
    one: Case(Explanation(Outcome.ALLOWED, f"not enforced: no policy asks for default deny of {one.name.lower()}"))
    for one in Direction
}


def explain(
    repository: Repository,
    subject: int,
    peer: PeerIdentity,
    traffic: Traffic,
    request: Request | None = None,
    *,
    audited: bool = False,
) -> Explanation:
    """The verdict on traffic between a subject of the repository and a peer, with its reason.

    `request` is what would be asked over the connection; without one, what a proxy would judge is allowed with `l7`.
    `audited`: the endpoint as a whole is, so it gets packets that are denied it; a proxy refuses requests all the same.
    """
    return Judge(repository).case_of(subject, peer, traffic, audited=audited).explain(request)


class Judge:
    """The cases of one repository, which stays as it is; what many of them have in common is found once."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._entries: dict[int, dict[MapKey, MapEntry | None]] = {}
        self._told: dict[tuple[int, MapKey], Case] = {}
        self._lengths: dict[tuple[int, Direction], tuple[int, ...]] = {}
        self._denials: dict[tuple[int, Direction], tuple[tuple[RuleHit, ...], str, Candidates]] = {}
        self._fits = Fits()
        self._audits: dict[int, str] = {}
        self._others: dict[tuple[int, Direction], str] = {}
        self._open: dict[tuple[int, Direction], bool] = {}

    def open_case(self, subject: int, direction: Direction) -> Case | None:
        """The case for every peer and port, where no rule says anything of the direction and nobody enforces it."""
        place = subject, direction
        is_open = self._open.get(place)
        if is_open is None:
            planes = (self._repository.state(number) for number in (subject, subject | AUDIT_PLANE))
            said = (one for resolved in self._repository.about(subject) for one in resolved.contributions)
            is_open = not any(one is not None and one.is_enforced(direction) for one in planes)
            is_open = is_open and all(one.direction != direction for one in said)
            self._open[place] = is_open
        return _NOT_ENFORCED[direction] if is_open else None

    def case_of(self, subject: int, peer: PeerIdentity, traffic: Traffic, *, audited: bool = False) -> Case:
        """The case for `explain`, for asking more than once."""
        state, plane = self._repository.state(subject), self._repository.state(subject | AUDIT_PLANE)
        assert state is not None, f"no policy of subject {subject}"
        found = self._case(subject, state, peer, traffic)
        if found.packets.verdict is Outcome.DENIED:
            if not audited:
                return found
            denial = found.denial._replace(audited=True) if found.denial is not None else None
            return Case(_as_audited(found.packets), denial=denial)
        if plane is None:
            return found
        audits = self._audits.get(subject)
        if audits is None:
            refs = sorted({one.ref for one in self._repository.about(subject) if one.audit})
            audits = self._audits[subject] = listed(refs, many="policies")
        return replace(found, strict=self._case(subject | AUDIT_PLANE, plane, peer, traffic), audits=audits)

    def _case(self, number: int, state: MapState, peer: PeerIdentity, traffic: Traffic) -> Case:
        """The case by one map state; `number` is that of the subject, or of its audit plane."""
        place = number, traffic.direction
        lengths = self._lengths.get(place)
        if lengths is None:
            lengths = self._lengths[place] = state.lengths(traffic.direction)
        kept = self._entries.setdefault(number, {})

        def entry_of(key: MapKey) -> MapEntry | None:
            if key in kept:
                return kept[key]
            if len(kept) >= _ENTRIES_MAX:
                kept.clear()
            entry = kept[key] = state.entry(key)
            return entry

        # Nobody looks for entries of a peer that has none, which most peers have of most subjects.
        identity = peer.number if state.names(peer.number, traffic.direction) else ANYONE
        decision = lookup(entry_of, identity, *traffic, lengths=lengths)
        if decision.key is None:
            denial = self._default_deny(number, state, peer, traffic)
            return Case(denial.explain(), denial=denial)
        if decision.auth_type:
            return Case(_unproven(state, peer, traffic, decision.auth_type))
        if decision.proxied:
            return _proxied(state, peer, traffic, parser_of(state.makers(decision.key)))
        told = self._told.get((number, decision.key))
        if told is not None:
            return told
        found = hits(state.makers(decision.key))
        if not found:
            is_open_host = _is_local_host(peer, traffic) and state.is_enforced(traffic.direction)
            return _HOST_REACHES if is_open_host else _NOT_ENFORCED[traffic.direction]
        denied = decision.reason is not None
        verdict, word = (Outcome.DENIED, "denied") if denied else (Outcome.ALLOWED, "allowed")
        told = Case(Explanation(verdict, f"{word} by {listed(found, many='rules')}", found))
        if len(self._told) >= _ENTRIES_MAX:
            self._told.clear()
        self._told[number, decision.key] = told
        return told

    def _default_deny(self, number: int, state: MapState, peer: PeerIdentity, traffic: Traffic) -> Denial:
        place = number, traffic.direction
        found = self._denials.get(place)
        if found is None:
            asking = demands(state.demanding(traffic.direction))
            who = listed((one.ref for one in asking), many="policies")
            whose = f"no rule of {who} allows" if asking else f"{_word(traffic)} is enforced, and no policy allows"
            bound = (one for one in self._repository.about(number) if not one.audit or number & AUDIT_PLANE)
            found = asking, whose, Candidates(bound, traffic.direction, state.own_ports, self._fits)
            self._denials[place] = found
        asking, whose, candidates = found
        other = self._others.get((peer.number, traffic.direction))
        if other is None:
            if len(self._others) >= _ENTRIES_MAX:
                self._others.clear()
            other = f"{'from' if traffic.direction is Direction.INGRESS else 'to'} {peer}"
            self._others[peer.number, traffic.direction] = other
        return Denial(traffic, asking, whose, other, candidates.nearest(peer, traffic), audited=False)


def _as_audited(found: Explanation) -> Explanation:
    return replace(found, verdict=Outcome.AUDIT, reason=f"passes, as the endpoint is only audited: {found.reason}")


def _unproven(state: MapState, peer: PeerIdentity, traffic: Traffic, auth: int) -> Explanation:
    found = hits(one for one in state.covering(peer.number, *traffic) if one.auth == auth)
    mode = AuthType(auth).name.lower().replace("_", "-")
    who = listed(found, many="rules")
    return Explanation(
        Outcome.DENIED, f"authentication ({mode}) is required by {who}, and the peer has not been proven", found
    )


def _proxied(state: MapState, peer: PeerIdentity, traffic: Traffic, parser: str) -> Case:
    heeded = tuple(one for one in state.covering(peer.number, *traffic) if _counts(one, peer, traffic, parser))
    checks = [one for one in heeded if is_redirect(one.precedence)]
    parsers = " and ".join(dict.fromkeys(str(one.term.redirect) for one in checks if one.term is not None))
    found = hits(checks)
    reason = f"allowed as far as packets go by {listed(found, many='rules')}; a proxy ({parsers}) judges requests"
    return Case(Explanation(Outcome.ALLOWED, reason, found, l7=True), heeded)


def _judged(heeded: tuple[Contribution, ...], packets: Explanation, request: Request) -> Explanation:
    """What the proxy says: of all that allows the connection, one word for the request is enough."""
    passing = hits(one for one in heeded if one.term is not None and _lets_through(one.term, request))
    if passing:
        reason = f"{_shown(request)} is allowed by {listed(passing, many='rules')}"
        return Explanation(Outcome.ALLOWED, reason, passing, l7=True)
    if any(one.term is None for one in heeded):
        return Explanation(Outcome.ALLOWED, _LOCAL_HOST, l7=True)
    reason = f"{_shown(request)} is not allowed by {listed(packets.rules, many='rules')}"
    return Explanation(Outcome.DENIED, reason, packets.rules, l7=True)


def _counts(one: Contribution, peer: PeerIdentity, traffic: Traffic, parser: str) -> bool:
    """Whether the proxy that has the connection heeds it when it judges a request.

    That nobody asks for default deny does not open requests: their rules hold all the same. That the peer is the local
    host does. Source: Cilium's documentation of enableDefaultDeny and of allow-localhost.
    """
    if one.term is None:
        return _is_local_host(peer, traffic)
    if one.term.redirect is not None and not one.term.redirect.is_heeded_by(parser):
        return False
    return one.precedence & DENY_LEVEL != DENY_LEVEL


def _lets_through(term: Term, request: Request) -> bool:
    redirect = term.redirect
    if redirect is None:
        return True
    if redirect.server_names and isinstance(request, HttpRequest) and request.host:
        host = fqdn.canonical(request.host.partition(":")[0])
        if not any(regex.matches(fqdn.expression_of(name), host) for name in redirect.server_names):
            return False
    return redirect.rules is None or redirect.rules.allow(request)


def _is_local_host(peer: PeerIdentity, traffic: Traffic) -> bool:
    return peer.number == Reserved.HOST and traffic.direction is Direction.INGRESS


def _shown(request: Request) -> str:
    match request:
        case HttpRequest(method, path, host):
            return f"{method} {host}{path}"
        case KafkaRequest(api_key):
            topics = f" of topic {', '.join(request.topics)}" if request.topics else ""
            return f"{_KAFKA_NAMES.get(api_key, f'API key {api_key}')}{topics}"
        case str(name):
            return f"the name {name}"


def _word(traffic: Traffic) -> str:
    return traffic.direction.name.lower()
