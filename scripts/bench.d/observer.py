"""What an observer of a million flows answers, and how fast: all of them, the last ones, and a few of many."""

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from counting import Counted, count_stream
from report import CILIUM, Result, WrongError, at_least, at_most, spread
from rig import Bed, Rig, child, cpu_s

from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb

_FLOWS: Final = 1 << 20
_LAST: Final = 4095
_ROUNDS: Final = 7
_METHOD: Final = "/observer.Observer/GetFlows"
_GO: Final = "Go gRPC server, 879-byte flows, measured earlier"
_PATIENCE_S: Final = 60.0
_IDLE_S: Final = 10.0


class _Server(NamedTuple):
    socket: Path
    pid: int
    records_per_s: float


def measure(rig: Rig) -> Iterator[Result]:
    """The observer's share of the suite. Raises WrongError."""
    socket = rig.folder / "observer.sock"
    with child("observer_server.py", socket, _FLOWS) as (pid, said):
        server = _Server(socket, pid, float(said[0]))
        rig.say(f"hubble: {_FLOWS:,} records became flows, {server.records_per_s:,.0f} a second of CPU")
        yield Result(name="hubble.ring_records_per_s", value=server.records_per_s, unit="1/s", aim=at_least(500_000))
        yield from _stream(rig, server)
        last = [_asked(server, pb.GetFlowsRequest(number=_LAST), _LAST) * 1e3 for _ in range(_ROUNDS)]
        rig.say(f"hubble: the last {_LAST}: {spread(last, 'ms')}")
        yield Result(name="hubble.last4095_ms", value=median(last), unit="ms", aim=at_most(20))
        wanted = flow_pb2.FlowFilter(
            source_label=["k8s:app=web"], destination_port=["4443"], verdict=[flow_pb2.Verdict.DROPPED]
        )
        query = pb.GetFlowsRequest(number=_FLOWS, first=True, whitelist=[wanted])
        found = [_asked(server, query) * 1e3 for _ in range(_ROUNDS)]
        rig.say(f"hubble: label, port and verdict over {_FLOWS:,} flows: {spread(found, 'ms')}")
        yield Result(name="hubble.query_1m_ms", value=median(found), unit="ms", aim=at_most(10))


def idle(rig: Rig) -> Result:
    """What an agent with three pods takes of a core while nothing happens."""
    with rig.bed("idle") as bed:
        bed.agent.start()
        for name in ("one", "two", "three"):
            bed.add(name)
        return _idle(rig, bed)


def _idle(rig: Rig, bed: Bed) -> Result:
    time.sleep(1)  # what the start left to do is done
    before = bed.cpu_s()
    time.sleep(_IDLE_S)
    percent = (bed.cpu_s() - before) / _IDLE_S * 100
    rig.say(f"hubble: idle: {percent:.2f} % of a core")
    return Result(name="hubble.idle_cpu_percent", value=percent, unit="%", peer=CILIUM, peer_value=1.2, aim=at_most(1))


def _stream(rig: Rig, server: _Server) -> Iterator[Result]:
    rates, cpu_us = [], []
    request = pb.GetFlowsRequest(number=_FLOWS, first=True)
    for _ in range(_ROUNDS):
        before = cpu_s(server.pid)
        took_s = _asked(server, request, _FLOWS)
        cpu_us.append((cpu_s(server.pid) - before) * 1e6 / _FLOWS)
        rates.append(_FLOWS / took_s)
    rig.say(f"hubble: stream: {spread(rates, 'flows/s')}; CPU {spread(cpu_us, 'µs for a flow')}")
    yield Result(
        name="hubble.stream_flows_per_s",
        value=median(rates),
        unit="1/s",
        peer=_GO,
        peer_value=127_000,
        aim=at_least(500_000),
    )
    yield Result(
        name="hubble.stream_cpu_us_per_flow",
        value=median(cpu_us),
        unit="µs",
        peer=_GO,
        peer_value=7.0,
        aim=at_most(4),
    )


def _asked(server: _Server, request: pb.GetFlowsRequest, expected: int | None = None) -> float:
    """Seconds from the question to the end of the answer. Raises WrongError when it is another than was expected."""
    counted: Counted = count_stream(server.socket, _METHOD, request.SerializeToString())
    if expected is not None and counted.messages != expected:
        raise WrongError(f"{counted.messages} flows came, not {expected}")
    return counted.took_s
