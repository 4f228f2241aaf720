"""All policy of a node: identities, rules and subjects come and go, and every map state follows."""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final, TypeVar

from cplane.domain.cidr import Prefix
from cplane.domain.identity import Reserved
from cplane.domain.labels import RESERVED, Label, LabelSet
from cplane.domain.policy.directory import Directory, Service
from cplane.domain.policy.mapstate import MapEntry, MapKey, MapState
from cplane.domain.policy.resolve import Contribution, ResolvedRule
from cplane.domain.policy.rule import CidrGroup, Policy, PolicyRef
from cplane.domain.policy.ruleset import RuleChange, RuleSet
from cplane.domain.policy.selectorcache import SelectorCache
from cplane.domain.ports import NamedPorts

AUDIT_PLANE: Final = 1 << 31
"""Added to a subject's number: its policy with the rules that are only audited."""

T = TypeVar("T")

_INIT: Final = Label(Reserved.INIT.label_key, RESERVED)
_NO_PORTS: Final[NamedPorts] = frozenset()


class Enforcement(StrEnum):
    """Which endpoints have default deny: those that a rule is about, all, or none, whom rules do not bind either."""

    DEFAULT = "default"
    ALWAYS = "always"
    NEVER = "never"

    @classmethod
    def read(cls, text: str) -> "Enforcement":
        """The mode that an event names; one that is not known any more is the one that allows least."""
        return cls(text) if text in set(cls) else cls.ALWAYS


class Repository:
    """Map states of subjects, which are endpoints with the same identity and ports here.

    A rule that is only audited is in the subject's audit plane, beside all others, and nowhere else.
    """

    def __init__(self, enforcement: Enforcement = Enforcement.DEFAULT) -> None:
        self._enforcement = enforcement
        self._peers = SelectorCache()
        self._subjects = SelectorCache()
        self._directory = Directory()
        self._rules = RuleSet(subjects=self._subjects, peers=self._peers, directory=self._directory)
        self._ports: dict[int, NamedPorts] = {}
        self._labels: dict[int, LabelSet] = {}  # of subjects
        self._states: dict[int, MapState] = {}
        self._audited: dict[int, dict[ResolvedRule, None]] = {}  # subject → rules about it that are only audited
        self._changed: dict[int, None] = {}
        self._gone: dict[tuple[int, MapKey], None] = {}

    @property
    def revision(self) -> int:
        """Grows with every change of the rules."""
        return self._rules.revision

    def state(self, subject: int) -> MapState | None:
        """The map state of a subject, or of its audit plane, to be read."""
        return self._states.get(subject)

    def subjects(self) -> Iterable[int]:
        """Every subject that there is."""
        return self._labels

    def rules_of(self, ref: PolicyRef) -> tuple[ResolvedRule, ...]:
        """The rules of a policy, in their order, whether they bind anybody or not."""
        return self._rules.of(ref)

    def about(self, subject: int) -> tuple[ResolvedRule, ...]:
        """The rules about a subject, those that are only audited too; none while rules bind nobody."""
        return tuple(self._about(self._rules.about(self._subjects.selecting(subject & ~AUDIT_PLANE))))

    def changes(self) -> Iterator[tuple[int, MapKey, MapEntry | None]]:
        """Every key of every state whose entry may differ since the last call, and what it holds now."""
        gone, self._gone = self._gone, {}
        for subject, key in gone:
            state = self._states.get(subject)
            yield subject, key, state.entry(key) if state is not None else None
        changed, self._changed = self._changed, {}
        for subject in changed:
            state = self._states.get(subject)
            if state is not None:
                for key, entry in state.changes():
                    yield subject, key, entry

    def add_identity(self, number: int, labels: LabelSet, prefix: Prefix | None = None) -> None:
        """An identity exists, as a peer; `prefix`: what it stands for outside the cluster."""
        for selector in self._peers.add(number, labels, prefix):
            for one in self._rules.naming(selector):
                for state in self._obeying(one):
                    state.put(one, (number,))

    def remove_identity(self, number: int) -> None:
        """An identity does not exist any more."""
        for selector in self._peers.remove(number):
            for one in self._rules.naming(selector):
                for state in self._obeying(one):
                    state.take(one, (number,))

    def set_ports(self, number: int, ports: NamedPorts) -> None:
        """Endpoints with this identity have these named ports, all of them together."""
        if self._ports.get(number, _NO_PORTS) == ports:
            return
        again = [
            (subject, state, named) for subject, state in self._states.items() if (named := state.named_at(number))
        ]
        for _, state, named in again:
            for one in named:
                state.take(one, (number,))
        if ports:
            self._ports[number] = ports
        else:
            self._ports.pop(number, None)
        for subject, state, named in again:
            self._changed[subject] = None
            for one in named:
                state.put(one, (number,))

    def add_subject(self, number: int, labels: LabelSet, ports: NamedPorts = _NO_PORTS) -> None:
        """A subject has its first endpoint here. One without labels yet is never without default deny."""
        self._labels[number] = labels
        state = self._make(number, ports)
        audited = self._audited[number] = {}
        for resolved in self._about(self._rules.about(self._subjects.add(number, labels))):
            if resolved.audit:
                audited[resolved] = None
            else:
                state.add_rule(resolved)
        self._settle_audit(number)

    def remove_subject(self, number: int) -> None:
        """A subject has no endpoint here any more."""
        self._subjects.remove(number)
        del self._labels[number], self._audited[number]
        for subject in (number, number | AUDIT_PLANE):
            self._drop(subject)

    def upsert(self, policy: Policy) -> None:
        """The policy has these rules."""
        self._follow(self._rules.upsert(policy))

    def delete(self, ref: PolicyRef) -> None:
        """The policy has no rules any more."""
        self._follow(self._rules.delete(ref))

    def set_group(self, name: str, group: CidrGroup | None) -> None:
        """The group of that name; None: there is none."""
        self._directory.set_group(name, group)
        self._follow(self._rules.refer_again())

    def set_service(self, service: Service) -> None:
        """The service exists like this."""
        self._directory.set_service(service)
        self._follow(self._rules.refer_again())

    def set_enforcement(self, enforcement: Enforcement) -> None:
        """Which endpoints have default deny from now on."""
        if enforcement is self._enforcement:
            return
        self._enforcement = enforcement
        for number, labels in tuple(self._labels.items()):
            ports = self._states[number].own_ports
            self.remove_subject(number)
            self.add_subject(number, labels, ports)

    def _make(self, number: int, ports: NamedPorts) -> MapState:
        init = _INIT in self._labels[number & ~AUDIT_PLANE]
        enforced = self._enforcement is Enforcement.ALWAYS or (init and self._enforcement is Enforcement.DEFAULT)
        state = self._states[number] = MapState(self._ports, enforced=enforced, own_ports=ports)
        self._changed[number] = None
        return state

    def _drop(self, number: int) -> None:
        state = self._states.pop(number, None)
        self._changed.pop(number, None)
        if state is not None:
            for key in (*(key for key, _ in state.changes()), *state.keys()):
                self._gone[number, key] = None

    def _about(self, found: Iterable[T]) -> Iterable[T]:
        """Rules or subjects that were found, unless rules bind nobody."""
        return () if self._enforcement is Enforcement.NEVER else found

    def _obeying(self, one: Contribution) -> Iterator[MapState]:
        """The states of all subjects that the contribution is about; they will have changed."""
        assert one.subject is not None, "a rule has a subject"
        for number in self._about(one.subject.numbers):
            yield from self._bound(number, audit=one.audit)

    def _follow(self, change: RuleChange) -> None:
        touched: dict[int, None] = {}
        for resolved in self._about(change.added):
            for number in resolved.subject.numbers:
                touched[number] = None
                if resolved.audit:
                    self._audited[number][resolved] = None
                for state in self._bound(number, audit=resolved.audit):
                    state.add_rule(resolved)
        for resolved in self._about(change.removed):
            for number in resolved.subject.numbers:
                touched[number] = None
                if resolved.audit:
                    del self._audited[number][resolved]
                for state in self._bound(number, audit=resolved.audit):
                    state.remove_rule(resolved)
        for number in touched:
            self._settle_audit(number)

    def _bound(self, number: int, *, audit: bool) -> Iterator[MapState]:
        """The states of a subject that a rule binds; they will have changed."""
        for subject in (number | AUDIT_PLANE,) if audit else (number, number | AUDIT_PLANE):
            state = self._states.get(subject)
            if state is not None:
                self._changed[subject] = None
                yield state

    def _settle_audit(self, number: int) -> None:
        """The audit plane is there exactly while a rule about the subject is only audited."""
        plane, state = number | AUDIT_PLANE, self._states[number]
        wanted = bool(self._audited[number])
        if wanted == (plane in self._states):
            return
        self._changed[number] = None
        state.set_audited(wanted)
        if not wanted:
            self._drop(plane)
            return
        made = self._make(plane, state.own_ports)
        for resolved in self._rules.about(self._subjects.selecting(number)):
            made.add_rule(resolved)
