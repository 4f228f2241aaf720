"""An event log that knows how long it takes."""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Final

from prometheus_client.metrics_core import Metric

from cplane.engine.ports import EventLog
from cplane.errors import CplaneError
from cplane.events.envelope import Envelope, Proposed
from cplane.telemetry.metrics import Counters, Histograms

_BOUNDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0)  # a sync takes 0.2 to 20 ms


class TimedLog:
    """Another log, whose appends are timed and whose failures are counted."""

    def __init__(self, inner: EventLog, monotonic_ns: Callable[[], int]) -> None:
        self._inner, self._monotonic_ns = inner, monotonic_ns
        self._took = Histograms("cplane_log_append_seconds", "How long appends to the log took.", bounds=_BOUNDS)
        self._failed = Counters("cplane_log_append_failures_total", "Appends that the log did not take.")
        self._took.at()
        self._failed.at()

    @property
    def head(self) -> int:
        """Position of the last durable event."""
        return self._inner.head

    async def append(self, proposed: Proposed) -> Sequence[Envelope]:
        """The events are durable. Raises Conflict and Unavailable."""
        started = self._monotonic_ns()
        try:
            appended = await self._inner.append(proposed)
        except CplaneError:
            self._failed.at().value += 1
            raise
        self._took.at().observe((self._monotonic_ns() - started) / 1e9)
        return appended

    async def read(self, after: int = 0, limit: int = 1000) -> Sequence[Envelope]:
        """Events after a position."""
        return await self._inner.read(after, limit)

    def tail(self, after: int = 0) -> AsyncGenerator[Sequence[Envelope], None]:
        """Events after a position, and those to come."""
        return self._inner.tail(after)

    def metrics(self) -> Iterable[Metric]:
        """How long appends took, and how many failed."""
        return (self._took.metric(), self._failed.metric())
