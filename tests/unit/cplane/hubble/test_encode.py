"""What the encoder sends parses to the message built field by field."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.domain.access import Access
from cplane.hubble import encode
from cplane.hubble.encode import Encoder, Encoders, frames
from cplane.hubble.fieldmask import keep, parse_mask
from cplane.hubble.flow import FlowBuilder
from cplane.hubble.ring import Loss, LossSource
from cplane.hubble.store import FlowStore
from cplane.pb.cplane.flow.v1 import extension_pb2
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2
from tests.support.accesses import accesses, take
from tests.support.effort import examples
from tests.support.flows import START_NS, World, record_batches, records, responses, store_of

MASKS = [
    None,
    ["time", "verdict", "l4", "source.pod_name"],
    ["l4.TCP.destination_port", "uuid"],
    ["time.seconds"],
    ["extensions", "IP"],
    ["destination.labels", "destination", "destination.identity"],
    ["no.such", "verdict.deeper", "labels"],
    ["ingress_allowed_by", "egress_denied_by", "policy_log"],
    ["uuid", "ingress_denied_by.name"],
    ["socket_cookie", "sock_xlate_point"],
    ["socket_cookie.deeper", "cgroup_id"],
    ["l7", "Summary"],
    ["l7.http.url", "trace_context"],
    ["l7.type", "l4", "time"],
    ["trace_context.parent", "l7", "Summary"],
    [*(field.name for field in flow_pb2.Flow.DESCRIPTOR.fields)],
]


def expected(store: FlowStore, paths: list[str] | None, *, origin: bool) -> list[observer_pb2.GetFlowsResponse]:
    span = store.ring.span(store.ring.oldest, store.ring.written)
    out = []
    for row in range(len(span)):
        flow = FlowBuilder(store).flow(span, row)
        response = observer_pb2.GetFlowsResponse(node_name="default/node1", time=flow.time)
        if paths is not None:
            keep(flow, parse_mask(paths))
        elif not origin:
            flow.ClearField("extensions")
        response.flow.CopyFrom(flow)
        out.append(response)
    return out


@settings(max_examples=examples(40), deadline=None)
@given(batch=record_batches(), seen=accesses(), paths=st.sampled_from(MASKS), origin=st.booleans())
def test_a_template_parses_to_the_message_built_field_by_field(
    batch: np.ndarray, seen: list[Access], paths: list[str] | None, origin: bool
) -> None:
    store = store_of(batch)
    take(store, *seen)
    encoder = Encoder(store, None if paths is None else parse_mask(paths), origin=origin)
    assert responses(store, encoder) == expected(store, paths, origin=origin)
    assert responses(store, encoder) == expected(store, paths, origin=origin), "from the cached tails"


@settings(max_examples=examples(20), deadline=None)
@given(batch=record_batches(), chosen=st.sets(st.integers(0, 63)), origin=st.booleans())
def test_some_rows_are_what_they_are_among_all(batch: np.ndarray, chosen: set[int], origin: bool) -> None:
    store = store_of(batch)
    encoder = Encoder(store, origin=origin)
    span = store.ring.span(store.ring.oldest, store.ring.written)
    whole = list(frames(encoder.encode(span, np.arange(len(span)))))
    rows = [row for row in sorted(chosen) if row < len(span)]
    assert list(frames(encoder.encode(span, np.array(rows, np.intp)))) == [whole[row] for row in rows]


@pytest.mark.parametrize("time_ns", [0, 1, 10**9 - 1, 10**9, (1 << 63) - 1, (1 << 64) - 1])
@pytest.mark.parametrize("origin", [0, 127, 128, 1 << 28, (1 << 56) - 1])
def test_the_ends_of_what_fits(time_ns: int, origin: int) -> None:
    store = store_of(records({"sport": 65535, "dport": 128, "position": origin}))
    store.ring.span(0, 1)["time_ns"][0] = time_ns
    (response,) = responses(store, Encoder(store, origin=True))
    assert (response.time.seconds, response.time.nanos) == divmod(time_ns, 10**9)
    assert response.flow.time == response.time
    assert (response.flow.l4.TCP.source_port, response.flow.l4.TCP.destination_port) == (65535, 128)
    assert extension_pb2.Origin.FromString(response.flow.extensions.value).position == origin


def test_each_message_is_framed_for_grpc() -> None:
    store = store_of(records({}, {"protocol": 1}, {"protocol": 17}))
    span = store.ring.span(0, 3)
    data = Encoder(store).encode(span, np.arange(3))
    assert data[0] == 0
    assert sum(len(message) + 5 for message in frames(data)) == len(data)


def test_a_number_with_a_new_meaning_is_encoded_anew() -> None:
    world = World()
    store = store_of(records({}), world=world)
    encoder = Encoder(store)
    assert responses(store, encoder)[0].flow.source.pod_name == "web-7f9"
    store.endpoints._values[int(store.ring.span(0, 1)["src_meta"][0])] = store.endpoints[0]
    store.endpoints.generation += 1
    assert responses(store, encoder)[0].flow.source.pod_name == ""


def test_the_tails_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "TAILS_MAX", 8)
    store = store_of(records(*({"src": f"192.0.2.{n}"} for n in range(100))))
    encoder = Encoder(store)
    span = store.ring.span(0, 100)
    for start in range(0, 100, 4):
        encoder.encode(span, np.arange(start, start + 4))
        assert len(encoder._tails) <= 12


def test_encoders_are_shared_and_few() -> None:
    encoders = Encoders(store_of(records({})))
    first = encoders.get(parse_mask(["time", "IP"]), origin=False)
    assert encoders.get(parse_mask(["IP", "time"]), origin=False) is first
    assert encoders.get(None, origin=False) is not encoders.get(None, origin=True)
    for field in flow_pb2.Flow.DESCRIPTOR.fields:
        encoders.get(parse_mask([field.name]), origin=False)
    assert len(encoders._made) == 8


def test_lost_events_say_who_how_many_and_when() -> None:
    encoder = Encoder(store_of(records({})))
    (message,) = frames(encoder.loss(Loss(7, LossSource.FLOW_RING, 5, START_NS, START_NS + 10**9)))
    response = observer_pb2.GetFlowsResponse.FromString(message)
    assert response.node_name == "default/node1"
    lost = response.lost_events
    assert (lost.source, lost.num_events_lost) == (flow_pb2.HUBBLE_RING_BUFFER, 5)
    assert lost.last.ToNanoseconds() - lost.first.ToNanoseconds() == 10**9
    assert not lost.HasField("cpu")
