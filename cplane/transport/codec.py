"""Messages to bytes and back, for betterproto2 and upb messages alike."""

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
