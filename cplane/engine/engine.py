"""Takes commands one at a time, makes their events durable, and keeps the datapath at the log's head."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from cplane.deciders.decider import Decision
from cplane.deciders.naming import called, objects_of
from cplane.deciders.world import Command, World, evolve, facts
from cplane.engine.ports import EventLog
from cplane.engine.reconcile import AnyDelta, AnyTable, AnyTarget, Reconciler, Round, nobody
from cplane.errors import Bug, CplaneError, Unavailable
from cplane.events.catalog import Event
from cplane.events.envelope import Proposed
from cplane.projections.policymap import PolicyMapProjection
from cplane.projections.tables import CAPACITY, UPSERT_ORDER, Tables
from cplane.reactors.reaction import settle
from cplane.telemetry.collector import without_collector
from cplane.telemetry.log import line, logger

COMMANDS_MAX: Final = 1024  # commands waiting for their turn; a further one waits to be taken in
REPLAY_BATCH: Final = 5_000
_LOOK_AGAIN_S: Final = 1.0  # after the log could not be read, for what it may have found out

log = logger("engine")


@dataclass(frozen=True, slots=True)
class Committed:
    """A command took effect: its events are durable, the last at `position`. No events: nothing had to change."""

    position: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one command changed: the worlds around it, its events, and what they change in each table."""

    before: World
    after: World
    events: tuple[Event, ...]
    deltas: Mapping[str, AnyDelta]


def tell_nobody(_turn: object) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A command that was not carried out: what it is called, which objects it names, who asked, and why not."""

    command: str
    objects: tuple[str, ...]
    actor: str
    cause: str
    error: CplaneError


@dataclass(slots=True)
class _Request:
    command: Command
    actor: str
    cause: str
    done: anyio.Event = field(default_factory=anyio.Event)
    outcome: Committed | CplaneError | None = None


class Engine:
    """One writer over one log. `run` serves `submit`, `drive` serves `wait`.

    `told` is called with every command that changed something, in order and once its events are durable, `refused` with
    every one that was not carried out. They must be quick and raise nothing: commands wait for them.
    """

    def __init__(
        self,
        event_log: EventLog,
        targets: Mapping[str, AnyTarget],
        publish: Callable[[int], None],
        *,
        started: World,
        tables: Tables,
        capacity: Mapping[str, int] = CAPACITY,
        told: Callable[[Turn], None] = tell_nobody,
        refused: Callable[[Refusal], None] = tell_nobody,
        rejudge: Callable[[], None] = nobody,
    ) -> None:
        self.log = event_log
        self._told, self._refused = told, refused
        self.targets = targets
        self.capacity = capacity
        self.world = started
        self._tables = tables
        # Held while the tables show events that are not durable yet: nobody else may look at them then.
        self._ahead = anyio.Lock(fast_acquire=True)
        self._turn = anyio.Lock(fast_acquire=True)  # of whoever makes the world another one
        self._unsure = anyio.Event()  # an append failed, and the log may find out that its events are there
        self._reconciler = Reconciler(targets, publish, self._all_tables, rejudge=rejudge)
        self._send: MemoryObjectSendStream[_Request]
        self._receive: MemoryObjectReceiveStream[_Request]
        self._send, self._receive = anyio.create_memory_object_stream[_Request](COMMANDS_MAX)

    @property
    def head(self) -> int:
        """Position of the last event that this engine has taken in."""
        return self.world.position

    @property
    def applied(self) -> int:
        """Position whose tables are all in the kernel."""
        return self._reconciler.applied

    @property
    def in_sync(self) -> bool:
        """Whether the kernel has had every table since the last failure or start."""
        return self._reconciler.in_sync

    @property
    def failure(self) -> str:
        """Why the datapath could not be written the last time; empty when it could."""
        return self._reconciler.failure

    @property
    def failures(self) -> int:
        """How often the datapath could not be written since the start."""
        return self._reconciler.failures

    def desired(self, table: str) -> Mapping[Any, Any]:
        """What a table should contain at `head`."""
        return self._tables.table(table)

    @property
    def policies(self) -> PolicyMapProjection:
        """What the policy table follows from at `head`, to be read: who is behind its rows."""
        return self._tables.policies

    async def submit(self, command: Command, *, actor: str, cause: str = "") -> Committed:
        """The command has been decided and its events are durable.

        Raises what deciders raise (nothing happened), and Unavailable when the log could not be written: nothing
        happened, unless it says that this is not known. A caller that is cancelled while it waits does not know whether
        the command took effect.
        """
        request = _Request(command, actor, cause)
        await self._send.send(request)
        await request.done.wait()
        assert request.outcome is not None
        if isinstance(request.outcome, CplaneError):
            raise request.outcome
        return request.outcome

    def refuse(self, refusal: Refusal) -> None:
        """Something was asked for that is refused, here or before it was a command; it is told, and that is all."""
        self._refused(refusal)

    async def wait(self, position: int) -> None:
        """Returns when the kernel has everything up to `position`."""
        await self._reconciler.wait(position)

    def compare_all(self) -> None:
        """All tables will be compared with what is in the kernel."""
        self._reconciler.compare_all()

    async def run(self) -> None:
        """Serves commands until cancelled; what waits then is never answered."""
        async with self._send, self._receive, anyio.create_task_group() as tasks:
            tasks.start_soon(self._look_back)
            async for request in self._receive:
                try:
                    async with self._turn:
                        request.outcome = await self._handle(request)
                except CplaneError as error:
                    request.outcome = error
                    if isinstance(error, Unavailable):
                        self._unsure.set()
                    what = called(request.command), tuple(objects_of(request.command))
                    self.refuse(Refusal(*what, request.actor, request.cause, error))
                request.done.set()

    async def drive(self) -> None:
        """Keeps the datapath at the head until cancelled."""
        await self._reconciler.run()

    async def _handle(self, request: _Request) -> Committed:
        if self.log.head > self.head:
            await self._catch_up()
        with without_collector(), _owned_up(request):
            decided, world = settle(request.command, self.world)
        if not decided:
            return Committed(self.head, ())
        async with self._ahead:
            try:
                with _owned_up(request):
                    deltas = self._project(decided)
                    self._tables.check(self.capacity)
                    self._tables.check_beside(deltas, self.capacity)
                # Shielded: between "durable" and "taken in" there must be no place to stop.
                with anyio.CancelScope(shield=True):
                    await self.log.append(self._propose(decided, request))
            except BaseException:
                # Tables depend on facts only, so those of the old world are what there was before.
                self._tables = Tables(facts(self.world))
                raise
            turn = Turn(self.world, world, tuple(event for _, event in decided), deltas)
            self.world = world
            self._reconciler.enqueue(Round(world.position, deltas))
        self._told(turn)
        kind = type(request.command).__name__
        log.info(line("command", kind=kind, actor=request.actor, events=len(decided), position=world.position))
        return Committed(world.position, turn.events)

    async def _look_back(self) -> None:
        """After an append failed, what the log turns out to have is taken in, although no further command comes."""
        while True:
            await self._unsure.wait()
            self._unsure = anyio.Event()
            try:
                async with aclosing(self.log.tail(after=self.head)) as batches:
                    await anext(batches)
                async with self._turn:
                    await self._catch_up()
            except CplaneError as error:
                log.warning(line("engine", kind="look_back", error=str(error)))
                await anyio.sleep(_LOOK_AGAIN_S)
                self._unsure.set()

    async def _catch_up(self) -> None:
        """What the log has is taken in, although whoever asked for it was told that nobody knows.

        A log that is kept elsewhere may lose the answer to an append, and find later that the events are in. Raises
        what reading the log raises.
        """
        while batch := await self.log.read(after=self.head, limit=REPLAY_BATCH):
            events, world = tuple((one.stream, one.event) for one in batch), self.world
            for stream, event in events:
                world = evolve(world, stream, event)
            async with self._ahead:
                deltas = self._project(events)
                turn = Turn(self.world, world, tuple(event for _, event in events), deltas)
                self.world = world
                self._reconciler.enqueue(Round(world.position, deltas))
            self._told(turn)
            log.info(line("engine", kind="caught_up", events=len(events), position=world.position))

    def _propose(self, decided: Decision, request: _Request) -> Proposed:
        expected = {stream: self.world.versions.get(stream, 0) for stream, _ in decided}
        return Proposed(events=decided, expected=expected, actor=request.actor, cause=request.cause)

    def _project(self, decided: Decision) -> dict[str, AnyDelta]:
        with without_collector():
            return self._tables.apply_all(event for _, event in decided)

    async def _all_tables(self) -> tuple[int, Mapping[str, AnyTable]]:
        async with self._ahead:
            return self.head, {name: self._tables.copy(name) for name in UPSERT_ORDER}


@contextmanager
def _owned_up(request: _Request) -> Iterator[None]:
    """A mistake of ours in here costs whoever met it this command, and nobody else the agent. Raises Bug.

    Nothing has happened yet. What can't be decided or projected must not be in the log: no replay would get past it.
    """
    try:
        yield
    except CplaneError:
        raise
    except Exception as error:
        bug = Bug(error)
        kind = type(request.command).__name__
        log.exception(line("command", kind=kind, actor=request.actor, code=bug.code, error=str(bug)))
        raise bug from error


async def replay(event_log: EventLog) -> tuple[World, Tables]:
    """The world and the tables that the whole log folds to. Raises Corrupt when the log does."""
    world = World()
    while True:
        batch = await event_log.read(after=world.position, limit=REPLAY_BATCH)
        if not batch:
            return world, Tables(facts(world))
        for envelope in batch:
            if envelope.position != world.position + 1:
                raise Unavailable(f"the log has no event at position {world.position + 1}")
            world = evolve(world, envelope.stream, envelope.event)
