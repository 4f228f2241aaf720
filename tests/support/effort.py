"""How much the tests try: everything, or a sample where an answer is wanted soon (`scripts/test fast`).

A sample is the same each time, so that who changes something in between sees what the change did.
"""

import os
from collections.abc import Iterable
from typing import Final, TypeVar

QUICK: Final = os.environ.get("CPLANE_TEST_EFFORT") == "quick"
_SHARE: Final = 20 if QUICK else 1

T = TypeVar("T")


def examples(count: int, *, least: int = 5) -> int:
    """So many examples, rounds, kills, bytes or things; or a twentieth of them, and at least so many."""
    return max(count // _SHARE, min(count, least))


def sample(every: Iterable[T]) -> list[T]:
    """All of them, in their order; or `examples` of them, as far apart as they can be, from the first to the last."""
    found = list(every)
    wanted = examples(len(found))
    return [found[number * (len(found) - 1) // max(wanted - 1, 1)] for number in range(wanted)]
