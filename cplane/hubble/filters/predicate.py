"""What a compiled filter is, and what it needs to know."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import re2

from cplane.errors import Rejected
from cplane.hubble.detail import Detail
from cplane.hubble.endpoint import EndpointMeta, Link
from cplane.hubble.interned import Interned
from cplane.hubble.ring import Span
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2

T = TypeVar("T")
Mask = npt.NDArray[np.bool_]
_PATTERN_MAX: Final = 512  # characters; names have 253 at most (RFC 1035, 2.3.4)
QUIET: Final = re2.Options()  # what is wrong with a client's pattern is the client's to know, not our standard error's
QUIET.log_errors = False
_NUMBERS: Final = 1 << 16  # of what `member` knows
_COMPARED: Final = 8  # to compare with so many values takes no longer than to look each row up
_FEW: Final = 8  # of so many rows one is left: then looking at those alone is faster
CHEAP_FEW: Final = 32  # ... where a number of each row is compared, which is faster than to pick some
Predicate = Callable[[Span], Mask]  # one bool for each row


class BadFilter(Rejected):
    """A filter cannot be used."""

    code = "hubble.bad_filter"

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason

    def __str__(self) -> str:
        return f"filter {self.field}: {self.reason}"


class Side:
    """One end of a flow: the prefix of a filter's fields, and of the columns."""

    def __init__(self, field: str, column: str) -> None:
        self.field, self.column = field, column


SOURCE: Final = Side("source", "src")
DESTINATION: Final = Side("destination", "dst")


def never(span: Span) -> Mask:
    """No flow."""
    return np.zeros(len(span), np.bool_)


def always(span: Span) -> Mask:
    """Every flow."""
    return np.ones(len(span), np.bool_)


def constant(*, value: bool) -> Predicate:
    """Every flow or none."""
    return always if value else never


def any_of(predicates: Iterable[Predicate]) -> Predicate:
    """Flows that one of the predicates at least selects; none when there are none."""
    chosen = tuple(predicates)

    def evaluate(span: Span) -> Mask:
        found = never(span)
        for predicate in chosen:
            found |= predicate(span)
        return found

    return chosen[0] if len(chosen) == 1 else evaluate


def all_of(predicates: Iterable[Predicate], few: int = _FEW) -> Predicate:
    """Flows that all the predicates select; all when there are none.

    Once one of `few` rows or less is left, the others are not looked at any more.
    """
    chosen = tuple(predicates)

    def evaluate(span: Span) -> Mask:
        found = chosen[0](span)
        for predicate in chosen[1:]:
            left = np.count_nonzero(found)
            if left * few > len(span):
                found = found & predicate(span)
            elif left:
                rows = np.flatnonzero(found)
                found = never(span)
                found[rows] = predicate(span.only(rows))
        return found

    return evaluate if chosen else always


def member(column: str, values: Iterable[int]) -> Predicate:
    """Flows whose value in a column of small numbers (ports at most) is one of `values`."""
    known = sorted({value for value in values if 0 <= value < _NUMBERS})
    if len(known) <= _COMPARED:
        return any_of([partial(_equal, column, value) for value in known])
    table = np.zeros(_NUMBERS, np.bool_)
    table[known] = True
    return lambda span: table[span[column]]


def _equal(column: str, value: int, span: Span) -> Mask:
    numbers = span[column]
    found: Mask = numbers == value if value <= np.iinfo(numbers.dtype).max else never(span)
    return found


class _Shared(Generic[T]):
    """A test of interned values, made once for each of them."""

    def __init__(self, values: Interned[T], test: Callable[[T], bool]) -> None:
        self._values, self._test = values, test
        self._generation = values.generation
        self._known = np.zeros(0, np.bool_)

    def of(self, numbers: npt.NDArray[np.uint32]) -> Mask:
        """The answer for each number."""
        if self._generation != self._values.generation:
            self._generation, self._known = self._values.generation, np.zeros(0, np.bool_)
        have = len(self._known)
        if have < len(self._values):
            more = [self._test(value) for value in self._values.values_from(have)]
            self._known = np.concatenate((self._known, np.array(more, np.bool_)))
        return self._known[numbers]


def by_end(store: FlowStore, side: Side, test: Callable[[EndpointMeta], bool]) -> Predicate:
    """Flows whose end on that side passes the test."""
    shared = _Shared(store.endpoints, test)
    column = f"{side.column}_meta"
    return lambda span: shared.of(span[column])


def by_detail(store: FlowStore, test: Callable[[Detail], bool]) -> Predicate:
    """Flows whose detail passes the test."""
    shared = _Shared(store.details, test)
    return lambda span: shared.of(span["detail"])


def by_request(store: FlowStore, record: str, test: Callable[[flow_pb2.Flow], bool]) -> Predicate:
    """Flows with a request of that kind (empty: of any) that passes the test, which is given the request alone.

    Requests are all different, so each is read.
    """
    known = by_detail(store, lambda detail: detail.request is not None and record in {"", detail.request.record})

    def evaluate(span: Span) -> Mask:
        found = known(span)
        rows = np.flatnonzero(found)
        numbers = (span[name][rows].tolist() for name in ("detail", "cookie"))
        read = flow_pb2.Flow.FromString
        found[rows] = [test(read(store.payload(*one))) for one in zip(*numbers, strict=True)]
        return found

    return evaluate


def by_link(store: FlowStore, test: Callable[[Link], bool]) -> Predicate:
    """Flows whose device passes the test."""
    shared = _Shared(store.links, test)
    return lambda span: shared.of(span["link"])


def name_matcher(field: str, patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a DNS or node name fits one of the patterns: `*` stands for any characters of a name, dots included.

    RE2 takes time that is linear in the name, where a backtracking matcher could be kept busy for years. Raises
    BadFilter.
    """
    expressions = []
    for pattern in patterns:
        text = pattern.strip().rstrip(".").lower()
        if len(text) > _PATTERN_MAX:
            raise BadFilter(
                field, f"a pattern of {len(text)} characters is longer than any name; at most {_PATTERN_MAX}"
            )
        expressions.append("[-.0-9a-z]*".join(re2.escape(part) for part in re.split(r"\*+", text)))
    try:
        compiled = re2.compile("|".join(expressions), QUIET)
    except re2.error:
        raise BadFilter(field, "the patterns are too many, or have too many '*'") from None
    return lambda name: compiled.fullmatch(name.rstrip(".").lower()) is not None
