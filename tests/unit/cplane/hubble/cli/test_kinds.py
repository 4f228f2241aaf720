"""What is rendered once and filled in later is what would have been rendered each time."""

import json
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cplane.hubble.cli import kinds, wire
from cplane.hubble.cli.printer import CompactPrinter, DictPrinter, JsonPrinter, Printer, Style, TablePrinter
from cplane.hubble.cli.request import SHOWN_FIELDS
from cplane.hubble.cli.terminal import Colours
from cplane.hubble.cli.times import LAYOUTS, TimeText
from cplane.hubble.cli.words import Words
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb
from tests.support.effort import examples
from tests.support.flows import record_batches, records, store_of
from tests.support.responses import any_responses, as_json, encoded

PRINTERS = [CompactPrinter, DictPrinter, TablePrinter, JsonPrinter]


def printer(kind: Callable[[Style], Printer], *, colours: bool = False) -> tuple[Printer, list[str]]:
    """A printer, and what it has written."""
    out: list[str] = []
    words = Words(Colours(wanted=colours), policies=True)
    style = Style(out=out.append, err=out.append, words=words, time=TimeText(LAYOUTS["RFC3339Nano"]), node_name=True)
    return kind(style), out


def each_alone(kind: Callable[[Style], Printer], responses: list[bytes], *, colours: bool = False) -> list[str]:
    """What printers write that have never seen another response."""
    shown = []
    for response in responses:
        fresh, out = printer(kind, colours=colours)
        fresh.show([response])
        fresh.close()
        shown.append("".join(out))
    return shown


def together(kind: Callable[[Style], Printer], responses: list[bytes], *, colours: bool = False) -> list[str]:
    """What one printer writes of each response when it has seen all of them three times."""
    one, out = printer(kind, colours=colours)
    for _ in range(3):
        one.show(responses)
    out.clear()
    shown = []
    for response in responses:
        one.show([response])
        shown.append("".join(out))
        out.clear()
    return shown


def compare(kind: Callable[[Style], Printer], responses: list[bytes], *, colours: bool = False) -> None:
    if kind is TablePrinter:  # whose columns are wider where there are more rows
        one, out = printer(kind)
        for _ in range(3):
            one.show(responses)
        one.close()
        lines = [" ".join(line.split()) for line in "".join(out).splitlines()[1 : 1 + 3 * len(responses)]]
        alone = [" ".join(line.split()) for text in each_alone(kind, responses) for line in text.splitlines()[1:]]
        assert lines == alone * 3
        return
    separator = "------------\n" if kind is DictPrinter else ""
    expected = [separator + text if text else "" for text in each_alone(kind, responses, colours=colours)]
    assert together(kind, responses, colours=colours) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", PRINTERS)
@settings(max_examples=examples(60))
@given(batch=record_batches(), masked=st.booleans(), colours=st.booleans())
def test_flows_of_our_observer(kind: Callable[[Style], Printer], batch: object, masked: bool, colours: bool):
    responses = encoded(store_of(batch), mask=SHOWN_FIELDS if masked else ())
    compare(kind, responses, colours=colours and kind is not TablePrinter)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [CompactPrinter, DictPrinter, JsonPrinter])
@settings(max_examples=examples(80))
@given(responses=st.lists(any_responses(), min_size=1, max_size=4))
def test_any_flows_at_all(kind: Callable[[Style], Printer], responses: list[pb.GetFlowsResponse]):
    flows = [one.SerializeToString() for one in responses if one.HasField("flow")]
    compare(kind, flows)


@pytest.mark.slow
@settings(max_examples=examples(80))
@given(responses=st.lists(any_responses(), min_size=1, max_size=4))
@example(responses=[pb.GetFlowsResponse(flow=flow_pb2.Flow(uuid=kinds.UUID_CUT))])
def test_json_means_what_the_library_writes_however_often_it_was_seen(responses: list[pb.GetFlowsResponse]):
    flows = [one for one in responses if one.HasField("flow")]
    for text, response in zip(together(JsonPrinter, [one.SerializeToString() for one in flows]), flows, strict=True):
        assert json.loads(text) == as_json(response)


def response(**fields: object) -> pb.GetFlowsResponse:
    one = pb.GetFlowsResponse(flow=flow_pb2.Flow(Summary="s", uuid="ab-1", **fields))
    one.flow.time.FromNanoseconds(1)
    one.flow.IP.source, one.flow.IP.destination = "10.0.0.1", "10.0.0.2"
    return one


def test_places_are_those_of_the_values():
    one = response()
    one.time.FromNanoseconds(300)
    one.flow.l4.UDP.source_port, one.flow.l4.UDP.destination_port = 53, 300
    data = one.SerializeToString()
    places = wire.places_of(data)
    assert places is not None
    time, source, destination, uuid, answered = wire.Shape(places).values(data)
    assert (time, answered) == (one.flow.time.SerializeToString(), one.time.SerializeToString())
    assert (wire.varint(source), wire.varint(destination), uuid) == ((53, 1), (300, 2), b"ab-1")


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # no length
        b"\x0a\x05\x08",  # longer than the message
        b"\x0b\x0c",  # a group
        b"\x0a\x00\x0a\x00",  # two flows, which a decoder merges
        b"\x08\x01",  # a flow that is a number
        b"\x0a\x06\x32\x04\x0a\x00\x12\x00",  # two protocols
        b"\xff" * 12,  # a number without an end
    ],
)
def test_where_it_is_not_clear_there_are_no_places(data: bytes):
    assert wire.places_of(data) is None


@given(st.binary(max_size=40))
def test_nothing_is_too_strange_to_look_for_places_in(data: bytes):
    wire.places_of(data)


def test_bytes_that_were_one_port_may_be_two_in_another_response():
    """The same length, and the same bytes around them."""
    one, two = response(), response()
    one.flow.l4.TCP.source_port = 20_000
    two.flow.l4.TCP.source_port, two.flow.l4.TCP.destination_port = 80, 81
    before, after = (message.SerializeToString() for message in (one, two))
    assert before.replace(b"\x08\xa0\x9c\x01", b"\x08\x50\x10\x51") == after
    shown, out = printer(CompactPrinter)
    shown.show([before, before, after])
    assert ": 10.0.0.1:80 (unknown) <> 10.0.0.2:81 (unknown)" in out[-1].splitlines()[-1]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kinds, "KINDS_MAX", 8)
    shown, out = printer(CompactPrinter)
    for number in range(100):
        data = response(node_name=f"n{number}").SerializeToString()
        shown.show([data, data])
        remembered = shown._kinds
        assert len(remembered._kinds) + remembered._learned <= 8
    assert "[n99]" in out[-1]


def test_a_kind_that_was_seen_twice_is_not_decoded_any_more(monkeypatch: pytest.MonkeyPatch):
    store = store_of(records(*({"sport": 40_000 + number} for number in range(20))))
    shown, out = printer(CompactPrinter)
    responses = encoded(store, mask=SHOWN_FIELDS)
    shown.show(responses[:2])
    monkeypatch.setattr(kinds.Kinds, "_decoded", lambda *_: pytest.fail("decoded"))
    shown.show(responses[2:])
    assert [line.partition(" (")[0].rpartition(":")[2] for line in out[-1].splitlines()] == [
        str(40_000 + number) for number in range(2, 20)
    ]
