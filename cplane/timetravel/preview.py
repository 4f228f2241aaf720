"""What a change of policies would do, before it is made: to everybody who could talk, and to all who were seen to.

The change is decided as an apply decides it, on a fork of the world.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from cplane.domain.endpoint import Endpoint
from cplane.domain.policy.explanation import Outcome, Traffic
from cplane.domain.verdict import Direction
from cplane.timetravel.asked import request_of, text_of
from cplane.timetravel.fork import PROXY, Course, Fork, Side
from cplane.timetravel.history import History
from cplane.timetravel.intent import Change, compare, named
from cplane.timetravel.reach import Names, Reach, badness, breaks, reaches
from cplane.timetravel.seen import Count, Kind, Seen, Window, stands_for_addresses

_ROWS_MAX: Final = 500  # of each list of an answer; of more it says how many there are
_NEW_MAX: Final = 100  # pods that are named


class SeenChange(msgspec.Struct, frozen=True, kw_only=True):
    """Connections that were seen and whose verdict would be another; `recorded` is what it was.

    With a `request`, it is requests that were seen, as many as `count` says, and what a proxy makes of them.
    `before` is what it is by the rules that there are, which may differ from `recorded` already. Times are UTC, in
    nanoseconds.
    """

    direction: str
    source: str
    destination: str
    port: str
    recorded: str
    before: str
    after: str
    count: int
    first_ns: int
    last_ns: int
    because: str
    request: str = ""


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What a change would do. `position` is the moment that it was tried on.

    `changes` are those of objects. `reach` is what could be, `seen` what was, worst first; the two `more` count what is
    left out, and `reach_unasked` pairs that were too many to be judged. `denied` counts connections that were seen,
    pass now and would be denied, or judged by a proxy; `allowed` those that are denied and would pass. `drifted` counts
    connections whose verdict is another already, without the change; `gone` those of workloads that are no more, or
    have other labels now. `window` says what was looked at, and null that nobody recorded flows. `new` are pods that
    were not there yet when it began, `new_more` counts those left out: of them less was seen.
    """

    position: int
    changes: tuple[Change, ...]
    reach: tuple[Reach, ...]
    reach_more: int
    reach_unasked: int
    seen: tuple[SeenChange, ...]
    seen_more: int
    denied: int
    allowed: int
    drifted: int
    gone: int
    window: Window | None
    new: tuple[str, ...] = ()
    new_more: int = 0

    @property
    def breaks(self) -> bool:
        """Whether anything that passes now would be denied: what could be, or what was seen."""
        # the worst stands first, so what is left out of the lists cannot be the only one
        return any(breaks(one.before, one.after) for some in (self.reach, self.seen) for one in some)


def preview(fork: Fork, seen: Seen | None, earlier: Iterable[Endpoint] | None = None) -> Preview:
    """What the change would do; `seen` None: nobody recorded flows.

    `earlier` are the endpoints that there were when the window of `seen` began; None: nobody knows.
    """
    reach = reaches(fork)
    found = _Seen(fork)
    for kind, count in (seen.kinds if seen is not None else {}).items():
        found.take(kind, count)
    told = sorted(found.turns, key=lambda one: (-badness(one.before, one.after), -one.seen.times))
    world = fork.before.world
    new = [] if earlier is None else new_since(world.endpoints.values(), earlier)
    return Preview(
        position=world.position,
        changes=tuple(compare(world, fork.after.world)),
        reach=reach.rows,
        reach_more=reach.more,
        reach_unasked=reach.unasked,
        seen=tuple(map(found.told, told[:_ROWS_MAX])),
        seen_more=max(0, len(told) - _ROWS_MAX),
        denied=found.denied,
        allowed=found.allowed,
        drifted=found.drifted,
        gone=found.gone,
        window=None if seen is None else seen.window,
        new=tuple(new[:_NEW_MAX]),
        new_more=max(0, len(new) - _NEW_MAX),
    )


def new_since(present: Iterable[Endpoint], earlier: Iterable[Endpoint]) -> list[str]:
    """The names of those that were not there yet."""
    held = {one.attachment for one in earlier}
    return sorted(named(one) for one in present if one.attachment not in held)


def endpoints_at(history: History, instant_ns: int) -> tuple[Endpoint, ...]:
    """The endpoints that there were at that time (UTC); what was dropped from the log is taken to have been as later.

    A log that begins later knows of none.
    """
    position = max(history.position_at(instant_ns), history.start)
    return tuple(history.moment(position).world.endpoints.values())


class _Turn(NamedTuple):
    """Connections of an endpoint whose verdict would be another."""

    kind: Kind
    end: Endpoint
    before: str
    after: str
    seen: Count


class _Seen:
    """Judges what was seen, each kind once, by the rules before and after."""

    def __init__(self, fork: Fork) -> None:
        self._fork, self._names = fork, Names(fork)
        self.turns: list[_Turn] = []
        self._courses: dict[tuple[object, ...], tuple[Endpoint, Course, Course] | None] = {}
        self.denied = self.allowed = self.drifted = self.gone = 0

    def take(self, kind: Kind, count: Count) -> None:
        """So many connections were of this kind."""
        where = kind[:6]
        if where not in self._courses:
            self._courses[where] = self._course(kind)
        found = self._courses[where]
        if found is None:
            self.gone += count.times
            return
        end, before, after = found
        old, new = before.at(kind.port), after.at(kind.port)
        if kind.asked is not None:
            old, new = (
                self._judged(side, kind, end, word)
                for side, word in ((self._fork.before, old), (self._fork.after, new))
            )
        if kind.verdict != (Outcome.ALLOWED if old == PROXY else old):
            self.drifted += count.times
        if old == new:
            return
        if breaks(old, new):
            self.denied += count.times
        elif old == Outcome.DENIED:
            self.allowed += count.times
        self.turns.append(_Turn(kind, end, old, new, count))

    def _course(self, kind: Kind) -> tuple[Endpoint, Course, Course] | None:
        """Who obeyed the policy, and what it says of all ports before and after; None: it is not known who that was."""
        before, after = self._fork.before, self._fork.after
        end = before.world.endpoints.get(kind.endpoint)
        by_address = bool(kind.address) and stands_for_addresses(kind.peer)
        if end is None or end.identity != kind.identity or not (by_address or before.knows(kind.peer)):
            return None
        audited = before.is_audited(end)
        old, new = (
            side.course(end.policy_id, self._peer(side, kind), kind.direction, kind.protocol, audited=audited)
            for side in (before, after)
        )
        return end, old, new

    def _judged(self, side: Side, kind: Kind, end: Endpoint, word: str) -> str:
        """What becomes of a request where packets have that verdict."""
        if word not in {PROXY, Outcome.AUDIT} or kind.asked is None:
            return word
        traffic = Traffic(kind.direction, kind.protocol, kind.port)
        audited = self._fork.before.is_audited(end)
        peer, request = self._peer(side, kind), request_of(kind.asked)
        return side.explain(end.policy_id, peer, traffic, request, audited=audited).verdict

    def told(self, turn: _Turn) -> SeenChange:
        """The same in words, with its reason."""
        kind, end, old, new, count = turn
        after, traffic = self._fork.after, Traffic(kind.direction, kind.protocol, kind.port)
        peer, audited = self._peer(after, kind), self._fork.before.is_audited(end)
        request = None if kind.asked is None else request_of(kind.asked)
        here, there = named(end), kind.address or self._names.of(kind.peer)
        outward = kind.direction is Direction.EGRESS
        return SeenChange(
            direction=kind.direction.name.lower(),
            source=here if outward else there,
            destination=there if outward else here,
            port=str(traffic),
            recorded=str(kind.verdict),
            before=str(old),
            after=str(new),
            count=count.times,
            first_ns=count.first_ns,
            last_ns=count.last_ns,
            because=after.explain(end.policy_id, peer, traffic, request, audited=audited).reason,
            request="" if kind.asked is None else text_of(kind.asked),
        )

    @staticmethod
    def _peer(side: Side, kind: Kind) -> int:
        by_address = kind.address and stands_for_addresses(kind.peer)
        return side.identity_at(kind.address) if by_address else kind.peer
