"""Frames are cut anywhere they break, and what is read of them is what a decoder reads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cplane.hubble.encode import Encoder
from cplane.hubble.relay.scan import MESSAGE_MAX, NO_TIME, Batch, Cutter, Garbage, scan, scan_one
from cplane.pb.observer import observer_pb2 as pb
from tests.support.flows import records, store_of
from tests.support.relay_frames import batch_of, flow_at, frame, framed, loss_at, responses

NS = 1_000_000_000


def expected(response: pb.GetFlowsResponse) -> tuple[int, bool]:
    """Time and kind as a decoder has them."""
    time = response.time
    sound = response.HasField("time") and 0 <= time.seconds <= (2**63 - 1) // NS - 1 and 0 <= time.nanos < NS
    return (time.seconds * NS + time.nanos if sound else NO_TIME), response.HasField("flow")


def read(batch: Batch) -> list[tuple[int, bool]]:
    return list(zip(batch.times.tolist(), batch.flows.tolist(), strict=True))


@pytest.mark.slow
@given(st.lists(responses(), min_size=1, max_size=60))
def test_times_and_kinds_are_those_of_a_decoder(made: list[pb.GetFlowsResponse]) -> None:
    batch = batch_of(*made)
    assert read(batch) == [expected(one) for one in made]
    assert [pb.GetFlowsResponse.FromString(one[5:]) for one in batch.frames] == made


@pytest.mark.slow
@given(st.lists(st.binary(max_size=40), min_size=30, max_size=40))
def test_garbage_is_read_in_common_as_it_is_read_alone(contents: list[bytes]) -> None:
    data = b"".join(map(frame, contents))
    batch = Cutter().feed(data)
    assert batch is not None
    assert read(batch) == [scan_one(one, 0, len(one)) for one in contents]


@pytest.mark.slow
@given(st.lists(responses(), min_size=30, max_size=40), st.data())
def test_messages_that_break_off_or_are_bent_are_read_in_common_as_alone(
    made: list[pb.GetFlowsResponse], data: st.DataObject
) -> None:
    contents = []
    for one in made:
        content = bytearray(one.SerializeToString())
        if content and data.draw(st.booleans()):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        contents.append(bytes(content[: data.draw(st.integers(0, len(content)))]))
    batch = Cutter().feed(b"".join(map(frame, contents)))
    assert batch is not None
    assert read(batch) == [scan_one(one, 0, len(one)) for one in contents]


@pytest.mark.slow
@given(st.lists(responses(), min_size=1, max_size=8), st.data())
def test_it_does_not_matter_where_pieces_end(made: list[pb.GetFlowsResponse], data: st.DataObject) -> None:
    whole = framed(*made)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    cutter = Cutter()
    frames: list[bytes] = []
    for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        batch = cutter.feed(whole[start:stop])
        frames += batch.frames if batch is not None else []
    cutter.finish()
    assert b"".join(frames) == whole


@pytest.mark.parametrize("count", [3, 200])
def test_our_own_observers_messages_are_read(count: int) -> None:
    store = store_of(records(*({"dport": port, "time_ns": port} for port in range(count))))
    span = store.ring.span(0, count)
    batch = Cutter().feed(Encoder(store).encode(span, np.arange(count)))
    assert batch is not None
    assert batch.times.tolist() == span["time_ns"].tolist()
    assert batch.flows.all()


@pytest.mark.parametrize("others", [1, 20, 300])
def test_messages_of_other_makers_among_ours_are_read_too(others: int) -> None:
    store = store_of(records(*({"dport": port, "time_ns": port} for port in range(200))))
    ours = Cutter().feed(Encoder(store).encode(store.ring.span(0, 200), np.arange(200)))
    assert ours is not None
    strange = [framed(flow_at(number * NS, "x" * number), loss_at(number * NS)) for number in range(others)]
    strange += [frame(b""), frame(b"\xca\x3e"), framed(pb.GetFlowsResponse(node_name="n"))]
    mixed = [*ours.frames, *strange]
    np.random.default_rng(others).shuffle(mixed)
    whole = b"".join(mixed)
    batch = Cutter().feed(whole[:77], whole[77:])
    assert batch is not None
    assert b"".join(batch.frames) == whole
    sound = [(frame_, pair) for frame_, pair in zip(batch.frames, read(batch), strict=True) if len(frame_) > 7]
    assert [pair for _, pair in sound] == [expected(pb.GetFlowsResponse.FromString(one[5:])) for one, _ in sound]


def test_what_follows_garbage_is_not_given() -> None:
    whole = framed(*(flow_at(number) for number in range(40)))
    cutter = Cutter()
    batch = cutter.feed(whole, b"\1\0\0\0\1x", whole)
    assert batch is not None
    assert b"".join(batch.frames) == whole
    with pytest.raises(Garbage, match="compressed"):
        cutter.feed(whole)


def test_what_is_no_flow_is_told_apart() -> None:
    assert batch_of(flow_at(5 * NS), loss_at(6 * NS)).flows.tolist() == [True, False]


def test_a_message_without_bytes_has_no_time() -> None:
    times, flows = scan(frame(b""), [0, 5])
    assert (times.tolist(), flows.tolist()) == ([NO_TIME], [False])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\1\0\0\0\1x", "compressed"),
        (b"\0" + (MESSAGE_MAX + 1).to_bytes(4, "big"), f"a message of {MESSAGE_MAX + 1} bytes"),
    ],
)
def test_what_is_no_message_of_ours_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(Garbage, match=reason):
        Cutter().feed(data)


def test_a_stream_that_ends_within_a_message_is_refused() -> None:
    cutter = Cutter()
    assert cutter.feed(b"\0\0\0\0\5abc") is None
    with pytest.raises(Garbage, match="in the middle of a message"):
        cutter.finish()
