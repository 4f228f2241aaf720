"""A database that is killed at any instant, again and again under one log, has lost nothing that was acknowledged.

CPLANE_TEST_KILLS says how often; the default is for every day.
"""

import os
import random
import signal
import threading

import anyio
import pytest

from cplane.errors import Unavailable
from cplane.eventlog.postgres import PostgresLog
from cplane.eventlog.verify import verify_file
from cplane.telemetry.clock import SystemClock
from tests.support.effort import examples
from tests.support.log import everything, fact, proposal
from tests.support.postgres import NEEDS_POSTGRES, server

pytestmark = [pytest.mark.anyio, pytest.mark.slow, NEEDS_POSTGRES]
KILLS = int(os.environ.get("CPLANE_TEST_KILLS", examples(12)))
CLIENTS = 8


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def mortal():
    """A server that is nobody else's."""
    with server() as made:
        yield made


def end_sessions(mortal, name):
    mortal.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE datname = '{name}' AND application_name LIKE 'cplane agent%'"
    )


def crash(mortal, _name):
    mortal.stop(signal.SIGKILL)
    mortal.start()


class Client:
    """Appends to one stream for ever; what was acknowledged is in `acknowledged`, by position."""

    def __init__(self, log, stream: str, acknowledged: dict[int, bytes]) -> None:
        self.log, self.stream, self.acknowledged = log, stream, acknowledged
        self.version, self.refused = 0, 0

    async def run(self) -> None:
        while True:
            try:
                written = await self.log.append(proposal(self.version, fact(self.version), stream=self.stream))
            except Unavailable:  # whether it was written is found by reading, as an engine does
                self.refused += 1
                await anyio.sleep(0.05)
                self.version = await self.known()
            else:
                self.acknowledged |= {one.position: one.digest for one in written}
                self.version += len(written)

    async def known(self) -> int:
        while True:
            try:
                return sum(one.stream == self.stream for one in await everything(self.log))
            except Unavailable:
                await anyio.sleep(0.05)


@pytest.mark.parametrize(("kill", "times"), [(end_sessions, KILLS), (crash, max(1, KILLS // 4))])
async def test_what_was_acknowledged_survives_every_kill(mortal, kill, times):
    chance = random.Random(7)
    acknowledged: dict[int, bytes] = {}
    with mortal.database() as name:
        url = mortal.url(name)
        async with PostgresLog.open(url, SystemClock(), node="n1") as log, anyio.create_task_group() as tasks:
            for number in range(CLIENTS):
                tasks.start_soon(Client(log, f"s{number}", acknowledged).run)
            for _ in range(times):
                enough = len(acknowledged) + chance.randrange(1, 60)
                with anyio.fail_after(60):
                    while len(acknowledged) < enough:  # noqa: ASYNC110  # others append
                        await anyio.sleep(0.002)
                await in_a_thread(kill, mortal, name)
            tasks.cancel_scope.cancel()
        async with PostgresLog.open(url, SystemClock(), node="n1") as log:
            found = await everything(log)
        assert [one.position for one in found] == list(range(1, len(found) + 1))
        assert acknowledged.items() <= {one.position: one.digest for one in found}.items()
        for number in range(CLIENTS):
            mine = [one for one in found if one.stream == f"s{number}"]
            assert [one.event for one in mine] == [fact(version) for version in range(len(mine))], "each exactly once"
        assert verify_file(url).fault == ""
    assert len(acknowledged) >= times


async def in_a_thread(function, *arguments):
    """As anyio's own, with a thread that is not of those for which readers of the log wait."""
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    while thread.is_alive():  # noqa: ASYNC110  # another thread's progress
        await anyio.sleep(0.01)
