"""Suite net: how fast policies bite, pods come, and packets go."""

from collections.abc import Iterator
from statistics import median

import cni
import deny
import forward
import rules
from report import CILIUM, Result, at_most, spread
from rig import Bed, Rig
from traffic import Pair, Traffic

_FEW, _MANY = 100, 50  # repetitions
_AIMS = {"3ep": at_most(2), "65ep_1000rules": at_most(20)}
_DENY_MS = {"3ep": 0.55, "65ep_1000rules": 82.0}  # Cilium's
_ALLOW_MS = {"3ep": 2.1, "65ep_1000rules": 69.0}


def measure(rig: Rig) -> Iterator[Result]:
    """Everything of the suite. Raises WrongError."""
    rig.say("net: compiling the traffic program, starting agents")
    traffic = Traffic(rig.folder)
    with rig.bed("seeing") as seeing, rig.bed("blind", "--hubble-monitor", "off") as blind:
        seeing.agent.start()
        for index in range(3):
            seeing.add(rules.app(index))
        yield from _deny(rig, traffic, seeing, "3ep", _FEW)
        yield from cni.measure(rig, seeing)
        blind.agent.start()
        yield from forward.measure(rig, traffic, seeing, blind)
    with rig.bed("full") as full:
        full.agent.start()
        rig.say(f"net: {rules.ENDPOINTS} endpoints and {rules.RULES} rules")
        rules.fill(full)
        yield from _loaded(rig, full)
        yield from _deny(rig, traffic, full, "65ep_1000rules", _MANY)


def _loaded(rig: Rig, full: Bed) -> Iterator[Result]:
    """The rules are in force, and the probe is allowed by one more."""
    took_s = rules.load(full, rules.thousand()).took_s
    rules.load(full, rules.allow("probe", rules.app(0), rules.app(1), "UDP", deny.PORT_OF_PROBE))
    rig.say(f"net: {rules.RULES} rules enforced after {took_s:.1f} s")
    yield Result(name="net.load_1000rules_s", value=took_s, unit="s", peer=CILIUM, peer_value=1.44)


def _deny(rig: Rig, traffic: Traffic, bed: Bed, load: str, repetitions: int) -> Iterator[Result]:
    client, server = bed.pods[rules.app(1)], bed.pods[rules.app(0)]
    pair = Pair(client.netns, server.netns, server.ipv4)
    found = deny.measure(bed, traffic, pair, repetitions)
    rig.say(f"net: deny, {load}: {spread(found.deny_ms, 'ms')}; allow: {spread(found.allow_ms, 'ms')}")
    for name, values, theirs, aim in (
        (f"net.deny_ms_{load}", found.deny_ms, _DENY_MS[load], _AIMS[load]),
        (f"net.allow_ms_{load}", found.allow_ms, _ALLOW_MS[load], None),
    ):
        yield Result(name=name, value=median(values), unit="ms", peer=CILIUM, peer_value=theirs, aim=aim)
