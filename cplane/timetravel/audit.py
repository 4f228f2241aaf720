"""Who changed what, when, and what it was before: the events of a log as an auditor asks for them."""

from collections import deque
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import Any, Final

import msgspec

from cplane.domain.policy.parse import KINDS as POLICY_KINDS
from cplane.domain.policy.rule import CNP
from cplane.errors import Rejected
from cplane.events.catalog import WIRE_NAME
from cplane.events.envelope import Envelope
from cplane.events.objects import KINDS, OPTIONS, SERVICE_OPTIONS, object_of
from cplane.events.summary import summary
from cplane.projections.tables import Tables
from cplane.timetravel.affected import Affected, affected
from cplane.timetravel.history import History
from cplane.timetravel.intent import Written, kind_of, written, yaml_diff
from cplane.timetravel.ledger import Ledger
from cplane.timetravel.wanted import Wanted
from cplane.timetravel.when import HEAD, position_or_ns

LAST: Final = 100
"""How many entries an answer has where nobody says how many, or since when."""

_FACTS: Final = 1000  # about one object that are read for what it was; its creation is among them, or it was longer ago
_STRIDE: Final = 5000  # events that are applied one by one rather than that tables are made anew


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a command was refused: a fixed word for programs, and the reason for people."""

    code: str
    message: str


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One event, or one command that was refused: that one has `position` 0 and no `type`.

    `before` and `after` are the object as JSON, null where it was not there; both are null of pools, whose addresses
    come and go. `diff` is between the two as YAML. `endpoints` obey other rows of the policy table since; null
    where nobody asked.
    """

    position: int
    recorded_at_ns: int
    actor: str
    cause: str
    type: str
    object: str
    summary: str
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    diff: str = ""
    endpoints: tuple[Affected, ...] | None = None
    refused: Refusal | None = None


class Entries(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the entries, in order."""

    entries: tuple[Entry, ...]


class UnknownKind(Rejected):
    """Events were asked for of a kind of objects that there is not."""

    code = "audit.unknown_kind"

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __str__(self) -> str:
        return f"there are no objects of kind {self.kind!r}: name {', '.join(KINDS)}"


class UnknownObject(Rejected):
    """Events were asked for of an object by what is no name of one."""

    code = "audit.unknown_object"

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return (
            f"{self.name!r} is no name of an object: write policy KIND/NAMESPACE/NAME, such as "
            f"'policy {CNP}/shop/db', service NAMESPACE/NAME, endpoint ID, identity NUMBER, pool NAME, "
            "node NAME, backend ID, name DNS-NAME, options or service-options"
        )


class BackwardsInTime(Rejected):
    """The first event to show is behind the last."""

    code = "audit.backwards"

    def __init__(self, since: str, until: str) -> None:
        self.since, self.until = since, until

    def __str__(self) -> str:
        return f"{self.until} is before {self.since}: give them the other way round"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for. `since` and `until` are texts as users write moments; what is empty does not matter."""

    actor: str = ""
    object: str = ""
    kind: str = ""
    since: str = ""
    until: str = ""
    last: int = 0
    verdicts: bool = False
    refused: bool = False  # only what was refused


def wanted(history: History, now_ns: int, asked: Asked) -> Wanted:
    """Which events that are. Raises NoSuchMoment, UnknownKind, UnknownObject, BackwardsInTime."""
    if asked.kind and asked.kind not in KINDS:
        raise UnknownKind(asked.kind)
    if asked.object and not _is_name(asked.object):
        raise UnknownObject(asked.object)
    after = history.before(asked.since, now_ns) if asked.since else history.start
    to = history.position_of(asked.until, now_ns) if asked.until else history.head
    if asked.since and asked.until and _is_backwards(asked, now_ns, after, to):
        raise BackwardsInTime(asked.since, asked.until)
    return Wanted(
        after=after,
        to=to,
        object=asked.object,
        kind=asked.kind,
        actor=asked.actor,
        last=asked.last or (None if asked.since else LAST),
    )


def _is_name(name: str) -> bool:
    kind, _, rest = name.partition(" ")
    if kind not in KINDS or (kind in {OPTIONS, SERVICE_OPTIONS}) != (not rest):
        return False
    return kind != "policy" or rest.partition("/")[0] in POLICY_KINDS


def _is_backwards(asked: Asked, now_ns: int, after: int, to: int) -> bool:
    """Whether the last moment is before the first. Two times are compared as such: clocks may have been set back."""
    (first, first_ns), (last, last_ns) = position_or_ns(asked.since, now_ns), position_or_ns(asked.until, now_ns)
    if first is None and last is None:
        return last_ns < first_ns
    return to < after if first is None or last is None or HEAD in {first, last} else last < first


def audit(history: History, now_ns: int, asked: Asked) -> Iterator[Entry]:
    """The entries, oldest first. Raises what `wanted` raises."""
    what = wanted(history, now_ns, asked)
    positions = [] if asked.refused else history.find(what)
    found = merge(
        _events(history, positions, verdicts=asked.verdicts),
        _refusals(history, now_ns, asked),
        key=lambda one: one.recorded_at_ns,
    )
    return found if what.last is None else iter(deque(found, maxlen=what.last))


def _events(history: History, positions: Iterable[int], *, verdicts: bool) -> Iterator[Entry]:
    follower = _Follower(history) if verdicts else None
    for position in positions:
        entry = history.entry(position)
        before, after = _sides(history, entry)
        yield Entry(
            position=position,
            recorded_at_ns=entry.recorded_at_ns,
            actor=entry.actor,
            cause=entry.cause,
            type=WIRE_NAME[type(entry.event)][0],
            object=object_of(entry.event),
            summary=summary(entry.event),
            before=None if before is None else dict(before),
            after=None if after is None else dict(after),
            diff=yaml_diff(before, after),
            endpoints=None if follower is None else follower.affected(position),
        )


def _refusals(history: History, now_ns: int, asked: Asked) -> Iterator[Entry]:
    first = _time_of(history, now_ns, asked.since) if asked.since else 0
    last = _time_of(history, now_ns, asked.until) if asked.until else now_ns
    for one in history.refusals():
        kinds = {kind_of(name) for name in one.objects}
        if (
            first <= one.recorded_at_ns <= last
            and asked.actor in {"", one.actor}
            and (not asked.object or asked.object in one.objects)
            and (not asked.kind or asked.kind in kinds)
        ):
            yield Entry(
                position=0,
                recorded_at_ns=one.recorded_at_ns,
                actor=one.actor,
                cause=one.cause,
                type="",
                object=", ".join(one.objects),
                summary=one.command,
                refused=Refusal(code=one.code, message=one.message),
            )


def _time_of(history: History, now_ns: int, text: str) -> int:
    """When a moment was; of a position, when its event was recorded."""
    position, instant_ns = position_or_ns(text, now_ns)
    if position is None:
        return instant_ns
    return history.recorded_at_ns(history.position_of(text, now_ns))


def _sides(history: History, entry: Envelope) -> tuple[Written | None, Written | None]:
    """The object before and after the event, of which nothing but its own events is read."""
    name = object_of(entry.event)
    if kind_of(name) == "pool":
        return None, None
    about = Wanted(object=name, after=history.start, to=entry.position - 1, last=_FACTS)
    ledger = Ledger()
    if history.start:
        ledger = history.ledger(history.start)
    for position in history.find(about):
        one = history.entry(position)
        ledger.apply(one.stream, one.event)
    before = written(ledger.world()).get(name)
    ledger.apply(entry.stream, entry.event)
    return before, written(ledger.world()).get(name)


class _Follower:
    """Tables before one event after the other; what lies between two of them is applied, or left out."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._ledger = history.ledger(history.start)  # a log that was compacted begins with a state
        self._tables = Tables(self._ledger.facts())

    def affected(self, position: int) -> tuple[Affected, ...]:
        """The endpoints that obey other rows since the event at that position."""
        self._go_to(position - 1)
        entry = self._history.entry(position)
        self._ledger.apply(entry.stream, entry.event)
        return affected(self._tables.apply(entry.event), self._tables, self._ledger.pod_of)

    def _go_to(self, position: int) -> None:
        if not 0 <= position - self._ledger.position <= _STRIDE:
            self._ledger = self._history.ledger(position)
            self._tables = Tables(self._ledger.facts())
        for entry in self._history.entries(self._ledger.position, position):
            self._ledger.apply(entry.stream, entry.event)
            self._tables.apply(entry.event)
