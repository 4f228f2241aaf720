"""Filters about events and requests: verdict, drop reason, event type, names, HTTP, DNS, traces."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

import numpy as np
import re2

from cplane.hubble.detail import ACCESS
from cplane.hubble.filters.predicate import (
    QUIET,
    BadFilter,
    Mask,
    Predicate,
    all_of,
    any_of,
    by_detail,
    by_request,
    member,
)
from cplane.hubble.ring import Span
from cplane.hubble.store import FlowStore
from cplane.hubble.texts import url_path
from cplane.pb.flow import flow_pb2

_HttpTest = Callable[[flow_pb2.HTTP], bool]
_STATUS: Final = re.compile(r"[1-5][0-9]{2}|[1-5][0-9]?\+")


def _verdict(wanted: flow_pb2.FlowFilter, _store: FlowStore) -> Predicate:
    return member("verdict", wanted.verdict)


def _drop_reason(wanted: flow_pb2.FlowFilter, _store: FlowStore) -> Predicate:
    """Of what was dropped: no other flow has a reason, and so none that is unknown."""
    return all_of((member("verdict", (flow_pb2.DROPPED,)), member("reason", wanted.drop_reason_desc)))


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


def _searched(field: str, texts: Iterable[str]) -> Callable[[str], bool]:
    """Whether one of the expressions is found in a text. Raises BadFilter."""
    compiled = []
    for text in texts:
        try:
            compiled.append(re2.compile(text, QUIET))
        except re2.error as error:
            reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else error.args[0]
            raise BadFilter(field, f"{text!r} is not a regular expression: {reason}") from None
    return lambda text: any(one.search(text) for one in compiled)


def _dns_query(wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    fits = _searched("dns_query", wanted.dns_query)
    return by_request(store, "dns", lambda flow: fits(flow.l7.dns.query))


def _http(field: str, wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    """Asked together with event types, those must include requests: anything else is a mistake of the asker."""
    types = {one.type for one in wanted.event_type}
    if types and ACCESS not in types:
        raise BadFilter(field, "it needs the event type l7, or no event types at all")
    test = _HTTP[field](field, wanted)
    return by_request(store, "http", lambda flow: test(flow.l7.http))


def _status(field: str, wanted: flow_pb2.FlowFilter) -> _HttpTest:
    for text in wanted.http_status_code:
        if not _STATUS.fullmatch(text):
            raise BadFilter(field, f"{text!r} is not a status code such as 404, 40+ or 4+")
    exact = frozenset(wanted.http_status_code)
    beginnings = tuple(text.removesuffix("+") for text in wanted.http_status_code if text.endswith("+"))
    return lambda http: bool(http.code) and (str(http.code) in exact or str(http.code).startswith(beginnings))


def _method(_field: str, wanted: flow_pb2.FlowFilter) -> _HttpTest:
    methods = frozenset(text.casefold() for text in wanted.http_method if text)
    return lambda http: http.method.casefold() in methods


def _path(field: str, wanted: flow_pb2.FlowFilter) -> _HttpTest:
    fits = _searched(field, wanted.http_path)
    return lambda http: (path := url_path(http.url)) is not None and fits(path)


def _url(field: str, wanted: flow_pb2.FlowFilter) -> _HttpTest:
    fits = _searched(field, wanted.http_url)
    return lambda http: bool(http.url) and fits(http.url)


def _header(_field: str, wanted: flow_pb2.FlowFilter) -> _HttpTest:
    pairs = frozenset((one.key, one.value) for one in wanted.http_header)
    return lambda http: any((one.key, one.value) in pairs for one in http.headers)


_HTTP: Final[Mapping[str, Callable[[str, flow_pb2.FlowFilter], _HttpTest]]] = {
    "http_status_code": _status,
    "http_method": _method,
    "http_path": _path,
    "http_url": _url,
    "http_header": _header,
}


def _ip_trace_id(wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    ids = frozenset(wanted.ip_trace_id) - {0}  # which stands for none
    return by_detail(store, lambda detail: detail.trace_id in ids)


def _trace_id(wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    """Of the trace that a request belongs to; one that belongs to none has an empty one, as every other flow."""
    ids = frozenset(wanted.trace_id)
    named = by_request(store, "", lambda flow: flow.trace_context.parent.trace_id in ids)
    if "" not in ids:
        return named
    return any_of((named, by_detail(store, lambda detail: detail.request is None)))


OF_REQUESTS: Final = frozenset({*_HTTP, "dns_query", "trace_id"})
"""Fields for which the request of each row is read."""

FIELDS: Final[Mapping[str, Callable[[flow_pb2.FlowFilter, FlowStore], Predicate]]] = {
    "verdict": _verdict,
    "drop_reason_desc": _drop_reason,
    "event_type": _event_type,
    "uuid": _uuid,
    "dns_query": _dns_query,
    **{field: partial(_http, field) for field in _HTTP},
    "trace_id": _trace_id,
    "ip_trace_id": _ip_trace_id,
}
