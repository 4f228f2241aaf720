"""Processes that export flows and are killed at a chosen write: the victims of the test of exports.

    python -m tests.support.exporting FOLDER

For each line `COUNT` that it reads it starts another process, which goes on with the flow ring in FOLDER, sees some
more flows and exports them. At its COUNTth write to a file of the export or to its mark it has written half of it, and
is killed; 0: it is not. Then it says `killed`, or `done` when it came to its end. One process that forks, because to
import everything takes longer than to be killed.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import anyio

from cplane.hubble.exporter import run as exporting
from cplane.hubble.exporter.config import Export
from cplane.hubble.exporter.run import Exports
from cplane.hubble.kept import open_store
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.store import FlowStore
from tests.support.flows import SEED, START_NS, World, records

FLOWS = 9  # that each process sees
BATCH = 2  # lines that are written at a time


class Killing:
    """Writes of this process, the last of which is half done."""

    def __init__(self, count: int) -> None:
        self.left = count

    def around(self, write: Callable[..., int]) -> Callable[..., int]:
        def wrapped(fd: int, data: Any, *where: int) -> int:  # Any: bytes or a view of them
            self.left -= 1
            if not self.left:
                if not where:  # those to a place are of a mark, and too short to be torn
                    write(fd, bytes(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return write(fd, data, *where)

        return wrapped


async def victim(folder: str, count: int) -> None:
    """Sees flows and exports them."""
    store = open_store(f"{folder}/ring", cluster="c", node="n", capacity=1024, new_id=SEED, boot=bytes(16))
    parser = Parser(store, World())
    export = Export(name="static", path=f"{folder}/flows.log", max_bytes=4_000, backups=0)
    exports = Exports(store, lambda: START_NS, static=export, watched="", marks=f"{folder}/marks")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exports.run)
        # a mark says nothing when it changes
        while (running := exports._running.get("static")) is None or running[0].mark.reached is None:  # noqa: ASYNC110
            await anyio.sleep(0.001)
        killing = Killing(count)
        if count:
            os.write, os.pwrite = killing.around(os.write), killing.around(os.pwrite)
        see(store, parser)
        while running[0].mark.reached.position < store.ring.written:  # noqa: ASYNC110
            await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()


def see(store: FlowStore, parser: Parser) -> None:
    """Flows whose source ports count them, whoever saw those before."""
    first = store.ring.written + 1
    store.resume(0)
    parser.ingest(records(*({"sport": number} for number in range(first, first + FLOWS))), START_NS)
    store.changed.notify()


def main(folder: str) -> None:
    """One victim for each line."""
    exporting.BATCH, exporting.BATCHES, exporting._REST_S = BATCH, 1, 0.001  # type: ignore[misc]
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            anyio.run(victim, folder, int(line))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        os.write(1, b"done\n" if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0 else b"killed\n")


if __name__ == "__main__":
    main(sys.argv[1])
