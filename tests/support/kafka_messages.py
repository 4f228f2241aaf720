"""Kafka messages of any API and version, for tests of the proxy; read and written by kio alone."""

import io
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from types import NoneType, UnionType
from typing import get_args, get_origin
from uuid import UUID

from hypothesis import strategies as st
from kio.index import load_request_schema, load_response_schema
from kio.schema.errors import ErrorCode
from kio.schema.index import api_key_map, schema_name_map
from kio.serial import entity_reader, entity_writer

from cplane.domain.access import Address
from cplane.domain.policy.kafka import KafkaRule
from cplane.domain.policy.rule import CNP, PolicyRef
from cplane.domain.verdict import Direction
from cplane.proxy.channel import KafkaTerm, PutKafka
from cplane.proxy.kafka_policy import Policy
from cplane.proxy.kafka_session import Ends, Session, TopicIds
from cplane.proxy.kafka_wire import fill

REF = PolicyRef(CNP, "default", "topics")
ENDS = Ends(Address("10.1.0.1", 40000), Address("10.1.0.2", 9092))
VERSIONS = [(key, version) for key, name in api_key_map.items() for version in schema_name_map[name]]
TOPICS = ["topic1", "topic2", "secret"]


class Port:
    """A proxy port without listeners."""

    def __init__(self, *rules, everything=False):
        self.number, self.direction, self.ids = 10001, Direction.EGRESS, TopicIds()
        self.allow(*rules, everything=everything)

    def allow(self, *rules, everything=False):
        self.policy = Policy(
            PutKafka(10001, Direction.EGRESS, (KafkaTerm(REF, "spec", None if everything else rules),))
        )


def session(*rules, everything=False, clamp=True):
    """A session, its port, and the records that it makes."""
    records, port = [], Port(*rules, everything=everything)
    return Session(port, ENDS, records.append, clamp=clamp), port, records


def rule(*keys, topic="", version=None, client_id=""):
    return KafkaRule(frozenset(keys), version, client_id, topic)


def _string(text):
    return b"\xff\xff" if text is None else len(text.encode()).to_bytes(2) + text.encode()


def head(key, version, correlation=7, client_id="client", *, flexible=False):
    tags = b"\0" if flexible else b""
    return key.to_bytes(2) + version.to_bytes(2) + correlation.to_bytes(4) + _string(client_id) + tags


def framed(body):
    return len(body).to_bytes(4) + body


def encoded(entity):
    out = io.BytesIO()
    entity_writer(type(entity))(out, entity)
    return out.getvalue()


def ask(entity, correlation=7, client_id="client"):
    """The frame of a request."""
    kind = type(entity)
    first = head(
        *(kind.__api_key__, kind.__version__, correlation, client_id), flexible=kind.__header_schema__.__flexible__
    )
    return framed(first + encoded(entity))


def reply(entity, correlation=7):
    """The frame of an answer."""
    tags = b"\0" if type(entity).__header_schema__.__flexible__ else b""
    return framed(correlation.to_bytes(4) + tags + encoded(entity))


def asked(frame):
    """The request in a frame."""
    data = bytes(frame)
    key, version = int.from_bytes(data[4:6]), int.from_bytes(data[6:8])
    kind = load_request_schema(key, version)
    at = 14 + max(int.from_bytes(data[12:14], signed=True), 0)
    if kind.__header_schema__.__flexible__:
        assert data[at] == 0
        at += 1
    found, size = entity_reader(kind)(data, at)
    assert at + size <= len(data) == 4 + int.from_bytes(data[:4])
    return found


def replied(frame, key, version, correlation=7):
    """The answer in a frame."""
    data, kind = bytes(frame), load_response_schema(key, version)
    assert int.from_bytes(data[4:8]) == correlation
    at = 8 + kind.__header_schema__.__flexible__
    found, size = entity_reader(kind)(data, at)
    assert at + size == len(data) == 4 + int.from_bytes(data[:4])
    return found


def make(key, version, **given):
    """A request with these fields; dictionaries and lists of them stand for parts."""
    return _part(load_request_schema(key, version), given)


def answer(key, version, **given):
    """An answer, likewise."""
    return _part(load_response_schema(key, version), given)


def _part(kind, given):
    made = {}
    types = {one.name: one.type for one in fields(kind)}
    for name, value in given.items():
        if isinstance(value, list):
            item = next(get_args(one)[0] for one in _alternatives(types[name]) if get_origin(one) is tuple)
            made[name] = tuple(_part(item, one) if isinstance(one, dict) else one for one in value)
        else:
            made[name] = value
    return fill(kind, made)


def _alternatives(kind):
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def entities(kind):
    """Any message of the kind, with topics of TOPICS where it has strings."""
    return st.fixed_dictionaries({one.name: _values(one) for one in fields(kind)}).map(lambda given: kind(**given))


_PRIMITIVES = {
    "string": st.sampled_from([*TOPICS, "", "other"]),
    "bytes": st.binary(max_size=9),
    "records": st.binary(max_size=9),
    "bool": st.booleans(),
    "uuid": st.sampled_from([UUID(int=1), UUID(int=2)]),
    "timedelta_i32": st.just(timedelta(seconds=1)),
    "timedelta_i64": st.just(timedelta(seconds=1)),
    "int8": st.integers(-2, 2),
    "float64": st.just(0.5),
    "error_code": st.sampled_from([ErrorCode.none, ErrorCode.unknown_topic_or_partition]),
    "datetime_i64": st.just(datetime.fromtimestamp(1, UTC)),
}


def _values(one):
    parts = _alternatives(one.type)
    inner = next(part for part in parts if part is not NoneType)
    name = one.metadata.get("kafka_type")
    if get_origin(inner) is tuple:
        item = get_args(inner)[0]
        made = entities(item) if is_dataclass(item) else _PRIMITIVES.get(name, st.integers(0, 3))
        found = st.lists(made, max_size=2).map(tuple)
    elif is_dataclass(inner):
        found = entities(inner)
    else:
        found = _PRIMITIVES.get(name, st.integers(-1, 3) if not name.startswith("u") else st.integers(0, 3))
    return st.one_of(st.none(), found) if NoneType in parts else found


_LISTS = {"topics", "topic_data", "topic_names", "v3_and_below_topics"}


def named(entity):
    """Every topic that a request names, found by looking everywhere."""
    found = set()
    for one in fields(entity):
        value = getattr(entity, one.name)
        if isinstance(value, tuple):
            for item in value:
                if one.name in _LISTS:
                    found.add(item if isinstance(item, str) else getattr(item, "name", getattr(item, "topic", None)))
                if is_dataclass(item):
                    found |= named(item)
        elif is_dataclass(value):
            found |= named(value)
    return found
