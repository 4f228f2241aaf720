"""An observer of a full ring, for clients to ask.

Usage: python observer_server.py SOCKET FLOWS. Prints `ready` and how many records it took in a second, and serves until
its standard input ends. One flow in ten thousand is to port 4443, and every tenth is a drop.
"""

import sys
import time
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np
from records import calls

from cplane.hubble.parser.threefour import Parser
from cplane.hubble.server import services
from cplane.hubble.store import FlowStore
from cplane.telemetry.clock import SystemClock
from tests.support.flows import SEED, START_NS, World, records
from tests.support.serving import served

_BATCH = 4096
_RARE, _DROPS = 10_000, 10


def filled(flows: int) -> tuple[FlowStore, float]:
    """The store, and how many records a second it took, enriched."""
    kinds = calls(((4, 0), (4, 3), (5, 0)))
    drops = records(*({"type": 1, "subtype": 133, "dport": port} for port in (80, 443)))
    chance = np.random.default_rng(1)
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=flows)
    parser, took_s = Parser(store, World()), 0.0
    for start in range(0, flows, _BATCH):
        batch = kinds[chance.integers(0, len(kinds), _BATCH)]
        dropped = np.arange(start, start + _BATCH) % _DROPS == 0
        batch[dropped] = drops[chance.integers(0, len(drops), dropped.sum())]
        batch["sport"] = chance.integers(1024, 60_000, _BATCH)
        batch["dport"][np.arange(start, start + _BATCH) % _RARE == 0] = 4443
        batch["time_ns"] = (start + np.arange(_BATCH)) * 12_345
        began = time.process_time()
        parser.ingest(batch, START_NS)
        took_s += time.process_time() - began
    return store, flows / took_s


async def main(path: Path, flows: int) -> None:
    """Serve until the standard input ends."""
    store, rate = filled(flows)
    async with served(*services(store, SystemClock(), version="bench"), path=path):
        print(f"ready {rate:.0f}", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
