"""The metrics that are wanted of one store's flows, and the task that counts them."""

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Final

import anyio
import anyio.lowlevel
import numpy as np
from prometheus_client.metrics_core import Metric as Family

from cplane.config.metrics import Contexts, WantedMetric
from cplane.hubble.endpoint import EndpointMeta
from cplane.hubble.follower import Follower
from cplane.hubble.metrics.contexts import Ends, Pod
from cplane.hubble.metrics.kind import ADDRESSES, ENDS, Grouping, Kind, Representatives
from cplane.hubble.metrics.messages import MESSAGE_METRICS, MessageMetric, record_name
from cplane.hubble.metrics.packets import (
    L7,
    PACKET_METRICS,
    UNKNOWN_L7,
    Drop,
    Flow,
    FlowsToWorld,
    Metric,
    PacketMetric,
    Policy,
    is_host,
    is_world,
)
from cplane.hubble.metrics.tally import Tally
from cplane.hubble.ring import Loss, LossSource, Span
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from cplane.telemetry.metrics import SETS_MAX, Count, Counters, Histograms, cardinality

CHUNK: Final = 1 << 11  # rows that are grouped before others have their turn
KINDS_MAX: Final = 1 << 16  # kinds whose series are remembered; all are forgotten beyond that
LINGER_NS: Final = 60 * 1_000_000_000  # how long the series of a pod outlive it
_ENDS: Final = len(ENDS) + len(ADDRESSES)  # fields of a kind that say who they are, the last ones
_REST_S: Final = 0.1  # between looks: the more rows come at a time, the cheaper each is
_SWEEP_S: Final = 10.0
_SOURCES: Final = {
    LossSource.UNKNOWN: "unknown",  # while there was no agent
    LossSource.KERNEL_RING: "perf_event_ring_buffer",
    LossSource.QUEUE: "observer_events_queue",
    LossSource.FLOW_RING: "hubble_ring_buffer",
}


class FlowMetrics:
    """Counts flows. `limit` is how many label sets one metric may have.

    `request` makes a flow of a row of layer 7, with as much as metrics look at: verdict, direction and request.
    """

    def __init__(
        self,
        store: FlowStore,
        wanted: Sequence[WantedMetric],
        *,
        limit: int = SETS_MAX,
        request: Callable[[Span, int], flow_pb2.Flow] | None = None,
    ) -> None:
        self._store = store
        self._request = request or self._read
        self._packets = [PACKET_METRICS[one.name](one, limit) for one in wanted if one.name in PACKET_METRICS]
        self._messages = [MESSAGE_METRICS[one.name](one, limit) for one in wanted if one.name in MESSAGE_METRICS]
        metrics: list[Metric] = [*self._packets, *self._messages]
        columns = frozenset[str]().union(*(m.columns | m.contexts.columns for m in self._packets))
        self._grouping = Grouping(columns, self._representatives())
        self._lost = Counters("hubble_lost_events_total", "Number of lost events.", ("source",))
        self._families = [self._lost, *(family for metric in metrics for family in metric.families)]
        self._kinds = Tally(self._series)
        given: dict[Contexts, int] = {}
        self._contexts = [given.setdefault(one.contexts.given, len(given)) for one in self._packets]
        self._shown: dict[Hashable, dict[int, tuple[str, ...]]] = {}  # values of those contexts by ends
        self._generation = store.generation
        self._of_pods: dict[Pod, set[tuple[Counters | Histograms, tuple[str, ...]]]] = {}
        self._gone_ns: dict[Pod, int] = {}

    def _representatives(self) -> dict[str, Representatives]:
        """Endpoints that look the same to all metrics count as one."""
        contexts = [metric.contexts for metric in self._packets]

        def source(meta: EndpointMeta) -> Hashable:
            return (is_host(meta), *(one.look(meta, destination=False) for one in contexts))

        def destination(meta: EndpointMeta) -> Hashable:
            return (is_world(meta), *(one.look(meta, destination=True) for one in contexts))

        endpoints = self._store.endpoints
        return {
            "src_meta": Representatives(endpoints, source),
            "dst_meta": Representatives(endpoints, destination),
        }

    def add(self, span: Span) -> None:
        """The rows are counted."""
        if self._generation != self._store.generation or len(self._kinds) > KINDS_MAX:
            self._forget()
            self._generation = self._store.generation
        self._kinds.add(*self._grouping.groups(span))
        if self._packets or self._messages:
            for row in np.flatnonzero(span["type"] == L7).tolist():
                self._message(span, row)

    def lose(self, losses: Iterable[Loss]) -> None:
        """Flows are missing."""
        for loss in losses:
            self._lost.at(_SOURCES[loss.source]).value += loss.count

    def families(self) -> list[Family]:
        """Everything that was counted up to now."""
        self._kinds.settle()
        return [*(family.metric() for family in self._families), *cardinality(self._families)]

    def sweep(self, live: Collection[Pod], now_ns: int) -> int:
        """The series of pods that have not been `live` for a minute are gone. Returns how many there were.

        `now_ns` is of a clock that never steps.
        """
        self._kinds.settle()
        forgotten = 0
        for pod in tuple(self._of_pods):
            if pod in live:
                self._gone_ns.pop(pod, None)
            elif now_ns - self._gone_ns.setdefault(pod, now_ns) >= LINGER_NS:
                del self._gone_ns[pod]
                for family, labels in self._of_pods.pop(pod):
                    forgotten += labels in family
                    family.forget(labels)
        if forgotten:
            self._forget()
        return forgotten

    def _forget(self) -> None:
        """What is known of kinds holds no longer."""
        self._kinds.forget()
        self._shown.clear()

    def _series(self, data: bytes) -> tuple[Count, ...]:
        """Where a flow of the kind counts."""
        kind = self._grouping.kind(data)
        ends = Ends(self._store, kind)
        # many kinds have the same ends, and many metrics the same contexts
        shown = self._shown.setdefault((kind.direction, kind.ip_version, kind[-_ENDS:]), {})
        found: list[Count] = []
        for metric, number in zip(self._packets, self._contexts, strict=True):
            contexts = metric.contexts
            for family, own in metric.hits(kind, ends):
                values = shown.get(number)
                if values is None:
                    values = shown[number] = contexts.values(kind.direction, ends)
                labels = (*values, *own)
                found.append(family.at(*labels))
                if contexts.is_of_pods:
                    self._bind(metric, family, labels, ends)
        return tuple(found)

    def _message(self, span: Span, row: int) -> None:
        """A flow of layer 7 is counted by its content."""
        flow = self._request(span, row)
        for metric in self._messages:
            ends = self._ends(span, row)
            if metric.answers_swap and flow.l7.type == flow_pb2.RESPONSE:
                ends = ends.swapped()
            for family, labels in metric.add(flow, ends):
                self._bind(metric, family, labels, ends)
        name = record_name(flow)
        for one in self._packets:
            if isinstance(one, Flow):
                self._count(one, *one.seventh(name, flow.verdict), self._ends(span, row), flow)
            elif isinstance(one, FlowsToWorld):
                kind = self._kind(span, row)
                for hit in one.seventh(name or UNKNOWN_L7, kind, Ends(self._store, kind)):
                    self._count(one, *hit, self._ends(span, row), flow)
            elif isinstance(one, Policy):
                hit = one.seventh(f"l7/{name.lower()}", flow.traffic_direction, flow.verdict)
                self._count(one, *hit, self._ends(span, row), flow)
            elif isinstance(one, Drop) and flow.verdict == flow_pb2.DROPPED:
                self._count(one, *one.seventh(name, flow.drop_reason_desc), self._ends(span, row), flow)

    def _read(self, span: Span, row: int) -> flow_pb2.Flow:
        """To build all of the flow would take ten times as long."""
        flow = flow_pb2.Flow.FromString(self._store.payload(int(span["detail"][row]), int(span["cookie"][row])))
        flow.verdict = int(span["verdict"][row])  # type: ignore[assignment]  # enumerations are open
        flow.traffic_direction = int(span["direction"][row])  # type: ignore[assignment]
        flow.drop_reason_desc = int(span["reason"][row])  # type: ignore[assignment]
        return flow

    def _count(
        self, metric: PacketMetric, family: Counters, own: tuple[str, ...], ends: Ends, flow: flow_pb2.Flow
    ) -> None:
        labels = (*metric.contexts.values(flow.traffic_direction, ends), *own)
        family.at(*labels).value += 1
        self._bind(metric, family, labels, ends)

    def _ends(self, span: Span, row: int) -> Ends:
        return Ends(self._store, self._kind(span, row))

    @staticmethod
    def _kind(span: Span, row: int) -> Kind:
        """Of one row, with all that its metrics may look at."""
        kind = Kind(*(0,) * 16)
        return kind._replace(**{name: int(span[name][row]) for name in kind._fields if name != "pad"})

    def _bind(
        self,
        metric: PacketMetric | MessageMetric,
        family: Counters | Histograms,
        labels: tuple[str, ...],
        ends: Ends,
    ) -> None:
        if labels in family:  # and not in its overflow, which is of no pod
            for pod in metric.contexts.pods(ends):
                self._of_pods.setdefault(pod, set()).add((family, labels))


async def count(
    store: FlowStore, metrics: FlowMetrics, *, pods: Callable[[], Collection[Pod]], monotonic_ns: Callable[[], int]
) -> None:
    """Flows are counted from now on until this is cancelled. `pods` are those of this node, as they are now."""
    follower = Follower(store)
    swept_ns = monotonic_ns()
    while True:
        taken = follower.take(CHUNK)
        metrics.lose(taken.losses)
        if taken.span is not None:
            metrics.add(taken.span)
            await anyio.lowlevel.checkpoint()
            continue
        now = monotonic_ns()
        if now - swept_ns >= _SWEEP_S * 1e9:
            swept_ns = now
            metrics.sweep(pods(), now)
        with anyio.move_on_after(_SWEEP_S):
            await follower.wait()
        await anyio.sleep(_REST_S)
