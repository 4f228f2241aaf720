"""Observers that send flows as fast as they are taken, for the relay to merge.

Usage: python relay_peers.py FOLDER PEERS FLOWS. They answer on FOLDER/node<n>.sock, and FOLDER/peer.sock says who they
are; `ready` is printed then. The flows of each are encoded beforehand, by the agent's own encoder, and of times that
lie between those of the others, so that no two in a row come from one peer. Ends when its standard input does.
"""

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel
import anyio.to_thread
import numpy as np
from grpclib.const import Cardinality, Handler

from cplane.hubble.encode import BATCH, Encoder
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.peer import Peer, Peers, PeerService
from cplane.hubble.store import FlowStore
from cplane.pb.observer import observer_pb2 as pb
from cplane.transport.pour import pour
from tests.support.flows import SEED, START_NS, World, records
from tests.support.serving import served

if TYPE_CHECKING:
    from grpclib.server import Stream

_STEP_NS: Final = 1_000


class Sender:
    """Answers GetFlows with the same bytes each time."""

    def __init__(self, node: int, peers: int, flows: int) -> None:
        self._parts = _encoded(node, peers, flows)

    def __mapping__(self) -> dict[str, Handler]:
        """What grpclib serves."""
        unary, stream = Cardinality.UNARY_UNARY, Cardinality.UNARY_STREAM
        return {
            "/observer.Observer/GetFlows": Handler(self._flows, stream, pb.GetFlowsRequest, pb.GetFlowsResponse),
            "/observer.Observer/ServerStatus": Handler(
                self._status, unary, pb.ServerStatusRequest, pb.ServerStatusResponse
            ),
        }

    async def _flows(self, stream: "Stream[pb.GetFlowsRequest, pb.GetFlowsResponse]") -> None:
        await stream.recv_message()
        await stream.send_initial_metadata()
        for part in self._parts:
            await pour(stream, part)  # as our agent sends them
            await anyio.lowlevel.checkpoint()

    async def _status(self, stream: "Stream[pb.ServerStatusRequest, pb.ServerStatusResponse]") -> None:
        await stream.recv_message()
        await stream.send_message(pb.ServerStatusResponse(num_flows=1))


def _encoded(node: int, peers: int, flows: int) -> list[bytes]:
    store = FlowStore(cluster="default", node=f"node{node}", seed=SEED, capacity=1 << (flows - 1).bit_length())
    rows = np.repeat(records({}), flows)
    rows["time_ns"] = (np.arange(flows) * peers + node) * _STEP_NS
    rows["sport"] = np.arange(flows) % 50_000
    parser = Parser(store, World())
    for start in range(0, flows, BATCH):
        parser.ingest(rows[start : start + BATCH], START_NS)
    encoder = Encoder(store)
    span = store.ring.span(0, flows)
    return [encoder.encode(span, np.arange(at, min(at + BATCH, flows))) for at in range(0, flows, BATCH)]


async def main(folder: Path, peers: int, flows: int) -> None:
    """Serve until the standard input ends."""
    async with AsyncExitStack() as stack:
        found = [
            Peer(
                f"node{node}",
                await stack.enter_async_context(served(Sender(node, peers, flows), path=folder / f"node{node}.sock")),
            )
            for node in range(peers)
        ]
        await stack.enter_async_context(served(PeerService(Peers(found)), path=folder / "peer.sock"))
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
