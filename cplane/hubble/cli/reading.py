"""JSON to messages, as protojson reads it: the opposite of `jsonpb`, and as that many times faster than the library's.

A message is constructed at once from a mapping, which the library takes with names for enumerations. What it does not
take is converted before: times, wrappers, numbers of 64 bits in strings. Whatever does not fit is left to the library's
own reader, which knows every form, and the words for what is wrong.
"""

import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TypeVar

from google.protobuf import any_pb2, descriptor_pool, json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)
Convert = Callable[[Any], Any]  # Any: what JSON has to what a constructor takes

_LARGE: Final = frozenset(
    getattr(FieldDescriptor, f"TYPE_{name}") for name in ("INT64", "UINT64", "SINT64", "FIXED64", "SFIXED64")
)
_WRAPPERS: Final = frozenset(f"google.protobuf.{name}Value" for name in ("UInt32", "Int32", "Bool", "String"))
_ANY: Final = "google.protobuf.Any"
_OF_LIBRARY: Final = "google.protobuf."
_FRACTION: Final = re.compile(r"(?:\.(\d{1,9}))?Z", re.ASCII)
_SECOND: Final = len("2024-07-24T10:02:11")


class _Unusual(ValueError):
    """A form for the library's own reader."""


class Reader:
    """Reads messages of any type. Remembers how the fields of a type are read."""

    def __init__(self) -> None:
        self._types: dict[str, Mapping[str, tuple[str, Convert | None]]] = {}

    def message(self, kind: type[M], content: Mapping[str, Any]) -> M:  # Any: JSON
        """The message that an object stands for; fields that it does not have are ignored. Raises ParseError."""
        try:
            return kind(**self._members(kind.DESCRIPTOR, content))  # type: ignore[arg-type]  # the C twin of that class
        except (TypeError, ValueError, AttributeError, KeyError):
            return json_format.ParseDict(_known(content), kind(), ignore_unknown_fields=True)

    def _members(self, descriptor: Descriptor, content: Mapping[str, Any]) -> dict[str, Any]:  # Any: as above
        fields = self._types.get(descriptor.full_name)
        if fields is None:
            fields = self._types[descriptor.full_name] = self._fields(descriptor)
        members = {}
        for name, value in content.items():
            known = fields.get(name)
            if known is None or value is None:
                continue
            field, convert = known
            if field in members:
                raise _Unusual(field)
            members[field] = value if convert is None else convert(value)
        return members

    def _fields(self, descriptor: Descriptor) -> dict[str, tuple[str, Convert | None]]:
        """Both names of a field → its name, and what converts it."""
        found = {}
        for field in descriptor.fields:
            convert = self._single(field)
            if field.is_repeated:
                convert = _each(convert)
            found.update(dict.fromkeys((field.name, field.json_name), (field.name, convert)))
        return found

    def _single(self, field: FieldDescriptor) -> Convert | None:
        nested = field.message_type
        if nested is None:
            if field.type in _LARGE:
                return _large
            return _unusual if field.type == FieldDescriptor.TYPE_BYTES else None
        if nested.full_name == "google.protobuf.Timestamp":
            return _stamp
        if nested.full_name in _WRAPPERS:
            return _wrapped
        if nested.full_name == _ANY:
            return _packed
        if nested.full_name.startswith(_OF_LIBRARY) or nested.GetOptions().map_entry:
            return _unusual
        return lambda content: self._members(nested, content)


def _each(convert: Convert | None) -> Convert:
    def each(values: object) -> list[Any]:  # Any: as above
        if not isinstance(values, list):  # a text would be taken letter by letter
            raise _Unusual(values)
        return values if convert is None else [convert(value) for value in values]

    return each


def _unusual(value: object) -> object:
    raise _Unusual(value)


def _large(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    raise _Unusual(value)


def _wrapped(value: object) -> dict[str, object]:
    return {"value": value}


def _packed(content: object) -> any_pb2.Any | None:
    """An Any. Of a type that nobody here knows it has the bytes that `jsonpb` writes of one, or is left out.

    The library would refuse all of the message, as if an extension were worth more than the flow that it extends.
    """
    if not isinstance(content, dict):
        raise _Unusual(content)
    try:
        return json_format.ParseDict(content, any_pb2.Any())
    except (json_format.ParseError, TypeError):
        match content:
            case {"@type": str(url), "value": str(value), **rest} if not rest and not _is_known(url):
                return any_pb2.Any(type_url=url, value=b64decode(value, validate=True))
            case {"@type": str(url)} if not _is_known(url):
                return None
        raise


def _is_known(url: str) -> bool:
    try:
        descriptor_pool.Default().FindMessageTypeByName(url.rpartition("/")[2])
    except KeyError:
        return False
    return True


def _known(content: Mapping[str, Any]) -> dict[str, Any]:  # Any: as above
    """What the library's reader takes: without an Any of a type that it does not know."""
    found = {}
    for name, value in content.items():
        if isinstance(value, dict):
            if isinstance(url := value.get("@type"), str) and not _is_known(url):
                continue
            value = _known(value)  # the same, read
        found[name] = value
    return found


def _stamp(text: str) -> dict[str, int]:
    fraction = _FRACTION.fullmatch(text, _SECOND)
    if fraction is None:
        raise _Unusual(text)
    return {"seconds": _seconds(text[:_SECOND]), "nanos": int((fraction[1] or "0").ljust(9, "0"))}


@lru_cache(maxsize=64)
def _seconds(text: str) -> int:
    """Of a time without its fraction, which many flows share."""
    if text[10] != "T":
        raise _Unusual(text)
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())
