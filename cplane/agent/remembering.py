"""What questions about the past need of the log is worked out as it grows, so that nobody waits for it."""

from functools import partial
from typing import Final

import anyio
from anyio import to_thread

from cplane.agent.attempts import Attempts
from cplane.config.model import AgentConfig
from cplane.eventlog.reader import remember
from cplane.telemetry.log import line, logger

_IDLE_S: Final = 30.0
_PAUSE_S: Final = 1.0  # between two pieces of an old log: for each, others wait 0.1 s for the interpreter

log = logger("history")


async def remember_often(config: AgentConfig) -> None:
    """Every snapshot that is due is made, and the index of changes, a piece at a time, until cancelled.

    A log that cannot be read is told.
    """
    due = partial(remember, config.log_location, node=config.node_name, folder=config.history_dir)
    attempts = Attempts(partial(to_thread.run_sync, due, limiter=anyio.CapacityLimiter(1)), _failed)
    while True:
        made = await attempts.once()
        await anyio.sleep(_PAUSE_S if made else _IDLE_S)


def _failed(fault: str) -> None:
    log.error(line("history", kind="snapshot", error=fault, detail="questions about the past take longer"))
