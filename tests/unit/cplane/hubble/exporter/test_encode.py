"""A line from a template is what the flow's message is in JSON."""

import json

import numpy as np
import pytest
from google.protobuf import descriptor_pool, json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.domain.access import Access
from cplane.hubble.attribution import Attribution
from cplane.hubble.exporter import encode
from cplane.hubble.exporter.encode import LineEncoder
from cplane.hubble.fieldmask import keep, parse_mask
from cplane.hubble.flow import FlowBuilder
from cplane.hubble.origin import TYPE_URL
from cplane.hubble.parser.getters import EndpointInfo
from cplane.hubble.ring import Loss, LossSource
from cplane.hubble.store import FlowStore
from cplane.pb.observer import observer_pb2
from tests.support.accesses import accesses, take
from tests.support.effort import examples
from tests.support.flows import START_NS, World, record_batches, records, store_of
from tests.support.responses import as_json

MASKS = [
    None,
    ["time", "verdict", "l4", "source.pod_name"],
    ["l4.TCP.destination_port", "uuid"],
    ["l4.UDP.source_port"],
    ["time.seconds"],
    ["extensions", "IP"],
    ["no.such"],
    ["verdict"],
    ["l7", "Summary"],
    ["l7.http.method", "uuid"],
    ["trace_context", "l7.type"],
]


def lines(store: FlowStore, mask: list[str] | None = None) -> list[str]:
    span = store.ring.span(store.ring.oldest, store.ring.written)
    encoder = LineEncoder(store, None if mask is None else parse_mask(mask))
    first = encoder.encode(span, np.arange(len(span))).decode()
    assert encoder.encode(span, np.arange(len(span))).decode() == first, "from the templates that were kept"
    return first.splitlines()


def expected(store: FlowStore, mask: list[str] | None) -> list[object]:
    span = store.ring.span(store.ring.oldest, store.ring.written)
    found = []
    for row in range(len(span)):
        flow = FlowBuilder(store).flow(span, row)
        event = observer_pb2.ExportEvent(node_name="default/node1", time=flow.time)
        if mask is not None:
            keep(flow, parse_mask(mask))
        event.flow.CopyFrom(flow)
        found.append(as_json(event))
    return found


@settings(max_examples=examples(60), deadline=None)
@given(batch=record_batches(), seen=accesses(), mask=st.sampled_from(MASKS))
def test_a_line_is_what_protojson_makes_of_the_flow(
    batch: np.ndarray, seen: list[Access], mask: list[str] | None
) -> None:
    store = store_of(batch)
    take(store, *seen)
    assert [json.loads(line) for line in lines(store, mask)] == expected(store, mask)


def test_a_line_reads_as_an_export_event() -> None:
    (line,) = lines(store_of(records({})))
    event = json_format.Parse(line, observer_pb2.ExportEvent())
    assert event.flow.source.pod_name == "web-7f9"
    assert event.node_name == event.flow.node_name == "default/node1"
    assert event.flow.extensions.Is(StringValue.DESCRIPTOR)
    assert line.startswith('{"flow":{"time":"2024-07-24T10:02:11Z","verdict":"FORWARDED",')
    assert line.endswith(',"node_name":"default/node1","time":"2024-07-24T10:02:11Z"}')


def test_a_reader_that_knows_nothing_of_us_reads_our_lines() -> None:
    """The original's know the well-known types, and refuse a line that has an Any of another one."""
    pool = DescriptorPool()
    for file in ("any", "wrappers", "timestamp", "field_mask"):
        add(pool, f"google/protobuf/{file}.proto")
    for file in ("flow", "relay", "observer"):
        add(pool, f"{file}/{file}.proto")
    kind = GetMessageClass(pool.FindMessageTypeByName("observer.ExportEvent"))
    (line,) = lines(store_of(records({"position": 41})))
    event = json_format.Parse(line, kind(), descriptor_pool=pool)
    assert event.flow.extensions.value.endswith(b"cplane:position=41")
    assert json_format.MessageToDict(event, preserving_proto_field_name=True, descriptor_pool=pool) == json.loads(line)
    ours = json.loads(line)
    ours["flow"]["extensions"] = {"@type": TYPE_URL, "position": "41"}
    with pytest.raises(json_format.ParseError, match=r"cplane\.flow\.v1\.Origin"):
        json_format.ParseDict(ours, kind(), ignore_unknown_fields=True, descriptor_pool=pool)


def add(pool: DescriptorPool, file: str) -> None:
    pool.AddSerializedFile(descriptor_pool.Default().FindFileByName(file).serialized_pb)


@pytest.mark.parametrize("name", ['quo"te', "per%cent %s %(x)s", "nul\0l", "line\nbreak", "ümlaut \u202e", "\\u0000"])
def test_hostile_names_stay_names(name: str) -> None:
    world = World(pods={11: EndpointInfo(11, "shop", name, "default")})
    world.cookies[100] = Attribution((), (name,))
    (line,) = lines(store_of(records({"type": 5, "cookie": 100}), world=world))
    assert json.loads(line)["flow"]["source"]["pod_name"] == name
    assert json.loads(line)["flow"]["policy_log"] == [name]


def test_a_number_with_a_new_meaning_is_written_anew() -> None:
    store = store_of(records({}))
    encoder, span = LineEncoder(store), store.ring.span(0, 1)
    assert b"web-7f9" in encoder.encode(span, np.arange(1))
    store.endpoints._values[int(span["src_meta"][0])] = store.endpoints[0]
    store.endpoints.generation += 1
    assert b"web-7f9" not in encoder.encode(span, np.arange(1))


def test_the_templates_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "TEMPLATES_MAX", 8)
    store = store_of(records(*({"src": f"192.0.2.{n}"} for n in range(100))))
    encoder, span = LineEncoder(store), store.ring.span(0, 100)
    for start in range(0, 100, 4):
        encoder.encode(span, np.arange(start, start + 4))
        assert len(encoder._templates) <= 12


def test_lost_flows_are_a_line() -> None:
    line = LineEncoder(store_of(records({}))).loss(Loss(7, LossSource.FLOW_RING, 5, START_NS, START_NS + 10**9))
    assert json.loads(line) == {
        "lost_events": {
            "source": "HUBBLE_RING_BUFFER",
            "num_events_lost": "5",
            "first": "2024-07-24T10:02:11Z",
            "last": "2024-07-24T10:02:12Z",
        },
        "node_name": "default/node1",
        "time": "2024-07-24T10:02:12Z",
    }
