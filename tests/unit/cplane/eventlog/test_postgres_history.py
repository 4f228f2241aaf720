"""A log in a database is asked as one in a file: snapshots and an index make it quick, and never change an answer."""

import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from cplane.eventlog import beside, refusals, snapshots, verified
from cplane.eventlog.errors import BadEvent
from cplane.eventlog.postgres import PostgresLog
from cplane.eventlog.postgres_refusals import RefusalsTable
from cplane.eventlog.reader import MemoryReader, open_history, remember
from cplane.eventlog.sqlite import migrations
from cplane.eventlog.verify import SnapshotsFinding, verify_file, verify_snapshots
from cplane.events.envelope import NODE
from cplane.events.objects import object_of
from cplane.timetravel import history as module
from cplane.timetravel.history import History
from cplane.timetravel.refused import Refused
from cplane.timetravel.wanted import Wanted
from tests.support import churn
from tests.support.clock import TickingClock
from tests.support.events import SAMPLES
from tests.support.log import fact, proposal
from tests.support.postgres import NEEDS_POSTGRES

pytestmark = [pytest.mark.anyio, pytest.mark.slow, NEEDS_POSTGRES]
EVERY = 20
PLACES = (0, 19, 20, 21, 55)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A snapshot at every twentieth event, and an index for every log, so that small logs have some."""
    monkeypatch.setattr(snapshots, "EVERY", EVERY)
    monkeypatch.setattr(verified, "EVERY", EVERY)
    monkeypatch.setattr(module, "_LISTED", 10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def story():
    return churn.recorded(Random(5), 60)


@pytest.fixture
def name(postgres):
    with postgres.database() as made:
        yield made


@pytest.fixture
def url(postgres, name, story) -> str:
    churn.stored_in(postgres.url(name), "n1", story[0])
    return postgres.url(name, node="n1")


@pytest.fixture
def tampered(postgres, name):
    def tamper(statement: str) -> None:
        postgres.execute(statement, name)

    return tamper


def dumps(url: str, *positions: int, folder: str = "") -> list[bytes]:
    with open_history(url, folder=folder) as history:
        return [history.ledger(position).dump() for position in positions or (*PLACES, history.head)]


def expected(story, *positions: int) -> list[bytes]:
    history = History(MemoryReader(story[1]))
    return [history.ledger(position).dump() for position in positions or (*PLACES, history.head)]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.history"))


def kept(place: Path, table: str) -> list[int]:
    with closing(sqlite3.connect(place)) as connection:
        return [row[0] for row in connection.execute(f"SELECT position FROM {table} ORDER BY position")]


# Snapshots and the index


def test_what_was_worked_out_is_kept_by_whoever_asks(url, story, tmp_path, tampered):
    assert dumps(url) == expected(story)
    (place,) = files(tmp_path / "cache/cplane/history")
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.parent.stat().st_mode & 0o777 == 0o700
    there = list(range(EVERY, len(story[0]) + 1, EVERY))
    assert kept(place, "snapshots") == there
    assert verify_snapshots(url) == SnapshotsFinding(len(there))
    tampered("UPDATE events SET data = '{}' WHERE position < 40")
    assert dumps(url, 40, 45) == expected(story, 40, 45), "they are what answers come from"
    with pytest.raises(BadEvent):
        dumps(url, 39)


def test_every_question_has_the_answer_of_a_list(url, story):
    with open_history(url) as there:
        here = History(MemoryReader(story[1]))
        names = {object_of(one.event) for one in story[1]}
        for wanted in (
            *(Wanted(object=name) for name in names),
            *(Wanted(actor=actor, last=3) for actor in churn.ACTORS),
            Wanted(kind="policy", after=20, to=70),
            Wanted(actor="nobody"),
        ):
            assert there.find(wanted) == here.find(wanted)
        for some in (["node n1"], ["options"], sorted(names)[:5], sorted(names)):
            assert list(there.about(some, 7, 90)) == list(here.about(some, 7, 90))
        for position in (1, 50, here.head):
            assert there.digest(position) == here.digest(position)
            assert there.recorded_at_ns(position) == here.recorded_at_ns(position)


def test_each_log_has_a_file_of_its_own(postgres, name, url, story, tmp_path):
    other = churn.recorded(Random(6), 60)
    churn.stored_in(postgres.url(name), "n2", other[0])
    for node, told in (("n1", story), ("n2", other), ("n1", story)):
        assert dumps(postgres.url(name, node=node), folder=str(tmp_path / "kept")) == expected(told)
    assert len(files(tmp_path / "kept")) == 2


def test_a_log_that_was_exchanged_for_another_is_not_asked_in_the_file_of_the_first(
    postgres, name, url, story, tmp_path, tampered
):
    assert dumps(url) == expected(story)
    tampered("DELETE FROM events")
    other = churn.recorded(Random(6), 60)
    churn.stored_in(postgres.url(name), "n1", other[0])
    assert dumps(url) == expected(other)
    tampered("DELETE FROM events WHERE position > 45")
    assert dumps(url, 40, 45) == expected(other, 40, 45)


def test_where_no_folder_can_be_answers_are_the_same(url, story, tmp_path):
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "below")
    assert dumps(url, folder=folder) == expected(story)
    with open_history(url, folder=folder) as history:
        assert history.find(Wanted(last=2)) == [history.head - 1, history.head]


def test_a_user_without_a_home_has_no_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", "/somewhere/ann")
    assert beside.own_folder() == "/somewhere/ann/.cache/cplane/history"
    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert beside.own_folder() == ""


def test_an_agent_works_out_everything_beside_its_own_files(url, story, tmp_path):
    folder = tmp_path / "history"
    while remember(url, node="n1", folder=str(folder)):
        pass
    (place,) = files(folder)
    there = list(range(EVERY, len(story[0]) + 1, EVERY))
    assert kept(place, "snapshots") == there
    assert kept(place, "changes") == list(range(1, len(story[0]) + 1))
    assert verified.Verified.kept(str(folder), digest_of(story)).chain.position == there[-1]


# What a start goes on from


def digest_of(story):
    return lambda position: story[1][position - 1].digest if 0 < position <= len(story[1]) else None


def opened(url: str, folder: Path):
    return PostgresLog.open(url, TickingClock(), node="n1", folder=str(folder))


async def test_a_start_reads_what_came_behind_the_last_mark(url, story, tmp_path, tampered):
    async with opened(url, tmp_path) as log:
        assert log.folded().dump() == expected(story, len(story[0]))[0]
        head = log.head
    tampered("UPDATE events SET data = '{}' WHERE position = 30")
    async with opened(url, tmp_path) as log:
        assert (log.head, log.digest) == (head, story[1][-1].digest)
        assert log.folded().dump() == expected(story, head)[0], "what is enforced is what was verified"
        added = await log.append(proposal(log.folded().versions["node"], fact(7)))
        assert added[0].position == head + 1
    assert verify_file(url).position == 30, "all of it is read by who asks for that"
    async with opened(url, tmp_path) as log:
        assert log.head == head + 1
        assert log.folded().versions["node"] == added[0].version
    with pytest.raises(BadEvent, match="position 30"):
        async with opened(url, tmp_path / "nothing"):
            pass


async def test_what_was_changed_behind_the_mark_is_found(url, story, tmp_path, tampered):
    async with opened(url, tmp_path):
        pass
    async with opened(url, tmp_path) as log:
        await log.append(proposal(log.folded().versions["node"], fact(7)))
    tampered(f"UPDATE events SET actor = 'nobody' WHERE position = {len(story[0]) + 1}")
    with pytest.raises(BadEvent, match=f"position {len(story[0]) + 1}: its digest does not fit"):
        async with opened(url, tmp_path):
            pass


@pytest.mark.parametrize("change", ["cut", "flip", "remove", "folder"])
async def test_a_mark_that_cannot_be_read_is_left_aside(url, story, tmp_path, tampered, change):
    async with opened(url, tmp_path):
        pass
    mark = tmp_path / f"verified.{beside.SCHEMA}"
    assert mark.stat().st_mode & 0o777 == 0o600
    raw = bytearray(mark.read_bytes())
    raw[len(raw) // 2] ^= 1
    mark.unlink()
    if change == "folder":
        mark.mkdir()
    elif change != "remove":
        mark.write_bytes(raw[:-5] if change == "cut" else raw)
    async with opened(url, tmp_path) as log:
        assert log.folded().dump() == expected(story, len(story[0]))[0]
    tampered("UPDATE events SET data = '{}' WHERE position = 30")
    if change == "folder":
        with pytest.raises(BadEvent):
            async with opened(url, tmp_path):
                pass


@pytest.mark.parametrize("statement", ["DELETE FROM events WHERE position > 50", "DELETE FROM events"])
async def test_a_mark_of_what_is_not_in_the_log_is_left_aside(url, story, tmp_path, tampered, statement):
    """A database that was restored from a backup, or another one."""
    async with opened(url, tmp_path):
        pass
    tampered(statement)
    async with opened(url, tmp_path) as log:
        assert log.head == (50 if "50" in statement else 0)
        assert log.folded().dump() == expected(story, log.head)[0]


# What was refused


def refused(number: int, message: str = "no") -> Refused:
    return Refused(
        recorded_at_ns=number,
        actor="uid:0(root)",
        cause="",
        command="apply policies",
        objects=(f"policy CiliumNetworkPolicy/shop/p{number}",),
        code="policy.invalid",
        message=message,
    )


def told(url: str) -> list[Refused]:
    with open_history(url) as history:
        return list(history.refusals())


def test_what_was_refused_is_in_the_database_and_the_newest_of_each_node_are_kept(postgres, name, url, monkeypatch):
    monkeypatch.setattr("cplane.eventlog.postgres_refusals.KEPT", 5)
    assert told(url) == []
    for node in ("n1", "n2"):
        keeping = RefusalsTable(postgres.url(name), node)
        for start in (0, 4):
            assert keeping.write([refused(number, node) for number in range(start, start + 4)])
    assert told(url) == [refused(number, "n1") for number in range(3, 8)]
    assert postgres.execute("SELECT count(*) FROM refusals", name) == [(10,)]
    assert keeping.write([refused(9, "a \0 and half a \ud800")])
    assert postgres.execute("SELECT message FROM refusals ORDER BY recorded_at_ns DESC LIMIT 1", name) == [
        ("a \ufffd and half a ?",)
    ]


def test_a_database_that_is_older_or_away_has_none(postgres, name, url):
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(postgres.url(name)))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
    engine.dispose()
    assert told(url) == []
    assert not RefusalsTable(postgres.url(name), "n1").write([refused(1)])
    assert not RefusalsTable("postgresql://nobody@/none?host=/nowhere", "n1").write([refused(1)])
    assert refusals.KEPT == 10_000


# The view of all events


def test_the_view_names_objects_as_every_question_does(postgres, name):
    events = tuple((NODE, event) for event in SAMPLES)
    rows, entries = churn.rows_of(events)
    churn.stored_in(postgres.url(name), "n1", rows)
    found = postgres.execute("SELECT object, kind FROM cluster_events ORDER BY position", name)
    assert found == [(object_of(one.event), object_of(one.event).partition(" ")[0]) for one in entries]
