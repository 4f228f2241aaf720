"""A server's stream on its way to a printer."""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message
from grpclib.client import UnaryStreamMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from cplane.hubble.cli.session import Session
from cplane.transport.batches import batches
from cplane.transport.client import ClientChannel

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


async def stream_to(
    show: Callable[[list[bytes]], None],
    session: Session,
    method: str,
    request: Request,
    response: type[Response],
    channel: ClientChannel,
) -> None:
    """Everything that the server sends was shown, encoded as it comes, until it ended the stream."""
    call: UnaryStreamMethod[Request, Response] = UnaryStreamMethod(channel, method, type(request), response)
    try:
        async with call.open(metadata=session.metadata) as stream:
            await stream.send_message(request, end=True)
            await stream.recv_initial_metadata()
            session.compare_versions(stream.initial_metadata or {})
            async for batch in batches(stream):
                show(batch)
    except GRPCError as error:
        if error.status is not Status.CANCELLED:  # the server's way to say that this is enough
            raise
