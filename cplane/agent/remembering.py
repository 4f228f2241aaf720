"""Snapshots of the log are made as it grows, so that questions about the past find them."""

from typing import Final

import anyio
from anyio import to_thread

from cplane.errors import CplaneError
from cplane.eventlog.reader import remember
from cplane.telemetry.log import line, logger

_IDLE_S: Final = 30.0
_PAUSE_S: Final = 1.0  # between two of an old log that has none: for each, others wait 50 ms for the interpreter

log = logger("history")


async def remember_often(path: str) -> None:
    """Every snapshot that is due is made, one at a time, until cancelled. A log that cannot be read is told, once."""
    limiter = anyio.CapacityLimiter(1)
    told = False
    while True:
        made, fault = False, ""
        try:
            made = await to_thread.run_sync(remember, path, limiter=limiter)
        except CplaneError as error:
            fault = str(error)
        if fault and not told:
            log.error(line("history", kind="snapshot", error=fault, detail="questions about the past take longer"))
            told = True
        await anyio.sleep(_PAUSE_S if made else _IDLE_S)
