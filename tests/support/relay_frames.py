"""Framed responses as peers send them, and batches of them."""

from collections.abc import Iterable

from hypothesis import strategies as st

from cplane.hubble.relay.scan import Batch, Cutter
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb


def frame(data: bytes) -> bytes:
    return b"\0" + len(data).to_bytes(4, "big") + data


def flow_at(time_ns: int, uuid: str = "", node: str = "default/node1") -> pb.GetFlowsResponse:
    """A response with a flow of that time."""
    response = pb.GetFlowsResponse(flow=flow_pb2.Flow(uuid=uuid), node_name=node)
    response.time.FromNanoseconds(time_ns)
    response.flow.time.CopyFrom(response.time)
    return response


def loss_at(time_ns: int, count: int = 1) -> pb.GetFlowsResponse:
    """A response that tells of lost flows."""
    response = pb.GetFlowsResponse(lost_events=flow_pb2.LostEvent(num_events_lost=count), node_name="default/node1")
    response.time.FromNanoseconds(time_ns)
    return response


def framed(*responses: pb.GetFlowsResponse) -> bytes:
    return b"".join(frame(one.SerializeToString()) for one in responses)


def batch_of(*responses: pb.GetFlowsResponse) -> Batch:
    batch = Cutter().feed(framed(*responses))
    assert batch is not None
    return batch


def cut(data: bytes) -> list[bytes]:
    """The frames that lie in it behind each other."""
    batch = Cutter().feed(data) if data else None
    return batch.frames if batch is not None else []


def parsed(frames: Iterable[bytes]) -> list[pb.GetFlowsResponse]:
    return [pb.GetFlowsResponse.FromString(one[5:]) for one in frames]


@st.composite
def responses(draw: st.DrawFn) -> pb.GetFlowsResponse:
    """Any response that a peer might send."""
    response = pb.GetFlowsResponse(node_name=draw(st.sampled_from(["", "node1", "default/" + "n" * 200])))
    match draw(st.integers(0, 3)):
        case 0:
            response.flow.uuid = "u" * draw(st.sampled_from([0, 3, 130, 20_000]))
        case 1:
            response.node_status.node_names.append("x")
        case 2:
            response.lost_events.num_events_lost = draw(st.integers(0, 2**64 - 1))
        case _:
            pass
    if draw(st.booleans()):
        seconds = st.sampled_from([0, 1, 2**28 - 1, 2**28, 1_721_815_331, 2**33, 2**35 - 1, 2**35, -1])
        response.time.seconds = draw(seconds)
        response.time.nanos = draw(st.sampled_from([0, 1, 127, 128, 16_384, 999_999_999, 1_000_000_000, -1]))
    return response
