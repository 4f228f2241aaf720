"""Responses of an observer: any at all, and those of the small world of `flows`."""

from typing import Any

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import strategies as st

from cplane.hubble.encode import Encoder, frames
from cplane.hubble.fieldmask import parse_mask
from cplane.hubble.store import FlowStore
from cplane.pb.cplane.flow.v1 import extension_pb2
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb

SECONDS = (-62_135_596_800, 253_402_300_799)  # that a Timestamp may have
TEXTS = st.text(max_size=8) | st.sampled_from(
    ["", "\x1b[31m", "a\nb\r\t", "é\x7f\x9b", "\u202e", "\U000e0001", "{0}%s%", "\x01\x02\x03", '"\\', "-", "shop/web"]
)
_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.TYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_UINT64: (0, (1 << 64) - 1),
}


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values]) | st.integers(0, 300)
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return TEXTS
        case FieldDescriptor.TYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.TYPE_DOUBLE:
            return st.floats(allow_nan=False)
        case FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=4)
    low, high = _INTEGERS[field.type]
    return st.sampled_from([0, 1, 80, 65_535, high]) | st.integers(low, high)


@st.composite
def _timestamps(draw: st.DrawFn, kind: type[Message]) -> Message:
    nanos = draw(st.integers(0, 999) | st.integers(0, 999_999_999))
    return kind(seconds=draw(st.integers(*SECONDS)), nanos=nanos * draw(st.sampled_from([1, 1_000_000])) % 10**9)


@st.composite
def _anys(draw: st.DrawFn, kind: type[Message]) -> Message:
    """Something of a type that is known here."""
    packed = kind()
    packed.Pack(extension_pb2.Origin(position=draw(st.integers(0, 1 << 63))))
    return packed


@st.composite
def _any_fields(draw: st.DrawFn, descriptor: Descriptor, kind: type[Message]) -> Message:
    message = kind()
    for field in draw(st.lists(st.sampled_from(list(descriptor.fields)), max_size=6, unique_by=lambda f: f.number)):
        values = draw(st.lists(_values(field), max_size=2) if field.is_repeated else _values(field))
        if field.is_repeated:
            getattr(message, field.name).extend(values)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(values)
        else:
            setattr(message, field.name, values)
    return message


def messages(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Any messages of a type whose times are in the calendar."""
    kind: type[Message] = descriptor._concrete_class
    if descriptor.full_name == "google.protobuf.Timestamp":
        return _timestamps(kind)
    if descriptor.full_name == "google.protobuf.Any":
        return _anys(kind)
    return _any_fields(descriptor, kind)


def as_json(message: Message) -> Any:  # Any: JSON
    """What protojson makes of a message with a flow, in which the log position is a text that every reader knows."""
    told = type(message)()
    told.CopyFrom(message)
    extensions = told.flow.extensions  # type: ignore[attr-defined]  # a response or an export event
    origin = extension_pb2.Origin()
    if told.HasField("flow") and extensions.Unpack(origin):
        extensions.Pack(StringValue(value=f"cplane:position={origin.position}"))
    return MessageToDict(told, preserving_proto_field_name=True)


def any_responses() -> st.SearchStrategy[pb.GetFlowsResponse]:
    """Any responses, most of them with a flow."""
    flows = messages(flow_pb2.Flow.DESCRIPTOR).map(lambda flow: pb.GetFlowsResponse(flow=flow, node_name="n"))
    return flows | messages(pb.GetFlowsResponse.DESCRIPTOR)


def encoded(store: FlowStore, *, mask: tuple[str, ...] = ()) -> list[bytes]:
    """Everything in a store that has not wrapped, as its observer encodes it."""
    span = store.ring.span(store.ring.oldest, store.ring.written)
    encoder = Encoder(store, parse_mask(mask) if mask else None)
    return list(frames(encoder.encode(span, np.arange(len(span)))))
