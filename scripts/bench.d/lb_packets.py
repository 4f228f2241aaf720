"""What it costs XDP to send a packet of a client outside on to a backend of another node, by BPF_PROG_TEST_RUN.

A run gets the packet as the one before has left it, so each service has a second row, which makes of the translated
packet the client's again: all runs translate, none finds nothing to do. A packet loses a hop with each.
"""

import os
from collections.abc import Iterator
from ipaddress import IPv4Address
from statistics import median
from typing import Final

from report import Result, WrongError, at_most, spread
from rig import Rig

from cplane.domain import maglev
from cplane.domain.service import MAGLEV_SEED
from datapath.gc import conntrack
from datapath.kernel import syscall, testrun
from datapath.kernel.syscall import AttachPoint, ProgramKind
from datapath.maps import lb
from datapath.maps.ipcache import FAMILY_V4
from datapath.maps.lb import Flow, FlowFlags, FlowKey, LbFlags
from tests.support.headers import read
from tests.support.kernel import SIZES
from tests.support.lb_tables import Backend
from tests.support.outside import ETH0_MAC, V4, Outside, outside, sent
from tests.support.packets import ACK, SYN, TCP, packed, tcp
from tests.support.wire import PASSES

_MANY: Final = 10_000
_BACKENDS: Final = 10
_TABLE: Final = 1021  # entries of a Maglev table; 16,381 for all of the services would be 650 MB
_SIZES: Final = SIZES | {
    "cplane_lb_svc": 1 << 14,
    "cplane_lb_slot": 1 << 17,
    "cplane_lb_back": 1 << 17,
    "cplane_lb_magl": 1 << 18,
    "cplane_lb_flow": 1 << 17,
}
_VIPS: Final = IPv4Address("10.210.0.0")
_FIRST_BACKEND: Final = IPv4Address("10.128.0.0")
_ASKED: Final = range(0, _MANY, 100)  # the services whose packets are counted
_RUNS: Final = 250
_ROUNDS: Final = 10  # of which the least disturbed counts
_HOPS_MAX: Final = 255
_LIFE_S: Final = 8000
_SENT: Final = 3  # XDP_TX
_PORT: Final = 40_000  # the client's


def measure(rig: Rig) -> Iterator[Result]:
    """A packet of a known connection, and the first one of another. Raises WrongError."""
    with outside(rig.name, rig.folder / "lb-programs", _SIZES, lb=1, maglev_size=_TABLE) as node:
        node.reset()
        _fill(node)
        new = [_run(node, number, SYN, 1) for number in _ASKED]
        rig.say(f"lb.xdp_ns_per_connection: {spread(new, 'ns')}")
        for number in _ASKED:
            _turn(node, number)
        known = [min(_run(node, number, ACK, _RUNS) for _ in range(_ROUNDS)) for number in _ASKED]
        nothing = min(_nothing(node) for _ in range(10 * _ROUNDS))
        rig.say(f"lb.xdp_ns_per_packet: {spread(known, 'ns')}; a program that does nothing {nothing:.0f} ns")
    yield Result(
        name="lb.xdp_ns_per_packet",
        value=median(known),
        unit="ns",
        peer="a program that does nothing",
        peer_value=nothing,
        aim=at_most(120),
    )
    yield Result(name="lb.xdp_ns_per_connection", value=median(new), unit="ns")


def _nothing(node: Outside) -> float:
    """Nanoseconds of a program that lets the packet pass: what asking the kernel costs by itself."""
    passes = syscall.prog_load(ProgramKind.XDP, AttachPoint.XDP, PASSES, "cplane_bench")
    try:
        data = sent(V4.client, V4.node, TCP, tcp(_PORT, 80))
        return float(node.home.run(lambda: testrun.run_xdp(passes, data, ifindex=node.eth0, repeat=_RUNS)).duration_ns)
    finally:
        os.close(passes)


def _vip(number: int) -> str:
    return str(_VIPS + number)


def _fill(node: Outside) -> None:
    """Every service with its backends and its table; a neighbour that has the node's own MAC leads to all of them."""
    router = "10.200.0.10"
    node.home.ip("neighbour", "replace", router, "lladdr", ETH0_MAC.hex(":"), "dev", "eth0", "nud", "permanent")
    for prefix in ("10.128.0.0/9", "10.210.0.0/16"):
        node.home.ip("route", "replace", prefix, "via", router)
    seed = maglev.parse_seed(MAGLEV_SEED).murmur
    for number in range(_MANY):
        first = number * _BACKENDS
        backends = tuple(Backend(1 + first + one, str(_FIRST_BACKEND + first + one), 8080) for one in range(_BACKENDS))
        texts = [(one.id, maglev.text_of(one.address, one.port, "TCP"), 1) for one in backends]
        node.service(
            1 + number,
            _vip(number),
            80,
            backends,
            flags=LbFlags.OUTSIDE | LbFlags.MAGLEV,
            table=maglev.table(texts, _TABLE, seed),
        )


def _turn(node: Outside, number: int) -> None:
    """The row that makes of what the connection's packets become what they were."""
    key = FlowKey(packed(V4.client).ljust(16, b"\0"), packed(_vip(number)).ljust(16, b"\0"), _PORT, 80, TCP, FAMILY_V4)
    found = node.maps[lb.FLOWS.name].lookup(key.pack())
    if found is None:
        raise WrongError(f"the connection to service {number} is not known")
    row = Flow.unpack(found)
    node.set_flow(
        FlowKey(row.saddr, row.daddr, row.sport, row.dport, TCP, FAMILY_V4),
        row._replace(
            saddr=key.saddr,
            daddr=key.daddr,
            sport=key.sport,
            dport=key.dport,
            lifetime=conntrack.now_s() + _LIFE_S,
            flags=FlowFlags.SNAT | FlowFlags.SEEN_NON_SYN,
        ),
    )


def _run(node: Outside, number: int, flags: int, repeat: int) -> float:
    """Nanoseconds that the program takes with a packet to the service, so many times one after another."""
    data = sent(V4.client, _vip(number), TCP, tcp(_PORT, 80, flags), ttl=_HOPS_MAX)
    ran = node.run_xdp(data, repeat=repeat)
    seen = read(ran.packet)
    translated = seen.to != _vip(number)
    expected = (_SENT, _HOPS_MAX - repeat, bool(repeat % 2), True)
    if (ran.action, seen.ttl, translated, seen.sums_hold) != expected:
        raise WrongError(f"{repeat} runs of a packet to service {number} end with action {ran.action} and {seen}")
    return float(ran.duration_ns)
