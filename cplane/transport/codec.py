"""Messages to bytes and back, for betterproto2 and upb messages alike."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Final

from grpclib.const import Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError


class Codec(CodecBase):
    """Calls the message's own `SerializeToString` and `FromString`; bytes pass through as an encoded message.

    A request that does not decode is the client's fault: INVALID_ARGUMENT, not an error of the server.
    """

    __content_subtype__ = "proto"

    def encode(self, message: object, message_type: object) -> bytes:
        """The wire form; raises TypeError for a message of another type (a bug)."""
        if isinstance(message, bytes):
            return message
        if not isinstance(message_type, type) or not isinstance(message, message_type):
            raise TypeError(f"a {message_type!r} must be sent here, not a {type(message)!r}")
        encoded: bytes = message.SerializeToString()  # type: ignore[attr-defined]  # both libraries have it
        return encoded

    def decode(self, data: bytes, message_type: object) -> object:
        """The message. Raises GRPCError(INVALID_ARGUMENT)."""
        try:
            return message_type.FromString(data)  # type: ignore[attr-defined]  # both libraries have it
        except Exception as error:  # the libraries raise a dozen kinds on bytes from outside
            raise GRPCError(Status.INVALID_ARGUMENT, f"the message cannot be decoded: {error}") from error


class RequestCodec(Codec):
    """Takes bytes from whoever may connect.

    betterproto2 takes a field as it comes, so text where a number belongs would reach the engine as text. upb leaves
    out what is of another type, as protobuf wants it; that the client is told is better where it is ours, too.
    """

    def decode(self, data: bytes, message_type: object) -> object:
        """The message, whose fields have the types that are declared. Raises GRPCError(INVALID_ARGUMENT)."""
        message = super().decode(data, message_type)
        field = _misread(message)
        if field:
            raise GRPCError(Status.INVALID_ARGUMENT, f"the message cannot be decoded: {field} is of another type")
        return message


_WHOLE: Final = ("int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32", "sfixed64")
_TYPES: Final[Mapping[str, type]] = {
    **dict.fromkeys((*_WHOLE, "enum"), int),
    **dict.fromkeys(("float", "double"), float),
    "bool": bool,
    "string": str,
    "bytes": bytes,
    "map": dict,
}


def _misread(message: object) -> str:
    """The path of a field whose value is not of the type that is declared; empty: there is none."""
    if not is_dataclass(message):
        return ""  # of upb, which has looked already
    for field in fields(message):
        declared, value = field.metadata["betterproto"], getattr(message, field.name)
        for one in value if declared.repeated else [value]:
            if declared.proto_type != "message":
                wrong = "" if one is None or isinstance(one, _TYPES[declared.proto_type]) else field.name
            elif one is None or is_dataclass(one):
                inner = _misread(one)
                wrong = f"{field.name}.{inner}" if inner else ""
            else:
                wrong = field.name
            if wrong:
                return wrong
    return ""
