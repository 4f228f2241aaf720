"""How the process treats its memory: large blocks go back to the system, and what a start makes is no garbage."""

import ctypes
import gc
from typing import Final

_M_MMAP_THRESHOLD: Final = -3  # malloc.h of glibc
_MAPPED_BYTES: Final = 256 << 10
_NEW_OBJECTS: Final = 10_000  # a look for garbage among them takes well under a millisecond


def give_back() -> None:
    """What a large change needs for a moment does not stay with the process.

    glibc maps large blocks by themselves, and unmaps them, but only until the first of them is freed: from then on
    they come from the heap, where anything that lies behind them keeps them. That cost twenty megabytes after a
    thousand rules. A threshold that was set stays. Other libraries of C have no such call, and no such habit.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


def starting() -> None:
    """Nobody looks for garbage: modules, the world and its tables come to stay.

    To look through all of it each time there is a quarter more took a sixth of a start.
    """
    gc.disable()


def started() -> None:
    """Garbage is looked for again, but not in what the start made, nor for each few hundred rows that come to stay."""
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, 20, 20)
    gc.enable()
