"""What is stored stays readable for ever, byte for byte, and leads to the same tables.

`events/` has the stored bytes of every event type and version: the data, and the digest of the row that holds it as
the first of a log. `logs/VERSION/` has logs as that version of cplane wrote them, each as an export and as a file of
SQLite, and the tables at named positions: after all that one cause led to.

A file that differs is a decision, not a mistake to be corrected here: a released event keeps its bytes, a recorded
log its tables.

A new version of an event gets an entry in the catalogue, and the one before it is retired, with a pure function from
the old class to the new one (`events/upcasting.py`). Its bytes are a new file in `events/`, a story of `stories.py`
comes to record it, and the logs that older versions recorded stay as they are: they are what proves that an old log
still gives its tables. What a newer cplane wrote is refused, with its type, version and position.

`scripts/record-logs` records the logs of the present version, before it is released. With CPLANE_REWRITE_GOLDEN=1 the
files of events and tables are written anew; what changed is then for a review to judge. Logs never are.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from cplane import __version__
from cplane.deciders.world import World, evolve, facts
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import decode, draft
from cplane.eventlog.importing import import_log
from cplane.eventlog.reader import open_history
from cplane.eventlog.store import SqliteLog
from cplane.eventlog.verify import verify_file
from cplane.events.catalog import CATALOG, RETIRED, WIRE_NAME
from cplane.events.envelope import Proposed, StreamId
from cplane.projections.tables import UPSERT_ORDER, Tables
from cplane.timetravel.exported import export
from cplane.timetravel.ledger import Ledger
from tests.golden.stories import STORIES
from tests.support.clock import TickingClock
from tests.support.events import SAMPLES
from tests.support.log import digests
from tests.support.recording import tables_of, write_logs
from tests.support.tree import ROOT

HERE = Path(__file__).parent
REWRITE = os.environ.get("CPLANE_REWRITE_GOLDEN") == "1"
RECORDED_AT_NS = 1_700_000_000_000_000_000
CORPUS = HERE / "logs"
SAMPLE = {WIRE_NAME[type(event)]: event for event in SAMPLES}
VERSIONS = pytest.mark.parametrize("version", sorted(CATALOG), ids=lambda version: ".".join(map(str, version)))


def first_row(event):
    """The row of an event as the first of a log, and what readers see of it."""
    stream = StreamId(WIRE_NAME[type(event)][0].partition(".")[0])
    proposed = Proposed(events=((stream, event),), expected={stream: 0}, actor="uid:0(root)", cause="golden")
    (row,), (envelope,) = Chain().extend(draft(proposed), proposed.expected, RECORDED_AT_NS)
    return row, envelope


def golden(path: Path, text: str) -> str:
    """What the file says; `text` if it is to be written anew."""
    if REWRITE:
        path.write_text(text)
    return path.read_text()


def event_file(version) -> Path:
    name, schema = version
    return HERE / "events" / f"{name}.{schema}.txt"


@VERSIONS
def test_encoding_an_event_gives_the_stored_bytes(version):
    row, _ = first_row(SAMPLE[version])
    data, digest = row[-2:]
    stored = golden(event_file(version), f"{data}\n{digest.hex()}\n")
    assert f"{data}\n{digest.hex()}\n" == stored


@VERSIONS
def test_decoding_the_stored_bytes_gives_the_event(version):
    data, digest = event_file(version).read_text().splitlines()
    row, envelope = first_row(SAMPLE[version])
    texts = [text.encode() if isinstance(text, str) else text for text in row[:-2]]
    assert decode((*texts, data.encode(), bytes.fromhex(digest))) == envelope
    assert digests([envelope], [data.encode()]) == [bytes.fromhex(digest)]


def test_every_released_version_has_its_file_and_its_sample():
    assert {path.name for path in (HERE / "events").iterdir()} == {event_file(version).name for version in CATALOG}
    assert SAMPLE.keys() == CATALOG.keys()


LOGS = sorted((folder.name, file.name.partition(".")[0]) for folder in CORPUS.iterdir() for file in folder.glob("*.db"))
RECORDED = pytest.mark.parametrize(("version", "name"), LOGS, ids="/".join)


@pytest.fixture
def imported(tmp_path: Path, version: str, name: str) -> Path:
    """The recorded log, as somebody has it who imports what was exported then."""
    with (CORPUS / version / f"{name}.log.jsonl").open("rb") as lines:
        import_log(lines, str(tmp_path / "imported.db"))
    return tmp_path / "imported.db"


@RECORDED
def test_a_recorded_log_gives_its_tables_at_every_named_position(version, name, imported):
    with open_history(str(imported)) as history:
        shown = tables_of(list(history.entries(0, history.head)))
    assert shown == golden(CORPUS / version / f"{name}.tables.txt", shown)


@RECORDED
def test_a_recorded_file_is_opened_by_an_agent_and_is_the_same_log(version, name, imported, tmp_path):
    file = Path(shutil.copy(CORPUS / version / f"{name}.db", tmp_path))
    before = verify_file(str(file))
    assert before == verify_file(str(imported))
    assert (before.fault, before.events > 0) == ("", True)

    async def opened() -> Ledger:
        async with SqliteLog.open(str(file), TickingClock()) as log:
            assert log.digest.hex() == before.digest
            return log.folded()

    ledger = anyio.run(opened)
    with open_history(str(imported)) as history:
        assert ledger.dump() == history.ledger(history.head).dump()
        tables = Tables(ledger.facts())
        assert all(tables.table(table) == history.moment(history.head).tables.table(table) for table in UPSERT_ORDER)


@RECORDED
def test_the_tables_of_a_recorded_log_follow_from_its_facts_alone(version, name, imported):
    world, seen, incremental = World(), [], Tables()
    with open_history(str(imported)) as history:
        for one in history.entries(0, history.head):
            world = evolve(world, one.stream, one.event)
            seen.append(one.event)
            incremental.apply(one.event)
            again, anew = Tables(seen), Tables(facts(world))
            assert all(incremental.table(table) == again.table(table) for table in UPSERT_ORDER), one
            assert all(incremental.table(table) == anew.table(table) for table in UPSERT_ORDER), one


@RECORDED
def test_a_recorded_log_is_exported_as_it_was(version, name, imported):
    with open_history(str(imported)) as history:
        lines = b"".join(line + b"\n" for line in export(history, 0))
    assert lines == (CORPUS / version / f"{name}.log.jsonl").read_bytes()


def test_the_recorded_logs_have_every_version_of_every_event_that_was_ever_written(tmp_path):
    found = set()
    for version, name in LOGS:
        with open_history(shutil.copy(CORPUS / version / f"{name}.db", tmp_path)) as history:
            found |= {(one.type, one.schema) for one in history.stored(0, history.head)}
    assert found == CATALOG.keys() | RETIRED.keys()


def test_this_version_has_its_logs_and_they_are_complete():
    """`scripts/record-logs` makes them."""
    assert {name for version, name in LOGS if version == __version__} == STORIES.keys()
    there = {path.relative_to(CORPUS) for path in CORPUS.rglob("*") if path.is_file()}
    kinds = ("db", "log.jsonl", "tables.txt")
    assert there == {Path(version, f"{name}.{kind}") for version, name in LOGS for kind in kinds}


def test_the_logs_of_this_version_are_what_it_writes(tmp_path):
    write_logs(tmp_path, STORIES)
    for name in STORIES:
        for kind in ("log.jsonl", "tables.txt"):
            assert (tmp_path / f"{name}.{kind}").read_bytes() == (CORPUS / __version__ / f"{name}.{kind}").read_bytes()
        assert verify_file(str(tmp_path / f"{name}.db")).fault == ""


def test_recorded_logs_are_not_written_over():
    command = [sys.executable, "scripts/record-logs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"record-logs: tests/golden/logs/{__version__} is there")
