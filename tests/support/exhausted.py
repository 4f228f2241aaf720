"""A process that has too many open files."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def files_left(count: int = 0) -> Iterator[None]:
    """This process can open so many files more, and no further one (EMFILE)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)]
    try:
        # The lowest number that is free is given: those below the highest that is taken are taken first.
        highest = max(map(int, os.listdir("/proc/self/fd")))
        while held[-1] < highest:
            held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1 + count, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in held:
            os.close(one)
