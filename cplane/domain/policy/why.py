"""Why traffic between a subject and a peer has its verdict: the lookup's decision, and whose word it was.

There is no second reading of rules here. The verdict on packets is that of `lookup` over the subject's map state, and
what a proxy would do with a request follows from what the same state says of the same traffic.
"""

from collections.abc import Iterable
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
from cplane.domain.policy.mapstate import MapState
from cplane.domain.policy.nearest import nearest
from cplane.domain.policy.redirect import Request
from cplane.domain.policy.repository import AUDIT_PLANE, Repository
from cplane.domain.policy.resolve import DENY_LEVEL, Contribution, ResolvedRule, is_redirect
from cplane.domain.policy.rule import AuthType, Term
from cplane.domain.verdict import Direction

_KAFKA_NAMES: Final = {number: name for name, number in API_KEYS.items()}
_LOCAL_HOST: Final = "the local host may always reach its endpoints"


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
        near = self.near._replace(traffic=self.traffic) if self.near is not None else None
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
    return case_of(repository, subject, peer, traffic, audited=audited).explain(request)


def case_of(
    repository: Repository, subject: int, peer: PeerIdentity, traffic: Traffic, *, audited: bool = False
) -> Case:
    """The case for `explain`, for asking more than once; it holds while the repository does not change."""
    state, plane = repository.state(subject), repository.state(subject | AUDIT_PLANE)
    assert state is not None, f"no policy of subject {subject}"
    found = _case(repository, subject, state, peer, traffic)
    if found.packets.verdict is Outcome.DENIED:
        if not audited:
            return found
        denial = found.denial._replace(audited=True) if found.denial is not None else None
        return Case(_as_audited(found.packets), denial=denial)
    if plane is None:
        return found
    audits = sorted({one.ref for one in repository.about(subject) if one.audit})
    strict = _case(repository, subject | AUDIT_PLANE, plane, peer, traffic)
    return replace(found, strict=strict, audits=listed(audits, many="policies"))


def _case(repository: Repository, number: int, state: MapState, peer: PeerIdentity, traffic: Traffic) -> Case:
    """The case by one map state; `number` is that of the subject, or of its audit plane."""
    decision = lookup(state.entry, peer.number, *traffic, lengths=state.lengths(traffic.direction))
    if decision.key is None:
        bound = (one for one in repository.about(number) if not one.audit or number & AUDIT_PLANE)
        denial = _default_deny(state, bound, peer, traffic)
        return Case(denial.explain(), denial=denial)
    entry = state.entry(decision.key)
    assert entry is not None, "the entry that decided is there"
    if decision.auth_type:
        return Case(_unproven(state, peer, traffic, decision.auth_type))
    if is_redirect(entry.precedence):
        return _proxied(state, peer, traffic)
    found = hits(state.makers(decision.key))
    if entry.deny:
        return Case(Explanation(Outcome.DENIED, f"denied by {listed(found, many='rules')}", found))
    if found:
        return Case(Explanation(Outcome.ALLOWED, f"allowed by {listed(found, many='rules')}", found))
    if _is_local_host(peer, traffic) and state.is_enforced(traffic.direction):
        return Case(Explanation(Outcome.ALLOWED, _LOCAL_HOST))
    return Case(Explanation(Outcome.ALLOWED, f"not enforced: no policy asks for default deny of {_word(traffic)}"))


def _default_deny(state: MapState, rules: Iterable[ResolvedRule], peer: PeerIdentity, traffic: Traffic) -> Denial:
    asking = demands(state.demanding(traffic.direction))
    who = listed((one.ref for one in asking), many="policies")
    whose = f"no rule of {who} allows" if asking else f"{_word(traffic)} is enforced, and no policy allows"
    other = f"{'from' if traffic.direction is Direction.INGRESS else 'to'} {peer}"
    return Denial(traffic, asking, whose, other, nearest(rules, peer, traffic, state.own_ports), audited=False)


def _as_audited(found: Explanation) -> Explanation:
    return replace(found, verdict=Outcome.AUDIT, reason=f"passes, as the endpoint is only audited: {found.reason}")


def _unproven(state: MapState, peer: PeerIdentity, traffic: Traffic, auth: int) -> Explanation:
    found = hits(one for one in state.covering(peer.number, *traffic) if one.auth == auth)
    mode = AuthType(auth).name.lower().replace("_", "-")
    who = listed(found, many="rules")
    return Explanation(
        Outcome.DENIED, f"authentication ({mode}) is required by {who}, and the peer has not been proven", found
    )


def _proxied(state: MapState, peer: PeerIdentity, traffic: Traffic) -> Case:
    heeded = tuple(one for one in state.covering(peer.number, *traffic) if _counts(one, peer, traffic))
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


def _counts(one: Contribution, peer: PeerIdentity, traffic: Traffic) -> bool:
    """Whether a proxy that has the connection heeds it when it judges a request.

    That nobody asks for default deny does not open requests: their rules hold all the same. That the peer is the local
    host does. Source: Cilium's documentation of enableDefaultDeny and of allow-localhost.
    """
    if one.term is None:
        return _is_local_host(peer, traffic)
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
