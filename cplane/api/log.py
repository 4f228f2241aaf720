"""The event log over gRPC."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from cplane.api.errors import NotHere
from cplane.api.ports import Agent, Engine
from cplane.api.streaming import StreamingService
from cplane.errors import Rejected
from cplane.events.catalog import WIRE_NAME
from cplane.events.envelope import Envelope
from cplane.events.summary import summary
from cplane.pb.cplane.admin import v1 as pb

_BATCH: Final = 25  # events; about 5 ms of encoding, during which nobody else is served


class AmbiguousStart(Rejected):
    """A request says in two ways where to start."""

    code = "log.ambiguous_start"

    def __str__(self) -> str:
        return "`from` and `last` both say where to start: give one of them"


class LogService(StreamingService, pb.LogServiceBase):
    """Shows the log and checks it."""

    def __init__(self, engine: Engine, agent: Agent) -> None:
        self._engine, self._agent = engine, agent

    async def tail(self, message: pb.TailLogRequest) -> AsyncIterator[pb.TailLogResponse]:
        """The events from a position on, and with `follow` those to come."""
        if message.from_ and message.last:
            raise AmbiguousStart
        log = self._engine.log
        after = max(0, log.head - message.last) if message.last else max(0, message.from_ - 1)
        end = log.head
        while after < end and (batch := await log.read(after=after, limit=_BATCH)):
            yield _to_pb([entry for entry in batch if message.follow or entry.position <= end])
            after = batch[-1].position
        if not message.follow:
            return
        source = log.tail(max(after, 0))
        assert isinstance(source, AsyncGenerator), "a tail ends by being closed"
        async with aclosing(source) as batches:
            async for batch in batches:
                for start in range(0, len(batch), _BATCH):
                    yield _to_pb(batch[start : start + _BATCH])

    async def verify(self, message: pb.VerifyLogRequest) -> pb.VerifyLogResponse:
        """Whether the stored log is sound. Raises NotHere when it is not stored."""
        if self._agent.verify is None:
            raise NotHere("the log of this agent is kept in memory: there is nothing stored to verify")
        found = await self._agent.verify()
        return pb.VerifyLogResponse(
            ok=not found.fault,
            events=found.events,
            digest=found.digest,
            position=found.position,
            fault=found.fault,
            start=found.start,
            start_digest=found.start_digest,
        )


def _to_pb(batch: Sequence[Envelope]) -> pb.TailLogResponse:
    return pb.TailLogResponse(entries=[_entry(one) for one in batch])


def _entry(one: Envelope) -> pb.LogEntry:
    name, schema = WIRE_NAME[type(one.event)]
    return pb.LogEntry(
        position=one.position,
        stream=one.stream,
        version=one.version,
        type=name,
        schema=schema,
        recorded_at_ns=one.recorded_at_ns,
        actor=one.actor,
        cause=one.cause,
        data=msgspec.json.encode(one.event).decode(),
        summary=summary(one.event),
        digest=one.digest.hex(),
    )
