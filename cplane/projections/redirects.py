"""Which proxy port takes which connections, and what the proxy there is told.

A port is for one policy and one key, and for the peers for whom a proxy heeds the same terms there (`MapEntry.group`).
It is named by the least of these peers: so it stays what it is when rules come, go or read otherwise, and what they say
reaches connections that are open. Which port it is follows from all this; only of two that want the same the one that
came later has the next one, and so has one that wants a port which was another's not long ago (`RESTING`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Final, NamedTuple

from cplane.domain.policy import PolicyRef
from cplane.domain.policy.mapstate import ANYONE, MapKey, MapState
from cplane.domain.policy.redirection import PORT_MAX, PORT_MIN, Redirection, RedirectRule
from cplane.domain.policy.resolve import Contribution, parser_of
from cplane.domain.verdict import Direction
from cplane.projections.delta import Delta

NO_PROXY: Final = 1
"""The proxy port of an entry for which none is free: nobody listens there, and its connections are dropped."""

CAPACITY: Final = PORT_MAX - PORT_MIN + 1

RESTING: Final = 256
"""Ports that were given back last, and that only who had them is given: connections of then may still be half open, or
in a proxy that drains them, and records name the port. They rest by count, so a replay has the same ones; where no
other port is free, the one that has rested longest is given. More of them would send more of those who come to another
port than they have when all is folded from facts again, where nothing rests."""


class RedirectKey(NamedTuple):
    """A proxy port."""

    proxy_port: int


class _Named(NamedTuple):
    """What a port is named by; the key's identity is that of the least peer."""

    policy_id: int
    key: MapKey


class _Class:
    """Peers for whom the same is heeded, of one policy at one key, and their port; 0: not settled."""

    __slots__ = ("peers", "port")

    def __init__(self) -> None:
        self.peers: set[int] = set()
        self.port = 0


class Redirects:
    """Ports of the entries of all policies that ask for a proxy, and the rows that these ports are."""

    def __init__(self, state: Callable[[int], MapState | None]) -> None:
        """`state` gives what the entries of a policy follow from."""
        self._state = state
        self._classes: dict[_Named, dict[int, _Class]] = {}  # policy and key (of anyone) → group → class
        self._of: dict[_Named, _Class] = {}  # of each entry
        self._ports: dict[_Named, dict[int, int]] = {}  # policy and key (of anyone) → least peer → port
        self._holders: dict[int, _Named] = {}  # port → what it is named by
        self._resting: dict[int, _Named] = {}  # port that is free → what it was named by; the last ones, in order
        self._waiting: dict[_Named, dict[int, None]] = {}  # policy and key (of anyone) → least peers without a port
        self._named: dict[PolicyRef, dict[int, None]] = {}  # policy → ports at which terms of it are heeded
        self._touched: dict[_Named, None] = {}
        self._rows: dict[RedirectKey, Redirection] = {}
        self._before: dict[RedirectKey, Redirection | None] = {}  # rows as they were told, where they have changed

    def table(self) -> Mapping[RedirectKey, Redirection]:
        """All rows."""
        return self._rows

    def port(self, policy_id: int, key: MapKey) -> int:
        """The proxy port of a policy's entry that asks for one."""
        found = self._of.get(_Named(policy_id, key))
        return found.port if found is not None and found.port else NO_PROXY

    def change(self, policy_id: int, key: MapKey, group: int) -> None:
        """The policy's entry under the key is of the group now; 0: of none. `settle` says what comes of it."""
        place, entry = _Named(policy_id, key._replace(identity=ANYONE)), _Named(policy_id, key)
        held = self._of.pop(entry, None)
        if held is not None:
            held.peers.discard(key.identity)
        if group:
            made = self._classes.setdefault(place, {}).setdefault(group, _Class())
            made.peers.add(key.identity)
            self._of[entry] = made
        self._touched[place] = None

    def settle(self) -> Iterator[tuple[int, MapKey, int]]:
        """The entries that have another port by now, and the one that they had: all of those that others' changes did.

        Policies and keys of entries that were changed themselves are among them.
        """
        touched, self._touched = self._touched, {}
        wanted = {place: self._by_least_peer(place) for place in touched}
        for place, classes in wanted.items():
            self._release(place, classes)
        room = CAPACITY - len(self._holders)
        if self._waiting and room:  # they come before what is new
            wanted = {place: self._by_least_peer(place) for place in islice(self._waiting, room)} | wanted
        for place, classes in wanted.items():
            for peer, one in classes.items():
                name = _Named(place.policy_id, place.key._replace(identity=peer))
                was, one.port = one.port, self._port(place, name)
                self._tell(name, one.port)
                if was != one.port:
                    yield from ((name.policy_id, name.key._replace(identity=each), was) for each in one.peers)

    def _by_least_peer(self, place: _Named) -> Mapping[int, _Class]:
        classes = self._classes.get(place, {})
        for group in [group for group, one in classes.items() if not one.peers]:
            del classes[group]
        if not classes:
            self._classes.pop(place, None)
        return {min(one.peers): one for one in classes.values()}

    def rewrite(self, ref: PolicyRef) -> None:
        """The terms of the policy may read otherwise."""
        for port in tuple(self._named.get(ref, ())):
            self._tell(self._holders[port], port)

    def rewrite_all(self) -> None:
        """Those of every policy may."""
        for port, name in self._holders.items():
            self._tell(name, port)

    def delta(self) -> Delta[RedirectKey, Redirection]:
        """What has changed since this was asked last."""
        touched, self._before = self._before, {}
        changed = {key: was for key, was in touched.items() if self._rows.get(key) != was}
        before = {key: was for key, was in changed.items() if was is not None}
        return Delta(before, {key: self._rows[key] for key in changed if key in self._rows})

    def _port(self, place: _Named, name: _Named) -> int:
        ports = self._ports.setdefault(place, {})
        found = ports.get(name.key.identity, 0)
        if found:
            return found
        if len(self._holders) >= CAPACITY:
            self._waiting.setdefault(place, {})[name.key.identity] = None
            return NO_PROXY
        port = self._free(name)
        self._waits_no_more(place, name.key.identity)
        self._resting.pop(port, None)
        ports[name.key.identity], self._holders[port] = port, name
        return port

    def _free(self, name: _Named) -> int:
        """The port for it; one is free."""
        if len(self._holders) + len(self._resting) >= CAPACITY:
            return next((port for port, had in self._resting.items() if had == name), next(iter(self._resting)))
        text = ",".join(map(str, (name.policy_id, *name.key))).encode()
        port = PORT_MIN + int.from_bytes(blake2b(text, digest_size=8).digest()) % CAPACITY
        while port in self._holders or self._resting.get(port, name) != name:
            port = port + 1 if port < PORT_MIN + CAPACITY - 1 else PORT_MIN
        return port

    def _release(self, place: _Named, wanted: Collection[int]) -> None:
        """Ports that are named by other peers than these are free."""
        ports = self._ports.get(place, {})
        for peer in [peer for peer in self._waiting.get(place, ()) if peer not in wanted]:
            self._waits_no_more(place, peer)
        for peer in [peer for peer in ports if peer not in wanted]:
            port = ports.pop(peer)
            self._rest(port, self._holders.pop(port))
            self._set(RedirectKey(port), None)
            for named in self._named.values():
                named.pop(port, None)
        if not ports:
            self._ports.pop(place, None)

    def _waits_no_more(self, place: _Named, peer: int) -> None:
        waiting = self._waiting.get(place, {})
        waiting.pop(peer, None)
        if not waiting:
            self._waiting.pop(place, None)

    def _rest(self, port: int, name: _Named) -> None:
        self._resting[port] = name
        if len(self._resting) > RESTING:
            del self._resting[next(iter(self._resting))]

    def _tell(self, name: _Named, port: int) -> None:
        if port == NO_PROXY:
            return
        state = self._state(name.policy_id)
        assert state is not None, f"an entry of policy {name.policy_id} without its state"
        made = _redirection(name.key, state.makers(name.key), state.heeded(name.key))
        for rule in made.rules:
            if rule.ref is not None:
                self._named.setdefault(rule.ref, {})[port] = None
        self._set(RedirectKey(port), made)

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
    ordered = tuple(rules[place] for place in sorted(rules))
    return Redirection(Direction(key.direction), key.protocol, key.port, parser_of(makers), ordered)
