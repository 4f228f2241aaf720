"""What a process tells whoever scrapes it: counters that events raise, and readings that are taken when asked.

Counters are bounded: a label set that comes when there is no room for it shares one set with all others of its kind,
whose labels are all `__overflow__`; two metrics say how many sets there are and how much went there.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, TypeVar

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

Labels = tuple[str, ...]
Source = Callable[[], Iterable[Metric]]

SETS_MAX: Final = 10_000  # label sets of one metric, unless it is told otherwise
OVERFLOW: Final = "__overflow__"
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # Prometheus' own, seconds
_LABEL_MAX: Final = 256  # characters of a value: who is observed chooses some of them


class Count:
    """One series of a counter; `value` only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Distribution:
    """One series of a histogram."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """One more value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def value(self) -> int:
        """How many values there were."""
        return sum(self.counts)


S = TypeVar("S", bound=Count | Distribution)


class Bounded(Generic[S]):
    """The series of one metric by their labels, at most `limit` of them and one for what found no room."""

    def __init__(self, name: str, told: str, labels: Labels, make: Callable[[], S], *, limit: int = SETS_MAX) -> None:
        self.name, self.help, self.labels = name, told, labels
        self._make, self._limit = make, limit
        self._series: dict[Labels, S] = {}
        self._overflow: S | None = None

    def __len__(self) -> int:
        return len(self._series)

    def __contains__(self, labels: Labels) -> bool:
        return labels in self._series

    @property
    def overflowed(self) -> int:
        """How much was counted for sets that found no room."""
        return 0 if self._overflow is None else self._overflow.value

    def at(self, *labels: str) -> S:
        """The series of these labels, from now on; the one of the overflow where there is no room for it."""
        assert len(labels) == len(self.labels), (self.name, self.labels, labels)
        found = self._series.get(labels)
        if found is not None:
            return found
        if len(self._series) < self._limit:
            made = self._series[labels] = self._make()
            return made
        if self._overflow is None:
            self._overflow = self._make()
        return self._overflow

    def forget(self, labels: Labels) -> None:
        """The series is gone; whoever holds it counts for nobody."""
        self._series.pop(labels, None)

    def items(self) -> Iterable[tuple[Labels, S]]:
        """Every series with its labels as they are shown."""
        for labels, series in self._series.items():
            yield tuple(_shown(value) for value in labels), series
        if self._overflow is not None:
            yield (OVERFLOW,) * len(self.labels), self._overflow


class Counters(Bounded[Count]):
    """A counter with labels."""

    def __init__(self, name: str, told: str, labels: Labels = (), *, limit: int = SETS_MAX) -> None:
        super().__init__(name, told, labels, Count, limit=limit)

    def metric(self) -> Metric:
        """What it counts up to now."""
        family = CounterMetricFamily(self.name, self.help, labels=self.labels)
        for labels, series in self.items():
            family.add_metric(labels, series.value)
        return family


class Histograms(Bounded[Distribution]):
    """A histogram with labels. `bounds` are the upper ends of its buckets."""

    def __init__(
        self,
        name: str,
        told: str,
        labels: Labels = (),
        *,
        bounds: Sequence[float] = BUCKETS,
        limit: int = SETS_MAX,
    ) -> None:
        super().__init__(name, told, labels, lambda: Distribution(bounds), limit=limit)
        self._bounds = (*map(str, bounds), "+Inf")

    def metric(self) -> Metric:
        """How the values lie up to now."""
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        for labels, series in self.items():
            below, buckets = 0, []
            for bound, count in zip(self._bounds, series.counts, strict=True):
                below += count
                buckets.append((bound, float(below)))
            family.add_metric(labels, buckets, series.total)
        return family


def cardinality(families: Iterable[Counters | Histograms]) -> Iterable[Metric]:
    """How many label sets each has, and how much was counted for sets that found no room."""
    sets = GaugeMetricFamily("cplane_metrics_label_sets", "Label sets of a metric.", labels=("metric",))
    lost = CounterMetricFamily(
        "cplane_metrics_overflowed_total",
        "What was counted under no labels of its own, because the metric had as many label sets as it may have.",
        labels=("metric",),
    )
    for family in families:
        if family.labels:
            sets.add_metric((family.name,), len(family))
            lost.add_metric((family.name,), family.overflowed)
    return (sets, lost)


def process(prefix: str) -> Source:
    """CPU, memory and files of this process, as `<prefix>_process_…`."""
    return ProcessCollector(namespace=prefix, registry=None).collect


class _Taken(Collector):
    """Readings that were taken already."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def take(sources: Iterable[Source]) -> list[Metric]:
    """Every metric of the sources as it is now."""
    return [metric for source in sources for metric in source()]


def exposition(metrics: Sequence[Metric], accept: str) -> tuple[bytes, str]:
    """The metrics as text, in a format that a client accepts (a header), and the format's name.

    May run in a thread: nothing here changes any more.
    """
    encode, content_type = choose_encoder(accept)
    return encode(_Taken(metrics)), content_type


def _shown(value: str) -> str:
    """A label's value as it is told: Unicode, and not without end."""
    text = value if value.isascii() else value.encode(errors="replace").decode()
    return text if len(text) <= _LABEL_MAX else f"{text[: _LABEL_MAX - 1]}…"
