"""The index of a log finds what reading all of it finds, whatever became of its file."""

import sqlite3
from pathlib import Path
from random import Random

import pytest

from cplane.eventlog.beside import place_of
from cplane.eventlog.changes import Changes
from cplane.eventlog.codec import encode
from cplane.events.catalog import WIRE_NAME
from cplane.events.objects import object_of
from cplane.timetravel.wanted import Wanted
from tests.support import churn

EVENTS = 600


@pytest.fixture(scope="module")
def entries():
    made: list = []
    for decided in churn.Churn(Random(7), pods=10, policies=8).turns():
        made += decided
        if len(made) >= EVENTS:
            return churn.rows_of(tuple(made))[1]
    raise AssertionError


class Indexed:
    """A log in a list, and its index in a file."""

    def __init__(self, path: Path, entries) -> None:
        self.path, self.held = path, entries
        self.read = 0
        self.changes = self.opened()

    def opened(self) -> Changes:
        return Changes(place_of(str(self.path)), 0, self.digest_at, self.stored, lambda *_: None)

    def digest_at(self, position: int) -> bytes | None:
        return self.held[position - 1].digest if 0 < position <= len(self.held) else None

    def stored(self, after: int, to: int):
        self.read += to - after
        for one in self.held[after:to]:
            name, _ = WIRE_NAME[type(one.event)]
            texts = (text.encode() for text in (one.actor, one.cause))
            yield (one.position, name.encode(), one.recorded_at_ns, *texts, encode(one.event))


@pytest.fixture
def indexed(tmp_path, entries):
    made = Indexed(tmp_path / "log.db", entries)
    yield made
    made.changes.close()


def questions(entries) -> list[Wanted]:
    names = {object_of(one.event) for one in entries}
    found = [Wanted(), Wanted(last=7), Wanted(after=100, to=200), Wanted(kind="policy", after=50, last=3)]
    found += [Wanted(object=name) for name in sorted(names)[::9]]
    found += [Wanted(actor=actor, to=400) for actor in {one.actor for one in entries}]
    return [*found, Wanted(object="policy no/such"), Wanted(kind="identity", actor="nobody")]


def test_it_finds_what_reading_everything_finds(indexed, entries) -> None:
    for wanted in questions(entries):
        assert indexed.changes.find(wanted, EVENTS) == wanted.selects(entries[:EVENTS])


def test_only_what_is_new_is_read(indexed, entries) -> None:
    indexed.changes.find(Wanted(), 400)
    assert indexed.read == 400
    indexed.changes.find(Wanted(), 400)
    again = indexed.opened()
    assert again.find(Wanted(kind="policy"), EVENTS) == Wanted(kind="policy").selects(entries[:EVENTS])
    again.close()
    assert indexed.read == EVENTS


def test_an_index_of_another_log_is_made_anew(indexed, entries) -> None:
    indexed.changes.find(Wanted(), EVENTS)
    other = [*entries[:300]]
    indexed.held = other[::-1]  # the digest at the index's end is another one
    indexed.held = [*other, *reversed(entries[300:])]
    assert indexed.changes.find(Wanted(), 300) == list(range(1, 301))
    assert indexed.read > EVENTS


def test_a_damaged_file_is_thrown_away(indexed, entries) -> None:
    indexed.changes.find(Wanted(), EVENTS)
    indexed.changes.close()
    Path(place_of(str(indexed.path))).write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    indexed.changes = indexed.opened()
    assert indexed.changes.find(Wanted(last=1), EVENTS) == [EVENTS]


def test_where_no_file_can_be_it_is_in_memory(tmp_path, entries) -> None:
    made = Indexed(tmp_path / "nobody" / "log.db", entries)
    assert made.changes.find(Wanted(after=590), EVENTS) == list(range(591, 601))
    made.changes.close()


def test_users_can_ask_it_in_sql(indexed) -> None:
    indexed.changes.find(Wanted(), EVENTS)
    with sqlite3.connect(place_of(str(indexed.path))) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(changes)")]
    connection.close()
    assert columns == ["position", "recorded_at_ns", "actor", "cause", "type", "kind", "object"]
