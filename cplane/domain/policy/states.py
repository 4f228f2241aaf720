"""Which subjects share a map state: those with the same rules do, however they came to have them.

Most endpoints of a node obey the same policies, and what these say is worked out and kept once for all of them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from cplane.domain.policy.mapstate import MapEntry, MapKey, MapState
from cplane.domain.policy.resolve import ResolvedRule
from cplane.domain.ports import NamedPorts

_Kind = tuple[int, int, bool, bool, NamedPorts]


class States:
    """Map states by the numbers of subjects; what differs for each of them is told by `changes`."""

    def __init__(self, ports: Mapping[int, NamedPorts]) -> None:
        """`ports` are the named ports that endpoints of each identity have, kept by the owner."""
        self._ports = ports
        self._of: dict[int, MapState] = {}
        self._alike: dict[_Kind, list[MapState]] = {}
        self._changed: dict[MapState, None] = {}
        # What was told of a subject is what was told of its state, except under these keys: it came from elsewhere.
        self._moved: dict[int, dict[MapKey, MapEntry | None]] = {}

    def get(self, number: int) -> MapState | None:
        """The state of a subject, to be read."""
        return self._of.get(number)

    def __contains__(self, number: int) -> bool:
        return number in self._of

    def by_number(self) -> Mapping[int, MapState]:
        """All of them, to be read; one that is shared stands under every number that shares it."""
        return self._of

    def __iter__(self) -> Iterator[MapState]:
        """Every state, once."""
        for alike in self._alike.values():
            yield from alike

    def of(self, numbers: AbstractSet[int]) -> list[MapState]:
        """The states of those of the subjects that there are, each once, to be changed alike for all who share it."""
        found = [state for state, _ in self._shared(numbers)]
        self._changed.update(dict.fromkeys(found))
        return found

    def add(self, number: int, rules: Iterable[ResolvedRule], *, enforced: bool, own_ports: NamedPorts) -> None:
        """The subject is there and has these rules; for `enforced` and `own_ports` see MapState."""
        wanted = dict.fromkeys(rules)
        fingerprint = 0
        for one in wanted:
            fingerprint ^= id(one)
        for held in self._alike.get((fingerprint, len(wanted), enforced, False, own_ports), ()):
            if held.rules.keys() == wanted.keys():
                self._was_told(number, (*held.told, *held.pending()), {})
                break
        else:
            held = MapState(self._ports, enforced=enforced, own_ports=own_ports)
            for one in wanted:
                held.add_rule(one)
            self._enter(held)
        held.members[number] = None
        self._of[number] = held
        self._changed[held] = None

    def remove(self, number: int) -> None:
        """The subject is not there."""
        state = self._of.pop(number, None)
        if state is not None:
            self._was_told(number, state.told, state.told)
            self._leave(state, number)

    def add_rule(self, resolved: ResolvedRule, numbers: AbstractSet[int]) -> None:
        """The rule is about these of the subjects, and about no others that it was not about."""
        for state in self._apart(numbers):
            state.add_rule(resolved)
            self._enter(state)

    def remove_rule(self, resolved: ResolvedRule, numbers: AbstractSet[int]) -> None:
        """The rule is no longer about these of the subjects; its selectors must still be as they were."""
        for state in self._apart(numbers):
            state.remove_rule(resolved)
            self._enter(state)

    def set_audited(self, number: int, audited: bool) -> None:  # noqa: FBT001  # what it is set to
        """Whether what is allowed to the subject is looked up in its audit plane too."""
        if self._of[number].audited == audited:
            return
        for state in self._apart({number}):
            state.set_audited(audited)
            self._enter(state)

    def unite(self, numbers: AbstractSet[int]) -> None:
        """Of these subjects and all others, those that have come to have the same rules share a state again."""
        for state in self.of(numbers):
            for other in self._alike[_kind(state)] if state.members else ():
                if other is not state and other.rules.keys() == state.rules.keys():
                    less, more = sorted((state, other), key=lambda one: len(one.members))
                    self._join(less, more)
                    break

    def changes(self) -> Iterator[tuple[tuple[int, ...], MapKey, MapEntry | None, MapEntry | None]]:
        """Every key whose entry differs from the one that was told last, for these subjects; that one, and the present.

        Subjects that are told of together share a state, and under each key everybody is told once.
        """
        moved, self._moved = self._moved, {}
        for number, keys in moved.items():
            state = self._of.get(number)
            for key, was in keys.items():
                now = state.entry(key) if state is not None else None
                if now != was:
                    yield (number,), key, was, now
        changed, self._changed = self._changed, {}
        for state in changed:
            members = tuple(state.members)
            elsewhere = [(number, moved[number]) for number in members if number in moved]
            for key, was, now in state.changes():
                told = {number for number, keys in elsewhere if key in keys}
                numbers = tuple(number for number in members if number not in told) if told else members
                if numbers:
                    yield numbers, key, was, now

    def _was_told(self, number: int, keys: Iterable[MapKey], told: Mapping[MapKey, MapEntry]) -> None:
        """Under these keys the subject was told so; what it was told before that still stands."""
        moved = self._moved.setdefault(number, {})
        for key in keys:
            if key not in moved:
                moved[key] = told.get(key)

    def _apart(self, numbers: AbstractSet[int]) -> list[MapState]:
        """States of these subjects and no others, out of the index: to be changed, and entered again."""
        return [self._alone(state, some) for state, some in list(self._shared(numbers))]

    def _shared(self, numbers: AbstractSet[int]) -> Iterator[tuple[MapState, set[int]]]:
        """The states of those of the subjects that there are, and which of them share each."""
        left = numbers & self._of.keys()
        while left:
            state = self._of[next(iter(left))]
            some = left & state.members.keys()
            left -= some
            yield state, some

    def _alone(self, state: MapState, some: Collection[int]) -> MapState:
        if len(some) == len(state.members):
            self._withdraw(state)
        else:
            state, shared = state.another(), state
            for number in some:
                del shared.members[number]
                state.members[number] = None
                self._of[number] = state
        self._changed[state] = None
        return state

    def _join(self, less: MapState, more: MapState) -> None:
        """Both say the same now; where one of them has not been told yet, what was told can differ."""
        pending = (*less.pending(), *more.pending())
        for number in less.members:
            self._was_told(number, pending, less.told)
            more.members[number] = None
            self._of[number] = more
        less.members = {}
        self._withdraw(less)
        self._changed.pop(less, None)

    def _leave(self, state: MapState, number: int) -> None:
        del state.members[number]
        if not state.members:
            self._withdraw(state)
            self._changed.pop(state, None)

    def _enter(self, state: MapState) -> None:
        self._alike.setdefault(_kind(state), []).append(state)

    def _withdraw(self, state: MapState) -> None:
        kind = _kind(state)
        alike = self._alike[kind]
        alike.remove(state)
        if not alike:
            del self._alike[kind]


def _kind(state: MapState) -> _Kind:
    return state.fingerprint, len(state.rules), state.enforced, state.audited, state.own_ports
