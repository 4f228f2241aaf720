"""Whether a message may be given to kio: kio reserves memory for as many items as an array says it has.

Twenty bytes that promise two thousand million items would end the process, so every length is compared with the bytes
that there are, and items are counted, before anything is decoded. A scanner is made from kio's own description of a
message. It finds where the message ends; it does not say that kio can read it.
"""

from collections.abc import Callable
from dataclasses import Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import ClassVar, Final, Protocol, TypeAlias, get_args, get_origin

from cplane.errors import Rejected

Buffer: TypeAlias = bytes | memoryview
Scan: TypeAlias = "Callable[[Buffer, int, Found], int]"
"""Bytes, where to begin, and what was found so far, which it adds to → where it ends."""

_SIZES: Final = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "float64": 8,
    "uuid": 16,
    "error_code": 2,
    "timedelta_i32": 4,
    "timedelta_i64": 8,
    "datetime_i64": 8,
}
_VARINT_BITS: Final = 35


class Found:
    """What a scan has found: `left` is how many items there may still be.

    `unknown` are sections of tagged fields some of which kio does not know, and refuses to skip: where each begins and
    ends, and what it would be without them. Newer clients and brokers may send such (KIP-482).
    """

    __slots__ = ("left", "unknown")

    def __init__(self, left: int) -> None:
        self.left = left
        self.unknown: list[tuple[int, int, bytes]] = []

    def known(self, frame: Buffer) -> Buffer:
        """The frame without what is unknown."""
        if not self.unknown:
            return frame
        parts, at = [], 0
        for start, end, instead in self.unknown:
            parts += [frame[at:start], instead]
            at = end
        return b"".join((*parts, frame[at:]))


class Garbage(Rejected):
    """What came is not Kafka's protocol, or more of it than is read here: the connection is closed."""

    code = "proxy.kafka_garbage"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Entity(Protocol):
    """A message of kio's, or a part of one: a frozen dataclass, whose fields depend on API and version."""

    __dataclass_fields__: ClassVar[dict[str, Field[object]]]


@cache
def scanner(entity: type[Entity]) -> Scan:
    """What scans a message or a part of one. The scanner raises Garbage."""
    flexible = bool(entity.__flexible__)  # type: ignore[attr-defined]  # every entity of kio has it
    steps: list[Scan] = []
    tagged: dict[int, Scan] = {}
    run = 0  # bytes of fields whose sizes are fixed
    for one in fields(entity):
        if "tag" in one.metadata:
            tagged[int(one.metadata["tag"])] = _field(one, flexible=flexible)
            continue
        size = _fixed(one)
        if size is not None:
            run += size
            continue
        if run:
            steps.append(_skip(run))
            run = 0
        steps.append(_field(one, flexible=flexible))
    if run:
        steps.append(_skip(run))
    if flexible:
        steps.append(_tags(tagged))
    return _all(tuple(steps))


def uvarint(frame: Buffer, at: int) -> tuple[int, int]:
    """An unsigned number of at most 35 bits, and where it ends. Raises Garbage."""
    value = shift = 0
    while at < len(frame) and shift < _VARINT_BITS:
        byte = frame[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise Garbage("a number that has no end")


def after_tags(frame: Buffer, at: int) -> int:
    """Where the tagged fields that begin here end. Raises Garbage."""
    return _NO_TAGS(frame, at, Found(0))


def _all(steps: tuple[Scan, ...]) -> Scan:
    if len(steps) == 1:
        return steps[0]

    def scan(frame: Buffer, at: int, found: Found) -> int:
        for step in steps:
            at = step(frame, at, found)
        return at

    return scan


def _skip(size: int) -> Scan:
    def scan(frame: Buffer, at: int, _found: Found) -> int:
        at += size
        if at > len(frame):
            raise Garbage("a message that ends too early")
        return at

    return scan


def _length(width: int) -> Scan:
    """A signed length and as many bytes; -1 is null."""

    def scan(frame: Buffer, at: int, _found: Found) -> int:
        size = int.from_bytes(frame[at : at + width], signed=True)
        end = at + width + (max(0, size))
        if size < -1 or end > len(frame):
            raise Garbage(f"a field of {size} bytes")
        return end

    return scan


def _compact(frame: Buffer, at: int, _found: Found) -> int:
    size, at = uvarint(frame, at)
    at += size - 1 if size else 0
    if at > len(frame):
        raise Garbage(f"a field of {size - 1} bytes")
    return at


def _array(item: Scan, size: int | None, *, flexible: bool) -> Scan:
    """Items of `size` bytes, None: of as many as each has, at least one."""

    def scan(frame: Buffer, at: int, found: Found) -> int:
        if flexible:
            count, at = uvarint(frame, at)
            count -= 1
        else:
            count = int.from_bytes(frame[at : at + 4], signed=True)
            at += 4
        if count > 0:
            found.left -= count
            if count * (size or 1) > len(frame) - at or found.left < 0:
                raise Garbage(f"an array of {count} items")
            if size is not None:
                return at + count * size
            for _ in range(count):
                at = item(frame, at, found)
        elif count < -1 or at > len(frame):
            raise Garbage(f"an array of {count} items")
        return at

    return scan


def _maybe(item: Scan) -> Scan:
    """A part that a byte before it says is there."""

    def scan(frame: Buffer, at: int, found: Found) -> int:
        if at >= len(frame):
            raise Garbage("a message that ends too early")
        return at + 1 if frame[at] >= 0x80 else item(frame, at + 1, found)

    return scan


def _tags(known: dict[int, Scan]) -> Scan:
    def scan(frame: Buffer, at: int, found: Found) -> int:
        if at < len(frame) and not frame[at]:
            return at + 1
        start = at
        count, at = uvarint(frame, at)
        kept: list[Buffer] = []
        for _ in range(count):  # each takes two bytes, or there is no such byte
            begin = at
            tag, at = uvarint(frame, at)
            size, at = uvarint(frame, at)
            end = at + size
            if end > len(frame):
                raise Garbage(f"a tagged field of {size} bytes")
            if tag in known:
                inner = Found(found.left)
                if known[tag](frame[:end], at, inner) != end or inner.unknown:
                    raise Garbage("a tagged field of another size than it says, or with what nobody knows")
                found.left = inner.left
                kept.append(frame[begin:end])
            at = end
        if len(kept) < count:
            found.unknown.append((start, at, b"".join((_varint(len(kept)), *kept))))
        return at

    return scan


def _varint(value: int) -> bytes:
    """The number as `uvarint` reads it."""
    made = bytearray()
    while value > 0x7F:  # seven bits in each byte
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*made, value))


_NO_TAGS: Final = _tags({})


def _alternatives(one: Field[object]) -> tuple[object, ...]:
    return get_args(one.type) if isinstance(one.type, UnionType) else (one.type,)


def _fixed(one: Field[object]) -> int | None:
    inner = next(part for part in _alternatives(one) if part is not NoneType)
    return None if get_origin(inner) is tuple else _SIZES.get(str(one.metadata.get("kafka_type")))


def _field(one: Field[object], *, flexible: bool) -> Scan:
    parts = _alternatives(one)
    inner = next(part for part in parts if part is not NoneType)
    kind = str(one.metadata.get("kafka_type"))
    if get_origin(inner) is tuple:
        item = get_args(inner)[0]
        if isinstance(item, type) and is_dataclass(item):
            return _array(scanner(item), _size(item), flexible=flexible)
        return _array(_primitive(kind, flexible=flexible), _SIZES.get(kind), flexible=flexible)
    if isinstance(inner, type) and is_dataclass(inner):
        return _maybe(scanner(inner)) if NoneType in parts else scanner(inner)
    return _primitive(kind, flexible=flexible)


def _primitive(kind: str, *, flexible: bool) -> Scan:
    if kind in _SIZES:
        return _skip(_SIZES[kind])
    assert kind in {"string", "bytes", "records"}, kind
    return _compact if flexible else _length(2 if kind == "string" else 4)


def _size(entity: type[Entity]) -> int | None:
    """Bytes of each, where all have as many."""
    if entity.__flexible__:  # type: ignore[attr-defined]  # every entity of kio has it
        return None
    sizes = [_fixed(one) for one in fields(entity)]
    return sum(one for one in sizes if one is not None) if None not in sizes else None
