"""Where messages name topics, how a request loses some of them, and what the answer says of those.

Fields of kio's messages are reached by name here, as which there are depends on API and version.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final, NamedTuple
from uuid import UUID

from kio.schema.errors import ErrorCode

from cplane.proxy.kafka_scan import Entity
from cplane.proxy.kafka_wire import ADD_PARTITIONS, OFFSET_FETCH, Codec, element, fill

Topic = str | UUID | None
"""By name, by id, or neither."""


class Shape(NamedTuple):
    """Fields of a request and its answer: topics, a topic's name, its partitions, a partition's number.

    Without a name the topic itself is it, without partitions there are none, without a number the partition is it.
    """

    topics: str
    name: str
    partitions: str
    number: str
    answered: str
    answered_name: str
    answered_partitions: str
    answered_number: str
    error: str = "error_code"


_USUAL: Final = Shape(
    *("topics", "name", "partitions", "partition_index"),
    *("topics", "name", "partitions", "partition_index"),
)
_SHAPES: Final[Mapping[int, Shape]] = {
    0: Shape(
        *("topic_data", "name", "partition_data", "index"),
        *("responses", "name", "partition_responses", "index"),
    ),
    1: Shape(
        *("topics", "topic", "partitions", "partition"),
        *("responses", "topic", "partitions", "partition_index"),
    ),
    2: _USUAL,
    3: Shape("topics", "name", "", "", "topics", "name", "", ""),
    8: _USUAL,
    9: Shape(
        *("topics", "name", "partition_indexes", ""),
        *("topics", "name", "partitions", "partition_index"),
    ),
    19: Shape("topics", "name", "", "", "topics", "name", "", ""),
    20: Shape("topics", "name", "", "", "responses", "name", "", ""),
    21: _USUAL,
    23: Shape(
        *("topics", "topic", "partitions", "partition"),
        *("topics", "topic", "partitions", "partition"),
    ),
    24: Shape(
        *("v3_and_below_topics", "name", "partitions", ""),
        *("results_by_topic_v3_and_below", "name", "results_by_partition", "partition_index", "partition_error_code"),
    ),
    28: _USUAL,
    37: Shape("topics", "name", "", "", "results", "name", "", ""),
}
_OLD_DELETION: Final = _SHAPES[20]._replace(topics="topic_names", name="")
_LAST_OLD_DELETION: Final = 5
_LAST_SHAPED: Final = {OFFSET_FETCH: 7, ADD_PARTITIONS: 3}  # later ones hold topics in groups and transactions

_PATHS: Final[Mapping[int, tuple[str, ...]]] = {
    OFFSET_FETCH: ("groups", "topics", "name"),
    ADD_PARTITIONS: ("transactions", "topics", "name"),
    27: ("markers", "topics", "name"),
    34: ("dirs", "topics", "name"),
    35: ("topics", "topic"),
}
_NOWHERE: Final[Mapping[str, object]] = {
    "base_offset": -1,
    "high_watermark": -1,
    "low_watermark": -1,
    "committed_offset": -1,
    "log_append_time": None,
    "records": b"",  # not null: librdkafka asks again and again for that
}
"""What an answer about a topic that is refused says besides."""


def shape_of(key: int, version: int) -> Shape | None:
    """None: the API names no topics, or names them in a way that lets all pass or none."""
    if version > _LAST_SHAPED.get(key, version):
        return None
    return _OLD_DELETION if key == 20 and version <= _LAST_OLD_DELETION else _SHAPES.get(key)


def field(entity: object, name: str) -> object:
    """A field, None where the version has none of that name."""
    return getattr(entity, name, None)


def number(entity: object, name: str) -> int:
    """A field that is a number, 0 where there is none."""
    found = field(entity, name)
    return found if isinstance(found, int) else 0


def items(entity: object, name: str) -> tuple[object, ...]:
    """What a field holds that is a tuple, nothing where it is null."""
    found = field(entity, name)
    return found if isinstance(found, tuple) else ()


def topic_of(one: object, name: str) -> Topic:
    """What the topic is called."""
    found = one if not name else field(one, name)
    if isinstance(found, str):
        return found
    by_id = field(one, "topic_id")
    return by_id if isinstance(by_id, UUID) else None


def named_within(key: int, request: Entity) -> list[Topic] | None:
    """Topics of a request without a shape. None: nobody knows, or it is about all that there are."""
    path = _PATHS.get(key)
    if path is None:
        return None
    *parts, name = path
    found: list[object] = [request]
    for part in parts:
        if any(field(one, part) is None for one in found):
            return None
        found = [item for one in found for item in items(one, part)]
    return [topic_of(one, name) for one in found]


def with_topics(request: Entity, shape: Shape, kept: Iterable[object]) -> Entity:
    """The request, about these of its topics only."""
    return replace(request, **{shape.topics: tuple(kept)})


def with_answers(response: Entity, shape: Shape, kept: Iterable[object], refused: Iterable[object]) -> Entity:
    """The answer with these of its topics, and others that were refused."""
    return replace(response, **{shape.answered: (*kept, *refused)})


def refusal(codec: Codec, shape: Shape, one: object, code: ErrorCode) -> Entity:
    """What the answer says of a topic that is refused; `one` is what the request has of it."""
    made = element(codec.response, shape.answered)
    topic = topic_of(one, shape.name)
    given: dict[str, object] = {**_NOWHERE, shape.error: code}
    given |= {shape.answered_name: topic} if isinstance(topic, str) else {"topic_id": topic}
    if shape.answered_partitions:
        part = element(made, shape.answered_partitions)
        numbers = ((number(p, shape.number) if shape.number else p) for p in items(one, shape.partitions))
        given[shape.answered_partitions] = tuple(fill(part, {**given, shape.answered_number: n}) for n in numbers)
    return fill(made, given)


def errors_of(shape: Shape | None, response: Entity) -> Iterator[tuple[Topic, int]]:
    """Each topic of an answer, and the first error that there is for it."""
    if shape is None:
        yield "", number(response, "error_code")
        return
    for one in items(response, shape.answered):
        code = number(one, shape.error)
        parts = items(one, shape.answered_partitions) if shape.answered_partitions else ()
        yield topic_of(one, shape.answered_name), code or next((c for p in parts if (c := number(p, shape.error))), 0)


def visible(response: Entity, shape: Shape, may: Callable[[str], bool], asked: Iterable[Topic]) -> Iterator[object]:
    """The topics of an answer that may be seen; of a hidden one that was asked for by its id, that nobody knows it."""
    ids = {one for one in asked if isinstance(one, UUID)}
    for one in items(response, shape.answered):
        name, by_id = field(one, shape.answered_name), field(one, "topic_id")
        if not isinstance(name, str) or may(name):  # without a name: an id that the broker does not know either
            yield one
        elif by_id in ids:
            made = element(type(response), shape.answered)
            yield fill(made, {"error_code": ErrorCode.unknown_topic_id, "topic_id": by_id})


# ---- requests that are refused as a whole ----

GROUP: Final = frozenset({8, 9, 10, 11, 12, 13, 14, 15, 42, 47, 68, 69, 76, 77, 88, 89})
TRANSACTION: Final = frozenset({24, 25, 26, 28, 65})


class Echo(NamedTuple):
    """An answer that has one item for each of the request's: the fields of both, and how each item's are called."""

    asked: str
    answered: str
    names: Mapping[str, str]


_ECHOES: Final[Mapping[int, Echo]] = {
    9: Echo("groups", "groups", {"group_id": "group_id"}),
    10: Echo("coordinator_keys", "coordinators", {"key": ""}),
    15: Echo("groups", "groups", {"group_id": ""}),
    30: Echo("creations", "results", {}),
    31: Echo("filters", "filter_results", {}),
    32: Echo("resources", "results", {"resource_type": "resource_type", "resource_name": "resource_name"}),
    33: Echo("resources", "responses", {"resource_type": "resource_type", "resource_name": "resource_name"}),
    42: Echo("groups_names", "results", {"group_id": ""}),
    44: Echo("resources", "responses", {"resource_type": "resource_type", "resource_name": "resource_name"}),
}


def code_of_refusal(key: int) -> ErrorCode:
    """The error of a request that is refused for what it is, not for a topic."""
    if key in GROUP:
        return ErrorCode.group_authorization_failed
    if key in TRANSACTION:
        return ErrorCode.transactional_id_authorization_failed
    return ErrorCode.cluster_authorization_failed


def refuse(key: int, codec: Codec, request: Callable[[], Entity]) -> Entity | None:
    """The answer that refuses the request; None: such an answer cannot say that. Raises what `request` raises."""
    code = code_of_refusal(key)
    names = codec.response.__dataclass_fields__
    given: dict[str, object] = {"error_code": code, "node_id": -1, "producer_id": -1, "producer_epoch": -1}
    if "error_code" in names:
        return fill(codec.response, given)
    echo = _ECHOES.get(key)
    if echo is None or echo.answered not in names:
        return None
    made, asked = element(codec.response, echo.answered), items(request(), echo.asked)
    answers = (
        fill(made, {**given, **{ours: field(one, theirs) if theirs else one for ours, theirs in echo.names.items()}})
        for one in asked
    )
    return fill(codec.response, {echo.answered: tuple(answers)})
