"""Logging: one line per command, reconcile round and connection, written at its end, to standard error.

log = logger("engine")
log.info(line("command", kind="policy.apply", events=3, took_ms=1.2))
"""

import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TextIO, Unpack

from cplane.telemetry.fields import Fields


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Who imports the package meanwhile goes on as where it is not installed."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # so the import system has it
    try:
        yield
    finally:
        del sys.modules[package]


with _without("rich"):  # for colours, which our lines have not; 4 MB, and 0.08 s of each start
    import structlog
    from structlog.typing import Processor

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["text", "json"]

_LEVELS: Final[dict[Level, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_LOUD: Final = ("asyncio", "alembic", "hpack", "sqlalchemy", "pyroute2")  # say little of use below a warning
_NO_FILES: Final = "socket.accept() out of system resource"
_SELDOM_S: Final = 10.0


class Seldom(logging.Filter):
    """asyncio says a hundred times a second that a process has too many open files: one line in ten seconds says it."""

    def __init__(self) -> None:
        super().__init__()
        self._told = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is worth a line."""
        if not record.getMessage().startswith(_NO_FILES):
            return True
        if abs(record.created - self._told) < _SELDOM_S:
            return False
        self._told = record.created
        return True


_SELDOM: Final = Seldom()


@dataclass(frozen=True, slots=True)
class Line:
    """One log line: what happened, and its fields."""

    event: str
    fields: Fields


class Log(Protocol):
    """Where lines go. `error` means that somebody must act."""

    def debug(self, entry: Line) -> None:
        """For development."""
        ...

    def info(self, entry: Line) -> None:
        """What happened, as it should."""
        ...

    def warning(self, entry: Line) -> None:
        """What happened, and should not, and was dealt with."""
        ...

    def error(self, entry: Line) -> None:
        """What happened, and somebody must act."""
        ...

    def exception(self, entry: Line) -> None:
        """What happened by a mistake of ours, with the traceback of the error that is being handled."""
        ...


def line(event: str, **fields: Unpack[Fields]) -> Line:
    """A log line. `event` is a short fixed text; what varies stands in the fields."""
    return Line(event, fields)


def configure(level: Level = "info", style: Format = "text", stream: TextIO | None = None) -> None:
    """Lines from `level` up go to `stream`, by default standard error; libraries' lines too."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _event_first,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event", "logger"], sort_keys=False)
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    logging.getLogger("asyncio").addFilter(_SELDOM)
    for name in _LOUD:
        logging.getLogger(name).setLevel(max(_LEVELS[level], logging.WARNING))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def logger(component: str) -> Log:
    """The log of one component of cplane, `cplane.<component>`."""
    return _Logger(component)


class _Logger:
    """A component's log, on structlog."""

    def __init__(self, component: str) -> None:
        self._log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(f"cplane.{component}")

    def debug(self, entry: Line) -> None:
        self._log.debug(entry.event, **entry.fields)

    def info(self, entry: Line) -> None:
        self._log.info(entry.event, **entry.fields)

    def warning(self, entry: Line) -> None:
        self._log.warning(entry.event, **entry.fields)

    def error(self, entry: Line) -> None:
        self._log.error(entry.event, **entry.fields)

    def exception(self, entry: Line) -> None:
        self._log.exception(entry.event, **entry.fields)


def _event_first(_log: object, _method: str, fields: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """JSON lines begin with time, level and event, so that people can read them too."""
    first = {key: fields[key] for key in ("timestamp", "level", "event", "logger") if key in fields}
    return {**first, **{key: value for key, value in fields.items() if key not in first}}
