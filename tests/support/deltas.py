"""Deltas put together, as the engine does it."""

from collections.abc import Iterable
from typing import TypeVar

from cplane.projections.delta import Composition, Delta

K = TypeVar("K")
V = TypeVar("V")


def in_one(deltas: Iterable[Delta[K, V]]) -> Delta[K, V]:
    """All in one."""
    made: Composition[K, V] = Composition()
    for one in deltas:
        made.add(one)
    return made.delta()
