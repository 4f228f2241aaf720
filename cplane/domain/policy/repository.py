"""All policy of a node: identities, rules and subjects come and go, and every map state follows."""

from collections.abc import Iterator
from typing import Final

from cplane.domain.cidr import Prefix
from cplane.domain.identity import Reserved
from cplane.domain.labels import RESERVED, Label, LabelSet
from cplane.domain.policy.mapstate import MapState
from cplane.domain.policy.rule import Policy, PolicyRef
from cplane.domain.policy.ruleset import RuleChange, RuleSet
from cplane.domain.policy.selectorcache import SelectorCache

_INIT: Final = Label(Reserved.INIT.label_key, RESERVED)


class Repository:
    """Map states of subjects, which are identities that endpoints here have. What changed in them is in `changed`."""

    def __init__(self) -> None:
        self._peers = SelectorCache()
        self._subjects = SelectorCache()
        self._rules = RuleSet(subjects=self._subjects, peers=self._peers)
        self._states: dict[int, MapState] = {}
        self._changed: dict[int, None] = {}

    @property
    def revision(self) -> int:
        """Grows with every change of the rules."""
        return self._rules.revision

    def state(self, subject: int) -> MapState | None:
        """The map state of a subject, to be read."""
        return self._states.get(subject)

    def changed(self) -> Iterator[tuple[int, MapState]]:
        """Subjects whose state may have changed since the last call."""
        changed, self._changed = self._changed, {}
        for subject in changed:
            state = self._states.get(subject)
            if state is not None:
                yield subject, state

    def add_identity(self, number: int, labels: LabelSet, prefix: Prefix | None = None) -> None:
        """An identity exists, as a peer; `prefix`: what it stands for outside the cluster."""
        for selector in self._peers.add(number, labels, prefix):
            for one in self._rules.naming(selector):
                assert one.subject is not None, "a rule has a subject"
                for subject in one.subject.numbers:
                    self._states[subject].put(one, (number,))
                    self._changed[subject] = None

    def remove_identity(self, number: int) -> None:
        """An identity does not exist any more."""
        for selector in self._peers.remove(number):
            for one in self._rules.naming(selector):
                assert one.subject is not None, "a rule has a subject"
                for subject in one.subject.numbers:
                    self._states[subject].take(one, (number,))
                    self._changed[subject] = None

    def add_subject(self, number: int, labels: LabelSet) -> None:
        """An identity has its first endpoint here. One without labels yet is never without default deny."""
        state = self._states[number] = MapState(enforced=_INIT in labels)
        self._changed[number] = None
        for resolved in self._rules.about(self._subjects.add(number, labels)):
            state.add_rule(resolved)

    def remove_subject(self, number: int) -> MapState | None:
        """An identity has no endpoint here any more; its last state."""
        self._subjects.remove(number)
        self._changed.pop(number, None)
        return self._states.pop(number, None)

    def upsert(self, policy: Policy) -> None:
        """The policy has these rules."""
        self._follow(self._rules.upsert(policy))

    def delete(self, ref: PolicyRef) -> None:
        """The policy has no rules any more."""
        self._follow(self._rules.delete(ref))

    def _follow(self, change: RuleChange) -> None:
        for resolved in change.added:
            for subject in resolved.subject.numbers:
                self._states[subject].add_rule(resolved)
                self._changed[subject] = None
        for resolved in change.removed:
            for subject in resolved.subject.numbers:
                self._states[subject].remove_rule(resolved)
                self._changed[subject] = None
