"""A disk that is full: appends fail and say why, what was acknowledged stays, and space is all it takes to go on."""

import os
import random
import re
from pathlib import Path

import pytest

from cplane.eventlog.errors import StorageFailed
from cplane.eventlog.store import SqliteLog
from cplane.eventlog.verify import verify_file
from cplane.events.envelope import POLICY
from cplane.events.policy import PolicyUpserted
from tests.support.clock import TickingClock
from tests.support.filesystems import small
from tests.support.log import everything, fill, proposal

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a small filesystem is mounted"),
]
SIZE_KIB = 8 << 10


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def disk(tmp_path):
    with small(tmp_path / "disk", SIZE_KIB) as mounted:
        yield mounted


class Ballast:
    """A file that leaves only so much room."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "ballast"

    def leave(self, kib: int) -> None:
        self.drop()
        room = os.statvfs(self._path.parent)
        size = room.f_bavail * room.f_frsize - (kib << 10)
        with self._path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))

    def drop(self) -> None:
        self._path.unlink(missing_ok=True)


async def until_full(log, acknowledged: list) -> StorageFailed:
    """Events are appended as long as there is space; why that ended."""
    while True:
        try:
            acknowledged += await fill(log, 1)
        except StorageFailed as refused:
            return refused


def policy(size: int) -> PolicyUpserted:
    return PolicyUpserted(kind="CiliumNetworkPolicy", namespace="shop", name="p", document="x" * size)


async def test_an_append_that_finds_no_space_says_so_and_the_next_one_that_does_is_written(disk):
    path, ballast = disk / "log", Ballast(disk)
    async with SqliteLog.open(str(path), TickingClock()) as log:
        acknowledged = list(await fill(log, 10, batch=1))
        ballast.leave(0)
        for _ in range(3):
            assert str(await until_full(log, acknowledged)) == (
                f"event log {path}: database or disk is full (SQLITE_FULL); "
                "nothing was written, check space, permissions and the disk"
            )
            assert await everything(log) == acknowledged
        ballast.drop()
        acknowledged += await fill(log, 50)
        assert await everything(log) == acknowledged
    assert verify_file(str(path)).events == len(acknowledged)


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_acknowledged_is_lost_and_nothing_refused_appears_however_often_space_runs_out(disk, seed):
    chance = random.Random(seed)
    path, ballast = disk / "log", Ballast(disk)
    acknowledged, told = [], []
    for _ in range(3):
        async with SqliteLog.open(str(path), TickingClock()) as log:
            for _ in range(5):
                ballast.leave(chance.choice([0, 4, 36, 100, 400, 1000]))
                try:
                    for _ in range(60):
                        events = [policy(chance.choice([10, 3000, 30_000])) for _ in range(chance.randrange(1, 4))]
                        version = len(acknowledged)
                        acknowledged += await log.append(proposal(version, *events, stream=POLICY))
                except StorageFailed as refused:
                    told.append(str(refused))
                assert await everything(log) == acknowledged
                ballast.drop()
        found = verify_file(str(path))
        assert (found.events, found.fault) == (len(acknowledged), "")
    assert len(acknowledged) > 50
    assert len(told) > 3
    assert all(f"event log {path}: " in one and ("is full" in one or "(SQLITE_IOERR" in one) for one in told)


@pytest.mark.parametrize("kib", [0, 4, 16, 32, 64])
async def test_a_log_that_cannot_be_opened_for_want_of_space_opens_when_there_is_some(disk, kib):
    path, ballast, told = disk / "log", Ballast(disk), []
    for count in (0, 5):
        ballast.leave(kib)
        try:
            async with SqliteLog.open(str(path), TickingClock()) as log:
                assert log.head == count
        except StorageFailed as refused:
            told.append(str(refused))
        ballast.drop()
        async with SqliteLog.open(str(path), TickingClock()) as log:
            assert log.head == count
            await fill(log, 5)
    assert verify_file(str(path)).events == 10
    assert all(str(path) in one and re.search("No space left|is full|SQLITE_IOERR", one) for one in told)
    assert told or kib > 32
