"""Flows older than the ring: segments, what becomes of them, and answers that reach from them into the ring."""

import errno
import gc
import os
from collections.abc import Callable, Iterator, MutableMapping
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from cplane.hubble import selection
from cplane.hubble.archive.closing import Closing
from cplane.hubble.archive.folder import ArchiveUnavailable, NoParquet, open_archive
from cplane.hubble.archive.past import ArchivedPast
from cplane.hubble.archive.segment import read, take, write
from cplane.hubble.encode import Encoder, frames
from cplane.hubble.filters import compile_filters
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.ring import FlowRing, LossSource
from cplane.hubble.selection import Query, Reading
from cplane.hubble.server import services
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2
from cplane.transport.client import connect
from tests.support.effort import examples
from tests.support.filesystems import small
from tests.support.flows import SEED, START_NS, World, records
from tests.support.observing import StillClock, get_flows
from tests.support.serving import served

pytestmark = pytest.mark.anyio
SECOND = 10**9
EVEN = flow_pb2.FlowFilter(destination_pod=["shop/api"])
PATTERN = records({"dst_lxc": 12, "dst_identity": 0}, {"dst_lxc": 13, "dst_identity": 0, "ifindex": 8})


def rows(start: int, count: int) -> np.ndarray:
    numbers = np.arange(start, start + count)
    batch = PATTERN[numbers % 2]
    batch["time_ns"], batch["dport"] = numbers * SECOND, numbers
    return batch


class Feed:
    """A small ring with an archive. The n-th flow was seen at second n, at port n; even ones go to a pod `api`."""

    def __init__(self, folder: Path, *, capacity: int = 16, max_mb: int = 1, max_hours: int = 0, seed: str = SEED):
        self.archive = open_archive(str(folder), max_mb=max_mb, max_hours=max_hours)
        self.store = FlowStore(
            cluster="default", node="node1", seed=seed, ring=FlowRing(capacity, start=self.archive.stop)
        )
        self.closing = Closing(self.store, self.archive, lambda: START_NS)

    async def add(self, count: int, *, archived: bool = True) -> None:
        """Flows, and segments of four where they are due."""
        parser, stop = Parser(self.store, World()), self.store.ring.written + count
        while self.store.ring.written < stop:
            at = self.store.ring.written
            parser.ingest(rows(at, min(4 - at % 4, stop - at)), START_NS)
            while archived and await self.closing.close_one(all_rows=False):
                pass
        self.store.changed.notify()

    def reading(
        self, *, wanted: flow_pb2.FlowFilter | None = None, chunk: int = selection.CHUNK, **query: Any
    ) -> Reading:
        since, until = query.pop("since", None), query.pop("until", None)

        def view(store: FlowStore) -> tuple[Query, Encoder]:
            made = Query(
                since_ns=None if since is None else START_NS + int(since * SECOND),
                until_ns=None if until is None else START_NS + int(until * SECOND),
                predicate=compile_filters([wanted] if wanted else [], [], store),
                chunk=chunk,
                **query,
            )
            return made, Encoder(store, origin=True)

        made, encoder = view(self.store)
        return Reading(self.store, made, encoder, ArchivedPast(self.archive, made, encoder, view))

    async def answer(self, **query: Any) -> list[int | str]:
        reading, found = self.reading(**query), []
        while (data := await reading.next()) is not None:
            found += told(data)
        return found


def told(data: bytes) -> list[int | str]:
    """Ports of the flows, and `lost N` for losses."""
    responses = map(observer_pb2.GetFlowsResponse.FromString, frames(data))
    return [
        one.flow.l4.TCP.destination_port if one.HasField("flow") else f"lost {one.lost_events.num_events_lost}"
        for one in responses
    ]


def files(folder: Path, ending: str = "parquet") -> list[str]:
    return [path.name for path in folder.glob(f"*.{ending}")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def said() -> Iterator[list[MutableMapping[str, Any]]]:
    """Lines of the log."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture(scope="module")
def fifties(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Feed]:
    @cache
    def feed_of(backend: str) -> Feed:
        feed = Feed(tmp_path_factory.mktemp(backend) / "archive")
        anyio.run(feed.add, 50, backend=backend)
        return feed

    return feed_of


@pytest.fixture
def fifty(fifties: Callable[[str], Feed], anyio_backend: str) -> Feed:
    """Fifty flows, for those who only ask."""
    return fifties(anyio_backend)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, list(range(50))),
        ({"number": 3}, [47, 48, 49]),
        ({"number": 30}, list(range(20, 50))),
        ({"number": 100}, list(range(50))),
        ({"number": 2**64 - 1}, list(range(50))),
        ({"number": 3, "first": True}, [0, 1, 2]),
        ({"number": 40, "first": True}, list(range(40))),
        ({"number": 20, "wanted": EVEN}, list(range(10, 50, 2))),
        ({"number": 3, "first": True, "wanted": EVEN}, [0, 2, 4]),
        ({"since": 6}, list(range(6, 50))),
        ({"since": 40.5}, list(range(41, 50))),
        ({"since": 6, "number": 4}, [6, 7, 8, 9]),
        ({"since": -5, "until": 3}, [0, 1, 2, 3]),
        ({"since": 30, "until": 36}, list(range(30, 37))),
        ({"since": 30, "until": 36, "wanted": EVEN}, [30, 32, 34, 36]),
        ({"until": 9, "number": 3}, [7, 8, 9]),
        ({"until": 9, "number": 3, "wanted": EVEN}, [4, 6, 8]),
        ({"until": -1}, []),
        ({"since": 100}, []),
    ],
)
async def test_an_answer_reaches_from_the_archive_into_the_ring(
    fifty: Feed, query: dict[str, Any], expected: list[int]
) -> None:
    assert fifty.store.ring.oldest == 34
    assert await fifty.answer(**query) == expected


@pytest.mark.slow
@settings(max_examples=examples(20), deadline=None)
@given(
    count=st.integers(0, 60),
    number=st.integers(0, 40),
    first=st.booleans(),
    since=st.none() | st.integers(-1, 61),
    until=st.none() | st.integers(-1, 61),
    even=st.booleans(),
    chunk=st.integers(1, 9),
)
async def test_selection_over_both_agrees_with_lists(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    number: int,
    first: bool,
    since: int | None,
    until: int | None,
    even: bool,
    chunk: int,
) -> None:
    feed = Feed(tmp_path_factory.mktemp("archive"))
    await feed.add(count)
    flows = [n for n in range(count) if not even or n % 2 == 0]
    flows = [n for n in flows if (since is None or n >= since) and (until is None or n <= until)]
    if number:
        flows = flows[:number] if first or since is not None else flows[-number:]
    wanted = EVEN if even else None
    answer = await feed.answer(number=number, first=first, since=since, until=until, wanted=wanted, chunk=chunk)
    assert answer == flows
    feed.archive.close()


async def test_a_flow_of_the_archive_is_the_same_message_as_it_was_in_the_ring(folder: Path) -> None:
    feed = Feed(folder)
    await feed.add(12)
    before = await feed.reading().next()
    await feed.add(30)
    assert feed.store.ring.oldest > 12
    reading, after = feed.reading(number=12, first=True), b""
    while (data := await reading.next()) is not None:
        after += data
    assert after == before


async def test_a_uuid_finds_its_flow_in_the_archive(folder: Path) -> None:
    feed = Feed(folder)
    await feed.add(50)
    assert await feed.answer(wanted=flow_pb2.FlowFilter(uuid=[feed.store.ids.text(5)])) == [5]


async def test_a_follower_begins_in_the_archive_and_goes_on_with_what_comes(folder: Path) -> None:
    feed = Feed(folder)
    await feed.add(50)
    reading, found = feed.reading(follow=True, since=10), []
    with anyio.fail_after(10):
        while 49 not in found:
            found += told(await reading.next() or b"")
        await feed.add(2)
        while 51 not in found:
            found += told(await reading.next() or b"")
    assert found == list(range(10, 52))


async def test_a_follower_until_a_time_ends_in_the_archive(folder: Path) -> None:
    feed = Feed(folder)
    await feed.add(50)
    with anyio.fail_after(10):
        assert await feed.answer(follow=True, since=3, until=6) == [3, 4, 5, 6]


async def test_who_is_overtaken_by_the_ring_reads_on_in_the_archive(folder: Path) -> None:
    feed = Feed(folder)
    await feed.add(16)
    reading = feed.reading(follow=True, number=16, chunk=4)
    found = told(await reading.next() or b"")
    await feed.add(40)
    with anyio.fail_after(10):
        while 55 not in found:
            found += told(await reading.next() or b"")
    assert found == list(range(56))


async def test_losses_are_told_in_their_place_and_once(folder: Path) -> None:
    feed = Feed(folder)
    await feed.add(6)
    feed.store.ring.add_loss(LossSource.KERNEL_RING, 7, START_NS, START_NS)
    await feed.add(34)
    assert await feed.answer() == [*range(6), "lost 7", *range(6, 40)]
    assert await feed.answer(since=5) == [5, "lost 7", *range(6, 40)]
    assert await feed.answer(number=20) == list(range(20, 40))


async def test_what_was_never_archived_is_told_as_a_loss(folder: Path) -> None:
    feed = Feed(folder)
    await feed.add(10)
    await feed.add(30, archived=False)
    await feed.add(20)
    answer = await feed.answer()
    lost = [one for one in answer if isinstance(one, str)]
    assert len(lost) == 1
    at = answer.index(lost[0])
    assert answer[:at] == list(range(8))
    assert answer[at + 1 :] == list(range(8 + int(lost[0].split()[1]), 60))
    assert feed.archive.missed == int(lost[0].split()[1])


async def test_an_agent_that_comes_back_goes_on_behind_the_archive(folder: Path) -> None:
    first = Feed(folder)
    await first.add(22)
    await first.closing.finish()
    first.archive.close()
    again = Feed(folder, seed="f" * 32)
    assert again.store.ring.oldest == again.store.ring.written == 22
    await again.add(30)
    assert await again.answer() == list(range(52))
    assert await again.answer(wanted=flow_pb2.FlowFilter(uuid=[first.store.ids.text(5)])) == [5]


async def test_the_oldest_go_when_there_is_too_much(folder: Path) -> None:
    feed = Feed(folder)
    await feed.add(50)
    names = set(files(folder))
    assert len(names) == len(feed.archive.segments) == 12
    feed.archive._bytes_max = feed.archive.size - 1
    await feed.archive.expire(START_NS)
    left = set(files(folder))
    assert names - left == {min(names)}
    assert await feed.answer() == list(range(4, 50))


async def test_the_oldest_go_when_they_are_too_old(folder: Path) -> None:
    feed = Feed(folder, max_hours=1)
    await feed.add(50)
    await feed.archive.expire(START_NS + 3600 * SECOND + 8 * SECOND)
    assert feed.archive.segments[0].start == 8
    await feed.archive.expire(START_NS + 9000 * SECOND)
    assert files(folder) == []
    assert await feed.answer() == list(range(34, 50))


async def test_a_segment_waits_for_more_flows_but_not_for_ever(folder: Path) -> None:
    feed = Feed(folder, capacity=1024)
    await feed.add(10)
    assert feed.archive.segments == ()
    feed.closing._now_ns = lambda: START_NS + 400 * SECOND
    assert await feed.closing.close_one(all_rows=False)
    assert [(one.start, one.stop) for one in feed.archive.segments] == [(0, 10)]


async def test_the_task_writes_while_flows_come_and_ends_when_it_is_cancelled(folder: Path) -> None:
    feed = Feed(folder)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed.closing.run)
        await feed.add(9, archived=False)
        with anyio.fail_after(10):
            while feed.archive.stop < 8:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert files(folder, "partial") == []


DAMAGES = {
    "empty": b"",
    "foreign": b"somebody else's",
    "no metadata": None,
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
async def test_a_segment_that_cannot_be_read_is_a_gap(
    folder: Path, content: bytes | None, said: list[MutableMapping[str, Any]]
) -> None:
    feed = Feed(folder)
    await feed.add(40)
    victim = feed.archive.segments[2].path
    if content is None:
        parquet.write_table(parquet.read_table(victim).replace_schema_metadata({}), victim)
    else:
        victim.write_bytes(content)
    assert await feed.answer() == [*range(8), "lost 4", *range(12, 40)]
    assert await feed.answer(number=33) == [7, "lost 4", *range(12, 40)] or len(await feed.answer(number=33)) == 34
    assert [line["event"] for line in said] == ["segment not readable"]
    assert feed.archive.unreadable == 1


async def test_a_segment_with_other_columns_or_fewer_rows_is_not_read(folder: Path) -> None:
    feed = Feed(folder)
    await feed.add(40)
    whole = parquet.read_table(feed.archive.segments[0].path)
    for number, table in enumerate((whole.drop_columns(["sport"]), whole.slice(1))):
        parquet.write_table(table, feed.archive.segments[0].path)
        await feed.answer(first=True, number=1)
        assert feed.archive.unreadable == number + 1


def test_what_a_killed_process_had_begun_is_removed_and_what_is_none_of_ours_left(folder: Path) -> None:
    folder.mkdir()
    name = "flows-00000000000000000000-00000000000000000004-00000000000000000000-00000000000000000004.parquet"
    (folder / f"{name}.partial").write_bytes(b"PAR1")
    (folder / "notes.txt").write_text("mine")
    archive = open_archive(str(folder), max_mb=1, max_hours=0)
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "notes.txt"]
    assert archive.segments == ()
    archive.close()


async def test_segments_that_repeat_positions_are_left_out(folder: Path, said: list[MutableMapping[str, Any]]) -> None:
    feed = Feed(folder)
    await feed.add(14)
    write(take(feed.store, 2, 6), folder)
    feed.archive.close()
    again = open_archive(str(folder), max_mb=1, max_hours=0)
    assert [(one.start, one.stop) for one in again.segments] == [(0, 4), (4, 8), (8, 12)]
    assert [line["event"] for line in said] == ["segment left out"]
    again.close()


def test_a_folder_of_another_agent_is_refused(folder: Path) -> None:
    held = open_archive(str(folder), max_mb=1, max_hours=0)
    with pytest.raises(ArchiveUnavailable, match="in use by another agent"):
        open_archive(str(folder), max_mb=1, max_hours=0)
    held.close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveUnavailable, match=r"hubble\.archive_path: .*/file/archive: Not a directory"):
        open_archive(str(tmp_path / "file" / "archive"), max_mb=1, max_hours=0)


def test_without_pyarrow_the_refusal_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NoParquet) as refused:
        open_archive(str(folder), max_mb=1, max_hours=0)
    assert "cplane[archive]" in str(refused.value)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_on_a_full_disk_flows_go_on_and_the_archive_goes_on_when_there_is_room(
    tmp_path: Path, said: list[MutableMapping[str, Any]]
) -> None:
    with small(tmp_path / "disk", 256) as disk:
        feed = Feed(disk / "archive")
        await feed.add(8)
        filler = disk / "filler"
        with filler.open("wb") as file:
            room = os.statvfs(disk)
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize)
        await feed.add(30)
        assert feed.store.ring.written == 38
        assert feed.archive.failures > 0
        assert files(disk / "archive", "partial") == []
        (line,) = said
        assert (line["event"], line["error"]) == ("archive cannot be written", os.strerror(errno.ENOSPC))
        filler.unlink()
        await feed.add(10)
        assert said[-1]["event"] == "archive is written again"
        assert feed.archive.missed > 0
        assert await feed.answer(since=30) == list(range(30, 48))
        assert await feed.answer() == [*range(8), f"lost {feed.archive.missed}", *range(8 + feed.archive.missed, 48)]
        feed.archive.close()
        gc.collect()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # grpclib's
async def test_a_client_that_asks_since_a_time_before_the_ring_gets_its_flows(folder: Path, tmp_path: Path) -> None:
    feed = Feed(folder)
    await feed.add(50)
    request = observer_pb2.GetFlowsRequest(whitelist=[EVEN])
    request.since.FromNanoseconds(START_NS + 7 * SECOND)
    request.field_mask.paths.extend(["l4", "source.pod_name"])
    answering = services(feed.store, StillClock(), version="1.2.3", archive=feed.archive)
    async with served(*answering, path=tmp_path / "sock") as address, connect(address) as channel:
        answers = [one.flow for one in await get_flows(channel)(request)]
    assert [flow.l4.TCP.destination_port for flow in answers] == list(range(8, 50, 2))
    assert {flow.source.pod_name for flow in answers} == {"web-7f9"}


def test_a_segment_can_be_read_by_anybody(folder: Path) -> None:
    """Columns are plain numbers; what they stand for is in the metadata."""
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=1024)
    Parser(store, World()).ingest(rows(0, 100), START_NS)
    folder.mkdir()
    segment = write(take(store, 0, 100), folder)
    table = parquet.read_table(segment.path, columns=["dport", "src_identity"])
    assert table.column("dport").to_pylist() == list(range(100))
    assert segment.size == segment.path.stat().st_size
    chapter = read(segment)
    assert chapter.store.endpoints[int(chapter.span(0, 1)["src_meta"][0])].pod_name == "web-7f9"
