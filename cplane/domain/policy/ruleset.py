"""The rules that are in force, found by whom they are about and by the peers they name."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from cplane.domain.policy.directory import Directory
from cplane.domain.policy.resolve import Contribution, ResolvedRule, release, resolve
from cplane.domain.policy.rule import GroupRef, Policy, PolicyRef, Rule, ServiceRef
from cplane.domain.policy.selectorcache import CachedSelector, SelectorCache

T = TypeVar("T")

_NONE: Final[Mapping[ResolvedRule, None]] = {}


class RuleChange(NamedTuple):
    """Rules that came and rules that went; the selectors of both still have their numbers."""

    added: Sequence[ResolvedRule] = ()
    removed: Sequence[ResolvedRule] = ()


class RuleSet:
    """`revision` starts at 1 and grows with every change. The caches and the directory are kept by the owner."""

    def __init__(self, *, subjects: SelectorCache, peers: SelectorCache, directory: Directory) -> None:
        self.revision = 1
        self._subjects, self._peers, self._directory = subjects, peers, directory
        self._referring: dict[PolicyRef, Policy] = {}  # policies that name groups or services
        self._by_policy: dict[PolicyRef, tuple[ResolvedRule, ...]] = {}
        self._by_subject: dict[CachedSelector, dict[ResolvedRule, None]] = {}
        self._by_peer: dict[CachedSelector, dict[Contribution, None]] = {}

    def upsert(self, policy: Policy) -> RuleChange:
        """The policy has these rules and no others; those that it had before stay as they are."""
        held = {
            resolved.rule: resolved
            for resolved in self._by_policy.get(policy.ref, ())
            if resolved.audit == policy.audit
        }
        replaced = [one for one in self._by_policy.get(policy.ref, ()) if one.audit != policy.audit]
        if any(isinstance(peer, GroupRef | ServiceRef) for peer in policy.peers()):
            self._referring[policy.ref] = policy
        else:
            self._referring.pop(policy.ref, None)
        now, added = [], []
        for rule in policy.rules:
            resolved = held.pop(rule, None)
            if resolved is None:
                resolved = self._resolve(policy, rule)
                added.append(resolved)
            now.append(resolved)
        gone = (*replaced, *held.values())
        if not added and not gone:
            return RuleChange()
        self._by_policy[policy.ref] = tuple(now)
        self._index(added)
        self._forget(gone)
        self.revision += 1
        return RuleChange(added, gone)

    def delete(self, ref: PolicyRef) -> RuleChange:
        """The policy has no rules any more."""
        removed = self._by_policy.pop(ref, ())
        self._referring.pop(ref, None)
        if removed:
            self._forget(removed)
            self.revision += 1
        return RuleChange(removed=removed)

    def refer_again(self) -> RuleChange:
        """The directory has changed: rules that refer to it are resolved anew."""
        added: list[ResolvedRule] = []
        removed: list[ResolvedRule] = []
        for ref, policy in self._referring.items():
            removed.extend(self._by_policy[ref])
            now = tuple(self._resolve(policy, rule) for rule in policy.rules)
            self._by_policy[ref] = now
            added.extend(now)
        self._index(added)
        self._forget(removed)
        return RuleChange(added, removed)

    def of(self, ref: PolicyRef) -> tuple[ResolvedRule, ...]:
        """The rules of a policy, in their order; none where it does not exist."""
        return self._by_policy.get(ref, ())

    def about(self, selecting: Iterable[CachedSelector]) -> Iterable[ResolvedRule]:
        """The rules whose subject is one of these selectors."""
        for cached in selecting:
            yield from self._by_subject.get(cached, _NONE)

    def naming(self, peer: CachedSelector) -> Iterable[Contribution]:
        """What rules contribute for the peers of this selector."""
        return self._by_peer.get(peer, ())

    def _resolve(self, policy: Policy, rule: Rule) -> ResolvedRule:
        return resolve(
            policy.ref,
            rule,
            audit=policy.audit,
            directory=self._directory,
            subjects=self._subjects,
            peers=self._peers,
        )

    def _index(self, rules: Iterable[ResolvedRule]) -> None:
        for resolved in rules:
            self._by_subject.setdefault(resolved.subject, {})[resolved] = None
            for one in resolved.contributions:
                if one.peer is not None:
                    self._by_peer.setdefault(one.peer, {})[one] = None

    def _forget(self, rules: Iterable[ResolvedRule]) -> None:
        for resolved in rules:
            _drop(self._by_subject, resolved.subject, resolved)
            for one in resolved.contributions:
                if one.peer is not None:
                    _drop(self._by_peer, one.peer, one)
            release(resolved, subjects=self._subjects, peers=self._peers)


def _drop(index: dict[CachedSelector, dict[T, None]], key: CachedSelector, value: T) -> None:
    bucket = index[key]
    del bucket[value]
    if not bucket:
        del index[key]
