"""What is kept outside the database stays readable for ever: what an archive consists of, exports and checkpoints.

`formats/` has each of them as this version writes it, of the log `shop` of 0.1.0. The bytes that a compressor writes
may differ from one of its versions to the next, so what must not change is what they read back as. A new version of a
format gets files of its own beside these, which stay. With CPLANE_REWRITE_GOLDEN=1 those of the present version are
written anew.
"""

import io
import shutil
from pathlib import Path

import pytest

from cplane.eventlog import archiving, segment
from cplane.eventlog.archive import beginning_name, folder_of, segment_name
from cplane.eventlog.archiving import archive_file, compact_file
from cplane.eventlog.beginning import read_beginning
from cplane.eventlog.chain import Chain
from cplane.eventlog.importing import import_log
from cplane.eventlog.reader import MemoryReader, open_history, reading
from cplane.eventlog.segment import Segment
from cplane.timetravel.checkpoint import checkpoint, read_checkpoint
from cplane.timetravel.exported import export
from cplane.timetravel.history import History
from tests.golden.test_golden import CORPUS, HERE, REWRITE
from tests.support.log import sql

FORMATS = HERE / "formats"
SEGMENT = 20
NOW_NS = 1 << 62


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy(CORPUS / "0.1.0/shop.db", tmp_path / "log.db"))


@pytest.fixture
def rows(path: Path):
    with reading(str(path)) as reader:
        return list(reader.rows(0, reader.head))


@pytest.fixture(autouse=True)
def anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are written, if they shall be."""
    if not REWRITE:
        return
    monkeypatch.setattr(archiving, "SEGMENT", SEGMENT)
    monkeypatch.setattr(segment, "BLOCK", 8)
    FORMATS.mkdir(exist_ok=True)
    with open_history(str(path)) as history:
        lines = b"".join(line + b"\n" for line in export(history, NOW_NS))
        (FORMATS / "export.1.jsonl").write_bytes(lines)
        (FORMATS / "checkpoint.1.txt").write_text(checkpoint(history, NOW_NS).text())
    copy = shutil.copy(path, path.with_name("copy.db"))
    archive_file(str(copy), lambda _: 1)
    folder = Path(folder_of(str(copy)))
    shutil.copy(folder / segment_name(1, SEGMENT), FORMATS / "segment.1")
    compact_file(str(copy), lambda _: SEGMENT)
    shutil.copy(folder / beginning_name(SEGMENT), FORMATS / "beginning.1")


def test_a_segment_gives_its_rows(rows) -> None:
    one = Segment(str(FORMATS / "segment.1"), 0, SEGMENT)
    assert list(one.check(Chain())) == rows[:SEGMENT]


def test_a_base_gives_the_state_that_the_events_before_it_led_to(path: Path, rows) -> None:
    beginning = read_beginning(str(FORMATS / "beginning.1"), SEGMENT)
    assert beginning.digest == rows[SEGMENT - 1][-1]
    assert beginning.recorded_at_ns == rows[SEGMENT - 1][5]
    with open_history(str(path)) as history:
        assert beginning.ledger().world() == history.ledger(SEGMENT).world()


def test_an_export_gives_its_log(path: Path, tmp_path: Path) -> None:
    text = (FORMATS / "export.1.jsonl").read_bytes()
    import_log(io.BytesIO(text), str(tmp_path / "new.db"))
    assert sql(tmp_path / "new.db", "SELECT * FROM events") == sql(path, "SELECT * FROM events")


def test_an_export_is_written_as_it_was(path: Path) -> None:
    with open_history(str(path)) as history:
        lines = b"".join(line + b"\n" for line in export(history, NOW_NS))
    assert lines == (FORMATS / "export.1.jsonl").read_bytes()


def test_a_checkpoint_is_still_that_of_its_log(path: Path) -> None:
    found, signature = read_checkpoint((FORMATS / "checkpoint.1.txt").read_text())
    with open_history(str(path)) as history:
        assert (checkpoint(history, NOW_NS), None) == (found, signature)
        assert checkpoint(History(MemoryReader(list(history.entries(0, history.head)))), NOW_NS) == found
