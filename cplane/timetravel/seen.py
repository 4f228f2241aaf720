"""What was seen of traffic, folded: connections that the rules judge alike, with how many there were.

A flow is told by the node of an end, and about the policy of that end: of egress it is the source's.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from cplane.domain.identity import NumericIdentity, Reserved, is_local
from cplane.domain.policy.explanation import Outcome
from cplane.domain.verdict import POLICY_DROPS, Direction
from cplane.timetravel.asked import Asked
from cplane.timetravel.flows import RecordedFlow, read_flow
from cplane.timetravel.traffic import BadQuestion
from cplane.timetravel.when import BadMoment, position_or_ns

VERDICTS: Final = {
    "FORWARDED": Outcome.ALLOWED,
    "REDIRECTED": Outcome.ALLOWED,
    "AUDIT": Outcome.AUDIT,
    "DROPPED": Outcome.DENIED,
}
"""What policy had said, by the verdict of a flow; others say nothing of policy."""

_POLICY_DROPS: Final = frozenset(one.name for one in POLICY_DROPS)  # as flows have them
_BEST_LAST: Final = (4, 1, 5)  # traces, drops, verdicts of policy

ACCESS: Final = 129
"""The way in which requests are told, among Cilium's types of events."""

_REQUESTS_MAX: Final = 10_000
_WORLDS: Final = frozenset({Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6})
_DIRECTIONS: Final = {"EGRESS": Direction.EGRESS, "INGRESS": Direction.INGRESS}


class Kind(NamedTuple):
    """Connections that no rule can tell apart. `endpoint` obeyed the policy, `peer` is the identity of the other side.

    `address` is the peer's where its identity stands for addresses, and may be another one now; otherwise empty. For
    ICMP `port` is the type of the message. `verdict` is what the policy said. With `asked` it is a request over a
    connection that is counted, and that was judged by a proxy.
    """

    direction: Direction
    endpoint: int
    identity: int
    peer: int
    address: str
    protocol: int
    port: int
    verdict: Outcome
    asked: Asked | None = None


class Count(NamedTuple):
    """How many, and when the first and the last was seen; UTC, nanoseconds."""

    times: int
    first_ns: int
    last_ns: int

    def plus(self, other: "Count") -> "Count":
        """Both together."""
        return Count(self.times + other.times, min(self.first_ns, other.first_ns), max(self.last_ns, other.last_ns))


class Counts:
    """Counts kinds by the ways in which connections are told: verdicts of policy, drops, and traces of packets.

    A connection may be told in several ways. That of a verdict is told once for each, so it counts where there is one.
    """

    def __init__(self) -> None:
        self._by_way: dict[int, dict[Kind, Count]] = {}

    def add(self, way: int, kind: Kind, times: int, first_ns: int, last_ns: int) -> None:
        """So many were told in that way, which is a type of Cilium's events."""
        held = self._by_way.setdefault(way, {})
        one = Count(times, first_ns, last_ns)
        before = held.setdefault(kind, one)
        if before is not one:
            held[kind] = before.plus(one)

    def kinds(self) -> dict[Kind, Count]:
        """How many there were of each kind."""
        ways = sorted(self._by_way, key=lambda one: _BEST_LAST.index(one) if one in _BEST_LAST else -1)
        first, *others = [self._by_way[way] for way in ways] or [{}]
        found = dict(first)
        for one in others:
            found |= one
        return found


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at: from the first flow that there was to the last (UTC, nanoseconds; 0: there was none).

    `asked_ns` is since when was asked for (0: from the beginning), and `kept_ns` when the oldest flow that there is was
    seen, whatever was asked for: what came before was not recorded, or is not there any more. `lost` is how many flows
    are known to be missing in between, and `flows` how many were read. Connections that nobody made in this time are
    not known. `unasked` counts requests that are not judged again: there were more different ones than are kept, or it
    is not known any more what they asked.
    """

    asked_ns: int
    kept_ns: int = 0
    first_ns: int
    last_ns: int
    flows: int
    lost: int
    unasked: int = 0


class Seen(NamedTuple):
    """Everything that was seen in a window."""

    window: Window
    kinds: dict[Kind, Count]


def stands_for_addresses(identity: int) -> bool:
    """Whether who has the identity is known by an address only."""
    return identity in _WORLDS or is_local(NumericIdentity(identity))


class Sight:
    """What is seen between two times (UTC, nanoseconds), gathered from one place where flows are after another."""

    def __init__(self, since_ns: int, until_ns: int) -> None:
        self.since_ns, self.until_ns = since_ns, until_ns
        self.counts = Counts()
        self._kept = self._flows = self._first = self._last = self._lost = 0
        self._requests: set[Kind] = set()
        self._unasked = 0

    def keeps(self, at_ns: int) -> None:
        """A flow of that time is there, whether it is within the two times or not."""
        self._kept = min(self._kept or at_ns, at_ns)

    def looked(self, flows: int, first_ns: int, last_ns: int) -> None:
        """So many flows, at least one, are within the two times; these are the first and the last."""
        self._flows += flows
        self._first, self._last = min(self._first or first_ns, first_ns), max(self._last, last_ns)

    def loses(self, flows: int) -> None:
        """So many are known to be missing in between."""
        self._lost += flows

    def asks(self, kind: Kind | None, at_ns: int) -> None:
        """A request was made; None: nobody knows what it was. Of different ones the first 10,000 are kept."""
        if kind is None or (kind not in self._requests and len(self._requests) >= _REQUESTS_MAX):
            self._unasked += 1
            return
        self._requests.add(kind)
        self.counts.add(ACCESS, kind, 1, at_ns, at_ns)

    def fold(self, lines: Iterable[bytes]) -> None:
        """Flows on lines, as `hubble observe -o jsonpb` prints them, are in it. Raises BadQuestion."""
        for line in lines:
            flow = read_flow(line) if line.strip() else None
            if flow is None:
                continue
            at = flow.recorded_at_ns()
            self.keeps(at)
            if not self.since_ns <= at <= self.until_ns:
                continue
            self.looked(1, at, at)
            kind = _kind(flow)
            if flow.is_request:
                if kind is not None:
                    self.asks(kind if kind.asked is not None else None, at)
            elif kind is not None:
                self.counts.add(flow.event_type.type, kind, 1, at, at)

    def seen(self) -> Seen:
        """All of it."""
        window = Window(
            asked_ns=self.since_ns,
            kept_ns=self._kept,
            first_ns=self._first,
            last_ns=self._last,
            flows=self._flows,
            lost=self._lost,
            unasked=self._unasked,
        )
        return Seen(window, self.counts.kinds())


def _kind(flow: RecordedFlow) -> Kind | None:
    """What the flow says of policy; None: nothing."""
    direction, verdict = _DIRECTIONS.get(flow.traffic_direction), VERDICTS.get(flow.verdict)
    if direction is None or verdict is None or flow.is_reply:
        return None
    if verdict is Outcome.DENIED and flow.drop_reason_desc not in _POLICY_DROPS and not flow.is_request:
        return None
    try:
        protocol, port = flow.traffic()
    except BadQuestion:
        return None
    source, destination = flow.ends
    (end, _), (other, address) = (source, destination) if direction is Direction.EGRESS else (destination, source)
    if not end.ID or other.identity < 1:
        return None
    address = address if stands_for_addresses(other.identity) else ""
    asked = flow.asked(whole=False)
    return Kind(direction, end.ID, end.identity, other.identity, address, int(protocol), port, verdict, asked)


def span_of(since: str, until: str, now_ns: int) -> tuple[int, int]:
    """The times that a user means; empty: from the first flow, up to now. Raises BadMoment, also for positions."""
    return _time(since, now_ns, 0), _time(until, now_ns, now_ns)


def _time(text: str, now_ns: int, otherwise: int) -> int:
    if not text:
        return otherwise
    position, instant_ns = position_or_ns(text, now_ns)
    if position is not None:
        raise BadMoment(text, "flows have times, and no positions of the log")
    return instant_ns
