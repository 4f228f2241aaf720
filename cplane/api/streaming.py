"""Answers that are streams."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import anyio.lowlevel
from betterproto2.grpclib import ServiceBase
from grpclib.server import Stream


class StreamingService(ServiceBase):
    """Closes the generator of a stream when the call ends, and lets others work between two messages.

    betterproto2 leaves a generator to the garbage collector when sending fails. And grpclib does not suspend
    while the client keeps up, so that one fast reader would keep everybody else waiting.
    """

    async def _call_rpc_handler_server_stream(
        self,
        handler: Callable[[Any], AsyncGenerator[Any, None]],  # Any: messages are the service's business
        stream: Stream[Any, Any],
        request: Any,  # noqa: ANN401  # as above
    ) -> None:
        async with aclosing(handler(request)) as responses:
            async for response in responses:
                await stream.send_message(response)
                await anyio.lowlevel.checkpoint()
