"""An archive is seen by nobody: a log whose older events are beside it gives the same answers to every question."""

import os
from pathlib import Path
from random import Random

import pytest

from cplane.eventlog import archiving, segment, snapshots
from cplane.eventlog.archive import folder_of
from cplane.eventlog.archiving import Archived, archive_file, compact_file
from cplane.eventlog.chain import Chain
from cplane.eventlog.errors import BadEvent, LogLocked, StorageFailed
from cplane.eventlog.lock import held
from cplane.eventlog.reader import MemoryReader, open_history
from cplane.eventlog.store import SqliteLog
from cplane.eventlog.verify import SnapshotsFinding, verify_file, verify_snapshots
from cplane.events.objects import object_of
from cplane.timetravel.audit import Asked, audit
from cplane.timetravel.history import History, NoSuchMoment
from cplane.timetravel.wanted import Wanted
from tests.support import churn
from tests.support.clock import TickingClock
from tests.support.effort import sample
from tests.support.filesystems import small
from tests.support.log import everything, fill, sql

pytestmark = pytest.mark.anyio
KEEP = 15


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments and blocks of few events, and few between two snapshots."""
    monkeypatch.setattr(archiving, "SEGMENT", 20)
    monkeypatch.setattr(segment, "BLOCK", 7)
    monkeypatch.setattr(snapshots, "EVERY", 30)


@pytest.fixture(scope="module")
def story():
    return churn.recorded(Random(7), 60)


@pytest.fixture
def path(tmp_path: Path, story) -> Path:
    """A log of more than a hundred events."""
    return churn.stored(tmp_path / "log.db", story[0])


def archive(path: Path, keep: int = KEEP) -> Archived:
    return archive_file(str(path), lambda _: keep)


def compact(path: Path, position: int):
    return compact_file(str(path), lambda _: position)


def files(path: Path) -> list[Path]:
    return sorted(Path(folder_of(str(path))).iterdir())


def stored(path: Path) -> tuple[object, ...]:
    return sql(path, "SELECT min(position), max(position), count(*) FROM events")[0]


def answers(history: History, start: int = 0) -> list[object]:
    """What everybody asks of a history, at many places."""
    entries = list(history.entries(start, history.head))
    names = sorted({object_of(one.event) for one in entries})[::3]
    times = [entry.recorded_at_ns + shift for entry in entries[::5] for shift in (-1, 0, 1)]
    reachable = [time for time in times if time > entries[0].recorded_at_ns]
    return [
        entries,
        [history.ledger(position).dump() for position in range(start, history.head + 1, 9)],
        [list(history.about([name], start, history.head)) for name in names],
        [history.position_of(str(position), 1 << 62) for position in range(start, history.head)],
        [history._reader.position_at(time) for time in reachable],
        history.find(Wanted(actor="uid:0(root)", after=start)),
    ]


def test_every_question_has_the_same_answer_before_and_after_archiving(path: Path, story) -> None:
    expected = answers(History(MemoryReader(story[1])))
    done = archive(path)
    head = len(story[0])
    assert done.events == done.end == head - KEEP
    assert stored(path) == (head - KEEP + 1, head, KEEP)
    for _ in range(2):  # the second time with what was remembered the first time
        with open_history(str(path)) as history:
            assert answers(history) == expected
    assert not verify_file(str(path)).fault
    assert verify_snapshots(str(path)).wrong == ()


def test_a_reader_that_is_open_meanwhile_finds_what_was_moved(path: Path, story) -> None:
    expected = answers(History(MemoryReader(story[1])))
    with open_history(str(path)) as history:
        running = history.entries(0, history.head)
        begun = [next(running) for _ in range(3)]
        archive(path)
        assert [*begun, *running] == story[1]
        assert answers(history) == expected


async def test_an_agent_goes_on_behind_its_archive_and_reads_all_of_it(path: Path, story) -> None:
    archive(path, keep=1)
    async with SqliteLog.open(str(path), TickingClock()) as log:
        await fill(log, 5)
        assert (await everything(log))[: len(story[1])] == story[1]
        assert log.head == len(story[0]) + 5
    found = verify_file(str(path))
    assert (found.events, found.fault) == (len(story[0]) + 5, "")


async def test_a_start_reads_no_segment_but_for_the_index_of_the_last(path: Path, story) -> None:
    archive(path)
    *older, last = files(path)
    for file in older:
        file.write_bytes(b"\0" * file.stat().st_size)
    damaged = bytearray(last.read_bytes())
    damaged[20] ^= 1
    last.write_bytes(damaged)
    async with SqliteLog.open(str(path), TickingClock()) as log:
        assert log.head == len(story[0])
    assert verify_file(str(path)).position == 1


def test_archiving_again_goes_on_where_it_ended(path: Path, story) -> None:
    head = len(story[0])
    archive(path, keep=head - 30)
    archive(path, keep=head - 33)
    assert archive(path, keep=head - 33) == Archived(0, 0, 33)
    with open_history(str(path)) as history:
        assert list(history.entries(0, head)) == story[1]


def test_the_newest_event_stays_in_the_file(path: Path, story) -> None:
    archive(path, keep=0)
    assert stored(path) == (len(story[0]), len(story[0]), 1)


def test_a_log_that_an_agent_has_is_not_archived_by_others(path: Path) -> None:
    with held(str(path)), pytest.raises(LogLocked):
        archive(path)
    assert not os.path.exists(folder_of(str(path)))


async def test_events_in_both_places_are_taken_out_of_the_file_at_the_next_start(path: Path, story) -> None:
    copies = sql(path, "SELECT * FROM events WHERE position <= 40")
    archive(path)
    insert_again(path, copies)
    assert not verify_file(str(path)).fault
    with open_history(str(path)) as history:
        assert list(history.entries(0, history.head)) == story[1]
    async with SqliteLog.open(str(path), TickingClock()):
        pass
    assert stored(path) == (len(story[0]) - KEEP + 1, len(story[0]), KEEP)


async def test_a_copy_in_the_file_stays_when_the_archive_is_damaged(path: Path) -> None:
    copies = sql(path, "SELECT * FROM events WHERE position <= 40")
    archive(path)
    insert_again(path, copies)
    flip(files(path)[1], 30)
    with pytest.raises(BadEvent, match=r"position 21.*was changed"):
        async with SqliteLog.open(str(path), TickingClock()):
            raise AssertionError
    assert stored(path)[0] == 1


def test_a_copy_in_the_file_that_differs_is_found(path: Path) -> None:
    copies = sql(path, "SELECT * FROM events WHERE position <= 40")
    archive(path)
    insert_again(path, copies)
    sql(path, "UPDATE events SET actor = 'mallory' WHERE position = 33")
    found = verify_file(str(path))
    assert found.position == 33
    assert "differs" in found.fault


def insert_again(path: Path, rows) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def flip(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 0x10
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_in_a_segment_is_found_and_its_stretch_named(path: Path) -> None:
    archive(path)
    victim = files(path)[1]
    sound = victim.read_bytes()
    for byte in sample(range(0, len(sound), 3)):
        flip(victim, byte)
        found = verify_file(str(path))
        assert 21 <= found.position <= 40, byte
        assert str(victim) in found.fault
        victim.write_bytes(sound)
    assert not verify_file(str(path)).fault


@pytest.mark.parametrize("left", [0, 7, 60, -1])
def test_a_cut_segment_is_found(path: Path, left: int) -> None:
    archive(path)
    victim = files(path)[2]
    victim.write_bytes(victim.read_bytes()[:left])
    found = verify_file(str(path))
    assert found.position == 41
    assert "cut" in found.fault


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_missing_segment_is_found(path: Path, which: int) -> None:
    archive(path)
    victim = files(path)[which]
    first = int(victim.name.partition("-")[0])
    victim.unlink()
    found = verify_file(str(path))
    assert found.position == first
    with pytest.raises((BadEvent, NoSuchMoment), match=f"position {first}"), open_history(str(path)) as history:
        list(history.entries(0, history.head))


async def test_an_agent_does_not_start_without_the_end_of_its_archive(path: Path) -> None:
    archive(path)
    files(path)[-1].unlink()
    with pytest.raises(BadEvent, match="missing"):
        async with SqliteLog.open(str(path), TickingClock()):
            raise AssertionError


async def test_an_agent_does_not_start_with_the_archive_of_another_log(path: Path, tmp_path: Path) -> None:
    other = churn.stored(tmp_path / "other.db", churn.recorded(Random(8), 70)[0])
    archive(path)
    last = archive(path).end
    archive(other, keep=sql(other, "SELECT max(position) FROM events")[0][0] - last)
    for file in files(other):
        (Path(folder_of(str(path))) / file.name).write_bytes(file.read_bytes())
    with pytest.raises(BadEvent, match="digest does not fit"):
        async with SqliteLog.open(str(path), TickingClock()):
            raise AssertionError


def test_a_segment_in_the_place_of_another_is_found(path: Path) -> None:
    archive(path)
    files(path)[1].write_bytes(files(path)[0].read_bytes())
    assert verify_file(str(path)).position == 21


@pytest.mark.root
def test_a_full_disk_loses_nothing_and_leaves_nothing_unfinished(path: Path, story, tmp_path: Path) -> None:
    with small(tmp_path / "small", 16) as folder:
        os.symlink(folder, folder_of(str(path)))
        (folder / "filler").write_bytes(bytes(8 << 10))
        with pytest.raises(StorageFailed, match="No space left"):
            archive(path)
        assert not [file for file in files(path) if file.name.endswith(".unfinished")]
        with open_history(str(path)) as history:
            assert list(history.entries(0, history.head)) == story[1]
        (folder / "filler").unlink()
        with pytest.raises(StorageFailed):
            archive(path)
        assert not verify_file(str(path)).fault
        with open_history(str(path)) as history:
            assert list(history.entries(0, history.head)) == story[1]
        os.unlink(folder_of(str(path)))


def test_compacting_drops_whole_segments_and_keeps_the_state_they_led_to(path: Path, story) -> None:
    memory = History(MemoryReader(story[1]))
    archive(path)
    done = compact(path, 55)
    assert (done.events, done.start, done.digest) == (40, 40, story[1][39].digest)
    assert [file.name[18:] for file in files(path)[:2]] == ["40.beginning", "41-00000000000000000060.segment"]
    with open_history(str(path)) as history:
        assert (history.start, history.head) == (40, len(story[0]))
        assert answers(history, 40) == answers(memory, 40)
        with pytest.raises(NoSuchMoment, match="position 39 was dropped from the log: the log goes from position 41"):
            history.ledger(39)
        with pytest.raises(NoSuchMoment, match="before the log"):
            history.position_of("2000-01-01T00:00:00Z", 1 << 62)
    found = verify_file(str(path))
    assert (found.events, found.fault, found.start) == (len(story[0]), "", 40)
    assert found.start_digest == story[1][39].digest.hex()


def test_whose_verdicts_events_changed_is_told_of_what_compacting_left(path: Path, story) -> None:
    asked = Asked(since="41", verdicts=True)
    archive(path)
    compact(path, 55)
    with open_history(str(path)) as history:
        found = list(audit(history, 1 << 62, asked))
    assert found == list(audit(History(MemoryReader(story[1])), 1 << 62, asked))
    assert any(one.endpoints for one in found)


async def test_positions_go_on_after_all_was_compacted(path: Path, story) -> None:
    head = len(story[0])
    archive(path, keep=1)
    assert compact(path, head).start == head - 1
    async with SqliteLog.open(str(path), TickingClock()) as log:
        written = await log.append(next(iter(next_proposals(story, head))))
        assert written[0].position == head + 1
    assert verify_file(str(path)).fault == ""


def next_proposals(story, head: int):
    """One more event in the first stream of the story."""
    from tests.support.log import fact, proposal

    stream = "node"
    version = sum(one.stream == stream for one in story[1][:head])
    yield proposal(version, fact(1), stream=stream)


def test_compacting_twice_replaces_the_base(path: Path, story) -> None:
    archive(path)
    compact(path, 20)
    assert compact(path, 20).events == 0
    done = compact(path, 60)
    assert (done.events, done.start) == (40, 60)
    assert [file.name for file in files(path) if file.name.endswith(".beginning")] == ["00000000000000000060.beginning"]
    with open_history(str(path)) as history:
        assert answers(history, 60) == answers(History(MemoryReader(story[1])), 60)


def test_what_a_base_replaced_counts_no_more_and_goes_with_the_next(path: Path, story) -> None:
    archive(path)
    old = {file: file.read_bytes() for file in files(path)}
    compact(path, 40)
    for file, data in old.items():
        file.write_bytes(data)
    with open_history(str(path)) as history:
        assert history.start == 40
    assert not verify_file(str(path)).fault
    compact(path, 40)
    assert len(files(path)) == len(old) - 2 + 1


def test_a_flipped_bit_in_a_base_is_found(path: Path) -> None:
    archive(path)
    compact(path, 40)
    beginning = files(path)[0]
    for byte in range(0, beginning.stat().st_size, 17):
        flip(beginning, byte)
        found = verify_file(str(path))
        assert found.position == 40, byte
        assert str(beginning) in found.fault
        flip(beginning, byte)


def test_snapshots_of_what_was_dropped_are_not_looked_at(path: Path) -> None:
    with open_history(str(path)) as history:
        history.ledger(history.head)
    archive(path)
    compact(path, 40)
    assert verify_snapshots(str(path)) == SnapshotsFinding(there=len(range(60, stored(path)[1] + 1, 30)))


def test_a_clock_that_goes_back_changes_no_order_and_times_mean_the_last_position(tmp_path: Path, story) -> None:
    rows, chain = [], Chain()
    times = [100, 200, 300, 150, 160, 400, 50, 500]
    from cplane.eventlog.codec import draft
    from tests.support.log import fact, proposal

    for number, time in enumerate(times):
        wanted = proposal(number, fact(number))
        rows += chain.extend(draft(wanted), wanted.expected, time)[0]
    path = churn.stored(tmp_path / "back.db", rows)
    for keep in (8, 4, 2, 1):
        archive(path, keep=keep)
        with open_history(str(path)) as history:
            found = {time: history._reader.position_at(time) for time in (49, 50, 155, 200, 350, 450, 500)}
        assert found == {49: 0, 50: 7, 155: 7, 200: 7, 350: 7, 450: 7, 500: 8}
        assert not verify_file(str(path)).fault
