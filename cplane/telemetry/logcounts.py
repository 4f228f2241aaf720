"""Counts log lines that somebody may have to act upon."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client.metrics_core import Metric

from cplane.telemetry.metrics import Counters

_SUBSYSTEMS_MAX: Final = 100
_OWN: Final = "cplane."


class LogCounts(logging.Handler):
    """Warnings and errors by the component that wrote them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._counts = Counters(
            "cilium_errors_warnings_total",
            "Warnings and errors in the log.",
            ("level", "subsystem"),
            limit=_SUBSYSTEMS_MAX,
        )

    def emit(self, record: logging.LogRecord) -> None:
        """One more line."""
        self._counts.at(record.levelname.lower(), record.name.removeprefix(_OWN)).value += 1

    def metrics(self) -> Iterable[Metric]:
        """How many there were."""
        return (self._counts.metric(),)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Lines are counted inside the block."""
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)
