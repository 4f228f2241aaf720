"""The index of a log finds what reading all of it finds, whatever became of its file."""

import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from msgspec import structs

from cplane.domain.policy import CCNP, CNP
from cplane.eventlog import archiving
from cplane.eventlog import changes as module
from cplane.eventlog.beside import place_of
from cplane.eventlog.changes import Changes
from cplane.eventlog.codec import encode
from cplane.eventlog.errors import BadEvent, UnknownEvent
from cplane.eventlog.reader import open_history, reading, remember
from cplane.events.catalog import WIRE_NAME
from cplane.events.config import OptionsChanged
from cplane.events.endpoint import EndpointDeleted
from cplane.events.envelope import CONFIG, ENDPOINT, IDENTITY, IPAM, NODE, POLICY, SERVICE
from cplane.events.identity import IdentityReleased
from cplane.events.ipam import PoolAdded
from cplane.events.node import NodeAddressesChanged
from cplane.events.objects import KINDS, object_of
from cplane.events.policy import PolicyUpserted
from cplane.events.service import ServiceDeleted
from cplane.timetravel import history as history_module
from cplane.timetravel.wanted import Wanted
from tests.support import churn
from tests.support.events import SAMPLES
from tests.support.log import sql

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
        return Changes(place_of(str(self.path)), "", 0, self.digest_at, self.stored, lambda *_: None)

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


def test_the_first_event_of_a_time_is_the_first_also_where_the_clock_was_set_back(indexed, entries, tmp_path) -> None:
    times = sorted({one.recorded_at_ns for one in entries})
    for at in (*Random(1).choices(times, k=8), times[0] - 1, times[-1] + 1):
        first = next((one.position for one in entries if one.recorded_at_ns >= at), len(entries) + 1)
        assert indexed.changes.first_at(at, 0, len(entries)) == first
        behind = next((one.position for one in entries[50:] if one.recorded_at_ns >= at), len(entries) + 1)
        assert indexed.changes.first_at(at, 50, len(entries)) == behind
    early = [structs.replace(entries[99], recorded_at_ns=times[0] - 5)]
    set_back = Indexed(tmp_path / "back.db", (*entries[:99], *early, *entries[100:]))
    at = entries[80].recorded_at_ns
    assert set_back.changes.first_at(at, 0, 200) == indexed.changes.first_at(at, 0, 200) <= 81
    set_back.changes.close()


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


def changes_of(path: Path, **wanted) -> list[tuple]:
    """All rows of the index of a log in a file, which is brought up to date."""
    with open_history(str(path)) as history:
        history.find(Wanted(last=1, **wanted))
    with closing(sqlite3.connect(place_of(str(path)))) as connection:
        return connection.execute("SELECT * FROM changes ORDER BY position").fetchall()


def read_one_by_one(path: Path) -> list[tuple]:
    with reading(str(path)) as reader:
        return [module._row(one) for one in reader._all_said(reader.start, reader.head)]


ODD = ("a b", "a/b", "c,d", 'e"f', "g\\h", "ä\u2028", "\x00", "")
POLICIES = [
    (POLICY, PolicyUpserted(kind=kind, namespace=space, name=name, document='{"kind":"x","name":"y"}'))
    for kind, space, name in [(CNP, "shop", "web"), (CCNP, "", "all"), *((CNP, odd, odd) for odd in ODD)]
]
OTHERS = [
    *((IPAM, PoolAdded(pool=odd, cidr="10.0.0.0/24", reserved=())) for odd in ODD),
    *((NODE, NodeAddressesChanged(name=odd, addresses=())) for odd in ODD),
    (IDENTITY, IdentityReleased(number=(1 << 24) + 7)),
    (ENDPOINT, EndpointDeleted(endpoint=65535)),
    (CONFIG, OptionsChanged(policy_enforcement="always", policy_audit=True)),
    *((SERVICE, ServiceDeleted(namespace=odd, name=odd)) for odd in ODD),
    *((NODE, event) for event in SAMPLES),
]


@pytest.fixture
def stored(tmp_path, entries, monkeypatch) -> Path:
    """A log in a file, with odd names too, which is long enough to have an index."""
    monkeypatch.setattr(history_module, "_LISTED", 10)
    monkeypatch.setattr(module, "_BATCH", 50)
    events = [*((one.stream, one.event) for one in entries), *POLICIES, *OTHERS]
    return churn.stored(tmp_path / "stored.db", churn.rows_of(tuple(events))[0])


def test_the_database_makes_the_rows_that_reading_the_events_makes(stored, monkeypatch) -> None:
    expected = read_one_by_one(stored)
    with open_history(str(stored)) as history:
        names = [object_of(one.event) for one in history.entries(0, history.head)]
    assert [row[6] for row in expected] == names
    assert {row[5] for row in expected} == {*KINDS}, "every kind of object is among them"

    read = module._row

    def seldom(one):
        assert b"\\u0000" in one[5], f"{one} was read"
        return read(one)

    monkeypatch.setattr(module, "_BATCH", 1)
    monkeypatch.setattr(module, "_row", seldom)
    assert changes_of(stored) == expected


def test_events_about_each_of_all_objects_are_found(stored) -> None:
    with open_history(str(stored)) as history:
        entries = [*history.entries(0, history.head)]
        for name in {
            object_of(one.event) for one in entries if object_of(one.event).count("/") < 3
        }:  # as in Kubernetes
            expected = [one for one in entries if object_of(one.event) == name]
            assert list(history.about([name], 0, history.head)) == expected
            assert history.find(Wanted(object=name)) == [one.position for one in expected]


def test_of_an_archived_log_the_rows_are_the_same(stored, monkeypatch) -> None:
    expected = read_one_by_one(stored)
    monkeypatch.setattr(archiving, "SEGMENT", 100)
    archiving.archive_file(str(stored), lambda _: 330)
    assert changes_of(stored) == expected


@pytest.mark.parametrize("data", ["{", '{"kind":7}', "[]", '{"name":"n1"}'])
def test_an_event_that_cannot_be_read_is_named(stored, data) -> None:
    sql(stored, f"UPDATE events SET data = '{data}' WHERE position = 610")
    with pytest.raises(BadEvent, match="position 610: the event cannot be read"):
        changes_of(stored)


def test_an_event_of_an_unknown_family_is_named(stored) -> None:
    sql(stored, "UPDATE events SET type = 'paint.dried' WHERE position = 200")
    with pytest.raises(UnknownEvent, match=r"position 200: event type 'paint\.dried'"):
        changes_of(stored)


def test_what_a_question_needs_is_sorted_and_an_agent_sorts_all(stored) -> None:
    def sorted_by() -> set[str]:
        with closing(sqlite3.connect(place_of(str(stored)))) as connection:
            return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")}

    changes_of(stored)
    assert sorted_by() == set()
    changes_of(stored, kind="policy", object="policy CiliumClusterwideNetworkPolicy/all")
    assert sorted_by() == {"changes_of_object"}
    assert remember(str(stored)) is False
    assert sorted_by() == {"changes_of_object", "changes_by_actor", "changes_of_kind"}
