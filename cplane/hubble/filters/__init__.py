"""FlowFilter messages to vector expressions over the ring's columns.

May import `cplane.domain`, `cplane.pb` and the ring, its tables and its texts; must not import the observer,
the parser's batches or anything that waits.
"""

from collections.abc import Sequence
from typing import Final

from cplane.hubble.filters import application, network, workload
from cplane.hubble.filters.predicate import BadFilter, Mask, Predicate, all_of, any_of
from cplane.hubble.ring import Span
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2

__all__ = ["FIELDS", "BadFilter", "Mask", "Predicate", "compile_filters"]

FIELDS: Final = {**network.FIELDS, **workload.FIELDS, **application.FIELDS}
VALUES_MAX: Final = 4096  # in all filters of a request: each may cost a comparison for every flow


def compile_filters(
    whitelist: Sequence[flow_pb2.FlowFilter], blacklist: Sequence[flow_pb2.FlowFilter], store: FlowStore
) -> Predicate | None:
    """Flows that a whitelist filter selects (all when there are none) and no blacklist filter; None: all flows.

    Raises BadFilter for what cannot be evaluated: no field that is set is ever ignored.
    """
    if sum(_size(one) for one in (*whitelist, *blacklist)) > VALUES_MAX:
        raise BadFilter("whitelist, blacklist", f"they have more than {VALUES_MAX} values altogether")
    wanted = [_compile(one, store) for one in whitelist]
    unwanted = [_compile(one, store) for one in blacklist]
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


def _compile(wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    """A filter without fields selects every flow."""
    return all_of([FIELDS[field.name](wanted, store) for field, _ in wanted.ListFields()])


def _size(wanted: flow_pb2.FlowFilter) -> int:
    return 1 + sum(len(value) if field.is_repeated else 1 for field, value in wanted.ListFields())
