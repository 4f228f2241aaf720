"""An agent's flows from one start to the next: the ring's file, memory, and the archive behind both."""

from pathlib import Path

import pytest

from cplane.agent.flows import flow_history
from cplane.config.model import AgentConfig, HubbleConfig
from cplane.hubble.archive.folder import ArchiveUnavailable
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.ringfile import FileInUse
from cplane.telemetry.clock import SystemClock
from tests.support.flows import START_NS, World, records

pytestmark = pytest.mark.anyio


def config(folder: Path, **hubble: str) -> AgentConfig:
    settings = HubbleConfig(ring_records=1024, archive_max_hours=0, **hubble)  # type: ignore[arg-type]
    return AgentConfig(node_name="n1", state_dir=str(folder), hubble=settings)


async def seen(settings: AgentConfig, count: int) -> tuple[int, int, str]:
    """Oldest and next position at a start with these settings, after which so many flows come; and who the ring is."""
    async with flow_history(settings, SystemClock()) as history:
        ring = history.store.ring
        found = ring.oldest, ring.written, history.store.seed
        Parser(history.store, World()).ingest(records(*({"dport": n} for n in range(count))), START_NS)
    return found


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_flows_are_in_the_state_folder_and_go_on(tmp_path: Path) -> None:
    settings = config(tmp_path)
    first = await seen(settings, 5)
    assert first[:2] == (0, 0)
    assert await seen(settings, 5) == (0, 5, first[2])
    assert files(tmp_path) == ["flows.ring", "flows.ring.payloads", "flows.ring.tables"]


async def test_without_a_file_flows_are_archived_at_the_end_and_positions_go_on(tmp_path: Path) -> None:
    settings = config(tmp_path, ring_path="", archive_path=str(tmp_path / "archive"))
    first = await seen(settings, 5)
    second = await seen(settings, 3)
    assert (first[:2], second[:2]) == ((0, 0), (5, 5))
    assert first[2] != second[2]
    async with flow_history(settings, SystemClock()) as history:
        assert history.archive is not None
        assert [(one.start, one.stop) for one in history.archive.segments] == [(0, 5), (5, 8)]


async def test_a_ring_that_ends_before_the_archive_begins_anew_behind_it(tmp_path: Path) -> None:
    archive = str(tmp_path / "archive")
    await seen(config(tmp_path, ring_path="", archive_path=archive), 7)
    await seen(config(tmp_path), 3)
    assert (await seen(config(tmp_path, archive_path=archive), 0))[:2] == (7, 7)


async def test_a_ring_or_an_archive_of_another_agent_is_refused(tmp_path: Path) -> None:
    settings = config(tmp_path, archive_path=str(tmp_path / "archive"))
    async with flow_history(settings, SystemClock()):
        with pytest.raises(ArchiveUnavailable):
            await seen(settings, 0)
        with pytest.raises(FileInUse):
            await seen(config(tmp_path), 0)
    await seen(settings, 0)
