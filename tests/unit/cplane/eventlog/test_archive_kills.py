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
from tests.support.effort import examples

pytestmark = pytest.mark.slow
KILLS_MIN, KILLS_MAX = 5, 60
PARTS = examples(16, least=8)  # of the time that all of it takes: so soon the first victims die


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


def nursery_of(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.archiver", str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def undisturbed_s(path: Path) -> float:
    """How long it takes when nobody dies."""
    with nursery_of(path) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        nursery.stdin.write("another\n")
        nursery.stdin.flush()
        assert nursery.stdout.readline().startswith("pid ")
        began = time.monotonic()
        assert nursery.stdout.readline() == "done\n"
        nursery.stdin.close()
        return time.monotonic() - began


def test_nothing_is_lost_by_any_kill(tmp_path: Path) -> None:
    rows, entries = churn.recorded(Random(21), examples(180, least=70))
    path = churn.stored(tmp_path / "log.db", rows)
    memory = History(MemoryReader(entries))
    chance = random.Random(21)
    kills, starts = 0, {0}
    patience_s = undisturbed_s(churn.stored(tmp_path / "other.db", rows)) / PARTS
    with nursery_of(path) as nursery:
        assert nursery.stdin is not None
        while kills < KILLS_MAX and killed(nursery, chance.uniform(patience_s / 2, patience_s)):
            kills += 1
            patience_s *= 1.05  # a machine that has become busy gets on, too
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
