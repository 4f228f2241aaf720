"""What was exported becomes the same log again; what was changed or cut becomes no log, and the place is named."""

import io
import os
import re
from pathlib import Path
from random import Random

import msgspec
import pytest
import zstandard

from cplane.eventlog import archiving
from cplane.eventlog.archiving import archive_file, compact_file
from cplane.eventlog.errors import BadExport, LogExists, StorageFailed
from cplane.eventlog.importing import import_log
from cplane.eventlog.reader import MemoryReader, open_history
from cplane.eventlog.verify import verify_file
from cplane.timetravel.exported import export
from cplane.timetravel.history import History, NoSuchMoment
from tests.support import churn
from tests.support.effort import sample
from tests.support.filesystems import small
from tests.support.log import forge, sql

NOW_NS = 1 << 62


@pytest.fixture(scope="module")
def story():
    return churn.recorded(Random(9), 40)


@pytest.fixture
def path(tmp_path: Path, story) -> Path:
    return churn.stored(tmp_path / "log.db", story[0])


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return tmp_path / "new.db"


def exported(path: Path, first: str = "", last: str = "") -> bytes:
    with open_history(str(path)) as history:
        return b"".join(line + b"\n" for line in export(history, NOW_NS, first=first, last=last))


def imported(text: bytes, new: Path):
    return import_log(io.BytesIO(text), str(new))


def refused(text: bytes, new: Path) -> BadExport:
    """Why it was; nothing is left behind."""
    before = sorted(new.parent.iterdir())
    with pytest.raises(BadExport) as found:
        imported(text, new)
    assert sorted(new.parent.iterdir()) == before
    return found.value


def test_an_imported_log_has_the_same_bytes_in_every_column(path: Path, new: Path, story) -> None:
    made = imported(exported(path), new)
    assert sql(new, "SELECT * FROM events") == sql(path, "SELECT * FROM events")
    assert (made.events, made.last, made.digest) == (len(story[0]), len(story[0]), story[1][-1].digest)
    assert verify_file(str(new)) == verify_file(str(path))
    assert exported(new) == exported(path)
    assert new.stat().st_mode & 0o777 == 0o600


def test_a_log_in_memory_is_exported_like_one_in_a_file(path: Path, story) -> None:
    lines = export(History(MemoryReader(story[1])), NOW_NS)
    assert b"".join(line + b"\n" for line in lines) == exported(path)


def test_an_archived_and_compacted_log_comes_back_with_its_beginning(
    path: Path, new: Path, story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "SEGMENT", 15)
    archive_file(str(path), lambda _: 5)
    compact_file(str(path), lambda _: 31)
    made = imported(exported(path), new)
    assert (made.start, made.last) == (30, len(story[0]))
    assert verify_file(str(new)) == verify_file(str(path))
    with open_history(str(path)) as theirs, open_history(str(new)) as ours:
        assert list(ours.entries(30, ours.head)) == story[1][30:]
        assert [ours.ledger(at).dump() for at in (30, 40, ours.head)] == [
            theirs.ledger(at).dump() for at in (30, 40, theirs.head)
        ]
        assert ours.moment(30).recorded_at_ns == story[1][29].recorded_at_ns


def test_a_part_of_a_log_is_a_log(path: Path, new: Path, story) -> None:
    made = imported(exported(path, first="20", last="50"), new)
    assert (made.events, made.start, made.last) == (31, 19, 50)
    with open_history(str(new)) as history:
        memory = History(MemoryReader(story[1]))
        assert [history.ledger(at).dump() for at in (19, 30, 50)] == [memory.ledger(at).dump() for at in (19, 30, 50)]


def test_a_part_without_events_is_none(path: Path) -> None:
    with pytest.raises(NoSuchMoment, match="no event from 30 to 20"):
        exported(path, first="30", last="20")


def test_a_log_without_events_comes_back_too(tmp_path: Path, new: Path) -> None:
    empty = churn.stored(tmp_path / "empty.db", [])
    assert imported(exported(empty), new).events == 0
    assert verify_file(str(new)).fault == ""


def test_it_may_be_compressed(path: Path, new: Path, story) -> None:
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(exported(path))
    assert imported(packed, new).last == len(story[0])


def test_nothing_is_written_over_a_file_or_an_archive(path: Path, new: Path) -> None:
    text = exported(path)
    new.write_text("mine")
    with pytest.raises(LogExists):
        imported(text, new)
    assert new.read_text() == "mine"
    new.unlink()
    Path(f"{new}.archive").mkdir()
    with pytest.raises(LogExists):
        imported(text, new)


@pytest.mark.slow
def test_a_text_that_is_cut_anywhere_is_refused(path: Path, new: Path) -> None:
    text = exported(path, last="30")
    for length in sample(range(0, len(text), 97)):
        found = refused(text[:length], new)
        assert found.line == max(text[:length].count(b"\n"), 1) or found.line == text[:length].count(b"\n") + 1, length
    refused(text[:-1], new)


@pytest.mark.slow
def test_a_text_with_a_flipped_bit_anywhere_is_refused_and_its_line_named(path: Path, new: Path) -> None:
    text = exported(path, first="20", last="30")
    for byte in sample(range(0, len(text), 61)):
        changed = bytearray(text)
        changed[byte] ^= 0x04
        line = text[:byte].count(b"\n") + 1
        found = refused(bytes(changed), new)
        # A changed line end joins two lines; a changed header may be seen first by the event that does not follow it.
        assert abs(found.line - line) <= 1 or "or its digest in the last line" in str(found), (byte, str(found))


@pytest.mark.slow
def test_a_compressed_text_that_was_changed_or_cut_is_refused(path: Path, new: Path) -> None:
    text = zstandard.ZstdCompressor(write_checksum=True).compress(exported(path, last="30"))
    for byte in sample(range(8, len(text), 29)):
        changed = bytearray(text)
        changed[byte] ^= 0x04
        refused(bytes(changed), new)
        refused(text[:byte], new)
    refused(text[:-1], new)
    refused(text + b"\n", new)


def test_an_event_that_was_edited_is_named_by_line_and_position(path: Path, new: Path) -> None:
    lines = exported(path).split(b"\n")
    lines[20] = re.sub(rb'"actor":"[^"]*"', b'"actor":"mallory"', lines[20])
    assert str(refused(b"\n".join(lines), new)).startswith("line 21, position 20: its digest does not fit")


def test_an_event_that_was_taken_out_is_named(path: Path, new: Path) -> None:
    lines = exported(path).split(b"\n")
    del lines[20]
    assert str(refused(b"\n".join(lines), new)).startswith("line 21, position 20: the event is missing")


def test_an_end_that_was_taken_from_another_export_is_refused(path: Path, new: Path) -> None:
    shorter, longer = exported(path, last="30").split(b"\n"), exported(path).split(b"\n")
    assert "not those that it counts" in str(refused(b"\n".join([*shorter[:-2], longer[-2], b""]), new))


def test_a_state_that_was_changed_is_refused(path: Path, new: Path) -> None:
    first, *rest = exported(path, first="30").split(b"\n")
    header = msgspec.json.decode(first)
    with open_history(str(path)) as history:
        ledger = history.ledger(29)
    ledger._record.last_endpoint += 1
    header["state"] = ledger.dump()
    assert refused(b"\n".join([msgspec.json.encode(header), *rest]), new).line == 1


def test_an_event_of_a_newer_version_is_refused_with_its_type_schema_and_position(
    tmp_path: Path, new: Path, story
) -> None:
    path = churn.stored(tmp_path / "short.db", story[0][:1])
    text = exported(path).split(b"\n")
    forge(path, "node.sung", 3, "{}")
    ((position, version, digest),) = sql(
        path, "SELECT position, version, hex(digest) FROM events ORDER BY position DESC LIMIT 1"
    )
    row = {"position": position, "stream": "node", "version": version, "type": "node.sung", "schema": 3}
    row |= {"recorded_at_ns": 1, "actor": "", "cause": "", "data": {}, "digest": str(digest).lower()}
    found = refused(b"\n".join([*text[:-2], msgspec.json.encode(row), text[-2], b""]), new)
    assert f"position {position}: event type 'node.sung' version 3 is not known to this version of cplane" in str(found)


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"{}\n", b"hello\n", b'{"cplane_log":1}\n', b"\x28\xb5\x2f\xfd", b"\0" * 99]
)
def test_what_is_no_export_is_refused(text: bytes, new: Path) -> None:
    assert refused(text, new).line == 1


def test_a_format_of_a_newer_version_is_refused(path: Path, new: Path) -> None:
    text = exported(path).replace(b'{"cplane_log":1', b'{"cplane_log":2', 1)
    assert "written by a newer cplane" in str(refused(text, new))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a small filesystem is mounted")
def test_a_full_disk_leaves_nothing_behind(path: Path, tmp_path: Path) -> None:
    text = exported(path)
    with small(tmp_path / "small", 64) as folder:
        with pytest.raises(StorageFailed, match="full"):
            imported(text, folder / "new.db")
        assert list(folder.iterdir()) == []
