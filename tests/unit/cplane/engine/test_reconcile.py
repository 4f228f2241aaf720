"""Rounds are written in their turn: a small one at once, what is large or comes behind it by the task that drives."""

import threading
from contextlib import asynccontextmanager

import anyio
import pytest

from cplane.engine.ports import NoRoom
from cplane.engine.reconcile import ROWS_AT_ONCE, Reconciler, Round
from cplane.errors import Unavailable
from cplane.projections import delta
from cplane.projections.delta import Delta
from cplane.projections.tables import DEVICES, IPCACHE, LB, LXC, POLICY, PROGRAMS, UPSERT_ORDER
from datapath.maps.policy import PolicyEntry, PolicyKey
from datapath.maps.spread import Spread

pytestmark = pytest.mark.anyio


class ThreadTarget:
    """A target that remembers which thread wrote, waits at its gate, and fails when it is told to."""

    def __init__(self) -> None:
        self.rows: dict[object, object] = {}
        self.threads: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failures = 0
        self.room = 1 << 20

    def dump(self):
        return dict(self.rows)

    def upsert(self, entries):
        self._write()
        for key, row in entries.items():
            if key not in self.rows and len(self.rows) >= self.room:
                raise NoRoom("full")
            self.rows[key] = row

    def delete(self, keys):
        self._write()
        for key in keys:
            self.rows.pop(key, None)

    def _write(self):
        assert self.gate.wait(5)
        self.threads.append(threading.get_ident())
        if self.failures:
            self.failures -= 1
            raise Unavailable("the kernel said no")


class Rig:
    """A reconciler with its targets, and what it should come to."""

    def __init__(self) -> None:
        self.targets = {name: ThreadTarget() for name in UPSERT_ORDER}
        self.published: list[int] = []
        self.seen: list[tuple[int, set[int]]] = []  # whose rows were there when connections were to be judged again
        self.desired = (1, {name: {} for name in UPSERT_ORDER})
        self.reconciler = Reconciler(self.targets, self.published.append, self._desired, rejudge=self._rejudge)

    def _rejudge(self):
        policies = {key.policy_id for key in self.targets[POLICY].rows}
        self.seen.append((len(self.published), policies))

    async def _desired(self):
        return self.desired


@asynccontextmanager
async def driven():
    rig = Rig()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.reconciler.run)
        await rig.reconciler.wait(1)
        await anyio.wait_all_tasks_blocked()
        yield rig
        tasks.cancel_scope.cancel()


def rows(number, first=0):
    return Delta({}, dict.fromkeys(range(first, first + number), "row"))


@pytest.mark.parametrize("table", [POLICY, DEVICES, IPCACHE, LXC])
async def test_a_small_round_is_written_before_anybody_else_runs(table):
    async with driven() as rig:
        rig.reconciler.enqueue(Round(2, {table: rows(ROWS_AT_ONCE)}))
        assert len(rig.targets[table].rows) == ROWS_AT_ONCE
        assert rig.published[-1] == rig.reconciler.applied == 2
        await rig.reconciler.wait(2)


async def test_a_small_round_wakes_those_who_wait_for_it():
    async with driven() as rig, anyio.create_task_group() as waiting:
        waiting.start_soon(rig.reconciler.wait, 2)
        await anyio.wait_all_tasks_blocked()
        rig.reconciler.enqueue(Round(2, {LXC: rows(1)}))


@pytest.mark.parametrize(
    "deltas",
    [{POLICY: rows(ROWS_AT_ONCE + 1)}, {POLICY: rows(ROWS_AT_ONCE), LXC: rows(1)}, {PROGRAMS: rows(1)}],
    ids=["many rows", "many rows in two tables", "programs"],
)
async def test_what_takes_its_time_is_written_by_another_thread(deltas):
    async with driven() as rig:
        rig.reconciler.enqueue(Round(2, deltas))
        assert rig.reconciler.applied == 1
        await rig.reconciler.wait(2)
        written = {thread for name in deltas for thread in rig.targets[name].threads}
        assert threading.get_ident() not in written


async def test_connections_are_judged_again_as_soon_as_some_policies_are_as_a_whole_in_force(monkeypatch):
    monkeypatch.setattr(delta, "PART_ROWS", 2)
    key, row = PolicyKey(1, 7, 0, 6, 80, 24), PolicyEntry(False, 1, 24)
    groups = {1: (1, 2, 3)}
    async with driven() as rig:
        before = len(rig.published)
        change = Delta(Spread({}, groups), Spread({key: row, key._replace(port=81): row}, groups))
        rig.reconciler.enqueue(Round(2, {POLICY: change}))
        await rig.reconciler.wait(2)
        assert rig.seen == [(before, {1}), (before, {1, 2})]
        assert rig.published[-1] == 2
        rig.reconciler.enqueue(Round(3, {POLICY: change, IPCACHE: rows(1)}))
        await rig.reconciler.wait(3)
        assert len(rig.seen) == 2, "addresses change hands when all policies are there"


async def test_a_small_round_does_not_overtake_a_large_one():
    async with driven() as rig:
        rig.targets[POLICY].gate.clear()
        rig.reconciler.enqueue(Round(2, {POLICY: rows(ROWS_AT_ONCE + 1)}))
        await anyio.wait_all_tasks_blocked()
        rig.reconciler.enqueue(Round(3, {LXC: rows(1)}))
        assert not rig.targets[LXC].rows
        rig.targets[POLICY].gate.set()
        await rig.reconciler.wait(3)
        assert rig.published[-2:] == [2, 3]
        assert rig.targets[LXC].rows


async def test_before_the_first_comparison_nothing_is_written():
    rig = Rig()
    rig.reconciler.enqueue(Round(2, {LXC: rows(1)}))
    assert not rig.targets[LXC].rows
    assert rig.published == []


async def test_a_small_round_that_fails_is_made_good_by_a_comparison():
    async with driven() as rig:
        rig.targets[LXC].failures = 1
        rig.desired = (2, {**rig.desired[1], LXC: {0: "row"}})
        rig.reconciler.enqueue(Round(2, {LXC: rows(1)}))
        assert not rig.reconciler.in_sync
        assert rig.reconciler.failure == "the kernel said no"
        with anyio.fail_after(5):
            await rig.reconciler.wait(2)
        assert rig.targets[LXC].rows == {0: "row"}
        assert rig.reconciler.in_sync
        assert rig.reconciler.failure == ""


@pytest.mark.parametrize("number", [1, ROWS_AT_ONCE + 1])
async def test_rows_of_services_that_are_replaced_need_no_room_for_both(number):
    async with driven() as rig:
        for target in rig.targets.values():
            target.room = number
        for position, first in ((2, 0), (3, number), (4, 0)):
            before = {} if position == 2 else dict(rig.targets[LB[0]].rows)
            after = dict.fromkeys(range(first, first + number), "row")
            rig.desired = (position, {name: after if name in LB else {} for name in UPSERT_ORDER})
            rig.reconciler.enqueue(Round(position, {name: Delta(before, after) for name in LB}))
            await rig.reconciler.wait(position)
            assert all(rig.targets[name].rows == after for name in LB)
        assert rig.reconciler.failures == 0


async def test_rows_of_addresses_and_policies_never_go_before_others_come():
    async with driven() as rig:
        target = rig.targets[IPCACHE]
        target.room = 1
        rig.reconciler.enqueue(Round(2, {IPCACHE: rows(1)}))
        rig.desired = (3, {name: {} for name in UPSERT_ORDER} | {IPCACHE: {0: "row"}})
        rig.reconciler.enqueue(Round(3, {IPCACHE: Delta({0: "row"}, {1: "row"})}))
        assert target.rows == {0: "row"}
        assert rig.reconciler.failures == 1
