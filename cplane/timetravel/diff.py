"""What differs between two moments: in what was wanted, and in the tables that followed from it."""

from collections.abc import Iterable
from typing import Final

import msgspec

from cplane.projections.rows import columns_of
from cplane.timetravel.history import History, Moment
from cplane.timetravel.intent import Change, compare, with_authors
from cplane.timetravel.replay import TABLES, NothingToShow
from cplane.timetravel.when import instant

INTENT: Final = "intent"
"""What a user writes to have what was wanted, and no table."""


class RowChange(msgspec.Struct, frozen=True, kw_only=True):
    """A row that differs: its key and both sides, in the order of the table's columns; empty where it was not there."""

    key: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]


class TableChange(msgspec.Struct, frozen=True, kw_only=True):
    """What differs in one table, in the order of its keys."""

    table: str
    key_columns: tuple[str, ...]
    value_columns: tuple[str, ...]
    rows: tuple[RowChange, ...]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between two positions, of which `before` may be the later one. Times are empty at position 0.

    `events` counts those between the two. `intent` is in the order of kinds and names; tables without a difference are
    in `tables` too, those that were not asked for are not.
    """

    before: int
    before_time: str
    after: int
    after_time: str
    events: int
    intent: tuple[Change, ...]
    tables: tuple[TableChange, ...]


def diff(history: History, now_ns: int, *, before: str, after: str, tables: Iterable[str] = ()) -> Difference:
    """What differs. `tables`: which ones, and INTENT; none: all of them. Raises NoSuchMoment, NothingToShow."""
    wanted = tuple(dict.fromkeys(tables)) or (INTENT, *TABLES)
    for name in wanted:
        if name != INTENT and name not in TABLES:
            raise NothingToShow(name, (INTENT, *TABLES))
    old = history.moment(history.position_of(before, now_ns))
    new = history.moment(history.position_of(after, now_ns))
    return Difference(
        before=old.position,
        before_time=_time(old),
        after=new.position,
        after_time=_time(new),
        events=abs(new.position - old.position),
        intent=_intent(history, old, new) if INTENT in wanted else (),
        tables=tuple(_table(name, old, new) for name in TABLES if name in wanted),
    )


def _intent(history: History, old: Moment, new: Moment) -> tuple[Change, ...]:
    changes = compare(old.world, new.world)
    if not changes:
        return ()
    first, last = sorted((old.position, new.position))
    return tuple(with_authors(changes, history.about([one.object for one in changes], first, last)))


def _table(shown: str, old: Moment, new: Moment) -> TableChange:
    name = TABLES[shown]
    left, right = old.tables.table(name), new.tables.table(name)
    keys = sorted(left.keys() | right.keys())  # type: ignore[type-var]  # the keys of a table are tuples of one type
    sample = (*left.values(), *right.values())[:1]
    # A cookie stands for the same terms wherever it is, but only the tables that have it know which.
    before = columns_of(name, keys, sample, old.tables.policies.origins)
    after = columns_of(name, keys, sample, new.tables.policies.origins)
    changed = (
        RowChange(
            key=before.key(key),
            before=before.value(left[key]) if key in left else (),
            after=after.value(right[key]) if key in right else (),
        )
        for key in keys
        if left.get(key) != right.get(key)
    )
    rows = tuple(one for one in changed if one.before != one.after)
    return TableChange(table=shown, key_columns=before.key_names, value_columns=before.value_names, rows=rows)


def _time(moment: Moment) -> str:
    return instant(moment.recorded_at_ns) if moment.position else ""
