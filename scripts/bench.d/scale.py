"""What one change costs in a large cluster; a process of its own, so that its memory is nobody else's.

Prints a JSON object of the medians. Whatever is added is taken away again, so that each repetition meets the same.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from cplane.deciders.world import World, evolve, facts
from cplane.domain.cidr import Prefix
from cplane.domain.identity import cidr_labels
from cplane.domain.labels import LabelSet
from cplane.domain.policy import Policy
from cplane.domain.policy.repository import Repository
from cplane.events.catalog import Event
from cplane.events.endpoint import EndpointDeleted
from cplane.events.identity import IdentityReleased
from cplane.events.policy import PolicyDeleted
from cplane.projections.tables import Tables
from tests.support.builders import allocated, ccnp, policy, ports, upserted
from tests.support.scale import Scale, drain, many_entries

_REPETITIONS: Final = 25
_SCRATCHES: Final = 3
_ENTRIES: Final = 16_000  # of one policy


def main() -> int:
    """Build, change, and tell."""
    scale = Scale(*map(int, sys.argv[1:]))
    world = World()
    for stream, event in scale.events():
        world = evolve(world, stream, event)
    began = perf_counter()
    tables = Tables(facts(world))
    built_s = perf_counter() - began
    gc.collect()
    gc.freeze()  # as an agent does after its start
    found: dict[str, float] = {
        "identities": scale.identities,
        "rules": scale.rules,
        "endpoints": len(scale.subject_indices()),
        "rows": len(tables.table("policy")),
        "built_s": built_s,
        "rss_mb": _resident_mb(),
    }
    for name, (change, back) in _changes(scale).items():
        found[f"{name}_add_ms"], found[f"{name}_remove_ms"] = _cost_ms(tables, change, back)
    del tables, world
    found["scratch_ms"] = _scratch_ms(scale)
    found["entries_ms"] = _entries_ms()
    print(json.dumps(found))
    return 0


def _changes(scale: Scale) -> dict[str, tuple[Event, Event]]:
    """Each change by its name, and what takes it back."""
    number, labels = scale.newcomer()
    document, index = scale.another_rule(), scale.another_subject()
    ref = policy(document).ref
    endpoint = scale.endpoint(len(scale.subject_indices()) + 1, index)
    return {
        "identity": (allocated(number, labels), IdentityReleased(number=number)),
        "rule": (upserted(document), PolicyDeleted(kind=ref.kind, namespace=ref.namespace, name=ref.name)),
        "endpoint": (endpoint, EndpointDeleted(endpoint=endpoint.endpoint)),
    }


def _cost_ms(tables: Tables, change: Event, back: Event) -> tuple[float, float]:
    """Of the change, and of taking it back."""
    there: list[float] = []
    again: list[float] = []
    for _ in range(_REPETITIONS):
        for event, taken in ((change, there), (back, again)):
            began = perf_counter()
            written = tables.apply(event)
            taken.append((perf_counter() - began) * 1e3)
            assert written, "a change that changes nothing costs nothing"
    return median(there), median(again)


def _scratch_ms(scale: Scale) -> float:
    """All entries of all subjects from what has been read already, which is what a change costs without increments."""
    policies, identities = list(scale.policies()), list(_identities(scale))
    return median(_timed_ms(lambda: drain(_from_scratch(scale, policies, identities))) for _ in range(_SCRATCHES))


def _entries_ms() -> float:
    """A policy of one rule and many entries, from its rule to the last entry."""
    found, number = many_entries(_ENTRIES)
    (all_of_it,) = {one.ref for one in found.about(number)}
    again = policy(ccnp(all_of_it.name, ingress=[{"fromEndpoints": [{}], "toPorts": ports("81/TCP")}]))

    def apply() -> None:
        found.upsert(again)
        assert drain(found) > _ENTRIES

    taken = []
    for _ in range(_SCRATCHES):
        found.delete(all_of_it)
        drain(found)
        taken.append(_timed_ms(apply))
    return median(taken)


def _from_scratch(
    scale: Scale, policies: list[Policy], identities: list[tuple[int, LabelSet, Prefix | None]]
) -> Repository:
    found = Repository()
    for number, labels, prefix in identities:
        found.add_identity(number, labels, prefix)
    for index in scale.subject_indices():
        found.add_subject(scale.number(index), scale.labels(index))
    for one in policies:
        found.upsert(one)
    return found


def _identities(scale: Scale) -> Iterator[tuple[int, LabelSet, Prefix | None]]:
    for index in range(scale.identities):
        yield scale.number(index), scale.labels(index), None
    for number, prefix in scale.prefixes():
        yield number, cidr_labels(prefix, dual_stack=True), prefix


def _timed_ms(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return (perf_counter() - began) * 1e3


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


if __name__ == "__main__":
    sys.exit(main())
