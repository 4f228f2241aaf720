"""A file's descriptor as the proto file that it came from, without its comments and options."""

from collections.abc import Iterator
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)

from cplane.hubble.cli.terminal import escape

_INDENT: Final = "  "
_PREFIX: Final = "TYPE_"
_MAPPED: Final = 2  # fields of the entry that a map is made of: key and value


def proto_text(file: FileDescriptorProto) -> str:
    """The file in the language of proto files."""
    parts: list[list[str]] = [[f"// {file.name}"], [f'syntax = "{file.syntax or "proto2"}";']]
    parts += [[f"package {file.package};"]] if file.package else []
    parts += [[f'import "{name}";' for name in file.dependency]] if file.dependency else []
    parts += [list(_service(one)) for one in file.service]
    parts += [list(_message(one)) for one in file.message_type]
    parts += [list(_enum(one)) for one in file.enum_type]
    return "\n\n".join("\n".join(map(escape, part)) for part in parts) + "\n"


def _service(one: ServiceDescriptorProto) -> Iterator[str]:
    yield f"service {one.name} {{"
    for method in one.method:
        asked = ("stream " if method.client_streaming else "") + _name(method.input_type)
        answered = ("stream " if method.server_streaming else "") + _name(method.output_type)
        yield f"{_INDENT}rpc {method.name}({asked}) returns ({answered});"
    yield "}"


def _message(one: DescriptorProto) -> Iterator[str]:
    entries = {entry.name: entry for entry in one.nested_type if entry.options.map_entry}
    yield f"message {one.name} {{"
    for nested in one.nested_type:
        if nested.name not in entries:
            yield from _indented(_message(nested))
    for enum in one.enum_type:
        yield from _indented(_enum(enum))
    for span in one.reserved_range:
        last = span.end - 1
        yield f"{_INDENT}reserved {span.start}{f' to {last}' if last != span.start else ''};"
    started = ""
    for field in one.field:
        choice = (
            "" if field.proto3_optional or not field.HasField("oneof_index") else one.oneof_decl[field.oneof_index].name
        )
        if started and choice != started:
            yield f"{_INDENT}}}"
        if choice and choice != started:
            yield f"{_INDENT}oneof {choice} {{"
        started = choice
        yield (_INDENT * 2 if choice else _INDENT) + _field(field, entries)
    if started:
        yield f"{_INDENT}}}"
    yield "}"


def _field(field: FieldDescriptorProto, entries: dict[str, DescriptorProto]) -> str:
    entry = entries.get(field.type_name.rpartition(".")[2]) if field.type_name else None
    end = f"{field.name} = {field.number}{' [deprecated = true]' if field.options.deprecated else ''};"
    if entry is not None and len(entry.field) == _MAPPED:
        return f"map<{_type(entry.field[0])}, {_type(entry.field[1])}> {end}"
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    prefix = "repeated " if repeated else "optional " if field.proto3_optional else ""
    return f"{prefix}{_type(field)} {end}"


def _type(field: FieldDescriptorProto) -> str:
    if field.type_name:
        return _name(field.type_name)
    names = {number: name for name, number in FieldDescriptorProto.Type.items()}
    return names.get(field.type, str(field.type)).removeprefix(_PREFIX).lower()


def _enum(one: EnumDescriptorProto) -> Iterator[str]:
    yield f"enum {one.name} {{"
    if one.options.allow_alias:
        yield f"{_INDENT}option allow_alias = true;"
    for value in one.value:
        yield f"{_INDENT}{value.name} = {value.number}{' [deprecated = true]' if value.options.deprecated else ''};"
    yield "}"


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"{_INDENT}{line}" for line in lines)


def _name(full: str) -> str:
    return full.removeprefix(".")
