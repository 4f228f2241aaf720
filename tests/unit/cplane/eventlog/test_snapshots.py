"""Snapshots beside a log make it quick to ask, and never change the answer, whatever becomes of their file."""

import contextlib
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
import zstandard

from cplane.eventlog import snapshots
from cplane.eventlog.beside import SUFFIX, place_of
from cplane.eventlog.errors import BadEvent, NotALog
from cplane.eventlog.reader import MemoryReader, open_history, remember
from cplane.eventlog.verify import SnapshotsFinding, verify_snapshots
from cplane.events.envelope import NODE
from cplane.timetravel.history import History
from cplane.timetravel.ledger import Ledger
from tests.support import churn
from tests.support.filesystems import run_read_only, small
from tests.support.log import fact, sql

EVERY = 20


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot at every twentieth event, so that small logs have some."""
    monkeypatch.setattr(snapshots, "EVERY", EVERY)


@pytest.fixture(scope="module")
def story():
    return churn.recorded(Random(5), 60)


@pytest.fixture
def path(tmp_path: Path, story) -> Path:
    """A log of more than a hundred events."""
    return churn.stored(tmp_path / "log.db", story[0])


def dumps(path: Path, *positions: int) -> list[bytes]:
    with open_history(str(path)) as history:
        return [history.ledger(position).dump() for position in positions or (0, 19, 20, 21, 55, history.head)]


def expected(story, *positions: int) -> list[bytes]:
    history = History(MemoryReader(story[1]))
    return [history.ledger(position).dump() for position in positions or (0, 19, 20, 21, 55, history.head)]


def kept(path: Path) -> list[int]:
    with closing(sqlite3.connect(place_of(str(path)))) as connection:
        return [row[0] for row in connection.execute("SELECT position FROM snapshots ORDER BY position")]


def test_a_fold_leaves_snapshots_behind_and_they_give_what_it_gave(path: Path, story) -> None:
    assert dumps(path) == expected(story)
    head = len(story[0])
    assert kept(path) == list(range(EVERY, head + 1, EVERY))
    assert dumps(path) == expected(story)


def test_snapshots_are_what_answers_come_from(path: Path, story) -> None:
    dumps(path)
    sql(path, "UPDATE events SET data = '{}' WHERE position < 40")
    assert dumps(path, 40, 45) == expected(story, 40, 45)
    with pytest.raises(BadEvent, match="position"):
        dumps(path, 39)


def test_an_agent_makes_them_one_by_one_until_all_are_there(path: Path, story) -> None:
    made = 0
    while remember(str(path)):
        made += 1
    assert made == len(story[0]) // EVERY == len(kept(path))
    assert not remember(str(path))


def test_the_file_is_for_its_owner_only(path: Path) -> None:
    dumps(path)
    assert os.stat(place_of(str(path))).st_mode & 0o777 == 0o600


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at % len(raw)] ^= 0x10
    path.write_bytes(raw)


@pytest.mark.slow
def test_a_flipped_bit_anywhere_in_the_file_changes_no_answer(path: Path, story, tmp_path: Path) -> None:
    dumps(path)
    beside = Path(place_of(str(path)))
    sound, wanted = beside.read_bytes(), expected(story, 55, 110)
    chance = Random(11)
    for _ in range(60):
        beside.write_bytes(sound)
        flip(beside, chance.randrange(len(sound)))
        assert dumps(path, 55, 110) == wanted


@pytest.mark.parametrize("column", ["data", "digest", "log_digest"])
def test_a_snapshot_that_was_changed_is_not_used_and_made_again(path: Path, story, column: str) -> None:
    dumps(path)
    sql(Path(place_of(str(path))), f"UPDATE snapshots SET {column} = CAST(substr({column}, 2) AS BLOB)")
    assert dumps(path) == expected(story)
    assert kept(path) == list(range(EVERY, len(story[0]) + 1, EVERY))


def test_a_snapshot_that_was_changed_and_signed_anew_does_not_hold_what_it_says(path: Path, story) -> None:
    dumps(path)
    with closing(sqlite3.connect(place_of(str(path)))) as connection, connection:
        ((data,),) = connection.execute("SELECT data FROM snapshots WHERE position = 40")
        ((log_digest,),) = connection.execute("SELECT log_digest FROM snapshots WHERE position = 60")
        forged = (data, snapshots._digest_of(60, log_digest, data))
        connection.execute("UPDATE snapshots SET data = ?, digest = ? WHERE position = 60", forged)
    assert dumps(path, 65) == expected(story, 65)


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\x00" + bytes(200)])
def test_a_file_that_is_something_else_is_made_again(path: Path, story, content: bytes) -> None:
    Path(place_of(str(path))).write_bytes(content)
    assert dumps(path) == expected(story)
    assert kept(path)


@pytest.mark.parametrize("statement", ["PRAGMA user_version = 77", "DROP TABLE snapshots"])
def test_a_file_of_another_version_is_made_again(path: Path, story, statement: str) -> None:
    dumps(path)
    sql(Path(place_of(str(path))), "PRAGMA user_version = 0" if "DROP" in statement else "SELECT 1", statement)
    assert dumps(path) == expected(story)


def test_snapshots_of_another_log_are_not_used(path: Path, story, tmp_path: Path) -> None:
    other_story = churn.recorded(Random(6), 60)
    other = churn.stored(tmp_path / "other.db", other_story[0])
    dumps(other)
    for suffix in ("", "-wal", "-shm"):
        if Path(place_of(str(other)) + suffix).exists():
            shutil.copy(place_of(str(other)) + suffix, place_of(str(path)) + suffix)
    assert dumps(path) == expected(story)


def test_snapshots_ahead_of_the_log_are_not_used(path: Path, story, tmp_path: Path) -> None:
    dumps(path)
    sql(path, "DELETE FROM events WHERE position > 50")
    assert dumps(path, 50) == expected(story, 50)
    with open_history(str(path)) as history:
        assert history.head == 50


def test_a_folder_that_cannot_be_written_is_no_reason_to_answer_nothing(path: Path, story) -> None:
    folder = Path(place_of(str(path)))
    folder.mkdir()  # a file cannot be there then, not even for root
    assert dumps(path) == expected(story)
    assert not remember(str(path))


def test_a_link_in_the_place_of_the_file_is_not_followed(path: Path, story, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.touch()
    Path(place_of(str(path))).symlink_to(other)
    assert dumps(path) == expected(story)
    assert other.read_bytes() == b""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_no_reason_to_answer_nothing(path: Path, story, tmp_path: Path) -> None:
    with small(tmp_path / "full", 1024) as folder:
        log = Path(shutil.copy(path, folder))
        agent = sqlite3.connect(log)  # a log that is in use
        agent.execute("SELECT count(*) FROM events").fetchone()
        filler = os.open(folder / "filler", os.O_WRONLY | os.O_CREAT)
        with contextlib.suppress(OSError):
            while os.write(filler, bytes(4096)):
                pass
        os.close(filler)
        assert dumps(log) == expected(story)
        (folder / "filler").unlink()
        assert dumps(log) == expected(story)
        assert kept(log)
        agent.close()


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_log_on_a_read_only_medium_is_asked_without_a_file(path: Path, story) -> None:
    script = (
        "import sys\nfrom cplane.eventlog.reader import open_history\n"
        "with open_history(sys.argv[1]) as history: print(history.ledger(history.head).position)"
    )
    done = run_read_only(path.parent, script, str(path))
    assert (done.stdout.strip(), done.stderr) == (str(len(story[0])), "")
    assert not Path(place_of(str(path))).exists()


def test_verify_finds_the_snapshots_that_do_not_say_what_the_log_says(path: Path, story) -> None:
    dumps(path)
    there = list(range(EVERY, len(story[0]) + 1, EVERY))
    assert verify_snapshots(str(path)) == SnapshotsFinding(len(there))
    with closing(sqlite3.connect(place_of(str(path)))) as connection, connection:
        ((data,),) = connection.execute("SELECT data FROM snapshots WHERE position = 40")
        ((log_digest,),) = connection.execute("SELECT log_digest FROM snapshots WHERE position = 60")
        ledger = Ledger.load(zstandard.decompress(data))
        ledger.apply(NODE, fact(1))
        packed = zstandard.compress(ledger.dump())
        row = (packed, snapshots._digest_of(40, log_digest, packed))
        connection.execute("UPDATE snapshots SET data = ?, digest = ? WHERE position = 40", row)
        connection.execute("UPDATE snapshots SET log_digest = zeroblob(32) WHERE position = 80")
    assert verify_snapshots(str(path)) == SnapshotsFinding(len(there), (40, 80))
    assert verify_snapshots(str(path)) == SnapshotsFinding(len(there) - 2)


def test_a_missing_event_is_named(path: Path) -> None:
    sql(path, "DELETE FROM events WHERE position = 33")
    with pytest.raises(BadEvent, match="position 33: the event is missing"):
        dumps(path, 40)
    with open_history(str(path)) as history, pytest.raises(BadEvent, match="position 33"):
        list(history.entries(0, 40))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_log_is_refused_or_answers_from_what_is_left(path: Path, share: float) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises((BadEvent, NotALog)):
        dumps(path)


def test_a_log_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(NotALog, match="no such file"), open_history(str(tmp_path / "none.db")):
        pass
    assert not list(tmp_path.iterdir())


def test_a_short_log_gets_no_file(tmp_path: Path, story) -> None:
    path = churn.stored(tmp_path / "short.db", story[0][:10])
    dumps(path, 5, 10)
    assert not Path(place_of(str(path))).exists()
    assert SUFFIX in place_of(str(path))
