"""A writer that is killed at any instant, again and again over one file, has lost nothing that it acknowledged."""

import os
import random
import signal
import subprocess
import sys

import anyio
import pytest

from cplane.eventlog.store import SqliteLog
from cplane.eventlog.verify import verify_file
from tests.support.clock import TickingClock
from tests.support.effort import examples
from tests.support.log import everything

pytestmark = pytest.mark.slow
KILLS = examples(20)


def killed(nursery, after: int) -> dict[int, str]:
    """Position → digest of what a victim acknowledged before it was killed: after so many, or a few more."""
    nursery.stdin.write("another\n")
    nursery.stdin.flush()
    acknowledged: dict[int, str] = {}
    pid = 0
    while (line := nursery.stdout.readline()) != "gone\n":
        assert line, "the nursery has ended"
        word, _, rest = line.strip().partition(" ")
        if word == "pid":
            pid = int(rest)
        else:
            acknowledged[int(word)] = rest
        if pid > 0 and len(acknowledged) >= after:
            os.kill(pid, signal.SIGKILL)
            pid = -1  # once
    return acknowledged


async def events(path):
    """What an agent finds at its next start."""
    async with SqliteLog.open(str(path), TickingClock()) as log:
        return await everything(log)


def test_what_was_acknowledged_survives_every_kill(tmp_path):
    chance = random.Random(20)
    path = tmp_path / "log"
    acknowledged: dict[int, str] = {}
    command = [sys.executable, "-m", "tests.support.appender", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        assert nursery.stdin is not None
        for number in range(KILLS):
            # The first dies while it makes the file, or soon after; some die before they could say anything.
            after = 0 if number % 7 == 0 else chance.randrange(1, 400)
            new = killed(nursery, after)
            assert not new.keys() & acknowledged.keys(), "no position is given twice"
            acknowledged |= new
            found = anyio.run(events, path)
            assert [one.position for one in found] == list(range(1, len(found) + 1))
            held = {one.position: one.digest.hex() for one in found}
            assert acknowledged.items() <= held.items()
            assert verify_file(str(path)).fault == ""
        nursery.stdin.close()
    assert nursery.returncode == 0
    assert len(acknowledged) > 20 * KILLS
