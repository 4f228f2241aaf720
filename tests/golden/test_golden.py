"""What is stored stays readable for ever, byte for byte, and leads to the same tables.

`events/` has the stored bytes of every event type and version: the data, and the digest of the row that holds it as
the first of a log. `logs/` has recorded logs, and the tables at named positions: after all that one cause led to.

A file that differs is a decision, not a mistake to be corrected here: a released event keeps its bytes, a recorded
log its tables.

A new version of an event gets a second entry in the catalogue, beside the old one and never in its place; what reads
back from either is one class, so what the old bytes do not say is a field with a default, or is made by a pure function
from the old class to the new one where rows are decoded. Its bytes are a new file in `events/`, a story of `stories.py`
comes to record it, and the logs that were recorded before stay as they are: they are what proves that an old log still
gives its tables. What a newer cplane wrote is refused, with its type, version and position.

With CPLANE_REWRITE_GOLDEN=1 the files are written anew; what changed is then for a review to judge.
"""

import os
from pathlib import Path

import pytest

from cplane.deciders.world import World, evolve, facts
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import decode, decode_all, draft
from cplane.events.catalog import CATALOG, WIRE_NAME
from cplane.events.envelope import Proposed, StreamId
from cplane.projections.tables import UPSERT_ORDER, Tables
from tests.golden.stories import STORIES
from tests.support.events import SAMPLES
from tests.support.log import digests
from tests.support.recording import from_text, record, tables_text, to_text

HERE = Path(__file__).parent
REWRITE = os.environ.get("CPLANE_REWRITE_GOLDEN") == "1"
RECORDED_AT_NS = 1_700_000_000_000_000_000
SAMPLE = {WIRE_NAME[type(event)]: event for event in SAMPLES}
VERSIONS = pytest.mark.parametrize("version", sorted(CATALOG), ids=lambda version: ".".join(map(str, version)))
LOGS = pytest.mark.parametrize("name", sorted(STORIES))


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


def recorded(name: str):
    """The rows of a recorded log."""
    path = HERE / "logs" / f"{name}.jsonl"
    return from_text(golden(path, to_text(record(STORIES[name])) if REWRITE else ""))


@LOGS
def test_a_recorded_log_is_sound(name):
    chain = Chain()
    for row in recorded(name):
        chain.check(row)
        chain.follow(row)
    assert chain.position > 0


@LOGS
def test_a_recorded_log_gives_its_tables_at_every_named_position(name):
    log = decode_all(recorded(name), 0)
    ends = {one.cause: one.position for one in log}
    shown = ""
    for cause, end in ends.items():
        events = [one.event for one in log[:end]]
        shown += f"== position {end}: {cause}\n{tables_text(events)}\n\n"
    assert shown == golden(HERE / "logs" / f"{name}.tables.txt", shown)


@LOGS
def test_the_tables_of_a_recorded_log_follow_from_its_facts_alone(name):
    world, history = World(), []
    for one in decode_all(recorded(name), 0):
        world = evolve(world, one.stream, one.event)
        history.append(one.event)
        incremental, anew = Tables(history), Tables(facts(world))
        assert all(incremental.table(table) == anew.table(table) for table in UPSERT_ORDER), one


def test_the_recorded_logs_have_an_event_of_every_version():
    rows = [row for name in STORIES for row in recorded(name)]
    assert {(row[3].decode(), row[4]) for row in rows} == CATALOG.keys()
    assert {path.stem.partition(".")[0] for path in (HERE / "logs").iterdir()} == STORIES.keys()
