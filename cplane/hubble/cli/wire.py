"""Where in an encoded response that stands which differs from packet to packet.

Times, uuid and ports lie at the same places in all responses that are otherwise byte by byte the same, so once the
places are known such a response need not be decoded.
"""

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Final, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2

_VARINT: Final = 0  # wire types
_FIXED64: Final = 1
_SIZED: Final = 2
_FIXED32: Final = 5
_NOWHERE: Final = slice(0, 0)


class Places(NamedTuple):
    """Where the values are: contents of messages and of the text, and varints; empty for what is not there."""

    time: slice = _NOWHERE
    source_port: slice = _NOWHERE
    destination_port: slice = _NOWHERE
    uuid: slice = _NOWHERE
    answer_time: slice = _NOWHERE


Values = tuple[bytes, bytes, bytes, bytes, bytes]


class Shape:
    """Places, and how to take a response apart that has its values there."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.values: Callable[[bytes], Values] = itemgetter(*places)
        held = sorted((place.start, place.stop) for place in places if place != _NOWHERE)
        starts = [0, *(stop for _, stop in held)]
        stops = [*(start for start, _ in held), None]
        pieces = [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]
        # everything but the values; of one piece alone it is no tuple, and as good a key
        self.rest: Callable[[bytes], object] = itemgetter(*pieces)


class _Unclear(Exception):
    """A field stands there twice, which a decoder would merge, or in another form, or it holds nothing."""


def _numbers(message: type[Message], *names: str) -> dict[int, int]:
    """Field number → wire type, of these fields; of all of them when none is named."""
    known = message.DESCRIPTOR.fields_by_name
    fields = [known[name] for name in names or known]
    return {field.number: _SIZED if field.type in _TEXTS else _VARINT for field in fields}


_TEXTS: Final = frozenset({FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_STRING})
_RESPONSE: Final = _numbers(observer_pb2.GetFlowsResponse, "flow", "time")
_FLOW: Final = _numbers(flow_pb2.Flow, "time", "l4", "uuid")
_LAYER: Final = _numbers(flow_pb2.Layer4)
_PORTED: Final = tuple(_numbers(flow_pb2.Layer4, "TCP", "UDP", "SCTP"))
_PORTS: Final = _numbers(flow_pb2.TCP, "source_port", "destination_port")  # which UDP and SCTP number alike


def places_of(data: bytes) -> Places | None:
    """Where the values of an encoded response are; None where that cannot be said."""
    try:
        flow_place, answer_time = _fields(data, slice(0, len(data)), _RESPONSE)
        time, layer, uuid = _fields(data, flow_place, _FLOW)
        protocols = _fields(data, layer, _LAYER)
        if sum(place != _NOWHERE for place in protocols) > 1:
            return None
        ported = [place for number, place in zip(_LAYER, protocols, strict=True) if number in _PORTED]
        source_port, destination_port = _fields(data, max(ported, key=lambda place: place.stop), _PORTS)
    except (_Unclear, IndexError):
        return None
    return Places(time, source_port, destination_port, uuid, answer_time)


def _fields(data: bytes, within: slice, wanted: Mapping[int, int]) -> list[slice]:
    """The values of these fields (number → wire type) of a message, without the lengths before them."""
    found = dict.fromkeys(wanted, _NOWHERE)
    at, stop = within.start, within.stop
    while at < stop:
        tag, at = varint(data, at)
        start, kind = at, tag & 7
        if kind == _VARINT:
            at = varint(data, at)[1]
        elif kind == _SIZED:
            length, start = varint(data, at)
            at = start + length
        elif kind in {_FIXED64, _FIXED32}:
            at += 8 if kind == _FIXED64 else 4
        else:
            raise _Unclear
        if at > stop:
            raise _Unclear
        field = tag >> 3
        if field in wanted:
            if found[field] != _NOWHERE or kind != wanted[field] or start == at:
                raise _Unclear
            found[field] = slice(start, at)
    return list(found.values())


def varint(data: bytes, at: int = 0) -> tuple[int, int]:
    """A number and where it ends. Raises IndexError where it does not."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError
