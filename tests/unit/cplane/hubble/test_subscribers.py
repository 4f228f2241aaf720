"""Fifty subscribers, one of which never reads: it stops nobody, costs no memory, and learns what it missed."""

import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.lowlevel
import h2.events
import pytest

from cplane.hubble.encode import frames
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.server import services
from cplane.hubble.store import FlowStore
from cplane.pb.observer import observer_pb2 as pb
from cplane.transport.batches import batches
from cplane.transport.client import connect
from tests.support.effort import examples
from tests.support.flows import SEED, START_NS, World, records
from tests.support.observing import StillClock, get_flows
from tests.support.serving import RawClient, served

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

READERS = 49
BATCH, ROUNDS, CAPACITY = 512, examples(16, least=8), 2048
FOLLOW = pb.GetFlowsRequest(follow=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Reader:
    """A subscriber that reads: how many flows it has, and how many it was told it lost."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.flows, self.lost = 0, 0
        self.more = anyio.Event()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with connect(self.address) as channel, get_flows(channel).open() as stream:
            await stream.send_message(FOLLOW, end=True)
            await stream.recv_initial_metadata()
            task_status.started()
            async for messages in batches(stream):
                for data in messages:
                    if len(data) < 100:  # shorter than any flow
                        self.lost += pb.GetFlowsResponse.FromString(data).lost_events.num_events_lost
                    else:
                        self.flows += 1
                self.more.set()

    async def until(self, flows: int) -> None:
        while self.flows + self.lost < flows:
            self.more = anyio.Event()
            await self.more.wait()


async def test_one_that_never_reads_stops_none_of_forty_nine(tmp_path: Path) -> None:
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=CAPACITY)
    parser = Parser(store, World())
    batch = records(*({"dport": port} for port in range(BATCH)))
    path = tmp_path / "hubble.sock"
    with anyio.fail_after(60):
        async with served(*services(store, StillClock(), version="1"), path=path) as address, AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(anyio.create_task_group())
            lazy = RawClient(path)
            stack.callback(lazy.close)
            call = lazy.open("/observer.Observer/GetFlows")
            request = FOLLOW.SerializeToString()
            lazy.send(call, b"\0" + len(request).to_bytes(4, "big") + request, end=True)
            readers = [Reader(address) for _ in range(READERS)]
            for reader in readers:
                await tasks.start(reader.run)
            await anyio.wait_all_tasks_blocked()
            before = 0
            for number in range(1, ROUNDS + 1):
                parser.ingest(batch, START_NS)
                store.changed.notify()
                for reader in readers:
                    await reader.until(number * BATCH)
                before = before or resident()
            grown = resident() - before
            assert {(reader.flows, reader.lost) for reader in readers} == {(ROUNDS * BATCH, 0)}
            assert grown < 8 << 20, "what nobody reads is not kept for anybody"
            flows, lost = await read_at_last(lazy, call, store)
            assert lost > 0
            assert flows + lost == store.ring.written
            tasks.cancel_scope.cancel()


async def read_at_last(client: RawClient, call: int, store: FlowStore) -> tuple[int, int]:
    """The subscriber that never read does now: how many flows it gets, and how many it is told it lost."""
    data = b""
    while True:
        flows = lost = 0
        for response in complete(data):
            flows += response.HasField("flow")
            lost += response.lost_events.num_events_lost
        if flows + lost >= store.ring.written:
            return flows, lost
        await anyio.wait_readable(client.socket)
        for event in client.h2.receive_data(client.socket.recv(1 << 20)):
            if isinstance(event, h2.events.DataReceived):
                data += event.data
                client.h2.acknowledge_received_data(event.flow_controlled_length, call)
        client.flush()


def complete(data: bytes) -> Iterator[pb.GetFlowsResponse]:
    """The messages of which the end has come."""
    end = at = 0
    while at + 5 <= len(data) and (at := at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")) <= len(data):
        end = at
    return map(pb.GetFlowsResponse.FromString, frames(data[:end]))


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
