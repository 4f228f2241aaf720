"""Suite relay: flows per second through hubble-relay, from four peers that send as fast as they are taken.

The peer is one of those observers alone, asked by the same client without a relay in between.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

from counting import Counted, count_stream
from report import Result, WrongError, at_least, spread
from rig import ROOT, Rig, child, cpu_s

from cplane.pb.observer import observer_pb2 as pb

_PEERS: Final = 4
_FLOWS: Final = 100_000  # of each
_ROUNDS: Final = 5
_METHOD: Final = "/observer.Observer/GetFlows"
_ALONE: Final = "one observer, no relay"
_PATIENCE_S: Final = 60.0


def measure(rig: Rig) -> Iterator[Result]:
    """Everything of the suite. Raises WrongError."""
    folder = rig.folder / "relay"
    folder.mkdir()
    with child("relay_peers.py", folder, _PEERS, _FLOWS), _relay(folder) as relay:
        _until_connected(folder)
        through: list[float] = []
        alone: list[float] = []
        cpu_us: list[float] = []
        for _ in range(_ROUNDS):
            counted = count_stream(folder / "node0.sock", _METHOD, b"")
            alone.append(counted.messages / counted.took_s)
            before = cpu_s(relay)
            counted = count_stream(folder / "relay.sock", _METHOD, b"")
            cpu_us.append((cpu_s(relay) - before) * 1e6 / counted.messages)
            _check(counted)
            through.append(counted.messages / counted.took_s)
    rig.say(f"relay: through the relay: {spread(through, 'flows/s')}")
    rig.say(f"relay: CPU of the relay: {spread(cpu_us, 'µs for a flow')}")
    rig.say(f"relay: {_ALONE}: {spread(alone, 'flows/s')}")
    yield Result(
        name="hubble.relay_flows_per_s",
        value=median(through),
        unit="1/s",
        peer=_ALONE,
        peer_value=median(alone),
        aim=at_least(300_000),
    )
    yield Result(name="hubble.relay_cpu_us_per_flow", value=median(cpu_us), unit="µs")


def _check(counted: Counted) -> None:
    """All flows came, and in order. Raises WrongError."""
    if counted.messages != _PEERS * _FLOWS + 1:  # a notice says who is connected
        raise WrongError(f"{counted.messages} messages came, of {_PEERS * _FLOWS} flows and a notice")
    times = [pb.GetFlowsResponse.FromString(one).time.ToNanoseconds() for one in counted.samples[1:]]
    if times != sorted(times):
        raise WrongError("the relay's flows are not in the order of their times")


@contextmanager
def _relay(folder: Path) -> Iterator[int]:
    """A relay in front of them answers inside the block, or soon will; its process id."""
    command = [
        *(sys.executable, "-m", "cplane.hubble.relay.main", "serve", "--disable-client-tls", "--disable-server-tls"),
        *("--peer-service", f"unix://{folder}/peer.sock", "--listen-address", f"unix://{folder}/relay.sock"),
        *("--health-listen-address", "-", "--log-level", "error"),
    ]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_PATIENCE_S)


def _until_connected(folder: Path) -> None:
    """The relay has reached all of its peers. Raises WrongError."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        time.sleep(0.1)
        try:
            counted = count_stream(folder / "relay.sock", "/observer.Observer/ServerStatus", b"")
        except WrongError:  # it does not listen yet
            continue
        if pb.ServerStatusResponse.FromString(counted.samples[0]).num_connected_nodes.value == _PEERS:
            return
    raise WrongError("the relay did not reach its peers")
