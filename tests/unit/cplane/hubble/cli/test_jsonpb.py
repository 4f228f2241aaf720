"""JSON as protojson writes it."""

import json
import math
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.hubble.cli.jsonpb import Writer, quoted
from cplane.hubble.cli.reading import Reader
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb
from tests.support.effort import examples
from tests.support.responses import TEXTS, any_responses, as_json, messages


def read(text: str) -> Any:
    """JSON, its numbers as any reader has them that knows no others than floating-point ones."""
    return json.loads(text, parse_int=float)


@pytest.mark.slow
@settings(max_examples=examples(250))
@given(any_responses())
def test_a_response_means_what_the_library_writes(response: pb.GetFlowsResponse):
    written = Writer().message(response)
    assert json.loads(written) == as_json(response)
    assert "\n" not in written


@pytest.mark.slow
@given(messages(pb.ServerStatusResponse.DESCRIPTOR) | messages(flow_pb2.FlowFilter.DESCRIPTOR))
def test_so_do_a_status_and_a_filter(message: pb.ServerStatusResponse | flow_pb2.FlowFilter):
    assert read(Writer().message(message)) == MessageToDict(message, preserving_proto_field_name=True)


@given(TEXTS)
def test_a_string_is_read_back_and_orders_a_terminal_nothing(text: str):
    assert json.loads(quoted(text)) == text
    assert quoted(text).isprintable()


def test_numbers_names_and_times_have_protojsons_forms():
    response = pb.GetFlowsResponse(node_name="n")
    response.lost_events.source = flow_pb2.HUBBLE_RING_BUFFER
    response.lost_events.num_events_lost = 1 << 63
    response.lost_events.cpu.value = 0
    response.lost_events.first.FromNanoseconds(1_500_000_000)
    response.time.FromNanoseconds(1_721_815_331_000_001_000)
    assert Writer().message(response) == (
        '{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"9223372036854775808","cpu":0,'
        '"first":"1970-01-01T00:00:01.500Z"},"node_name":"n","time":"2024-07-24T10:02:11.000001Z"}'
    )


def test_a_flow_has_the_names_of_the_proto_and_no_defaults():
    flow = flow_pb2.Flow(verdict=flow_pb2.FORWARDED, Summary="<&>é")
    flow.is_reply.value = False
    flow.IP.ipVersion = flow_pb2.IPv4
    flow.l4.TCP.flags.SYN = True
    flow.drop_reason_desc = 77  # type: ignore[assignment]  # enumerations are open
    flow.source.SetInParent()
    assert Writer().message(flow) == (
        '{"verdict":"FORWARDED","IP":{"ipVersion":"IPv4"},"l4":{"TCP":{"flags":{"SYN":true}}},"source":{},'
        '"drop_reason_desc":77,"is_reply":false,"Summary":"<&>é"}'
    )


def test_what_is_given_instead_stands_in_place_of_a_field_that_is_set():
    flow = flow_pb2.Flow(uuid="x", Summary="y")
    assert Writer().message(flow, {"uuid": "1", "verdict": "2"}) == '{"uuid":1,"Summary":"y"}'


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (38.21, "38.21"),
        (5.0, "5"),
        (1e16, "10000000000000000"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1.5e300, "1.5e+300"),
        (0.00001, "0.00001"),
        (1e-7, "1e-07"),
        (-2.5, "-2.5"),
        (math.nan, '"NaN"'),
        (math.inf, '"Infinity"'),
        (-math.inf, '"-Infinity"'),
    ],
)
def test_a_rate_has_an_exponent_only_if_it_must(number: float, expected: str):
    assert Writer().message(pb.ServerStatusResponse(flows_rate=number)) == f'{{"flows_rate":{expected}}}'


@given(st.floats(allow_nan=False, allow_infinity=False).filter(bool))
def test_no_digit_of_a_rate_is_lost(number: float):
    assert read(Writer().message(pb.ServerStatusResponse(flows_rate=number)))["flows_rate"] == number


def test_an_extension_of_an_unknown_type_keeps_its_bytes():
    flow = flow_pb2.Flow()
    flow.extensions.type_url, flow.extensions.value = "example.org/nobody.Knows", b"\0\xff"
    written = Writer().message(flow)
    assert written == '{"extensions":{"@type":"example.org/nobody.Knows","value":"AP8="}}'
    assert Reader().message(flow_pb2.Flow, json.loads(written)) == flow


@pytest.mark.parametrize("name", ["cplane.flow.v1.Origin", "flow.Service", "google.protobuf.StringValue"])
def test_an_extension_that_is_not_of_its_type_is_written_as_bytes(name: str):
    flow = flow_pb2.Flow()
    flow.extensions.type_url, flow.extensions.value = f"type.googleapis.com/{name}", b"\xff\xff"
    written = {"@type": f"type.googleapis.com/{name}", "value": "//8="}
    assert json.loads(Writer().message(flow)) == {"extensions": written}


def test_a_time_that_no_calendar_has_is_refused():
    response = pb.GetFlowsResponse()
    response.time.seconds = 1 << 62
    with pytest.raises(ValueError, match="a time that no calendar has"):
        Writer().message(response)
