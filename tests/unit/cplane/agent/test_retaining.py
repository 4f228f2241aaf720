"""An agent moves older events into the archive and drops those that are too old, while it goes on to append."""

from pathlib import Path
from random import Random

import anyio
import pytest

from cplane.agent import retaining
from cplane.agent.retaining import retain, retain_often
from cplane.config.model import AgentConfig, BadConfig
from cplane.eventlog import archiving
from cplane.eventlog.archive import folder_of
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import draft
from cplane.eventlog.reader import open_history
from cplane.eventlog.store import SqliteLog
from cplane.eventlog.verify import verify_file
from cplane.events.envelope import Proposed
from cplane.telemetry.clock import SystemClock
from tests.support import churn
from tests.support.clock import TickingClock
from tests.support.log import proposal

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
DAY_NS = 86_400_000_000_000


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving, "SEGMENT", 20)
    monkeypatch.setattr(retaining, "_IDLE_S", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return churn.stored(tmp_path / "log.db", churn.recorded(Random(13), 60)[0])


def config(path: Path, after: int, days: int = 0) -> AgentConfig:
    return AgentConfig(log=f"sqlite:///{path}", log_archive_after=after, log_keep_days=days)


def segments(path: Path) -> int:
    folder = Path(folder_of(str(path)))
    return len(list(folder.glob("*.segment"))) if folder.exists() else 0


def obstruct(path: Path) -> None:
    """Where the archive would be is something else."""
    Path(folder_of(str(path))).write_text("in the way")


async def test_whole_segments_leave_the_file_while_others_append(path: Path) -> None:
    async with SqliteLog.open(str(path), TickingClock()) as log:
        head, version = log.head, 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(retain_often, config(path, 30), SystemClock())
            with anyio.fail_after(20):
                while segments(path) < 5:
                    await log.append(proposal(version, stream="others"))
                    version += 1
            tasks.cancel_scope.cancel()
        read = [one.position for one in await log.read(0, 10_000)]
        assert read == list(range(1, head + version + 1))
    assert verify_file(str(path)).fault == ""


def test_what_is_less_than_a_segment_waits(path: Path) -> None:
    with open_history(str(path)) as history:
        head = history.head
    moved, _ = retain(config(path, head - 45), now_ns=0)
    assert (moved.events, moved.end) == (40, 40)


def test_events_older_than_the_horizon_are_dropped(path: Path) -> None:
    with open_history(str(path)) as history:
        at_ns = history.recorded_at_ns(50)
    _, dropped = retain(config(path, 10, days=3), now_ns=at_ns + 3 * DAY_NS)
    assert dropped.start == 40
    _, dropped = retain(config(path, 10, days=3), now_ns=at_ns + 3 * DAY_NS)
    assert (dropped.events, dropped.start) == (0, 40)


def test_a_clock_that_was_set_back_makes_nothing_old_that_came_before(tmp_path: Path) -> None:
    chain, rows = Chain(), []
    young_ns = churn.BEGAN_NS + 9 * DAY_NS
    for number, decided in zip(range(80), churn.Churn(Random(13), pods=4, policies=20).turns(), strict=False):
        at_ns = young_ns if 20 <= number < 40 or number >= 60 else churn.BEGAN_NS
        expected = {stream: chain.versions.get(stream, 0) for stream, _ in decided}
        rows += chain.extend(draft(Proposed(events=decided, expected=expected, actor="test")), expected, at_ns)[0]
    path = churn.stored(tmp_path / "log.db", rows)
    with open_history(str(path)) as history:
        first = history.older_than(young_ns) + 1
        assert history.position_at(young_ns - 1) > first + 20  # what was recorded when the clock had been set back
    _, dropped = retain(config(path, 1, days=3), now_ns=young_ns)
    assert first - 20 <= dropped.start < first


def test_nothing_is_dropped_before_it_is_old(path: Path) -> None:
    _, dropped = retain(config(path, 10, days=3), now_ns=churn.BEGAN_NS + DAY_NS)
    assert dropped.start == 0


async def test_what_fails_is_told_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    obstruct(path)
    told: list[str] = []

    class Heard:
        def error(self, entry: object) -> None:
            told.append(str(entry))

    monkeypatch.setattr(retaining, "log", Heard())
    with anyio.move_on_after(0.5):
        await retain_often(config(path, 10), SystemClock())
    assert len(told) == 1
    assert folder_of(str(path)) in told[0]


def test_a_horizon_without_an_archive_is_refused(path: Path) -> None:
    with pytest.raises(BadConfig, match="log_archive_after"):
        config(path, 0, days=3)


@pytest.mark.parametrize("key", ["log_archive_after", "log_keep_days"])
def test_negative_numbers_are_refused(key: str) -> None:
    with pytest.raises(BadConfig, match=key):
        AgentConfig(**{"log_archive_after": 10, key: -1})
