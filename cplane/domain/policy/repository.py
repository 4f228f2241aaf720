"""All policy of a node: identities, rules and subjects come and go, and every map state follows."""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
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
from cplane.domain.policy.states import States
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
        self._states = States(self._ports)
        self._audited: dict[
            int, dict[ResolvedRule, None]
        ] = {}  # subject → rules about it that are only audited, if any

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

    def states(self) -> Mapping[int, MapState]:
        """All states by the numbers of subjects, and of their audit planes, to be read."""
        return self._states.by_number()

    def changes(self) -> Iterator[tuple[tuple[int, ...], MapKey, MapEntry | None, MapEntry | None]]:
        """Every key whose entry differs from the one that was told last, for these subjects; that one, and the present.

        Subjects that are told of together share a state, and under each key everybody is told once.
        """
        return self._states.changes()

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
        again = [(state, named) for state in self._states if (named := state.named_at(number))]
        for state, named in again:
            for one in named:
                state.take(one, (number,))
        if ports:
            self._ports[number] = ports
        else:
            self._ports.pop(number, None)
        for state, named in again:
            self._states.of(state.members.keys())
            for one in named:
                state.put(one, (number,))

    def add_subject(self, number: int, labels: LabelSet, ports: NamedPorts = _NO_PORTS) -> None:
        """A subject has its first endpoint here. One without labels yet is never without default deny."""
        self._labels[number] = labels
        about = tuple(self._about(self._rules.about(self._subjects.add(number, labels))))
        audited = {one: None for one in about if one.audit}
        if audited:
            self._audited[number] = audited
        self._make(number, (one for one in about if not one.audit), ports)
        self._settle_audit(number)

    def remove_subject(self, number: int) -> None:
        """A subject has no endpoint here any more."""
        self._subjects.remove(number)
        del self._labels[number]
        self._audited.pop(number, None)
        for subject in (number, number | AUDIT_PLANE):
            self._states.remove(subject)

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

    def remove_service(self, namespace: str, name: str) -> None:
        """There is no service of that name."""
        self._directory.remove_service(namespace, name)
        self._follow(self._rules.refer_again())

    def set_enforcement(self, enforcement: Enforcement) -> None:
        """Which endpoints have default deny from now on."""
        if enforcement is self._enforcement:
            return
        self._enforcement = enforcement
        for number, labels in tuple(self._labels.items()):
            state = self._states.get(number)
            assert state is not None, "a subject has a state"
            self.remove_subject(number)
            self.add_subject(number, labels, state.own_ports)

    def _make(self, number: int, rules: Iterable[ResolvedRule], ports: NamedPorts) -> None:
        init = _INIT in self._labels[number & ~AUDIT_PLANE]
        enforced = self._enforcement is Enforcement.ALWAYS or (init and self._enforcement is Enforcement.DEFAULT)
        self._states.add(number, rules, enforced=enforced, own_ports=ports)

    def _about(self, found: Iterable[T]) -> Iterable[T]:
        """Rules that were found, unless rules bind nobody."""
        return () if self._enforcement is Enforcement.NEVER else found

    def _obeying(self, one: Contribution) -> Iterable[MapState]:
        """The states of all subjects that the contribution is about; they will have changed."""
        assert one.subject is not None, "a rule has a subject"
        if self._enforcement is Enforcement.NEVER:  # then rules bind nobody
            return ()
        return self._states.of(self._planes(one.subject.numbers, audit=one.audit))

    def _follow(self, change: RuleChange) -> None:
        if not any(change):
            return
        touched: set[int] = set()
        for resolved in self._about(change.added):
            numbers = resolved.subject.numbers
            touched |= numbers
            for number in numbers if resolved.audit else ():
                self._audited.setdefault(number, {})[resolved] = None
            self._states.add_rule(resolved, self._planes(numbers, audit=resolved.audit))
        for resolved in self._about(change.removed):
            numbers = resolved.subject.numbers
            touched |= numbers
            for number in numbers if resolved.audit else ():
                del self._audited[number][resolved]
            self._states.remove_rule(resolved, self._planes(numbers, audit=resolved.audit))
        for number in touched & self._audited.keys():
            self._settle_audit(number)
        self._states.unite(self._planes(touched, audit=False))

    def _settle_audit(self, number: int) -> None:
        """The audit plane is there exactly while a rule about the subject is only audited."""
        plane, state = number | AUDIT_PLANE, self._states.get(number)
        assert state is not None, "a subject has a state"
        wanted = bool(self._audited.get(number))
        if not wanted:
            self._audited.pop(number, None)
        if wanted == (plane in self._states):
            return
        self._states.set_audited(number, wanted)
        if wanted:
            self._make(plane, self._rules.about(self._subjects.selecting(number)), state.own_ports)
        else:
            self._states.remove(plane)

    def _planes(self, numbers: AbstractSet[int], *, audit: bool) -> AbstractSet[int]:
        """The numbers under which a rule binds the subjects: in their audit planes alone if it is only audited."""
        planes = {number | AUDIT_PLANE for number in numbers & self._audited.keys()}
        return planes if audit else numbers | planes if planes else numbers
