"""Moments of a log: which there are, which a text means, and what is so there."""

from random import Random

import pytest

from cplane.deciders.world import World, evolve
from cplane.eventlog.reader import MemoryReader
from cplane.events.envelope import NODE, Envelope
from cplane.projections.tables import UPSERT_ORDER, Tables
from cplane.timetravel.history import History, NoSuchMoment
from tests.support import churn
from tests.support.log import fact

MS = 1_000_000
BEGAN = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
NOW = BEGAN + 3_600_000 * MS


def recorded(*at_ms: int) -> History:
    """A history whose events were recorded so many milliseconds after its beginning."""
    entries = [
        Envelope(
            position=number,
            stream=NODE,
            version=number,
            recorded_at_ns=BEGAN + at * MS,
            actor="test",
            cause="",
            event=fact(number),
            digest=b"",
        )
        for number, at in enumerate(at_ms, start=1)
    ]
    return History(MemoryReader(entries))


def test_a_moment_has_the_world_and_the_tables_of_its_position() -> None:
    _, entries = churn.recorded(Random(3), 40)
    history = History(MemoryReader(entries))
    for position in (0, 1, len(entries) // 2, len(entries)):
        moment, world = history.moment(position), World()
        for one in entries[:position]:
            world = evolve(world, one.stream, one.event)
        tables = Tables(one.event for one in entries[:position])
        assert moment.world == world
        assert moment.recorded_at_ns == (entries[position - 1].recorded_at_ns if position else 0)
        assert all(moment.tables.table(name) == tables.table(name) for name in UPSERT_ORDER)


def test_a_time_means_the_last_position_that_was_recorded_by_then() -> None:
    history = recorded(0, 1000, 1000, 5000)
    assert history.position_of("2026-01-01T00:00:00.999Z", NOW) == 1
    assert history.position_of("2026-01-01T00:00:01Z", NOW) == 3
    assert history.position_of("00:00:04", NOW) == 3
    assert history.position_of("00:00:05", NOW) == 4
    assert history.position_of("59m55s ago", NOW) == 4
    assert history.position_of("head", NOW) == 4


def test_a_time_that_is_copied_from_what_was_shown_means_that_event() -> None:
    history = recorded(0, 1000, 2000)
    entries = list(history.entries(0, 3))
    late = [one.recorded_at_ns + 999_999 for one in entries]
    history = History(MemoryReader([_at(one, when) for one, when in zip(entries, late, strict=True)]))
    assert history.position_of("2026-01-01T00:00:01.000Z", NOW) == 2


def _at(one: Envelope, at_ns: int) -> Envelope:
    fields = {name: getattr(one, name) for name in Envelope.__struct_fields__}
    return Envelope(**fields | {"recorded_at_ns": at_ns})


def test_when_the_clock_was_set_back_the_later_position_counts() -> None:
    history = recorded(0, 9000, 3000, 4000)
    assert history.position_of("00:00:03", NOW) == 3
    assert history.position_of("00:00:08", NOW) == 4
    assert history.position_of("00:00:02", NOW) == 1


def test_older_than_a_time_is_nothing_behind_an_event_that_is_not() -> None:
    history = recorded(0, 1000, 9000, 3000, 4000)
    assert history.older_than(history.recorded_at_ns(3)) == 2
    assert history.older_than(history.recorded_at_ns(4)) == 2
    assert history.older_than(history.recorded_at_ns(2)) == 1
    assert history.older_than(history.recorded_at_ns(2) + 1) == 2
    assert history.older_than(history.recorded_at_ns(1)) == 0
    assert history.older_than(history.recorded_at_ns(3) + 1) == 5


def test_since_a_time_means_all_that_was_recorded_later_also_where_the_clock_was_set_back() -> None:
    history = recorded(0, 9000, 3000, 4000)
    assert history.before("00:00:08", NOW) == 1
    assert history.before("00:00:03", NOW) == 1
    assert history.before("00:00:00", NOW) == 0
    assert history.before("00:00:10", NOW) == 4
    assert history.before("3", NOW) == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("5", "position 5 is not there yet: the log goes from position 1 .recorded 2026-01-01T00:00:01.000Z. to 4"),
        ("23:59:59", "still to come"),
        ("2026-01-01", "before the log"),
        ("2h", "before the log"),
        ("99999999w", "before the log"),
    ],
)
def test_a_moment_that_the_log_says_nothing_of_is_refused_with_those_it_has(text: str, reason: str) -> None:
    with pytest.raises(NoSuchMoment, match=reason) as refusal:
        recorded(1000, 2000, 3000, 4000).position_of(text, NOW)
    assert "the log goes from position 1" in str(refusal.value)


def test_a_log_without_events_says_so() -> None:
    history = recorded()
    assert history.position_of("head", NOW) == history.position_of("0", NOW) == 0
    assert history.moment(0).world == World()
    for text in ("1", "1h"):
        with pytest.raises(NoSuchMoment, match="no events yet"):
            history.position_of(text, NOW)
    with pytest.raises(NoSuchMoment):
        history.ledger(-1)


class Compacted(MemoryReader):
    """A log whose first positions are gone, up to one whose ledger was kept."""

    def __init__(self, entries, start: int) -> None:
        super().__init__(entries)
        self._kept = History(MemoryReader(entries)).ledger(start)
        self.start = start

    def snapshot(self, position: int):
        assert position >= self.start
        return self._kept.copy()


def test_a_log_that_has_lost_its_older_past_says_where_it_begins() -> None:
    _, entries = churn.recorded(Random(4), 40)
    history, whole = History(Compacted(entries, 10)), History(MemoryReader(entries))
    assert history.moment(10).world == whole.moment(10).world
    assert history.moment(20).world == whole.moment(20).world
    with pytest.raises(NoSuchMoment, match=r"position 9 was dropped.*from position 11"):
        history.position_of("9", NOW)
    with pytest.raises(NoSuchMoment):
        history.entries(5, 20)
