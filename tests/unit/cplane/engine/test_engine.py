"""Commands become durable events, and tables follow; what fails leaves no trace."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from cplane.deciders.endpoint import DeleteEndpoint, NoSuchEndpoint, RelabelEndpoint
from cplane.deciders.world import World
from cplane.engine import engine as engine_module
from cplane.engine.engine import Engine, replay, tell_nobody
from cplane.errors import Bug, CplaneError, Unavailable
from cplane.eventlog.memory import MemoryLog
from cplane.projections import tables as names
from cplane.projections.tables import TableFull, Tables
from tests.support.clock import TickingClock
from tests.support.scenario import JOIN, pod
from tests.support.story import applied

pytestmark = pytest.mark.anyio


class DictTarget:
    """A target that remembers, and fails when it is told to."""

    def __init__(self) -> None:
        self.rows: dict[object, object] = {}
        self.failures = 0
        self.writes: list[str] = []

    def dump(self):
        return dict(self.rows)

    def upsert(self, entries):
        if self.failures:
            self.failures -= 1
            raise Unavailable("the kernel said no")
        self.rows.update(entries)

    def delete(self, keys):
        for key in keys:
            self.rows.pop(key, None)


class FullLog(MemoryLog):
    """A log that cannot be written while `broken`."""

    broken = False

    async def append(self, proposed):
        if self.broken:
            raise Unavailable("no space left on device")
        return await super().append(proposed)


class ForgetfulLog(MemoryLog):
    """A log that takes what is appended while `silent`, and cannot say so."""

    silent = False

    async def append(self, proposed):
        written = await super().append(proposed)
        if self.silent:
            raise Unavailable("the connection was lost, and nobody knows")
        return written


class SlowLog(FullLog):
    """A log that appends when it is let go."""

    def __init__(self, clock):
        super().__init__(clock)
        self.let_go = anyio.Event()

    async def append(self, proposed):
        await self.let_go.wait()
        return await super().append(proposed)


async def refused(engine):
    with pytest.raises(Unavailable):
        await engine.submit(pod("web"), actor="x")


@asynccontextmanager
async def running(
    log=None, targets=None, told=tell_nobody
) -> AsyncIterator[tuple[Engine, dict[str, DictTarget], list[int]]]:
    log = log or MemoryLog(TickingClock())
    targets = targets or {name: DictTarget() for name in names.UPSERT_ORDER}
    published: list[int] = []
    world, tables = await replay(log)
    engine = Engine(log, targets, published.append, started=world, tables=tables, told=told)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.run)
        tasks.start_soon(engine.drive)
        yield engine, targets, published
        tasks.cancel_scope.cancel()


def rows(targets):
    return {name: target.rows for name, target in targets.items()}


async def test_a_command_is_durable_when_it_is_answered_and_in_the_tables_when_waited_for():
    async with running() as (engine, targets, published):
        await engine.submit(JOIN, actor="agent")
        done = await engine.submit(pod("web", "k8s:app=web"), actor="uid:0(root)")
        assert engine.log.head == done.position == engine.head
        await engine.wait(done.position)
        assert published[-1] == done.position
        assert len(targets[names.LXC].rows) == 2
        assert len(targets[names.PROGRAMS].rows) == 1
        last = (await engine.log.read(after=done.position - 1))[0]
        assert last.actor == "uid:0(root)"


async def test_a_refused_command_changes_nothing():
    async with running() as (engine, _, _):
        await engine.submit(JOIN, actor="agent")
        with pytest.raises(NoSuchEndpoint):
            await engine.submit(RelabelEndpoint(endpoint=3, labels=()), actor="x")
        assert engine.log.head == engine.head == 3


@pytest.mark.parametrize(("owner", "name"), [(engine_module, "settle"), (Tables, "apply_all")])
async def test_a_mistake_of_ours_costs_one_command_and_nothing_else(monkeypatch, owner, name):
    def wrong(*_):
        raise ZeroDivisionError("by zero")

    async with running() as (engine, _, _):
        await engine.submit(JOIN, actor="agent")
        before = {table: dict(engine.desired(table)) for table in names.UPSERT_ORDER}
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, wrong)
            with pytest.raises(Bug, match="ZeroDivisionError: by zero"):
                await engine.submit(pod("web"), actor="x")
        assert engine.log.head == engine.head == 3
        assert {table: dict(engine.desired(table)) for table in names.UPSERT_ORDER} == before
        await engine.wait((await engine.submit(pod("web"), actor="x")).position)


async def test_a_log_that_cannot_be_written_refuses_and_tables_stay_as_they_were():
    log = FullLog(TickingClock())
    async with running(log) as (engine, targets, _):
        done = await engine.submit(JOIN, actor="agent")
        await engine.wait(done.position)
        before = {name: dict(engine.desired(name)) for name in names.UPSERT_ORDER}
        log.broken = True
        with pytest.raises(Unavailable, match="no space"):
            await engine.submit(pod("web"), actor="x")
        assert {name: dict(engine.desired(name)) for name in names.UPSERT_ORDER} == before
        log.broken = False
        done = await engine.submit(pod("web"), actor="x")
        await engine.wait(done.position)
        assert len(targets[names.LXC].rows) == 2


async def test_what_the_log_took_although_nobody_knew_is_taken_in_before_the_next_command():
    log = ForgetfulLog(TickingClock())
    async with running(log) as (engine, targets, published):
        await engine.submit(JOIN, actor="agent")
        log.silent = True
        await refused(engine)
        assert log.head > 3
        log.silent = False
        done = await engine.submit(pod("more", ifindex=11), actor="x")
        await engine.wait(done.position)
        assert engine.head == log.head == published[-1]
        assert len(engine.world.endpoints) == 2
        world, tables = await replay(log)
        assert engine.world == world
        assert rows(targets) == {name: dict(tables.table(name)) for name in names.UPSERT_ORDER}


async def test_what_the_log_finds_out_to_have_is_taken_in_though_nobody_asks_for_more():
    log = ForgetfulLog(TickingClock())
    told = []
    async with running(log, told=told.append) as (engine, targets, _):
        await engine.submit(JOIN, actor="agent")
        log.silent = True
        await refused(engine)
        await engine.wait(log.head)
        assert engine.head == log.head > 3
        world, tables = await replay(log)
        assert engine.world == world
        assert rows(targets) == {name: dict(tables.table(name)) for name in names.UPSERT_ORDER}
        assert [turn.after.position for turn in told] == [3, log.head]


async def test_what_is_compared_during_an_append_that_fails_is_what_was_durable():
    log = SlowLog(TickingClock())
    async with running(log) as (engine, targets, _):
        log.let_go.set()
        done = await engine.submit(JOIN, actor="agent")
        await engine.wait(done.position)
        log.let_go, log.broken = anyio.Event(), True
        written = []
        targets[names.LXC].upsert = written.append
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refused, engine)
            await anyio.wait_all_tasks_blocked()
            engine.compare_all()
            await anyio.wait_all_tasks_blocked()
            log.let_go.set()
        await anyio.wait_all_tasks_blocked()
        assert (engine.in_sync, written) == (True, [])


async def test_what_would_overflow_a_map_is_refused_before_anything_is_written(monkeypatch):
    async with running() as (engine, _, _):
        await engine.submit(JOIN, actor="agent")
        monkeypatch.setitem(names.CAPACITY, names.LXC, 3)
        await engine.submit(pod("a"), actor="x")
        head = engine.log.head
        with pytest.raises(TableFull, match="'lxc' would need 4 entries and holds 3"):
            await engine.submit(pod("b"), actor="x")
        assert engine.log.head == head
        assert len(engine.desired(names.LXC)) == 2


async def test_addresses_that_replace_others_need_room_beside_them(monkeypatch):
    """The old ones go last: a map that has room for either alone would refuse, and whatever comes later wait."""

    def reaching(*prefixes):
        return applied("web", "web", egress=[{"toCIDR": list(prefixes)}])

    async with running() as (engine, _, _):
        for command in (JOIN, pod("web", "k8s:app=web"), reaching("192.0.2.0/28", "192.0.2.16/28", "192.0.2.32/28")):
            await engine.submit(command, actor="x")
        held = len(engine.desired(names.IPCACHE))
        monkeypatch.setitem(names.CAPACITY, names.IPCACHE, held + 2)
        head = engine.log.head
        message = f"'ipcache', until rows that go are gone, would need {held + 3} entries and holds {held + 2}"
        with pytest.raises(TableFull, match=message):
            await engine.submit(reaching("198.51.100.0/28", "198.51.100.16/28", "198.51.100.32/28"), actor="x")
        assert engine.log.head == head
        done = await engine.submit(reaching("192.0.2.0/28", "198.51.100.16/28", "198.51.100.32/28"), actor="x")
        await engine.wait(done.position)
        assert len(engine.desired(names.IPCACHE)) == held


async def test_a_failed_write_is_repaired_by_comparing_everything():
    async with running() as (engine, targets, published):
        done = await engine.submit(JOIN, actor="agent")
        await engine.wait(done.position)
        targets[names.LXC].failures = 1
        done = await engine.submit(pod("web"), actor="x")
        await engine.wait(done.position)
        assert rows(targets)[names.LXC] == dict(engine.desired(names.LXC))
        assert published[-1] == done.position


async def test_a_restart_adopts_what_is_right_removes_what_is_not_and_reaches_the_same_tables():
    log = MemoryLog(TickingClock())
    async with running(log) as (engine, targets, _):
        await engine.submit(JOIN, actor="agent")
        await engine.submit(pod("a", "k8s:app=a"), actor="x")
        done = await engine.submit(pod("b", "k8s:app=b", ifindex=11), actor="x")
        await engine.wait(done.position)
        expected = {name: dict(target.rows) for name, target in targets.items()}
    stale = next(iter(targets[names.LXC].rows))
    del targets[names.LXC].rows[stale]
    targets[names.DEVICES].rows["stranger"] = "row"
    async with running(log, targets) as (engine, targets, _):
        await engine.wait(log.head)
        assert rows(targets) == expected


async def test_incremental_tables_equal_those_folded_from_facts():
    log = MemoryLog(TickingClock())
    async with running(log) as (engine, _, _):
        for command in (
            JOIN,
            pod("a", "k8s:app=a"),
            pod("b", "k8s:app=b", ifindex=11),
            RelabelEndpoint(endpoint=1, labels=pod("a", "k8s:app=b").labels),
            DeleteEndpoint(container_id="c-b", container_interface="eth0"),
        ):
            await engine.submit(command, actor="x")
        world, tables = await replay(log)
        assert world == engine.world
        for name in names.UPSERT_ORDER:
            assert dict(tables.table(name)) == dict(engine.desired(name))


async def test_many_submitters_are_served_one_after_another():
    outcomes: list[int | CplaneError] = []

    async def one(engine: Engine, number: int) -> None:
        try:
            outcomes.append((await engine.submit(pod(f"p{number}"), actor="x")).position)
        except CplaneError as error:
            outcomes.append(error)

    async with running() as (engine, _, _):
        await engine.submit(JOIN, actor="agent")
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one, engine, number)
        positions = [o for o in outcomes if isinstance(o, int)]
        assert len(positions) == 13  # as many as the pool has addresses
        assert sorted(positions) == sorted(set(positions))
        assert await replay(engine.log) is not None
        assert engine.world == (await replay(engine.log))[0]


async def test_each_turn_is_told_once_in_order_and_only_what_took_effect():
    log, turns = FullLog(TickingClock()), []
    engine = Engine(log, {}, lambda _: None, started=World(), tables=Tables(), told=turns.append)
    async with anyio.create_task_group() as group:
        group.start_soon(engine.run)
        for command in (JOIN, JOIN, pod("a", ifindex=10), pod("b", ifindex=11)):
            await engine.submit(command, actor="x")
        log.broken = True
        await refused(engine)
        group.cancel_scope.cancel()
    assert [turn.after.position for turn in turns] == [turn.before.position + len(turn.events) for turn in turns]
    assert [turn.before for turn in turns[1:]] == [turn.after for turn in turns[:-1]]
    assert [len(turn.after.endpoints) for turn in turns] == [0, 1, 2], "who has joined and joins again changes nothing"
    assert turns[-1].after.position == log.head
    assert all(turn.deltas[names.IPCACHE].upserts for turn in turns)


def test_an_empty_world_has_empty_tables():
    tables = Tables()
    assert World().position == 0
    assert all(not tables.table(name) for name in names.UPSERT_ORDER)
