"""The past is one: whatever it is asked through, in whichever pieces, it has the same worlds and the same tables."""

import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cplane.deciders.world import World, evolve
from cplane.eventlog import reading, snapshots
from cplane.eventlog.reader import MemoryReader, SqliteReader, open_history
from cplane.events.objects import object_of
from cplane.projections.tables import UPSERT_ORDER, Tables
from cplane.timetravel.history import History
from tests.support import churn
from tests.support.effort import examples
from tests.support.strategies import CHANCE

pytestmark = pytest.mark.slow


def tables_of(history: History, position: int) -> dict[str, dict[object, object]]:
    tables = history.moment(position).tables
    return {name: dict(tables.table(name)) for name in UPSERT_ORDER}


@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANCE, st.integers(2, 30), st.integers(1, 40), st.integers(1, 30), st.data())
def test_any_log_any_batch_and_any_snapshot_lead_to_the_same(
    monkeypatch: pytest.MonkeyPatch, chance: Random, turns: int, every: int, batch: int, data: st.DataObject
) -> None:
    monkeypatch.setattr(snapshots, "EVERY", every)
    monkeypatch.setattr(reading, "_ROWS", batch)
    monkeypatch.setattr(SqliteReader, "folded_at_once", batch)
    rows, entries = churn.recorded(chance, turns)
    asked = data.draw(st.lists(st.integers(0, len(rows)), min_size=1, max_size=4))
    in_memory = History(MemoryReader(entries))
    with tempfile.TemporaryDirectory() as folder:
        path = str(churn.stored(Path(folder) / "log.db", rows))
        for position in asked:  # what one question leaves behind, the next one finds
            world = World()
            for one in entries[:position]:
                world = evolve(world, one.stream, one.event)
            live = Tables(one.event for one in entries[:position])
            with open_history(path) as stored:
                assert stored.moment(position).world == in_memory.moment(position).world == world
                wanted = {name: dict(live.table(name)) for name in UPSERT_ORDER}
                assert tables_of(stored, position) == tables_of(in_memory, position) == wanted
                assert list(stored.entries(0, position)) == entries[:position]


@settings(max_examples=examples(25), deadline=None)
@given(CHANCE, st.integers(2, 20), st.data())
def test_a_time_leads_to_the_same_position_in_any_log(chance: Random, turns: int, data: st.DataObject) -> None:
    rows, entries = churn.recorded(chance, turns)
    now_ns = entries[-1].recorded_at_ns + 10**9
    in_memory = History(MemoryReader(entries))
    with tempfile.TemporaryDirectory() as folder:
        path = str(churn.stored(Path(folder) / "log.db", rows))
        with open_history(path) as stored:
            for one in data.draw(st.lists(st.sampled_from(entries), min_size=1, max_size=5)):
                ago = f"{(now_ns - one.recorded_at_ns) // 10**9}s"
                last = max(other.position for other in entries if other.recorded_at_ns <= one.recorded_at_ns + 10**6)
                assert stored.position_of(ago, now_ns) == in_memory.position_of(ago, now_ns) == last


@settings(max_examples=examples(25), deadline=None)
@given(CHANCE, st.integers(2, 30), st.data())
def test_what_is_about_an_object_is_found_in_any_log(chance: Random, turns: int, data: st.DataObject) -> None:
    rows, entries = churn.recorded(chance, turns)
    names = sorted({object_of(one.event) for one in entries} | {"endpoint 99", "policy CiliumNetworkPolicy/a/b"})
    asked = data.draw(st.sets(st.sampled_from(names), min_size=1, max_size=4))
    after = data.draw(st.integers(0, len(rows)))
    to = data.draw(st.integers(after, len(rows)))
    with tempfile.TemporaryDirectory() as folder:
        path = str(churn.stored(Path(folder) / "log.db", rows))
        with open_history(path) as stored:
            found = list(stored.about(asked, after, to))
    assert found == [one for one in entries[after:to] if object_of(one.event) in asked]
