"""Questions about another time over gRPC: answered as documents, which are worked out beside the event loop."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from typing import Final, TypeVar

import anyio
import msgspec
from anyio import to_thread

from cplane.api.errors import NotHere
from cplane.api.ports import Agent, Engine
from cplane.api.streaming import StreamingService
from cplane.config.documents import located, read_objects
from cplane.deciders.policy import InvalidDocuments
from cplane.deciders.world import World
from cplane.errors import NotFound
from cplane.pb.cplane.admin import v1 as pb
from cplane.timetravel.audit import Asked, Entries, audit
from cplane.timetravel.bisect import TableQuestion, bisect, table_question
from cplane.timetravel.checkpoint import checkpoint
from cplane.timetravel.diff import diff
from cplane.timetravel.exported import export
from cplane.timetravel.flows import RecordedFlow, pick_flow
from cplane.timetravel.fork import Fork, ref_of
from cplane.timetravel.history import History
from cplane.timetravel.preview import endpoints_at, preview
from cplane.timetravel.replay import replay
from cplane.timetravel.rollback import Target, done, target, told, trial
from cplane.timetravel.seen import Seen, Sight, span_of
from cplane.timetravel.steps import Steps, span, steps
from cplane.timetravel.suggest import suggest
from cplane.timetravel.traffic import Question as TrafficQuestion
from cplane.timetravel.traffic import question_of
from cplane.timetravel.why import why, why_flow
from cplane.transport.calls import caller

QUESTIONS_MAX: Final = 2  # that are worked on at once; a further one waits
_STEPS: Final = 100  # in one message

T = TypeVar("T")

Question = Callable[[History, int], msgspec.Struct]
"""What to find out from the history; the number is the present, in UTC nanoseconds."""


class NoSuchFlow(NotFound):
    """The agent has no flow with this uuid."""

    code = "history.no_such_flow"

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid

    def __str__(self) -> str:
        return (
            f"this agent has no flow {self.uuid!r} in its ring or its archive, any more or at all; save flows with "
            "hubble observe -o jsonpb, and give the file as the flow"
        )


class TimeTravelService(StreamingService, pb.TimeTravelServiceBase):
    """Answers from the log, each question by a reader of its own."""

    def __init__(self, engine: Engine, agent: Agent) -> None:
        self._engine, self._agent = engine, agent
        self._limiter = anyio.CapacityLimiter(QUESTIONS_MAX)

    async def replay(self, message: pb.ReplayRequest) -> pb.Document:
        """What was so. Raises NoSuchMoment, NothingToShow, NoSuchEndpoint."""
        return await self._answer(partial(replay, to=message.to, show=message.show, endpoint=message.endpoint))

    async def diff(self, message: pb.DiffRequest) -> pb.Document:
        """What differs. Raises NoSuchMoment, NothingToShow."""
        return await self._answer(partial(diff, before=message.before, after=message.after, tables=message.tables))

    async def why(self, message: pb.WhyRequest) -> pb.Document:
        """Why. Raises NoSuchMoment, BadQuestion, NoSuchEnd, NoSuchFlow."""
        flow = await self._in_thread(partial(self._flow, message))
        if flow is not None:
            return await self._answer(lambda history, _: why_flow(history, flow))
        return await self._answer(partial(why, question=_traffic(message.traffic), at=message.at))

    async def bisect(self, message: pb.BisectRequest) -> pb.Document:
        """Since when. Raises NoSuchMoment, BadQuestion, NothingToShow, BadPredicate."""
        asked: TrafficQuestion | TableQuestion
        if message.table:
            asked = table_question(message.table, message.has, message.count_gt)
        else:
            asked = _traffic(message.traffic)
        return await self._answer(partial(bisect, question=asked, good=message.good, bad=message.bad))

    async def steps(self, message: pb.StepsRequest) -> AsyncIterator[pb.Document]:
        """Event by event. Raises NoSuchMoment, Backwards."""
        with ExitStack() as stack:
            history = await self._in_thread(partial(stack.enter_context, self._agent.history()))
            present = self._agent.clock.now_ns()
            first, last = await self._in_thread(partial(span, history, present, first=message.from_, last=message.to))
            following = steps(history, first, last)
            while found := await self._in_thread(partial(_some, following)):
                yield _document(Steps(to=last, steps=found))

    async def audit(self, message: pb.AuditRequest) -> AsyncIterator[pb.Document]:
        """Who changed what. Raises NoSuchMoment, UnknownKind."""
        names = Asked.__struct_fields__
        asked = Asked(**{name: getattr(message, name) for name in names})
        with ExitStack() as stack:
            history = await self._in_thread(partial(stack.enter_context, self._agent.history()))
            following = await self._in_thread(partial(audit, history, self._agent.clock.now_ns(), asked))
            while found := await self._in_thread(partial(_some, following)):
                yield _document(Entries(entries=found))

    async def rollback(self, message: pb.RollbackRequest) -> pb.Document:
        """What was wanted then is wanted. Raises NoSuchMoment, NothingToRestore, NoLongerAccepted."""
        goal = await self._in_thread(partial(self._target, message))
        before = self._engine.world
        if message.dry_run:
            return _document(await self._in_thread(partial(trial, goal, before)))
        committed = await self._engine.submit(goal.command, actor=caller(), cause=goal.cause)
        if not committed.events:
            return _document(told(goal, before, before, ()))
        # others may have changed something in between: what the events themselves changed is in the log
        return await self._answer(partial(done, goal=goal, events=len(committed.events), position=committed.position))

    async def checkpoint(self, message: pb.CheckpointRequest) -> pb.Document:
        """What the log says there, to be kept. Raises NoSuchMoment."""
        return await self._answer(partial(checkpoint, at=message.at or "head"))

    async def export(self, message: pb.ExportRequest) -> AsyncIterator[pb.Document]:
        """The log as text, as long as it was when this was asked. Raises NoSuchMoment."""
        with ExitStack() as stack:
            history = await self._in_thread(partial(stack.enter_context, self._agent.history()))
            present = self._agent.clock.now_ns()
            lines = await self._in_thread(partial(export, history, present, first=message.from_, last=message.to))
            while found := await self._in_thread(partial(_some, lines)):
                yield pb.Document(json=b"\n".join(found).decode())

    async def preview(self, message: pb.PreviewRequest) -> pb.Document:
        """What a change would do. Raises what an apply raises, and NoSuchMoment."""
        return await self._in_thread(partial(self._preview, message, self._engine.world))

    def _preview(self, message: pb.PreviewRequest, world: World) -> pb.Document:
        objects = read_objects(message.documents) if message.documents else ()
        now_ns = self._agent.clock.now_ns()
        if message.at:
            with self._agent.history() as history:
                world = history.moment(history.position_of(message.at, now_ns)).world
        try:
            fork = Fork(world, tuple(one.text for one in objects), tuple(map(ref_of, message.deleted)))
        except InvalidDocuments as invalid:
            raise located(invalid, objects) from None
        seen = self._seen(message.since, message.until, now_ns)
        if seen is None or not seen.window.flows:
            return _document(preview(fork, seen))
        with self._agent.history() as history:
            return _document(preview(fork, seen, endpoints_at(history, seen.window.first_ns)))

    async def suggest(self, message: pb.SuggestRequest) -> pb.Document:
        """Policies that allow what was seen. Raises NothingThere, NotHere."""
        return await self._in_thread(partial(self._suggest, message, self._engine.world))

    def _suggest(self, message: pb.SuggestRequest, world: World) -> pb.Document:
        found = self._seen(message.since, message.until, self._agent.clock.now_ns())
        if found is None:
            raise NotHere("this agent records no flows: there is nothing to learn from")
        return _document(
            suggest(
                world,
                found,
                namespace=message.namespace,
                include_denied=message.include_denied,
                ports_only=message.ports_only,
            )
        )

    def _seen(self, since: str, until: str, now_ns: int) -> Seen | None:
        if self._agent.seen is None:
            return None
        sight = Sight(*span_of(since, until, now_ns))
        self._agent.seen(sight)
        return sight.seen()

    def _target(self, message: pb.RollbackRequest) -> Target:
        with self._agent.history() as history:
            return target(history, self._agent.clock.now_ns(), to=message.to, only=message.only)

    def _flow(self, message: pb.WhyRequest) -> RecordedFlow | None:
        """The flow that is asked about, if it is one."""
        if message.flow_json:
            return pick_flow([message.flow_json.encode()], message.flow_uuid)
        if not message.flow_uuid:
            return None
        found = self._agent.flow(message.flow_uuid) if self._agent.flow is not None else None
        if found is None:
            raise NoSuchFlow(message.flow_uuid)
        return pick_flow([found], message.flow_uuid)

    async def _answer(self, question: Question) -> pb.Document:
        return await self._in_thread(partial(self._ask, question))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """What the call returns, which runs in a thread: the loop serves others meanwhile."""
        return await to_thread.run_sync(call, limiter=self._limiter)

    def _ask(self, question: Question) -> pb.Document:
        with self._agent.history() as history:
            return _document(question(history, self._agent.clock.now_ns()))


def _some(following: Iterator[T]) -> tuple[T, ...]:
    return tuple(islice(following, _STEPS))


def _document(answer: msgspec.Struct) -> pb.Document:
    return pb.Document(json=msgspec.json.encode(answer).decode())


def _traffic(asked: pb.TrafficQuestion | None) -> TrafficQuestion:
    """The question. Raises BadQuestion."""
    one = asked or pb.TrafficQuestion()
    return question_of(
        source=one.from_, destination=one.to, port=one.port, http=one.http, headers=one.headers, dns=one.dns
    )
