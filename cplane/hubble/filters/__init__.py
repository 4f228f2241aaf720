"""FlowFilter messages to vector expressions over the ring's columns.

May import `cplane.domain`, `cplane.pb`, the ring, its tables, its texts and its flows, and a clock for what must end;
must not import the observer, the parser's batches or anything that waits.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from cplane.hubble.filters import application, network, workload
from cplane.hubble.filters.cel import FIELD as CEL
from cplane.hubble.filters.cel import ROWS, Expressions
from cplane.hubble.filters.predicate import CHEAP_FEW, BadFilter, Mask, Predicate, all_of, any_of
from cplane.hubble.ring import Span
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2

__all__ = ["FIELDS", "BadFilter", "Mask", "Predicate", "compile_filters", "rows_at_once"]

FIELDS: Final = {**network.FIELDS, **workload.FIELDS, **application.FIELDS}
EXPERIMENTAL: Final = CEL.partition(".")[0]  # the one field that is not in FIELDS: it is looked at last
ROWS_MAX: Final = 1 << 17  # rows that are judged by their columns at a time, which takes about a millisecond
REQUEST_ROWS: Final = 1 << 12  # ... where the request of each is read
VALUES_MAX: Final = 4096  # in all filters of a request: each may cost a comparison for every flow
TEXT_MAX: Final = 4096  # characters of one value
BYTES_MAX: Final = 1 << 17  # of all filters of a request: each pattern is compiled before anything else happens


def compile_filters(
    whitelist: Sequence[flow_pb2.FlowFilter],
    blacklist: Sequence[flow_pb2.FlowFilter],
    store: FlowStore,
    *,
    trusted: bool = False,
) -> Predicate | None:
    """Flows that a whitelist filter selects (all when there are none) and no blacklist filter; None: all flows.

    Raises BadFilter for what cannot be evaluated: no field that is set is ever ignored. The predicate raises it, too,
    when an expression takes too long, unless `trusted` says that it comes from whoever runs the agent.
    """
    if sum(_size(one) for one in (*whitelist, *blacklist)) > VALUES_MAX:
        raise BadFilter("whitelist, blacklist", f"they have more than {VALUES_MAX} values altogether")
    if sum(one.ByteSize() for one in (*whitelist, *blacklist)) > BYTES_MAX:
        raise BadFilter("whitelist, blacklist", f"they have more than {BYTES_MAX} bytes altogether")
    for one in (*whitelist, *blacklist):
        _check_texts(one)
    wanted = [_compile(one, store, trusted=trusted) for one in whitelist]
    unwanted = [_compile(one, store, trusted=trusted) for one in blacklist]
    if not wanted and not unwanted:
        return None
    kept = any_of(wanted) if wanted else all_of(())
    if not unwanted:
        return kept
    refused = any_of(unwanted)

    def evaluate(span: Span) -> Mask:
        found: Mask = kept(span) & ~refused(span)
        return found

    return evaluate


def _compile(wanted: flow_pb2.FlowFilter, store: FlowStore, *, trusted: bool) -> Predicate:
    """A filter without fields selects every flow. Expressions see only what the other fields let through."""
    names = [field.name for field, _ in wanted.ListFields() if field.name != EXPERIMENTAL]
    # what compares numbers leaves fewer rows to the others
    numbers = [FIELDS[name](wanted, store) for name in names if name in network.FIELDS]
    others = [FIELDS[name](wanted, store) for name in names if name not in network.FIELDS]
    let_through = all_of([all_of(numbers, CHEAP_FEW), *others] if numbers else others)
    texts = wanted.experimental.cel_expression
    if not texts:
        return let_through
    expressions = Expressions(texts, store, trusted=trusted)

    def evaluate(span: Span) -> Mask:
        found = let_through(span)
        rows = np.flatnonzero(found)
        if len(rows):
            found = np.zeros(len(span), np.bool_)
            found[rows] = expressions(span, rows)
        return found

    return evaluate


def rows_at_once(filters: Iterable[flow_pb2.FlowFilter]) -> int:
    """How many rows should be judged before others run: fewer where each is dear."""
    least = ROWS_MAX
    for one in filters:
        if one.experimental.cel_expression:
            return ROWS
        if any(field.name in application.OF_REQUESTS for field, _ in one.ListFields()):
            least = REQUEST_ROWS
    return least


def _size(wanted: flow_pb2.FlowFilter) -> int:
    return 1 + sum(len(value) if field.is_repeated else 1 for field, value in wanted.ListFields())


def _check_texts(wanted: flow_pb2.FlowFilter) -> None:
    for field, values in wanted.ListFields():
        if field.is_repeated and field.type == field.TYPE_STRING and max(map(len, values)) > TEXT_MAX:
            raise BadFilter(field.name, f"a value has more than {TEXT_MAX} characters")
