"""The task that moves records into the ring."""

from collections import deque

import anyio
import numpy as np
import pytest

from cplane.hubble.ingest import BATCH, LossLedger, pump
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.ring import LossSource
from cplane.hubble.store import FlowStore
from datapath.notify.records import DTYPE
from tests.support.flows import SEED, START_NS, World, records

pytestmark = pytest.mark.anyio


class Kernel:
    """Batches to be drained, and a count of what was lost."""

    def __init__(self, *batches: np.ndarray) -> None:
        self.batches, self.lost, self.drained = deque(batches), 0, 0

    def drain(self, count: int) -> np.ndarray:
        self.drained += 1
        batch = self.batches.popleft() if self.batches else np.zeros(0, DTYPE)
        assert len(batch) <= count
        return batch


def make() -> tuple[FlowStore, Parser]:
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=1 << 14)
    return store, Parser(store, World())


async def test_records_become_flows_and_followers_wake() -> None:
    store, parser = make()
    full = np.repeat(records({}), BATCH)
    kernel = Kernel(full, full, records({}, {}))
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:

            async def run() -> None:
                await pump(
                    kernel.drain,
                    lambda: kernel.lost,
                    store,
                    parser,
                    now_ns=lambda: START_NS,
                    offset_ns=lambda: START_NS,
                )

            group.start_soon(run)
            while store.ring.written < 2 * BATCH + 2:
                await store.changed.wait()
            group.cancel_scope.cancel()
    assert store.ring.written == 2 * BATCH + 2
    assert int(store.ring.span(0, 1)["time_ns"][0]) == START_NS


async def test_the_offset_is_asked_again_as_time_goes_by() -> None:
    store, parser = make()
    kernel = Kernel(*(np.repeat(records({}), BATCH) for _ in range(3)))
    times = iter(START_NS + n * 600_000_000 for n in range(100))
    offsets = iter((1000, 2000, 3000, 4000))
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:

            async def run() -> None:
                await pump(
                    kernel.drain,
                    lambda: 0,
                    store,
                    parser,
                    now_ns=lambda: next(times),
                    offset_ns=lambda: next(offsets),
                )

            group.start_soon(run)
            while store.ring.written < 3 * BATCH:
                await store.changed.wait()
            group.cancel_scope.cancel()
    starts = [int(store.ring.span(n * BATCH, n * BATCH + 1)["time_ns"][0]) for n in range(3)]
    assert starts == [1000, 2000, 2000]


def test_losses_are_told_at_once_and_then_once_a_second() -> None:
    store, _ = make()
    lost = [10]
    ledger = LossLedger(store, lambda: lost[0])
    second = 10**9
    assert not ledger.check(START_NS), "what was lost before is no news"
    for at, total, told in (
        (0.1, 15, True),
        (0.2, 18, False),
        (0.9, 20, False),
        (1.2, 20, True),
        (5, 20, False),
        (6, 3, True),  # a new ring counts from 0
    ):
        lost[0] = total
        assert ledger.check(START_NS + int(at * second)) == told
    losses = store.ring.losses(0)
    assert [(loss.source, loss.count) for loss in losses] == [(LossSource.KERNEL_RING, n) for n in (5, 5, 3)]
    assert (losses[1].first_ns, losses[1].last_ns) == (START_NS + second // 5, START_NS + second * 6 // 5)
