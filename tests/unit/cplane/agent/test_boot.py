"""What an agent checks and repeats beside its engine."""

from typing import cast

import anyio
import anyio.from_thread
import pytest

from cplane.agent import boot
from cplane.agent.boot import LogBehind, agree, collect_often, follow_devices, keep_addresses
from cplane.agent.datapaths import Datapath
from cplane.config.model import AgentConfig
from cplane.engine.engine import Engine
from cplane.telemetry.log import Line
from datapath.netlink.errors import KernelRefused
from tests.support.engine import ListEngine

STORED = AgentConfig(node_name="n", state_dir="/state")
IN_MEMORY = AgentConfig(node_name="n", log="memory")


def test_a_log_that_ends_before_what_the_kernel_enforces_is_refused_with_both_positions_and_a_way_out():
    with pytest.raises(LogBehind) as refused:
        agree(STORED, 6, 9)
    for part in ("/state/log.db", "position 6", "position 9", "/sys/fs/bpf/cplane"):
        assert part in str(refused.value)


@pytest.mark.parametrize("enforced", [0, 5, 6])
def test_a_kernel_that_is_not_ahead_of_the_log_is_followed_up(enforced):
    agree(STORED, 6, enforced)


def test_a_log_in_memory_may_begin_anew_over_a_kernel_that_is_ahead():
    agree(IN_MEMORY, 0, 9)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot, "ADDRESSES_INTERVAL_S", 0.001)
    monkeypatch.setattr(boot, "COLLECT_INTERVAL_S", 0.001)


class Heard:
    """A logger of which only errors are wanted."""

    def __init__(self) -> None:
        self.errors: list[Line] = []

    def error(self, entry: Line) -> None:
        self.errors.append(entry)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    heard = Heard()
    monkeypatch.setattr(boot, "log", heard)
    return heard


class Failing:
    """A datapath that refuses whatever it is asked for, the first few times."""

    def __init__(self, failures: int) -> None:
        self.failures, self.asked = failures, 0
        self.well = anyio.Event()

    def _ask(self) -> None:
        self.asked += 1
        if self.asked <= self.failures:
            raise KernelRefused("look", 12)
        anyio.from_thread.run_sync(self.well.set)

    def local_addresses(self) -> tuple[str, ...]:
        self._ask()
        return ("192.0.2.1",)

    collect = follow_devices = _ask


@pytest.mark.anyio
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("what", ["addresses", "devices", "collection"])
async def test_a_kernel_that_refuses_is_told_once_and_asked_again(what: str, heard: Heard) -> None:
    failing = Failing(3)
    datapath = cast("Datapath", failing)
    async with anyio.create_task_group() as tasks:
        if what == "addresses":
            tasks.start_soon(keep_addresses, cast("Engine", ListEngine()), datapath)
        else:
            tasks.start_soon({"devices": follow_devices, "collection": collect_often}[what], datapath)
        with anyio.fail_after(5):
            await failing.well.wait()
        tasks.cancel_scope.cancel()
    assert [one.fields["kind"] for one in heard.errors] == [what]


@pytest.mark.anyio
@pytest.mark.usefixtures("impatient")
async def test_a_log_that_cannot_be_written_ends_no_agent_whose_addresses_change(heard: Heard) -> None:
    engine, datapath = ListEngine(), Failing(0)
    engine.broken = "the database is away"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_addresses, cast("Engine", engine), cast("Datapath", datapath))
        with anyio.fail_after(5):
            while datapath.asked < 3:  # noqa: ASYNC110  # what comes after it rings no bell
                await anyio.sleep(0.001)
            engine.broken = ""
            await engine.caught_up.wait()
        tasks.cancel_scope.cancel()
    assert engine.world.node is not None
    assert engine.world.node.addresses == ("192.0.2.1",)
    assert [one.fields["error"] for one in heard.errors] == ["the database is away"]


class Counting:
    """A datapath of which nothing but the collection is wanted."""

    def __init__(self, collected: anyio.Event) -> None:
        self._collected = collected

    def collect(self) -> None:
        anyio.from_thread.run_sync(self._collected.set)


@pytest.mark.anyio
async def test_what_is_superfluous_is_collected_at_once_and_not_only_after_the_first_interval():
    collected = anyio.Event()
    datapath = cast("Datapath", Counting(collected))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collect_often, datapath)
        with anyio.fail_after(5):
            await collected.wait()
        tasks.cancel_scope.cancel()
