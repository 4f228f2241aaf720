"""What comes from outside has the types that are declared, or is refused."""

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from cplane.pb.cplane.admin import v1 as pb
from cplane.pb.observer import observer_pb2 as observer
from cplane.transport.codec import RequestCodec

REF = b"\x0a\x02\x08\x07"  # field 1, a message, whose field 1 is the number 7


@pytest.mark.parametrize(
    ("kind", "data", "field"),
    [
        (pb.RelabelEndpointRequest, b"\x0a\x01\x01", "id"),  # bytes for a number
        (pb.RelabelEndpointRequest, b"\x10\x07", "labels"),  # a number for repeated text
        (pb.ConfigureEndpointRequest, b"\x12\x01\x01", "policy_audit"),  # bytes for an optional bool
        (pb.DeletePolicyRequest, REF, "refs.kind"),
        (pb.DeletePolicyRequest, b"\x08\x07", "refs"),  # a number for a message
        (pb.ApplyPolicyRequest, b"\x08\x07", "documents"),  # a number for bytes
    ],
)
def test_a_field_of_another_type_is_named_and_refused(kind: type, data: bytes, field: str) -> None:
    with pytest.raises(GRPCError) as told:
        RequestCodec().decode(data, kind)
    assert told.value.status is Status.INVALID_ARGUMENT
    assert told.value.message == f"the message cannot be decoded: {field} is of another type"


@pytest.mark.parametrize(
    "message",
    [
        pb.RelabelEndpointRequest(id=1, labels=["k8s:app=web"]),
        pb.ConfigureEndpointRequest(id=1),
        pb.ConfigureEndpointRequest(id=1, policy_audit=False),
        pb.DeletePolicyRequest(refs=[pb.PolicyRef(name="x")]),
        observer.GetFlowsRequest(number=7, whitelist=[{"source_pod": ["a/b"]}]),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_was_sent_is_what_is_read(message: object) -> None:
    codec = RequestCodec()
    assert codec.decode(codec.encode(message, type(message)), type(message)) == message
