"""What users wanted at another time, to be wanted again: never a rewrite of the log, but one more change of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from cplane.deciders.restore import ENDPOINTS, OPTIONS, PARTS, POLICIES, SERVICES, Restore
from cplane.deciders.world import World, facts
from cplane.errors import Rejected
from cplane.events.catalog import Event
from cplane.projections.tables import Tables
from cplane.reactors.reaction import settle
from cplane.timetravel.affected import Affected, affected
from cplane.timetravel.history import History
from cplane.timetravel.intent import Change, compare, named
from cplane.timetravel.when import instant


class NothingToRestore(Rejected):
    """Only a part was to be restored that nobody knows."""

    code = "rollback.nothing_to_restore"

    def __init__(self, part: str) -> None:
        self.part = part

    def __str__(self) -> str:
        return f"only {self.part!r} cannot be rolled back: name {', '.join(PARTS)}"


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollback changes, or changed, to be as at position `to`, recorded at `to_time` (empty: before the log).

    `position` is that of its last event, 0 where nothing was changed: in a trial, or as all is as it was. `changes` are
    those of objects, and `endpoints` those that obey other rows of the policy table afterwards.
    """

    to: int
    to_time: str
    position: int
    changes: tuple[Change, ...]
    endpoints: tuple[Affected, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """A moment to go back to, and the command that leads there from wherever things are."""

    position: int
    time: str
    command: Restore

    @property
    def cause(self) -> str:
        """Why the events of the rollback are, for the log."""
        return f"rollback to {self.position}"


_FIELDS: Final = {POLICIES: "documents", OPTIONS: "options", ENDPOINTS: "audits", SERVICES: "services"}


def target(history: History, now_ns: int, *, to: str, only: Iterable[str] = ()) -> Target:
    """The moment that a user means. `only`: the parts to restore; none: all. Raises NoSuchMoment, NothingToRestore."""
    parts = tuple(dict.fromkeys(only)) or PARTS
    for part in parts:
        if part not in PARTS:
            raise NothingToRestore(part)
    moment = history.moment(history.position_of(to, now_ns))
    then = moment.world
    whole = {
        "documents": dict(then.policy.documents),
        "options": then.options,
        "audits": {number: one.audit for number, one in then.endpoints.items()},
        "services": then.service,
    }
    command = Restore(**{_FIELDS[part]: whole[_FIELDS[part]] for part in parts})  # type: ignore[arg-type]  # as declared
    return Target(moment.position, instant(moment.recorded_at_ns) if moment.position else "", command)


def trial(goal: Target, world: World) -> Rollback:
    """What the rollback would change of this world. Raises NoLongerAccepted, TooManyPrefixes."""
    decided, after = settle(goal.command, world)
    return told(goal, world, after, tuple(event for _, event in decided))


def done(history: History, _now_ns: int, *, goal: Target, events: int, position: int) -> Rollback:
    """What the rollback has changed, whose events are so many and end at that position."""
    before, after = history.moment(position - events), history.moment(position)
    entries = history.entries(before.position, position)
    return told(goal, before.world, after.world, (one.event for one in entries), position)


def told(goal: Target, before: World, after: World, events: Iterable[Event], position: int = 0) -> Rollback:
    """What these events change, or have changed with the last of them at that position."""
    tables = Tables(facts(before))
    deltas = tables.apply_all(events)

    def pod_of(endpoint: int) -> str:
        one = after.endpoints.get(endpoint)
        return "" if one is None else named(one)

    return Rollback(
        to=goal.position,
        to_time=goal.time,
        position=position,
        changes=tuple(compare(before, after)),
        endpoints=affected(deltas, tables, pod_of),
    )
