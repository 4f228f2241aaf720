"""One call for flows: asked of every peer, merged, and passed on.

A task for each peer reads, cuts and hands over, and waits while too much of its peer is held. The call's own task
merges and writes. A client that does not read stops its own call, and through the peers' windows what they send for it.
"""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.exceptions import ProtocolError

from cplane.hubble.calls import Clock
from cplane.hubble.relay.dial import FAILURES, room_for, told
from cplane.hubble.relay.limit import All, First, Last, Limit
from cplane.hubble.relay.merge import Merge, Waiting
from cplane.hubble.relay.notices import Errors, Notices
from cplane.hubble.relay.pool import Link, Pool
from cplane.hubble.relay.scan import Cutter
from cplane.pb.observer import observer_pb2 as pb
from cplane.pb.relay import relay_pb2
from cplane.transport.backoff import Backoff
from cplane.transport.batches import chunks, widen
from cplane.transport.client import ClientChannel

Send = Callable[[bytes], Awaitable[None]]

_HELD_MAX: Final = 256 << 10  # bytes of a peer beyond which no more is taken from it
_FEW: Final = 64  # messages that are not worth a write of their own, if more come within the pause
_PAUSE_S: Final = 0.002
_UPDATE_S: Final = 2.0  # how often new peers are looked for
_RETRY_S: Final = 30.0  # the longest pause before a peer that failed in this call is asked again
_ALL: Final = (1 << 63) - 1  # numbers from here on mean all of them
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long peers are waited for. `silent_s`: one that gives nothing of the past for so long is given up."""

    window: int = 100
    drain_s: float = 1.0
    silent_s: float = 10.0


def limit_of(request: pb.GetFlowsRequest) -> Limit:
    """What of the merged flows the client gets. A follower gets the last `number` of each peer, and then all."""
    if not request.number or request.follow or request.number >= _ALL:
        return All()
    # behind `since` peers begin at its time, and give the first ones from there
    return (First if request.first or request.HasField("since") else Last)(request.number)


@dataclass(slots=True)
class _Member:
    """A peer's part in a call."""

    link: Link
    backoff: Backoff
    began_ns: int = 0
    reading: bool = False
    again_ns: int = 0  # when it may be asked again
    newest_ns: int | None = None  # time of the newest message that it gave
    refusal: str | None = None  # the request is not acceptable, it says


class FlowsCall:
    """One call. `send` writes bytes to the client, and waits while it does not read."""

    def __init__(
        self, request: pb.GetFlowsRequest, pool: Pool, clock: Clock, notices: Notices, patience: Patience, send: Send
    ) -> None:
        self._request, self._pool, self._clock, self._send = request, pool, clock, send
        self._notices, self._patience = notices, patience
        waiting = Waiting(
            window=patience.window,
            drain_ns=int(patience.drain_s * _NS),
            follow=request.follow,
            history=bool(request.number) or request.HasField("since"),
        )
        self._merge = Merge(waiting)
        self._limit = limit_of(request)
        self._errors = Errors(notices)
        self._outbox: list[bytes] = []  # notices
        self._members: dict[str, _Member] = {}
        self._wake, self._room = anyio.Event(), anyio.Event()
        self._away_ns = 0  # for which the client has not read
        self._left_ns: int | None = None  # since when it does not read
        self._heard = False

    async def run(self) -> None:
        """The call is answered. Raises GRPCError when no peer accepts the request, or when the client has gone."""
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            self._begin(tasks)
            if self._request.follow:
                tasks.start_soon(self._watch, tasks)
            try:
                await self._write()
            except (GRPCError, StreamTerminatedError, ProtocolError) as error:
                failure = error  # out of the group, which would wrap it
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def _now_ns(self) -> int:
        """A clock that stands still while the client does not read."""
        return (self._left_ns if self._left_ns is not None else self._clock.monotonic_ns()) - self._away_ns

    def _rouse(self) -> None:
        self._wake.set()

    def _begin(self, tasks: TaskGroup) -> None:
        """Every peer that is connected is asked, and the client is told who they are."""
        connected = self._pool.connected
        away = self._pool.links.keys() - connected.keys()
        present_ns = self._clock.now_ns()
        self._outbox += self._notices.state(relay_pb2.NODE_CONNECTED, connected, present_ns)
        self._outbox += self._notices.state(relay_pb2.NODE_UNAVAILABLE, away, present_ns)
        for link in connected.values():
            self._ask(link, tasks)

    def _ask(self, link: Link, tasks: TaskGroup) -> None:
        channel = link.channel
        assert channel is not None, f"{link.name} is not connected"
        member = self._members.setdefault(link.name, _Member(link, Backoff(_RETRY_S)))
        member.link, member.reading, member.began_ns = link, True, self._clock.monotonic_ns()
        self._merge.open(link.name, self._now_ns())
        tasks.start_soon(self._read, member, channel)

    async def _watch(self, tasks: TaskGroup) -> None:
        """Peers that come are asked too, those that failed again, and those that leave are told of."""
        while True:
            with anyio.move_on_after(_UPDATE_S):
                await self._pool.changed.wait()
            connected, present_ns = self._pool.connected, self._clock.now_ns()
            gone = self._members.keys() - self._pool.links.keys()
            for name in gone:
                del self._members[name]
            self._outbox += self._notices.state(relay_pb2.NODE_GONE, gone, present_ns)
            new = [
                link
                for name, link in connected.items()
                if not self._merge.knows(name) and self._may_ask(self._members.get(name))
            ]
            for link in new:
                self._ask(link, tasks)
            self._outbox += self._notices.state(relay_pb2.NODE_CONNECTED, [one.name for one in new], present_ns)
            if self._outbox:
                self._rouse()

    def _may_ask(self, member: _Member | None) -> bool:
        return member is None or (not member.reading and self._clock.monotonic_ns() >= member.again_ns)

    async def _read(self, member: _Member, channel: ClientChannel) -> None:
        """One stream of a peer, from its request to its end."""
        name = member.link.name
        failure: BaseException | None = None
        try:
            await self._pass_on(member, channel)
        except FAILURES as error:
            failure = error
        member.reading = False
        self._merge.close(name)
        if self._pool.links.get(name) is member.link and not _is_end(failure):  # one that is gone is told as such
            self._failed(member, failure)
        self._rouse()

    def _failed(self, member: _Member, failure: BaseException | None) -> None:
        now_ns = self._clock.monotonic_ns()
        pause_s = member.backoff.after((now_ns - member.began_ns) / _NS, 0.0)
        member.again_ns = now_ns + int(pause_s * _NS)
        if failure is None:
            return  # it ended a stream that it should go on with: it is asked again
        message = told(failure)
        if isinstance(failure, GRPCError) and failure.status is Status.INVALID_ARGUMENT:
            member.refusal = message
        else:
            member.link.doubts.notify()
        self._outbox += self._errors.add(member.link.name, message, self._now_ns(), self._clock.now_ns())

    async def _pass_on(self, member: _Member, channel: ClientChannel) -> None:
        name, cutter, merge = member.link.name, Cutter(), self._merge
        call = channel.request(
            "/observer.Observer/GetFlows", Cardinality.UNARY_STREAM, pb.GetFlowsRequest, pb.GetFlowsResponse
        )
        async with call as stream:
            await stream.send_message(self._request_to(member), end=True)
            widen(stream, room_for(len(self._pool.links)))
            async with aclosing(chunks(stream)) as arriving:
                while parts := await self._next(arriving.__anext__):
                    batch = cutter.feed(*parts)
                    if batch is not None:
                        merge.push(name, batch, self._now_ns(), self._clock.now_ns())
                        member.newest_ns = merge.newest_ns(name)
                        member.refusal, self._heard = None, True
                        self._rouse()
                    while merge.size(name) > _HELD_MAX:
                        await self._room.wait()
            cutter.finish()

    async def _next(self, read: Callable[[], Awaitable[list[bytes]]]) -> list[bytes]:
        """More of a stream; nothing at its end. Raises TimeoutError where something of the past must come."""
        try:
            if self._request.follow:
                return await read()
            with anyio.fail_after(self._patience.silent_s):
                return await read()
        except StopAsyncIteration:
            return []
        except TimeoutError:
            raise TimeoutError(f"it gave nothing for {self._patience.silent_s:g} s") from None

    def _request_to(self, member: _Member) -> pb.GetFlowsRequest:
        """What the client asked; of a peer that is asked again, what it did not give yet."""
        if member.newest_ns is None:
            return self._request
        request = pb.GetFlowsRequest()
        request.CopyFrom(self._request)
        request.number = 0
        request.since.FromNanoseconds(member.newest_ns + 1)
        return request

    async def _write(self) -> None:
        """What is merged goes to the client, until all has. Raises GRPCError, and what its going away raises."""
        while not self._limit.over:
            now_ns = self._now_ns()
            self._outbox += self._errors.due(now_ns, self._clock.now_ns())
            merged = self._merge.take(now_ns)
            notices, self._outbox = self._outbox, []
            given = await self._pass(notices)
            if merged is not None:
                self._room.set()
                self._room = anyio.Event()
                given = await self._pass(self._limit.take(merged)) or given
            if given:
                few = merged is None or len(merged) < _FEW
                if few and self._merge.held < _FEW:  # else the next word of a peer frees more
                    await anyio.sleep(_PAUSE_S)
            elif merged is None:
                self._check_refusals()
                if not self._request.follow and not len(self._merge):
                    break
                await self._sleep()
        await self._pass(self._limit.rest())
        await self._pass(self._errors.flush(self._clock.now_ns()))

    async def _sleep(self) -> None:
        """Until there is something to do."""
        now_ns = self._now_ns()
        deadlines = [self._merge.deadline_ns(now_ns), self._errors.deadline_ns]
        left_ns = min((one - now_ns for one in deadlines if one is not None), default=None)
        with anyio.move_on_after(None if left_ns is None else max(left_ns, 0) / _NS):
            await self._wake.wait()
        self._wake = anyio.Event()

    async def _pass(self, pieces: Iterable[bytes]) -> bool:
        """The client has these, or its side of the connection has; whether there were any."""
        given = False
        for piece in pieces:
            given = True
            self._left_ns = self._clock.monotonic_ns()
            try:
                await self._send(piece)
                await anyio.lowlevel.checkpoint()  # a write that need not wait would starve the others
            finally:
                self._away_ns += self._clock.monotonic_ns() - self._left_ns
                self._left_ns = None
        return given

    def _check_refusals(self) -> None:
        """Raises GRPCError when there are peers, and none accepts the request: then it is the client who is wrong."""
        members = self._members.values()
        refusals = [one.refusal for one in members if one.refusal is not None]
        if refusals and len(refusals) == len(members) and not self._heard:
            raise GRPCError(Status.INVALID_ARGUMENT, refusals[0])


def _is_end(failure: BaseException | None) -> bool:
    """Whether a peer ended its stream as it should, or was told to."""
    return isinstance(failure, GRPCError) and failure.status is Status.CANCELLED
