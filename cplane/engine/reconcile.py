"""Makes the kernel's tables what they should be, in the order that keeps every packet's judgement right."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from anyio import to_thread

from cplane.engine.ports import Target
from cplane.errors import Unavailable
from cplane.projections.delta import Delta, plan
from cplane.projections.tables import DELETE_ORDER, UPSERT_ORDER
from cplane.telemetry.log import line, logger

AnyTarget = Target[Any, Any]  # each table has row types of its own, paired by name
AnyDelta = Delta[Any, Any]
AnyTable = Mapping[Any, Any]

PENDING_ROUNDS_MAX: Final = 4096  # more than this behind: the rounds are dropped and the tables compared as a whole
RETRY_FIRST_S: Final = 0.05
RETRY_MAX_S: Final = 5.0

log = logger("reconcile")


@dataclass(frozen=True, slots=True)
class Round:
    """What one command changes, by table, and the log position that is reached with it."""

    position: int
    deltas: Mapping[str, AnyDelta]


@dataclass(slots=True)
class _Waiter:
    position: int
    reached: anyio.Event = field(default_factory=anyio.Event)


class Reconciler:
    """Drives the targets. Rounds are written one after another, never merged: each is ordered in itself."""

    def __init__(
        self,
        targets: Mapping[str, AnyTarget],
        publish: Callable[[int], None],
        desired: Callable[[], tuple[int, Mapping[str, AnyTable]]],
    ) -> None:
        self._targets = targets
        self._publish = publish
        self._desired = desired
        self._pending: deque[Round] = deque()
        self._compare_all = True
        self._work = anyio.Event()
        self._waiters: list[_Waiter] = []
        self.applied = 0
        self.in_sync = False
        self.failure = ""

    def enqueue(self, one: Round) -> None:
        """The round will be written. Never waits; too far behind, all tables are compared instead."""
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
                self.in_sync, self.failure = False, str(error)
                self._compare_all = True
                log.warning(line("reconcile", kind="failed", error=self.failure, detail=f"again in {delay:g} s"))
                await anyio.sleep(delay)
                delay = min(delay * 2, RETRY_MAX_S)
                continue
            delay = RETRY_FIRST_S
            if not self._pending and not self._compare_all:
                await self._work.wait()

    async def _step(self) -> None:
        if self._compare_all:
            self._compare_all = False
            self._pending.clear()
            position, tables = self._desired()
            await to_thread.run_sync(self._resync, tables, position)
        elif self._pending:
            rounds = tuple(self._pending)
            self._pending.clear()
            position = rounds[-1].position
            await to_thread.run_sync(self._write_rounds, rounds)
        else:
            return
        self.applied, self.in_sync, self.failure = max(self.applied, position), True, ""
        for waiter in self._waiters:
            if waiter.position <= self.applied:
                waiter.reached.set()

    def _write_rounds(self, rounds: tuple[Round, ...]) -> None:
        for one in rounds:
            self._write(one.deltas)
        self._publish(rounds[-1].position)

    def _resync(self, tables: Mapping[str, AnyTable], position: int) -> None:
        self._write({name: plan(tables[name], self._targets[name].dump()) for name in UPSERT_ORDER})
        self._publish(position)

    def _write(self, deltas: Mapping[str, AnyDelta]) -> None:
        for name in UPSERT_ORDER:
            if name in deltas and deltas[name].upserts:
                self._targets[name].upsert(deltas[name].upserts)
        for name in DELETE_ORDER:
            if name in deltas and deltas[name].deletes:
                self._targets[name].delete(deltas[name].deletes)
