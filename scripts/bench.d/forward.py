"""What the datapath costs a packet: pods of one node, beside the same namespaces with plain routing and no programs.

Rounds alternate, so what the machine does meanwhile meets all of them; each round gives a ratio, and the median of
these is the result.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import rules
from report import Result, WrongError, at_least, ratio_result
from rig import Bed, Rig
from traffic import KINDS, Pair, Traffic

from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.client import ClientChannel
from tests.support import asking
from tests.support.netns import Namespace
from tests.support.observing import unary

ROUNDS: Final = 15
_CONNECTIONS: Final = "crr"
PEER: Final = "plain veth routing"
_ROUND_MS: Final = {"stream": 500, "rr": 400, "crr": 600}
_AIMS: Final = {"stream": at_least(0.95), "rr": at_least(1.0), "crr": at_least(0.90)}
_UNITS: Final = {"stream": ("Gbit/s", 8e-9), "rr": ("1/s", 1.0), "crr": ("1/s", 1.0)}
_FIRST_PORT: Final = 5000
_PORTS: Final = range(_FIRST_PORT, _FIRST_PORT + 100)  # a port for each round: none meets what another left
_MTU: Final = "1500"
_FORWARDED: Final = 1  # flow.Verdict.FORWARDED
_NODE, _CLIENT, _SERVER = "10.245.0.1", "10.245.0.2", "10.245.0.3"


class Observed(NamedTuple):
    """How many flows an agent has seen, and how many records the kernel had no room for, since its start."""

    seen: int = 0
    lost: int = 0


@dataclass
class Lane:
    """One way between two pods, and what it carried: kind → rates, round by round; `observed` since it was made."""

    name: str
    pair: Pair
    bed: Bed | None = None
    observed: Observed = field(default_factory=Observed)
    rates: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})


def measure(rig: Rig, traffic: Traffic, seeing: Bed, blind: Bed) -> Iterator[Result]:
    """Ratios to plain routing, of a bed with visibility and of one with `hubble.monitor: off`. Raises WrongError."""
    with plain(rig) as base:
        lanes = [Lane("plain", base.pair), Lane("seen", _pods(seeing), seeing), Lane("unseen", _pods(blind), blind)]
        _rounds(rig, traffic, lanes, KINDS)
    by_name = {lane.name: lane for lane in lanes}
    for kind in KINDS:
        yield from _results(kind, by_name)
    seen, lost = by_name["seen"].observed
    rig.say(f"net: {seen} flows were seen and {lost} records lost while connections came and went")
    yield Result(name="net.crr_lost_ratio", value=lost / (seen + lost), unit="ratio")


def visibility(rig: Rig, traffic: Traffic, seeing: Bed, blind: Bed) -> Result:
    """Connections a second with visibility, beside one with `hubble.monitor: off`. Raises WrongError."""
    off, on = lanes = [Lane("unseen", _pods(blind), blind), Lane("seen", _pods(seeing), seeing)]
    _rounds(rig, traffic, lanes, (_CONNECTIONS,))
    ratios = ratios_of(on.rates[_CONNECTIONS], off.rates[_CONNECTIONS])
    return ratio_result("hubble.crr_on_over_off", ratios, "visibility off", at_least(0.95))


def _rounds(rig: Rig, traffic: Traffic, lanes: list[Lane], kinds: Sequence[str]) -> None:
    for lane in lanes:
        for kind in kinds:
            traffic.rate(kind, lane.pair, _PORTS[-1], 100)
    for number in range(ROUNDS):
        _round(traffic, lanes if number % 2 else lanes[::-1], kinds, number)
        rig.say(f"{'/'.join(kinds)}: round {number + 1} of {ROUNDS}: {_said(lanes, kinds)}")


class Plain(NamedTuple):
    """Two namespaces, and the third that routes between them."""

    pair: Pair
    node: Namespace


@contextmanager
def plain(rig: Rig, name: str = "plain") -> Iterator[Plain]:
    """Two namespaces routed through a third, as simply as can be."""
    with ExitStack() as places:
        node, client, server = (
            places.enter_context(rig.place(f"{name}-{one}")) for one in ("node", "client", "server")
        )
        node.run(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        for place, address in ((client, _CLIENT), (server, _SERVER)):
            device = f"to{address[-1]}"
            node.ip(*f"link add {device} mtu {_MTU} type veth peer name eth0 mtu {_MTU} netns {place.name}".split())
            node.ip("address", "add", f"{_NODE}/32", "dev", device)
            node.ip("link", "set", device, "up")
            node.ip("route", "add", f"{address}/32", "dev", device)
            place.ip("address", "add", f"{address}/32", "dev", "eth0")
            place.ip("link", "set", "eth0", "up")
            place.ip("route", "add", f"{_NODE}/32", "dev", "eth0")
            place.ip("route", "add", "default", "via", _NODE, "dev", "eth0")
        for place in (client, server):
            widen(place)
        yield Plain(Pair(client, server, _SERVER), node)


def _pods(bed: Bed) -> Pair:
    """A client and a server, and a policy that lets the traffic through and nothing else; it is seen to be real."""
    client, server = bed.add("client"), bed.add("server", serve=True)
    if not client.reach(server.ipv4):
        raise WrongError(f"{bed.name}: the server does not answer before there is a policy")
    rules.load(bed, rules.allow("traffic", "server", "client", "TCP", _PORTS))
    if f" mtu {_MTU} " not in client.netns.ip("-oneline", "link", "show", "eth0"):
        raise WrongError(f"{bed.name}: the pods' MTU is not {_MTU}, as that of the peer")
    if client.reach(server.ipv4, timeout_s=0.5):
        raise WrongError(f"{bed.name}: the server answers on a port that the policy does not allow")
    for pod in (client, server):
        widen(pod.netns)
    return Pair(client.netns, server.netns, server.ipv4)


def widen(place: Namespace) -> None:
    """More ports for connections than a round opens."""
    place.run(lambda: Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("6000 65535"))


def _round(traffic: Traffic, lanes: list[Lane], kinds: Sequence[str], number: int) -> None:
    for kind in kinds:
        for lane in lanes:
            before = _observed(lane.bed)
            rate = traffic.rate(kind, lane.pair, _PORTS[number], _ROUND_MS[kind])
            lane.rates[kind].append(rate)
            if lane.bed is not None and kind == _CONNECTIONS:
                _must_be_seen(lane, lane.bed, before, int(rate * _ROUND_MS[kind] / 1000))
                _must_be_shown(lane, lane.bed, _PORTS[number])


def _must_be_seen(lane: Lane, bed: Bed, before: Observed, connections: int) -> None:
    """With visibility on every connection is a flow at least, or counted as lost; with it off none is."""

    def count() -> int:
        now = _observed(bed)
        return now.seen + now.lost - before.seen - before.lost

    if lane.name == "unseen":
        if count():
            raise WrongError(f"hubble.monitor is off, and {count()} records were made")
        return
    asking.until(lambda: count() >= connections, f"{connections} connections are seen", patience_s=5)
    now = _observed(bed)
    lane.observed = Observed(lane.observed.seen + now.seen - before.seen, lane.observed.lost + now.lost - before.lost)


def _must_be_shown(lane: Lane, bed: Bed, port: int) -> None:
    """The newest flows are what the connections were."""
    shown = any(
        flow.source.pod_name == "client"
        and flow.destination.pod_name == "server"
        and flow.verdict == _FORWARDED
        and flow.l4.TCP.destination_port == port
        for flow in asking.flows(bed.agent)
    )
    if shown is (lane.name == "unseen"):
        raise WrongError(f"the observer of {lane.name} {'shows' if shown else 'does not show'} connections to {port}")


def _observed(bed: Bed | None) -> Observed:
    if bed is None:
        return Observed()

    async def seen(channel: ClientChannel) -> int:
        return int((await unary(channel, "ServerStatus")).seen_flows)

    async def lost(channel: ClientChannel) -> int:
        told = (await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())).monitor
        return told.lost if told else 0

    return Observed(asking.ask(bed.agent, seen, socket="hubble.sock"), asking.ask(bed.agent, lost))


def _said(lanes: list[Lane], kinds: Sequence[str]) -> str:
    first, *others = lanes
    return "; ".join(
        f"{kind} " + ", ".join(f"{lane.name} {lane.rates[kind][-1] / first.rates[kind][-1]:.2f}" for lane in others)
        for kind in kinds
    )


def _results(kind: str, lanes: dict[str, Lane]) -> Iterator[Result]:
    base = lanes["plain"].rates[kind]
    unit, scale = _UNITS[kind]
    yield ratio_result(f"net.{kind}_ratio", ratios_of(lanes["seen"].rates[kind], base), PEER, _AIMS[kind])
    yield ratio_result(f"net.{kind}_ratio_hubble_off", ratios_of(lanes["unseen"].rates[kind], base), PEER)
    yield Result(
        name=f"net.{kind}_rate",
        value=median(lanes["seen"].rates[kind]) * scale,
        unit=unit,
        peer=PEER,
        peer_value=median(base) * scale,
    )


def ratios_of(ours: list[float], theirs: list[float]) -> list[float]:
    """Of each round, ours by theirs."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]
