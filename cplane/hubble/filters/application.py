"""Filters about events and requests: verdict, drop reason, event type, names, HTTP, DNS, traces.

Flows of layers 3 and 4 have no request, so a filter about one is checked and then matches nothing.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

import numpy as np
import re2

from cplane.hubble.filters.predicate import QUIET, BadFilter, Mask, Predicate, all_of, any_of, by_detail, member, never
from cplane.hubble.ring import Span
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2

_L7_EVENT: Final = 129
_STATUS: Final = re.compile(r"[1-5][0-9]{2}|[1-5][0-9]?\+")


def _verdict(wanted: flow_pb2.FlowFilter, _store: FlowStore) -> Predicate:
    return member("verdict", wanted.verdict)


def _drop_reason(wanted: flow_pb2.FlowFilter, _store: FlowStore) -> Predicate:
    return member("reason", wanted.drop_reason_desc)


def _event_type(wanted: flow_pb2.FlowFilter, _store: FlowStore) -> Predicate:
    """Type 0 stands for every type."""
    entries = []
    for one in wanted.event_type:
        asked = [member("type", (one.type,))] if one.type else []
        if one.match_sub_type:
            asked.append(member("subtype", (one.sub_type,)))
        entries.append(all_of(asked))
    return any_of(entries)


def _uuid(wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    found = {store.ids.position(text) for text in wanted.uuid} - {None}
    positions = np.array(sorted(position for position in found if position is not None), np.uint64)

    def evaluate(span: Span) -> Mask:
        return np.isin(span.positions, positions)

    return evaluate


def _expressions(field: str, texts: Iterable[str]) -> None:
    for text in texts:
        try:
            re2.compile(text, QUIET)
        except re2.error as error:
            reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else error.args[0]
            raise BadFilter(field, f"{text!r} is not a regular expression: {reason}") from None


def _dns_query(wanted: flow_pb2.FlowFilter, _store: FlowStore) -> Predicate:
    _expressions("dns_query", wanted.dns_query)
    return never


def _http(field: str, wanted: flow_pb2.FlowFilter, _store: FlowStore) -> Predicate:
    """Asked together with event types, those must include requests: anything else is a mistake of the asker."""
    types = {one.type for one in wanted.event_type}
    if types and _L7_EVENT not in types:
        raise BadFilter(field, "it needs the event type l7, or no event types at all")
    if field == "http_status_code":
        for text in wanted.http_status_code:
            if not _STATUS.fullmatch(text):
                raise BadFilter(field, f"{text!r} is not a status code such as 404, 40+ or 4+")
    elif field in {"http_path", "http_url"}:
        _expressions(field, getattr(wanted, field))
    return never


def _ip_trace_id(wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    ids = frozenset(wanted.ip_trace_id)
    return by_detail(store, lambda detail: detail.trace_id in ids)


def _trace_id(_wanted: flow_pb2.FlowFilter, _store: FlowStore) -> Predicate:
    return never


FIELDS: Final[Mapping[str, Callable[[flow_pb2.FlowFilter, FlowStore], Predicate]]] = {
    "verdict": _verdict,
    "drop_reason_desc": _drop_reason,
    "event_type": _event_type,
    "uuid": _uuid,
    "dns_query": _dns_query,
    **{
        field: partial(_http, field)
        for field in ("http_status_code", "http_method", "http_path", "http_url", "http_header")
    },
    "trace_id": _trace_id,
    "ip_trace_id": _ip_trace_id,
}
