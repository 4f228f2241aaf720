"""Older events move out of the log's file into its archive as it grows, and those nobody wants any more are dropped."""

from functools import partial
from typing import Final

import anyio
from anyio import to_thread

from cplane.agent.attempts import Attempts
from cplane.config.model import AgentConfig
from cplane.eventlog.archiving import Archived, Compacted, archive, compact
from cplane.eventlog.reader import open_history
from cplane.telemetry.clock import SystemClock
from cplane.telemetry.log import line, logger

_IDLE_S: Final = 60.0
_DAY_NS: Final = 86_400_000_000_000

log = logger("history")


async def retain_often(config: AgentConfig, clock: SystemClock) -> None:
    """What the configuration wants is done, once a minute, until cancelled. What fails is told, and tried again.

    Nothing is stopped by it: what could not be moved stays in the file.
    """
    if not config.log_archive_after:
        return
    limiter = anyio.CapacityLimiter(1)
    attempts = Attempts(lambda: to_thread.run_sync(partial(retain, config, clock.now_ns()), limiter=limiter), _failed)
    while True:
        await attempts.once()
        await anyio.sleep(_IDLE_S)


def _failed(fault: str) -> None:
    log.error(line("history", kind="archive", error=fault, detail="older events stay in the log's file"))


def retain(config: AgentConfig, now_ns: int) -> tuple[Archived, Compacted]:
    """Once. The caller is the process that has the log, in a thread of its own.

    Raises NotALog, NewerSchema, StorageFailed, BadEvent.
    """
    moved = archive(config.log_path, config.log_archive_after, whole=True)
    position = 0
    if config.log_keep_days:
        with open_history(config.log_path) as history:
            position = history.older_than(now_ns - config.log_keep_days * _DAY_NS)
    return moved, compact(config.log_path, position)
