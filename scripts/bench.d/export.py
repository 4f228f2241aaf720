"""Suite export: flows as lines of JSON beside protobuf's own JSON writer, and what metrics cost for each flow."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Final

import numpy as np
from google.protobuf import json_format
from records import calls
from report import Result, at_least, at_most, spread
from rig import Rig

from cplane.config.metrics import parse_metrics
from cplane.hubble.exporter.encode import LineEncoder
from cplane.hubble.exporter.file import RotatedFile
from cplane.hubble.flow import FlowBuilder
from cplane.hubble.metrics.collector import CHUNK, FlowMetrics
from cplane.hubble.store import FlowStore
from tests.support.flows import store_of

_FLOWS: Final = 1 << 16
_OF_PEER: Final = 1000
_BATCH: Final = 512
_ROUNDS: Final = 5
_PEER: Final = "json_format of the same messages"
_CONTEXTS: Final = ":sourceContext=pod;destinationContext=pod|dns"
_METRICS: Final = (
    "dns",
    "drop",
    "flow",
    "flows-to-world",
    "http",
    "icmp",
    "kafka",
    "policy",
    "port-distribution",
    "tcp",
)


def measure(rig: Rig) -> Iterator[Result]:
    """Everything of the suite."""
    store = _store()
    file = RotatedFile(
        str(rig.folder / "flows.log"), max_bytes=20_000_000, backups=1, compress=False, now_ns=time.time_ns
    )
    encoder = LineEncoder(store)
    ours, theirs = [], []
    for _ in range(_ROUNDS):
        ours.append(_FLOWS / _cpu_s(lambda: _export(store, encoder, file)))
        theirs.append(_OF_PEER / _cpu_s(lambda: _plain(store)))
    file.close()
    rig.say(f"export: lines of JSON in a file: {spread(ours, 'flows/s')}")
    rig.say(f"export: {_PEER}: {spread(theirs, 'flows/s')}")
    yield Result(
        name="hubble.jsonpb_per_s",
        value=median(ours),
        unit="1/s",
        peer=_PEER,
        peer_value=median(theirs),
        aim=at_least(100_000),
    )
    for name, texts in (("", _METRICS), ("_contexts", [f"{metric}{_CONTEXTS}" for metric in _METRICS])):
        metrics = FlowMetrics(store, parse_metrics(texts))
        took = [_cpu_s(partial(_count, store, metrics)) * 1e6 / _FLOWS for _ in range(_ROUNDS)]
        rig.say(f"export: ten metrics{name.replace('_', ' with ')}: {spread(took, 'µs for a flow')}")
        yield Result(name=f"hubble.metrics_us_per_flow{name}", value=median(took), unit="µs", aim=at_most(0.5))


def _store() -> FlowStore:
    """Flows of three pods that call each other: traces, verdicts and drops."""
    kinds = calls(((4, 0), (4, 3), (5, 0), (1, 133)))
    chance = np.random.default_rng(1)
    batches = []
    for start in range(0, _FLOWS, 4096):
        batch = kinds[chance.integers(0, len(kinds), 4096)]
        batch["sport"] = chance.integers(1024, 60_000, len(batch))
        batch["time_ns"] = (start + np.arange(len(batch))) * 12_345
        batches.append(batch)
    return store_of(*batches, capacity=_FLOWS)


def _cpu_s(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _export(store: FlowStore, encoder: LineEncoder, file: RotatedFile) -> None:
    rows = np.arange(_BATCH)
    for start in range(0, _FLOWS, _BATCH):
        file.write(encoder.encode(store.ring.span(start, start + _BATCH), rows))


def _plain(store: FlowStore) -> None:
    builder, span = FlowBuilder(store), store.ring.span(0, _OF_PEER)
    for row in range(_OF_PEER):
        json_format.MessageToJson(builder.flow(span, row), preserving_proto_field_name=True, indent=None)


def _count(store: FlowStore, metrics: FlowMetrics) -> None:
    for start in range(0, _FLOWS, CHUNK):
        metrics.add(store.ring.span(start, start + CHUNK))
