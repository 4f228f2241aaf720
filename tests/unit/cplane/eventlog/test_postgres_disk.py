"""A database whose disk is full: appends fail and say why, what was acknowledged stays, and space is all it takes."""

import os
import shutil
from contextlib import closing

import psycopg
import pytest

from cplane.eventlog.errors import StorageFailed
from cplane.eventlog.postgres import PostgresLog
from cplane.eventlog.verify import verify_file
from cplane.events.envelope import POLICY
from cplane.events.policy import PolicyUpserted
from tests.support.clock import TickingClock
from tests.support.filesystems import small
from tests.support.log import everything, proposal
from tests.support.postgres import ACCOUNT, NEEDS_POSTGRES

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.root,
    pytest.mark.slow,
    NEEDS_POSTGRES,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a small filesystem is mounted"),
]
SIZE_KIB = 24 << 10
BALLAST_KIB = 4 << 10


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def disk(postgres):
    """A small disk, and the name of a database that is on it."""
    name = f"cptdisk{os.getpid()}"
    with small(postgres.folder / name, SIZE_KIB) as mounted:
        shutil.chown(mounted, ACCOUNT, ACCOUNT)
        statements = (f"CREATE TABLESPACE {name} LOCATION '{mounted}'", f"CREATE DATABASE {name} TABLESPACE {name}")
        with closing(psycopg.connect(postgres.url("postgres"), autocommit=True)) as connection:
            for statement in statements:
                connection.execute(statement.encode())
        try:
            yield mounted, name
        finally:
            postgres.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            postgres.execute(f"DROP TABLESPACE IF EXISTS {name}")


def large(at):
    """An event that no compression makes smaller."""
    event = PolicyUpserted(kind="CNP", namespace="shop", name="p", document=os.urandom(32 << 10).hex())
    return proposal(at, event, stream=POLICY)


async def until_full(log, acknowledged):
    while True:
        acknowledged += await log.append(large(log.head))


async def test_an_append_that_finds_no_space_says_so_and_the_next_one_that_does_is_written(postgres, disk):
    mounted, name = disk
    ballast = mounted / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, BALLAST_KIB << 10)
    acknowledged = []
    async with PostgresLog.open(postgres.url(name), TickingClock(), node="n1") as log:
        for _ in range(2):
            with pytest.raises(StorageFailed, match=r"No space left on device \(SQLSTATE 53100\); nothing was written"):
                await until_full(log, acknowledged)
        assert log.head == len(acknowledged) > 0
        ballast.unlink()
        acknowledged += await log.append(large(log.head))
        assert await everything(log) == acknowledged
    assert verify_file(postgres.url(name)).fault == ""
