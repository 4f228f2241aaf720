"""Which event between two moments changed an answer: a verdict, or something about a table.

The stretch between the two is halved until it is short, and then walked through event by event. It ends with one event
behind which the answer is another one; whether there were more of them on the way is looked at too, within bounds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from cplane.errors import Rejected
from cplane.events.catalog import Event
from cplane.projections.endpoints import address_projection, device_projection
from cplane.projections.ipcache import IpcacheProjection
from cplane.projections.policymap import PolicyMapProjection
from cplane.projections.projection import Projection
from cplane.projections.rows import columns_of
from cplane.projections.tables import DEVICES, IPCACHE, LXC, POLICY
from cplane.timetravel.course import Turn, turns
from cplane.timetravel.history import History
from cplane.timetravel.reached import Reached
from cplane.timetravel.replay import TABLES, NothingToShow
from cplane.timetravel.traffic import Question
from cplane.timetravel.when import instant
from cplane.timetravel.why import TurnShown, turn_shown

_WALKED: Final = 256  # events that are walked through at the end
_COUNTED_MAX: Final = 20_000  # events between the two that are looked at for further changes
_OTHERS_MAX: Final = 20  # that are named


class TableQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Whether one of `replay.TABLES` has a row whose key has all of these words, or has more rows than so many.

    `has` empty: rows are counted.
    """

    table: str
    has: tuple[str, ...] = ()
    count_gt: int = 0

    def __str__(self) -> str:
        return (
            f"{self.table} has {' '.join(self.has)}" if self.has else f"{self.table} has more than {self.count_gt} rows"
        )


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A position that was looked at, when its event was recorded, and the answer there."""

    position: int
    time: str
    answer: str


class Bisected(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `question` in words; `good` and `bad` are the two ends, and `steps` what was looked at, in order.

    `turned` is null where both ends have the same answer. `others` are the positions of further events between the two
    that changed the answer, the last of them; `counted` says whether all of the stretch was looked at for them.
    """

    question: str
    good: Step
    bad: Step
    steps: tuple[Step, ...]
    turned: TurnShown | None
    others: tuple[int, ...]
    counted: bool


class BadPredicate(Rejected):
    """A question about a table asks for nothing, or for two things."""

    code = "history.bad_predicate"


def bisect(history: History, now_ns: int, question: Question | TableQuestion, *, good: str, bad: str) -> Bisected:
    """The event that changed the answer. Raises NoSuchMoment, BadMoment, NothingToShow, BadPredicate."""
    asked = _Verdict(history, question) if isinstance(question, Question) else _Rows(history, question)
    ends = tuple(asked.step(history.position_of(text, now_ns)) for text in (good, bad))
    low, high = sorted(ends, key=lambda one: one.position)
    steps = [low, high]
    if low.answer == high.answer:
        others, counted = _count(asked, low, high)
        return _found(question, ends, steps, None, others, counted=counted)
    while high.position - low.position > _WALKED:
        middle = asked.step((low.position + high.position) // 2)
        steps.append(middle)
        low, high = (middle, high) if middle.answer == low.answer else (low, middle)
    turn = next(asked.turns(low.position, high.position))
    steps += [asked.step(one) for one in (turn.entry.position - 1, turn.entry.position) if not _has(steps, one)]
    shown = turn_shown(history, turn.entry, turn.before, turn.after)
    others, counted = _count(asked, *sorted(ends, key=lambda one: one.position))
    return _found(question, ends, steps, shown, [one for one in others if one != turn.entry.position], counted=counted)


def table_question(table: str, has: str, count_gt: int | None) -> TableQuestion:
    """The question that these are. Raises NothingToShow, BadPredicate."""
    if table not in TABLES:
        raise NothingToShow(table, tuple(TABLES))
    words = tuple(has.split())
    if bool(words) is (count_gt is not None):
        raise BadPredicate("ask either for a row by its key, or for a number of rows")
    return TableQuestion(table=table, has=words, count_gt=count_gt or 0)


def _found(
    question: Question | TableQuestion,
    ends: tuple[Step, ...],
    steps: list[Step],
    turned: TurnShown | None,
    others: Iterable[int],
    *,
    counted: bool,
) -> Bisected:
    return Bisected(
        question=str(question),
        good=ends[0],
        bad=ends[1],
        steps=tuple(steps),
        turned=turned,
        others=tuple(others)[-_OTHERS_MAX:],
        counted=counted,
    )


def _has(steps: Iterable[Step], position: int) -> bool:
    return any(one.position == position for one in steps)


class _Asked:
    """A question that can be asked of every position."""

    def __init__(self, history: History) -> None:
        self._history = history

    def step(self, position: int) -> Step:
        """The answer at a position."""
        time = instant(self._history.recorded_at_ns(position)) if position > self._history.start else ""
        return Step(position=position, time=time, answer=self.answer(position))

    def answer(self, position: int) -> str:
        """The answer, in one word."""
        raise NotImplementedError

    def turns(self, after: int, to: int) -> Iterator[Turn]:
        """Every change of the answer, in order."""
        raise NotImplementedError


class _Verdict(_Asked):
    """Whether they may talk."""

    def __init__(self, history: History, question: Question) -> None:
        super().__init__(history)
        self._question = question

    def answer(self, position: int) -> str:
        """An outcome, or ABSENT."""
        return str(Reached(self._question, self._history.ledger(position)).judge().verdict)

    def turns(self, after: int, to: int) -> Iterator[Turn]:
        """Every change of the verdict, in order."""
        return turns(self._history, self._question, after, to)


class _Rows(_Asked):
    """Whether a table has what is asked for."""

    def __init__(self, history: History, question: TableQuestion) -> None:
        super().__init__(history)
        self._question = question
        self._name = TABLES[question.table]

    def answer(self, position: int) -> str:
        """`yes` or `no`."""
        return self._told(self._fold(self._history.ledger(position).facts()))

    def turns(self, after: int, to: int) -> Iterator[Turn]:
        """Every change of the answer, in order."""
        fold = self._fold(self._history.ledger(after).facts())
        before = self._told(fold)
        for entry in self._history.entries(after, to):
            if fold.apply(entry.event) and (now := self._told(fold)) != before:
                yield Turn(entry, before, now)
                before = now

    def _fold(self, facts: Iterable[Event]) -> Projection:  # type: ignore[type-arg]  # each table has types of its own
        made = _PROJECTIONS[self._name]()
        for fact in facts:
            made.apply(fact)
        return made

    def _told(self, fold: Projection) -> str:  # type: ignore[type-arg]  # as above
        rows = fold.table()
        if not self._question.has:
            return _yes(len(rows) > self._question.count_gt)
        wanted = {word.lower() for word in self._question.has}
        columns = columns_of(self._name, rows, rows.values(), lambda _: ())
        return _yes(any(wanted <= {cell.lower() for cell in columns.key(key)} for key in rows))


_PROJECTIONS: Final[Mapping[str, Callable[[], Projection]]] = {  # type: ignore[type-arg]  # as above
    POLICY: PolicyMapProjection,
    IPCACHE: IpcacheProjection,
    LXC: address_projection,
    DEVICES: device_projection,
}


def _count(asked: _Asked, low: Step, high: Step) -> tuple[list[int], bool]:
    """The positions of changes between the two, of the last events there; whether these are all there are."""
    after = max(low.position, high.position - _COUNTED_MAX)
    return [one.entry.position for one in asked.turns(after, high.position)], after == low.position


def _yes(answer: bool) -> str:  # noqa: FBT001  # it is the answer
    return "yes" if answer else "no"
