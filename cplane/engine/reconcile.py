"""Makes the kernel's tables what they should be, in the order that keeps every packet's judgement right."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from anyio import to_thread

from cplane.engine.ports import Comparing, NoRoom, Target
from cplane.errors import Unavailable
from cplane.projections.delta import Delta, plan
from cplane.projections.tables import DELETE_ORDER, LB, POLICY, PROGRAMS, REDIRECTS, UPSERT_ORDER
from cplane.telemetry.log import line, logger

AnyTarget = Target[Any, Any]  # each table has row types of its own, paired by name
AnyDelta = Delta[Any, Any]
AnyTable = Mapping[Any, Any]

PENDING_ROUNDS_MAX: Final = 4096  # more than this behind: the rounds are dropped and the tables compared as a whole
ROWS_AT_ONCE: Final = 128  # so few are written sooner (0.1 ms) than a thread gets its turn (1 ms and more)
RETRY_FIRST_S: Final = 0.05
RETRY_MAX_S: Final = 5.0

log = logger("reconcile")


@dataclass(frozen=True, slots=True)
class Round:
    """What one command changes, by table, and the log position that is reached with it."""

    position: int
    deltas: Mapping[str, AnyDelta]

    @property
    def is_small(self) -> bool:
        """Whether it is written in less time than the event loop would notice.

        Programs are not: to attach one takes the kernel's lock of all devices, which others hold for long. Nor are
        redirects, which wait for proxies.
        """
        rows = sum(len(one.upserts) + len(one.deletes) for one in self.deltas.values())
        return rows <= ROWS_AT_ONCE and self.deltas.keys().isdisjoint({PROGRAMS, REDIRECTS})


@dataclass(slots=True)
class _Waiter:
    position: int
    reached: anyio.Event = field(default_factory=anyio.Event)


def nobody() -> None:
    """There are no connections that would have to be judged again."""


class Reconciler:
    """Drives the targets. Rounds are written one after another, never merged: each is ordered in itself.

    `publish` says which position is reached, for records and for connections, which are judged again; `rejudge` is for
    these alone.
    """

    def __init__(
        self,
        targets: Mapping[str, AnyTarget],
        publish: Callable[[int], None],
        desired: Callable[[], Awaitable[tuple[int, Mapping[str, AnyTable]]]],
        *,
        rejudge: Callable[[], None] = nobody,
    ) -> None:
        self._targets = targets
        self._publish, self._rejudge = publish, rejudge
        self._desired = desired
        self._pending: deque[Round] = deque()
        self._compare_all = True
        self._work = anyio.Event()
        self._idle = False  # `run` waits: all that was ever asked for is written
        self._waiters: list[_Waiter] = []
        self.applied = 0
        self.in_sync = False
        self.failure = ""
        self.failures = 0  # since the start

    def enqueue(self, one: Round) -> None:
        """The round will be written: a small one whose turn it is has been, when this returns.

        Never waits; too far behind, all tables are compared instead.
        """
        if self._idle and not self._pending and not self._compare_all and one.is_small:
            try:
                self._write_rounds((one,))
            except Unavailable as error:
                self._failed(error, "now")
                self._work.set()
            else:
                self._reached(one.position)
            return
        if len(self._pending) >= PENDING_ROUNDS_MAX:
            self._pending.clear()
            self._compare_all = True
        if not self._compare_all:
            self._pending.append(one)
        self._work.set()

    def compare_all(self) -> None:
        """All tables will be compared with what is in the kernel."""
        self._compare_all = True
        self._pending.clear()
        self._work.set()

    async def wait(self, position: int) -> None:
        """Returns when everything up to `position` is in the kernel."""
        if self.applied >= position and self.in_sync:
            return
        waiter = _Waiter(position)
        self._waiters.append(waiter)
        try:
            await waiter.reached.wait()
        finally:
            self._waiters.remove(waiter)

    async def run(self) -> None:
        """Writes rounds until cancelled. A failed write is retried with back-off, comparing everything."""
        delay = RETRY_FIRST_S
        while True:
            self._work = anyio.Event()
            try:
                await self._step()
            except Unavailable as error:
                self._failed(error, f"in {delay:g} s")
                await anyio.sleep(delay)
                delay = min(delay * 2, RETRY_MAX_S)
                continue
            delay = RETRY_FIRST_S
            if not self._pending and not self._compare_all:
                self._idle = True
                try:
                    await self._work.wait()
                finally:
                    self._idle = False

    def _failed(self, error: Unavailable, again: str) -> None:
        """What is in the kernel is not known any more: everything will be compared."""
        self.in_sync, self.failure = False, str(error)
        self.failures += 1
        self._compare_all = True
        log.warning(line("reconcile", kind="failed", error=self.failure, detail=f"again {again}"))

    async def _step(self) -> None:
        if self._compare_all:
            self._compare_all = False
            self._pending.clear()
            position, tables = await self._desired()
            await to_thread.run_sync(self._resync, tables, position)
        elif self._pending:
            rounds = tuple(self._pending)
            self._pending.clear()
            position = rounds[-1].position
            await to_thread.run_sync(self._write_rounds, rounds)
        else:
            return
        self._reached(position)

    def _reached(self, position: int) -> None:
        self.applied, self.in_sync, self.failure = max(self.applied, position), True, ""
        for waiter in self._waiters:
            if waiter.position <= self.applied:
                waiter.reached.set()

    def _write_rounds(self, rounds: tuple[Round, ...]) -> None:
        for one in rounds:
            self._write(one.deltas)
        self._publish(rounds[-1].position)

    def _resync(self, tables: Mapping[str, AnyTable], position: int) -> None:
        self._write({name: difference(tables[name], self._targets[name]) for name in UPSERT_ORDER})
        self._publish(position)

    def _write(self, deltas: Mapping[str, AnyDelta]) -> None:
        if deltas.keys() == {POLICY}:  # and so no address changes hands
            target = self._targets[POLICY]
            for number, (upserts, deletes) in enumerate(deltas[POLICY].parts()):
                if number:  # the last part is followed by all that is left to be said
                    self._rejudge()
                target.upsert(upserts)
                target.delete(deletes)
            return
        for name in UPSERT_ORDER:
            if name in deltas and deltas[name].upserts:
                self._upsert(name, deltas[name])
        for name in DELETE_ORDER:
            if name in deltas and deltas[name].deletes:
                self._targets[name].delete(deltas[name].deletes)

    def _upsert(self, name: str, delta: AnyDelta) -> None:
        """Its new rows are there, beside those that are to go; where these have to go first, so they do.

        Only of services: while their rows are away they refuse, as if they were not there yet or not any more. Without
        the rows of a policy or an address, more might pass than before and after.
        """
        target = self._targets[name]
        try:
            target.upsert(delta.upserts)
        except NoRoom:
            if name not in LB or not delta.deletes:
                raise
            target.delete(delta.deletes)
            target.upsert(delta.upserts)


def difference(desired: AnyTable, target: AnyTarget) -> AnyDelta:
    """What to write so that the target's table becomes the desired one. Raises Unavailable."""
    return Delta(*target.compare(desired)) if isinstance(target, Comparing) else plan(desired, target.dump())
