"""History as it went: event by event, and what each of them changed in which table."""

from collections.abc import Iterator

import msgspec

from cplane.errors import Rejected
from cplane.events.catalog import WIRE_NAME, Event
from cplane.events.objects import object_of
from cplane.events.summary import summary
from cplane.projections.tables import Tables
from cplane.timetravel.history import History
from cplane.timetravel.replay import TABLES


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows of a table came, went, and have other values."""

    added: int
    removed: int
    changed: int


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One event. `tables` has those that it changed, by the names of `replay --show`."""

    position: int
    recorded_at_ns: int
    actor: str
    cause: str
    type: str
    object: str
    summary: str
    tables: dict[str, Touched]


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the steps, in order; `to` is the position of the last that will come."""

    to: int
    steps: tuple[Step, ...]


class Backwards(Rejected):
    """Steps were asked for that end before they begin."""

    code = "history.backwards"

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def __str__(self) -> str:
        return f"the first event to show, {self.first}, is behind the last, {self.last}: give them the other way round"


def span(history: History, now_ns: int, *, first: str, last: str) -> tuple[int, int]:
    """The positions of the first and the last step; empty: of the log's. Raises NoSuchMoment, Backwards."""
    begin = max(history.position_of(first, now_ns), history.start + 1) if first else history.start + 1
    end = history.position_of(last, now_ns) if last else history.head
    if first and begin > end:
        raise Backwards(begin, end)
    return begin, end


def steps(history: History, first: int, last: int) -> Iterator[Step]:
    """Every event from `first` to `last`, and what it changed."""
    if first > last:
        return
    tables = Tables(history.ledger(first - 1).facts())
    for entry in history.entries(first - 1, last):
        yield Step(
            position=entry.position,
            recorded_at_ns=entry.recorded_at_ns,
            actor=entry.actor,
            cause=entry.cause,
            type=WIRE_NAME[type(entry.event)][0],
            object=object_of(entry.event),
            summary=summary(entry.event),
            tables=_touched(tables, entry.event),
        )


def _touched(tables: Tables, event: Event) -> dict[str, Touched]:
    deltas = tables.apply(event)
    return {
        shown: Touched(
            added=sum(1 for key in delta.after if key not in delta.before),
            removed=sum(1 for key in delta.before if key not in delta.after),
            changed=sum(1 for key in delta.after if key in delta.before),
        )
        for shown, name in TABLES.items()
        if (delta := deltas.get(name)) is not None
    }
