"""An agent makes the snapshots of its log as it grows, and tells once when it cannot."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random

import anyio
import pytest

from cplane.agent import remembering
from cplane.config.model import AgentConfig
from cplane.eventlog import snapshots
from cplane.eventlog.beside import place_of
from tests.support import churn
from tests.support.log import sql

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
EVERY = 20


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "EVERY", EVERY)
    monkeypatch.setattr(remembering, "_IDLE_S", 0.01)
    monkeypatch.setattr(remembering, "_PAUSE_S", 0.0)


def kept(path: Path) -> list[int]:
    if not Path(place_of(str(path))).exists():
        return []
    with closing(sqlite3.connect(place_of(str(path)))) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'snapshots'").fetchall():
            return []  # it is being made
        return [row[0] for row in connection.execute("SELECT position FROM snapshots ORDER BY position")]


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not true():  # noqa: ASYNC110  # what another thread writes rings no bell
            await anyio.sleep(0.01)


async def test_every_snapshot_is_made_and_those_of_what_comes_later(tmp_path: Path) -> None:
    rows, _ = churn.recorded(Random(8), 60)
    path = churn.stored(tmp_path / "log.db", rows[:50])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(remembering.remember_often, AgentConfig(log=f"sqlite:///{path}"))
        await until(lambda: kept(path) == [20, 40])
        churn.stored(path, rows[50:110])
        await until(lambda: kept(path) == [20, 40, 60, 80, 100])
        tasks.cancel_scope.cancel()


async def test_a_log_that_cannot_be_read_is_told_once_and_tried_again(tmp_path: Path) -> None:
    rows, _ = churn.recorded(Random(8), 60)
    path = churn.stored(tmp_path / "log.db", rows[:50])
    sql(path, "DELETE FROM events WHERE position = 30")
    told: list[str] = []

    class Heard:
        def error(self, entry: object) -> None:
            told.append(str(entry))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remembering, "log", Heard())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(remembering.remember_often, AgentConfig(log=f"sqlite:///{path}"))
            await until(lambda: bool(told) and kept(path) == [20])
            await anyio.sleep(0.1)
            tasks.cancel_scope.cancel()
    assert len(told) == 1
    assert "position 30" in told[0]
