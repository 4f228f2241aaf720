"""Suite hubble: what it costs to see: streams, queries, export, metrics, and the relay."""

import os
from collections.abc import Iterator

import export
import forward
import observer
import relay
from report import Result
from rig import Rig
from traffic import Traffic


def measure(rig: Rig) -> Iterator[Result]:
    """Everything of the suite; what needs a node is left out without root. Raises WrongError."""
    yield from observer.measure(rig)
    yield from export.measure(rig)
    yield from relay.measure(rig)
    if os.geteuid() == 0:
        yield observer.idle(rig)
        with rig.bed("seeing") as seeing, rig.bed("blind", "--hubble-monitor", "off") as blind:
            for bed in (seeing, blind):
                bed.agent.start()
            yield forward.visibility(rig, Traffic(rig.folder), seeing, blind)
    else:
        rig.say("hubble: not root, so without the cost of an idle agent and of visibility")
