"""Kafka's frames: headers by hand, bodies by kio, which knows every API from the versions of Kafka 4.0 on.

A frame is 4 bytes of length and as many of a message; all offsets here count from the first byte of the length.
Nothing that a client sends makes these functions raise anything but Garbage.
Source: https://kafka.apache.org/protocol, KIP-482 for flexible versions.
"""

import io
import struct
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from types import NoneType, UnionType
from typing import Final, NamedTuple, get_args, get_origin
from uuid import UUID

from kio.index import load_request_schema, load_response_schema
from kio.schema.errors import ErrorCode
from kio.schema.index import api_key_map, schema_name_map
from kio.serial import entity_reader, entity_writer
from kio.serial.errors import SerialError

from cplane.domain.policy.kafka import API_KEYS
from cplane.proxy.kafka_scan import Buffer, Entity, Found, Garbage, after_tags, scanner

ITEMS: Final = 20_000
"""Items of arrays in a request; in an answer there may be ten times as many."""
PRODUCE, FETCH, METADATA, OFFSET_FETCH, API_VERSIONS, ADD_PARTITIONS = 0, 1, 3, 9, 18, 24

PREFIX: Final = 4
_HEAD: Final = struct.Struct(">hhih")
_NAMES: Final = {number: name for name, number in API_KEYS.items()}


class Codec(NamedTuple):
    """One version of one API."""

    request: type[Entity]
    response: type[Entity]
    flexible_request: bool  # the header ends with tagged fields
    flexible_response: bool


class Header(NamedTuple):
    """`body` is where the message begins; without a codec, where the tagged fields of the header may begin."""

    key: int
    version: int
    correlation: int
    client_id: str
    body: int
    codec: Codec | None


def api_name(key: int) -> str:
    """The API as rules name it, or as Kafka does without the underscores."""
    return _NAMES.get(key) or api_key_map.get(key, str(key)).replace("_", "")


def codec_of(key: int, version: int) -> Codec | None:
    """None: kio does not know that API or version."""
    name = api_key_map.get(key)
    return _codec(key, version) if name is not None and version in schema_name_map[name] else None


@cache
def _codec(key: int, version: int) -> Codec:
    request, response = load_request_schema(key, version), load_response_schema(key, version)
    flexible = (bool(request.__header_schema__.__flexible__), bool(response.__header_schema__.__flexible__))
    return Codec(request, response, *flexible)


def versions_of(key: int) -> tuple[int, int] | None:
    """The first and the last version that there is a codec for."""
    name = api_key_map.get(key)
    return (min(schema_name_map[name]), max(schema_name_map[name])) if name is not None else None


def read_header(frame: Buffer) -> Header:
    """The header of a request. Raises Garbage."""
    if len(frame) < PREFIX + _HEAD.size:
        raise Garbage("a request that is too short for its header")
    key, version, correlation, length = _HEAD.unpack_from(frame, PREFIX)
    body = PREFIX + _HEAD.size + max(length, 0)
    if key < 0 or version < 0 or length < -1 or body > len(frame):
        raise Garbage("a request whose header makes no sense")
    try:
        client_id = str(frame[PREFIX + _HEAD.size : body], "utf-8")
    except UnicodeDecodeError as error:
        raise Garbage("a client id that is not UTF-8") from error
    codec = codec_of(key, version)
    if codec is not None and codec.flexible_request:
        body = after_tags(frame, body)
    return Header(key, version, correlation, client_id, body, codec)


def read_request(frame: Buffer, header: Header) -> Entity:
    """Raises Garbage. What follows the message does not matter: brokers do not look at it, librdkafka sends some."""
    assert header.codec is not None, header
    return _read(header.codec.request, frame, header.body, ITEMS)


def read_response(frame: Buffer, codec: Codec) -> Entity:
    """Raises Garbage."""
    start = PREFIX + 4
    start = after_tags(frame, start) if codec.flexible_response else start
    return _read(codec.response, frame, start, 10 * ITEMS)


def _read(entity: type[Entity], frame: Buffer, start: int, items: int) -> Entity:
    scanned = Found(items)
    end = scanner(entity)(frame, start, scanned)
    known = scanned.known(frame)
    try:
        found: Entity
        found, size = _reader(entity)(known, start)
    except (SerialError, ValueError, OverflowError, LookupError) as error:
        raise Garbage(f"no {entity.__name__}: {error}") from error
    if start + size != end + len(known) - len(frame):
        raise Garbage(f"{entity.__name__} ends where it does not")
    return found


_reader = cache(entity_reader)
_writer = cache(entity_writer)


def write_request(frame: Buffer, header: Header, request: Entity) -> bytes:
    """A frame with the header of another and this message."""
    out = io.BytesIO()
    out.write(frame[: header.body])
    _writer(type(request))(out, request)
    return _with_length(out)


def write_response(correlation: int, codec: Codec, response: Entity) -> bytes:
    """A frame of an answer."""
    out = io.BytesIO()
    out.write(bytes(PREFIX) + correlation.to_bytes(4, signed=True) + (b"\0" if codec.flexible_response else b""))
    _writer(type(response))(out, response)
    return _with_length(out)


def _with_length(out: io.BytesIO) -> bytes:
    view = out.getbuffer()
    view[:PREFIX] = (len(view) - PREFIX).to_bytes(PREFIX)
    view.release()
    return out.getvalue()


# ---- messages of our own ----


def fill(entity: type[Entity], given: Mapping[str, object]) -> Entity:
    """A message or a part of one with what is given of the fields that it has, and nothing in the others."""
    blank = _blank(entity)
    return entity(**{name: given.get(name, value) for name, value in blank.items()})


def element(entity: type[Entity], name: str) -> type[Entity]:
    """What the tuple in a field holds."""
    for part in _alternatives(entity.__dataclass_fields__[name]):
        if get_origin(part) is tuple:
            found = get_args(part)[0]
            assert isinstance(found, type) and is_dataclass(found), (entity, name)
            return found
    raise AssertionError(f"{entity}.{name} is no tuple")


@cache
def _blank(entity: type[Entity]) -> Mapping[str, object]:
    return {one.name: _nothing(one) for one in fields(entity)}


_PRIMITIVES: Final[Mapping[object, object]] = {
    "string": "",
    "bytes": b"",
    "records": b"",
    "bool": False,
    "uuid": UUID(int=0),
    "error_code": ErrorCode.none,
    "float64": 0.0,
    "timedelta_i32": timedelta(0),
    "timedelta_i64": timedelta(0),
    "datetime_i64": datetime.fromtimestamp(0, UTC),
}


def _nothing(one: Field[object]) -> object:
    if one.default is not MISSING:
        return one.default
    parts = _alternatives(one)
    if NoneType in parts:
        return None
    if get_origin(parts[0]) is tuple:
        return ()
    if isinstance(parts[0], type) and is_dataclass(parts[0]):
        return fill(parts[0], {})
    return _PRIMITIVES.get(one.metadata.get("kafka_type"), 0)


def _alternatives(one: Field[object]) -> tuple[object, ...]:
    return get_args(one.type) if isinstance(one.type, UnionType) else (one.type,)
