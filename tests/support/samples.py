"""Samples of Cilium's perf ring, as its programs write them."""

import struct
from typing import Any

import numpy as np

from cplane.hubble.debugring import DebugRing
from cplane.hubble.flow import FlowBuilder
from cplane.hubble.parser.headers import CAPTURED, DEBUG, DROP, JUDGED, SOCKET, TRACE
from cplane.hubble.parser.samples import SampleParser
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from tests.support.flows import SEED, START_NS, World


def _sample(layout: np.dtype[Any], size: int, packet: bytes, fields: dict[str, Any]) -> bytes:
    header = np.zeros(1, layout)
    for name, value in fields.items():
        header[0][name] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
    return header.tobytes()[:size] + packet


def drop(packet: bytes, *, version: int = 3, **fields: Any) -> bytes:
    return _sample(DROP, (36, 36, 40, 48)[version], packet, {"type": 1, "version": version, **fields})


def trace(packet: bytes, *, version: int = 2, **fields: Any) -> bytes:
    return _sample(TRACE, (32, 48, 56)[version], packet, {"type": 4, "version": version, **fields})


def judged(packet: bytes, **fields: Any) -> bytes:
    return _sample(JUDGED, 40, packet, {"type": 5, **fields})


def captured(packet: bytes, **fields: Any) -> bytes:
    return _sample(CAPTURED, 24, packet, {"type": 3, **fields})


def translated(**fields: Any) -> bytes:
    return _sample(SOCKET, 38, b"\0\0", {"type": 7, **fields})


def debug(**fields: Any) -> bytes:
    return _sample(DEBUG, 20, b"", {"type": 2, **fields})


def vxlan(vni: int, frame: bytes) -> bytes:
    return struct.pack(">II", 1 << 27, vni << 8) + frame


def geneve(vni: int, frame: bytes, options: bytes = b"") -> bytes:
    return struct.pack(">BBHI", len(options) // 4, 0, 0x6558, vni << 8) + options + frame


class Read:
    """What becomes of samples."""

    def __init__(self, *samples: bytes, world: World | None = None) -> None:
        self.store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=1024)
        self.debug = DebugRing(16)
        self.parser = SampleParser(self.store, world or World(), self.debug)
        times = START_NS + np.arange(len(samples), dtype=np.uint64) * np.uint64(1000)
        self.count = self.parser.ingest(samples, times)

    @property
    def flows(self) -> list[flow_pb2.Flow]:
        span = self.store.ring.span(0, self.store.ring.written)
        return [FlowBuilder(self.store).flow(span, row) for row in range(len(span))]

    @property
    def flow(self) -> flow_pb2.Flow:
        (flow,) = self.flows
        return flow
