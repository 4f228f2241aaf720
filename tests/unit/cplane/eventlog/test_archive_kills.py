"""Whoever archives and compacts may be killed at any instant, again and again over one log: nothing is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from cplane.eventlog.archive import folder_of
from cplane.eventlog.reader import MemoryReader, open_history
from cplane.eventlog.verify import verify_file
from cplane.timetravel.history import History
from tests.support import churn
from tests.support.archiver import SEGMENT

pytestmark = pytest.mark.slow
KILLS_MIN, KILLS_MAX = 8, 40


def killed(nursery, after_s: float) -> bool:
    """A victim was killed so long after it began; False: it was faster."""
    nursery.stdin.write("another\n")
    nursery.stdin.flush()
    word, _, pid = nursery.stdout.readline().strip().partition(" ")
    assert word == "pid", "the nursery has ended"
    time.sleep(after_s)  # the instant is what is random here
    try:
        os.kill(int(pid), signal.SIGKILL)
    except ProcessLookupError:
        pass  # it is done, and says so
    return nursery.stdout.readline() == "killed\n"


def test_nothing_is_lost_by_any_kill(tmp_path: Path) -> None:
    rows, entries = churn.recorded(Random(21), 180)
    path = churn.stored(tmp_path / "log.db", rows)
    memory = History(MemoryReader(entries))
    chance = random.Random(21)
    kills, starts, patience_s = 0, {0}, 0.25
    command = [sys.executable, "-m", "tests.support.archiver", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        assert nursery.stdin is not None
        while kills < KILLS_MAX and killed(nursery, chance.uniform(0.01, patience_s)):
            kills += 1
            if starts == {0}:
                patience_s *= 1.15  # a busy machine takes longer until there is anything to drop
            found = verify_file(str(path))
            assert (found.events, found.fault) == (len(rows), ""), kills
            with open_history(str(path)) as history:
                starts.add(history.start)
                assert list(history.entries(history.start, history.head)) == entries[history.start :]
                at = chance.randrange(history.start, history.head)
                assert history.ledger(at).dump() == memory.ledger(at).dump()
        nursery.stdin.close()
    assert kills >= KILLS_MIN
    assert max(starts) > 0, "some died while they dropped events"
    assert all(start % SEGMENT == 0 for start in starts - {max(starts)})
    assert [name for name in os.listdir(folder_of(str(path))) if name.endswith((".segment", ".beginning"))]
