"""Logs that are asked about their past: any that can be read, and a reason for each that cannot."""

import sys
from pathlib import Path
from random import Random

import pytest

from cplane.eventlog import changes, snapshots
from cplane.eventlog.errors import BadEvent, DriverMissing, NewerSchema, NotALog, UnknownEvent
from cplane.eventlog.reader import open_history
from cplane.eventlog.verify import verify_file
from cplane.timetravel import history as module
from cplane.timetravel.wanted import Wanted
from tests.support import churn
from tests.support.log import forge, sql


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return churn.stored(tmp_path / "log.db", churn.recorded(Random(9), 20)[0])


@pytest.mark.parametrize(("kind", "schema"), [("node.painted", 1), ("node.joined", 2)])
def test_an_event_of_a_newer_version_is_named_and_the_past_before_it_can_be_asked(
    path: Path, kind: str, schema: int
) -> None:
    with open_history(str(path)) as history:
        head = history.head
        wanted = history.ledger(head).dump()
    forge(path, kind, schema, '{"name":"n1"}')
    with open_history(str(path)) as history:
        assert history.head == head + 1
        assert history.ledger(head).dump() == wanted
        with pytest.raises(UnknownEvent, match=f"position {head + 1}: event type '{kind}' version {schema}.*newer one"):
            history.ledger(head + 1)
        with pytest.raises(UnknownEvent):
            list(history.entries(0, head + 1))


def test_an_event_that_cannot_be_read_is_named(path: Path) -> None:
    with open_history(str(path)) as history:
        entries = list(history.entries(0, history.head))
    last = next(one.position for one in reversed(entries) if one.stream == "policy")
    sql(path, f"UPDATE events SET data = substr(data, 1, length(data) - 1) WHERE position = {last}")
    with open_history(str(path)) as history:
        assert history.ledger(last - 1).position == last - 1
        with pytest.raises(BadEvent, match=f"position {last}: the event cannot be read"):
            history.ledger(last)


def test_a_log_of_a_newer_schema_is_refused(path: Path) -> None:
    sql(path, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(NewerSchema, match="written by a newer cplane"), open_history(str(path)):
        pass


@pytest.mark.parametrize("content", [b"", b"no database", bytes(4096)])
def test_what_is_no_log_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(NotALog, match="is not an event log"), open_history(str(path)):
        pass
    assert path.read_bytes() == content


def test_a_history_is_as_it_was_when_it_was_opened(path: Path) -> None:
    with open_history(str(path)) as history:
        head = history.head
        forge(path, "node.joined", 1, '{"name":"n1","cluster":"c","local":true}')
        assert history.head == head
        assert len(list(history.entries(0, head))) == head


def test_rows_in_other_streams_than_their_own_are_counted_where_they_are(path: Path) -> None:
    sql(path, "UPDATE events SET stream = 'other' WHERE stream = 'policy'")
    with open_history(str(path)) as history:
        world = history.moment(history.head).world
        count = sum(one.stream == "other" for one in history.entries(0, history.head))
    assert dict(world.versions)["other"] == count
    assert "policy" not in world.versions


def test_a_long_log_tells_how_far_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "EVERY", 10)
    monkeypatch.setattr(module, "_LISTED", 10)
    for name, number in (("_MANY", 10), ("_BATCH", 8)):
        monkeypatch.setattr(changes, name, number)
    told: list[tuple[str, int, int]] = []
    with open_history(str(path), told=lambda *one: told.append(one)) as history:
        head = history.head
        history.ledger(head)
        history.find(Wanted(kind="node"))
        first, told[:] = [*told], []
        history.ledger(head)
        history.find(Wanted(kind="node"))
    folding, indexing = ([one[1:] for one in first if one[0] == what] for what in ("folding", "indexing"))
    assert folding == [(done, head) for done in (*range(10, head, 10), head)]
    assert indexing == [(done, head) for done in (*range(8, head, 8), head)]
    assert all(done == total for _, done, total in told), "nothing to wait for any more"


def test_a_database_without_its_driver_is_refused_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        one for one in sys.modules if one.startswith(("cplane.eventlog.postgres", "cplane.eventlog.database"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    url = "postgresql://cplane@db.example/cplane"
    with pytest.raises(DriverMissing, match=r"pip install 'cplane\[postgres\]'"), open_history(url):
        pass
    with pytest.raises(DriverMissing):
        verify_file(url)
