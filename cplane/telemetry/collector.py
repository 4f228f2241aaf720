"""The garbage collector of this process."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collector() -> Iterator[None]:
    """Nobody looks for garbage meanwhile; afterwards as before.

    For work whose objects come to stay and have no cycles: to look through all of them again and again takes longer
    than to make them.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
