"""One call on a server: its bounds, its task, its end.

grpclib cancels a handler with `task.cancel()` when the client goes, the deadline passes or the connection
breaks. Such a cancel breaks anyio's shields and abandons work in threads. So the body of every call runs as a
child of the server's task group, and the cancel becomes the cancellation of the body's scope and a wait for
its end.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import anyio
from anyio.abc import TaskGroup
from grpclib.const import Status
from grpclib.events import RecvRequest
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.server import Stream
from h2.exceptions import ProtocolError, StreamClosedError

from cplane.transport.actor import actor_of

AnyStream = Stream[object, object]
Body = Callable[[AnyStream], Awaitable[None]]

_FRAME_HEADER: Final = 5  # bytes: a compression flag and the length, before every message
_LARGE: Final = 1 << 20
_call: ContextVar[AnyStream] = ContextVar("call")


@dataclass(frozen=True)
class Limits:
    """What one client may take. Beyond `connections` new ones are closed at once."""

    message_bytes: int = 16 << 20
    large_messages: int = 4  # requests over 1 MiB that are held at a time; more are refused
    request_s: float = 30.0  # until the request of a call that streams nothing has arrived
    connections: int = 256


@dataclass(frozen=True)
class Refusal:
    """How an error is told to the client: status, text, and trailers (`-bin` keys have bytes)."""

    status: Status
    message: str
    trailers: Mapping[str, str | bytes] = field(default_factory=dict)


Refuse = Callable[[Exception], Refusal | None]


def refuse_nothing(_error: Exception) -> None:
    """Every error is a bug: it is logged and the client reads `UNKNOWN`."""


def caller() -> str:
    """Who asked for the call that this task works on, as `actor_of` writes it. Only inside a call's body."""
    return actor_of(_call.get())


@dataclass
class _Outcome:
    """How a body ended; `done` is set last."""

    done: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Exception | None = None


class Calls:
    """Runs the bodies of calls as children of `group`."""

    def __init__(self, group: TaskGroup, limits: Limits, refuse: Refuse) -> None:
        self._group, self._limits, self._refuse = group, limits, refuse
        self._large_held = 0

    async def on_request(self, event: RecvRequest) -> None:
        """What grpclib dispatches before it runs a handler: the handler is ours from here on."""
        event.method_func = partial(self._run, event.method_func)

    async def _run(self, body: Body, stream: AnyStream) -> None:
        """The grpclib task: it waits for the body and passes on how it ended."""
        outcome, scope = _Outcome(), anyio.CancelScope()
        intake = _Intake(self, stream, scope)
        _call.set(stream)  # the child task starts with a copy of this context
        self._group.start_soon(self._body, body, stream, scope, outcome)
        try:
            await outcome.done.wait()
        except asyncio.CancelledError:
            scope.cancel()
            while not outcome.done.is_set():
                try:
                    await outcome.done.wait()
                except asyncio.CancelledError:
                    continue  # one end of a call may cancel twice; the first one is passed on below
            raise
        finally:
            intake.close()
        if intake.late:
            message = f"the request did not arrive within {self._limits.request_s:g} s"
            raise GRPCError(Status.DEADLINE_EXCEEDED, message)
        if outcome.failure is not None:
            raise outcome.failure

    async def _body(self, body: Body, stream: AnyStream, scope: anyio.CancelScope, outcome: _Outcome) -> None:
        outcome.failure = GRPCError(Status.UNAVAILABLE, "the server is shutting down")
        try:
            with scope:
                await body(stream)
                outcome.failure = None
        except Exception as error:  # noqa: BLE001  # nothing is swallowed: the grpclib task raises it
            outcome.failure = await self._told(error, stream)
        finally:
            outcome.done.set()

    async def _told(self, error: Exception, stream: AnyStream) -> Exception | None:
        """What is left to raise after the client was told; None: nothing."""
        if isinstance(error, StreamClosedError | StreamTerminatedError):
            return GRPCError(Status.CANCELLED, "the client has gone")
        refusal = None if isinstance(error, GRPCError) else self._refuse(error)
        if refusal is None:
            return error
        try:
            await stream.send_trailing_metadata(
                status=refusal.status, status_message=refusal.message, metadata=refusal.trailers
            )
        except (ProtocolError, StreamTerminatedError):
            return GRPCError(Status.CANCELLED, "the client has gone")
        return None

    def take_large(self) -> bool:
        """Whether there was room for one more large message; it is held then."""
        if self._large_held >= self._limits.large_messages:
            return False
        self._large_held += 1
        return True

    def give_back_large(self, count: int) -> None:
        """That many large messages are not held any more."""
        self._large_held -= count

    @property
    def limits(self) -> Limits:
        """What one client may take."""
        return self._limits


class _Intake:
    """Reads a request for grpclib, within limits: a frame header and a message in turn.

    `late` says that it did not arrive in time; the body's scope has been cancelled then. A timer of the loop does
    that and not a scope of its own around each read, which would cost every call a tenth of its time.
    """

    def __init__(self, calls: Calls, stream: AnyStream, scope: anyio.CancelScope) -> None:
        wire = stream._stream  # noqa: SLF001  # grpclib has no message limit and no place to hang one in
        self._calls, self._read, self._scope = calls, wire.recv_data, scope
        self._idles = stream._cardinality.client_streaming  # noqa: SLF001  # such a call may pause between messages
        self._at_header, self._first, self._large, self.late = True, True, 0, False
        self._timer: asyncio.TimerHandle | None = None
        if not self._idles:
            self._arm()
        wire.recv_data = self.recv_data  # type: ignore[method-assign]  # of this one call

    async def recv_data(self, size: int) -> bytes:
        """`size` bytes of the request, or none at its end. Raises GRPCError for what is not acceptable."""
        at_header, self._at_header = self._at_header, not self._at_header
        try:
            data = await self._read(size)
        except AssertionError:
            raise GRPCError(Status.INVALID_ARGUMENT, "the request ends in the middle of a message") from None
        if at_header:
            self._check(data)
        else:
            self._disarm()
        return data

    def close(self) -> None:
        """The call is over: what it held of the limits is free again."""
        self._disarm()
        self._calls.give_back_large(self._large)
        self._large = 0

    def _check(self, header: bytes) -> None:
        first, self._first = self._first, False
        if not header:
            if first and not self._idles:
                raise GRPCError(Status.INVALID_ARGUMENT, "the request has no message")
            return
        if header[0]:
            raise GRPCError(Status.UNIMPLEMENTED, "compressed messages are not accepted: send them uncompressed")
        length = int.from_bytes(header[1:_FRAME_HEADER], "big")
        limit = self._calls.limits.message_bytes
        if length > limit:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, f"the request has {length} bytes; the limit is {limit}")
        if length > _LARGE:
            if not self._calls.take_large():
                raise GRPCError(Status.RESOURCE_EXHAUSTED, "too many large requests at a time: retry later")
            self._large += 1
        self._arm()

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._calls.limits.request_s, self._expire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self.late = True
        self._scope.cancel()
