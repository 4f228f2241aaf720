"""Processes that append for ever and say what was acknowledged, to be killed: the victims of the crash test.

    python -m tests.support.appender PATH

For each line that it reads it starts another process, says `pid <number>`, waits until that is gone, and says `gone`.
Such a process opens the log and appends for many clients at once; for each event whose append has returned it says
`<position> <digest>`. One process that forks, because to import everything takes longer than to be killed.
"""

import os
import sys
from collections import Counter

import anyio

from cplane.eventlog.store import SqliteLog
from cplane.telemetry.clock import SystemClock
from tests.support.log import everything, fact, proposal

CLIENTS = 8


def say(*lines: str) -> None:
    """All lines in one write, so that they are there as a whole or not at all."""
    os.write(1, "".join(f"{line}\n" for line in lines).encode())


async def append(log, stream: str, version: int) -> None:
    """One client: sometimes one event, sometimes three."""
    while True:
        events = [fact(version + 1 + more) for more in range(3 if version % 4 == 0 else 1)]
        written = await log.append(proposal(version, *events, stream=stream))
        say(*(f"{one.position} {one.digest.hex()}" for one in written))
        version += len(written)


async def victim(path: str) -> None:
    """Appends until it is killed."""
    async with SqliteLog.open(path, SystemClock()) as log:
        versions = Counter(str(one.stream) for one in await everything(log))
        async with anyio.create_task_group() as tasks:
            for number in range(CLIENTS):
                tasks.start_soon(append, log, f"s{number}", versions[f"s{number}"])


def main(path: str) -> None:
    """One victim for each line."""
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            anyio.run(victim, path)
            os._exit(1)
        say(f"pid {pid}")
        os.waitpid(pid, 0)
        say("gone")


if __name__ == "__main__":
    main(sys.argv[1])
