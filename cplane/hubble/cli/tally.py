"""What many flows come to: who talks most, what is dropped and by whose will, how fast they come, what was lost.

Pure and bounded: counters know so many keys, and the smaller half is forgotten where there are more. So numbers of
rare keys may be too small, and those of the frequent ones, which are shown, are not.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import Final, Generic, NamedTuple, TypeVar

from cplane.hubble.graph import Node, Port, destination_of, port_of, source_of, verdict_of
from cplane.hubble.texts import drop_reason
from cplane.pb.flow import flow_pb2

K = TypeVar("K", bound="Talk | Denial | str")

KEYS_MAX: Final = 4096  # of one counter
RATE_MARKS: Final = 10  # points in time between which the rate is taken
NO_PORT: Final = Port("-", 0)
NO_POLICY: Final = "(no policy allows it)"
_DROP, _POLICY_VERDICT = 1, 5  # types of events
_NS: Final = 1_000_000_000
_LOST: Final = frozenset({flow_pb2.DROPPED, flow_pb2.ERROR})


class Talk(NamedTuple):
    """Who talks to whom, and about what."""

    client: Node
    server: Node
    port: Port


class Denial(NamedTuple):
    """Which policy denied what goes in or out."""

    policy: str
    direction: str


class Frequent(Generic[K]):
    """Counts keys, of which it knows the frequent ones."""

    def __init__(self) -> None:
        self._counts: Counter[K] = Counter()
        self.forgotten = 0

    def add(self, key: K) -> None:
        """One more of them."""
        self._counts[key] += 1
        if len(self._counts) > KEYS_MAX:
            kept = Counter(dict(self._counts.most_common(KEYS_MAX // 2)))
            self.forgotten += self._counts.total() - kept.total()
            self._counts = kept

    def top(self, count: int) -> list[tuple[K, int]]:
        """The most frequent ones first; those that are as frequent as each other in their order."""
        return sorted(self._counts.items(), key=lambda one: (-one[1], one[0]))[:count]

    def __len__(self) -> int:
        return len(self._counts)


class Tally:
    """The numbers so far."""

    def __init__(self) -> None:
        self.flows = self.lost = 0
        self.verdicts: Counter[str] = Counter()
        self.talks: Frequent[Talk] = Frequent()
        self.dropped: Frequent[Talk] = Frequent()
        self.reasons: Frequent[str] = Frequent()
        self.denials: Frequent[Denial] = Frequent()
        self._span: tuple[int, int] | None = None  # the first and the last time in flows
        self._marks: deque[tuple[int, int]] = deque(maxlen=RATE_MARKS)

    def add(self, flow: flow_pb2.Flow) -> None:
        """One more flow is in the numbers.

        A packet that a policy denies is two events. The verdict tells the policy, the drop the reason, so each of
        them counts once, in its own table.
        """
        self.flows += 1
        self.verdicts[verdict_of(flow)] += 1
        client, server = source_of(flow), destination_of(flow)
        if flow.is_reply.value:
            client, server = server, client
        talk = Talk(client, server, port_of(flow) or NO_PORT)
        self.talks.add(talk)
        if flow.HasField("time"):
            at = flow.time.seconds * _NS + flow.time.nanos
            first, last = self._span or (at, at)
            self._span = min(first, at), max(last, at)
        if flow.verdict not in _LOST:
            return
        if flow.event_type.type == _POLICY_VERDICT:
            for denial in denials_of(flow):
                self.denials.add(denial)
        else:
            self.dropped.add(talk)
            self.reasons.add(_reason(flow))

    def add_lost(self, lost: flow_pb2.LostEvent) -> None:
        """So many flows are not in the numbers."""
        self.lost += lost.num_events_lost

    def mark(self, monotonic_ns: int) -> None:
        """The numbers are those of now: rates are taken from mark to mark."""
        self._marks.append((monotonic_ns, self.flows))

    @property
    def rate(self) -> float:
        """Flows per second between the marks; without two of them, between the first and the last flow."""
        if len(self._marks) > 1:
            (began_ns, before), (now_ns, flows) = self._marks[0], self._marks[-1]
            return (flows - before) * _NS / max(now_ns - began_ns, 1)
        first, last = self._span or (0, 0)
        return self.flows * _NS / max(last - first, _NS)


def denials_of(flow: flow_pb2.Flow) -> Iterable[Denial]:
    """The policies that a verdict names, or that there is none."""
    ingress = flow.traffic_direction == flow_pb2.INGRESS
    direction = "ingress" if ingress else "egress" if flow.traffic_direction == flow_pb2.EGRESS else "-"
    found = flow.ingress_denied_by if ingress else flow.egress_denied_by
    names = [f"{one.namespace}/{one.name}" if one.namespace else one.name for one in found]
    return [Denial(name, direction) for name in names or [NO_POLICY]]


def _reason(flow: flow_pb2.Flow) -> str:
    """As `hubble observe` calls it; a proxy drops requests for no reason that has a number."""
    if flow.event_type.type == _DROP:
        return drop_reason(flow.event_type.sub_type)
    return f"{flow.l7.WhichOneof('record') or 'l7'} request denied" if flow.HasField("l7") else "unknown"
