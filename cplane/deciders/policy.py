"""Policies: several documents are applied or none, and the same holds for deletions."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self, TypeVar

from immutables import Map

from cplane.deciders.decider import Decision
from cplane.domain.ipam import Prefix
from cplane.domain.policy import CidrGroup, InvalidPolicy, Policy, PolicyRef, parse_text
from cplane.domain.policy.dns import DnsRule
from cplane.domain.policy.enforceability import notes
from cplane.domain.policy.rule import ServiceRef
from cplane.errors import NotFound, Rejected
from cplane.events.envelope import POLICY
from cplane.events.policy import PolicyDeleted, PolicyUpserted

T = TypeVar("T")

PREFIXES_MAX: Final = 16_384  # of one call: each gets an identity, and while it does nobody else is served


class TooManyPrefixes(Rejected):
    """The policies of one call name more prefixes than it may."""

    code = "policy.too_many_prefixes"

    def __init__(self, named: int) -> None:
        self.named = named

    def __str__(self) -> str:
        return (
            f"these policies name {self.named} prefixes, and one call takes {PREFIXES_MAX}: "
            f"split it, or write wider prefixes; nothing was changed"
        )


class InvalidDocuments(Rejected):
    """At least one document is not a policy that can be enforced as written; `errors` are (document, path, message).

    Documents count from 0, in the order of the command.
    """

    code = "policy.invalid"

    def __init__(self, errors: tuple[tuple[int, str, str], ...]) -> None:
        self.errors = errors

    def __str__(self) -> str:
        return "; ".join(f"document {index + 1}, {path}: {message}" for index, path, message in self.errors)


class NoSuchPolicy(NotFound):
    """A policy that was asked for does not exist; `others` exist, under the same name elsewhere."""

    code = "policy.not_found"

    def __init__(self, refs: tuple[PolicyRef, ...], others: tuple[PolicyRef, ...] = ()) -> None:
        self.refs, self.others = refs, others

    @classmethod
    def of(cls, refs: tuple[PolicyRef, ...], held: Iterable[PolicyRef]) -> Self:
        """With the policies held that were perhaps meant."""
        names = {ref.name for ref in refs}
        return cls(refs, tuple(sorted(ref for ref in held if ref.name in names)))

    def __str__(self) -> str:
        advice = f"; there is {', '.join(map(str, self.others))}" if self.others else ""
        return f"no such policy: {', '.join(map(str, self.refs))}{advice}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyPolicies:
    """Every document (the canonical JSON text of one object) reads so from now on."""

    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletePolicies:
    """None of these exists any more."""

    refs: tuple[PolicyRef, ...]


@dataclass(frozen=True, slots=True)
class PolicyState:
    """`documents` and `policies` (or groups) by name; how many name each prefix outside, service and DNS name."""

    documents: Map[PolicyRef, str] = field(default_factory=Map)
    policies: Map[PolicyRef, Policy | CidrGroup] = field(default_factory=Map)
    prefixes: Map[Prefix, int] = field(default_factory=Map)
    services: Map[ServiceRef, int] = field(default_factory=Map)
    names: Map[DnsRule, int] = field(default_factory=Map)


def decide_apply(command: ApplyPolicies, state: PolicyState, cluster: str) -> Decision:
    """One PolicyUpserted for each document that differs from what is held."""
    errors: list[tuple[int, str, str]] = []
    parsed: list[tuple[PolicyRef, str]] = []
    prefixes: set[Prefix] = set()
    for index, text in enumerate(command.documents):
        try:
            policy = parse_text(text, cluster=cluster)
        except InvalidPolicy as invalid:
            errors.extend((index, error.path, error.message) for error in invalid.errors)
            continue
        parsed.append((policy.ref, text))
        prefixes.update(policy.cidrs())
        if isinstance(policy, Policy):
            errors.extend((index, note.path, note.message) for note in notes(policy.rules) if note.refused)
    if not errors:  # then documents and what was parsed are numbered alike
        counts = Counter(ref for ref, _ in parsed)
        errors = [
            (index, "metadata.name", f"{ref} stands in this call more than once: keep one of them")
            for index, (ref, _) in enumerate(parsed)
            if counts[ref] > 1
        ]
    if errors:
        raise InvalidDocuments(tuple(errors))
    if len(prefixes) > PREFIXES_MAX:
        raise TooManyPrefixes(len(prefixes))
    return tuple(
        (POLICY, PolicyUpserted(kind=ref.kind, namespace=ref.namespace, name=ref.name, document=text))
        for ref, text in parsed
        if state.documents.get(ref) != text
    )


def decide_delete(command: DeletePolicies, state: PolicyState) -> Decision:
    """One PolicyDeleted for each; refused when one of them does not exist."""
    missing = tuple(ref for ref in command.refs if ref not in state.documents)
    if missing:
        raise NoSuchPolicy.of(missing, state.documents)
    return tuple(
        (POLICY, PolicyDeleted(kind=ref.kind, namespace=ref.namespace, name=ref.name))
        for ref in dict.fromkeys(command.refs)
    )


def evolve(state: PolicyState, event: PolicyUpserted | PolicyDeleted, cluster: str) -> PolicyState:
    """The state after one more fact."""
    ref = PolicyRef(event.kind, event.namespace, event.name)
    prefixes, services, names = state.prefixes, state.services, state.names
    held = state.policies.get(ref)
    if held is not None:
        prefixes, services = _count(prefixes, held.cidrs(), -1), _count(services, held.services(), -1)
        names = _count(names, held.names(), -1)
    if isinstance(event, PolicyDeleted):
        if held is None:
            return state
        return PolicyState(state.documents.delete(ref), state.policies.delete(ref), prefixes, services, names)
    policy = parse_text(event.document, cluster=cluster)
    return PolicyState(
        state.documents.set(ref, event.document),
        state.policies.set(ref, policy),
        _count(prefixes, policy.cidrs(), +1),
        _count(services, policy.services(), +1),
        _count(names, policy.names(), +1),
    )


def _count(counts: Map[T, int], named: Iterable[T], step: int) -> Map[T, int]:
    for one in named:
        count = counts.get(one, 0) + step
        counts = counts.set(one, count) if count > 0 else counts.delete(one)
    return counts
