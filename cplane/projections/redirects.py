"""Which proxy port takes which connections, and what the proxy there is told.

A port stands for a group of entries (`MapEntry.group`): for ports, and for the terms that a proxy heeds there. It is
the same as long as these terms stand where they do, so that an edit of what they say reaches connections that are open.
Which port it is follows from the group; only of two that want the same the one that came later has the next one.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from cplane.domain.policy import PolicyRef
from cplane.domain.policy.mapstate import MapEntry, MapKey, MapState
from cplane.domain.policy.redirection import PORT_MAX, PORT_MIN, Redirection, RedirectRule
from cplane.domain.policy.resolve import Contribution, is_redirect
from cplane.domain.verdict import Direction
from cplane.projections.delta import Delta

NO_PROXY: Final = 1
"""The proxy port of an entry for which none is free: nobody listens there, and its connections are dropped."""

CAPACITY: Final = PORT_MAX - PORT_MIN + 1


class RedirectKey(NamedTuple):
    """A proxy port."""

    proxy_port: int


class Redirects:
    """Ports of the groups that entries of any policy have, and the rows that these ports are."""

    def __init__(self, state: Callable[[int], MapState | None]) -> None:
        """`state` gives what the entries of a policy follow from."""
        self._state = state
        self._ports: dict[int, int] = {}  # group → port
        self._groups: dict[int, int] = {}  # port → group
        self._users: dict[int, dict[tuple[int, MapKey], None]] = {}  # group → policies and keys that have it
        self._named: dict[PolicyRef, dict[int, None]] = {}  # policy → groups that heed terms of it
        self._rows: dict[RedirectKey, Redirection] = {}
        self._before: dict[RedirectKey, Redirection | None] = {}  # rows as they were told, where they have changed

    def table(self) -> Mapping[RedirectKey, Redirection]:
        """All rows."""
        return self._rows

    def port(self, entry: MapEntry) -> int:
        """The proxy port of an entry; 0: it has none."""
        if not is_redirect(entry.precedence):
            return 0
        return self._ports.get(entry.group, NO_PROXY)

    def add(self, numbers: Iterable[int], key: MapKey, group: int) -> None:
        """The entries under the key, of these policies, are of the group."""
        users = self._users.setdefault(group, {})
        users.update(dict.fromkeys((number, key) for number in numbers))
        if group not in self._ports and len(self._groups) < CAPACITY:
            port = PORT_MIN + group % CAPACITY
            while port in self._groups:
                port = port + 1 if port < PORT_MAX else PORT_MIN
            self._ports[group], self._groups[port] = port, group
            self._tell(group)

    def remove(self, numbers: Iterable[int], key: MapKey, group: int) -> bool:
        """They are no longer. True: no entry is, and the port is free."""
        users = self._users[group]
        for number in numbers:
            users.pop((number, key), None)
        if users:
            return False
        del self._users[group]
        port = self._ports.pop(group, 0)
        if port:
            del self._groups[port]
            self._set(RedirectKey(port), None)
            for named in self._named.values():
                named.pop(group, None)
        return True

    def rewrite(self, ref: PolicyRef) -> None:
        """The terms of the policy may read otherwise."""
        for group in tuple(self._named.get(ref, ())):
            self._tell(group)

    def rewrite_all(self) -> None:
        """Those of every policy may."""
        for group in self._ports:
            self._tell(group)

    def delta(self) -> Delta[RedirectKey, Redirection]:
        """What has changed since this was asked last."""
        touched, self._before = self._before, {}
        changed = {key: was for key, was in touched.items() if self._rows.get(key) != was}
        before = {key: was for key, was in changed.items() if was is not None}
        return Delta(before, {key: self._rows[key] for key in changed if key in self._rows})

    def _tell(self, group: int) -> None:
        number, key = next(iter(self._users[group]))
        state = self._state(number)
        assert state is not None, f"an entry of policy {number} without its state"
        made = _redirection(key, state.makers(key), state.heeded(key))
        for rule in made.rules:
            if rule.ref is not None:
                self._named.setdefault(rule.ref, {})[group] = None
        self._set(RedirectKey(self._ports[group]), made)

    def _set(self, key: RedirectKey, row: Redirection | None) -> None:
        self._before.setdefault(key, self._rows.get(key))
        if row is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = row


def _redirection(key: MapKey, makers: Iterable[Contribution], heeded: Iterable[Contribution]) -> Redirection:
    rules = {
        (str(one.ref), one.term.path if one.term is not None else ""): RedirectRule(
            one.ref, one.term.path if one.term is not None else "", one.term.redirect if one.term is not None else None
        )
        for one in heeded
    }
    asked = sorted(
        {one.term.redirect.parser for one in makers if one.term is not None and one.term.redirect is not None}
    )
    ordered = tuple(rules[place] for place in sorted(rules))
    return Redirection(Direction(key.direction), key.protocol, key.port, asked[0] if asked else "", ordered)
