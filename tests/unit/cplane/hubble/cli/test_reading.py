"""Messages read quickly are those that the library's own reader makes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.hubble.cli.reading import Reader
from cplane.hubble.flow import FlowBuilder
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb
from tests.support.effort import examples
from tests.support.flows import record_batches, store_of
from tests.support.tree import ROOT

Flow = flow_pb2.Flow


def slowly(content: dict[str, Any]) -> Flow:
    return ParseDict(content, Flow(), ignore_unknown_fields=True)


@settings(max_examples=examples(100), deadline=None)
@given(record_batches(), st.booleans())
def test_flows_are_read_as_the_library_reads_them(batch: Any, proto_names: bool):
    store = store_of(batch)
    span = store.ring.span(0, store.ring.written)
    reader = Reader()
    for row in range(len(span)):
        flow = FlowBuilder(store).flow(span, row)
        content = MessageToDict(flow, preserving_proto_field_name=proto_names)
        assert reader.message(Flow, content) == slowly(content) == flow


def test_nothing_of_the_golden_flows_needs_the_library(monkeypatch: pytest.MonkeyPatch):
    import json

    lines = Path(ROOT, "tests/golden/hubble/flows.jsonl").read_text().splitlines()
    slow = [ParseDict(json.loads(line), pb.GetFlowsResponse()) for line in lines]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the library was asked")

    monkeypatch.setattr(json_format, "ParseDict", refuse)
    reader = Reader()
    assert [reader.message(pb.GetFlowsResponse, json.loads(line)) for line in lines] == slow


@pytest.mark.parametrize(
    "content",
    [
        {"time": "2024-07-24T10:02:11+02:00"},
        {"time": "1969-12-31T23:59:59.5Z"},
        {"time": "0001-01-01T00:00:00Z"},
        {"verdict": 2},
        {"verdict": "NEW_VERDICT"},
        {"verdict": None},
        {"nothing": 1, "source": {"nothing": {}}},
        {"socket_cookie": 7},
        {"socket_cookie": "18446744073709551615"},
        {"is_reply": False},
        {"isReply": True},
        {"source": {"ID": "7"}},
        {"source": {"identity": 7.0}},
        {"extensions": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "1s"}},
        {"l4": {"TCP": {}}},
        {"l7": {"latency_ns": "5", "dns": {"ips": ["a"], "ttl": 4}}},
        {"IP": {"source_xlated": "x"}, "policy_log": ["a", "b"]},
        {"time": "x"},
        {"time": "2024-07-24 10:02:11Z"},
        {"time": "2024-02-30T10:02:11Z"},
        {"verdict": []},
        {"uuid": 7},
        {"source": []},
        {"source": {"labels": "x"}},
        {"source": {"identity": -1}},
        {"socket_cookie": "x"},
        {"is_reply": False, "isReply": True},
    ],
)
def test_unusual_forms_mean_what_they_mean_to_the_library(content: dict[str, Any]):
    assert outcome(lambda: Reader().message(Flow, content)) == outcome(lambda: slowly(content))


def outcome(read: Callable[[], Flow]) -> Flow | str:
    try:
        return read()
    except ParseError as error:
        return str(error)
