"""What became of datagrams while policies changed, and so how long each change took to bite."""

from collections.abc import Sequence
from typing import NamedTuple

from report import WrongError


class Run(NamedTuple):
    """Datagrams of one fate, one after another; when the first and the last were sent, by CLOCK_MONOTONIC."""

    arrived: bool
    first_ns: int
    last_ns: int
    datagrams: int

    @classmethod
    def parse(cls, line: str) -> "Run":
        """What traffic.c prints for a run."""
        fate, first, last, count = line.split()
        return cls(fate == "arrived", int(first), int(last), int(count))


class Change(NamedTuple):
    """When a request was about to be sent, by CLOCK_MONOTONIC, and what must become of the datagrams."""

    asked_ns: int
    arriving: bool


class Latencies(NamedTuple):
    """Milliseconds from each request to the first datagram of another fate."""

    deny_ms: list[float]
    allow_ms: list[float]


def latencies(changes: Sequence[Change], runs: Sequence[Run]) -> Latencies:
    """Every change is followed by its effect before the next one, and nothing else happens. Raises WrongError."""
    if not runs or not runs[0].arrived:
        raise WrongError("the probe did not get through before anything was denied")
    if len(runs) != len(changes) + 1:
        fates = ", ".join(f"{run.datagrams} {'arrived' if run.arrived else 'lost'}" for run in runs)
        raise WrongError(f"{len(changes)} changes of policy had {len(runs) - 1} effects: {fates}")
    found = Latencies([], [])
    for index, (change, run) in enumerate(zip(changes, runs[1:], strict=True)):
        after = changes[index + 1].asked_ns if index + 1 < len(changes) else run.last_ns
        if run.arrived is not change.arriving or not change.asked_ns <= run.first_ns <= after:
            raise WrongError(f"change {index + 1} had its effect at another time than between it and the next")
        (found.allow_ms if run.arrived else found.deny_ms).append((run.first_ns - change.asked_ns) / 1e6)
    return found
