"""Messages as JSON, as protojson writes them with proto names: a writer of our own, which is many times faster.

Numbers of 64 bits are strings, enumerations names, times RFC 3339 with 0, 3, 6 or 9 digits, wrappers the values in
them; what has its default value is left out. Characters that a terminal would act upon are escaped.
"""

import math
from base64 import b64encode
from collections.abc import Callable, Mapping
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from cplane.hubble.cli.times import PROTOJSON, TimeText

Write = Callable[[Any], str]  # Any: what the field holds

_WRAPPERS: Final = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
_LARGE: Final = frozenset(
    getattr(FieldDescriptor, f"TYPE_{name}") for name in ("INT64", "UINT64", "SINT64", "FIXED64", "SFIXED64")
)


def quoted(text: str) -> str:
    """A JSON string."""
    encoded: str = encode_basestring(text)
    if encoded.isprintable():
        return encoded
    return "".join(c if c.isprintable() else _escaped(c) for c in encoded)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _real(number: float) -> str:
    """A floating-point number as Go writes it: an exponent only for the very large and the very small."""
    if math.isnan(number):
        return '"NaN"'
    if math.isinf(number):
        return '"Infinity"' if number > 0 else '"-Infinity"'
    if number and not 1e-6 <= abs(number) < 1e21:
        mantissa, _, exponent = repr(number).partition("e")
        return f"{mantissa}e{exponent}"
    return format(Decimal(repr(number)), "f").removesuffix(".0")


class Writer:
    """Writes messages of any type. Remembers how the fields of a type are written."""

    def __init__(self) -> None:
        self._time = TimeText(PROTOJSON, strict=True)
        self._types: dict[str, dict[int, tuple[str, Write]]] = {}

    def message(self, message: Message, instead: Mapping[str, str] | None = None) -> str:
        """The message. `instead`: JSON for fields that are set, in place of what they hold."""
        fields = self._fields(message.DESCRIPTOR)  # type: ignore[arg-type]  # the C twin of that class
        members = []
        for field, value in message.ListFields():
            name, write = fields[field.number]
            given = instead.get(field.name) if instead else None
            members.append(name + (write(value) if given is None else given))
        return f"{{{','.join(members)}}}"

    def _fields(self, descriptor: Descriptor) -> dict[int, tuple[str, Write]]:
        known = self._types.get(descriptor.full_name)
        if known is None:
            known = {one.number: (f"{quoted(one.name)}:", self._field(one)) for one in descriptor.fields}
            self._types[descriptor.full_name] = known
        return known

    def _field(self, field: FieldDescriptor) -> Write:
        one = self._single(field)
        if not field.is_repeated:
            return one
        assert not (field.message_type and field.message_type.GetOptions().map_entry), f"{field.full_name} is a map"
        return lambda values: f"[{','.join(map(one, values))}]"

    def _single(self, field: FieldDescriptor) -> Write:
        if field.message_type is not None:
            return self._nested(field.message_type)
        if field.enum_type is not None:
            return _enumeration(field.enum_type)
        if field.type in _LARGE:
            return lambda number: f'"{number}"'
        match field.type:
            case FieldDescriptor.TYPE_STRING:
                return quoted
            case FieldDescriptor.TYPE_BOOL:
                return lambda value: "true" if value else "false"
            case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
                return _real
            case FieldDescriptor.TYPE_BYTES:
                return lambda data: f'"{b64encode(data).decode()}"'
        return str

    def _nested(self, descriptor: Descriptor) -> Write:
        name = descriptor.full_name
        if name in _WRAPPERS:
            write = self._single(descriptor.fields_by_name["value"])
            return lambda wrapper: write(wrapper.value)
        if name == "google.protobuf.Timestamp":
            return lambda stamp: f'"{self._time(stamp.seconds, stamp.nanos)}"'
        return _any if name == "google.protobuf.Any" else self.message


def _enumeration(kind: EnumDescriptor) -> Write:
    """The name of a value, or the number of one that has none here."""
    names = {value.number: quoted(value.name) for value in reversed(kind.values)}
    return lambda number: names.get(number) or str(number)


def _any(packed: Any) -> str:  # noqa: ANN401  # whose class has no name in its stubs
    """What is packed, where it is of a type that we know; else its bytes. A log position is a text, see `origin`."""
    import json

    from google.protobuf import json_format
    from google.protobuf.message import DecodeError

    from cplane.hubble.origin import packed_json

    try:
        position = packed_json(packed)
    except DecodeError:
        position = None
    if position is not None:
        return position
    try:
        content = json_format.MessageToDict(packed, preserving_proto_field_name=True)
    except (TypeError, json_format.Error, DecodeError):
        content = {"@type": packed.type_url, "value": b64encode(packed.value).decode()}
    return json.dumps(content, ensure_ascii=True, separators=(",", ":"))
