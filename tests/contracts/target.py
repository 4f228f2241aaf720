"""What any reconcile target must do, whatever table it writes; an implementation gives `make`.

A target has no memory: what it says of its table is what is there, whoever wrote it, and nobody else's.
"""

from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest

from cplane.projections.delta import plan
from datapath.errors import Unavailable


@dataclass(frozen=True, kw_only=True)
class Case:
    """One target and what can be done with it.

    `entries` are at least four rows that it can take, `changed` other values for some of them (none where a row has
    no content). `again` is the target as a process with no memory finds it. `strangers` is what somebody else has
    beside our rows, as it is now. `overflow` has more rows than there is room for; empty where room has no limit.
    """

    target: object
    entries: Mapping[Hashable, object]
    changed: Mapping[Hashable, object]
    again: Callable[[], object]
    strangers: Callable[[], object]
    overflow: Mapping[Hashable, object]


def reach(target, desired) -> None:
    """What a reconciler does at its start: look, compare, write."""
    delta = plan(desired, target.dump())
    target.upsert(delta.upserts)
    target.delete(delta.deletes)


class TargetContract:
    """The cases."""

    def make(self) -> AbstractContextManager[Case]:
        """An empty target, gone afterwards with all that it wrote."""
        raise NotImplementedError

    @pytest.fixture
    def case(self):
        with self.make() as made:
            yield made

    # What is written is there

    def test_a_new_table_is_empty(self, case):
        assert dict(case.target.dump()) == {}

    def test_what_is_written_is_there(self, case):
        case.target.upsert(case.entries)
        assert dict(case.target.dump()) == case.entries

    def test_a_row_that_is_written_again_has_its_new_content(self, case):
        case.target.upsert(case.entries)
        case.target.upsert(case.changed)
        assert dict(case.target.dump()) == {**case.entries, **case.changed}

    def test_what_is_deleted_is_gone_and_the_rest_stays(self, case):
        case.target.upsert(case.entries)
        first, second, *_ = case.entries
        case.target.delete([first, second])
        assert dict(case.target.dump()) == {k: row for k, row in case.entries.items() if k not in {first, second}}

    def test_what_was_told_of_the_table_does_not_change_with_it(self, case):
        case.target.upsert(case.entries)
        told = case.target.dump()
        case.target.delete(list(case.entries))
        assert dict(told) == case.entries

    # Idempotence

    def test_writing_twice_is_writing_once(self, case):
        case.target.upsert(case.entries)
        case.target.upsert(case.entries)
        assert dict(case.target.dump()) == case.entries

    def test_deleting_twice_is_deleting_once(self, case):
        case.target.upsert(case.entries)
        key, *others = case.entries
        case.target.delete([key])
        case.target.delete([key])
        assert set(case.target.dump()) == set(others)

    def test_deleting_what_is_not_there_does_not_stop_the_rest(self, case):
        absent, *present = case.entries
        case.target.upsert({key: case.entries[key] for key in present})
        case.target.delete([absent, present[0], absent, *present[1:]])
        assert dict(case.target.dump()) == {}

    def test_nothing_to_write_and_nothing_to_delete_is_no_work(self, case):
        case.target.upsert(case.entries)
        case.target.upsert({})
        case.target.delete([])
        assert dict(case.target.dump()) == case.entries

    # Ownership

    def test_a_process_with_no_memory_finds_what_is_there_and_can_remove_it(self, case):
        case.target.upsert(case.entries)
        again = case.again()
        assert dict(again.dump()) == case.entries
        again.delete(list(case.entries))
        assert dict(again.dump()) == dict(case.target.dump()) == {}

    def test_what_belongs_to_others_is_neither_shown_nor_touched(self, case):
        theirs = case.strangers()
        case.target.upsert(case.entries)
        assert set(case.target.dump()) == set(case.entries)
        assert case.strangers() == theirs
        case.target.delete(list(case.entries))
        assert case.strangers() == theirs
        case.target.delete(list(case.entries))
        assert case.strangers() == theirs

    # Sweep

    def test_the_wanted_table_is_reached_from_whatever_is_there(self, case):
        keys = list(case.entries)
        tables = [
            {},
            case.entries,
            {key: case.entries[key] for key in keys[:2]},
            {**case.entries, **case.changed},
            {key: case.entries[key] for key in reversed(keys[2:])},
        ]
        for before in tables:
            for wanted in tables:
                reach(case.target, before)
                reach(case.again(), wanted)
                assert dict(case.target.dump()) == wanted

    def test_a_table_that_is_as_wanted_is_left_alone(self, case):
        case.target.upsert(case.entries)
        assert not plan(case.entries, case.again().dump())

    # Failure

    def test_more_than_there_is_room_for_is_refused_in_order_and_can_be_repaired(self, case):
        if not case.overflow:
            return
        with pytest.raises(Unavailable, match="full"):
            case.target.upsert(case.overflow)
        written = dict(case.target.dump())
        assert written == dict(list(case.overflow.items())[: len(written)])
        reach(case.target, case.entries)
        assert dict(case.target.dump()) == case.entries
