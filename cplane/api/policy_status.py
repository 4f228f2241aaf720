"""What became of policies: whom each rule is about, whom it lets in, and whether that is enforced as it is written."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from cplane.api.ports import Engine
from cplane.deciders.config import Options
from cplane.deciders.world import World
from cplane.domain.policy import CidrGroup, PolicyRef
from cplane.domain.policy.enforceability import notes
from cplane.domain.policy.mapstate import Origin
from cplane.domain.policy.parse import AUDIT_ANNOTATION
from cplane.domain.policy.repository import Enforcement
from cplane.domain.policy.resolve import Contribution, ResolvedRule
from cplane.domain.policy.rule import Term
from cplane.domain.selectors import LabelSelector
from cplane.domain.verdict import Direction
from cplane.pb.cplane.admin import v1 as pb
from cplane.projections.policymap import PolicyMapProjection
from cplane.projections.redirects import RedirectKey

_NEVER: Final = "PolicyEnforcement is never: rules bind nobody"
_AUDITED_BY_AGENT: Final = "PolicyAuditMode of the agent is Enabled"
_AUDITED_BY_POLICY: Final = f"the annotation {AUDIT_ANNOTATION} is true"


class Finding(NamedTuple):
    """Whether something is enforced as it is written, and why not."""

    enforcement: pb.Enforcement
    reasons: tuple[str, ...] = ()


def entries_by_cookie(cookies: Iterable[int]) -> Mapping[int, int]:
    """How many rows have each cookie. Takes a second for millions, so it is for a thread."""
    return Counter(cookies)


def entries_by_origin(policies: PolicyMapProjection, by_cookie: Mapping[int, int]) -> Mapping[Origin, int]:
    """How many rows say what each term says, alone or with others."""
    found: Counter[Origin] = Counter()
    for cookie, count in by_cookie.items():
        for origin in policies.origins(cookie):
            found[origin] += count
    return found


def proxy_problems(policies: PolicyMapProjection, problems: Mapping[int, str]) -> Mapping[Origin, tuple[str, ...]]:
    """What proxies say of terms; `problems` are told by proxy port."""
    redirections = policies.redirections()
    found: dict[Origin, dict[str, None]] = {}
    for port, problem in sorted(problems.items()):
        redirection = redirections.get(RedirectKey(port))
        for rule in redirection.rules if redirection is not None else ():
            if rule.ref is not None and rule.redirect is not None:
                found.setdefault(Origin(str(rule.ref), rule.path), {})[f"{problem} (proxy port {port})"] = None
    return {origin: tuple(texts) for origin, texts in found.items()}


class PolicyStatuses:
    """Statuses of policies at the moment when it is made; `entries` are counted by `entries_by_origin`.

    `problems`: by proxy port, why requests there are not judged as they should be.
    """

    def __init__(self, engine: Engine, entries: Mapping[Origin, int], problems: Mapping[int, str]) -> None:
        self._world: World = engine.world
        self._policies = engine.policies
        self._entries = entries
        self._problems = proxy_problems(engine.policies, problems)

    def of(self, ref: PolicyRef) -> pb.PolicyStatus:
        """One policy or group, which exists."""
        held = self._world.policies[ref]
        named = pb.PolicyRef(kind=ref.kind, namespace=ref.namespace, name=ref.name)
        if isinstance(held, CidrGroup):
            return pb.PolicyStatus(ref=named, prefixes=len(held.prefixes))
        rules = [self._rule(one) for one in self._policies.rules_of(ref)]
        return pb.PolicyStatus(ref=named, audit=held.audit, rules=rules)

    def _rule(self, resolved: ResolvedRule) -> pb.RuleStatus:
        rule = resolved.rule
        endpoints = {one for number in resolved.subject.numbers for one in self._policies.obeying(number)}
        told: dict[str, list[str]] = {}
        for note in notes((rule,)):
            told.setdefault(note.path, []).append(note.message)
        terms = {term.path: told.pop(term.path, []) for term in rule.terms}
        finding = self._finding(resolved, [message for messages in told.values() for message in messages])
        return pb.RuleStatus(
            path=rule.path,
            endpoints=len(endpoints),
            audited_endpoints=sum(1 for one in endpoints if self._world.endpoints[one].audit),
            default_deny=[Direction(one).name.lower() for one in resolved.demands],
            enforcement=finding.enforcement,
            reasons=[*finding.reasons],
            terms=[self._term(resolved, term, terms[term.path]) for term in rule.terms],
        )

    def _term(self, resolved: ResolvedRule, term: Term, told: Sequence[str]) -> pb.TermStatus:
        peers, anyone = _peers(one for one in resolved.contributions if one.term is term)
        origin = Origin(str(resolved.ref), term.path)
        finding = self._finding(resolved, (*told, *self._problems.get(origin, ())))
        return pb.TermStatus(
            path=term.path,
            direction=term.direction.name.lower(),
            deny=term.deny,
            peers=peers,
            anyone=anyone,
            entries=self._entries.get(origin, 0),
            enforcement=finding.enforcement,
            reasons=[*finding.reasons],
        )

    def _finding(self, resolved: ResolvedRule, told: Sequence[str]) -> Finding:
        options: Options = self._world.options
        if options.policy_enforcement is Enforcement.NEVER:
            return Finding(pb.Enforcement.NOT_ENFORCED, (_NEVER, *told))
        audits = (*((_AUDITED_BY_POLICY,) if resolved.audit else ()), *_agent_audit(options))
        if told:
            return Finding(pb.Enforcement.NOT_ENFORCED, (*told, *audits))
        return Finding(pb.Enforcement.AUDITED, audits) if audits else Finding(pb.Enforcement.ENFORCED)


def _agent_audit(options: Options) -> Iterator[str]:
    if options.policy_audit:
        yield _AUDITED_BY_AGENT


def _peers(contributions: Iterable[Contribution]) -> tuple[int, bool]:
    """How many identities, and whether it is about anyone."""
    numbers: set[int] = set()
    anyone = False
    for one in contributions:
        if one.peer is None:
            anyone = True
        else:
            numbers |= one.peer.numbers
            anyone |= isinstance(one.peer.selector, LabelSelector) and one.peer.selector.is_wildcard
    return len(numbers), anyone
