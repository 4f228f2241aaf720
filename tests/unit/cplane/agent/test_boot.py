"""What an agent checks and repeats beside its engine."""

from typing import cast

import anyio
import anyio.from_thread
import pytest

from cplane.agent.boot import LogBehind, agree, collect_often
from cplane.agent.datapaths import Datapath
from cplane.config.model import AgentConfig

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
