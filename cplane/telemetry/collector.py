"""The garbage collector of this process."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_MANY: Final = 100_000  # objects; a look at them takes 20 ms and more, and each is looked at three times


@contextmanager
def without_collector() -> Iterator[None]:
    """Nobody looks for garbage meanwhile; afterwards as before.

    For work whose objects come to stay and have no cycles: to look through all of them again and again takes longer
    than to make them. Where they are very many, nobody ever looks through those that are there at the end.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            if gc.get_count()[0] > _MANY:
                gc.freeze()
            gc.enable()
