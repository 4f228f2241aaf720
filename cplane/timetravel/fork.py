"""A world, and the same with a change made to it: what a change would do is what the two judge differently.

Nothing here is shared with whoever runs the world. Both sides look verdicts up as the datapath does, once for all
traffic that no row tells apart, and explain them by the `Judge` that does it everywhere.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import chain
from typing import Final, NamedTuple

from cplane.deciders.policy import ApplyPolicies, DeletePolicies
from cplane.deciders.world import World, facts
from cplane.domain.endpoint import Endpoint
from cplane.domain.identity import (
    RESERVED_BY_NUMBER,
    NumericIdentity,
    Reserved,
    is_local,
    is_of_names,
    prefix_of,
    world_of,
)
from cplane.domain.labels import LabelSet
from cplane.domain.policy import PolicyRef
from cplane.domain.policy.explanation import Explanation, Outcome, PeerIdentity, Traffic
from cplane.domain.policy.lookup import lookup
from cplane.domain.policy.mapstate import MapEntry, MapKey, MapState
from cplane.domain.policy.redirect import Request
from cplane.domain.policy.repository import AUDIT_PLANE
from cplane.domain.policy.why import Judge
from cplane.domain.ports import FULL_BITS, PROTOCOL_BITS
from cplane.domain.verdict import Direction
from cplane.errors import Rejected
from cplane.events.catalog import Event
from cplane.events.policy import PolicyUpserted
from cplane.projections.policymap import PolicyMapProjection
from cplane.reactors.reaction import settle

PROXY: Final = "PROXY"
"""The verdict where packets pass, and a proxy judges what is asked: some of it may be denied."""

_ANYBODY: Final = 0  # stands for all peers that no row names
_COURSES_MAX: Final = 500_000  # kept; beyond, all are forgotten and found again

Rules = tuple[MapState, MapState | None]
"""What a policy says, and what it says if that which only audits is enforced. Policies that share it say the same."""


class BadName(Rejected):
    """A text names no policy."""

    code = "preview.bad_name"

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return f"{self.text!r} names no policy: write KIND/NAMESPACE/NAME, as in CiliumNetworkPolicy/shop/db"


def ref_of(text: str) -> PolicyRef:
    """The policy that is named `KIND/NAMESPACE/NAME`, without a namespace where the kind has none. Raises BadName."""
    parts = text.removeprefix("policy ").split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise BadName(text)
    return PolicyRef(parts[0], parts[1] if len(parts) == 3 else "", parts[-1])


class Fork:
    """A world before and after a change."""

    def __init__(self, world: World, documents: tuple[str, ...], deleted: tuple[PolicyRef, ...]) -> None:
        """Raises what deciders raise, as an apply would."""
        events: list[Event] = []
        after = world
        for command in (ApplyPolicies(documents=documents), DeletePolicies(refs=deleted)):
            decided, after = settle(command, after)
            events += [event for _, event in decided]
        self.before, self.after = Side(world), Side(world)
        self.after.change(after, events)

    def address_of(self, identity: int) -> str:
        """An address that has, or had, this identity for its names; empty: it is none of names."""
        numbers = (pair for side in (self.before, self.after) for pair in side.world.fqdn.numbers.items())
        return next((address for address, number in numbers if number == identity), "")


class Course(NamedTuple):
    """The verdicts of a policy on one protocol: `words[n]` holds from port `firsts[n]`, of which the first is 0, on.

    Words are Outcomes, or PROXY; neighbours may be the same.
    """

    firsts: tuple[int, ...]
    words: tuple[str, ...]

    def at(self, port: int) -> str:
        """The verdict on a port, or type of message."""
        return self.words[bisect_right(self.firsts, port) - 1]


OPEN: Final = Course((0,), (Outcome.ALLOWED,))
"""Of a policy that has nothing to say."""


@dataclass(slots=True)
class _Place:
    """What rules are in one direction: the keys of rows by peer (0: anybody), and what was found of them.

    `policy` is one of those that have these rules.
    """

    policy: int
    keys: dict[int, set[MapKey]]
    courses: dict[tuple[int, int, bool], Course] = field(default_factory=dict)
    entries: dict[tuple[MapState, MapKey], MapEntry | None] = field(default_factory=dict)


class Side:
    """Judges by one world."""

    def __init__(self, world: World) -> None:
        self.policies = PolicyMapProjection()
        # Policies last: they are about endpoints that are there, all that are alike at once. Any order gives the same.
        for fact in sorted(facts(world), key=lambda one: isinstance(one, PolicyUpserted)):
            self.policies.apply(fact)
        self._know(world)

    def _know(self, world: World) -> None:
        self.world = world
        self._judge = Judge(self.policies.repository)
        self._places: dict[tuple[Rules, Direction], _Place] = {}
        self._kept = 0
        self._prefixes: dict[tuple[int, int], dict[int, int]] = {}  # version, length → network → identity
        for number, labels in world.identities.items():
            prefix = prefix_of(labels) if is_local(NumericIdentity(number)) and not is_of_names(labels) else None
            if prefix is not None:
                held = self._prefixes.setdefault((prefix.version, prefix.prefixlen), {})
                held[int(prefix.network_address)] = number
        self._lengths = sorted(self._prefixes, reverse=True)

    def change(self, world: World, events: list[Event]) -> None:
        """The side is that of the world, to which the events have led."""
        for event in events:
            self.policies.apply(event)
        self._know(world)

    def rules(self, policy: int) -> Rules | None:
        """What a policy says; None: nobody obeys it."""
        state = self.policies.state(policy)
        return None if state is None else (state, self.policies.state(policy | AUDIT_PLANE))

    def names(self, policy: int, direction: Direction, peer: int) -> bool:
        """Whether rows of a policy that is obeyed name the peer."""
        return peer in self._place(policy, direction).keys

    def course(self, policy: int, peer: int, direction: Direction, protocol: int, *, audited: bool) -> Course:
        """What the policy, which is obeyed, makes of traffic with the peer."""
        if self._judge.open_case(policy, direction) is not None:
            return OPEN
        place = self._place(policy, direction)
        who = peer if peer in place.keys else _ANYBODY
        found = place.courses.get((who, protocol, audited))
        if found is None:
            if self._kept >= _COURSES_MAX:
                self._kept = 0
                for one in self._places.values():
                    one.courses.clear()
                    one.entries.clear()
            self._kept += 1
            firsts = tuple(sorted({0, *_edges(place, who, protocol)}))
            traffic = (Traffic(direction, protocol, port) for port in firsts)
            words = tuple(self._word(policy, place, who, one, audited=audited) for one in traffic)
            found = place.courses[who, protocol, audited] = Course(firsts, words)
        return found

    def verdict(self, policy: int, peer: int, traffic: Traffic, *, audited: bool) -> str:
        """What the policy, which is obeyed, makes of it: an Outcome, or PROXY."""
        direction, protocol, port = traffic
        return self.course(policy, peer, direction, protocol, audited=audited).at(port)

    def _word(self, policy: int, place: _Place, peer: int, traffic: Traffic, *, audited: bool) -> str:
        """As `Judge` has it, without a reason, for which it looks much longer."""
        rules = self.rules(policy)
        assert rules is not None, f"nobody obeys policy {policy}"
        state, plane = rules
        found = _word_of(state, place, peer, traffic)
        if found == Outcome.DENIED:
            return Outcome.AUDIT if audited else found
        strict = found if plane is None else _word_of(plane, place, peer, traffic)
        if strict == Outcome.DENIED:
            return Outcome.AUDIT
        return PROXY if PROXY in {found, strict} else found

    def explain(
        self, policy: int, peer: int, traffic: Traffic, request: Request | None = None, *, audited: bool
    ) -> Explanation:
        """The same with its reason; of a request, as the proxy judges it."""
        other = PeerIdentity(peer, self.labels(peer))
        same = self._place(policy, traffic.direction).policy  # the judge keeps what it found of this one
        return self._judge.case_of(same, other, traffic, audited=audited).explain(request)

    def is_audited(self, end: Endpoint) -> bool:
        """Whether the endpoint as a whole only audits."""
        return end.audit or self.world.options.policy_audit

    def knows(self, identity: int) -> bool:
        """Whether the identity stands for something now."""
        return identity in RESERVED_BY_NUMBER or identity in self.world.identities

    def labels(self, identity: int) -> LabelSet:
        """What an identity stands for; nothing where it is not known."""
        reserved = RESERVED_BY_NUMBER.get(NumericIdentity(identity))
        if reserved is not None:
            return reserved.labels
        return self.world.identities.get(identity, LabelSet())

    @property
    def worlds(self) -> tuple[int, ...]:
        """The identities of addresses outside the cluster that no rule names."""
        return tuple(dict.fromkeys(map(self._world_of, (4, 6))))

    def identity_at(self, address: str) -> int:
        """Who is behind an address outside the cluster."""
        at = ip_address(address)
        by_name = self.world.fqdn.numbers.get(str(at))
        if by_name is not None:
            return by_name
        for version, length in self._lengths:
            if version == at.version:
                behind = at.max_prefixlen - length
                number = self._prefixes[version, length].get(int(at) >> behind << behind)
                if number is not None:
                    return number
        return self._world_of(at.version)

    def _world_of(self, version: int) -> int:
        node = self.world.node
        return int(world_of(version, dual_stack=node is not None and node.dual_stack))

    def _place(self, policy: int, direction: Direction) -> _Place:
        rules = self.rules(policy)
        assert rules is not None, f"nobody obeys policy {policy}"
        found = self._places.get((rules, direction))
        if found is None:
            # the language itself has a word on the local host
            keys: dict[int, set[MapKey]] = {_ANYBODY: set(), int(Reserved.HOST): set()}
            for key in chain.from_iterable(state.keys() for state in rules if state is not None):
                if key.direction == direction:
                    keys.setdefault(key.identity, set()).add(key)
            found = self._places[rules, direction] = _Place(policy, keys)
        return found


def _edges(place: _Place, peer: int, protocol: int) -> Iterator[int]:
    """Where rows about the peer, or about anybody, begin and end among the ports."""
    for key in place.keys[peer] | place.keys[_ANYBODY]:
        if key.protocol == protocol and key.l4_bits > PROTOCOL_BITS:
            yield key.port
            yield key.port + (1 << FULL_BITS - key.l4_bits)


def _word_of(state: MapState, place: _Place, peer: int, traffic: Traffic) -> str:
    kept = place.entries

    def entry_of(key: MapKey) -> MapEntry | None:
        where = state, key
        if where not in kept:
            kept[where] = state.entry(key)
        return kept[where]

    decision = lookup(entry_of, peer, *traffic, lengths=state.lengths(traffic.direction))
    if decision.key is None or decision.auth_type:
        return Outcome.DENIED
    if decision.proxied:
        return PROXY
    return Outcome.ALLOWED if decision.reason is None else Outcome.DENIED
